"""Reward and verdicts: what they are worth and how they are named."""

from __future__ import annotations

import pytest

from analysis.decision import (
    Advance,
    Hold,
    Phase,
    Promote,
    Reason,
    Reduce,
    Rollback,
    SegmentDecision,
    Tier,
    verdict_name,
)
from analysis.reward import reward

WHY = (Reason(code="x", text="why"),)
GOOD = {"errors": 0.0, "slowness": 0.0, "abandonment": 0.0, "anomaly": 0.0}


def test_progress_is_worth_its_split_when_nothing_is_wrong() -> None:
    assert reward(split=0.4, **GOOD).value == pytest.approx(0.4)


@pytest.mark.parametrize("harm", ["errors", "slowness", "abandonment", "anomaly"])
def test_every_kind_of_harm_costs_and_more_costs_more(harm: str) -> None:
    values = [reward(split=0.5, **(GOOD | {harm: excess})).value for excess in (-0.2, 0.0, 0.05, 0.1)]
    assert values[0] == values[1] > values[2] > values[3]


def test_unknown_counts_nothing_and_the_value_is_clipped() -> None:
    nan = float("nan")
    assert reward(split=0.5, errors=nan, slowness=nan, abandonment=nan, anomaly=nan).value == pytest.approx(0.5)
    assert reward(split=1.0, errors=1.0, slowness=1.0, abandonment=1.0, anomaly=1.0).value == -1.0


def test_parts_add_up_to_the_value() -> None:
    told = reward(split=0.3, errors=0.02, slowness=0.01, abandonment=0.03, anomaly=0.1)
    assert told.value == pytest.approx(told.progress + told.errors + told.slowness + told.abandonment + told.anomaly)


def test_harm_in_a_costly_segment_costs_more() -> None:
    by_weight = [
        reward(split=0.5, errors=0.02, slowness=0, abandonment=0, anomaly=0, weight=w).value for w in (0.1, 1, 3)
    ]
    assert by_weight == sorted(by_weight, reverse=True)


def test_verdicts_are_named_as_they_are_journalled() -> None:
    verdicts = [
        Advance(split_bp=1, reasons=WHY), Hold(reasons=WHY), Reduce(split_bp=1, reasons=WHY), Promote(reasons=WHY),
        Rollback(tier=Tier.HARD, reasons=WHY),
    ]  # fmt: skip
    assert [verdict_name(verdict) for verdict in verdicts] == ["advance", "hold", "reduce", "promote", "rollback"]


def test_decision_knows_whether_it_moves_traffic() -> None:
    same = SegmentDecision(
        segment="s", verdict=Hold(reasons=WHY), phase=Phase.RAMPING, split_before_bp=5, split_after_bp=5
    )
    assert not same.changes_split
    assert {phase for phase in Phase if phase.is_final} == {
        Phase.PROMOTED, Phase.ROLLED_BACK, Phase.WITHDRAWN, Phase.PINNED
    }  # fmt: skip
