"""Argo Rollouts: a canary of fixed steps, and an AnalysisRun beside it.

Rules from argoproj/argo-rollouts at 9f8d111: `analysis/analysis.go`, `utils/evaluate/evaluate.go`,
`rollout/canary.go`, `rollout/analysis.go`, defaults from `utils/defaults/defaults.go`. The plan is the one of
`docs/features/analysis.md`. Kept as they are: a metric fails with *more* failures than `failureLimit` (the
documentation says: with as many); failures are never forgotten; `irate` looks at the last two samples only; nothing is
measured at 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.contest.metrics import CANARY, REQUESTS, Metrics
from benchmarks.contest.peers.protocol import PROMOTED, ROLLED_BACK, State, Step

ERROR_RETRY_S = 10.0  # DefaultErrorRetryInterval


class Phase(StrEnum):
    RUNNING = "Running"
    SUCCESSFUL = "Successful"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"
    FAILED = "Failed"


_WORST_FIRST = (Phase.FAILED, Phase.ERROR, Phase.INCONCLUSIVE, Phase.RUNNING, Phase.SUCCESSFUL)

Condition = Callable[[float], bool]


class MeasureError(Exception):
    """The provider had no answer, or the condition could not be evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """`count` 0 and no interval: one measurement; 0 and an interval: without end. A negative limit is off."""

    measure: Callable[[Metrics], float]
    success: Condition | None = None
    failure: Condition | None = None
    interval_s: float | None = None
    initial_delay_s: float = 0.0
    count: int = 0
    failure_limit: int = 0
    inconclusive_limit: int = 0
    consecutive_error_limit: int = 4
    consecutive_success_limit: int | None = None


class _Measured:
    """A metric's counters in one run."""

    def __init__(self, metric: Metric, start_s: float) -> None:
        self.metric = metric
        self.next_s = start_s + metric.initial_delay_s
        self.count = self.failed = self.inconclusive = self.errors_in_a_row = self.successes_in_a_row = 0

    def measure(self, seen: Metrics, at_s: float) -> None:
        result = evaluate(self.metric, seen)
        self.successes_in_a_row = self.successes_in_a_row + 1 if result is Phase.SUCCESSFUL else 0
        if result is Phase.ERROR:
            self.errors_in_a_row += 1
            self.next_s = at_s + ERROR_RETRY_S
            return
        self.errors_in_a_row = 0
        self.count += 1
        self.failed += result is Phase.FAILED
        self.inconclusive += result is Phase.INCONCLUSIVE
        self.next_s = at_s + (self.metric.interval_s or math.inf)

    def phase(self) -> Phase:
        """`assessMetricStatus`: of the limits a later one wins over an earlier one."""
        m, over = self.metric, None
        if 0 <= m.failure_limit < self.failed:
            over = Phase.FAILED
        if 0 <= m.inconclusive_limit < self.inconclusive:
            over = Phase.INCONCLUSIVE
        if self.errors_in_a_row > m.consecutive_error_limit:
            over = Phase.ERROR
        if over is not None:
            return over
        if m.consecutive_success_limit and self.successes_in_a_row >= m.consecutive_success_limit:
            return Phase.SUCCESSFUL
        if self.count >= self._effective_count():
            if not m.consecutive_success_limit:
                return Phase.SUCCESSFUL
            return Phase.INCONCLUSIVE if m.failure_limit >= 0 else Phase.FAILED
        return Phase.RUNNING

    def _effective_count(self) -> float:
        if self.metric.count > 0:
            return self.metric.count
        return 1 if self.metric.interval_s is None else math.inf


def evaluate(metric: Metric, seen: Metrics) -> Phase:
    """`EvaluateResult`: one measurement's phase. Neither condition given is a success, whatever is measured."""
    try:
        value = metric.measure(seen)
    except MeasureError:
        return Phase.ERROR
    success = None if metric.success is None else metric.success(value)
    failure = None if metric.failure is None else metric.failure(value)
    if success is None and failure is None:
        return Phase.SUCCESSFUL
    if failure is None:
        return Phase.SUCCESSFUL if success else Phase.FAILED
    if failure:
        return Phase.FAILED
    return Phase.SUCCESSFUL if success is None or success else Phase.INCONCLUSIVE


