"""When a rollout is called bad at splits that nobody steers: by Serinus's own rules, and by two that need no baseline.

All of them see the same traffic. Times are in seconds after the exposure; Serinus's are those of its decisions, a
minute after a session began, the others' look at sessions as they begin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase
from analysis.guard import BREACH_SURE, BREACH_TICKS
from analysis.outlook import Outlook
from analysis.reading import Reading, Standing
from analysis.segment import SegmentState
from analysis.simulation.counts import CountSimulator
from analysis.spec import TOTAL_BP
from analysis.window import CANARY
from benchmarks.contest.peers.predict_linear import AHEAD_S, FOR_S, RANGE_S, RATE_S, predict_linear
from xds_server.scenario_file import ScenarioFile

Floats = npt.NDArray[np.float64]
LOOK_S, MISSES = 60.0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """Seconds from the exposure until each rule calls it; inf: never. `serinus` (n, S), the others (n,).

    `reactive`: the share of failed sessions of the last 5 minutes is above the limit at 3 looks in a row, one a minute.
    `predict_linear`: Prometheus's function on the same 5-minute share, half an hour back and ahead, above the limit for
    5 minutes.
    """

    serinus: Floats
    reactive: Floats
    predict_linear: Floats


class _Serinus:
    """Proof, or a founded forecast for some ticks, as a ramp asks for them."""

    def __init__(self, reading: Reading, n: int) -> None:
        self._reading = reading
        self._outlooks = [Outlook(reading, row) for row in range(n)]
        segments = len(reading.spec.segments)
        self._states = [[SegmentState(phase=Phase.BAKING) for _ in range(segments)] for _ in range(n)]
        self.called = np.full((n, segments), np.inf)

    def look(self, at_s: float) -> None:
        now, p = self._reading.now.proven.copy(), self._reading.trends.p_breach.max(axis=-1)
        for row, outlook in enumerate(self._outlooks):
            if outlook.log_e < outlook.log_e_needed:
                for state in self._states[row]:
                    state.breach_ticks = 0
                continue
            for s, state in enumerate(self._states[row]):
                if np.isinf(self.called[row, s]):
                    founded = False
                    if p[row, [s, -1]].max() >= BREACH_SURE:  # a forecast in full takes long, and would not be founded
                        outlook.look_ahead(s, state)
                        founded = outlook.is_founded(s, state)
                    state.breach_ticks = state.breach_ticks + 1 if founded else 0
                    now[row, s] |= state.breach_ticks >= BREACH_TICKS
        self.called = np.where(now & np.isinf(self.called), at_s, self.called)


class _Rates:
    """The canary's share of failed sessions, of all segments, as a metrics system keeps it: (n,) a minute."""

    def __init__(self, n: int, tick_s: float, limit: float) -> None:
        self._n, self._tick_s, self._limit = n, tick_s, limit
        self._sessions: list[Floats] = []
        self._failed: list[Floats] = []
        self._samples: list[tuple[float, Floats]] = []
        self._misses, self._since = np.zeros(n), np.full(n, np.inf)
        self.reactive, self.linear = np.full(n, np.inf), np.full(n, np.inf)

    def look(self, at_s: float, sessions: Floats, failed: Floats) -> None:
        back = round(RATE_S / self._tick_s)
        self._sessions, self._failed = [*self._sessions, sessions][-back:], [*self._failed, failed][-back:]
        if at_s % LOOK_S >= self._tick_s:
            return
        total = np.sum(self._sessions, axis=0)
        share = np.divide(np.sum(self._failed, axis=0), total, out=np.full(self._n, np.nan), where=total > 0)
        self._misses = np.where(share > self._limit, self._misses + 1, 0)
        self.reactive = np.where((self._misses >= MISSES) & np.isinf(self.reactive), at_s, self.reactive)
        self._samples = [(t, s) for t, s in [*self._samples, (at_s, share)] if t > at_s - RANGE_S]
        times = [t for t, _ in self._samples]
        ahead = np.array(
            [
                predict_linear(times, [float(s[i]) for _, s in self._samples], now_s=at_s, ahead_s=AHEAD_S)
                for i in range(self._n)
            ]
        )
        self._since = np.where(ahead > self._limit, np.minimum(self._since, at_s), np.inf)
        self.linear = np.where((at_s - self._since >= FOR_S) & np.isinf(self.linear), at_s, self.linear)


def call(
    file: ScenarioFile, *, load: float, n: int, seconds: float, splits: Callable[[float], float], seed: int
) -> Called:
    """Play n rollouts for `seconds` of exposure; `splits`: of a time after the exposure, in [0, 1]."""
    spec = file.spec
    world = CountSimulator(spec, file.scenario, load=load, n_runs=n, rng=np.random.default_rng(seed))
    shape, tick_s = (n, len(spec.segments)), spec.rollout.interval_s
    reading = Reading(spec, n)
    limit = next(kpi.limit for kpi in spec.kpis if kpi.limit is not None)
    serinus, rates = _Serinus(reading, n), _Rates(n, tick_s, limit)
    warm, live = round(spec.rollout.warmup_s / tick_s), np.ones(shape, np.bool_)
    for tick in range(warm + round(seconds / tick_s)):
        at_s = max(tick + 1 - warm, 0) * tick_s
        split = np.full(shape, 0.0 if tick < warm else splits(at_s))
        told = world.advance(np.round(split * TOTAL_BP))
        reading.learn(
            told.window, told.newcomers, Standing(split=split, live=live, rising=~live, cleared=~live),
            since_s=np.full(n, at_s), elapsed_s=np.full(n, tick_s), blind=np.zeros(n, np.bool_),
        )  # fmt: skip
        if tick < warm:
            continue
        serinus.look(at_s)
        rates.look(at_s, told.sessions[:, CANARY].astype(float), told.with_errors[:, CANARY].astype(float))
    return Called(serinus=serinus.called, reactive=rates.reactive, predict_linear=rates.linear)
