"""The last ticks: what their sums are, and what is left of them after a restart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.recent import Recent

SHAPE, LENGTH, SPANS = (2, 3, 2), 12, (1, 5, 12)


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
    for tick in [None, *ticks[pushed:]]:
        for one in (whole, again) if tick is not None else ():
            one.push(*tick)
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
