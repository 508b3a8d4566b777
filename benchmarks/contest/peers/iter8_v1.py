"""Iter8 v1.0: posteriors of metrics, and traffic in proportion to the chance of being the best version.

Rules from iter8-analytics (`iter8_analytics/api/analytics/`, at d66ad1b, with the constants of a039d57); criteria,
interval (30 s), 100 iterations, maxIncrement 2 and `to_winner` from the Experiment CRD's reference. Kept as they are:
without a reward metric the candidate's pseudo-reward is above the baseline's, so a candidate that satisfies the
criteria always wins; 5 % go to every version whatever is known; no sample is too small.

Each draw satisfies a criterion with a fixed chance, whatever its other values: so the share of draws in which the
candidate is best is binomial, and is drawn as such (10,000 draws, as there).

Inferred: metrics run since the experiment's start; the second parameter of a mean's belief is a variance, in seconds²;
without a winner in the end `to_winner` leaves everybody with the baseline.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betainc, ndtr

from benchmarks.contest.metrics import BASELINE, CANARY, FAILED, REQUESTS, Metrics
from benchmarks.contest.peers.protocol import PROMOTED, ROLLED_BACK, Step

DRAWS, PRIOR, EXPLORED, INCREMENT, WINS = 10_000, 0.1, 0.05, 2, 0.99
ERRORS, LATENCY_TIMES, FAST_MS, FAST_SHARE = 0.05, 1.6, 500.0, 0.95


class Iter8V1:
    def __init__(
        self, *, rng: np.random.Generator, errors: float = ERRORS, latency_times: float = LATENCY_TIMES,
        iterations: int = 100,
    ) -> None:  # fmt: skip
        self.name = "iter8-v1"
        self.interval_s = 30.0
        self._rng, self._errors, self._latency_times, self._iterations = rng, errors, latency_times, iterations
        self._percent, self._iteration = 0, 0
        self._means_s: list[float] = []

    def decide(self, seen: Metrics, at_s: float) -> Step:
        if at_s == 0:
            return self._shift(0.5)  # nothing is known, and the rise is capped
        self._iteration += 1
        share = self.best_share(seen)
        if self._iteration >= self._iterations:
            return PROMOTED if share > WINS else ROLLED_BACK
        return self._shift(share)

    def _shift(self, share: float) -> Step:
        """Mix with exploration, cap the rise, and round to whole percents so that the mean stays what it was."""
        wanted = 100 * (EXPLORED / 2 + (1 - EXPLORED) * share)
        capped = min(wanted, self._percent + INCREMENT)
        whole = math.floor(capped)
        self._percent = whole + int(self._rng.random() < capped - whole)
        return Step(self._percent / 100)

    def best_share(self, seen: Metrics) -> float:
        """Share of the draws in which the candidate is the best version."""
        means = [seen.mean_ms(arm) / 1000 for arm in (BASELINE, CANARY)]
        self._means_s += [mean for mean in means if not math.isnan(mean)]
        valid = self._satisfied(seen, means)
        return float(self._rng.binomial(DRAWS, valid)) / DRAWS

    def _satisfied(self, seen: Metrics, means: list[float]) -> float:
        """Chance that the candidate satisfies all criteria; an unknown one is not satisfied."""
        n, failed = seen.count(REQUESTS, CANARY), seen.count(FAILED, CANARY)
        fast, timed = seen.below_share(FAST_MS, CANARY)
        if not n or not timed or any(math.isnan(mean) for mean in means):
            return 0.0
        few_errors = float(betainc(PRIOR + failed, PRIOR + n - failed, self._errors))
        fast_enough = 1 - float(betainc(PRIOR + fast, PRIOR + timed - fast, FAST_SHARE))
        return few_errors * fast_enough * self._no_slower(seen, means)

    def _no_slower(self, seen: Metrics, means: list[float]) -> float:
        width = max(self._means_s) - min(self._means_s)
        off = self._latency_times * means[BASELINE] - means[CANARY]
        variance = width * (
            1 / (1 + seen.count(REQUESTS, CANARY)) + self._latency_times**2 / (1 + seen.count(REQUESTS, BASELINE))
        )
        return float(ndtr(off / math.sqrt(variance))) if variance > 0 else float(off >= 0)


def iter8_v1(rng: np.random.Generator, errors: float = ERRORS, latency_times: float = LATENCY_TIMES) -> Iter8V1:
    return Iter8V1(rng=rng, errors=errors, latency_times=latency_times)
