"""The composer: one service's rows in, its decisions out. Only this module knows observer, ramp and policy together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.decision import Order, Phase, SegmentDecision, verdict_name
from analysis.errors import StateError
from analysis.evidence.log_loss import NO_CHECK, LogCheck
from analysis.failure.foresight import Foresight
from analysis.forecast.exhaustion import Exhaustion, ResourceWatch
from analysis.guard import exhausts
from analysis.observer import LATENESS_S, Observer
from analysis.on_the_job import Learnt, OnTheJob, fingerprint
from analysis.policy import BudgetPolicy, FixedPolicy, LearnedPolicy, Policy, QValues, ThompsonPolicy, load_values
from analysis.profile.hours import ahead
from analysis.profile.persons import PersonTable
from analysis.ramp import Ramp, stale_after_s
from analysis.reading import ROLLBACK_LATENCY_S
from analysis.segment import SegmentState
from analysis.session import NS
from analysis.spec import KpiKind, Mode, RolloutSpec, ServiceSpec
from analysis.tape import (
    Adopted,
    Confirmed,
    Doubted,
    Event,
    Lost,
    Ordered,
    PutBack,
    Resumed,
    Said,
    Started,
    Tape,
    Ticked,
    digest_of,
    rng_of,
)
from analysis.window import BASELINE, CANARY, Window

STATE_FORMAT = 5
LOOK_AHEAD_NS = 60 * NS  # how long what is said of the next hour stands
POLICIES = ("budget", "fixed", "learned", "thompson")


def policy_named(name: str, mode: Mode = Mode.ACT) -> Policy:
    """The policy of that name. Raises ValueError with the legal names.

    Where a rollout only observes, `learned` tries every action now and then: nobody is harmed, and logs can judge it.
    """
    match name:
        case "budget":
            return BudgetPolicy()
        case "fixed":
            return FixedPolicy()
        case "learned":
            return learned_policy(load_values(), mode)
        case "thompson":
            return ThompsonPolicy()
    raise ValueError(f"unknown policy {name!r}; legal: {', '.join(POLICIES)}")


def learned_policy(values: QValues, mode: Mode) -> LearnedPolicy:
    """The policy `learned` by these values, in a mode."""
    return LearnedPolicy.shadow(values) if mode is Mode.OBSERVE else LearnedPolicy(values)


def shadow_named(name: str | None) -> Policy | None:
    """The policy of that name where it only watches: what draws lots keeps a chance for everything it could do."""
    return None if name is None else policy_named(name, Mode.OBSERVE)


def artefacts_of(spec: RolloutSpec) -> dict[str, str]:
    """What policies decide with, beside the specification and what they have learnt on the job."""
    return {"q_values": fingerprint(load_values())} if LearnedPolicy.name in (spec.policy, spec.shadow) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One rollout: its identity (which salts the hash), when it began, and (baseline, canary) of each segment in it."""

    rollout: str
    canary: str
    started_ns: int
    arms: Mapping[str, tuple[str, str]]


