"""E-values of two groups against equal rates: valid at every rate, by enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from analysis.evidence.binomial import log_ratio_e

RATES = np.linspace(0.0, 1.0, 101)
ODDS = (0.2, 0.8, 3.2)


def _expectations(n_c: int, n_b: int, log_odds: float, *, flipped: bool = False) -> np.ndarray:
    """E[e] at every pair of true rates (canary, baseline) of RATES, exactly; `flipped`: the arms are mistaken."""
    bad_c, bad_b = np.arange(n_c + 1), np.arange(n_b + 1)
    canary, baseline = (n_c, bad_c[:, None]), (n_b, bad_b)
    e = np.exp(log_ratio_e(*(*baseline, *canary) if flipped else (*canary, *baseline), log_odds))
    expectations: np.ndarray = binom.pmf(bad_c, n_c, RATES[:, None]) @ e @ binom.pmf(bad_b, n_b, RATES[:, None]).T
    return expectations


def test_mean_e_value_is_at_most_one_at_equal_rates_and_wherever_the_canary_is_better() -> None:
    """Not the base rate but only which is the higher one is tested."""
    no_worse = RATES[:, None] <= RATES
    for n_c, n_b, log_odds in product(range(1, 7), range(1, 7), ODDS):
        assert _expectations(n_c, n_b, log_odds)[no_worse].max() <= 1 + 1e-12


def test_mean_e_value_is_above_one_where_the_canary_is_worse() -> None:
    """At the odds that were bet on, and with arms mistaken for each other where the canary is better."""
    for n_c, n_b, log_odds in product(range(1, 7), range(1, 7), ODDS):
        ratio = np.exp(log_odds)
        worse = (RATES[:, None] >= 2 * ratio * RATES) & (RATES[:, None] <= 0.1) & (RATES[:, None] > 0)
        assert (_expectations(n_c, n_b, log_odds)[worse] > 1).all()
        assert (_expectations(n_c, n_b, log_odds, flipped=True)[worse.T] > 1).all()


@pytest.mark.parametrize("counts", [(0, 0, 9, 3), (9, 3, 0, 0), (0, 0, 0, 0)])
def test_empty_arm_says_nothing(counts: tuple[int, int, int, int]) -> None:
    assert float(log_ratio_e(*counts, 0.8)) == 0.0


def test_nobody_bad_says_nothing_and_more_bad_ones_on_the_canary_say_more() -> None:
    assert float(log_ratio_e(50, 0, 50, 0, 0.8)) == 0.0
    by_bad = log_ratio_e(50, np.arange(51), 50, 5, 0.8)
    assert (np.diff(by_bad) > 0).all()
    assert by_bad[2] < 0 < by_bad[15]


def test_everything_broadcasts() -> None:
    table = log_ratio_e([[10], [20]], [[5], [9]], 30, 6, [0.2, 0.4, 0.8])
    assert table.shape == (2, 3)
    assert table[1, 2] == pytest.approx(float(log_ratio_e(20, 9, 30, 6, 0.8)))
