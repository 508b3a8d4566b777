"""When a resource of a version runs out: memory, queues, open files, of which gauges are reported.

A leak shows in the resource hours before people notice. Two things are asked, and both must say yes:

- *When?* A local linear trend of the canary's series (statsmodels, the likeliest variances of a grid; the filtered
  level and slope are jointly normal) tells the chance that the limit is reached within the horizon.
- *Is it the canary?* A growth that the baseline has as well is the world's. Of each block of time the canary's change,
  from its first to its second half, is held against the baseline's, and a bet is placed on the canary's being the
  larger one. Where both versions' changes in a block are exchangeable, given the blocks before, either is the larger
  one with probability 1/2, ties aside, so that the capital is a supermartingale, and P(it ever reaches 1/a) <= a
  (Ville). It is a sign test by betting: it needs no scale, and no distribution. What it does need is that both are
  alike but for the release: replicas of the baseline that are as fresh as the canary's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.forecast.conformal import NORMAL
from analysis.forecast.crossing import p_crossing

Floats = npt.NDArray[np.float64]

POINT_S = 60.0  # a point of a series, the mean of what was reported in it: so long at most …
POINTS_AHEAD = 120  # … and at least so many in a horizon
POINTS = 300  # kept of each series
MIN_POINTS = 20  # before a trend means anything
BLOCK_POINTS = 20  # of a bet
VARIANCES = tuple(
    (noise, level, slope) for noise in (0.5, 0.1) for level in (0.0, 0.05, 0.5) for slope in (0.0, 1e-5, 1e-3)
)
"""Variances of noise, and of a point's step in level and in slope, that are tried: in those of the changes of a series.

