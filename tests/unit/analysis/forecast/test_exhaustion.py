"""A leak is called hours before memory is full; one that both versions have, and none at all, never is."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from analysis.forecast.exhaustion import BLOCK_POINTS, POINT_S, POINTS, ResourceWatch
from analysis.guard import exhausts
from analysis.window import BASELINE, CANARY

LIMIT, HORIZON_S, FALSE = 1_000.0, 7_200.0, 0.01


def _watched(
    canary_an_hour: float, baseline_an_hour: float = 0.0, *, hours: float = 3.5, seed: int = 1
) -> ResourceWatch:
    rng, watch = np.random.default_rng(seed), ResourceWatch("memory", LIMIT, horizon_s=HORIZON_S)
    for minute in range(int(hours * 60)):
        for arm, rate in ((BASELINE, baseline_an_hour), (CANARY, canary_an_hour)):
            watch.measure(arm, 300 + rate * minute / 60 + 5 * rng.normal())
        if minute % 10 == 9:  # a forecast now and then, for the test's sake
            watch.tick(minute * POINT_S)
        else:
            _close(watch, minute)
    watch.tick(hours * 3_600)
    return watch


def _close(watch: ResourceWatch, minute: int) -> None:
    watch._look_ahead, kept = lambda: None, watch._look_ahead  # type: ignore[method-assign]
    watch.tick(minute * POINT_S)
    watch._look_ahead = kept  # type: ignore[method-assign]


def test_leak_of_the_canary_is_called_before_it_has_filled_memory() -> None:
    told = _watched(120.0, hours=4.2).forecast
    assert told is not None
    assert told.level < 0.85 * LIMIT
    assert exhausts(told, FALSE)
    assert told.in_s == pytest.approx((LIMIT - told.level) / 120 * 3_600, rel=0.15)
    assert told.lower_s <= told.in_s <= told.upper_s
    assert told.slope > 10 * abs(told.baseline_slope)


@pytest.mark.parametrize(("canary", "baseline"), [(0.0, 0.0), (120.0, 120.0), (0.0, 120.0), (-40.0, 0.0), (10.0, 0.0)])
def test_what_does_not_run_out_or_is_the_world_s_is_not(canary: float, baseline: float) -> None:
    assert not exhausts(_watched(canary, baseline).forecast, FALSE)


def test_no_numbers_gaps_and_clocks_that_go_back_say_nothing_and_the_history_is_bounded() -> None:
    watch = ResourceWatch("memory", LIMIT, horizon_s=HORIZON_S)
    for value in (math.nan, math.inf, -1.0):
        watch.measure(CANARY, value)
    for now_s in (0.0, 60.0, 30.0, math.nan, -1e9, 1e9):
        watch.tick(now_s)
        assert watch.forecast is None
    assert len(watch._series[CANARY].points) == POINTS
    assert watch.log_e == pytest.approx(0.0)


def test_same_two_series_seldom_prove_anything() -> None:
    """By Ville's inequality at most one in a hundred ever does."""
    rng, proven = np.random.default_rng(3), 0
    for _ in range(100):
        watch = ResourceWatch("memory", LIMIT, horizon_s=HORIZON_S)
        watch._look_ahead = lambda: None  # type: ignore[method-assign]
        most = 0.0
        for minute in range(30 * BLOCK_POINTS):
            for arm in (BASELINE, CANARY):
                watch.measure(arm, 300 + 50 * rng.random())
            watch.tick(minute * POINT_S)
            most = max(most, watch.log_e)
        proven += most >= -math.log(FALSE)
    assert proven <= 4


def test_interrupted_watch_goes_on_as_an_uninterrupted_one() -> None:
    whole, again = _watched(120.0), ResourceWatch("memory", LIMIT, horizon_s=HORIZON_S)
    again.restore(json.loads(json.dumps(whole.state())))
    assert again.forecast == whole.forecast
    assert again.state() == whole.state()
