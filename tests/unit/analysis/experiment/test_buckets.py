"""Buckets: whole, of the sizes asked for, as few moved as can be; people who have been seen keep their variant."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import SpecError, StateError
from analysis.experiment.buckets import (
    MAX_BATCHES,
    MAX_RANGES,
    AllotmentHistory,
    Assignment,
    Range,
    Ranges,
    lay_out,
    move,
    variant_of,
)


def _owners(ranges: Ranges) -> np.ndarray:
    owners = np.full(10_000, -1)
    for each in ranges:
        assert (owners[each.start : each.end] == -1).all()
        owners[each.start : each.end] = each.variant
    assert (owners >= 0).all()
    return owners


def _shares(cuts: list[int]) -> list[int]:
    ends = [0, *sorted(cuts), 10_000]
    return [b - a for a, b in pairwise(ends)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 10_000), min_size=3, max_size=3), min_size=2, max_size=8))
def test_as_few_buckets_move_as_the_shares_allow(steps: list[list[int]]) -> None:
    ranges, before = lay_out(_shares(steps[0])), np.array(_shares(steps[0]))
    for cuts in steps[1:]:
        shares = np.array(_shares(cuts))
        moved = move(ranges, shares.tolist())
        old, new = _owners(ranges), _owners(moved)
        np.testing.assert_array_equal(np.bincount(new, minlength=4), shares)
        assert (old != new).sum() == np.maximum(shares - before, 0).sum()
        ranges, before = moved, shares


def test_of_two_variants_only_the_border_moves() -> None:
    assert move(lay_out([5_000, 5_000]), [7_000, 3_000]) == (Range(0, 7_000, 0), Range(7_000, 10_000, 1))
    assert move(lay_out([7_000, 3_000]), [0, 10_000]) == (Range(0, 10_000, 1),)


def test_many_changes_leave_a_bounded_number_of_ranges() -> None:
    rng, ranges, most = np.random.default_rng(1), lay_out([1_000] * 10), 0
    for _ in range(300):
        ranges = move(ranges, rng.multinomial(10_000, rng.dirichlet([1.0] * 10)).tolist())
        most = max(most, len(ranges))
    assert 10 < most <= MAX_RANGES


@pytest.mark.parametrize("shares", [[5_000, 4_999], [11_000, -1_000]])
def test_shares_that_are_no_whole_are_refused(shares: list[int]) -> None:
    with pytest.raises(SpecError, match="adding up to 10000"):
        lay_out(shares)
    with pytest.raises(SpecError, match="adding up to 10000"):
        move(lay_out([5_000, 5_000]), shares)


def test_people_keep_the_variant_of_the_batch_they_came_in() -> None:
    history = AllotmentHistory.begin([5_000, 5_000], 0.0).then([9_000, 1_000], 60.0).then([0, 10_000], 120.0)
    assert [history.variant_of(6_000, at) for at in (0.0, 59.9, 60.0, 119.0, 120.0, 1e9)] == [1, 1, 0, 0, 1, 1]
    assert history.variant_of(6_000, -1.0) is None
    with pytest.raises(SpecError, match=r"legal: from 120\.0 on"):
        history.then([5_000, 5_000], 100.0)


def test_the_history_is_bounded_and_says_what_it_has_forgotten() -> None:
    history = AllotmentHistory.begin([5_000, 5_000], 0.0)
    for i in range(1, MAX_BATCHES + 1):
        history = history.then([5_000 + i % 2, 5_000 - i % 2], float(i))
    assert len(history.allotments) == MAX_BATCHES
    assert history.at(0.5) is None
    assert history.at(1.0) is not None
    assert variant_of(history.allotments[-1].ranges, 9_999) == 1


def test_what_people_carry_comes_back_as_it_was() -> None:
    carried = Assignment(experiment="check~out", batch=12, variant="b")
    assert Assignment.from_text(carried.to_text()) == carried
    for text in ("", "a~b", "a~x~b", "a~1~", "~1~b", "a~-1~b", "a~01~b", "a~٣~b", f"a~{'9' * 5_000}~b"):
        with pytest.raises(StateError):
            Assignment.from_text(text)
