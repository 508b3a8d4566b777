"""A record cannot contradict itself; what it says of bad and good."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.decision import Phase
from analysis.errors import RecordError
from analysis.history.record import (
    LONGEST_ATTRIBUTE,
    MOST_ATTRIBUTES,
    Gauge,
    Label,
    RecordedDecision,
    Verdict,
    attribute,
    check_attributes,
    label_of,
)
from tests.deployments import deployment


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bad": deployment().n + 1}, "0 <= bad <= n"),
        ({"n": deployment().n[:2]}, r"n has shape \(2, 2, 1, 2\), not \(3, 2, 1, 2\)"),
        ({"at_s": np.array([10.0, 10, 20])}, "must be finite and rise"),
        ({"at_s": np.array([10.0, np.nan, 20])}, "must be finite and rise"),
        ({"segments": ("a", "a")}, "segments must have distinct names"),
        ({"interval_s": 0.0}, "with ticks of 0.0 s"),
        ({"started_unix_s": 1.7e12}, "seconds since 1970, below"),  # milliseconds
        ({"started_unix_s": -1.0}, "seconds since 1970, below"),
        ({"rollout": ""}, "both must have a name"),
        ({"exposed": deployment().arrived + 1}, "more sessions on the canary than on both"),
        ({"exposed": np.full((3, 2), np.nan)}, "recorded together"),
        ({"arrived": deployment().arrived + 0.5}, "must be counts"),
        ({"split_bp": np.full((3, 2), 10_001.0)}, "within 0 and 10000"),
        ({"outcome": {"power": "gone"}}, "outcome 'gone'; legal: waiting"),
        ({"outcome": {"nobody": "promoted"}}, "segment 'nobody' is none of 'power', 'default'"),
        ({"gauges": deployment().gauges * 2}, "two series of values"),
        ({"attributes": {"lines": float("inf")}}, "lines: inf is no finite number"),
    ],
)
def test_a_record_cannot_contradict_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        deployment(**changes)


@pytest.mark.parametrize(
    ("at_s", "value", "arm"),
    [([2.0, 1.0], [0.0, 0.0], 0), ([1.0], [np.nan], 0), ([1.0], [1.0, 2.0], 0), ([], [], 0), ([1.0], [1.0], 2)],
)
def test_a_series_of_values_cannot_contradict_itself(at_s: list[float], value: list[float], arm: int) -> None:
    with pytest.raises(RecordError):
        Gauge(kpi="x", segment="default", arm=arm, at_s=np.array(at_s), value=np.array(value))


@pytest.mark.parametrize(
    ("text", "value"), [("12", 12.0), ("-1.5e3", -1500.0), ("v12", "v12"), ("nan", "nan"), ("1e999", "1e999")]
)
def test_what_reads_as_a_finite_number_is_one(text: str, value: str | float) -> None:
    assert attribute(text) == value


def test_attributes_are_bounded() -> None:
    check_attributes({f"a{i}": "x" for i in range(MOST_ATTRIBUTES)})
    for wrong in (
        {f"a{i}": "x" for i in range(MOST_ATTRIBUTES + 1)},
        {"": "x"},
        {"two words": "x"},
        {"a" * (LONGEST_ATTRIBUTE + 1): "x"},
        {"a": "x" * (LONGEST_ATTRIBUTE + 1)},
        {"a": ""},
        {"a": "x\ny"},
        {"a": "12"},
    ):
        with pytest.raises(RecordError):
            check_attributes(wrong)


def decision(verdict: str, segment: str = "default", *, tier: str = "", who: str = "") -> RecordedDecision:
    return RecordedDecision(
        at_s=1.0, segment=segment, verdict=verdict, tier=tier, split_before_bp=100, split_after_bp=0, reason="so",
        who=who,
    )  # fmt: skip


BACK, UP = {"power": Phase.ROLLED_BACK, "default": Phase.PROMOTED}, {"power": "pinned", "default": Phase.PROMOTED}


@pytest.mark.parametrize(
    ("outcome", "decisions", "label", "bad"),
    [
        (BACK, [decision("rollback", "power", tier="proven")], None, True),
        (BACK, [decision("rollback", "power", tier="hard")], None, True),
        (BACK, [decision("rollback", "power", tier="predicted")], None, None),
        (BACK, [decision("rollback", "power", tier="operator", who="ann")], None, None),
        (BACK, [], None, None),
        (BACK, [decision("rollback", "power", tier="proven")], Verdict.GOOD, False),
        (BACK, [decision("rollback", "power", tier="proven")], Verdict.UNKNOWN, None),
        (
            BACK,
            [decision("rollback", "power", tier="proven"), decision("rollback", "power", tier="operator", who="ann")],
            None,
            True,
        ),
        (UP, [decision("rollback", tier="proven"), decision("promote", who="ann")], None, True),  # all the same
        (UP, [decision("promote")], None, False),
        ({"default": Phase.WITHDRAWN, "power": Phase.PROMOTED}, [], None, None),
        ({"default": Phase.PINNED}, [], None, None),
        (UP, [], None, False),
        (UP, [decision("promote", who="ann")], None, None),
        (UP, [decision("promote")], Verdict.BAD, True),
        ({"default": Phase.WITHDRAWN}, [decision("withdraw")], None, None),
        ({"default": Phase.RAMPING}, [], None, None),
        ({}, [], None, None),
    ],
)
def test_the_operator_is_believed_else_the_outcome(
    outcome: dict[str, str], decisions: list[RecordedDecision], label: Verdict | None, bad: bool | None
) -> None:
    record = deployment(
        outcome={name: str(phase) for name, phase in outcome.items()},
        decisions=tuple(decisions),
        label=None if label is None else Label(verdict=label, who="ann"),
    )
    said = label_of(record)
    assert said.bad is bad
    assert said.who == ("ann" if label is not None else "")
