"""How many sessions it takes until a canary that is as good as the baseline is known to be, by the rollout's own rule.

What is older than an epoch is forgotten (`evidence.exclusion`), so the sessions must come within one. Where they are
few it lasts until the younger one of two knows enough, so that what both know is kept, up to a day.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.evidence.exclusion import ENOUGH_N, GRID, LONGEST_S, ExcessExclusion
from analysis.power.detection import Traffic
from analysis.power.world import harm_rates
from analysis.reading import HEALTHY_EXCESS, HEALTHY_TOLERANCES, Reading, Standing
from analysis.spec import ServiceSpec
from analysis.window import BASELINE

_KNOWN_N = 1e6  # sessions behind a base rate that is taken as known


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthNeed:
    """What it takes to call one segment healthy at a split. Sessions are those of both arms.

    `seconds`: at the segment's traffic; None: never, since they do not come within `within_s`. `what`: the comparison
    that takes most, a KPI's name or 'harm', and `tolerance` a larger one for it that would do; None: none would.
    """

    segment: str
    split: float
    sessions: float
    seconds: float | None
    within_s: float
    what: str
    tolerance: float | None

    @property
    def sessions_per_s(self) -> float:
        """The traffic that would do."""
        return self.sessions / self.within_s


def needs(spec: ServiceSpec, traffic: Traffic, splits: dict[int, float]) -> tuple[HealthNeed, ...]:
    """The need of each segment, by its index, at its split in (0, 1)."""
    reading = _reading(spec, traffic)
    return tuple(_need(reading, index, split, traffic.sessions_per_s[index]) for index, split in splits.items())


def _reading(spec: ServiceSpec, traffic: Traffic) -> Reading:
    """A rollout's state before the first step, that knows rates and base rates."""
    reading = Reading(spec)
    reading.harm.rate[:] = traffic.sessions_per_s
    for base, rate in (
        (reading.harm.base, harm_rates(spec, traffic)[:, BASELINE]),
        (reading.evidence.base, np.array(traffic.base)),
    ):
        base.n = np.full((1, *rate.shape), _KNOWN_N)
        base.bad = rate[None] * _KNOWN_N
    live = np.array([[segment.pin is None for segment in spec.segments]])
    reading.now = reading.conclude(Standing(split=np.zeros(live.shape), live=live, rising=live, cleared=~live))
    return reading


def _need(reading: Reading, index: int, split: float, sessions_per_s: float) -> HealthNeed:
    spec, epoch_s = reading.spec, reading.harm.epoch_s
    needed = reading.sessions_needed(0, [index], [split])[0]
    most = int(needed.argmax())
    sessions, is_harm, place = float(needed[most]), most == 0, most - 1
    if is_harm:
        exclusion, row, base = reading.harm.exclusion, index, reading.harm.base.rate_at((0, index))
    else:
        exclusion, row = reading.kpi_exclusion, int(reading.kpi_row(index, place))
        base = reading.evidence.base.rate_at((0, index, int(reading.guarded[place])))
    few = 2 * ENOUGH_N / min(split, 1 - split)
    within_s = LONGEST_S if sessions <= few else min(epoch_s, LONGEST_S)
    seconds = sessions / sessions_per_s if sessions_per_s > 0 else float("inf")
    kept = max(sessions_per_s * min(epoch_s, LONGEST_S), min(few, sessions_per_s * LONGEST_S))
    excess = _excludable(exclusion, row, base, split, kept)
    return HealthNeed(
        segment=spec.segments[index].name,
        split=split,
        sessions=sessions,
        seconds=seconds + spec.oldest_judged_s if seconds <= within_s else None,
        within_s=within_s,
        what="harm" if is_harm else spec.kpis[int(reading.guarded[place])].name,
        tolerance=None if excess is None else excess if is_harm else excess / HEALTHY_TOLERANCES,
    )


def _excludable(exclusion: ExcessExclusion, row: int, base: float, split: float, sessions: float) -> float | None:
    """The smallest excess, of those that are tested, which so many sessions exclude; None: none that counts."""
    fits = GRID[exclusion.sessions_needed(0, row, GRID, base, split) <= sessions]
    return float(fits[0]) if len(fits) and fits[0] <= HEALTHY_EXCESS else None
