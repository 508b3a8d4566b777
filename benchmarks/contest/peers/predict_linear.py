"""Prometheus's `predict_linear` as an alert that ends a rollout of fixed steps.

    predict_linear(canary:error_ratio:rate5m[30m], 1800) > 0.01, for: 5m

`predict_linear` is a least-squares line through the samples of the range, read off that far after now; NaN samples are
left out, and it needs two. The rule's numbers are inferred (Prometheus gives the function, not a rule for rollouts):
Flagger's limit of 1 %, half an hour back and ahead. Steps: 20, 40, 60, 80 %, 10 minutes each, as Argo's documentation.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from benchmarks.contest.metrics import CANARY, Metrics
from benchmarks.contest.peers.protocol import PROMOTED, ROLLED_BACK, Step

LIMIT, RANGE_S, AHEAD_S, FOR_S, RATE_S = 0.01, 1_800.0, 1_800.0, 300.0, 300.0
WEIGHTS, STEP_S = (0.2, 0.4, 0.6, 0.8), 600.0


def predict_linear(times_s: list[float], values: list[float], *, now_s: float, ahead_s: float) -> float:
    """NaN with fewer than two samples."""
    known = [(t - now_s, v) for t, v in zip(times_s, values, strict=True) if not math.isnan(v)]
    if len(known) < 2:
        return float("nan")
    t, v = np.array(known).T
    spread = ((t - t.mean()) ** 2).sum()
    slope = ((t - t.mean()) * (v - v.mean())).sum() / spread if spread else 0.0
    return float(v.mean() + slope * (ahead_s - t.mean()))


class PredictLinear:
    def __init__(self, limit: float = LIMIT) -> None:
        self.name = "predict-linear"
        self.interval_s = 60.0
        self._limit = limit
        self._samples: deque[tuple[float, float]] = deque()
        self._pending_since_s = math.inf

    def decide(self, seen: Metrics, at_s: float) -> Step:
        step = int(at_s // STEP_S)
        if step >= len(WEIGHTS):
            return PROMOTED
        if at_s > 0 and self._fires(seen, at_s):
            return ROLLED_BACK
        return Step(WEIGHTS[step])

    def _fires(self, seen: Metrics, at_s: float) -> bool:
        self._samples.append((at_s, seen.error_rate(CANARY, RATE_S)))
        while self._samples[0][0] <= at_s - RANGE_S:
            self._samples.popleft()
        times, values = zip(*self._samples, strict=True)
        if predict_linear(list(times), list(values), now_s=at_s, ahead_s=AHEAD_S) > self._limit:
            self._pending_since_s = min(self._pending_since_s, at_s)
        else:
            self._pending_since_s = math.inf
        return at_s - self._pending_since_s >= FOR_S
