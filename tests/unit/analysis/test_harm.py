"""The harm budget: caps that rise only with what is known, and a bound that is seldom wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.harm import HarmLedger, to_bp
from analysis.spec import HarmSpec, RolloutSpec, SegmentSpec, ServiceSpec
from analysis.window import BASELINE, CANARY, Window, empty
from tests.unit.analysis.rows import small_spec

LIVE = np.array([[True, True]])
LATENCY_S = 3.0


def _spec(weights: tuple[float, float] = (1.0, 1.0), **harm: Any) -> ServiceSpec:
    names = ("power", "default")
    segments = tuple(SegmentSpec(name=name, weight=weight) for name, weight in zip(names, weights, strict=True))
    plan = RolloutSpec(interval_s=1, harm=HarmSpec(**({"budget": 50, "tolerance": 0.02} | harm)))
    return small_spec(segments=segments, rollout=plan)


def _window(n_b: int = 0, bad_b: int = 0, n_c: int = 0, bad_c: int = 0, *, exposed: int | None = None) -> Window:
    """The same counts in both segments."""
    window = empty(2, 5)
    window.harm_n[:, BASELINE], window.harm_n[:, CANARY] = n_b, n_c
    window.harm_bad[:, BASELINE], window.harm_bad[:, CANARY] = bad_b, bad_c
    window.exposed[:] = n_c if exposed is None else exposed
    window.arrived[:] = n_b + n_c
    return window


def _caps(ledger: HarmLedger, split: float = 0.1) -> np.ndarray:
    return ledger.caps(np.full((1, 2), split), LIVE, LIVE, latency_s=LATENCY_S)[0]


def _feed(ledger: HarmLedger, ticks: int, *, bad_c: int, start: int = 0) -> None:
    for tick in range(start, start + ticks):
        ledger.update(_window(45, 4, 5, bad_c), at_s=tick, elapsed_s=1)


def test_first_step_is_bounded_by_the_budget_alone() -> None:
    ledger = HarmLedger(_spec())
    for _ in range(30):
        ledger.update(_window(100, 10), at_s=0, elapsed_s=1)
    caps = _caps(ledger, 0.0)
    reach_s = ledger._age_s + LATENCY_S
    assert 0 < caps[0] < 0.05
    assert float(np.sum(caps * ledger.rate * reach_s)) <= 50  # even if every session goes bad


def test_healthy_sessions_raise_the_cap_and_bad_ones_take_it_back() -> None:
    ledger = HarmLedger(_spec(budget=200))
    ledger.update(_window(45, 4, 5, 0), at_s=0, elapsed_s=1)
    early = _caps(ledger)
    _feed(ledger, 60, bad_c=0, start=1)
    healthy = _caps(ledger)
    assert (healthy > early).all()
    _feed(ledger, 60, bad_c=5, start=61)
    assert (_caps(ledger) <= 0.1).all()
    assert (_caps(ledger) < healthy).all()


def test_spent_budget_leaves_nothing() -> None:
    ledger = HarmLedger(_spec())
    _feed(ledger, 30, bad_c=5)
    assert ledger.upper > ledger.allowed
    assert _caps(ledger).max() == 0.0


def test_larger_budget_never_gives_a_smaller_cap() -> None:
    caps = []
    for budget in (10, 50, 200, 1000):
        ledger = HarmLedger(_spec(budget=budget))
        _feed(ledger, 20, bad_c=1)
        caps.append(_caps(ledger))
    assert (np.diff(np.array(caps), axis=0) >= -1e-9).all()


@settings(max_examples=40)
@given(open_n=st.integers(0, 500), more=st.integers(0, 500))
def test_more_open_sessions_never_raise_a_cap(open_n: int, more: int) -> None:
    caps = []
    for extra in (open_n, open_n + more):
        ledger = HarmLedger(_spec(tolerance=0.0))
        _feed(ledger, 5, bad_c=0)
        ledger.update(_window(exposed=extra), at_s=5, elapsed_s=0)
        caps.append(_caps(ledger))
    assert (caps[1] <= caps[0] + 1e-9).all()


def test_rolled_back_segment_keeps_its_harm_and_reserves_nothing() -> None:
    ledger = HarmLedger(_spec(budget=200))
    _feed(ledger, 10, bad_c=2)
    both = ledger.view(0, np.array([[0.1, 0.1]]), LIVE, latency_s=LATENCY_S)
    one = ledger.view(0, np.array([[0.1, 0.0]]), np.array([[True, False]]), latency_s=LATENCY_S)
    assert one.reserved < both.reserved
    assert (one.estimate, one.upper) == (both.estimate, both.upper)


def test_slack_is_shared_by_those_who_may_rise() -> None:
    ledger = HarmLedger(_spec())
    _feed(ledger, 5, bad_c=0)
    split = np.full((1, 2), 0.01)
    (alone,) = ledger.caps(split, LIVE, np.array([[True, False]]), latency_s=LATENCY_S)
    (together,) = ledger.caps(split, LIVE, LIVE, latency_s=LATENCY_S)
    assert alone[1] == pytest.approx(0.01)
    assert alone[0] - 0.01 == pytest.approx(2 * (together[0] - 0.01))


def test_harm_and_its_allowance_are_weighed_alike() -> None:
    """A segment whose harm counts a tenth may not earn the others a whole tolerance."""
    light, heavy = HarmLedger(_spec((0.1, 0.1))), HarmLedger(_spec((1.0, 1.0)))
    for ledger in (light, heavy):
        _feed(ledger, 50, bad_c=1)
    assert light.allowed - 50 == pytest.approx((heavy.allowed - 50) / 10)
    assert light.excess.sum() == pytest.approx(heavy.excess.sum() / 10)


def test_upper_bound_seldom_lies_below_the_true_excess_at_any_time() -> None:
    """Coverage by seeded simulation: 2.5 % are allowed; asymptotic, so the start is looked at too."""
    rng = np.random.default_rng(1)
    wrong, runs, excess = 0, 150, 0.1
    for _run in range(runs):
        ledger = HarmLedger(_spec())
        true, missed = 0.0, False
        for _ in range(60):
            n_c = rng.binomial(40, 0.3, 2)
            n_b = 40 - n_c
            window = empty(2, 5)
            window.harm_n[:] = np.stack([n_b, n_c], axis=1)
            window.harm_bad[:] = rng.binomial(window.harm_n, [0.1, 0.1 + excess])
            ledger._add_past(window.harm_n[None].astype(float), window.harm_bad[None].astype(float), ledger.base.value)
            true += excess * n_c.sum()
            missed |= ledger.upper < true
        wrong += missed
    assert wrong / runs <= 0.025 + 2.6 * (0.025 * 0.975 / runs) ** 0.5


def test_time_without_logs_is_charged_as_exposed() -> None:
    ledger = HarmLedger(_spec(budget=500))
    _feed(ledger, 20, bad_c=0)
    again = HarmLedger(_spec(budget=500))
    again.restore(json.loads(json.dumps(ledger.state())), gap_s=60, split=np.full((1, 2), 0.1))
    at_rest = np.zeros((1, 2))
    then, now = (each.in_flight(at_rest, latency_s=0.0) for each in (ledger, again))
    assert (now >= then + 50 * 0.1 * 60 - 1e-6).all()
    tenth = np.full((1, 2), 0.1)
    before, after = (x.view(0, tenth, LIVE, latency_s=LATENCY_S).reserved for x in (ledger, again))
    assert after > before


def test_state_goes_through_json() -> None:
    ledger = HarmLedger(_spec())
    _feed(ledger, 20, bad_c=1)
    again = HarmLedger(_spec())
    again.restore(json.loads(json.dumps(ledger.state())), gap_s=0, split=np.full((1, 2), 0.1))
    assert again.upper == ledger.upper
    assert (again.exclusion.worst == ledger.exclusion.worst).all()


def test_caps_are_rounded_down_to_basis_points() -> None:
    assert to_bp([0.0, 0.12349, 0.99999, 1.0]).tolist() == [0, 1234, 9999, 10_000]


def test_baselines_that_all_get_worse_at_once_do_not_look_like_harm_where_one_of_them_is_thin() -> None:
    """A dependency fails for both versions: what a thin baseline remembers of its own would blame the canary."""
    segments = (SegmentSpec(name="small"), SegmentSpec(name="default"))
    ledger = HarmLedger(replace(_spec(budget=1_000), segments=segments))
    rng = np.random.default_rng(3)
    for tick in range(120):
        rate = 0.01 if tick < 60 else 0.3
        window = empty(2, 1)
        window.harm_n[:] = [[1, 19], [100, 100]]
        window.harm_bad[:] = rng.binomial(window.harm_n, rate)
        ledger.update(window, at_s=10.0 * tick, elapsed_s=10.0)
    small = float(ledger.excess[0, 0])
    assert small < 0.35 * 19 * 60 * 0.29, "of what would be charged if the small baseline's memory were believed"
