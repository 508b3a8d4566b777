"""Simulated people: what they set out to do, drawn from a seed, and how their books tell what befell them."""

from __future__ import annotations

import random

import pytest

from xds_server.demo.fault import (
    CHOICES,
    REQUESTS_ABANDONED,
    REQUESTS_COMPLETE,
    SEGMENTS,
    FaultKind,
    plan_faults,
    segment_of,
)
from xds_server.demo.people import PATHS, REQUESTS_PER_SESSION, Answer, Books, Journey, plan_session

N = 20_000
PLANS = [plan_session(rng) for rng in [random.Random(7)] for _ in range(N)]
COMPLETE = [plan for plan in PLANS if plan.visits[-1].path == PATHS[-1]]


def test_ten_per_cent_of_sessions_are_left_before_the_goal() -> None:
    assert 1 - len(COMPLETE) / N == pytest.approx(0.10, abs=0.01)


def test_half_a_per_cent_of_sessions_meet_exactly_one_error() -> None:
    errors = [sum(visit.unlucky for visit in plan.visits) for plan in PLANS]
    assert max(errors) == 1
    assert sum(errors) / N == pytest.approx(0.005, abs=0.002)


def test_a_complete_session_takes_three_to_six_seconds_and_an_abandoned_one_less() -> None:
    lengths = [sum(visit.think_s for visit in plan.visits[:-1]) for plan in COMPLETE]
    assert min(lengths) > 2.4
    assert max(lengths) < 5.5
    left = [sum(visit.think_s for visit in plan.visits[:-1]) for plan in PLANS if plan.visits[-1].path != PATHS[-1]]
    assert sum(left) / len(left) < min(lengths)


def test_about_a_third_of_sessions_use_the_wishlist() -> None:
    using = sum(any(visit.path == "/api/wishlist" for visit in plan.visits) for plan in PLANS)
    assert using / N == pytest.approx(0.336, abs=0.015)


def test_sessions_have_the_lengths_that_rates_and_effects_are_computed_with() -> None:
    assert sum(len(plan.visits) for plan in PLANS) / N == pytest.approx(REQUESTS_PER_SESSION, abs=0.05)
    assert sum(len(plan.visits) for plan in COMPLETE) / len(COMPLETE) == pytest.approx(REQUESTS_COMPLETE, abs=0.02)
    left = [len(plan.visits) for plan in PLANS if plan.visits[-1].path != PATHS[-1]]
    assert sum(left) / len(left) == pytest.approx(REQUESTS_ABANDONED, abs=0.1)


def test_the_headers_put_each_person_in_the_planned_segment() -> None:
    assert all(segment_of(plan.headers) == plan.segment for plan in PLANS)
    for segment in SEGMENTS:
        share = sum(plan.segment == segment for plan in PLANS) / N
        assert share == pytest.approx(0.25, abs=0.02)


def test_everybody_is_a_fresh_person() -> None:
    assert len({plan.headers["x-user-id"] for plan in PLANS}) == N


def test_the_same_seed_plans_the_same_sessions() -> None:
    assert [plan_session(rng) for rng in [random.Random(7)] for _ in range(50)] == PLANS[:50]


def test_a_random_fault_is_drawn_from_the_seed_alone() -> None:
    assert plan_faults("random", 5) == plan_faults("random", 5)
    kinds = {plan_faults("random", seed).faults[0].kind for seed in range(60)}
    assert kinds == set(FaultKind)
    for seed in range(60):
        plan = plan_faults("random", seed)
        assert 10 <= plan.onset_s <= 30
        assert 0.01 < plan.faults[0].excess() <= 1


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "random"])
def test_a_chosen_fault_starts_after_fifteen_seconds_and_hits_only_version_2(choice: str) -> None:
    plan = plan_faults(choice, seed=3)
    assert plan.onset_s == 15
    assert {fault.version for fault in plan.faults} <= {"v2"}


def an_answer(version: str, status: int = 200, cause: str | None = None) -> Answer:
    return Answer(version=version, status=status, cause=cause, onward=True, slow=False)


def test_failures_are_told_apart_by_their_cause() -> None:
    books, journey = Books(baseline="v1", canary="v2"), Journey()
    for answer in (
        an_answer("v2", 503, "fault"),
        an_answer("v1", 500, "chance"),
        an_answer("none", 503),
        an_answer("none", 0),
    ):
        books.request("eu", journey, answer)
    assert books.failed == {"fault": 1, "chance": 1, "other": 2}


def test_whoever_goes_back_from_the_canary_is_noted() -> None:
    books, journey = Books(baseline="v1", canary="v2"), Journey()
    for version in ("v1", "v2", "v2", "v1", "v1"):
        books.request("eu", journey, an_answer(version))
    assert len(books.flips) == 1


def test_a_session_counts_where_it_began_unless_the_canarys_fault_met_it() -> None:
    books = Books(baseline="v1", canary="v2")
    books.session("eu", Journey(began_at="v2", reached=True))
    books.session("eu", Journey(began_at="v1", struck_by_canary=True, faulty=True))
    books.session("eu", Journey(began_at="v1"))
    assert (books.tally("eu", "v2").sessions, books.tally("eu", "v2").bad) == (2, 1)
    assert (books.tally("eu", "v1").sessions, books.tally("eu", "v1").abandoned) == (1, 1)


def test_whom_the_fault_met_was_harmed_only_if_all_would_have_gone_well() -> None:
    books = Books(baseline="v1", canary="v2")
    for planned_good in (True, False):
        books.session("eu", Journey(planned_good=planned_good, began_at="v2", struck_by_canary=True, faulty=True))
    assert (books.tally("eu", "v2").bad, books.tally("eu", "v2").harmed) == (2, 1)
    assert sum(plan.is_good for plan in PLANS) / N == pytest.approx(0.9 * 0.995, abs=0.01)
