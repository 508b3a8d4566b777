"""People at the level of counts: the windows of B rollouts of a scenario drawn at once, a tick at a time.

What the person-level simulator and the observer do to single sessions is done here to cohorts, those that began in the
same tick: who of them is judged in which arm follows from the splits in force from their first request to the
judgement. Outcomes are independent of each other given the segment and the version. The same seed and splits give the
same windows.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.observer import LATENESS_S, RECENT_NS
from analysis.session import NS
from analysis.simulation.rates import Now, Rates
from analysis.simulation.scenario import RETRY_S, Scenario
from analysis.spec import TOTAL_BP, KpiKind, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one tick of B rollouts adds; two arms (BASELINE, CANARY) in the last axis where there are any.

    `window`: arrays with a leading axis of B; its `newcomers` is empty, since they are in `newcomers` as the sample
    ratio takes them: rows of (rollout, segment, split asked for, arm, people).
    `sessions`, `with_errors`, `abandoned` (B, 2): of all segments, those that began in this tick; `new`,
    `new_with_errors` (B, 2): those of people who are new since the exposure. `latency_times`, `tail_times` (B, S, 2):
    by how much requests last longer than on a healthy version, at the median and, on top of it, in the tail.
    `harm` (B, S): sessions that the canary is expected to have spoilt of those that began in this tick.
    """

    window: Window
    newcomers: Counts
    sessions: Counts
    new: Counts
    new_with_errors: Counts
    with_errors: Counts
    abandoned: Counts
    latency_times: Floats
    tail_times: Floats
    harm: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cohort:
    """Sessions that began in one tick: `split` then in force, counts by rollout, segment (, KPI) and arm.

    `first`: those that are their person's first since the exposure; `bad` is of these, `harm_bad` of all.
    """

    split: Floats
    n: Counts  # (B, S, 2)
    first: Counts  # (B, S, 2)
    bad: Counts  # (B, S, K, 2)
    later_bad: Counts  # (B, S, K, 2)
    harm_bad: Counts  # (B, S, 2)


