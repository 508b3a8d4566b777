"""The hard tier's alarms."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.alarm import SILENCE_RISK, Alarm, raise_alarms
from analysis.window import BASELINE, Window, empty


def _alarm(people: list[list[int]], failing: list[list[int]], split: float = 0.0) -> Alarm:
    window: Window = empty(len(people), 1)
    window.people[:], window.failing[:] = people, failing
    return raise_alarms(window, split=np.full((1, len(people)), split))


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
    ("people", "split", "silent"),
    [
        ([59, 0], 0.3, True),
        ([58, 0], 0.3, False),
        ([2_062, 0], 0.01, True),
        ([2_061, 0], 0.01, False),
        ([2_000, 1], 0.3, False),
        ([0, 0], 0.9, False),
        ([99, 0], 0.0, False),
        ([99, 0], 1.0, False),
    ],
)
def test_silence_is_a_canary_that_should_be_seen_beside_a_baseline_that_is(
    people: list[int], split: float, silent: bool
) -> None:
    """The exact chance that of so many people none should have been put on the canary."""
    assert _alarm([people], [[0, 0]], split).silent.tolist() == [[silent]]
    if silent:
        assert (1 - split) ** people[BASELINE] < SILENCE_RISK


@pytest.mark.parametrize(
    ("canary", "baseline", "limit", "burns"),
    [
        ((200, 40), (200, 1), 0.02, True),
        ((200, 12), (200, 1), 0.02, False),  # six per cent: three times the limit, and chance may have done it
        ((200, 40), (200, 20), 0.02, False),  # a stall of what both need
        ((200, 40), (200, 1), None, False),
        ((200, 40), (200, 1), 0.2, False),
    ],
)
def test_limit_burns_where_far_more_people_fail_than_it_allows_and_than_on_the_baseline(
    canary: tuple[int, int], baseline: tuple[int, int], limit: float | None, burns: bool
) -> None:
    window = empty(1, 1)
    window.people[0], window.failing[0] = zip(baseline, canary, strict=True)
    alarm = raise_alarms(window, split=np.array([[0.5]]), limit=limit)
    assert bool(alarm.burning[0, 0]) is burns
    assert not alarm.crash[0, 0]
