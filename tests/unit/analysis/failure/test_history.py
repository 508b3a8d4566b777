"""What was known of a release when it began: of the past alone, and nothing that cannot be looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.failure.artefact import from_json, to_json
from analysis.failure.facts import LONGEST_TEXT, MOST_ATTRIBUTES
from analysis.failure.history import Past, PastRollout, releases_of
from analysis.failure.training import train

MONDAY_S = 1_600_041_600.0
HOUR_S = 3_600.0


def _rollout(service: str, hour: float, *, lasts_h: float | None = 0.5, failed: bool | None = False) -> PastRollout:
    began_s = MONDAY_S + hour * HOUR_S
    return PastRollout(
        service=service, began_s=began_s, ended_s=None if lasts_h is None else began_s + lasts_h * HOUR_S, failed=failed
    )


def test_facts_are_what_was_known_when_it_began() -> None:
    past = Past([
        _rollout("cart", 1, failed=True),
        _rollout("cart", 2),
        _rollout("shop", 2.2, lasts_h=3),  # runs
        _rollout("cart", 2.4, lasts_h=9, failed=True),  # … and nobody knew yet
        _rollout("cart", 2.6, failed=None),  # nobody ever knew
    ])  # fmt: skip
    facts = past.facts("cart", {"size": 120.0, "kind": "fix", "team": "blue"}, MONDAY_S + 27.5 * HOUR_S - 24 * HOUR_S)
    assert (facts.releases, facts.failures) == (2, 1)
    assert facts.overlapping == 1
    assert facts.since_last_h == pytest.approx(0.9)
    assert (facts.hour, facts.weekday) == (3.5, 0)
    assert (facts.size, facts.kind, facts.attributes) == (120.0, "fix", {"team": "blue"})


def test_only_rollouts_with_a_known_end_are_learnt_from_and_the_order_given_says_nothing() -> None:
    rollouts = [_rollout("cart", hour, failed=[True, None, False][hour % 3]) for hour in range(9)]
    found = releases_of(reversed(rollouts))
    assert found == releases_of(rollouts)
    assert [release.failed for release in found] == [True, False] * 3
    assert [release.facts.releases for release in found] == [0, 1, 2, 3, 4, 5]


def test_a_first_release_has_no_record_and_no_pause() -> None:
    facts = Past().facts("cart", {}, MONDAY_S)
    assert (facts.releases, facts.since_last_h, facts.size, facts.kind) == (0, None, None, None)


def test_attributes_that_cannot_be_looked_at_are_unknown() -> None:
    told = {f"a{i:03d}": float(i) for i in range(50)} | {"a000": float("nan"), "b": "x" * (LONGEST_TEXT + 1)}
    told |= {"a001": 1e200, "a002": float("-inf")}
    facts = Past().facts("cart", told | {"size": "large", "kind": 7.0}, MONDAY_S)
    assert len(facts.attributes) == MOST_ATTRIBUTES
    assert not {"a000", "a001", "a002"} & facts.attributes.keys()
    assert facts.size is None
    assert facts.kind == "7.0"
    assert Past().facts("cart", {"size": -1.0}, MONDAY_S).size is None


def test_a_number_without_a_square_does_not_keep_a_model_from_being_stored() -> None:
    past = [replace(_rollout("cart", i), failed=i % 3 == 0, attributes={"build": float(i)}) for i in range(40)]
    past[7] = replace(past[7], attributes={"build": 1e200})
    trained = train(releases_of(past), None)
    assert from_json(to_json(trained)).model.releases == len(past)


def test_a_clock_that_went_back_gives_no_negative_pause() -> None:
    past = Past([_rollout("cart", 5)])
    past.add(replace(_rollout("cart", 4)))
    assert past.facts("cart", {}, MONDAY_S + 3 * HOUR_S).since_last_h == 0.0
