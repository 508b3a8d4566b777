"""Kayenta's NetflixACAJudge-v1.0, run by Spinnaker's canary stage.

Rules from spinnaker/kayenta at a69573b (`kayenta-judge`) and orca's `orca-kayenta`; plan from spinnaker.io's canary
best practices: 3 hours, a judgement an hour on all data so far, one point a minute, thresholds 95 and 75, a canary
beside a control of the same size. Kept as they are: confidence 98 % and tolerance .25 are literals; `score <= marginal`
stops (not `<`); the growing data are tested anew each time without a correction; points, not requests, are compared.

Inferred: the canary's weight (5 %; the practices name none) and which metrics (error ratio and 99th percentile of the
duration: two of the golden signals, each a group of its own, both allowed to fall).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from benchmarks.contest.metrics import BASELINE, CANARY, FAILED, REQUESTS, Metrics, histogram_quantile
from benchmarks.contest.peers.mann_whitney import shift_interval
from benchmarks.contest.peers.protocol import PROMOTED, ROLLED_BACK, Step

Floats = npt.NDArray[np.float64]

CONFIDENCE, TOLERANCE = 0.98, 0.25


class Label(StrEnum):
    PASS = "Pass"  # noqa: S105
    HIGH = "High"
    LOW = "Low"
    NODATA = "Nodata"


class Direction(StrEnum):
    INCREASE = "increase"
    DECREASE = "decrease"
    EITHER = "either"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """`tolerance`: what Kayenta has as a literal. `allowed_increase`, `allowed_decrease`: ratio of the means."""

    direction: Direction = Direction.INCREASE
    tolerance: float = TOLERANCE
    allowed_increase: float = 1.0
    allowed_decrease: float = 1.0

    def label(self, experiment: Floats, control: Floats, rng: np.random.Generator) -> Label:
        """One metric; NaN are removed first (`nanStrategy: remove`)."""
        x, y = experiment[~np.isnan(experiment)], control[~np.isnan(control)]
        if not len(x) or not len(y):
            return Label.NODATA
        if np.array_equal(np.sort(x), np.sort(y)) or len(np.unique(np.concatenate([x, y]))) == 1:
            return Label.PASS
        effect = _mean_ratio(x, y)
        if len(np.unique(x)) == 1 and len(np.unique(y)) == 1:
            x, y = (v + rng.normal(0.0, 1e-5 * abs(v[0]), len(v)) for v in (x, y))
        shift = shift_interval(x, y, CONFIDENCE)
        bound = self.tolerance * abs(shift.estimate)
        if self.direction is not Direction.DECREASE and shift.low > bound and not effect < self.allowed_increase:
            return Label.HIGH
        if self.direction is not Direction.INCREASE and shift.high < -bound and not effect > self.allowed_decrease:
            return Label.LOW
        return Label.PASS


def _mean_ratio(x: Floats, y: Floats) -> float:
    """NaN, which exceeds every threshold, where a mean is 0."""
    return float(x.mean() / y.mean()) if x.mean() and y.mean() else float("nan")


def score(labels: Mapping[str, Label]) -> float:
    """0 to 100, each metric a group without a weight: they share 100 evenly, and a group without data counts as good.

    Half of the metrics or more without data: 0.
    """
    if 2 * sum(label is Label.NODATA for label in labels.values()) >= len(labels):
        return 0.0
    good = sum(label in (Label.PASS, Label.NODATA) for label in labels.values())
    return round(100.0 * good / len(labels), 2)


class Kayenta:
    """One canary stage. Points of both arms are kept a minute each; the control is as large as the canary."""

    def __init__(
        self,
        name: str,
        judge: Judge,
        *,
        rng: np.random.Generator,
        weight: float = 0.05,
        lifetime_s: float = 10_800.0,
        judged_every_s: float = 3_600.0,
        thresholds: tuple[float, float] = (95.0, 75.0),
    ) -> None:
        self.name = name
        self.interval_s = judged_every_s
        self._judge, self._rng, self._weight, self._thresholds = judge, rng, weight, thresholds
        self._judgements = int(lifetime_s // judged_every_s)
        self._points: list[tuple[tuple[float, float], tuple[float, float]]] = []  # (errors, p99) of control, canary

    def decide(self, seen: Metrics, at_s: float) -> Step:
        if at_s == 0:
            return Step(self._weight)
        while (len(self._points) + 1) * 60 <= at_s:
            self._points.append(self._minute(seen, len(self._points) * 60.0))
        points = np.array(self._points)  # (minutes, 2 arms, 2 metrics)
        reached = score(
            {
                name: self._judge.label(points[:, CANARY, k], points[:, BASELINE, k], self._rng)
                for k, name in enumerate(("errors", "latency"))
            }
        )
        passing, marginal = self._thresholds
        if reached <= marginal:
            return ROLLED_BACK
        if round(at_s / self.interval_s) < self._judgements:
            return Step(self._weight)
        return PROMOTED if reached >= passing else ROLLED_BACK

    def _minute(self, seen: Metrics, since_s: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Of the whole baseline's requests as many are taken for the control as the canary had."""
        canary, baseline = (seen.buckets_between(arm, since_s, since_s + 60) for arm in (CANARY, BASELINE))
        n = seen.between(REQUESTS, CANARY, since_s, since_s + 60)
        failed, others, bad = (
            seen.between(FAILED, CANARY, since_s, since_s + 60),
            seen.between(REQUESTS, BASELINE, since_s, since_s + 60),
            seen.between(FAILED, BASELINE, since_s, since_s + 60),
        )
        size = min(n, others)
        control_bad = int(self._rng.hypergeometric(bad, others - bad, size)) if others else 0
        timed = min(int(canary.sum()), int(baseline.sum()))
        control = self._rng.multivariate_hypergeometric(baseline, timed) if timed else np.zeros_like(baseline)
        return (
            (control_bad / size if size else np.nan, histogram_quantile(0.99, control, seen.bounds_ms)),
            (failed / n if n else np.nan, histogram_quantile(0.99, canary, seen.bounds_ms)),
        )


def kayenta_docs(rng: np.random.Generator, tolerance: float = TOLERANCE) -> Kayenta:
    return Kayenta("kayenta-docs", Judge(tolerance=tolerance), rng=rng)