An optimiser would find little more, and now and then nothing at all.
"""
BETS = np.array([0.25, 0.5, 0.9])  # shares of the capital on the canary's change being the larger one; an even mixture


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhaustion:
    """Where a resource of the canary is heading. `level`, `limit` in the metric's unit; `slope`: a second.

    `lower_s`, `in_s`, `upper_s`: seconds until the limit is reached, expected, and with its 95 % band; inf: never.
    `p_exhausts`: within `horizon_s`. `log_e`: evidence that the canary grows faster than the baseline.
    """

    resource: str
    limit: float
    level: float
    slope: float
    baseline_slope: float
    lower_s: float
    in_s: float
    upper_s: float
    horizon_s: float
    p_exhausts: float
    log_e: float


class _Series:
    """Points of one version, NaN where nothing was reported: oldest first, at most POINTS, and those it has dropped."""

    def __init__(self) -> None:
        self.points: list[float] = []
        self.sum, self.n = 0.0, 0

    def close(self, limit: float) -> None:
        """End a point."""
        self.points = [*self.points, self.sum / self.n / limit if self.n else math.nan][-POINTS:]
        self.sum, self.n = 0.0, 0


class ResourceWatch:
    """One resource of both versions of a rollout. Times in seconds since its beginning; bounded."""

    def __init__(self, resource: str, limit: float, *, horizon_s: float) -> None:
        self.resource, self._limit, self._horizon_s = resource, limit, horizon_s
        self._point_s = min(POINT_S, horizon_s / POINTS_AHEAD)
        self._series = (_Series(), _Series())
        self._closed = 0
        self._log_capital = np.zeros(len(BETS))
        self.forecast: Exhaustion | None = None

    def measure(self, arm: int, value: float) -> None:
        """Take a value that an arm's process reports now; what is negative or no number says nothing."""
        if math.isfinite(value) and value >= 0:
            self._series[arm].sum += value
            self._series[arm].n += 1

    def tick(self, now_s: float) -> None:
        """End the points that are over; a clock that went back ends none."""
        due = int(now_s // self._point_s) if math.isfinite(now_s) else 0
        if due <= self._closed:
            return
        for _ in range(min(due - self._closed, POINTS)):
            for series in self._series:
                series.close(self._limit)
            self._closed += 1
            if self._closed % BLOCK_POINTS == 0:
                self._bet()
        self._closed = due
        self.forecast = self._look_ahead()

    @property
    def log_e(self) -> float:
        return float(np.logaddexp.reduce(self._log_capital) - math.log(len(BETS)))

    def _bet(self) -> None:
        """Settle the bet on the block that is over; of one half of which nothing was reported, there is none."""
        half = BLOCK_POINTS // 2
        changes = []
        for series in self._series:
            block = np.array(series.points[-BLOCK_POINTS:])
            known = np.isfinite(block)
            if len(block) < BLOCK_POINTS or not (known[:half].any() and known[half:].any()):
                return
            changes.append(float(block[half:][known[half:]].mean() - block[:half][known[:half]].mean()))
        difference = changes[1] - changes[0]
        if difference != 0:
            self._log_capital = self._log_capital + np.log1p(BETS * math.copysign(1.0, difference))

    def _look_ahead(self) -> Exhaustion | None:
        canary, baseline = (_trend(series.points) for series in self._series[::-1])
        if canary is None:
            return None
        (level, slope), cov = canary
        h = self._horizon_s / self._point_s
        end_var = cov[0, 0] + 2 * h * cov[0, 1] + h * h * cov[1, 1]
        moments = (level, cov[0, 0], level + h * slope, end_var, cov[0, 0] + h * cov[0, 1], 1.0)
        p = float(p_crossing(*(np.array([x], float) for x in moments))[0])
        band = NORMAL * math.sqrt(max(cov[1, 1], 0.0))
        soonest, expected, latest = (
            float(_until(level, s) * self._point_s) for s in (slope + band, slope, slope - band)
        )
        per_s = self._limit / self._point_s
        return Exhaustion(
            resource=self.resource, limit=self._limit, level=float(level * self._limit),
            slope=float(slope * per_s),
            baseline_slope=baseline[0][1] * per_s if baseline is not None else math.nan, lower_s=soonest,
            in_s=expected, upper_s=latest, horizon_s=self._horizon_s, p_exhausts=p, log_e=self.log_e,
        )  # fmt: skip

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as JSON-able values."""
        return {
            "points": [[None if math.isnan(x) else x for x in series.points] for series in self._series],
            "open": [[series.sum, series.n] for series in self._series],
            "closed": self._closed,
            "scale": [self._limit, self._point_s],
            "log_capital": self._log_capital.tolist(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave; of another limit or horizon it says nothing. Raises ValueError if damaged."""
        if state["scale"] != [self._limit, self._point_s]:
            return
        for series, points, (total, n) in zip(self._series, state["points"], state["open"], strict=True):
            series.points = [math.nan if x is None else float(x) for x in points][-POINTS:]
            series.sum, series.n = float(total), int(n)
        self._closed = int(state["closed"])
        capital = np.asarray(state["log_capital"], float).reshape(len(BETS))
        if not np.isfinite(capital).all():
            raise ValueError("a resource's evidence is damaged")
        self._log_capital = capital
        self.forecast = self._look_ahead()


def _until(level: float, slope: float) -> float:
    """Points until a line reaches 1."""
    if level >= 1:
        return 0.0
    return (1 - level) / slope if slope > 0 else math.inf


def _trend(points: Sequence[float]) -> tuple[Floats, Floats] | None:
    """Level and slope now, a point, with their covariance; None of too few points."""
    from statsmodels.tsa.statespace.structural import UnobservedComponents  # seconds to import: only where it is used

    y = np.array(points, float)
    first = next((i for i, x in enumerate(points) if math.isfinite(x)), len(y))
    y = y[first:]
    if np.isfinite(y).sum() < MIN_POINTS:
        return None
    known = y[np.isfinite(y)]
    spread = float(np.std(np.diff(known)))
    if not spread > 0:  # a perfect line: there is no noise to estimate
        return np.array([known[-1], (known[-1] - known[0]) / (len(y) - 1)]), np.full((2, 2), 1e-12)
    model = UnobservedComponents((y - known[0]) / spread, level="lltrend")
    best = max(VARIANCES, key=model.loglike)
    filtered = model.filter(best)
    mean, cov = filtered.filtered_state[:, -1], filtered.filtered_state_cov[:, :, -1]
    return mean * spread + np.array([known[0], 0.0]), cov * spread**2
