"""How long a good release takes: the rollout's own code, played on simulated people of the given traffic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.decision import Health, Phase
from analysis.engine import policy_named
from analysis.power.detection import DAY_S, Traffic, participating
from analysis.power.world import good_world
from analysis.ramp import Ramp
from analysis.simulation.counts import CountSimulator
from analysis.spec import ServiceSpec

RUNS = 3
MOST_TICKS = 1_080  # of one release: three hours of 10 s ticks
MOST_TICKS_IN_ALL = 1_800  # a tick costs milliseconds, and a plan that hangs is played once


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodRelease:
    """One segment's good releases. Medians in seconds since the rollout's start.

    `healthy_s`, `promoted_s`: None where fewer than half came so far within `played_s`. `runs`: releases played.
    """

    segment: str
    healthy_s: float | None
    promoted_s: float | None
    promoted: int
    runs: int
    played_s: float


@dataclass(slots=True, kw_only=True)
class _Run:
    healthy_s: dict[int, float]
    promoted_s: dict[int, float]
    ticks: int


def good_releases(
    spec: ServiceSpec, traffic: Traffic, *, seed: int, progress: Callable[[float], object] = lambda _: None
) -> tuple[GoodRelease, ...]:
    """Play up to RUNS releases that are as good as the baseline. `progress`: is told the share that is done."""
    rows, runs, ticks = participating(spec), list[_Run](), 0
    most = max(1, min(MOST_TICKS, int(DAY_S / spec.rollout.interval_s)))
    while len(runs) < RUNS and (not runs or ticks + ticks / len(runs) <= MOST_TICKS_IN_ALL):
        progress(len(runs) / RUNS)
        run = _play(spec, traffic, (seed, len(runs)), most, progress)
        runs.append(run)
        ticks += run.ticks
    return tuple(
        GoodRelease(
            segment=spec.segments[i].name,
            healthy_s=_median([run.healthy_s.get(i, np.inf) for run in runs]),
            promoted_s=_median([run.promoted_s.get(i, np.inf) for run in runs]),
            promoted=sum(i in run.promoted_s for run in runs),
            runs=len(runs),
            played_s=most * spec.rollout.interval_s,
        )
        for i in rows
    )


def _play(
    spec: ServiceSpec, traffic: Traffic, seed: tuple[int, int], most: int, progress: Callable[[float], object]
) -> _Run:
    """One release, of at most `most` ticks."""
    names = [segment.name for segment in spec.segments]
    arms = {names[i]: (spec.versions[0], "canary") for i in participating(spec)}
    ramp = Ramp(spec, policy_named(spec.rollout.policy), arms)
    people, chance = np.random.default_rng(seed).spawn(2)
    simulator = CountSimulator(spec, good_world(traffic), rng=people)
    run = _Run(healthy_s={}, promoted_s={}, ticks=0)
    while not all(ramp.segments[name].phase.is_final for name in arms) and run.ticks < most:
        window = simulator.advance([ramp.segments[name].split_bp for name in names])
        ramp.step(window, now_s=simulator.now_s, rng=chance)
        run.ticks += 1
        for i in participating(spec):
            ramp.confirm(names[i])
            _note(ramp, i, simulator.now_s, run)
        progress((seed[1] + run.ticks / most) / RUNS)
    return run


def _note(ramp: Ramp, index: int, now_s: float, run: _Run) -> None:
    state = ramp.segments[ramp.spec.segments[index].name]
    if index not in run.healthy_s and state.split_bp > 0 and ramp.reading.health(index) is Health.HEALTHY:
        run.healthy_s[index] = now_s
    if index not in run.promoted_s and state.phase is Phase.PROMOTED:
        run.promoted_s[index] = now_s


def _median(seconds: list[float]) -> float | None:
    middle = float(np.median(seconds))
    return middle if np.isfinite(middle) else None