class AnalysisRun:
    """The metrics of one run. One that fails, errs or is inconclusive ends the measuring of all of them."""

    def __init__(self, metrics: tuple[Metric, ...], start_s: float) -> None:
        self._measured = [_Measured(metric, start_s) for metric in metrics]

    def advance(self, seen: Metrics, at_s: float) -> Phase:
        for measured in self._measured:
            if at_s >= measured.next_s and measured.phase() is Phase.RUNNING:
                measured.measure(seen, at_s)
        phases = {measured.phase() for measured in self._measured}
        worst = next(phase for phase in _WORST_FIRST if phase in phases)
        is_over = worst is not Phase.RUNNING and (worst is not Phase.SUCCESSFUL or Phase.RUNNING not in phases)
        return worst if is_over else Phase.RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """None: until a human promotes."""

    duration_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetWeight:
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """An inline step; it ends only with success."""

    metrics: tuple[Metric, ...]


Steps = tuple[SetWeight | Pause | Analysis, ...]


class Argo:
    """A Rollout with one background analysis, which starts with step `starting_step`."""

    interval_s = 10.0

    def __init__(self, name: str, steps: Steps, background: tuple[Metric, ...] = (), starting_step: int = 0) -> None:
        self.name = name
        self._steps, self._background, self._starting_step = steps, background, starting_step
        self._run: AnalysisRun | None = None
        self._inline: AnalysisRun | None = None
        self._index, self._since_s, self._weight = 0, 0.0, 0.0

    def decide(self, seen: Metrics, at_s: float) -> Step:
        phase = self._advance_steps(seen, at_s)
        if phase is Phase.RUNNING and self._index == len(self._steps):
            return PROMOTED  # the background run is cancelled, and nothing is measured any more
        if phase is Phase.RUNNING and self._background and self._index >= self._starting_step:
            self._run = self._run or AnalysisRun(self._background, at_s)
            phase = self._run.advance(seen, at_s)
        match phase:
            case Phase.FAILED | Phase.ERROR:
                return ROLLED_BACK
            case Phase.INCONCLUSIVE:
                return Step(self._weight, State.PAUSED)
            case _:
                return Step(self._weight, State.PAUSED if self._waits_for_human() else State.RUNNING)

    def _waits_for_human(self) -> bool:
        step = self._steps[self._index]
        return isinstance(step, Pause) and step.duration_s is None

    def _advance_steps(self, seen: Metrics, at_s: float) -> Phase:
        """Go through the steps that are over; what an inline analysis came to, if it did not succeed."""
        while self._index < len(self._steps):
            step = self._steps[self._index]
            if isinstance(step, SetWeight):
                self._weight = step.weight
            elif isinstance(step, Pause):
                if step.duration_s is None or at_s < self._since_s + step.duration_s:
                    return Phase.RUNNING
            else:
                self._inline = self._inline or AnalysisRun(step.metrics, at_s)
                phase = self._inline.advance(seen, at_s)
                if phase is not Phase.SUCCESSFUL:
                    return phase
                self._inline = None
            self._index, self._since_s = self._index + 1, at_s
        return Phase.RUNNING


def fixed_steps(weights: tuple[float, ...], each_s: float) -> Steps:
    return tuple(step for weight in weights for step in (SetWeight(weight=weight), Pause(duration_s=each_s)))


def _measured_success_rate(seen: Metrics) -> float:
    """NaN when there is no traffic just now, which is not >= any limit.

    Before the canary's first request there is no series, so that `result[0]` is an error.
    """
    if not seen.count(REQUESTS, CANARY):
        raise MeasureError
    return seen.instant_success_rate(CANARY)


def _success_rate(limit: float, interval_s: float, failure_limit: int) -> Metric:
    return Metric(
        measure=_measured_success_rate,
        success=lambda value: value >= limit,
        interval_s=interval_s,
        failure_limit=failure_limit,
    )


DOCS_STEPS = fixed_steps((0.2, 0.4, 0.6, 0.8), 600.0)
DOCS_SUCCESS = 0.95


def argo_docs(success: float = DOCS_SUCCESS) -> Argo:
    """20/40/60/80 %, 10 minutes each; from 40 % on every 5 minutes: success rate >= 0.95, failureLimit 3."""
    return Argo("argo-docs", DOCS_STEPS, (_success_rate(success, 300.0, 3),), starting_step=2)


def argo_strict(success: float = DOCS_SUCCESS) -> Argo:
    """The same steps; from the first one on every minute, and the first failure ends it."""
    return Argo("argo-strict", DOCS_STEPS, (_success_rate(success, 60.0, 0),))
