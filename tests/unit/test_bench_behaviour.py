"""The benchmark's own score: what it gives a detector that knows, one that never speaks and one that always does."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.behaviour.nab import Series, score

SERIES = Series(
    name="made up",
    unix_s=np.arange(1_000) * 300,
    values=np.zeros(1_000),
    windows=((300, 399), (700, 799)),
)


def _score(*alarms: int) -> float:
    scores = np.zeros(1_000)
    scores[list(alarms)] = 1.0
    return score([SERIES], [scores])[0]


def test_whoever_names_each_window_at_its_start_has_a_hundred() -> None:
    assert _score(300, 700) == pytest.approx(100.0, abs=0.1)


def test_silence_is_nothing_and_chatter_is_no_better() -> None:
    assert _score() == 0.0
    assert _score(*range(400, 700)) == 0.0


def test_early_is_better_than_late_and_a_false_alarm_costs_little() -> None:
    assert _score(300, 700) > _score(300, 780) > _score(300)
    assert 2.0 < _score(300, 700) - _score(200, 300, 700) < 3.0
    assert _score(300, 700) - _score(300, 402, 700) < 1.0  # just after a window


def test_the_probation_does_not_count() -> None:
    assert _score(10, 300, 700) == _score(300, 700)
