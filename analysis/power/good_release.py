"""How good releases fare: the rollout's own code, played many times on simulated people of the given traffic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.backtest.rates import at_least
from analysis.decision import Phase
from analysis.engine import policy_named
from analysis.power.detection import DAY_S, Traffic, participating
from analysis.power.world import good_scenario
from analysis.ramps import Ramps
from analysis.simulation.counts import CountSimulator
from analysis.spec import ServiceSpec

Floats = npt.NDArray[np.float64]

RUNS = 60
LOST_SHARE = 0.01  # of good releases, that a plan may lose
SURE = 0.95  # confidence at which it loses more
MOST_STEPS = 120_000
"""Rollouts times ticks times (segments + 2) that are played of one plan: a step takes some 50 us."""
LARGER = 1.5  # times the budget, from one try to the next
TRIES, MOST_TRIED = 6, 2  # budgets, and plays of full length that they may take together
_EVERY = 10  # ticks between two looks at how far it is


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodRelease:
    """How one segment's good releases ended. Medians in seconds since the rollout's start.

    `healthy_s`, `promoted_s`: None where fewer than half came so far within `played_s`. The numbers of those that were
    `promoted`, `withdrawn` and `rolled_back` come to `runs` with those that are `undecided`.
    """

    segment: str
    healthy_s: float | None
    promoted_s: float | None
    promoted: int
    withdrawn: int
    rolled_back: int
    undecided: int
    runs: int
    played_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodReleases:
    """Good releases of one plan. `lost`: in which some segment went back, or was undecided after a whole day."""

    runs: int
    lost: int
    played_s: float
    segments: tuple[GoodRelease, ...]

    @property
    def loses_too_many(self) -> bool:
        """Whether more than LOST_SHARE are surely lost."""
        return at_least(self.lost, self.runs, tail=1 - SURE) > LOST_SHARE


def good_releases(
    spec: ServiceSpec, traffic: Traffic, *, seed: int, progress: Callable[[float], object] = lambda _: None
) -> GoodReleases:
    """Play RUNS releases that are as good as the baseline, until all are decided or for `most_ticks`.

    `progress`: is told the share that is done, from 0 to 1.
    """
    play = _Play(spec, traffic, seed)
    for done in play.ticks():
        progress(done)
    return play.outcome()


def budget_that_does(
    spec: ServiceSpec,
    traffic: Traffic,
    *,
    least: float,
    seed: int,
    progress: Callable[[float], object] = lambda _: None,
) -> float | None:
    """A harm budget of at least `least` of which good releases are not lost; None: none that was tried.

    The same people come in every try, and as in `good_releases` of the same seed: what does here does there.
    """
    most, played = most_ticks(spec), 0
    for attempt in range(TRIES if math.isfinite(least) else 0):
        budget = rounded_up(least * LARGER**attempt)
        harm = replace(spec.rollout.harm, budget=budget)
        play = _Play(replace(spec, rollout=replace(spec.rollout, harm=harm)), traffic, seed)
        for done in play.ticks():
            progress(min((played / most + done) / MOST_TRIED, 1.0))
            if at_least(play.lost_so_far, RUNS, tail=1 - SURE) > LOST_SHARE:
                break
        if not play.outcome().loses_too_many:
            return budget
        played += play.played
        if played > (MOST_TRIED - 1) * most:
            break
    return None


def rounded_up(sessions: float) -> float:
    """To two digits or so."""
    step = 10 ** max(len(str(int(sessions))) - 2, 0)
    return float(math.ceil(sessions / step) * step)


def most_ticks(spec: ServiceSpec) -> int:
    """How long releases are played at most: a day, unless that would take long."""
    a_day = math.ceil(DAY_S / spec.rollout.interval_s)
    return max(1, min(a_day, MOST_STEPS // (RUNS * (len(spec.segments) + 2))))


class _Play:
    """RUNS releases in step. Limits are left out: forecasts would take most of the time, and none is met in truth."""

    def __init__(self, spec: ServiceSpec, traffic: Traffic, seed: int) -> None:
        spec = replace(spec, kpis=tuple(replace(kpi, limit=None) for kpi in spec.kpis))
        self._spec, self._rows = spec, participating(spec)
        arms = {spec.segments[i].name: (spec.versions[0], "canary") for i in self._rows}
        people, chance = np.random.default_rng(seed).spawn(2)
        self._ramps = Ramps(spec, [policy_named(spec.rollout.policy)] * RUNS, arms)
        self._chances = chance.spawn(RUNS)
        self._people = CountSimulator(
            spec, good_scenario(spec, traffic), load=sum(traffic.sessions_per_s), n_runs=RUNS, rng=people
        )
        self._most, self.played = most_ticks(spec), 0
        self._healthy_s, self._promoted_s = np.full((2, RUNS, len(spec.segments)), np.inf)

    def ticks(self) -> Iterator[float]:
        """Play, and tell now and then the share that is done."""
        for tick in range(self._most):
            split_bp = self._ramps.split_bp
            told = self._people.advance(split_bp)
            self._ramps.step(told.window, told.newcomers, now_s=self._people.now_s, rngs=self._chances)
            self._note(self._healthy_s, self._ramps.reading.now.healthy & (split_bp > 0))
            self.played = tick + 1
            if tick % _EVERY == 0:
                self._note(self._promoted_s, self._phases() == Phase.PROMOTED)
                yield self.played / self._most
            if self._ramps.is_finished.all():
                break
        self._note(self._promoted_s, self._phases() == Phase.PROMOTED)

    def _note(self, since_s: Floats, there: npt.NDArray[np.bool_]) -> None:
        since_s[there] = np.minimum(since_s[there], self._people.now_s)

    def _phases(self) -> npt.NDArray[np.str_]:
        """(RUNS, S) names."""
        return np.array([[str(state.phase) for state in ramp.segments.values()] for ramp in self._ramps.ramps])

    @property
    def lost_so_far(self) -> int:
        return int(np.isin(self._phases(), (Phase.WITHDRAWN, Phase.ROLLED_BACK)).any(axis=1).sum())

    def outcome(self) -> GoodReleases:
        """How they have ended by now."""
        phases, played_s = self._phases(), self._people.now_s
        gone = np.isin(phases, (Phase.WITHDRAWN, Phase.ROLLED_BACK)).any(axis=1)
        lost = gone | ~self._ramps.is_finished if played_s >= DAY_S else gone
        return GoodReleases(
            runs=RUNS,
            lost=int(lost.sum()),
            played_s=played_s,
            segments=tuple(self._of_segment(i, phases[:, i], played_s) for i in self._rows),
        )

    def _of_segment(self, index: int, phases: npt.NDArray[np.str_], played_s: float) -> GoodRelease:
        ended = {phase: int((phases == phase).sum()) for phase in (Phase.PROMOTED, Phase.WITHDRAWN, Phase.ROLLED_BACK)}
        return GoodRelease(
            segment=self._spec.segments[index].name,
            healthy_s=_median(self._healthy_s[:, index]),
            promoted_s=_median(self._promoted_s[:, index]),
            promoted=ended[Phase.PROMOTED],
            withdrawn=ended[Phase.WITHDRAWN],
            rolled_back=ended[Phase.ROLLED_BACK],
            undecided=RUNS - sum(ended.values()),
            runs=RUNS,
            played_s=played_s,
        )


def _median(seconds: Floats) -> float | None:
    middle = float(np.median(seconds))
    return middle if np.isfinite(middle) else None
