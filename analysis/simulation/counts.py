"""People at the level of counts: each tick's window drawn at once, for training and for many runs.

What the person-level simulator and the observer do to single sessions is done here to cohorts, those that began in the
same tick: who of them is judged in which arm follows from the splits in force from their first request to the
judgement. People come once, and outcomes are independent of each other given the segment and the version. The same seed
and splits give the same windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.observer import LATENESS_S, RECENT_NS
from analysis.session import NS
from analysis.spec import TOTAL_BP, KpiKind, Outcome, ServiceSpec
from analysis.window import BASELINE, CANARY, Counts, Window, empty

Floats = npt.NDArray[np.float64]

REQUESTS_PER_SESSION = 5.0
VISIT_S = 3.0  # how long people stay in sight, beside the hard tier's look back

_OUTCOMES = {
    KpiKind.ERROR_RATE: Outcome.ERROR, KpiKind.LATENCY: Outcome.SLOW, KpiKind.ABANDONMENT: Outcome.ABANDONED
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentWorld:
    """One segment's people and what the canary does to them.

    `base`: share of sessions that show each KPI's bad side on the baseline, in the order of ServiceSpec.kpis; `excess`:
    what the canary adds to it from `onset_s` after the rollout's start on.
    """

    sessions_per_s: float
    base: tuple[float, ...]
    excess: tuple[float, ...]
    onset_s: float = 0.0

    @property
    def is_good(self) -> bool:
        return not any(self.excess)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cohort:
    """Sessions that began in one tick: `split` then in force, counts by segment (, KPI) and arm."""

    split: Floats
    n: Counts  # (S, 2)
    bad: Counts  # (S, K, 2)
    harm_bad: Counts  # (S, 2)


class CountSimulator:
    """Emits one window a tick; the split that `advance` is given was in force during all of that tick."""

    def __init__(self, spec: ServiceSpec, world: Sequence[SegmentWorld], *, rng: np.random.Generator) -> None:
        self._spec = spec
        self._rng = rng
        self._tick_s = spec.rollout.interval_s
        self._rate = np.array([segment.sessions_per_s for segment in world])
        self._base = np.array([segment.base for segment in world])
        self._excess = np.array([segment.excess for segment in world])
        self._onset_s = np.array([segment.onset_s for segment in world])
        self._errors = [k for k, kpi in enumerate(spec.kpis) if kpi.kind is KpiKind.ERROR_RATE]
        self._harms = [k for k, kpi in enumerate(spec.kpis) if _OUTCOMES.get(kpi.kind) in spec.rollout.harm.bad]
        self._first_judged = min(range(len(spec.kpis)), key=lambda k: spec.kpis[k].judge_after_s)
        self._ages_s = [*(kpi.judge_after_s for kpi in spec.kpis), spec.oldest_judged_s]  # the last one: harm
        self._cohorts: list[_Cohort] = []
        self._splits: list[Floats] = []
        self._exposed_since = np.full(len(world), np.iinfo(np.int64).max)
        self.now_s = 0.0

    def rates(self, at_s: float) -> Floats:
        """(S, K, 2) true shares of bad sessions among those that begin at that time."""
        active = (at_s >= self._onset_s)[:, None]
        return np.stack([self._base, np.clip(self._base + self._excess * active, 0.0, 1.0)], axis=-1)

    def harm_rates(self, at_s: float) -> Floats:
        """(S, 2) true shares of sessions that count as harm."""
        harmless: Floats = np.prod(1 - self.rates(at_s)[:, self._harms], axis=1)
        return 1 - harmless

    def advance(self, split_bp: Sequence[int]) -> Window:
        """Play one tick and judge what has fallen due at its end."""
        split = np.asarray(split_bp, float) / TOTAL_BP
        tick = len(self._cohorts)
        self._exposed_since = np.where((split > 0) & (self._exposed_since > tick), tick, self._exposed_since)
        self._splits.append(split)
        self._cohorts.append(self._begin(split, self.now_s + self._tick_s / 2))
        self.now_s += self._tick_s
        window = empty(len(self._rate), len(self._spec.kpis))
        for kpi, age_s in enumerate(self._ages_s):
            self._judge(window, kpi, age_s)
        arrived = self._cohorts[-1].n
        people, failing = self._recent(split)
        return replace(
            window, exposed=arrived[:, CANARY], arrived=arrived.sum(axis=1), people=people, failing=failing,
            entries=round(REQUESTS_PER_SESSION * int(arrived.sum())),
        )  # fmt: skip

    def _begin(self, split: Floats, at_s: float) -> _Cohort:
        arrivals = self._rng.poisson(self._rate * self._tick_s)
        on_canary = self._rng.binomial(arrivals, split)
        n = np.stack([arrivals - on_canary, on_canary], axis=-1)
        bad = self._rng.binomial(n[:, None, :], self.rates(at_s))
        harm = np.zeros_like(n)
        for k in self._harms:  # sessions that are bad in any way, the ways being independent of each other
            both = self._rng.hypergeometric(harm, n - harm, bad[:, k])
            harm = harm + bad[:, k] - both
        return _Cohort(split=split, n=n, bad=bad, harm_bad=harm)

    def _judge(self, window: Window, kpi: int, age_s: float) -> None:
        """Add the cohort that reaches this age now; `kpi` one beyond the last stands for harm."""
        tick = len(self._cohorts) - 1 - math.ceil((age_s + LATENESS_S) / self._tick_s)
        if tick < 0:
            return
        cohort = self._cohorts[tick]
        is_harm = kpi == len(self._spec.kpis)
        if kpi == self._first_judged:
            self._count_newcomers(window, cohort, tick)
        bad = cohort.harm_bad if is_harm else cohort.bad[:, kpi]
        before = tick < self._exposed_since
        n_before, bad_before = (np.where(before, counts[:, BASELINE], 0) for counts in (cohort.n, bad))
        stayed = np.where(before[:, None], 0.0, self._stayed(cohort, tick, age_s))
        bad_kept, good_kept = (self._rng.binomial(counts, stayed) for counts in (bad, cohort.n - bad))
        if is_harm:
            window.unexposed_harm_n[:], window.unexposed_harm_bad[:] = n_before, bad_before
            window.harm_n[:], window.harm_bad[:] = bad_kept + good_kept, bad_kept
        else:
            window.unexposed_n[:, kpi], window.unexposed_bad[:, kpi] = n_before, bad_before
            window.n[:, kpi], window.bad[:, kpi] = bad_kept + good_kept, bad_kept

    def _count_newcomers(self, window: Window, cohort: _Cohort, tick: int) -> None:
        """Every session is somebody's first."""
        for segment in np.flatnonzero(tick >= self._exposed_since).tolist():
            asked_bp = round(float(cohort.split[segment]) * TOTAL_BP)
            for arm in (BASELINE, CANARY):
                window.newcomers[segment, asked_bp, arm] += int(cohort.n[segment, arm])

    def _stayed(self, cohort: _Cohort, tick: int, age_s: float) -> Floats:
        """(S, 2) chance that a session's bucket was on the same side of the split all the while until it was judged."""
        meanwhile = np.array(self._splits[tick : tick + 1 + math.ceil(age_s / self._tick_s)])
        lowest, highest = meanwhile.min(axis=0), meanwhile.max(axis=0)
        baseline = (1 - highest) / np.maximum(1 - cohort.split, 1e-9)
        canary = lowest / np.maximum(cohort.split, 1e-9)
        stayed: Floats = np.clip(np.stack([baseline, canary], axis=-1), 0.0, 1.0)
        return stayed

    def _recent(self, split: Floats) -> tuple[Counts, Counts]:
        """People in sight by the version that serves them now, and those whose newest request failed: (S, 2) each."""
        in_sight = self._rate * (RECENT_NS / NS + VISIT_S)
        people = self._rng.poisson(in_sight[:, None] * np.stack([1 - split, split], axis=-1))
        if not self._errors:
            return people, np.zeros_like(people)
        by_request = 1 - (1 - self.rates(self.now_s)[:, self._errors[0]]) ** (1 / REQUESTS_PER_SESSION)
        return people, self._rng.binomial(people, by_request)