class ServiceEngine:
    """Watches one service all the time and steers its rollout while one runs.

    One owner; never touched by two threads. Where the specification asks for the policy `learned` and none is given,
    each rollout teaches it, and the next one chooses by what was learnt. `tape`: takes down what each rollout is given;
    None: nobody wants it.
    """

    def __init__(self, spec: ServiceSpec, *, seed: int, policy: Policy | None = None, tape: Tape | None = None) -> None:
        self.spec = spec
        self._seed = seed
        self.tape = tape
        self.policy = policy if policy is not None else policy_named(spec.rollout.policy, spec.rollout.mode)
        is_taught = policy is None and spec.rollout.policy == LearnedPolicy.name
        self.learnt = Learnt.nothing(load_values()) if is_taught else None  # by the rollouts that are over
        self.unlearnt = ""  # why what a stored rollout was teaching is lost, if it is
        self._artefacts = artefacts_of(spec.rollout) if policy is None else {"policy": "another one, given"}
        self._rng = np.random.default_rng(seed)
        self.observer = Observer(spec)
        self.people = PersonTable()
        self.rollout: Rollout | None = None
        self.ramp: Ramp | None = None
        self._frozen_thresholds = False
        self._ticked_ns: int | None = None
        self._looked_ahead: int | None = None
        self._resources: dict[str, ResourceWatch] = {}  # by metric, of the rollout
        self._widths: list[object] | None = None  # of forecasts, as the last good rollout has left them

    def observe(self, rows: npt.NDArray[np.void], labels: Sequence[str] = ()) -> None:
        """Take rows of this service (SAMPLE_DTYPE); `labels`: all that its vocabulary holds by now."""
        self.observer.observe(rows, labels)

    def start(self, rollout: Rollout, foresight: Foresight | None = None) -> None:
        """Begin a rollout; nobody is exposed before the first decision that says so.

        `foresight`: where its risk comes from; without one it is that of a release of which nothing is known.
        """
        self.rollout = rollout
        self._ticked_ns = rollout.started_ns
        job = None
        if self.learnt is not None:
            job, self.policy = OnTheJob(self.spec, self.learnt), learned_policy(self.learnt.chosen_by, self._mode)
        self.ramp = Ramp(self.spec, self.policy, rollout.arms, job=job)
        self.ramp.watch_beside(shadow_named(self.spec.rollout.shadow))
        if foresight is not None:
            self.ramp.foresee(foresight)
        if self.tape is not None:
            self.tape.note(
                Started(
                    at_ns=rollout.started_ns, started_ns=rollout.started_ns, arms=rollout.arms, spec=self.spec,
                    seed=self._seed, artefacts=self._artefacts, learnt=None if job is None else job.state(),
                    width=self._widths,
                )
            )  # fmt: skip
        if self._widths is not None:
            self.ramp.reading.trends.width.restore(self._widths)
        horizon_s = self.spec.rollout.horizon_s
        self._resources = {
            each.metric: ResourceWatch(each.name, each.limit, horizon_s=horizon_s) for each in self.spec.resources
        }
        self.observer.begin(rollout.arms)
        self._frozen_thresholds = False
        self._looked_ahead = None

    def take_learnt(self, kept: str) -> None:
        """Go on from what earlier rollouts have taught, as `Learnt.to_json` gave it; from the next start on.

        Raises StateError where it cannot be read, or other values are shipped by now. Other policies learn nothing.
        """
        if self.learnt is not None:
            self.learnt = Learnt.from_json(kept, self.learnt.shipped)

    @property
    def learning(self) -> Learnt | None:
        """What the policy has learnt by now, a running rollout included; None: it does not learn."""
        running = self.ramp.job if self.ramp is not None else None
        return self.learnt if running is None else running.learnt

    @property
    def _mode(self) -> Mode:
        return self.spec.rollout.mode

    def tick(self, now_ns: int, logs: LogCheck = NO_CHECK) -> tuple[SegmentDecision, ...]:
        """Judge what is due and decide; empty while no rollout runs. Splits decided here count as in force from now.

        `logs`: what the access logs lack by now, as far as is known.
        """
        self._doubt_absence(now_ns)
        window = self.observer.window(now_ns)
        self._learn_people()
        if self.ramp is None or self.rollout is None:
            return ()
        now_s = (now_ns - self.rollout.started_ns) / NS
        if not self._frozen_thresholds and now_s >= self.spec.rollout.warmup_s:
            self._frozen_thresholds = self.observer.freeze_thresholds()
        if self._baseline_is_judged(now_s):
            self.observer.behaviour.fit(self._rng)
        self._look_ahead(self.ramp, now_ns)
        self._look_at_resources(self.ramp, now_s)
        decisions = tuple(self._told(decision) for decision in self._step(self.ramp, window, now_ns, now_s, logs))
        self._record(decisions, now_ns)
        if self.ramp.is_finished:
            self._finish(self.rollout, self.ramp, now_ns)
        return decisions

    def _look_ahead(self, ramp: Ramp, now_ns: int) -> None:
        """Let the ramp know what the next hour brings, by the profiles, which stand still while it runs."""
        if (looked := now_ns // LOOK_AHEAD_NS) != self._looked_ahead:
            self._looked_ahead = looked
            ramp.ahead = ahead(self.observer.behaviour.hours(), looked * LOOK_AHEAD_NS)

    def measure(self, metric: str, version: str, value: float) -> None:
        """Take what a process of a version reports of one of `ServiceSpec.resources` now; all else says nothing."""
        if self.rollout is None or metric not in self._resources:
            return
        if version == self.rollout.canary:
            self._resources[metric].measure(CANARY, value)
        elif version == self.spec.baseline:
            self._resources[metric].measure(BASELINE, value)

    def exhaustions(self) -> dict[str, Exhaustion | None]:
        """Of each resource by name when it runs out, as of the newest tick; None where too little was reported."""
        return {watch.resource: watch.forecast for watch in self._resources.values()}

    @property
    def exhaustion_log_e_needed(self) -> float:
        """Evidence that a resource is used up faster, in logs, from which on it counts."""
        return -math.log(self._exhaustion_share)

    @property
    def _exhaustion_share(self) -> float:
        return self.spec.rollout.false_rollback / max(len(self._resources), 1)

    def _look_at_resources(self, ramp: Ramp, now_s: float) -> None:
        for watch in self._resources.values():
            watch.tick(now_s)
        found = [watch.forecast for watch in self._resources.values() if watch.forecast is not None]
        ramp.exhaustion = max(found, key=lambda each: (each.log_e > 0, each.p_exhausts), default=None)
        is_sure = exhausts(ramp.exhaustion, self._exhaustion_share)
        ramp.exhausted_ticks = ramp.exhausted_ticks + 1 if is_sure else 0

    def _step(
        self, ramp: Ramp, window: Window, now_ns: int, now_s: float, logs: LogCheck
    ) -> tuple[SegmentDecision, ...]:
        """Let the ramp decide, and take down by what."""
        risk, ahead = ramp.risk, ramp.ahead
        try:
            decisions = ramp.step(window, now_s=now_s, rng=rng_of(self._seed, now_ns), logs=logs)
        except Exception as error:
            self._note(Lost(at_ns=now_ns, reason=f"the engine failed: {error!r}"))
            raise
        if self.tape is not None:
            suspicion = ramp.reading.now.suspicion[0].tolist()
            thresholds = [ramp.wording.log_threshold(index) for index in range(len(suspicion))]
            self.tape.note(
                Ticked(
                    at_ns=now_ns, window=window, logs=logs, risk=risk, ahead=ahead,
                    exhaustion=ramp.exhaustion, exhausted_ticks=ramp.exhausted_ticks,
                    said=tuple(
                        Said(
                            verdict=verdict_name(each.verdict), phase=str(each.phase),
                            split_before_bp=each.split_before_bp, split_after_bp=each.split_after_bp,
                        )
                        for each in decisions
                    ),
                    suspicion=tuple(suspicion),
                    log_e=tuple(share * log_e for share, log_e in zip(suspicion, thresholds, strict=True)),
                    digest=digest_of(decisions),
                )
            )  # fmt: skip
        return decisions

    def _note(self, event: Event) -> None:
        if self.tape is not None:
            self.tape.note(event)

    def _told(self, decision: SegmentDecision) -> SegmentDecision:
        """The decision, and where people leave the canary, in what their sessions were different there."""
        if decision.split_after_bp >= decision.split_before_bp:
            return decision
        told = tuple(str(difference) for difference in self.observer.differences(decision.segment))
        return replace(decision, differences=told)

    def _learn_people(self) -> None:
        sessions, usual = self.observer.take_over()
        self.people.update(sessions[usual], self.observer.labels)

    def _finish(self, rollout: Rollout, ramp: Ramp, now_ns: int) -> None:
        promoted = {name for name, state in ramp.segments.items() if state.phase is Phase.PROMOTED}
        serving = {name: canary if name in promoted else base for name, (base, canary) in rollout.arms.items()}
        self.observer.finish(serving, now_ns)
        if promoted == set(rollout.arms):
            self._widths = ramp.reading.trends.width.state()
        self._take_over_learnt(ramp)

    def _take_over_learnt(self, ramp: Ramp) -> None:
        """The next rollout chooses by what this one has taught, just as after a restart. No more is learnt from it."""
        if ramp.job is not None and ramp.is_finished:
            self.learnt, ramp.job = ramp.job.learnt.rounded(), None

    def _doubt_absence(self, now_ns: int) -> None:
        """Without ticks for long, Envoys' dead-man switch may have taken people off the canary.

        It takes them back once it hears of us again: which is in force within ROLLBACK_LATENCY_S, as other changes are,
        and seen for as long again by those who were asked for in the seconds before.
        """
        since_ns, self._ticked_ns = self._ticked_ns, now_ns
        if since_ns is None or now_ns - since_ns <= stale_after_s(self.spec) * NS:
            return
        until_ns = now_ns + int(2 * ROLLBACK_LATENCY_S * NS)
        self.observer.doubt(since_ns, until_ns)
        if self.ramp is not None and self.rollout is not None:
            until_s = (until_ns - self.rollout.started_ns) / NS
            self.ramp.doubt(until_s=until_s)
            self._note(Doubted(at_ns=now_ns, until_s=until_s))

    def command(self, order: Order, now_ns: int) -> tuple[SegmentDecision, ...]:
        """Carry out a person's order on the running rollout. Raises SpecError; StateError where none runs."""
        if self.ramp is None:
            raise StateError(f"service {self.spec.name} has no rollout")
        decisions = self.ramp.command(order)
        self._note(Ordered(at_ns=now_ns, order=order, digest=digest_of(decisions)))
        self._take_over_learnt(self.ramp)
        for decision in decisions:
            self.observer.set_split(decision.segment, decision.split_after_bp, now_ns)
        return decisions

    def confirm(self, segment: str, now_ns: int) -> None:
        """Envoys have acknowledged the segment's newest split. Raises StateError where no rollout runs."""
        if self.ramp is None:
            raise StateError(f"service {self.spec.name} has no rollout")
        self.ramp.confirm(segment)
        self._note(Confirmed(at_ns=now_ns, segment=segment))
        self.observer.settle(segment, now_ns)

    def adopt(self, segment: str, split_bp: int, now_ns: int) -> None:
        """Go on from the split that Envoys really have. Raises StateError where no rollout runs."""
        if self.ramp is None:
            raise StateError(f"service {self.spec.name} has no rollout")
        self.ramp.adopt(segment, split_bp)
        self._note(Adopted(at_ns=now_ns, segment=segment, split_bp=split_bp))
        self.observer.set_split(segment, split_bp, now_ns)

    def positions(self) -> dict[str, SegmentState]:
        """Where each segment stands now; for `put_back`."""
        return {} if self.ramp is None else {name: replace(state) for name, state in self.ramp.segments.items()}

    def put_back(self, positions: Mapping[str, SegmentState], now_ns: int) -> None:
        """Forget what has been decided for these segments since `positions`, because it was not done.

        Those are of before the last tick or order.
        """
        ramp = self.ramp
        moved = {} if ramp is None else {name: s for name, s in positions.items() if ramp.segments[name] != s}
        if ramp is None or not moved:  # it may have failed before it decided anything
            return
        self._note(PutBack(at_ns=now_ns, segments=tuple(moved)))
        for name, state in moved.items():
            if ramp.segments[name].split_bp != state.split_bp:
                self.observer.set_split(name, state.split_bp, now_ns)
                if state.confirmed:  # what Envoys have never left is in force still
                    self.observer.settle(name, now_ns)
            ramp.segments[name] = state

    def _record(self, decisions: tuple[SegmentDecision, ...], now_ns: int) -> None:
        assert self.ramp is not None  # noqa: S101 -- only called while a rollout runs
        for decision in decisions:
            self.observer.set_split(decision.segment, self.ramp.segments[decision.segment].split_bp, now_ns)

    def _baseline_is_judged(self, now_s: float) -> bool:
        """Whether every session from before the exposure has been judged for its behaviour."""
        ages = [kpi.judge_after_s for kpi in self.spec.kpis if kpi.kind is KpiKind.ANOMALY]
        return bool(ages) and now_s >= self.spec.rollout.warmup_s + ages[0] + LATENESS_S

    @property
    def is_running(self) -> bool:
        return self.ramp is not None and not self.ramp.is_finished

    def to_bytes(self, now_ns: int) -> bytes:
        """The rollout's state for the journal.

        Empty while there is none. Open sessions are not kept: see `from_bytes`.
        """
        if self.ramp is None or self.rollout is None:
            return b""
        body = {
            "format": STATE_FORMAT,
            "at_ns": now_ns,
            "rollout": {
                "rollout": self.rollout.rollout,
                "canary": self.rollout.canary,
                "started_ns": self.rollout.started_ns,
                "arms": {name: list(arms) for name, arms in self.rollout.arms.items()},
            },
            "ramp": self.ramp.state(),
            "job": None if self.ramp.job is None else self.ramp.job.state(),
            "resources": {metric: watch.state() for metric, watch in self._resources.items()},
            "exhausted_ticks": self.ramp.exhausted_ticks,
            "widths": self._widths,
            "slow_ms": [None if np.isnan(x) else float(x) for x in self.observer.tracker.slow_ms],
            "behaviour": self.observer.behaviour.state(),
        }
        return json.dumps(body, separators=(",", ":")).encode()

    def from_bytes(self, data: bytes, now_ns: int) -> None:
        """Go on with the rollout of `to_bytes` at its splits.

        What nobody watched since, and the sessions that were open then, are charged to the budget as exposed. Raises
        StateError where the data are damaged, of another format or of another specification.
        """
        try:
            body = json.loads(data, parse_constant=_refuse)
            _require_format(body["format"])
            about = body["rollout"]
            arms = {name: (pair[0], pair[1]) for name, pair in about["arms"].items()}
            at_ns = int(body["at_ns"])
            rollout = Rollout(
                rollout=about["rollout"], canary=about["canary"], started_ns=int(about["started_ns"]), arms=arms
            )
            self._widths = body.get("widths")
            self.start(rollout)
            assert self.ramp is not None  # noqa: S101 -- `start` has just made it
            gap_s = max(now_ns - at_ns, 0) / NS
            self.ramp.restore(body["ramp"], gap_s=gap_s)
            self._note(Resumed(at_ns=now_ns, state=body["ramp"], gap_s=gap_s))
            self._restore_job(self.ramp, body["job"])
            for metric, watch in self._resources.items():
                if (kept := body["resources"].get(metric)) is not None:  # a resource may be new in the mesh file
                    watch.restore(kept)
            self.ramp.exhausted_ticks = int(body["exhausted_ticks"])
            slow_ms = np.array([np.nan if x is None else x for x in body["slow_ms"]], float)
            self.observer.tracker.slow_ms[:] = slow_ms.reshape(self.observer.tracker.slow_ms.shape)
            self.observer.behaviour.restore(body["behaviour"])
        except StateError:
            self.ramp, self.rollout, self._widths = None, None, None
            raise
        except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            self.ramp, self.rollout, self._widths = None, None, None
            raise StateError(f"rollout state cannot be read: {error!r}") from error
        self._frozen_thresholds = not np.isnan(self.observer.tracker.slow_ms).all()
        self._ticked_ns = at_ns
        for name, state in self.ramp.segments.items():
            if state.phase is not Phase.PINNED:
                self.observer.set_split(name, state.split_bp, now_ns)

    def _restore_job(self, ramp: Ramp, state: Mapping[str, Any] | None) -> None:
        """Go on learning; what cannot be gone on with is no reason to hold a rollout."""
        self.unlearnt = ""
        if ramp.job is not None and state is not None:
            try:
                ramp.job.restore(state)
            except StateError as error:
                self.unlearnt = str(error)


def _refuse(constant: str) -> float:
    raise StateError(f"rollout state holds {constant}, which is no number to go on with")


def _require_format(number: object) -> None:
    if number != STATE_FORMAT:
        raise StateError(f"rollout state of format {number}; this version reads format {STATE_FORMAT}")
