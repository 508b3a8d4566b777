"""Forecasts: none without data, alarm on a creep, calm on a flat line."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.forecast.trend import MIN_TICKS, Forecast, forecast


def _of(share: np.ndarray, *, n: int = 40, limit: float = 0.1, seed: int = 1) -> Forecast | None:
    people = np.full(len(share), n)
    bad = np.random.default_rng(seed).binomial(people, share)
    return forecast("error_rate", bad, people, limit=limit, horizon_ticks=len(share))


def test_too_few_ticks_give_no_forecast() -> None:
    assert _of(np.full(MIN_TICKS - 1, 0.05)) is None
    assert forecast("error_rate", np.zeros(50), np.zeros(50), limit=0.1, horizon_ticks=10) is None
    assert _of(np.full(MIN_TICKS, 0.05)) is not None


@pytest.mark.parametrize("seed", range(4))
def test_creep_towards_the_limit_is_foreseen(seed: int) -> None:
    told = _of(np.linspace(0.005, 0.09, 60), n=80, seed=seed)
    assert told is not None
    assert told.p_breach > 0.9
    assert told.lower < told.mean < told.upper


@pytest.mark.parametrize("seed", range(4))
def test_flat_line_far_below_the_limit_is_calm(seed: int) -> None:
    told = _of(np.full(60, 0.01), seed=seed)
    assert told is not None
    assert told.p_breach < 0.3


def test_falling_share_is_calmer_than_a_rising_one() -> None:
    rising, falling = _of(np.linspace(0.01, 0.08, 60)), _of(np.linspace(0.08, 0.01, 60))
    assert rising is not None
    assert falling is not None
    assert falling.p_breach < 0.2 < rising.p_breach


def test_ticks_without_sessions_are_missing_not_zero() -> None:
    share = np.full(60, 0.3)
    people = np.tile([40, 0], 30)
    bad = np.random.default_rng(2).binomial(people, share)
    told = forecast("error_rate", bad, people, limit=0.2, horizon_ticks=10)
    assert told is not None
    assert told.mean == pytest.approx(0.3, abs=0.08)


def test_all_good_and_all_bad_stay_within_zero_and_one() -> None:
    for share in (0.0, 1.0):
        told = _of(np.full(40, share))
        assert told is not None
        assert 0 <= told.lower <= told.mean <= told.upper <= 1
        assert told.mean == pytest.approx(share, abs=0.02)
