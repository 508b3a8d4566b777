"""Forecasts of the excess: a creep is called before it crosses, the same version twice is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.forecast.conformal import NARROWEST, NORMAL, WIDEST, ConformalWidth
from analysis.forecast.excess import ExcessTrends, Forecast

LIMIT, BASE, TOLERANCE, TICK_S = 0.05, 0.01, 0.0125, 10.0


def _new(segments: int, runs: int) -> ExcessTrends:
    return ExcessTrends(["error_rate"], [LIMIT], [TOLERANCE], segments, runs, horizon_s=1_800.0)


def _trends(
    excess: np.ndarray, *, n: tuple[int, int] = (3_800, 200), segments: int = 1, runs: int = 8, seed: int = 1
) -> ExcessTrends:
    trends, rng = _new(segments, runs), np.random.default_rng(seed)
    people = np.broadcast_to(np.array(n, float), (runs, segments, 1, 2))
    for one in excess:
        _tick(trends, people, rng.binomial(people.astype(int), [BASE, BASE + one]).astype(float))
    return trends


def _tick(trends: ExcessTrends, people: np.ndarray, bad: np.ndarray, *, elapsed_s: float = TICK_S) -> None:
    base = np.full(people.shape[:3], BASE)
    trends.update(people, bad, base, base * 0 + 5_000.0, elapsed_s=elapsed_s)


def _told(trends: ExcessTrends) -> Forecast:
    told = trends.forecast(0, 0, 0)
    assert told is not None
    return told


def test_creep_is_called_before_it_crosses_and_its_mirror_image_is_not() -> None:
    """At the end of the series the canary is at 3 %; it would cross 5 % in some 20 minutes."""
    creep = np.linspace(0, 0.02, 120)
    rising, falling = _trends(creep), _trends(-creep / 4)
    assert (rising.p_breach[:, 0, 0] > 0.55).all()
    assert (falling.p_breach[:, 0, 0] < 0.05).all()
    told = _told(rising)
    assert told.lower < told.now < LIMIT < told.mean < told.upper
    assert told.driver.endswith("trend")
    assert 300 < (told.crosses_s or 0) < 1_800
    assert told.p_above > 0.7


def test_same_version_twice_is_calm() -> None:
    calm = _trends(np.zeros(180), runs=50)
    assert (calm.p_breach < 0.2).all()
    assert _told(calm).driver == "steady"


def test_level_that_stays_within_the_tolerance_is_no_creep() -> None:
    """Worse by half of the tolerance, looked at in each tick of half an hour; were creeps not rare, 39 of 100 were."""
    runs = 100
    trends, rng, called = _new(1, runs), np.random.default_rng(4), np.zeros(runs, bool)
    people = np.broadcast_to([3_800.0, 200.0], (runs, 1, 1, 2))
    for _ in range(180):
        _tick(trends, people, rng.binomial(people.astype(int), [BASE, BASE + TOLERANCE / 2]).astype(float))
        called |= trends.p_breach[:, 0, 0] >= 0.6
    assert called.mean() <= 0.1
    assert _told(trends).p_above < 0.1


def test_creep_in_all_segments_shows_in_all_of_them_together_more_surely_than_in_each() -> None:
    trends = _trends(np.linspace(0, 0.02, 90), n=(380, 20), segments=10)
    together, each = trends.p_breach[:, -1, 0], trends.p_breach[:, :-1, 0]
    assert together.min() > np.quantile(each, 0.3)
    assert np.median(together) > np.median(each) + 0.1
    everywhere = trends.forecast(0, 10, 0)
    assert everywhere is not None
    assert everywhere.everywhere


def test_what_gets_worse_with_the_split_is_foretold_at_the_next_one() -> None:
    trends, rng = _new(1, 1), np.random.default_rng(3)
    for split in np.repeat([0.05, 0.1, 0.2, 0.3], 40):
        people = np.array([2_000 * (1 - split), 2_000 * split]).reshape(1, 1, 1, 2).round()
        _tick(trends, people, rng.binomial(people.astype(int), [BASE, BASE + 0.08 * split]).astype(float))
    share, p_breach, p_grows = trends.at_split(0, 0, 0, 0.8)
    assert share == pytest.approx(BASE + 0.08 * 0.8, abs=0.012)
    assert p_breach > 0.8
    assert p_grows > 0.975
    assert trends.at_split(0, 0, 0, 0.3)[1] < 0.2


@pytest.mark.parametrize("damage", [np.nan, np.inf, -1.0])
def test_bad_input_changes_nothing_and_time_does_not_run_back(damage: float) -> None:
    trends = _trends(np.linspace(0, 0.02, 60), runs=1)
    before = json.dumps(trends.state()["bank"])
    people = np.full((1, 1, 1, 2), damage)
    with np.errstate(all="raise"):
        _tick(trends, people, people, elapsed_s=-5.0)
        _tick(trends, np.full_like(people, 10.0), np.full_like(people, np.nan), elapsed_s=float("nan"))
        _tick(trends, np.zeros_like(people), np.zeros_like(people), elapsed_s=0.0)
    assert json.dumps(trends.state()["bank"]) == before
    assert np.isfinite(trends.p_breach).all()


def test_interrupted_forecasts_go_on_as_uninterrupted_ones() -> None:
    whole = _trends(np.linspace(0, 0.02, 100), runs=1, segments=2)
    again = _new(2, 1)
    again.restore(json.loads(json.dumps(whole.state())))
    people = np.broadcast_to([3_800.0, 200.0], (1, 2, 1, 2))
    for trends in (whole, again):
        for bad in (3.0, 0.0, 5.0):
            _tick(trends, people, people * 0 + [38.0, bad])
    assert json.dumps(again.state()) == json.dumps(whole.state())
    assert again.forecast(0, 2, 0) == whole.forecast(0, 2, 0)


def test_bands_widen_until_they_cover_and_stay_bounded() -> None:
    rng = np.random.default_rng(1)
    width, missed = ConformalWidth((1, 1)), []
    for _ in range(4_000):
        score = np.abs(rng.normal(scale=1.5, size=(1, 1, 1)))
        missed.append(bool(score[0, 0, 0] > NORMAL * width.factor[0, 0]))
        width.learn(score)
    assert np.mean(missed[500:]) == pytest.approx(0.05, abs=0.01)
    assert width.factor[0, 0] == pytest.approx(1.5, abs=0.25)
    for score, bound in ((np.inf, None), (1e9, WIDEST), (0.0, NARROWEST)):
        before = width.factor.copy()
        for _ in range(3_000):
            width.learn(np.full((1, 1, 1), score))
        assert width.factor[0, 0] == (before[0, 0] if bound is None else bound)
