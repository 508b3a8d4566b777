"""One rollout of one service: windows in, decisions out.

Pure: the same windows and generator give the same decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
from analysis.evidence.log_loss import NO_CHECK, LogCheck
from analysis.guard import SUSPICIOUS, GuardView, review
from analysis.harm import HarmView, to_bp
from analysis.latencies import Latencies, WatchedLatencies
from analysis.policy import Policy, PolicyView
from analysis.reading import ROLLBACK_LATENCY_S, KpiView, RatioView, Reading
from analysis.segment import SegmentState, restore_state, state_of
from analysis.spec import TOTAL_BP, KpiKind, Mode, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]

CALM = 0.25  # share of the proof below which what a suspicion began ends: the closer watch, and that it has reduced
MISSED_SESSIONS = 5.0  # sessions expected in a tick without a single log entry: it is the logs that are missing
STALE_INTERVALS, STALE_MIN_S = 3.0, 5.0  # without access logs for longer than both, nothing rises


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
    sample_ratio: RatioView
    latencies: Latencies | None


def stale_after_s(spec: ServiceSpec) -> float:
    """How long it takes without news until what was known of a service is old."""
    return max(STALE_INTERVALS * spec.rollout.interval_s, STALE_MIN_S)


class Ramp:
    """The state of one running rollout. `step` once a tick; splits change only through `step` and `command`."""

    def __init__(self, spec: ServiceSpec, policy: Policy, arms: Mapping[str, tuple[str, str]]) -> None:
        self.spec = spec
        self._policy = policy
        self.arms = dict(arms)
        self.segments = {
            segment.name: SegmentState(phase=self._first_phase(segment.name, segment.after))
            for segment in spec.segments
        }
        self.reading = Reading(spec, self.segments)
        self._latencies = WatchedLatencies()
        self._now_s = 0.0
        self._ticks = 0
        self._seen_s = 0.0
        self._first_exposure_s: float | None = None
        self._doubted_until_s = 0.0

    def _first_phase(self, name: str, after: tuple[str, ...]) -> Phase:
        if name not in self.arms:
            return Phase.PINNED
        return Phase.WAITING if after else Phase.WARMUP

    # -- a tick --------------------------------------------------------------------------------------------------------

    def step(
        self, window: Window, *, now_s: float, rng: np.random.Generator, logs: LogCheck = NO_CHECK
    ) -> tuple[SegmentDecision, ...]:
        """Take one tick's window, `now_s` seconds after the rollout began, and decide for every segment.

        `logs`: what the access logs lack by now, as far as is known.
        """
        self.reading.logs = logs
        elapsed_s, self._now_s = max(now_s - self._now_s, 0.0), max(now_s, self._now_s)
        self._ticks += 1
        if window.entries:
            self._seen_s = self._now_s
        expected = float(self.reading.harm.rate.sum()) * elapsed_s
        blind = self._stale_s() is not None or (window.entries == 0 and expected >= MISSED_SESSIONS)
        self.reading.learn(window, since_s=self._since_exposure_s, elapsed_s=elapsed_s, blind=blind)
        self._leave_warmup()
        alarm = raise_alarms(window, expected_people=self._expected_people(window))
        caps_bp = self._caps()
        decisions = tuple(self._decide(i, alarm, int(caps_bp[i]), rng) for i in range(len(self.spec.segments)))
        self._latencies.learn(window, self._watched())
        return decisions

    def _watched(self) -> dict[int, tuple[int, int]]:
        """Segments under closer watch, with their two versions, as windows have them."""
        index, version = self.spec.segment_index, self.spec.version_index
        return {
            index[name]: (version[self.arms[name][0]], version[self.arms[name][1]])
            for name, state in self.segments.items()
            if state.watched
        }

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
        """(S,) people that should be seen on the canary now, by its split and the baseline's people.

        0 after a change, and where it is in doubt what Envoys go by.
        """
        if self._now_s <= self._doubted_until_s:
            return np.zeros(len(self.spec.segments))
        split = self.reading.splits()
        settled = np.array(
            [s.confirmed and self._now_s - s.changed_s > 2 * ROLLBACK_LATENCY_S for s in self.segments.values()]
        )
        baseline = window.people[:, BASELINE].astype(float)
        expected: Floats = np.where(settled & (split < 1), baseline * split / np.maximum(1 - split, 1e-9), 0.0)
        return expected

    def _caps(self) -> npt.NDArray[np.int64]:
        rising = np.array([s.phase is Phase.RAMPING and not s.paused for s in self.segments.values()])
        reading = self.reading
        return to_bp(reading.harm.caps(reading.splits(), reading.live(), rising, latency_s=ROLLBACK_LATENCY_S))

    # -- one segment ---------------------------------------------------------------------------------------------------

    def _decide(self, index: int, alarm: Alarm, cap_bp: int, rng: np.random.Generator) -> SegmentDecision:
        state, reading = self.segments[self.spec.segments[index].name], self.reading
        state.cap_bp = cap_bp
        reading.look_ahead(index, state, tick=self._ticks)
        is_founded = reading.breach_is_founded(index, state)
        state.breach_ticks = state.breach_ticks + reading.begins_interval if is_founded else 0
        state.reward = reading.reward_of(index, state)
        suspicion, suspect = reading.suspicion(index)
        self._watch(state, suspicion)
        proposal = self._policy.propose(self._policy_view(index, state, suspicion), rng=rng)
        view = self._guard_view(index, alarm, round(proposal.split * TOTAL_BP), suspicion, suspect)
        return self._apply(index, review(view), propensity=proposal.propensity)

    def _watch(self, state: SegmentState, suspicion: float) -> None:
        """A suspicion begins the closer watch of a segment with people on the canary; it ends when that has passed.

        In mode observe nothing of Envoys' configuration changes, so nothing is watched more closely either.
        """
        if suspicion < CALM:
            state.reduced = state.watched = False
        elif suspicion >= SUSPICIOUS and state.split_bp > 0 and not state.phase.is_final:
            state.watched = self.spec.rollout.mode is Mode.ACT

    def _policy_view(self, index: int, state: SegmentState, suspicion: float) -> PolicyView:
        anomaly = self.reading.excess(index, KpiKind.ANOMALY)
        return PolicyView(
            split=state.split_bp / TOTAL_BP,
            cap=state.cap_bp / TOTAL_BP,
            suspicion=suspicion,
            worst_excess=float(self.reading.harm.exclusion.worst[index]),
            anomaly=float(np.fmax(anomaly, 0.0)),
            healthy=next(self.reading.unexcluded(index), None) is None,
        )

    def _guard_view(
        self, index: int, alarm: Alarm, proposal_bp: int, suspicion: float, suspect: Reason | None
    ) -> GuardView:
        segment, reading, spec = self.spec.segments[index], self.reading, self.spec.rollout
        state = self.segments[segment.name]
        proven, unhealthy = reading.proven(index), reading.unhealthy(index)
        state.cleared = state.cleared or (unhealthy is None and state.split_bp > 0)
        if state.phase is Phase.BAKING and state.cleared:
            unhealthy = None  # at the bake's split the few people left on the baseline could not show it anew
        return GuardView(
            phase=state.phase,
            split_bp=state.split_bp,
            proposal_bp=proposal_bp,
            cap_bp=state.cap_bp,
            max_split_bp=segment.max_split_bp,
            spec=spec,
            crash=bool(alarm.crash[index]),
            crash_everywhere=alarm.everywhere,
            silent=bool(alarm.silent[index]),
            world_bad=alarm.world or reading.world_breaks_limit(index, proven),
            proven=proven,
            suspicion=suspicion,
            suspect=suspect,
            forecast=state.forecast,
            breach_ticks=state.breach_ticks,
            breach_likely=reading.breach_is_likely(index, state),
            budget_spent=reading.harm.upper > reading.harm.allowed,
            log_loss=reading.log_loss(*self.arms[segment.name]) if segment.name in self.arms else None,
            sample_ratio=reading.mismatch(index),
            unhealthy=unhealthy,
            stale_s=self._stale_s(),
            confirmed=state.confirmed,
            dwelt=state.split_bp == 0 or self._now_s - state.changed_s >= spec.min_dwell_s,
            bake_done=self._bake_is_done(state),
            dirty=reading.dirty(index),
            paused=state.paused,
            frozen=state.frozen,
            already_reduced=state.reduced,
            waits_for=self._waits_for(segment.after),
        )

    def _stale_s(self) -> float | None:
        """Seconds without access logs, where that is long."""
        quiet_s = self._now_s - self._seen_s
        return quiet_s if quiet_s > stale_after_s(self.spec) else None

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
            segment=name,
            verdict=verdict,
            phase=phase,
            split_before_bp=before_bp,
            split_after_bp=after_bp,
            propensity=propensity,
            numbers=self.reading.numbers(index, state),
        )
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
        state.watched = state.watched and after_bp > 0 and not phase.is_final
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
        if order.action is Action.RESUME:
            self.reading.overlook_mismatch(self.spec.segment_index[name])
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
            "reading": self.reading.state(),
            "segments": {name: state_of(state) for name, state in self.segments.items()},
        }

    def restore(self, state: Mapping[str, Any], *, gap_s: float) -> None:
        """Take a state that `state` gave, `gap_s` seconds ago.

        Raises StateError where it is of another specification.
        """
        try:
            first_s = state["first_exposure_s"]
            self._now_s, self._first_exposure_s = float(state["now_s"]), None if first_s is None else float(first_s)
            self._seen_s = self._now_s + max(gap_s, 0.0)
            if set(state["segments"]) != set(self.segments) or set(state["arms"]) != set(self.arms):
                raise StateError("the stored state of a rollout is of other segments")
            for name, values in state["segments"].items():
                restore_state(self.segments[name], values)
            self.reading.restore(state["reading"], gap_s=gap_s)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise StateError(f"the stored state of a rollout cannot be read: {error!r}") from error

    def adopt(self, segment: str, split_bp: int) -> None:
        """Go on from the split that Envoys really have; where it was not known of, people count as exposed from now."""
        state = self.segments[segment]
        state.split_bp = split_bp
        if split_bp > 0 and state.since_s is None:
            state.since_s = self._now_s
        if split_bp > 0 and self._first_exposure_s is None:
            self._first_exposure_s = self._now_s

    def doubt(self, *, until_s: float) -> None:
        """Until `until_s` after the rollout's beginning, that the canary is not seen says nothing."""
        self._doubted_until_s = until_s

    def confirm(self, segment: str) -> None:
        """Envoys have acknowledged the segment's newest split."""
        self.segments[segment].confirmed = True

    @property
    def is_finished(self) -> bool:
        return all(state.phase.is_final for state in self.segments.values())

    # -- people --------------------------------------------------------------------------------------------------------

    def harm_view(self) -> HarmView:
        reading = self.reading
        return reading.harm.view(reading.splits(), reading.live(), latency_s=ROLLBACK_LATENCY_S)

    def view(self, name: str) -> SegmentView:
        """What people are shown of a segment."""
        index, reading = self.spec.segment_index[name], self.reading
        suspicion, leading = reading.suspicion(index)
        threshold = float(reading.evidence.log_thresholds[index])
        return SegmentView(
            segment=name,
            state=self.segments[name],
            health=reading.health(index),
            leading=leading,
            log_e=suspicion * threshold,
            log_threshold=threshold,
            needed=reading.needed(index),
            canary_n=int(reading.harm.judged[index, CANARY]),
            baseline_n=int(reading.harm.judged[index, BASELINE]),
            exposed_n=int(reading.harm.exposed[index]),
            excess=float(reading.harm.excess[index]),
            worst_excess=float(reading.harm.exclusion.worst[index]),
            anomaly=float(np.fmax(reading.excess(index, KpiKind.ANOMALY), 0.0)),
            kpis=tuple(reading.kpi_view(index, k) for k in range(len(self.spec.kpis))),
            sample_ratio=reading.ratio_view(index),
            latencies=self._latencies.view(index),
        )
