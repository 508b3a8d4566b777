"""Anomaly scores of a rate that comes in evenly, such as sessions a minute: conformal, by nearest neighbours.

The newest LAG values are a point; how far it is from its K nearest among earlier ones says how odd it is (Laxhammar &
Falkman 2014; Burnaev & Ishimtsev 2016). Distances are Mahalanobis', so that a noisy rate is not odd for its noise. What
share of the last RANKED points was as far is the p-value. No season needs to be known: the same hour of another day is
a neighbour. After an alarm the detector is silent for a while about all that is no odder: the points that follow are
odd for the same reason.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LAG = 19  # values that make a point
NEIGHBOURS = 27
RANKED = 400  # earlier points that a distance is ranked among
REFRESHED = 50  # points after which the covariance is taken anew
ALARM = 0.011  # p-value below which the detector has spoken and is silent
QUIET_SHARE = 0.1  # for which it is silent, as a share of `history`
ODDER = 1.0  # by which a score must exceed that of the alarm to be given while it is silent


class RateDetector:
    """Scores one series value by value. `history`: earlier points that are kept; it waits for half of them."""

    def __init__(self, history: int = 750) -> None:
        self._history = max(history, 2 * NEIGHBOURS)
        self._recent: deque[float] = deque(maxlen=LAG)
        self._points = np.zeros((self._history, LAG))
        self._seen_n = 0
        self._distances: deque[float] = deque(maxlen=RANKED)
        self._precision: Floats = np.eye(LAG)
        self._quiet, self._alarm = 0, 0.0

    def score(self, value: float) -> float:
        """Minus the log of the p-value of the newest value, and more where nothing was as odd.

        0 while it is silent, unless the value is clearly odder than the one that it gave an alarm for.
        """
        self._recent.append(value)
        if len(self._recent) < LAG:
            return 0.0
        point = np.array(self._recent)
        score = self._ranked(point) if self._seen_n >= self._history // 2 else 0.0
        self._points[self._seen_n % self._history] = point
        self._seen_n += 1
        if self._quiet > 0 and score <= self._alarm + ODDER:
            self._quiet -= 1
            return 0.0
        if score >= -np.log(ALARM):
            self._quiet, self._alarm = int(QUIET_SHARE * self._history), score
        return score

    def _ranked(self, point: Floats) -> float:
        known = self._points[: min(self._seen_n, self._history)]
        if self._seen_n % REFRESHED == 0 or not self._distances:
            spread = max(float(known.var()), 1e-12)
            covariance = np.cov(known.T) + 1e-6 * spread * np.eye(LAG)
            self._precision = np.asarray(np.linalg.inv(covariance), np.float64)
        off = known - point
        apart = np.einsum("ij,jk,ik->i", off, self._precision, off)
        distance = float(np.partition(apart, NEIGHBOURS)[:NEIGHBOURS].mean())
        ranked = np.array(self._distances)
        self._distances.append(distance)
        if len(ranked) == 0:
            return 0.0
        as_far_n = int((ranked >= distance).sum())
        beyond = distance / max(float(ranked.max()), 1e-9) - 1.0 if as_far_n == 0 else 0.0
        return float(-np.log((1 + as_far_n) / (1 + len(ranked))) + beyond)
