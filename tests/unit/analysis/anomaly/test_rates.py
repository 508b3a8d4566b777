"""A rate's detector finds what its series has never done, and is seldom wrong about what it always does."""

from __future__ import annotations

import numpy as np

from analysis.anomaly.rates import QUIET_SHARE, RateDetector


def _days(rng: np.random.Generator, n: int = 1_500) -> list[float]:
    """Days of 96 quarters of an hour, with a peak each."""
    return list(100 + 50 * np.sin(np.arange(n) * 2 * np.pi / 96) + rng.normal(0, 4, n))


def test_a_change_of_level_is_found_at_once() -> None:
    values = _days(np.random.default_rng(1))
    values[1_200:] = [value * 0.6 for value in values[1_200:]]
    detector = RateDetector(400)
    scores = [detector.score(value) for value in values]
    assert max(scores[1_200:1_206]) > max(scores[:1_200])


def test_the_same_days_over_and_over_are_seldom_odd() -> None:
    detector = RateDetector(400)
    scores = np.array([detector.score(value) for value in _days(np.random.default_rng(2), 3_000)])
    assert (scores > -np.log(0.01)).mean() <= 0.01
    assert (scores >= 0).all()


def test_an_alarm_is_given_once() -> None:
    values = _days(np.random.default_rng(3))
    values[1_200:1_230] = [400.0] * 30
    detector = RateDetector(400)
    scores = np.array([detector.score(value) for value in values])
    alarm = int(np.argmax(scores))
    assert alarm < 1_230
    assert (scores[alarm + 1 : alarm + 1 + int(QUIET_SHARE * 400)] == 0).all()


def test_a_flat_series_breaks_nothing() -> None:
    detector = RateDetector(60)
    scores = [detector.score(1.0) for _ in range(300)]
    assert np.isfinite(scores).all()
    assert detector.score(2.0) > max(scores)
