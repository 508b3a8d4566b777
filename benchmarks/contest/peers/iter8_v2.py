"""Iter8 v2: objectives on the newest values, no posteriors.

Rules from iter8-analytics at 742e8d7 (`api/v2/experiment.py`) and etc3 at 108478b (`defaults.go`, `weights.go`);
objectives from its quick start: mean <= 50 ms, 95th percentile <= 100 ms, errors <= 1 %; 15 iterations of 20 s. Kept as
they are: a candidate that fails keeps 5 %, since `rollbackOnFailure` is false unless asked for; no value is a failure;
no sample is too small; it is all over after five minutes.

Inferred: metrics run since the experiment's start (`elapsedTimeSeconds`), and the finish handler promotes the winner or
applies the baseline, as in the quick start.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.contest.metrics import BASELINE, CANARY, Metrics
from benchmarks.contest.peers.protocol import PROMOTED, ROLLED_BACK, Step

EXPLORED, INCREMENT = 0.10, 10
MEAN_MS, P95_MS, ERRORS = 50.0, 100.0, 0.01


class Iter8V2:
    def __init__(
        self, *, rng: np.random.Generator, errors: float = ERRORS, mean_ms: float = MEAN_MS, p95_ms: float = P95_MS,
        iterations: int = 15, rollback_on_failure: bool = False,
    ) -> None:  # fmt: skip
        self.name = "iter8-v2"
        self.interval_s = 20.0
        self._rng, self._limits, self._iterations = rng, (errors, mean_ms, p95_ms), iterations
        self._rollback_on_failure = rollback_on_failure
        self._percent, self._iteration = 0, 0

    def decide(self, seen: Metrics, at_s: float) -> Step:
        if at_s == 0:
            return self._shift(is_winner=False)
        self._iteration += 1
        satisfied = [self._satisfied(seen, arm) for arm in (BASELINE, CANARY)]
        if self._rollback_on_failure and not all(satisfied):
            return ROLLED_BACK  # a baseline that fails ends it too
        if self._iteration >= self._iterations:
            return PROMOTED if satisfied[CANARY] else ROLLED_BACK
        return self._shift(is_winner=satisfied[CANARY])

    def _satisfied(self, seen: Metrics, arm: int) -> bool:
        values = (seen.error_rate(arm), seen.mean_ms(arm), seen.quantile_ms(0.95, arm))
        return all(not math.isnan(v) and v <= limit for v, limit in zip(values, self._limits, strict=True))

    def _shift(self, *, is_winner: bool) -> Step:
        wanted = 100 * (EXPLORED / 2 + (1 - EXPLORED) * is_winner)
        capped = min(wanted, self._percent + INCREMENT, 100)
        whole = math.floor(capped)
        self._percent = whole + int(self._rng.random() < capped - whole)
        return Step(self._percent / 100)


def iter8_v2(
    rng: np.random.Generator, errors: float = ERRORS, mean_ms: float = MEAN_MS, p95_ms: float = P95_MS
) -> Iter8V2:
    return Iter8V2(rng=rng, errors=errors, mean_ms=mean_ms, p95_ms=p95_ms)
