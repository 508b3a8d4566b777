"""E-values of two-by-two tables: the projection, and validity by enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from analysis.evidence.two_by_two import expected_log_e, log_e, log_likelihood_ratio, project


def _kl(q: float, p: float) -> float:
    return q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))


@pytest.mark.parametrize(
    ("n_c", "n_b", "q_c", "q_b", "difference"),
    [
        (10, 10, 0.3, 0.1, 0.02),
        (3, 400, 0.9, 0.01, 0.0),
        (400, 3, 0.2, 0.19, 0.1),
        (50, 20, 0.05, 0.05, 0.2),
        (50, 20, 0.4, 0.5, -0.3),
        (1, 1, 0.999, 0.001, 0.5),
    ],
)
def test_projection_minimises_the_weighted_divergence(
    n_c: float, n_b: float, q_c: float, q_b: float, difference: float
) -> None:
    p_c, p_b = project(n_c, n_b, q_c, q_b, difference)
    found = minimize_scalar(
        lambda p: n_c * _kl(q_c, p + difference) + n_b * _kl(q_b, p),
        bounds=(max(1e-9, 1e-9 - difference), min(1 - 1e-9, 1 - 1e-9 - difference)),
        method="bounded", options={"xatol": 1e-12},
    )  # fmt: skip
    assert float(p_b) == pytest.approx(found.x, abs=1e-5)
    assert float(p_c - p_b) == pytest.approx(difference, abs=1e-12)


def test_a_point_on_the_line_is_its_own_projection() -> None:
    p_c, p_b = project(7, 9, 0.15, 0.1, 0.05)
    assert (float(p_c), float(p_b)) == pytest.approx((0.15, 0.1), abs=1e-9)


def _expectation(n_c: int, n_b: int, p_c: float, p_b: float, q_c: float, q_b: float, difference: float) -> float:
    """E[e] over every table, exactly."""
    bad_c, bad_b = np.arange(n_c + 1)[:, None], np.arange(n_b + 1)[None, :]
    e = np.exp(log_e(n_c, bad_c, n_b, bad_b, q_c, q_b, difference))
    return float((e * binom.pmf(bad_c, n_c, p_c) * binom.pmf(bad_b, n_b, p_b)).sum())


@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (8, 2)])
@pytest.mark.parametrize("alternative", [(0.5, 0.1), (0.2, 0.02), (0.95, 0.6)])
@pytest.mark.parametrize("difference", [0.0, 0.05])
def test_mean_e_value_is_at_most_one_under_every_null(
    sizes: tuple[int, int], alternative: tuple[float, float], difference: float
) -> None:
    for p_b in np.linspace(0.0, 1 - difference, 21):
        for below in (0.0, 0.01, 0.1, 0.4):
            p_c = max(p_b + difference - below, 0.0)
            assert _expectation(*sizes, p_c, p_b, *alternative, difference) <= 1 + 1e-6


@pytest.mark.parametrize("difference", [0.05, 0.3])
def test_mean_e_value_is_at_most_one_when_an_excess_is_to_be_excluded(difference: float) -> None:
    """The other side of the line: the null says that the canary is worse by at least the difference."""
    for p_b in np.linspace(0.0, 1 - difference, 15):
        for above in (0.0, 0.02, 0.2):
            p_c = min(p_b + difference + above, 1.0)
            assert _expectation(6, 5, p_c, p_b, 0.1, 0.1, difference) <= 1 + 1e-6


def test_evidence_grows_where_the_alternative_is_true_and_falls_where_it_is_not() -> None:
    worse = float(log_e(100, 20, 100, 2, 0.2, 0.02, 0.05))
    better = float(log_e(100, 2, 100, 20, 0.2, 0.02, 0.05))
    assert worse > 3
    assert better < -3


def test_a_larger_accepted_difference_needs_more_evidence() -> None:
    by_difference = [float(log_e(100, 20, 100, 2, 0.2, 0.02, d)) for d in (0.0, 0.02, 0.05, 0.1)]
    assert by_difference == sorted(by_difference, reverse=True)
    assert by_difference[0] > by_difference[-1] + 1


@pytest.mark.parametrize("table", [(0, 0, 50, 3), (50, 9, 0, 0), (0, 0, 0, 0)])
def test_an_empty_arm_says_nothing(table: tuple[int, int, int, int]) -> None:
    assert float(log_e(*table, 0.2, 0.02, 0.01)) == 0.0


def test_likelihood_ratio_of_certain_rates_stays_finite() -> None:
    assert np.isfinite(log_likelihood_ratio(10, 10, 1.0, 0.0))
    assert np.isfinite(log_likelihood_ratio(10, 0, 0.0, 1.0))


def test_expected_growth_is_the_mean_of_the_log_e_value() -> None:
    q_c, q_b, d, n = 0.2, 0.05, 0.02, 40
    bad_c, bad_b = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    mean = (log_e(n, bad_c, n, bad_b, q_c, q_b, d) * binom.pmf(bad_c, n, q_c) * binom.pmf(bad_b, n, q_b)).sum()
    assert float(expected_log_e(0.5, q_c, q_b, d)) * 2 * n == pytest.approx(float(mean), rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_growth_without_a_second_arm(share: float) -> None:
    assert float(expected_log_e(share, 0.2, 0.05, 0.02)) == pytest.approx(0.0, abs=1e-6)


def _bisected(n_c: np.ndarray, n_b: np.ndarray, q_c: np.ndarray, q_b: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """The projection's p_b as the zero of the divergence's slope, which rises with p_b: slow, and hard to get wrong."""
    low, high = np.maximum(1e-9, 1e-9 - difference), np.minimum(1 - 1e-9, 1 - 1e-9 - difference)
    for _ in range(100):
        p_b = (low + high) / 2
        p_c = p_b + difference
        slope = n_c * (p_c - q_c) / (p_c * (1 - p_c)) + n_b * (p_b - q_b) / (p_b * (1 - p_b))
        low, high = np.where(slope > 0, low, p_b), np.where(slope > 0, p_b, high)
    return (low + high) / 2


def test_closed_form_is_what_a_slow_bisection_finds() -> None:
    """Few people and many, rates near both ends, differences of both signs, an empty arm."""
    rng, runs = np.random.default_rng(1), 20_000
    n_c, n_b = (np.floor(10 ** rng.uniform(0, 4, runs)) - 1 for _ in range(2))
    n_c[n_c + n_b == 0] = 1
    q_c, q_b = (1 / (1 + np.exp(-rng.uniform(-12, 12, runs))) for _ in range(2))
    difference = rng.choice([0.0, 0.02, 0.05, 0.3, 0.95, -0.02, -0.5], runs) * rng.uniform(0.5, 1.0, runs)
    p_c, p_b = project(n_c, n_b, q_c, q_b, difference)
    np.testing.assert_allclose(p_b, _bisected(n_c, n_b, q_c, q_b, difference), rtol=0, atol=1e-7)
    np.testing.assert_allclose(p_c - p_b, difference, rtol=0, atol=1e-12)


RATES = np.linspace(0.0, 1.0, 201)


def _expectations(n_c: int, n_b: int, q_c: float, q_b: float, difference: float) -> np.ndarray:
    """E[e] at every pair of true rates (canary, baseline) of RATES, exactly."""
    bad_c, bad_b = np.arange(n_c + 1), np.arange(n_b + 1)
    e = np.exp(log_e(n_c, bad_c[:, None], n_b, bad_b, q_c, q_b, difference))
    expectations: np.ndarray = binom.pmf(bad_c, n_c, RATES[:, None]) @ e @ binom.pmf(bad_b, n_b, RATES[:, None]).T
    return expectations


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 5), (4, 4), (7, 2)])
def test_on_a_fine_grid_of_nulls_the_mean_e_value_is_nowhere_above_one(sizes: tuple[int, int]) -> None:
    """Both ways round: a canary that is worse by no more than the difference, and one that is worse by at least it.

    What lies beyond the line is where the bet pays: a flipped sign would be found out.
    """
    excess = RATES[:, None] - RATES
    for difference in (0.0, 0.02, 0.05, 0.3):
        accepted, excluded = excess <= difference + 1e-12, excess >= difference - 1e-12
        for q_c, q_b in ((0.5, 0.1), (0.2, 0.02), (0.98, 0.6), (0.061, 0.001)):
            if q_c > q_b + difference:
                harm = _expectations(*sizes, q_c, q_b, difference)
                assert harm[accepted].max() <= 1 + 1e-9
                assert harm[~accepted].max() > 1
        for base in (0.001, 0.05, 0.4) if difference else ():
            health = _expectations(*sizes, base, base, difference)
            assert health[excluded].max() <= 1 + 1e-9
            assert health[~excluded].max() > 1
