"""One rollout of one service: windows in, decisions out. Pure: the same windows and generator give the same decisions."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from analysis.alarm import Alarm, raise_alarms
from analysis.decision import (
    Action,
    Advance,
    Health,
    Hold,
    Insufficient,
    Order,
    Phase,
    Promote,
    Reason,
    Reduce,
    Rollback,
    SegmentDecision,
    Tier,
    Verdict,
    Withdraw,
    verdict_name,
)
from analysis.errors import SpecError, StateError
from analysis.evidence.exclusion import GRID, ExcessExclusion
from analysis.evidence.regression import Against, RegressionEvidence
from analysis.forecast.trend import Forecast, forecast
from analysis.guard import ALARMING, BREACH_LIKELY, BREACH_SURE, UNKNOWN_CEILING_BP, GuardView, review
from analysis.harm import HarmLedger, HarmView, to_bp
from analysis.policy import Policy, PolicyView
from analysis.reward import Reward, reward
from analysis.spec import TOTAL_BP, KpiKind, Mode, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]

ROLLBACK_LATENCY_S = 3.0  # from a decision until the last request on the canary, ALS flush and one tick included
HEALTHY_EXCESS = 0.25
"""Healthy means two things. The excess of bad sessions that is not excluded is one that the budget could bear at full
exposure until it is noticed, and never above this. And on each KPI an excess is excluded of so many tolerances or, where that would take too
many sessions at this base rate, of so many standard deviations of one session (.6: some 150 sessions at an even split)."""
HEALTHY_TOLERANCES = 4.0
HEALTHY_DEVIATIONS = 0.6
EVIDENCE_FLOOR = 20.0  # e-value against zero excess that a predicted rollback needs (after the union over streams)
LEANING = 1.0  # log e-value against zero excess below which a forecast is only noise
CALM_FORECAST_TICKS = 5
WORLD_TICKS, WORLD_LIMIT_SHARE = 10, 0.5  # ticks of the baseline looked at, and how near to a limit is near
COMPARED = math.log(20)  # log e-value against zero excess at which a comparison does speak against the canary
FORECAST_TICKS = 120  # ticks of history behind a forecast
SURPRISE = 1e-4  # chance of a look at the canary alone that takes the split back to where a control can be compared
RECENT_TICKS = 30  # ticks behind the excess that the reward sees
STALE_INTERVALS, STALE_MIN_S = 3.0, 5.0


@dataclass(slots=True, kw_only=True)
class SegmentState:
    """Where one segment stands. Times in seconds since the rollout began."""

    phase: Phase
    split_bp: int = 0
    largest_bp: int = 0
    changed_s: float = 0.0
    since_s: float | None = None  # first exposure
    bake_since_s: float | None = None
    confirmed: bool = True
    paused: bool = False
    frozen: bool = False
    reduced: bool = False
    cleared: bool = False  # was known to be healthy while exposed, and has not been reduced since
    breach_ticks: int = 0
    verdict: str = ""
    reason: str = ""
    cap_bp: int = 0
    forecast: Forecast | None = None
    reward: Reward | None = None
    history: deque[tuple[Floats, Floats]] = field(default_factory=lambda: deque(maxlen=FORECAST_TICKS))


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentView:
    """What people are shown of one segment; numbers as in `SegmentDecision.numbers`."""

    segment: str
    state: SegmentState
    health: Health
    leading: Reason | None
    log_e: float
    log_threshold: float
    needed: Insufficient | None
    canary_n: int
    baseline_n: int
    exposed_n: int
    excess: float
    worst_excess: float
    anomaly: float
    kpis: tuple[KpiView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KpiView:
    """Shares of sessions in [0, 1] (NaN: none judged), and the log e-value against the tolerance."""

    kpi: str
    canary: float
    baseline: float
    tolerance: float
    log_e: float
    canary_n: int
    baseline_n: int


class Ramp:
    """The state of one running rollout. `step` once a tick; splits change only through `step` and `command`."""

    def __init__(self, spec: ServiceSpec, policy: Policy, arms: Mapping[str, tuple[str, str]]) -> None:
        self.spec = spec
        self._policy = policy
        self.arms = dict(arms)
        self.evidence = RegressionEvidence(spec)
        self.harm = HarmLedger(spec)
        self.segments = {
            segment.name: SegmentState(phase=self._first_phase(segment.name, segment.after))
            for segment in spec.segments
        }
        self._guarded = [k for k, kpi in enumerate(spec.kpis) if kpi.kind is not KpiKind.ANOMALY]
        self.kpi_exclusion = ExcessExclusion(
            len(spec.segments) * len(self._guarded),
            risk=spec.rollout.budget_risk * len(spec.segments),  # a gate: its risk is each segment's own
            epoch_s=self.harm.epoch_s,
        )
        self.totals_n = np.zeros((len(spec.segments), len(spec.kpis), 2))
        self.totals_bad = np.zeros_like(self.totals_n)
        self._now_s = 0.0
        self._ticks = 0
        self._seen_s = 0.0
        self._first_exposure_s: float | None = None

    def _first_phase(self, name: str, after: tuple[str, ...]) -> Phase:
        if name not in self.arms:
            return Phase.PINNED
        return Phase.WAITING if after else Phase.WARMUP

    # -- a tick ---------------------------------------------------------------------------------------------------------

    def step(self, window: Window, *, now_s: float, rng: np.random.Generator) -> tuple[SegmentDecision, ...]:
        """Take one tick's window, `now_s` seconds after the rollout began, and decide for every segment."""
        elapsed_s, self._now_s = max(now_s - self._now_s, 0.0), max(now_s, self._now_s)
        self._ticks += 1
        if window.entries:
            self._seen_s = self._now_s
        self._learn(window, elapsed_s)
        self._leave_warmup()
        alarm = raise_alarms(window, expected_people=self._expected_people(window))
        caps_bp = self._caps()
        return tuple(self._decide(i, alarm, int(caps_bp[i]), rng) for i in range(len(self.spec.segments)))

    def _learn(self, window: Window, elapsed_s: float) -> None:
        since_s = self._since_exposure_s
        if self._guarded:
            n, bad, base = (
                window.n[:, self._guarded],
                window.bad[:, self._guarded],
                self.evidence.base.value[:, self._guarded],
            )
            self.kpi_exclusion.update(n.reshape(-1, 2), bad.reshape(-1, 2), base.ravel(), at_s=since_s)
        self.evidence.update(window, since_exposure_s=since_s)
        self.harm.update(window, at_s=since_s, elapsed_s=elapsed_s)
        self.totals_n += window.n
        self.totals_bad += window.bad
        for i, state in enumerate(self.segments.values()):
            if state.since_s is not None:
                state.history.append((window.n[i].astype(float), window.bad[i].astype(float)))

    @property
    def _since_exposure_s(self) -> float:
        return 0.0 if self._first_exposure_s is None else self._now_s - self._first_exposure_s

    def _leave_warmup(self) -> None:
        for segment in self.spec.segments:
            state = self.segments[segment.name]
            if state.phase is Phase.WAITING and not self._waits_for(segment.after):
                state.phase = Phase.WARMUP
            if state.phase is Phase.WARMUP and self._now_s >= self.spec.rollout.warmup_s:
                state.phase = Phase.RAMPING

    def _waits_for(self, after: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `after` that take part and have not been promoted."""
        return tuple(name for name in after if self.segments[name].phase not in (Phase.PROMOTED, Phase.PINNED))

    def _expected_people(self, window: Window) -> Floats:
        """(S,) people that should be seen on the canary now, by its split and the baseline's people; 0 after a change."""
        split = self._splits()
        settled = np.array(
            [s.confirmed and self._now_s - s.changed_s > 2 * ROLLBACK_LATENCY_S for s in self.segments.values()]
        )
        baseline = window.people[:, BASELINE].astype(float)
        expected: Floats = np.where(settled & (split < 1), baseline * split / np.maximum(1 - split, 1e-9), 0.0)
        return expected

    def _splits(self) -> Floats:
        return np.array([state.split_bp for state in self.segments.values()]) / TOTAL_BP

    def _live(self) -> npt.NDArray[np.bool_]:
        """Segments whose canary may still do harm that the budget pays for."""
        return np.array([not state.phase.is_final for state in self.segments.values()])

    def _caps(self) -> npt.NDArray[np.int64]:
        rising = np.array([s.phase is Phase.RAMPING and not s.paused for s in self.segments.values()])
        return to_bp(self.harm.caps(self._splits(), self._live(), rising, latency_s=ROLLBACK_LATENCY_S))

    # -- one segment ----------------------------------------------------------------------------------------------------

    def _decide(self, index: int, alarm: Alarm, cap_bp: int, rng: np.random.Generator) -> SegmentDecision:
        segment = self.spec.segments[index]
        state = self.segments[segment.name]
        state.cap_bp = cap_bp
        self._look_ahead(index, state)
        state.breach_ticks = state.breach_ticks + 1 if self._breach_is_founded(index, state) else 0
        suspicion, suspect = self.suspicion(index)
        healthy = next(self._unexcluded(index), None) is None
        state.reward = self._reward(index, state)
        proposal = self._policy.propose(
            PolicyView(
                split=state.split_bp / TOTAL_BP, cap=cap_bp / TOTAL_BP, suspicion=suspicion,
                worst_excess=float(self.harm.exclusion.worst[index]), anomaly=max(self._excess(index, KpiKind.ANOMALY), 0.0),
                healthy=healthy,
            ),
            rng=rng,
        )  # fmt: skip
        view = self._guard_view(index, alarm, round(proposal.split * TOTAL_BP), suspicion, suspect)
        verdict = review(view)
        if suspicion < 0.25:
            state.reduced = False
        return self._apply(index, verdict, propensity=proposal.propensity)

    def _guard_view(
        self, index: int, alarm: Alarm, proposal_bp: int, suspicion: float, suspect: Reason | None
    ) -> GuardView:
        segment = self.spec.segments[index]
        state = self.segments[segment.name]
        spec = self.spec.rollout
        quiet_s = self._now_s - self._seen_s
        proven, unhealthy = self.proven(index), self.unhealthy(index)
        state.cleared = state.cleared or (unhealthy is None and state.split_bp > 0)
        if state.phase is Phase.BAKING and state.cleared:
            unhealthy = None  # at the bake's split the few people left on the baseline could not show it anew
        return GuardView(
            phase=state.phase, split_bp=state.split_bp, proposal_bp=proposal_bp, cap_bp=state.cap_bp,
            max_split_bp=segment.max_split_bp, spec=spec,
            crash=bool(alarm.crash[index]), crash_everywhere=alarm.everywhere, silent=bool(alarm.silent[index]),
            world_bad=alarm.world or self._world_breaks_limit(index, proven), proven=proven,
            suspicion=suspicion, suspect=suspect, forecast=state.forecast, breach_ticks=state.breach_ticks,
            breach_likely=self._breach_is_likely(index, state),
            budget_spent=self.harm.upper > self.harm.allowed, unhealthy=unhealthy,
            stale_s=quiet_s if quiet_s > max(STALE_INTERVALS * spec.interval_s, STALE_MIN_S) else None,
            confirmed=state.confirmed, dwelt=self._now_s - state.changed_s >= spec.min_dwell_s or state.split_bp == 0,
            bake_done=self._bake_is_done(state), paused=state.paused, frozen=state.frozen, already_reduced=state.reduced,
            waits_for=self._waits_for(segment.after),
        )  # fmt: skip

    def _bake_is_done(self, state: SegmentState) -> bool:
        """Whether the sessions that began during the bake have been judged."""
        if state.bake_since_s is None:
            return False
        return (
            self._now_s
            >= state.bake_since_s + self.spec.rollout.bake_s + self.spec.oldest_judged_s + ROLLBACK_LATENCY_S
        )

    def _apply(self, index: int, verdict: Verdict, *, propensity: float = 1.0) -> SegmentDecision:
        """Carry a verdict out on the state; in mode observe only say it."""
        name = self.spec.segments[index].name
        state = self.segments[name]
        before_bp = state.split_bp
        if not state.phase.is_final:  # what ended it stays to be read
            state.verdict, state.reason = verdict_name(verdict), verdict.reasons[0].text
        after_bp, phase = self._outcome(index, state, verdict)
        decision = SegmentDecision(
            segment=name, verdict=verdict, phase=phase, split_before_bp=before_bp, split_after_bp=after_bp,
            propensity=propensity, numbers=self._numbers(index, state),
        )  # fmt: skip
        if self.spec.rollout.mode is Mode.ACT:
            self._move(state, verdict, after_bp, phase)
        return decision

    def _outcome(self, index: int, state: SegmentState, verdict: Verdict) -> tuple[int, Phase]:
        match verdict:
            case Advance(split_bp=split_bp):
                return split_bp, self._phase_at(index, split_bp)
            case Reduce(split_bp=split_bp):
                return split_bp, Phase.RAMPING
            case Rollback():
                return 0, Phase.ROLLED_BACK
            case Withdraw():
                return 0, Phase.WITHDRAWN
            case Promote():
                return self.spec.segments[index].max_split_bp, Phase.PROMOTED
            case Hold():
                return state.split_bp, state.phase

    def _phase_at(self, index: int, split_bp: int) -> Phase:
        bake_bp = min(self.spec.rollout.bake_split_bp, self.spec.segments[index].max_split_bp)
        return Phase.BAKING if split_bp >= bake_bp else Phase.RAMPING

    def _move(self, state: SegmentState, verdict: Verdict, after_bp: int, phase: Phase) -> None:
        if isinstance(verdict, Reduce):
            state.reduced, state.cleared = True, False
        if after_bp != state.split_bp:
            state.confirmed = False
            state.changed_s = self._now_s
            if after_bp > 0 and state.since_s is None:
                state.since_s = self._now_s
            if self._first_exposure_s is None:
                self._first_exposure_s = self._now_s
        state.bake_since_s = (state.bake_since_s or self._now_s) if phase is Phase.BAKING else None
        state.split_bp, state.phase = after_bp, phase
        state.largest_bp = max(state.largest_bp, after_bp)

    def command(self, order: Order) -> tuple[SegmentDecision, ...]:
        """Carry out a person's order, which outranks the engine, in mode observe too.

        Raises SpecError where the segment is unknown or does not take part, or a split is out of range.
        """
        if order.segment is not None and order.segment not in self.segments:
            raise SpecError(f"unknown segment {order.segment!r}; legal: {', '.join(self.segments)}")
        if order.action is Action.SET and not 0 <= order.split_bp <= TOTAL_BP:
            raise SpecError(f"split {order.split_bp} basis points is out of range; legal: 0 to {TOTAL_BP}")
        names = [order.segment] if order.segment is not None else list(self.arms)
        if any(name not in self.arms for name in names):
            raise SpecError(f"segment {order.segment!r} is pinned and takes no part; legal: {', '.join(self.arms)}")
        return tuple(self._obey(name, order) for name in names)

    def _obey(self, name: str, order: Order) -> SegmentDecision:
        state = self.segments[name]
        before_bp = state.split_bp
        text = f"{order.action} by {order.who}" + (f": {order.reason}" if order.reason else "")
        verdict, after_bp, phase = self._ordered(name, state, order, (Reason(code="operator", text=text),))
        if order.action in (Action.PAUSE, Action.FREEZE, Action.RESUME):
            state.paused = order.action is Action.PAUSE
            state.frozen = order.action is Action.FREEZE
        self._move(state, verdict, after_bp, phase)
        state.verdict, state.reason = str(order.action), text
        return SegmentDecision(
            segment=name, verdict=verdict, phase=state.phase, split_before_bp=before_bp, split_after_bp=after_bp
        )

    def _ordered(
        self, name: str, state: SegmentState, order: Order, reasons: tuple[Reason, ...]
    ) -> tuple[Verdict, int, Phase]:
        match order.action:
            case Action.ROLLBACK:
                return Rollback(tier=Tier.OPERATOR, reasons=reasons), 0, Phase.ROLLED_BACK
            case Action.PROMOTE:
                full_bp = self.spec.segments[self.spec.segment_index[name]].max_split_bp
                return Promote(reasons=reasons), full_bp, Phase.PROMOTED
            case Action.SET:
                up = order.split_bp > state.split_bp
                verdict = Advance(split_bp=order.split_bp, reasons=reasons) if up else Hold(reasons=reasons)
                return verdict, order.split_bp, self._phase_at(self.spec.segment_index[name], order.split_bp)
            case Action.PAUSE | Action.RESUME | Action.FREEZE:
                return Hold(reasons=reasons), state.split_bp, state.phase

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as JSON-able values."""
        return {
            "arms": {name: list(arms) for name, arms in self.arms.items()},
            "now_s": self._now_s,
            "first_exposure_s": self._first_exposure_s,
            "totals": [self.totals_n.tolist(), self.totals_bad.tolist()],
            "evidence": self.evidence.state(),
            "harm": self.harm.state(),
            "kpi_exclusion": self.kpi_exclusion.state(),
            "segments": {name: _state_of(state) for name, state in self.segments.items()},
        }

    def restore(self, state: Mapping[str, Any], *, gap_s: float) -> None:
        """Take a state that `state` gave, `gap_s` seconds ago. Raises StateError where it is of another specification."""
        try:
            first_s = state["first_exposure_s"]
            self._now_s, self._first_exposure_s = float(state["now_s"]), None if first_s is None else float(first_s)
            self._seen_s = self._now_s + max(gap_s, 0.0)
            self.totals_n, self.totals_bad = (
                np.asarray(x, float).reshape(self.totals_n.shape) for x in state["totals"]
            )
            self.evidence.restore(state["evidence"])
            if set(state["segments"]) != set(self.segments) or set(state["arms"]) != set(self.arms):
                raise StateError("the stored state of a rollout is of other segments")
            for name, values in state["segments"].items():
                _restore_state(self.segments[name], values)
            self.kpi_exclusion.restore(state["kpi_exclusion"])
            self.harm.restore(state["harm"], gap_s=gap_s, split=self._splits())
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise StateError(f"the stored state of a rollout cannot be read: {error!r}") from error

    def confirm(self, segment: str) -> None:
        """Envoys have acknowledged the segment's newest split."""
        self.segments[segment].confirmed = True

    @property
    def is_finished(self) -> bool:
        return all(state.phase.is_final for state in self.segments.values())

    # -- what the evidence says -----------------------------------------------------------------------------------------

    def proven(self, index: int) -> tuple[Reason, ...]:
        """Reasons that are proof of harm in a segment, or of the whole canary where this segment agrees; gravest first."""
        own = self._crossed(index)
        pooled = self._crossed(len(self.spec.segments))
        if own or not pooled or self.suspicion(index)[0] < 0.25:
            return own
        return pooled

    def _crossed(self, row: int) -> tuple[Reason, ...]:
        log_e = self.evidence.log_e_values[row]
        needed = self.evidence.log_thresholds[row]
        grounds = [
            t for t, test in enumerate(self.evidence.tests) if test.against is not Against.ZERO and log_e[t] >= needed
        ]
        return tuple(self._reason(row, t) for t in sorted(grounds, key=lambda t: _GRAVITY[self._kpi_kind(t)]))

    def _kpi_kind(self, test: int) -> KpiKind:
        return self.spec.kpis[self.evidence.tests[test].kpi].kind

    def _reason(self, row: int, test_index: int) -> Reason:
        test = self.evidence.tests[test_index]
        kpi = self.spec.kpis[test.kpi]
        rows = slice(None) if row == len(self.spec.segments) else row
        n = np.atleast_2d(self.totals_n[rows, test.kpi]).sum(axis=0)
        bad = np.atleast_2d(self.totals_bad[rows, test.kpi]).sum(axis=0)
        canary, baseline = _share(bad[CANARY], n[CANARY]), _share(bad[BASELINE], n[BASELINE])
        where = "everywhere" if row == len(self.spec.segments) else "here"
        odds = float(np.exp(min(self.evidence.log_e_values[row, test_index], 700.0)))
        if test.against is Against.LIMIT:
            text = f"{kpi.name} is {canary:.1%} of sessions {where}, limit {test.value:.1%} (evidence {odds:.3g} to 1)"
        else:
            text = (
                f"{kpi.name} is {canary:.1%} of sessions {where} against {baseline:.1%} on the baseline, "
                f"tolerance {test.value:.1%} (evidence {odds:.3g} to 1)"
            )
        limit = test.value if test.against is Against.LIMIT else baseline + test.value
        return Reason(
            code=f"{test.against}:{kpi.name}",
            text=text,
            kpi=kpi.name,
            observed=canary,
            limit=limit,
            unit="share of sessions",
        )

    def suspicion(self, index: int) -> tuple[float, Reason | None]:
        """The strongest evidence of harm in a segment as a share of what proves it, and what it is about."""
        log_e = self.evidence.log_e_values[index]
        grounds = [t for t, test in enumerate(self.evidence.tests) if test.against is not Against.ZERO]
        strongest = max(grounds, key=lambda t: log_e[t])
        value = float(log_e[strongest]) / float(self.evidence.log_thresholds[index])
        dirty = self._dirty_bake(index)
        if dirty is not None and not value >= ALARMING:
            return ALARMING, dirty
        if not np.isfinite(value):
            return 0.0, None
        return value, self._reason(index, strongest)

    def _dirty_bake(self, index: int) -> Reason | None:
        """Above an even split the control is thin, and evidence against it slow. There the canary's last sessions are also held
        against all that is known of the baseline: a surprise is no proof, but calls the control back.
        """
        state = self.segments[self.spec.segments[index].name]
        if state.split_bp <= UNKNOWN_CEILING_BP:
            return None
        recent = list(state.history)[-RECENT_TICKS:]
        for k in self._guarded:
            n, bad = (sum(counts[k, CANARY] for counts in column) for column in zip(*recent, strict=True))
            usual = float(np.clip(self.evidence.base.value[index, k] + self.spec.kpis[k].tolerance, 0, 1))
            if binom.sf(bad - 1, n, usual) < SURPRISE:
                text = (
                    f"{self.spec.kpis[k].name} is {_share(bad, n):.1%} of the canary's last {n:.0f} sessions, "
                    f"usual is {usual:.1%} at most"
                )
                return Reason(code=f"surprise:{self.spec.kpis[k].name}", text=text, kpi=self.spec.kpis[k].name,
                              observed=_share(bad, n), limit=usual, unit="share of sessions")  # fmt: skip
        return None

    def _world_breaks_limit(self, index: int, proven: tuple[Reason, ...]) -> bool:
        """Whether all proof rests on limits that the baseline comes near as well, and no comparison speaks against the canary."""
        limits = {reason.kpi for reason in proven if reason.code.startswith(Against.LIMIT)}
        if not proven or any(not reason.code.startswith(Against.LIMIT) for reason in proven):
            return False
        return all(self._is_elevated(index, k) for k, kpi in enumerate(self.spec.kpis) if kpi.name in limits)

    def _is_elevated(self, index: int, kpi: int) -> bool:
        """Whether the baseline, here or in all segments together, has lately been near the limit, the canary no worse.

        Lately, since a limit may be broken long before a share of the whole rollout shows it; all segments, since at a
        high split hardly anybody is left on the baseline.
        """
        if self._log_e_against_zero(index, self.spec.kpis[kpi].name) >= COMPARED:
            return False
        own = self._baseline_lately(index, kpi)
        together = sum((self._baseline_lately(i, kpi) for i in range(len(self.spec.segments))), np.zeros(2))
        line = WORLD_LIMIT_SHARE * (self.spec.kpis[kpi].limit or 1.0)
        return any(_share(float(bad), float(n)) > line for n, bad in (own, together))

    def _baseline_lately(self, index: int, kpi: int) -> Floats:
        """People judged on the baseline in the last ticks, and the bad ones: (2,)."""
        recent = list(self.segments[self.spec.segments[index].name].history)[-WORLD_TICKS:]
        return np.array([(n[kpi, BASELINE], bad[kpi, BASELINE]) for n, bad in recent], float).reshape(-1, 2).sum(axis=0)

    def unhealthy(self, index: int) -> Reason | None:
        """Why a segment's canary is not known to be healthy; None when it is."""
        needed = self.needed(index)
        if needed is None:
            return None
        when = "at today's traffic: never" if needed.minutes is None else f"about {needed.minutes:.1f} min"
        return Reason(code="unknown", text=f"don't know yet (needs {needed.needed} more sessions, {when})")

    def needed(self, index: int) -> Insufficient | None:
        """How much more it takes to call a segment healthy; None when nothing more is needed."""
        state = self.segments[self.spec.segments[index].name]
        share = state.split_bp / TOTAL_BP
        shown = share if 0 < share < 1 else 0.25  # before the first step: what a usual step would need
        more = max(
            (e.sessions_needed(row, target, base, shown) for e, row, target, base in self._unexcluded(index)),
            default=None,
        )
        if more is None:
            return None
        rate = float(self.harm.rate[index])
        minutes = more / rate / 60 if rate > 0 and np.isfinite(more) else None
        judged = int(self.harm.judged[index, CANARY])
        return Insufficient(n=judged, needed=int(min(np.ceil(more), 10**9)), minutes=minutes)

    def _unexcluded(self, index: int) -> Iterator[tuple[ExcessExclusion, int, float, float]]:
        """What still stands between a segment and 'healthy': (test, its row, excess to exclude, base rate)."""
        target = self._tolerable_excess(index)
        if self.harm.exclusion.worst[index] > target:
            yield self.harm.exclusion, index, target, float(self.harm.base.value[index])
        for f, k in enumerate(self._guarded):
            row = index * len(self._guarded) + f
            base = float(self.evidence.base.value[index, k])
            visible = max(
                HEALTHY_TOLERANCES * self.spec.kpis[k].tolerance, HEALTHY_DEVIATIONS * (base * (1 - base)) ** 0.5
            )
            if self.kpi_exclusion.worst[row] > min(visible, HEALTHY_EXCESS):
                yield self.kpi_exclusion, row, min(visible, HEALTHY_EXCESS), base

    def _tolerable_excess(self, index: int) -> float:
        """The excess rate of bad sessions that must be excluded before a segment counts as healthy."""
        reaction_s = self.spec.oldest_judged_s + ROLLBACK_LATENCY_S
        bearable = self.harm.affordable_excess(
            self._splits(), self._live(), seconds=reaction_s, latency_s=ROLLBACK_LATENCY_S
        )
        return float(np.clip(bearable[index], max(self.spec.rollout.harm.tolerance, GRID[0]), HEALTHY_EXCESS))

    def health(self, index: int) -> Health:
        state = self.segments[self.spec.segments[index].name]
        if state.phase is Phase.ROLLED_BACK or self.proven(index):
            return Health.HARMFUL
        return (
            Health.UNKNOWN
            if self.unhealthy(index) is not None and state.phase is not Phase.PROMOTED
            else Health.HEALTHY
        )

    def _breach_is_founded(self, index: int, state: SegmentState) -> bool:
        """A breach is foreseen, and evidence against zero excess of that KPI is above the floor."""
        if state.forecast is None or state.forecast.p_breach < BREACH_SURE:
            return False
        zero = sum(test.against is Against.ZERO for test in self.evidence.tests)
        return self._log_e_against_zero(index, state.forecast.kpi) >= np.log(
            EVIDENCE_FLOOR * len(self.spec.segments) * zero
        )

    def _breach_is_likely(self, index: int, state: SegmentState) -> bool:
        """A breach is more likely than not, and the counts lean against the canary at all."""
        likely = state.forecast is not None and state.forecast.p_breach >= BREACH_LIKELY
        return likely and self._log_e_against_zero(index, state.forecast.kpi if state.forecast else "") > LEANING

    def _log_e_against_zero(self, index: int, kpi: str) -> float:
        log_e = self.evidence.log_e_values[index]
        tests = enumerate(self.evidence.tests)
        zero = [t for t, test in tests if test.against is Against.ZERO and self.spec.kpis[test.kpi].name == kpi]
        return float(max((log_e[t] for t in zero), default=-np.inf))

    def _look_ahead(self, index: int, state: SegmentState) -> None:
        """A new forecast every tick while any count leans against the canary, every few ticks otherwise."""
        if state.phase not in (Phase.RAMPING, Phase.BAKING):
            state.forecast = None
            return
        leaning = any(self._log_e_against_zero(index, kpi.name) > LEANING for kpi in self.spec.kpis)
        if leaning or self._ticks % CALM_FORECAST_TICKS == index % CALM_FORECAST_TICKS:
            state.forecast = self._forecast(state)

    def _forecast(self, state: SegmentState) -> Forecast | None:
        """The most worrying forecast among the KPIs with a limit; never further ahead than the data reach back."""
        horizon = max(1, round(self.spec.rollout.horizon_s / self.spec.rollout.interval_s))
        found = []
        for k, kpi in enumerate(self.spec.kpis):
            if kpi.limit is not None and len(state.history):
                n = np.array([n[k, CANARY] for n, _ in state.history])
                bad = np.array([bad[k, CANARY] for _, bad in state.history])
                found.append(forecast(kpi.name, bad, n, limit=kpi.limit, horizon_ticks=min(horizon, len(n))))
        return max((f for f in found if f is not None), key=lambda f: f.p_breach, default=None)

    def _excess(self, index: int, kind: KpiKind) -> float:
        """Excess share of canary over baseline in the last ticks; NaN where either arm is empty."""
        state = self.segments[self.spec.segments[index].name]
        recent = list(state.history)[-RECENT_TICKS:]
        kpis = [k for k, kpi in enumerate(self.spec.kpis) if kpi.kind is kind]
        if not recent or not kpis:
            return float("nan")
        n = sum(n[kpis[0]] for n, _ in recent)
        bad = sum(bad[kpis[0]] for _, bad in recent)
        return _share(bad[CANARY], n[CANARY]) - _share(bad[BASELINE], n[BASELINE])

    def _reward(self, index: int, state: SegmentState) -> Reward:
        return reward(
            split=state.split_bp / TOTAL_BP, errors=self._excess(index, KpiKind.ERROR_RATE),
            slowness=self._excess(index, KpiKind.LATENCY), abandonment=self._excess(index, KpiKind.ABANDONMENT),
            anomaly=self._excess(index, KpiKind.ANOMALY), weight=self.spec.segments[index].weight,
        )  # fmt: skip

    # -- people ---------------------------------------------------------------------------------------------------------

    def _numbers(self, index: int, state: SegmentState) -> dict[str, float]:
        suspicion, _ = self.suspicion(index)
        numbers = {
            "suspicion": suspicion,
            "log_e": float(max(self.evidence.log_e_values[index])),
            "log_e_needed": float(self.evidence.log_thresholds[index]),
            "worst_excess": float(self.harm.exclusion.worst[index]),
            "cap": state.cap_bp / TOTAL_BP,
            "harm_upper": self.harm.upper,
            "harm_allowed": self.harm.allowed,
            "canary_sessions": float(self.harm.judged[index, CANARY]),
            "baseline_sessions": float(self.harm.judged[index, BASELINE]),
        }
        if state.reward is not None:
            numbers["reward"] = state.reward.value
        if state.forecast is not None:
            numbers["p_breach"] = state.forecast.p_breach
        return {name: value for name, value in numbers.items() if np.isfinite(value)}

    def harm_view(self) -> HarmView:
        return self.harm.view(self._splits(), self._live(), latency_s=ROLLBACK_LATENCY_S)

    def view(self, name: str) -> SegmentView:
        """What people are shown of a segment."""
        index = self.spec.segment_index[name]
        suspicion, leading = self.suspicion(index)
        threshold = float(self.evidence.log_thresholds[index])
        anomaly = self._excess(index, KpiKind.ANOMALY)
        return SegmentView(
            segment=name, state=self.segments[name], health=self.health(index), leading=leading,
            log_e=suspicion * threshold, log_threshold=threshold, needed=self.needed(index),
            canary_n=int(self.harm.judged[index, CANARY]), baseline_n=int(self.harm.judged[index, BASELINE]),
            exposed_n=int(self.harm.exposed[index]), excess=float(self.harm.excess[index]),
            worst_excess=float(self.harm.exclusion.worst[index]), anomaly=max(anomaly, 0.0) if anomaly == anomaly else 0.0,  # noqa: PLR0124 -- NaN
            kpis=tuple(self._kpi_view(index, k) for k in range(len(self.spec.kpis))),
        )  # fmt: skip

    def _kpi_view(self, index: int, k: int) -> KpiView:
        n, bad = self.totals_n[index, k], self.totals_bad[index, k]
        test = next(
            t for t, test in enumerate(self.evidence.tests) if test.kpi == k and test.against is Against.TOLERANCE
        )
        return KpiView(
            kpi=self.spec.kpis[k].name, canary=_share(bad[CANARY], n[CANARY]), baseline=_share(bad[BASELINE], n[BASELINE]),
            tolerance=self.spec.kpis[k].tolerance, log_e=float(self.evidence.log_e_values[index, test]),
            canary_n=int(n[CANARY]), baseline_n=int(n[BASELINE]),
        )  # fmt: skip


_GRAVITY = {
    KpiKind.ERROR_RATE: 0, KpiKind.LATENCY: 1, KpiKind.ABANDONMENT: 2, KpiKind.FEATURE: 3, KpiKind.ANOMALY: 4
}  # fmt: skip


def _share(bad: float, n: float) -> float:
    return float(bad / n) if n > 0 else float("nan")


_KEPT: Mapping[str, Any] = {
    "split_bp": int, "largest_bp": int, "changed_s": int | float, "since_s": int | float | None,
    "bake_since_s": int | float | None, "confirmed": bool, "paused": bool, "frozen": bool, "reduced": bool,
    "cleared": bool, "verdict": str, "reason": str,
}  # fmt: skip


def _state_of(state: SegmentState) -> dict[str, object]:
    history = [[n.tolist(), bad.tolist()] for n, bad in state.history]
    return {"phase": str(state.phase), "history": history, **{name: getattr(state, name) for name in _KEPT}}


def _restore_state(state: SegmentState, values: Mapping[str, Any]) -> None:
    state.phase = Phase(values["phase"])
    for name in _KEPT:
        if not isinstance(values[name], _KEPT[name]):
            raise TypeError(f"{name} is {values[name]!r}")
        setattr(state, name, values[name])
    if not 0 <= state.split_bp <= TOTAL_BP:
        raise ValueError(f"split of {state.split_bp} basis points")
    state.history.extend((_counts(n), _counts(bad)) for n, bad in values["history"])


def _counts(values: object) -> Floats:
    """Counts of one tick, (K, 2)."""
    counts = np.asarray(values, float)
    if counts.ndim != 2 or not np.isfinite(counts).all():
        raise ValueError("history is damaged")
    return counts
