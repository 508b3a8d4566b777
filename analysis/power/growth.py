"""How fast the evidence of `analysis.evidence.regression` grows, and the median time until it is proof.

Of a block, the log e-value of each bet has a mean and a variance that follow from the arrivals, the split and the true
rates. So the evidence is a random walk with drift, and the tick at which it crosses the threshold is about inverse
Gaussian (Siegmund 1985, "Sequential Analysis", section III.1; Folks & Chhikara 1978). An approximation: the tests hold
it against the engine itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import invgauss, norm, poisson

from analysis.evidence.binomial import log_ratio_e
from analysis.evidence.regression import BURST_TICKS, EFFECT_WEIGHTS, EFFECTS, PROOF_TICKS, Against, Test
from analysis.evidence.stake import NOW_SHARE
from analysis.evidence.two_by_two import log_e
from analysis.observer import LATENESS_S
from analysis.spec import KpiKind, KpiSpec, RolloutSpec

Floats = npt.NDArray[np.float64]

_QUANTILES = (np.arange(12) + 0.5) / 12  # of the arrivals in one block, where they are many
_MANY = 6.0  # arrivals in one block; of fewer, each number has its own probability
_EDGE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The judged sessions of one segment for one KPI.

    `sessions_per_s`: of both arms together, each person once; `base`: the baseline's share of bad ones, in (0, 1).
    """

    sessions_per_s: float
    base: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TickGrowth:
    """A block's log e-value as a linear function of the bad counts, for the arrivals that it may have.

    A: pairs of arrivals on canary and baseline, with their probabilities `weights` (A, 1). `start` (A, effects) without
    a bad session, and what each bad one adds, by arm. A block lasts `ticks` on average: until it has people of both
    arms (`evidence.blocks`).
    """

    base: float
    ticks: float
    n_canary: Floats
    n_baseline: Floats
    weights: Floats
    start: Floats
    per_canary: Floats
    per_baseline: Floats

    @classmethod
    def of(cls, stream: Stream, *, split: float, test: Test, interval_s: float) -> TickGrowth:
        """Growth at a split in (0, 1) of a test against a difference or a ratio, in ticks of `interval_s`."""
        mean_c, mean_b = (stream.sessions_per_s * interval_s * share for share in (split, 1 - split))
        ticks = _block_ticks(mean_c, mean_b)
        (n_c, p_c), (n_b, p_b) = _arrivals(ticks * mean_c), _arrivals(ticks * mean_b)
        n_c, n_b = (n.reshape(-1, 1) for n in np.meshgrid(n_c, n_b))
        none, one = np.zeros_like(n_c), np.ones_like(n_c)
        start, one_canary, one_baseline = (
            _log_e(test, stream.base, n_c, bad_c, n_b, bad_b)
            for bad_c, bad_b in ((none, none), (one, none), (none, one))
        )
        return cls(
            base=stream.base,
            ticks=ticks,
            n_canary=n_c,
            n_baseline=n_b,
            weights=np.outer(p_b, p_c).reshape(-1, 1),
            start=start,
            per_canary=one_canary - start,
            per_baseline=one_baseline - start,
        )

    def moments(self, excess: Floats) -> tuple[Floats, Floats]:
        """Mean and variance of a tick's log e-value, each (X, effects), where the canary is worse by `excess` (X,)."""
        rate = np.clip(self.base + excess, _EDGE, 1 - _EDGE)[:, None, None]
        canary, baseline = self.n_canary * self.per_canary, self.n_baseline * self.per_baseline
        mean = self.start + rate * canary + self.base * baseline  # (X, A, effects)
        spread = rate * (1 - rate) * canary * self.per_canary
        spread = spread + self.base * (1 - self.base) * baseline * self.per_baseline
        first = np.sum(self.weights * mean, axis=1)
        second = np.sum(self.weights * (spread + mean**2), axis=1)
        return first / self.ticks, np.maximum(second - first**2, 0.0) / self.ticks


def _log_e(test: Test, base: float, n_c: Floats, bad_c: Floats, n_b: Floats, bad_b: Floats) -> Floats:
    """(A, effects) what `RegressionEvidence` bets, where the base rate is known."""
    if test.against is Against.RATIO:
        return log_ratio_e(n_c, bad_c, n_b, bad_b, EFFECTS)
    q_c = expit(logit(np.clip(base + test.value, _EDGE, 1 - _EDGE)) + EFFECTS)
    return log_e(n_c, bad_c, n_b, bad_b, q_c, base, test.value)


