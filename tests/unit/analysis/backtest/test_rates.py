"""Exact intervals, against values that are known."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from analysis.backtest.rates import Table, rate, spread


@pytest.mark.parametrize(
    ("hits", "n", "lower", "upper"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (7, 20, 0.1539, 0.5922)],  # Clopper and Pearson's own chart
)
def test_intervals_are_clopper_and_pearson_s(hits: int, n: int, lower: float, upper: float) -> None:
    found = rate(hits, n)
    assert (found.lower, found.upper) == (pytest.approx(lower, abs=1e-4), pytest.approx(upper, abs=1e-4))
    if 0 < hits < n:
        assert binom.sf(hits - 1, n, found.lower) == pytest.approx(0.025)
        assert binom.cdf(hits, n, found.upper) == pytest.approx(0.025)


def test_a_rate_of_nothing_is_not_known() -> None:
    assert math.isnan(rate(0, 0).value)
    assert math.isnan(spread([]).median)


def test_f1_has_the_ends_of_the_share_that_it_rises_with() -> None:
    table = Table.of([True] * 4 + [False] * 6, [True] * 3 + [False] + [True] + [False] * 5)
    assert (table.true_positive, table.false_negative, table.false_positive, table.true_negative) == (3, 1, 1, 5)
    share = rate(3, 5)
    assert table.f1.value == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert table.f1.lower == pytest.approx(2 * share.lower / (1 + share.lower))
    assert table.precision.value == table.recall.value == 0.75
    assert table.false_positive_rate.hits == 1
