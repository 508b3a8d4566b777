"""How played rollouts ended: by segment, and what many of them come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.decision import Phase
from analysis.simulation.scenario import On, Scenario, is_worse

ENDINGS = {Phase.PROMOTED: "promoted", Phase.ROLLED_BACK: "rolled_back", Phase.WITHDRAWN: "withdrawn"}
UNDECIDED = "undecided"
OUTCOMES = (*ENDINGS.values(), UNDECIDED)


@dataclass(slots=True, kw_only=True)
class End:
    """What is noted of one segment while it is played. Times in seconds after the rollout's start."""

    phase: Phase = Phase.WARMUP
    ended_s: float | None = None
    first_exposure_s: float | None = None
    tier: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRun:
    """How one rollout ended for one segment. Times in seconds after the rollout's start; None: it never happened.

    `outcome`: one of OUTCOMES. `is_bad`: whether the canary harms these people by the scenario. `full_s`: when the
    canary had everybody for good. `delay_s`: from the first harm to the canary's end. `harm`: sessions that met a fault
    of the canary, beyond chance, until the rollout ended everywhere. `exposed`: sessions that began on the canary until
    then. `tier`: of a rollback.
    """

    segment: str
    outcome: str
    is_bad: bool
    ended_s: float | None = None
    full_s: float | None = None
    delay_s: float | None = None
    harm: float = 0.0
    exposed: int = 0
    tier: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One played rollout. `length_s`: until it had ended everywhere, or the scenario's horizon."""

    seed: int
    segments: tuple[SegmentRun, ...]
    length_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a segment's runs come to; `segment` `all`: the runs as a whole.

    `shares`: of each of OUTCOMES, in [0, 1]. Of the whole: rolled back, withdrawn or undecided if any segment was, in
    this order; promoted if all were. `full_s`, `delay_s`: medians over the runs in which it happened, None without any.
    `harm`, `exposed`: means.
    """

    segment: str
    runs: int
    is_bad: bool
    shares: dict[str, float]
    full_s: float | None
    delay_s: float | None
    harm: float
    exposed: float


def onset_s(scenario: Scenario, segment: str, first_exposure_s: float | None) -> float | None:
    """When the canary begins to harm a segment's people; None: never, or nobody was exposed."""
    if first_exposure_s is None:
        return None
    begins = [
        effect.at_s + (first_exposure_s if effect.since_exposure else 0.0)
        for effect in scenario.effects
        if effect.on is On.CANARY and effect.segment in (None, segment) and is_worse(effect)
    ]
    return max(min(begins), first_exposure_s) if begins else None


def segment_run(scenario: Scenario, segment: str, end: End, *, harm: float, exposed: int) -> SegmentRun:
    """What came of one segment."""
    begins_s = onset_s(scenario, segment, end.first_exposure_s)
    taken_back_s = end.ended_s if end.phase in (Phase.ROLLED_BACK, Phase.WITHDRAWN) else None
    return SegmentRun(
        segment=segment, outcome=ENDINGS.get(end.phase, UNDECIDED), is_bad=scenario.harms(segment), ended_s=end.ended_s,
        full_s=end.ended_s if end.phase is Phase.PROMOTED else None,
        delay_s=None if taken_back_s is None or begins_s is None else taken_back_s - begins_s,
        harm=harm, exposed=exposed, tier=end.tier,
    )  # fmt: skip


def summarise(runs: Sequence[Run]) -> tuple[Summary, ...]:
    """One of each segment, and one of the runs as a whole. Raises ValueError where there are no runs."""
    if not runs:
        raise ValueError("no runs to summarise")
    by_segment = zip(*(run.segments for run in runs), strict=True)
    return (*(_summary(column[0].segment, column) for column in by_segment), _summary("all", [_whole(r) for r in runs]))


def _whole(run: Run) -> SegmentRun:
    outcomes = {segment.outcome for segment in run.segments}
    order = ("rolled_back", "withdrawn", UNDECIDED, "promoted")
    return SegmentRun(
        segment="all", outcome=next(outcome for outcome in order if outcome in outcomes),
        is_bad=any(segment.is_bad for segment in run.segments),
        full_s=_last([segment.full_s for segment in run.segments]),
        delay_s=_last([segment.delay_s for segment in run.segments if segment.is_bad]),
        harm=sum(segment.harm for segment in run.segments), exposed=sum(segment.exposed for segment in run.segments),
    )  # fmt: skip


def _last(times: Sequence[float | None]) -> float | None:
    """The latest of them, if all of them happened."""
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def _summary(segment: str, runs: Sequence[SegmentRun]) -> Summary:
    return Summary(
        segment=segment, runs=len(runs), is_bad=runs[0].is_bad,
        shares={outcome: sum(run.outcome == outcome for run in runs) / len(runs) for outcome in OUTCOMES},
        full_s=_median([run.full_s for run in runs]), delay_s=_median([run.delay_s for run in runs]),
        harm=math.fsum(run.harm for run in runs) / len(runs), exposed=sum(run.exposed for run in runs) / len(runs),
    )  # fmt: skip


def _median(times: Sequence[float | None]) -> float | None:
    known = [time for time in times if time is not None]
    return float(np.median(known)) if known else None
