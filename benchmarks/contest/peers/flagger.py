"""Flagger: one loop with one counter of failed checks.

Rules from fluxcd/flagger at 15bd6ad: `pkg/controller/scheduler.go`, `scheduler_metrics.go`,
`pkg/apis/flagger/v1beta1/canary.go`; plans from `docs/gitbook/usage/deployment-strategies.md`, checks from
`usage/metrics.md`. Kept as they are: the counter is never reset by a good check; a failed check holds the weight; the
rollback comes at the tick *after* the threshold; no value is a failed check; a tick has one failed check at the most;
nothing is measured above `maxWeight`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum

from benchmarks.contest.metrics import CANARY, Metrics
from benchmarks.contest.peers.protocol import PROMOTED, ROLLED_BACK, Step

Check = Callable[[Metrics], bool]
WINDOW_S = 60.0
SUCCESS, P99_MS = 0.99, 500.0


class _Phase(StrEnum):
    PROGRESSING = "Progressing"
    PROMOTING = "Promoting"


class Flagger:
    """`steps`: what each good check adds up to, and the last one is `maxWeight`."""

    def __init__(
        self, name: str, weights: tuple[float, ...], checks: tuple[Check, ...], *, threshold: int = 10
    ) -> None:
        self.name = name
        self.interval_s = 60.0
        self._weights, self._checks, self._threshold = weights, checks, threshold
        self._phase, self._at, self.failed_checks = _Phase.PROGRESSING, -1, 0

    def decide(self, seen: Metrics, at_s: float) -> Step:
        if at_s == 0:
            return Step(0.0)  # the new revision is found; the first tick comes an interval later
        if self._phase is _Phase.PROMOTING:
            return PROMOTED
        if self.failed_checks >= self._threshold:
            return ROLLED_BACK
        if self._at >= 0 and not all(check(seen) for check in self._checks):  # the first tick runs hooks only
            self.failed_checks += 1
        elif self._at + 1 < len(self._weights):
            self._at += 1
        else:
            self._phase = _Phase.PROMOTING  # the primary gets the canary's specification
        return Step(self._weights[self._at])


def request_success_rate(minimum: float = SUCCESS) -> Check:
    return lambda seen: seen.success_rate(CANARY, WINDOW_S) >= minimum  # NaN: no value, a failed check


def request_duration(maximum_ms: float = P99_MS) -> Check:
    def check(seen: Metrics) -> bool:
        value = seen.quantile_ms(0.99, CANARY, WINDOW_S)
        return not math.isnan(value) and value <= maximum_ms

    return check


def flagger_docs(success: float = SUCCESS, p99_ms: float = P99_MS) -> Flagger:
    """+2 % a minute up to 50 %, then everybody; threshold 10."""
    weights = tuple(percent / 100 for percent in range(2, 51, 2))
    return Flagger("flagger-docs", weights, (request_success_rate(success), request_duration(p99_ms)))


def flagger_steps(success: float = SUCCESS, p99_ms: float = P99_MS) -> Flagger:
    """stepWeights 1, 2, 10, 80."""
    checks = (request_success_rate(success), request_duration(p99_ms))
    return Flagger("flagger-steps", (0.01, 0.02, 0.10, 0.80), checks)
