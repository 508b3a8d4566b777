"""One rollout of one service: windows in, decisions out. `step` does the same for many rollouts at once.

Pure: the same windows and generator give the same decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    ShadowChoice,
    Tier,
    Verdict,
    Withdraw,
    verdict_name,
)
from analysis.errors import SpecError, StateError
from analysis.evidence.log_loss import NO_CHECK, LogCheck, LogLoss
from analysis.failure.facts import FIRST_MINUTES_S
from analysis.failure.foresight import Foresight
from analysis.failure.watch import Watch
from analysis.forecast.exhaustion import Exhaustion
from analysis.guard import SUSPICIOUS, GuardView, review
from analysis.harm import HarmView
from analysis.latencies import Latencies, WatchedLatencies
from analysis.on_the_job import OnTheJob
from analysis.outlook import Outlook
from analysis.policy import PRIOR_RISK, Arm, Policy, PolicyView, Proposal
from analysis.reading import RECENT_TICKS, ROLLBACK_LATENCY_S, Reading, Standing
from analysis.segment import SegmentState, restore_state, state_of
from analysis.shadow import Shadow, ShadowTally
from analysis.spec import TOTAL_BP, KpiKind, Mode, ServiceSpec
from analysis.window import BASELINE, CANARY, Window
from analysis.wording import KpiView, RatioView, Wording, log_loss

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

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
    shadow: ShadowTally | None


def stale_after_s(spec: ServiceSpec) -> float:
    """How long it takes without news until what was known of a service is old."""
    return max(STALE_INTERVALS * spec.rollout.interval_s, STALE_MIN_S)


class Ramp:
    """The state of one running rollout. `step` once a tick; splits change only through `step` and `command`.

    `reading` and `rollout`: the row of a shared reading that this rollout has; its own one if not given. `brief`: its
    decisions carry no numbers and no words of what is merely known, for simulations.

    `job`: learns from what the decisions come to. `risk`, `ahead`: what is known of the release and of the day, as
    `PolicyView` has them; may be set at any time. `foresight`: where the risk comes from, by what `first_minutes` show;
    see `foresee`.
    """

    def __init__(
        self,
        spec: ServiceSpec,
        policy: Policy,
        arms: Mapping[str, tuple[str, str]],
        *,
        reading: Reading | None = None,
        rollout: int = 0,
        brief: bool = False,
        job: OnTheJob | None = None,
    ) -> None:
        self.spec = spec
        self.job = job
        self._policy = policy
        self._brief = brief
        self.risk, self.ahead = PRIOR_RISK, 1.0
        self.foresight: Foresight | None = None
        self.first_minutes = Watch([kpi.name for kpi in spec.kpis], len(spec.segments))
        self.exhaustion: Exhaustion | None = None  # of the canary's resources, the one likeliest to run out
        self.exhausted_ticks = 0  # in a row, surely so
        self._settle_s = spec.rollout.settle_s if any(kpi.kind is KpiKind.LATENCY for kpi in spec.kpis) else 0.0
        self.arms = dict(arms)
        self.segments = {
            segment.name: SegmentState(phase=self._first_phase(segment.name, segment.after))
            for segment in spec.segments
        }
        self._settles = any(kpi.kind is KpiKind.LATENCY for kpi in spec.kpis)
        self._names = [segment.name for segment in spec.segments]
        self.shadow: Shadow | None = None
        self.reading = Reading(spec) if reading is None else reading
        self.rollout = rollout
        self.wording = Wording(self.reading, rollout)
        self._outlook = Outlook(self.reading, rollout)
        self._latencies = WatchedLatencies()
        self.logs = NO_CHECK  # of the newest tick
        self._now_s = 0.0
        self._elapsed_s = 0.0
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
        self.logs = logs
        # Sorted, since sums of floats depend on the order: a window from the journal must give the same ones.
        newcomers = np.array([(0, *key, n) for key, n in sorted(window.newcomers.items())], np.int64).reshape(-1, 5)
        split = self.standing().split[0] * self.settled()
        (decisions,) = step([self], self.reading, window, newcomers, now_s=now_s, rngs=[rng])
        self._latencies.learn(window, self._watched())
        self._learn_risk(window, split)
        return decisions

    def watch_beside(self, policy: Policy | None) -> None:
        """Let a policy watch from now on, that says what it would do and does nothing; None: none watches."""
        self.shadow = None if policy is None else Shadow(policy, tuple(self._names))

    def foresee(self, foresight: Foresight) -> None:
        """Take the release's risk from there from now on."""
        self.foresight, self.risk = foresight, foresight.risk

    def _learn_risk(self, window: Window, split: Floats) -> None:
        """What the tick's people say of the risk counts from the next tick on. `split` (S,): in force for certain."""
        self.first_minutes.add(
            window.n,
            window.bad,
            expected=float((split * window.arrived).sum()),
            came=float(window.exposed[split > 0].sum()),
            since_s=self.since_exposure_s,
        )
        if self.foresight is not None and self.since_exposure_s <= FIRST_MINUTES_S:
            self.foresight.learn(self.first_minutes.first_minutes())
            self.risk = self.foresight.risk

    def _watched(self) -> dict[int, tuple[int, int]]:
        """Segments under closer watch, with their two versions, as windows have them."""
        index, version = self.spec.segment_index, self.spec.version_index
        return {
            index[name]: (version[self.arms[name][0]], version[self.arms[name][1]])
            for name, state in self.segments.items()
            if state.watched
        }

    def begin(self, now_s: float, entries: int) -> None:
        """Note that a tick has come, with so many log entries."""
        self._elapsed_s, self._now_s = max(now_s - self._now_s, 0.0), max(now_s, self._now_s)
        if entries:
            self._seen_s = self._now_s
        for segment in self.spec.segments:
            state = self.segments[segment.name]
            if state.phase is Phase.WAITING and not self._waits_for(segment.after):
                state.phase = Phase.WARMUP
            if state.phase is Phase.WARMUP and self._now_s >= self.spec.rollout.warmup_s:
                state.phase = Phase.RAMPING

    @property
    def since_exposure_s(self) -> float:
        return 0.0 if self._first_exposure_s is None else self._now_s - self._first_exposure_s

    @property
    def elapsed_s(self) -> float:
        """How long the newest tick has lasted."""
        return self._elapsed_s

    def is_blind(self, entries: int) -> bool:
        """Whether the tick's access logs are missing, as far as can be told."""
        expected = float(self.reading.harm.rate[self.rollout].sum()) * self._elapsed_s
        return self._stale_s() is not None or (entries == 0 and expected >= MISSED_SESSIONS)

    def standing(self) -> Standing:
        """Where this rollout stands, with a leading axis of one."""
        states = list(self.segments.values())
        return Standing(
            split=np.array([[state.split_bp for state in states]]) / TOTAL_BP,
            live=np.array([[not state.phase.is_final for state in states]]),
            rising=np.array([[state.phase is Phase.RAMPING and not state.paused for state in states]]),
            cleared=np.array([[state.phase is Phase.BAKING and state.cleared for state in states]]),
        )

    def settled(self) -> npt.NDArray[np.bool_]:
        """(S,) segments whose split has been in force for long enough to be seen."""
        if self._now_s <= self._doubted_until_s:
            return np.zeros(len(self.segments), np.bool_)
        return np.array(
            [s.confirmed and self._now_s - s.changed_s > 2 * ROLLBACK_LATENCY_S for s in self.segments.values()]
        )

    def _waits_for(self, after: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `after` that take part and have not been promoted."""
        return tuple(name for name in after if self.segments[name].phase not in (Phase.PROMOTED, Phase.PINNED))

    # -- one segment ---------------------------------------------------------------------------------------------------

    def decide(self, alarm: Alarm, rng: np.random.Generator) -> tuple[SegmentDecision, ...]:
        """Decide for every segment by what the reading says now."""
        needed = np.zeros(len(self._names)) if self._brief else self._sessions_needed()
        worth = np.zeros(len(self._names)) if self.job is None else self.reading.worth(self.rollout)
        decisions = tuple(self._decide(i, alarm, rng, float(needed[i]), float(worth[i])) for i in range(len(needed)))
        self._end_learning()
        return decisions

    def _learn(self, job: OnTheJob, index: int, view: PolicyView, worth: float) -> None:
        """Let the policy see what its last decision has come to, before the next one is made."""
        phase, ticks = self.segments[self._names[index]].phase, self._elapsed_s / self.spec.rollout.interval_s
        if not phase.is_final:
            job.see(index, view, rises=phase is Phase.RAMPING, worth=worth, ticks=ticks)

    def _end_learning(self) -> None:
        """Of segments that are over nothing more is learnt."""
        if self.job is not None:
            for index, state in enumerate(self.segments.values()):
                if state.phase.is_final:
                    self.job.end(index)

    def _sessions_needed(self) -> Floats:
        """(S,) more sessions that it takes to call each segment healthy at its split."""
        splits = np.array([state.split_bp for state in self.segments.values()]) / TOTAL_BP
        return self.wording.sessions_needed(np.arange(len(splits)), splits)

    def _decide(
        self, index: int, alarm: Alarm, rng: np.random.Generator, needed: float, worth: float
    ) -> SegmentDecision:
        state, now, at = self.segments[self._names[index]], self.reading.now, (self.rollout, index)
        state.cap_bp = int(now.caps_bp[at])
        suspicion = float(now.suspicion[at])
        self._watch(state, suspicion)
        self._outlook.look_ahead(index, state)
        state.burning_ticks = state.burning_ticks + 1 if alarm.burning[at] else 0
        is_founded = self._outlook.is_founded(index, state, self.risk)
        state.breach_ticks = state.breach_ticks + self.reading.begins_interval if is_founded else 0
        if self._brief and state.phase.is_final:
            return SegmentDecision(
                segment=self._names[index], verdict=_OVER, phase=state.phase, split_before_bp=state.split_bp,
                split_after_bp=state.split_bp,
            )  # fmt: skip
        state.reward = float(now.reward.value[at])
        known = self._policy_view(index, state)
        if self.job is not None:
            self._learn(self.job, index, known, worth)
        proposal = self._policy.propose(known, rng=rng)
        view = self._guard_view(index, state, alarm, round(proposal.split * TOTAL_BP))
        verdict = self._told(index, state, review(view), needed)
        shadow = None
        if self.shadow is not None and not state.phase.is_final:
            shadow = self._look_beside(self.shadow, index, verdict, view, self.shadow.propose(known, rng=rng))
        return self._apply(index, verdict, propensity=proposal.propensity, shadow=shadow)

    def _look_beside(
        self, shadow: Shadow, index: int, acting: Verdict, view: GuardView, proposal: Proposal
    ) -> ShadowChoice:
        """What the policy that only watches would do, through the same guard: before anything is done."""
        name = self._names[index]
        verdict = review(replace(view, proposal_bp=round(proposal.split * TOTAL_BP)))
        acting_bp, split_bp = (self._outcome(index, self.segments[name], each)[0] for each in (acting, verdict))
        return shadow.choice(name, verdict, acting_bp=acting_bp, split_bp=split_bp, propensity=proposal.propensity)

    def _watch(self, state: SegmentState, suspicion: float) -> None:
        """A suspicion begins the closer watch of a segment with people on the canary; it ends when that has passed.

        In mode observe nothing of Envoys' configuration changes, so nothing is watched more closely either.
        """
        if suspicion < CALM:
            state.reduced = state.watched = False
        elif suspicion >= SUSPICIOUS and state.split_bp > 0 and not state.phase.is_final:
            state.watched = self.spec.rollout.mode is Mode.ACT

    def _policy_view(self, index: int, state: SegmentState) -> PolicyView:
        reading, at = self.reading, (self.rollout, index)
        rate = reading.harm.rate[self.rollout]
        anomaly = float(reading.now.excess[at][-1])
        leaning = int(reading.now.leaning[at])
        n, bad = (counts[at][leaning] for counts in reading.recent.sums(RECENT_TICKS))
        exposed_s = 0.0 if state.since_s is None else self._now_s - state.since_s
        return PolicyView(
            split=state.split_bp / TOTAL_BP,
            cap=state.cap_bp / TOTAL_BP,
            suspicion=float(reading.now.suspicion[at]),
            worst_excess=float(reading.now.worst[at]),
            anomaly=max(anomaly, 0.0) if anomaly == anomaly else 0.0,  # noqa: PLR0124 -- NaN is unknown
            healthy=bool(reading.now.healthy[at]),
            share=float(rate[index]) / max(float(rate.sum()), 1e-9),
            weight=self.spec.segments[index].weight,
            risk=self.risk,
            ahead=self.ahead,
            settling_s=max(self._settle_s - exposed_s, 0.0),
            at_once=float(rate[index]) * (self.spec.oldest_judged_s + ROLLBACK_LATENCY_S),
            canary=Arm(n=float(n[CANARY]), bad=float(bad[CANARY])),
            baseline=Arm(n=float(n[BASELINE]), bad=float(bad[BASELINE])),
            tolerance=self.spec.kpis[leaning].tolerance,
        )

    def _guard_view(self, index: int, state: SegmentState, alarm: Alarm, proposal_bp: int) -> GuardView:
        segment, reading, now = self.spec.segments[index], self.reading, self.reading.now
        at, spec = (self.rollout, index), self.spec.rollout
        is_proven, suspicion = bool(now.proven[at]), float(now.suspicion[at])
        is_healthy = bool(now.healthy[at])
        state.cleared = state.cleared or (is_healthy and state.split_bp > 0)
        if state.phase is Phase.BAKING and state.cleared:
            is_healthy = True  # at the bake's split the few people left on the baseline could not show it anew
        return GuardView(
            phase=state.phase,
            split_bp=state.split_bp,
            proposal_bp=proposal_bp,
            cap_bp=state.cap_bp,
            max_split_bp=segment.max_split_bp,
            spec=spec,
            crash=bool(alarm.crash[at]),
            crash_everywhere=bool(alarm.everywhere[self.rollout]),
            burning_ticks=state.burning_ticks,
            silent=bool(alarm.silent[at]),
            world_bad=bool(alarm.world[self.rollout]) or reading.world_breaks_limit(*at),
            proven=self.wording.proven(index) if is_proven else (),
            suspicion=suspicion,
            suspect=self.wording.suspect(index) if suspicion >= SUSPICIOUS else None,
            forecast=state.forecast,
            breach_ticks=state.breach_ticks,
            breach_likely=self._outlook.is_likely(index, state),
            at_next=self._outlook.at_split(index, proposal_bp / TOTAL_BP) if proposal_bp > state.split_bp else None,
            exhaustion=self.exhaustion,
            exhausted_ticks=self.exhausted_ticks,
            budget_spent=bool(now.budget_spent[self.rollout]),
            log_loss=log_loss(self.logs, *self.arms[segment.name]) if segment.name in self.arms else None,
            sample_ratio=self.wording.mismatch(index) if now.mismatch[self.rollout, [index, -1]].any() else None,
            unhealthy=None if is_healthy else _UNKNOWN,
            stale_s=self._stale_s(),
            confirmed=state.confirmed,
            dwelt=state.split_bp == 0 or self._now_s - state.changed_s >= spec.min_dwell_s,
            bake_done=self._bake_is_done(state),
            dirty=self.wording.dirty(index),
            over_limit=self.wording.over_limit(index),
            paused=state.paused,
            frozen=state.frozen,
            already_reduced=state.reduced,
            waits_for=self._waits_for(segment.after),
        )

    def _told(self, index: int, state: SegmentState, verdict: Verdict, needed: float) -> Verdict:
        """The verdict, with how much is still to be known where that is what it rests on."""
        if self._brief or _UNKNOWN not in verdict.reasons:
            return verdict
        fresh_s = 0.0
        if state.since_s is not None and self._settles:
            fresh_s = state.since_s + self.spec.rollout.settle_s - self._now_s
        told = self.wording.unhealthy(index, needed, fresh_s)
        return replace(verdict, reasons=tuple(told if reason is _UNKNOWN else reason for reason in verdict.reasons))

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

    def _apply(
        self, index: int, verdict: Verdict, *, propensity: float = 1.0, shadow: ShadowChoice | None = None
    ) -> SegmentDecision:
        """Carry a verdict out on the state; in mode observe only say it."""
        name = self._names[index]
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
            shadow=shadow,
            numbers={} if self._brief else self._numbers(index, state),
        )
        if self.spec.rollout.mode is Mode.ACT:
            self._move(state, verdict, after_bp, phase)
        return decision

    def _numbers(self, index: int, state: SegmentState) -> dict[str, float]:
        numbers = self.wording.numbers(index)
        if isinstance(self.logs.total, LogLoss):
            numbers |= {"log_loss": self.logs.total.ratio, "log_loss_lower": self.logs.total.lower}
        numbers |= self._outlook.numbers(state)
        return numbers

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
        decisions = tuple(self._obey(name, order) for name in names)
        self._end_learning()
        return decisions

    def _obey(self, name: str, order: Order) -> SegmentDecision:
        state = self.segments[name]
        before_bp = state.split_bp
        text = f"{order.action} by {order.who}" + (f": {order.reason}" if order.reason else "")
        verdict, after_bp, phase = self._ordered(name, state, order, (Reason(code="operator", text=text),))
        if order.action in (Action.PAUSE, Action.FREEZE, Action.RESUME):
            state.paused = order.action is Action.PAUSE
            state.frozen = order.action is Action.FREEZE
        if order.action is Action.RESUME:
            self.reading.overlook_mismatch(self.rollout, self.spec.segment_index[name])
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
            "first_minutes": self.first_minutes.state(),
            "foresight": None if self.foresight is None else self.foresight.state(),
            "shadow": None if self.shadow is None else self.shadow.state(),
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
            self.reading.restore(state["reading"], self.standing(), gap_s=gap_s)
            self._restore_risk(state)
            if self.shadow is not None and (kept := state.get("shadow")) is not None:
                self.shadow.restore(kept)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise StateError(f"the stored state of a rollout cannot be read: {error!r}") from error

    def _restore_risk(self, state: Mapping[str, Any]) -> None:
        """Versions that knew no risk have stored none."""
        if (seen := state.get("first_minutes")) is not None:
            self.first_minutes.restore(seen)
        if (kept := state.get("foresight")) is not None:
            foresight = Foresight.from_state(kept)
            foresight.learn(self.first_minutes.first_minutes())
            self.foresee(foresight)

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
        standing = self.standing()
        return self.reading.harm.view(self.rollout, standing.split, standing.live, latency_s=ROLLBACK_LATENCY_S)

    def view(self, name: str) -> SegmentView:
        """What people are shown of a segment."""
        index, reading, state = self.spec.segment_index[name], self.reading, self.segments[name]
        at = (self.rollout, index)
        threshold, suspicion = self.wording.log_threshold(index), float(reading.now.suspicion[at])
        anomaly = float(reading.now.excess[at][-1])
        return SegmentView(
            segment=name,
            state=state,
            health=self._health(index, state),
            leading=self.wording.suspect(index),
            log_e=suspicion * threshold,
            log_threshold=threshold,
            needed=self.wording.needed(index, state.split_bp / TOTAL_BP),
            canary_n=int(reading.harm.judged[at][1]),
            baseline_n=int(reading.harm.judged[at][0]),
            exposed_n=int(reading.harm.exposed[at]),
            excess=float(reading.harm.excess[at]),
            worst_excess=float(reading.now.worst[at]),
            anomaly=float(np.fmax(anomaly, 0.0)),
            kpis=self.wording.kpi_views(index),
            sample_ratio=self.wording.ratio_view(index),
            latencies=self._latencies.view(index),
            shadow=None if self.shadow is None else self.shadow.tallies[name],
        )

    def _health(self, index: int, state: SegmentState) -> Health:
        if state.phase is Phase.ROLLED_BACK or self.reading.now.proven[self.rollout, index]:
            return Health.HARMFUL
        known = state.phase is Phase.PROMOTED or bool(self.reading.now.healthy[self.rollout, index])
        return Health.HEALTHY if known else Health.UNKNOWN


_OVER = Hold(reasons=(Reason(code="final", text="the rollout is over here"),))
_UNKNOWN = Reason(code="unknown", text="don't know yet")


def step(
    ramps: Sequence[Ramp],
    reading: Reading,
    window: Window,
    newcomers: Indices,
    *,
    now_s: float,
    rngs: Sequence[np.random.Generator],
) -> list[tuple[SegmentDecision, ...]]:
    """One tick of B rollouts that share a reading, `now_s` seconds after each of them began.

    `window`: arrays with a leading axis of B (or without, for one); its `entries` are those of all of them together.
    `newcomers`: as `SampleRatio.update` takes them. The rollouts learn nothing of each other.
    """
    entries = window.entries
    for ramp in ramps:
        ramp.begin(now_s, entries)
    each = [ramp.standing() for ramp in ramps]
    standing = Standing(
        split=np.concatenate([one.split for one in each]),
        live=np.concatenate([one.live for one in each]),
        rising=np.concatenate([one.rising for one in each]),
        cleared=np.concatenate([one.cleared for one in each]),
    )
    reading.learn(
        window, newcomers, standing,
        since_s=np.array([ramp.since_exposure_s for ramp in ramps]),
        elapsed_s=np.array([ramp.elapsed_s for ramp in ramps]),
        blind=np.array([ramp.is_blind(entries) for ramp in ramps]),
    )  # fmt: skip
    settled = np.stack([ramp.settled() for ramp in ramps])
    split = np.where(settled, standing.split, 0.0)  # 0 where it is in doubt what is in force
    alarm = raise_alarms(window, split=split, limit=reading.error_limit)
    return [ramp.decide(alarm, rng) for ramp, rng in zip(ramps, rngs, strict=True)]
