"""The last ticks: what their sums are, and what is left of them after a restart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.reading import Reading, Standing
from analysis.recent import Recent
from analysis.window import empty
from tests.unit.analysis.rows import small_spec

SHAPE, LENGTH, SPANS = (2, 3, 2), 12, (1, 5, 12)
NOBODY_NEW = np.zeros((0, 5), np.int64)


def _ticks(n: int, shape: tuple[int, int, int] = SHAPE) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    counts = [rng.integers(0, 9, (*shape, 2)).astype(float) for _ in range(n)]
    return [(each, np.floor(each / 2)) for each in counts]


def test_sums_are_those_of_the_last_ticks_however_many_there_have_been() -> None:
    recent, ticks = Recent(SHAPE, LENGTH, SPANS), _ticks(40)
    for span in SPANS:
        assert not np.any(recent.sums(span))
    for at, tick in enumerate(ticks, start=1):
        recent.push(*tick)
        for span in SPANS:
            expected = np.sum(ticks[max(at - span, 0) : at], axis=0)
            np.testing.assert_array_equal(recent.sums(span), expected)


def test_short_ticks_add_to_the_newest_entry() -> None:
    """Which of them begins an entry is told; a first one always does."""
    recent, ticks = Recent(SHAPE, LENGTH, SPANS), _ticks(90)
    entries: list[np.ndarray] = []
    for at, tick in enumerate(ticks):
        begins = at % 7 in (2, 3, 6)
        recent.push(*tick, begins=begins)
        if begins or not entries:
            entries.append(np.zeros((2, *SHAPE, 2)))
        entries[-1] += tick
        for span in SPANS:
            np.testing.assert_array_equal(recent.sums(span), np.sum(entries[-span:], axis=0))
    n, bad = recent.series(1, 0)
    np.testing.assert_array_equal(np.stack([n, bad], axis=1), [entry[:, 1, 0] for entry in entries[-LENGTH:]])
    assert len(entries) > 2 * LENGTH


def test_what_was_pushed_is_not_changed_by_what_becomes_of_it() -> None:
    recent, (n, bad) = Recent(SHAPE, LENGTH, SPANS), _ticks(1)[0]
    given = n.copy()
    recent.push(n, bad)
    n[:] = 99.0
    np.testing.assert_array_equal(recent.sums(5)[0], given)


@pytest.mark.parametrize("first", [0, 3, 20])
@pytest.mark.parametrize("pushed", [1, 7, 12, 30])
def test_series_is_in_order_and_begins_where_somebody_was_judged(first: int, pushed: int) -> None:
    recent, ticks = Recent(SHAPE, LENGTH, SPANS), _ticks(pushed)
    for at, tick in enumerate(ticks):
        for counts in tick:
            counts[:, :, :, :] *= at >= first
            counts[1, 2] = 0.0  # nobody, ever
        recent.push(*tick)
    kept = ticks[-LENGTH:][max(first - max(pushed - LENGTH, 0), 0) :]
    n, bad = recent.series(0, 1)
    np.testing.assert_array_equal(n, np.array([each[0][0, 1] for each in kept]).reshape(-1, 2, 2))
    np.testing.assert_array_equal(bad, np.array([each[1][0, 1] for each in kept]).reshape(-1, 2, 2))
    assert [len(part) for part in recent.series(1, 2)] == [0, 0]


@pytest.mark.parametrize("pushed", [0, 4, 12, 31])
def test_restored_it_goes_on_as_if_nothing_had_happened(pushed: int) -> None:
    shape = (1, 3, 2)
    whole, again, ticks = Recent(shape, LENGTH, SPANS), Recent(shape, LENGTH, SPANS), _ticks(pushed + 20, shape)
    for tick in ticks[:pushed]:
        tick[0][0, 2], tick[1][0, 2] = 0.0, 0.0
        whole.push(*tick)
    again.restore(json.loads(json.dumps(whole.state())))
    for count in range(len(ticks) - pushed + 1):
        for one in (whole, again) if count else ():
            one.push(*ticks[pushed + count - 1])
        for span in SPANS:
            np.testing.assert_array_equal(again.sums(span), whole.sums(span))
        for segment in range(3):
            for mine, theirs in zip(again.series(0, segment), whole.series(0, segment), strict=True):
                np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "damage",
    [
        [], [[[], []]], [[[], []]] * 4, [[[[[1.0]]], []]] * 3, [[[[[float("nan")] * 2] * 2], []]] * 3, [None] * 3,
        [["much", []]] * 3,
    ],
)  # fmt: skip
def test_damaged_state_is_refused(damage: list[object]) -> None:
    with pytest.raises((IndexError, TypeError, ValueError)):
        Recent((1, 3, 2), LENGTH, SPANS).restore(damage)  # type: ignore[arg-type]


def test_ticks_of_a_closer_watch_are_kept_by_intervals() -> None:
    """Four looks in an interval, none of them quite punctual: what is read of the last ticks spans as much time."""
    spec, rng = small_spec(), np.random.default_rng(1)
    usual, closer = Reading(spec), Reading(spec)
    nobody = np.zeros((1, 2))
    standing = Standing(split=nobody, live=nobody == 0, rising=nobody > 0, cleared=nobody > 0)
    begun = []
    for tick in range(1, 31):
        whole = empty(2, 5)
        for part in range(4):
            window = empty(2, 5)
            window.n[:] = rng.integers(0, 9, window.n.shape)
            elapsed_s = (0.26, 0.23, 0.28, 0.23)[part] * spec.rollout.interval_s
            closer.learn(window, NOBODY_NEW, standing, since_s=float(tick), elapsed_s=elapsed_s, blind=False)
            begun.append(closer.begins_interval)
            whole += window
        usual.learn(whole, NOBODY_NEW, standing, since_s=float(tick), elapsed_s=spec.rollout.interval_s, blind=False)
        assert usual.begins_interval
    assert begun == [True, False, False, False] * 30
    for mine, theirs in zip(closer.recent.series(0, 1), usual.recent.series(0, 1), strict=True):
        np.testing.assert_array_equal(mine, theirs)