class CountSimulator:
    """Emits one tick of B rollouts; the splits that `advance` is given were in force during all of it."""

    def __init__(
        self, spec: ServiceSpec, scenario: Scenario, *, load: float, n_runs: int, rng: np.random.Generator
    ) -> None:
        self._spec, self._scenario, self._rng = spec, scenario, rng
        self._tick_s = spec.rollout.interval_s
        self._shape = (n_runs, len(scenario.groups))
        self._rates = Rates(spec, scenario)
        self._per_s = load * np.array([group.share for group in scenario.groups])
        habits = [group.habits for group in scenario.groups]
        # share of a tick's sessions that a stall hits
        self._hit = np.minimum(self._rates.in_sight_s(scenario.traffic.burst_s) / self._tick_s, 1.0)
        self._sight_s = self._rates.in_sight_s(RECENT_NS / NS)
        failing_s = np.array([each.requests * each.errors_in_a_row for each in habits]) * RETRY_S
        self._stays = np.minimum(failing_s / self._sight_s, 1.0)[:, None]  # that a failed request is the newest one
        kpis = spec.kpis
        self._slow = [k for k, kpi in enumerate(kpis) if kpi.kind is KpiKind.LATENCY]
        self._harms = list(spec.harms)
        self._errors = [k for k, kpi in enumerate(kpis) if kpi.kind is KpiKind.ERROR_RATE]
        self._abandonment = [k for k, kpi in enumerate(kpis) if kpi.kind is KpiKind.ABANDONMENT]
        self._first_judged = min(range(len(kpis)), key=lambda k: kpis[k].judge_after_s)
        self._ages_s = [*(kpi.judge_after_s for kpi in kpis), spec.harm_judged_s]  # the last one: harm
        longest = 2 + math.ceil((max(self._ages_s) + LATENESS_S) / self._tick_s)
        self._cohorts: deque[_Cohort] = deque(maxlen=longest)
        self._exposed_since = np.full(self._shape, np.inf)  # tick of a segment's first exposure
        self._settle_ticks = spec.rollout.settle_s / self._tick_s
        self._tick = 0
        self.now_s = 0.0
        self.excess = np.zeros((*self._shape, len(kpis)))  # the truth: bad shares of the canary's first sessions now

    def advance(self, split_bp: npt.ArrayLike) -> Tick:
        """Play one tick at splits (B, S) in basis points, and judge what has fallen due at its end."""
        split = np.asarray(split_bp, float).reshape(self._shape) / TOTAL_BP
        self._exposed_since = np.where((split > 0) & np.isinf(self._exposed_since), self._tick, self._exposed_since)
        at_s = self.now_s + self._tick_s / 2
        exposed_s = (self._tick - self._exposed_since + 0.5) * self._tick_s
        rates = self._rates.at(at_s, exposed_s=exposed_s, split=split)
        fair = self._rates.fair(rates.first, rates)
        self.excess = fair[..., CANARY] - fair[..., BASELINE]
        cohort = self._begin(split, rates, at_s)
        self._cohorts.append(cohort)
        self.now_s += self._tick_s
        self._tick += 1
        counted = self._judged()
        people, failing = self._recent(split, rates.single)
        window = Window(
            **counted, exposed=cohort.n[..., CANARY], arrived=cohort.n.sum(axis=-1), people=people, failing=failing,
            bots=np.zeros(self._shape, np.int64), newcomers=Counter(), traffic={},
            entries=int(cohort.n.sum()) * 5,
        )  # fmt: skip
        return self._told(window, cohort, rates)

    def _told(self, window: Window, cohort: _Cohort, rates: Now) -> Tick:
        """The window, and what a metrics system would have seen of the cohort."""
        all_bad = cohort.bad + cohort.later_bad
        nobody = np.zeros((self._shape[0], 2), np.int64)
        errors = all_bad[:, :, self._errors[0]].sum(axis=1) if self._errors else nobody
        left = all_bad[:, :, self._abandonment[0]].sum(axis=1) if self._abandonment else nobody
        first_errors = cohort.bad[:, :, self._errors[0]].sum(axis=1) if self._errors else nobody
        again = cohort.n[..., CANARY] - cohort.first[..., CANARY]
        first_harm, later_harm = (self._rates.excess_harm(shares, rates) for shares in (rates.first, rates.later))
        harm = cohort.first[..., CANARY] * first_harm + again * later_harm
        return Tick(
            window=window,
            newcomers=self._newcomers(),
            sessions=cohort.n.sum(axis=1),
            new=cohort.first.sum(axis=1),
            new_with_errors=first_errors,
            with_errors=errors,
            abandoned=left,
            latency_times=rates.latency_times,
            tail_times=rates.tail_times,
            harm=harm,
        )

    def _begin(self, split: Floats, rates: Now, at_s: float) -> _Cohort:
        rng = self._rng
        rate = self._per_s * self._scenario.traffic.rate_times(at_s) * self._tick_s
        arrivals = rng.poisson(np.broadcast_to(rate, self._shape))
        on_canary = rng.binomial(arrivals, split * rates.routed)
        n = np.stack([arrivals - on_canary, on_canary], axis=-1)
        n[..., CANARY] = rng.binomial(n[..., CANARY], rates.logged)
        first = n - rng.binomial(n, np.repeat(rates.seen[..., None], 2, axis=-1))
        stalled = self._stalled()
        bad = self._with_stalls(rng.binomial(first[:, :, None, :], rates.first), first, stalled)
        later = n - first
        later_bad = self._with_stalls(rng.binomial(later[:, :, None, :], rates.later), later, stalled)
        return _Cohort(
            split=split, n=n, first=first, bad=bad, later_bad=later_bad,
            harm_bad=self._in_any_way(first, bad, rates.raised) + self._in_any_way(later, later_bad, rates.raised),
        )  # fmt: skip

    def _stalled(self) -> Floats:
        """(B, S) shares of the sessions that begin now that a stall will hit, in either version alike."""
        per_tick = self._scenario.traffic.bursts_per_h * self._tick_s / 3_600
        stalls = self._rng.poisson(per_tick, self._shape[0]).astype(float)
        stalled: Floats = 1 - (1 - self._hit) ** stalls[:, None]
        return stalled

    def _with_stalls(self, bad: Counts, n: Counts, stalled: Floats) -> Counts:
        """Sessions that meet an error anyway, and those that a stall gives one."""
        for k in self._errors if stalled.any() else []:
            bad[:, :, k] += self._rng.binomial(n - bad[:, :, k], np.repeat(stalled[..., None], 2, axis=-1))
        return bad

    def _in_any_way(self, n: Counts, bad: Counts, raised: Floats) -> Counts:
        """Sessions (B, S, 2) that are bad in any way that counts as harm, the ways being independent of each other."""
        harm: Counts = np.zeros_like(n)
        for k in self._harms:
            mine = bad[:, :, k].copy()
            if k in self._slow:
                mine[..., BASELINE] = self._rng.binomial(mine[..., BASELINE], np.minimum(raised, 1.0))
            both = self._rng.hypergeometric(harm, n - harm, mine)
            harm += mine - both
        return harm

    # -- judgement -----------------------------------------------------------------------------------------------------

    def _judged(self) -> Mapping[str, Counts]:
        """The fields of a window that count what has reached its age now."""
        shape, n_kpis = self._shape, len(self._spec.kpis)
        fields = {
            "n": np.zeros((*shape, n_kpis, 2), np.int64), "bad": np.zeros((*shape, n_kpis, 2), np.int64),
            "harm_n": np.zeros((*shape, 2), np.int64), "harm_bad": np.zeros((*shape, 2), np.int64),
            "unexposed_n": np.zeros((*shape, n_kpis), np.int64),
            "unexposed_bad": np.zeros((*shape, n_kpis), np.int64),
            "unexposed_harm_n": np.zeros(shape, np.int64), "unexposed_harm_bad": np.zeros(shape, np.int64),
        }  # fmt: skip
        for kpi, age_s in enumerate(self._ages_s):
            self._judge(fields, kpi, age_s)
        return fields

    def _due(self, age_s: float) -> tuple[_Cohort, int, int] | None:
        """The cohort that reaches an age now, its tick, and how many ticks ago it was."""
        ago = math.ceil((age_s + LATENESS_S) / self._tick_s)
        tick = self._tick - 1 - ago
        return None if tick < 0 else (self._cohorts[-1 - ago], tick, ago)

    def _judge(self, fields: dict[str, Counts], kpi: int, age_s: float) -> None:
        """Add the cohort that reaches this age now; `kpi` one beyond the last stands for harm."""
        if (due := self._due(age_s)) is None:
            return
        cohort, tick, ago = due
        is_harm = kpi == len(self._spec.kpis)
        n, bad = (cohort.n, cohort.harm_bad) if is_harm else (cohort.first, cohort.bad[:, :, kpi])
        before = tick < self._exposed_since
        n_before, bad_before = (np.where(before, counts[..., BASELINE], 0) for counts in (n, bad))
        stayed = np.where(before[..., None], 0.0, self._stayed(cohort, ago, age_s))
        if is_harm:
            stayed[..., CANARY] = ~before  # whoever began on the canary, wherever they were taken then
        elif kpi in self._slow:
            stayed = stayed * (tick - self._exposed_since >= self._settle_ticks)[..., None]
        bad_kept, good_kept = (self._rng.binomial(counts, stayed) for counts in (bad, n - bad))
        if is_harm:
            fields["unexposed_harm_n"], fields["unexposed_harm_bad"] = n_before, bad_before
            fields["harm_n"], fields["harm_bad"] = bad_kept + good_kept, bad_kept
        else:
            fields["unexposed_n"][..., kpi], fields["unexposed_bad"][..., kpi] = n_before, bad_before
            fields["n"][:, :, kpi], fields["bad"][:, :, kpi] = bad_kept + good_kept, bad_kept

    def _newcomers(self) -> Counts:
        """People who are counted now, by the split that they came at and the arm that they met."""
        due = self._due(self._spec.kpis[self._first_judged].judge_after_s)
        if due is None:
            return np.zeros((0, 5), np.int64)
        cohort, tick, _ = due
        rollout, segment = np.nonzero(tick >= self._exposed_since)
        asked_bp = np.round(cohort.split * TOTAL_BP).astype(np.int64)
        rows = [
            np.stack([rollout, segment, asked_bp[rollout, segment], np.full_like(rollout, arm),
                      cohort.first[rollout, segment, arm]], axis=1)
            for arm in (BASELINE, CANARY)
        ]  # fmt: skip
        return np.concatenate(rows)

    def _stayed(self, cohort: _Cohort, ago: int, age_s: float) -> Floats:
        """(B, S, 2) chance that a bucket was on the same side of the split all the while until it was judged."""
        last = math.ceil(age_s / self._tick_s)
        meanwhile = [self._cohorts[i].split for i in range(-1 - ago, min(-1 - ago + last + 1, 0))]
        lowest, highest = np.minimum.reduce(meanwhile), np.maximum.reduce(meanwhile)
        baseline = (1 - highest) / np.maximum(1 - cohort.split, 1e-9)
        canary = lowest / np.maximum(cohort.split, 1e-9)
        stayed: Floats = np.clip(np.stack([baseline, canary], axis=-1), 0.0, 1.0)
        return stayed

    def _recent(self, split: Floats, failing: Floats) -> tuple[Counts, Counts]:
        """People in sight by the version that serves them now, and those whose newest request failed: (B, S, 2).

        What fails is tried again soon; only where everything fails it stays so.
        """
        in_sight = self._per_s * self._scenario.traffic.rate_times(self.now_s) * self._sight_s
        people = self._rng.poisson(in_sight[:, None] * np.stack([1 - split, split], axis=-1))
        return people, self._rng.binomial(people, failing * (self._stays + (1 - self._stays) * failing))
