"""The hard tier's alarms."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.alarm import SILENCE_SEEN, Alarm, raise_alarms
from analysis.window import Window, empty


def _alarm(people: list[list[int]], failing: list[list[int]], expected: float = 0.0) -> Alarm:
    window: Window = empty(len(people), 1)
    window.people[:], window.failing[:] = people, failing
    return raise_alarms(window, expected_people=np.full((1, len(people)), expected))


@pytest.mark.parametrize(
    ("people", "failing", "crash"),
    [
        (20, 20, True),
        (16, 16, False),
        (17, 17, True),
        (100, 50, False),
        (100, 60, False),
        (100, 75, True),
        (0, 0, False),
    ],
)
def test_crash_needs_more_failing_people_than_half_could_explain(people: int, failing: int, crash: bool) -> None:
    alarm = _alarm([[50, people]], [[0, failing]])
    assert alarm.crash.tolist() == [[crash]]
    assert alarm.everywhere.tolist() == [crash]


def test_people_of_all_segments_together_show_a_crash_that_none_shows_alone() -> None:
    alarm = _alarm([[50, 8]] * 4, [[0, 8]] * 4)
    assert not alarm.crash.any()
    assert alarm.everywhere.tolist() == [True]


def test_one_segment_s_crash_is_not_everybody_s() -> None:
    alarm = _alarm([[50, 30], [50, 100]], [[0, 30], [0, 0]])
    assert alarm.crash.tolist() == [[True, False]]
    assert alarm.everywhere.tolist() == [False]


@pytest.mark.parametrize(("failing", "world"), [(0, False), (25, False), (26, True)])
def test_baseline_in_trouble_is_the_world_s(failing: int, world: bool) -> None:
    assert _alarm([[100, 0]], [[failing, 0]]).world.tolist() == [world]


@pytest.mark.parametrize(
    ("people", "expected", "silent"),
    [([50, 0], SILENCE_SEEN, True), ([50, 0], SILENCE_SEEN - 1, False), ([50, 1], 99.0, False), ([0, 0], 99.0, False)],
)
def test_silence_is_a_canary_that_should_be_seen_beside_a_baseline_that_is(
    people: list[int], expected: float, silent: bool
) -> None:
    assert _alarm([people], [[0, 0]], expected).silent.tolist() == [[silent]]