def _block_ticks(mean_c: float, mean_b: float) -> float:
    """Mean number of ticks until either arm has had a Poisson arrival; 1 where one of them never has."""
    if min(mean_c, mean_b) <= 0:
        return 1.0
    either, canary, baseline = (-1 / math.expm1(-mean) for mean in (mean_c + mean_b, mean_c, mean_b))
    return canary + baseline - either


def _arrivals(mean: float) -> tuple[Floats, Floats]:
    """Numbers of sessions of one arm in a block that is whole, and their probabilities: Poisson's without none."""
    if mean > _MANY:
        n = poisson.ppf(_QUANTILES, mean)
        return n * (mean / n.mean()), np.full(len(n), 1 / len(n))
    if mean <= 1 + _EDGE:
        return np.array([min(mean, 1.0)]), np.ones(1)
    untruncated = brentq(lambda x: -x / math.expm1(-x) - mean, _EDGE, mean)
    n = np.arange(1, poisson.ppf(1 - 1e-4, untruncated) + 2)
    weights = poisson.pmf(n, untruncated)
    return n, weights / weights.sum()


def median_ticks(
    growth: Sequence[TickGrowth], excess: Sequence[Floats], *, log_threshold: float, kind: KpiKind
) -> Floats:
    """Median number of ticks of evidence until it is proof, (X,); inf where the evidence does not grow.

    `growth` and `excess` of the segments whose evidence is multiplied: one of them, or all. The bad rate is there from
    the first exposure on, so that what is bet on it is `NOW_SHARE`, of which each effect has its weight.
    """
    parts = [tick.moments(x) for tick, x in zip(growth, excess, strict=True)]
    mean = np.sum([part[0] for part in parts], axis=0)
    variance = np.sum([part[1] for part in parts], axis=0)
    least, needed = BURST_TICKS.get(kind, PROOF_TICKS), log_threshold - math.log(NOW_SHARE)
    mean, variance = _cut(mean, variance, needed / least)
    quicker = mean[:, None, :] >= mean[:, :, None] - 1e-12  # bets that have paid as much by then
    level = needed - np.log(quicker @ EFFECT_WEIGHTS)
    mean_ticks = np.divide(level, mean, out=np.full_like(mean, np.inf), where=mean > 1e-12)
    best = mean_ticks.argmin(axis=1)[:, None]
    drift, spread, level, mean_ticks = (
        np.take_along_axis(x, best, axis=1)[:, 0] for x in (mean, variance, level, mean_ticks)
    )
    result = np.full(len(drift), np.inf)
    grows = np.isfinite(mean_ticks)
    scale = np.minimum(level[grows] ** 2 / spread[grows], 1e4 * mean_ticks[grows])  # beyond, the median is the mean
    result[grows] = invgauss.median(mean_ticks[grows] / scale, scale=scale)
    ticks: Floats = np.maximum(np.ceil(result), least)
    return ticks


def _cut(mean: Floats, variance: Floats, ceiling: float) -> tuple[Floats, Floats]:
    """Mean and variance of min(X, ceiling), X being normal: what a tick counts for at most."""
    sd = np.sqrt(np.maximum(variance, 1e-18))
    z = (ceiling - mean) / sd
    below, density = norm.cdf(z), norm.pdf(z)
    first = mean * below - sd * density + ceiling * (1 - below)
    second = (mean**2 + sd**2) * below - sd * (mean + ceiling) * density + ceiling**2 * (1 - below)
    return first, np.maximum(second - first**2, 1e-18)


def seconds(ticks: Floats, kpi: KpiSpec, rollout: RolloutSpec) -> Floats:
    """Time from the first exposure to the decision on `ticks` ticks of evidence.

    Sessions are judged at an age, and those of a canary that is still settling say nothing about latency.
    """
    settling = math.ceil(rollout.settle_s / rollout.interval_s) if kpi.kind is KpiKind.LATENCY else 0
    waiting = math.ceil((kpi.judge_after_s + LATENESS_S) / rollout.interval_s)
    result: Floats = (ticks + settling + waiting) * rollout.interval_s
    return result
