"""The history of a split: what was in force when."""

from __future__ import annotations

import numpy as np

from analysis.session import NS
from analysis.splits import SplitHistory


def _asked(history: SplitHistory, at_ns: int) -> int | None:
    asked = int(history.asked(np.array([at_ns]))[0])
    return None if asked < 0 else asked


def _extremes(history: SplitHistory, since_ns: int, until_ns: int) -> tuple[int, int]:
    low, high = history.extremes(np.array([since_ns]), until_ns - since_ns)
    return int(low[0]), int(high[0])


def test_split_history_says_what_was_asked_for_unless_it_was_changing_or_is_forgotten() -> None:
    history = SplitHistory(keep_s=100)
    assert _asked(history, 5 * NS) == 0
    history.set(10 * NS, 500)
    assert (_asked(history, round(8.9 * NS)), _asked(history, 9 * NS), _asked(history, 10**6 * NS)) == (0, None, None)
    history.settle(12 * NS)
    history.settle(13 * NS)  # said twice
    assert (_asked(history, 13 * NS), _asked(history, round(13.1 * NS))) == (None, 500)
    history.set(50 * NS, 500)  # no change
    assert _asked(history, 50 * NS) == 500
    history.set(60 * NS, 700)
    history.settle(60 * NS)
    assert (_asked(history, round(58.9 * NS)), _asked(history, 60 * NS), _asked(history, 62 * NS)) == (500, None, 700)
    history.set(200 * NS, 900)
    history.settle(201 * NS)
    assert (_asked(history, 59 * NS), _asked(history, 60 * NS), _asked(history, 150 * NS)) == (None, None, 700)
    history.set(1_000 * NS, 0)
    assert (_asked(history, 62 * NS), _asked(history, 199 * NS), _asked(history, 500 * NS)) == (None, None, 900)


def test_split_history_stays_small() -> None:
    history = SplitHistory(keep_s=100)
    for at_s in range(1, 5_000):
        history.set(at_s * NS, at_s)
        history.settle(at_s * NS + NS // 2)
    assert len(history._changes) < 110
    assert len(history._settled) < 110


def test_split_history_knows_what_was_in_force_between_two_times() -> None:
    history = SplitHistory(keep_s=100)
    for at_s, split_bp in ((10, 500), (20, 2_000), (30, 1_000)):
        history.set(at_s * NS, split_bp)
    assert _extremes(history, 0, 5 * NS) == (0, 0)
    assert _extremes(history, 5 * NS, 25 * NS) == (0, 2_000)
    assert _extremes(history, 20 * NS, 30 * NS) == (1_000, 2_000)
    assert _extremes(history, 31 * NS, 99 * NS) == (1_000, 1_000)


def test_split_history_goes_on_when_the_clock_has_gone_back() -> None:
    history = SplitHistory(keep_s=1_000)
    for at_s, split_bp in ((100, 500), (200, 1_000), (300, 2_000), (150, 3_000), (160, 0)):
        history.set(at_s * NS, split_bp)
    assert _extremes(history, 120 * NS, 130 * NS) == (500, 500)
    assert _extremes(history, 151 * NS, 155 * NS) == (3_000, 3_000)
    assert _extremes(history, 155 * NS, 165 * NS) == (0, 3_000)
    assert _extremes(history, 400 * NS, 410 * NS) == (0, 0)
