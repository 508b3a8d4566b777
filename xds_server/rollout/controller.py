"""The loop: samples to the engines, decisions to journal and Envoys, acknowledgements back. And people's commands."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analysis.decision import Action, Order, Rollback, SegmentDecision
from analysis.engine import Rollout, ServiceEngine
from analysis.errors import SpecError, StateError
from analysis.segment import SegmentState
from analysis.spec import TOTAL_BP, Mode
from xds_server import __version__
from xds_server.ads.cache import AdsCache, Rejection
from xds_server.clock import Clock
from xds_server.discovery.sources import EndpointSources
from xds_server.discovery.watched import OpenedFiles
from xds_server.errors import BadRequestError, JournalError, RefusedError, UnknownNameError
from xds_server.ingest.decode import feature_label
from xds_server.ingest.ingest import Ingest
from xds_server.mesh import Mesh, SegmentSplit, Service, ServiceSplits
from xds_server.mesh_file import MeshError
from xds_server.pb import control_pb2 as pb
from xds_server.rollout.publisher import Publisher
from xds_server.rollout.reload import effective, only
from xds_server.rollout.rows import decision_row
from xds_server.rollout.status import endpoints_status, node_statuses, service_status
from xds_server.rollout.steered import HELD, SteeredService, reconciled
from xds_server.snapshot import InconsistentSnapshotError
from xds_server.store.journal import Journal
from xds_server.store.records import DecisionRow, EngineState, RolloutRow
from xds_server.telemetry import Telemetry

log = logging.getLogger(__name__)

ACK_TIMEOUT_S = 30.0  # an increase that waits longer for acknowledgements is worth a warning
ACK_POLL_S = 1.0  # laggards are named this soon, and who carries the traffic is looked up again
ACK_PAUSE_S = 0.2  # between two looks, when the first has nothing to wait for
TRAFFIC_WINDOW_S = 60.0  # nodes that carried the service's traffic so lately must acknowledge an increase
MAX_UNWRITTEN = 1_000  # decisions that wait for a journal that works again
SERINUS = "serinus"  # who gives an order that no person gave
BEAT_SHARE = 1 / 3  # of the dead-man switch's time, from one beat to the next: two may be lost
LATE_BEAT_S = 0.2  # how soon it is looked again whether decisions still stand still
IDLE_BEAT_S = 5.0  # how soon a switch that is set while Serinus runs is looked for
STILL_TICKS, STILL_S = 5, 5.0  # so long without a decision about a running rollout is standing still
SAVE_EVERY_S = 2.0  # engine state; what was seen since the last save is charged as exposed after a crash


class Controller:
    """Steers every service of a mesh.

    Its coroutines belong to one event loop. An engine ticks in a thread, so whoever touches it
    holds the service's lock.
    """

    def __init__(
        self,
        *,
        mesh: Mesh,
        journal: Journal,
        cache: AdsCache,
        ingest: Ingest,
        telemetry: Telemetry,
        clock: Clock,
        sources: EndpointSources | None = None,
    ) -> None:
        self._journal = journal
        self._cache = cache
        self._ingest = ingest
        self._telemetry = telemetry
        self._clock = clock
        self._services: dict[str, SteeredService] = {}
        self._waits: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._sources = sources if sources is not None else EndpointSources(mesh, clock=clock)
        self._sources.on_change = lambda: self._publish(urgent=False)
        self._publisher = Publisher(mesh, cache, lambda: self._sources.current)
        self._excluded = journal.excluded_nodes()
        self._ticks: asyncio.TaskGroup | None = None
        self._wanted = mesh  # the file as it is; parts of it may wait until rollouts have ended
        self._mesh_status = pb.MeshStatus(path=mesh.path, read_unix_ns=clock.now_unix_ns())
        self._mesh_lock = asyncio.Lock()
        cache.on_rejection = self._rejected

    # --- life

    def restore(self) -> None:
        """Take up every service where the journal left it, and publish exactly those splits."""
        stored = self._journal.load_splits()
        newest = {row.service: row for row in self._journal.rollouts()}  # oldest first: the newest one stays
        for name, service in self._publisher.mesh.services.items():
            self._services[name] = self._take_up(service, stored.get(name), newest.get(name))
        self._publish(urgent=True)
        for steered in self._services.values():
            if steered.is_running:  # it may have ended before its last split was acknowledged
                self._await_acks(steered)

    def _take_up(self, service: Service, stored: ServiceSplits | None, row: RolloutRow | None) -> SteeredService:
        engine = ServiceEngine(service.spec, seed=_seed(service.name))
        steered = SteeredService(service=service, engine=engine, splits=reconciled(service, stored))
        steered.row, steered.good, steered.ticked_s = row, steered.splits, self._clock.monotonic()
        if row is not None:
            self._resume(steered, row)
        for segment, split in steered.splits.segments.items():
            self._telemetry.split(service.name, segment, split.canary_bp)
        return steered

    def _resume(self, steered: SteeredService, row: RolloutRow) -> None:
        """Go on with a rollout; where its state cannot be read, keep its splits and wait for a person."""
        now_ns = self._clock.now_unix_ns()
        try:
            steered.engine.from_bytes(self._stored_state(row), now_ns)
        except StateError as error:
            if not steered.is_running:
                return
            steered.held = _held(f"{error}; resume or roll back")
            log.warning("rollout %s is held: %s", row.rollout, error)
            self._begin(steered, row)
            steered.engine.command(Order(action=Action.FREEZE, who=SERINUS, reason=str(error)), now_ns)
            self._set_state(steered, "frozen")
        if steered.is_running and steered.row is not None and steered.row.state != "running" and not steered.held:
            steered.held = self._held_before(row)
        self._match_splits(steered)

    def _stored_state(self, row: RolloutRow) -> bytes:
        state = self._journal.load_state(row.rollout)
        if state is None:
            raise StateError("no state of it was stored")
        return state.payload

    def _held_before(self, row: RolloutRow) -> str:
        """Why Serinus itself holds a rollout, if it was not a person who stopped it last."""
        verbs = {str(Action.PAUSE), str(Action.FREEZE)}
        stops = [d for d in self._journal.history(row.service, row.rollout) if d.verdict in verbs]
        return stops[-1].reason.partition(": ")[2] if stops and stops[-1].who == SERINUS else ""

    def _begin(self, steered: SteeredService, row: RolloutRow) -> None:
        arms = {
            name: (split.baseline, split.canary)
            for name, split in steered.splits.segments.items()
            if split.canary == row.canary and split.canary is not None
        }
        steered.engine.start(Rollout(rollout=row.rollout, canary=row.canary, started_ns=row.started_unix_ns, arms=arms))

    def _match_splits(self, steered: SteeredService) -> None:
        """The journal's splits are what Envoys have: the engine goes on from those, whatever it remembers."""
        ramp = steered.engine.ramp
        if ramp is None:
            return
        now_ns = self._clock.now_unix_ns()
        for name, split in steered.splits.segments.items():
            if name in ramp.arms:
                ramp.adopt(name, split.canary_bp)
                steered.engine.observer.set_split(name, split.canary_bp, now_ns)

    async def run(self) -> None:
        """Tick every service at its own interval until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._ticks:
                self._ticks.create_task(self._beat_forever(), name="the dead-man switch's beat")
                for steered in self._services.values():
                    self._start_ticking(steered)
        finally:
            for task in self._waits:
                task.cancel()
            self._collect()
            for steered in self._services.values():
                try:
                    steered.engine.observe(steered.take_rows())  # no decision: nobody would wait for its ACKs
                    self._save(steered)
                except JournalError as error:
                    log.error("the state of %s is not saved: %s", steered.name, error)  # noqa: TRY400 -- one line
                except Exception:  # of one service's engine; the others are saved
                    log.exception("the state of %s is not saved", steered.name)

    def _start_ticking(self, steered: SteeredService) -> None:
        if self._ticks is not None:
            steered.ticking = self._ticks.create_task(self._tick_forever(steered), name=f"ticks of {steered.name}")

    async def _beat_forever(self) -> None:
        """Keep canaries alive while there is somebody who decides about them."""
        stands_still = False
        while True:
            dead_man_s = self._publisher.mesh.dead_man_s
            if stands_still:  # once somebody decides again, canaries that have ended come back
                await self._clock.sleep(LATE_BEAT_S)
            else:
                await self._clock.sleep(IDLE_BEAT_S if dead_man_s is None else dead_man_s * BEAT_SHARE)
            if dead_man_s is None:
                continue
            late = [steered.name for steered in self._services.values() if self._stands_still(steered)]
            if late and not stands_still:
                log.error("decisions stand still on %s: the dead-man switch is let go", ", ".join(late))
            stands_still = bool(late)
            if not late:
                self._cache.beat()

    def _stands_still(self, steered: SteeredService) -> bool:
        patience_s = max(STILL_TICKS * steered.service.spec.rollout.interval_s, STILL_S)
        return steered.is_running and self._clock.monotonic() - steered.ticked_s > patience_s

    async def _tick_forever(self, steered: SteeredService) -> None:
        interval_s = steered.service.spec.rollout.interval_s
        due = self._clock.monotonic() + interval_s
        while True:
            await self._clock.sleep(max(due - self._clock.monotonic(), 0.0))
            due = max(due + interval_s, self._clock.monotonic())  # after a stall: no burst of ticks
            tick = asyncio.create_task(self._tick(steered))
            try:
                await asyncio.shield(tick)
            except asyncio.CancelledError:
                await tick  # what its thread decides is carried out, or engine and splits would differ ever after
                raise

    # --- a tick

    async def _tick(self, steered: SteeredService) -> None:
        """Tick one service. Whatever fails in it holds this service, and never the loop or another service."""
        started = time.perf_counter()
        self._collect()
        async with steered.lock:
            before = steered.positions()
            try:
                await self._decide(steered, before)
                self._measure(steered, time.perf_counter() - started)
                steered.ticked_s = self._clock.monotonic()
            except JournalError as error:
                self._hold(steered, str(error))
                steered.ticked_s = self._clock.monotonic()  # what must fall has fallen
            except InconsistentSnapshotError as error:
                steered.put_back(before, self._clock.now_unix_ns())
                self._hold(steered, f"the next splits cannot be published: {error}")
            except Exception as error:
                reason = f"the engine failed ({type(error).__name__}: {error})"
                if steered.held != _held(reason):  # not the same stack at each tick
                    log.exception("a tick of %s failed", steered.name)
                steered.put_back(before, self._clock.now_unix_ns())  # what it decided before it failed was not done
                self._hold(steered, reason)
        self._tell()

    async def _decide(self, steered: SteeredService, before: Mapping[str, SegmentState]) -> None:
        now_ns = self._clock.now_unix_ns()
        rows, labels = steered.take_rows(), self._feature_labels(steered)
        decisions = await asyncio.to_thread(_advance, steered.engine, rows, now_ns, labels)
        if steered.held:  # it may have come to be held while the engine was at it
            decisions = self._without_rises(steered, decisions, before, now_ns)
        self._carry_out(steered, decisions, before, now_ns)

    def _without_rises(
        self,
        steered: SteeredService,
        decisions: Sequence[SegmentDecision],
        before: Mapping[str, SegmentState],
        now_ns: int,
    ) -> tuple[SegmentDecision, ...]:
        """Take back every decision that raises a split, in the engine too; return the others."""
        risen = {each.segment for each in decisions if each.split_after_bp > each.split_before_bp}
        steered.put_back({name: before[name] for name in risen}, now_ns)
        return tuple(each for each in decisions if each.segment not in risen)

    def _collect(self) -> None:
        for name, batch in self._ingest.drain().items():
            if len(batch.rows) and name in self._services:
                self._services[name].put_rows(batch.rows)

    def _feature_labels(self, steered: SteeredService) -> dict[str, int]:
        vocabulary = self._ingest.vocabulary(steered.name)
        kpis = steered.service.spec.kpis
        return {k.feature: vocabulary.index(feature_label(k.feature)) for k in kpis if k.feature is not None}

    def _carry_out(
        self,
        steered: SteeredService,
        decisions: Sequence[SegmentDecision],
        before: Mapping[str, SegmentState],
        now_ns: int,
    ) -> None:
        if steered.row is None or not (steered.is_running or any(each.changes_split for each in decisions)):
            return  # of a finished rollout there is nothing more to tell
        observed = steered.service.spec.rollout.mode is Mode.OBSERVE
        changed = [] if observed else [decision for decision in decisions if decision.changes_split]
        fresh = steered.news(decisions, observed_only=observed)
        if steered.is_running:
            for decision in decisions:
                self._telemetry.decided(steered.name, decision)
        if changed or fresh:
            self._commit(steered, changed, fresh, now_ns, before=before, observed_only=observed)
        elif self._clock.monotonic() - steered.saved_s > SAVE_EVERY_S:
            self._save(steered)
        self._finish_if_over(steered, now_ns)

    def _commit(
        self,
        steered: SteeredService,
        changed: Sequence[SegmentDecision],
        fresh: Sequence[SegmentDecision],
        now_ns: int,
        *,
        before: Mapping[str, SegmentState],
        observed_only: bool = False,
        order: Order | None = None,
    ) -> None:
        """Journal decisions and splits in one transaction, then publish: what is in force can always be explained.

        Raises JournalError where the journal cannot take them. Then no split has risen; those that fall have fallen all
        the same, and are journalled as soon as that is possible again. Raises InconsistentSnapshotError where Envoy
        would reject splits of which some rise; then nothing has been done.
        """
        assert steered.row is not None  # noqa: S101 -- there are no decisions without a rollout
        splits = steered.splits_after(changed) if changed else steered.splits
        if any(decision.split_after_bp > decision.split_before_bp for decision in changed):
            self._publisher.prepare(steered.name, [splits])
        rows = [
            decision_row(
                decision,
                at_unix_ns=now_ns,
                service=steered.name,
                rollout=steered.row.rollout,
                generation=splits.generation,
                observed_only=observed_only,
                who=order.who if order is not None else "",
                verb=str(order.action) if order is not None else None,
            )
            for decision in fresh
        ]
        try:
            self._write(steered, splits, rows, now_ns)
        except JournalError:
            falling = self._without_rises(steered, changed, before, now_ns)
            untrue = {decision.segment for decision in changed} - {decision.segment for decision in falling}
            steered.unwritten += [row for row in rows if row.segment not in untrue]
            del steered.unwritten[:-MAX_UNWRITTEN]
            self._adopt(steered, falling)
            raise
        self._telemetry.journal_written("decision")
        self._adopt(steered, changed)

    def _write(self, steered: SteeredService, splits: ServiceSplits, rows: Sequence[DecisionRow], now_ns: int) -> None:
        """Journal all that a restart must know, and what could not be journalled before."""
        assert steered.row is not None  # noqa: S101 -- as above
        state = EngineState(rollout=steered.row.rollout, payload=steered.engine.to_bytes(now_ns), at_unix_ns=now_ns)
        with self._journal.atomically():
            self._journal.commit(steered.name, splits, [*steered.unwritten, *rows], state=state)
            if steered.unwritten:
                self._journal.set_state(steered.row.rollout, steered.row.state)
        steered.unwritten, steered.saved_s = [], self._clock.monotonic()

    def _adopt(self, steered: SteeredService, changed: Sequence[SegmentDecision]) -> None:
        """Put changed splits before the Envoys."""
        if changed:
            steered.splits = steered.splits_after(changed)
            self._publish(urgent=any(isinstance(decision.verdict, Rollback) for decision in changed))
            self._await_acks(steered)
            asyncio.get_running_loop().call_soon(self._prepare_rollbacks, steered)

    def _publish(self, *, urgent: bool) -> None:
        self._publisher.publish({s.name: s.splits for s in self._services.values()}, urgent=urgent)

    def _prepare_rollbacks(self, steered: SteeredService) -> None:
        """Have the bytes ready that a rollback will need; a split that could not be taken back must not stand."""
        try:
            self._publisher.prepare(steered.name, steered.rollbacks())
        except (InconsistentSnapshotError, KeyError) as error:
            self._hold_soon(steered, f"its splits could not be taken back: {error}")

    def _save(self, steered: SteeredService) -> None:
        now_ns = self._clock.now_unix_ns()
        if steered.row is None or not (payload := steered.engine.to_bytes(now_ns)):
            return
        if steered.unwritten:
            self._write(steered, steered.splits, (), now_ns)
        else:
            self._journal.save_state(steered.row.rollout, payload, now_ns)
            steered.saved_s = self._clock.monotonic()
        self._telemetry.journal_written("state")

    def _finish_if_over(self, steered: SteeredService, now_ns: int) -> None:
        ramp, row = steered.engine.ramp, steered.row
        if ramp is None or row is None or not steered.is_running or not ramp.is_finished:
            return
        outcome = {name: str(state.phase) for name, state in ramp.segments.items()}
        self._journal.finish_rollout(row.rollout, now_ns, outcome, "finished")
        steered.row, steered.held = replace(row, state="finished", finished_unix_ns=now_ns, outcome=outcome), ""
        self._save(steered)
        log.info("rollout %s finished: %s", row.rollout, outcome)
        if steered.name in self._mesh_status.waiting:
            self._spawn(self._adopt_what_waited())

    def _measure(self, steered: SteeredService, seconds: float) -> None:
        self._telemetry.ticked(steered.name, seconds)
        ramp = steered.engine.ramp
        if ramp is None:
            return
        self._telemetry.harm(steered.name, ramp.reading.harm.upper)
        if np.isfinite(log_e := ramp.reading.sample_ratio.log_e):
            self._telemetry.sample_ratio(steered.name, log_e)
        for segment in ramp.arms:
            for kpi in ramp.view(segment).kpis:
                if np.isfinite(kpi.log_e):
                    self._telemetry.evidence(steered.name, segment, kpi.kpi, kpi.log_e)

    # --- acknowledgements

    def _await_acks(self, steered: SteeredService) -> None:
        steered.in_force, steered.waiting_for = False, ()
        self._spawn(self._confirm(steered, steered.splits.generation))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)

    async def _confirm(self, steered: SteeredService, generation: int) -> None:
        """Wait until a generation is in force where the traffic is; while it is not, nothing of it rises further."""
        started = self._clock.monotonic()
        warned: tuple[str, ...] = ()
        while steered.splits.generation == generation and self._services.get(steered.name) is steered:
            carriers = self._ingest.traffic_nodes(steered.name, TRAFFIC_WINDOW_S, self._clock.now_unix_ns() / 1e9)
            laggards = await self._cache.in_force(
                steered.name, generation, carriers or None, ACK_POLL_S, excluded=self._excluded
            )
            if steered.splits.generation != generation:
                return
            if laggards != steered.waiting_for:
                steered.waiting_for = laggards
                self._tell()
            waited_s = self._clock.monotonic() - started
            # Without any Envoy there is nothing that could be in force: after a restart they come back one by one.
            if not laggards and self._cache.connected_n():
                await self._in_force(steered, generation, waited_s)
                return
            if laggards != warned and waited_s >= ACK_TIMEOUT_S:
                warned = laggards
                log.warning("%s waits for %s to take its splits %d", steered.name, ", ".join(laggards), generation)
            await self._clock.sleep(ACK_PAUSE_S)

    async def _in_force(self, steered: SteeredService, generation: int, seconds: float) -> None:
        async with steered.lock:  # the engine may be about to decide a newer one
            if steered.splits.generation != generation:
                return
            steered.in_force, steered.good = True, steered.splits
            if steered.engine.ramp is not None:
                for name in steered.engine.ramp.arms:
                    steered.engine.confirm(name, self._clock.now_unix_ns())
            self._telemetry.in_force(steered.name, seconds)
            try:
                self._journal.mark_in_force(steered.name, generation, self._clock.now_unix_ns())
            except JournalError as error:
                self._hold(steered, str(error))
        self._tell()

    def _rejected(self, rejection: Rejection) -> None:
        """An Envoy refused a configuration: its last good one stays in force there, and the rollout is held."""
        what = f"{rejection.type} {', '.join(rejection.resources)}".rstrip()
        log.error("%s rejected %s, version %s: %s", rejection.node, what, rejection.version, rejection.message)
        for name in rejection.services:
            steered = self._services.get(name)
            if steered is not None and steered.is_running:
                reason = f"{rejection.node} rejected {rejection.type}: {rejection.message}"
                if name in rejection.rolled_back:
                    reason = self._rollback_rejected(rejection, name)
                steered.held = _held(reason)  # from now on nothing rises, be a tick under way or not
                self._spawn(self._go_back(steered, reason))
        try:
            message = f"{what}: {rejection.message}" if rejection.resources else rejection.message
            self._journal.append_rejection(
                rejection.node, rejection.type, rejection.version, message, rejection.at_unix_ns
            )
        except JournalError as error:
            log.error("a rejection is not journalled: %s", error)  # noqa: TRY400 -- one line
        self._tell()

    def _rollback_rejected(self, rejection: Rejection, service: str) -> str:
        """The worst that an Envoy can refuse: say so where it will be heard."""
        now = "it was given its newest routes without the canary" if rejection.fell_back else "ITS CANARY GOES ON THERE"
        log.critical("%s rejected the ROLLBACK of %s; %s: %s", rejection.node, service, now, rejection.message)
        self._telemetry.rollback_rejected(service, fell_back=rejection.fell_back)
        return f"{rejection.node} rejected a rollback, {now}: {rejection.message}"

    # --- holding

    async def _go_back(self, steered: SteeredService, reason: str) -> None:
        """Hold, and take back what has risen since everybody had the same: a NACK leaves Envoys apart."""
        async with steered.lock:
            self._hold(steered, reason)
            risen = steered.risen() if steered.is_running else {}
            for segment, split_bp in risen.items():
                order = Order(action=Action.SET, who=SERINUS, reason=reason, segment=segment, split_bp=split_bp)
                try:
                    self._order(steered, order)
                except JournalError as error:
                    log.error("the way back of %s is not journalled: %s", steered.name, error)  # noqa: TRY400
        self._tell()

    def _hold_soon(self, steered: SteeredService, reason: str) -> None:
        steered.held = _held(reason)
        self._spawn(self._hold_in_turn(steered, reason))

    async def _hold_in_turn(self, steered: SteeredService, reason: str) -> None:
        async with steered.lock:
            self._hold(steered, reason)
        self._tell()

    def _hold(self, steered: SteeredService, reason: str) -> None:
        """Let nothing of a rollout rise until a person resumes it; what must fall still does. Never raises."""
        ramp = steered.engine.ramp
        if ramp is None or not steered.is_running:
            log.error("%s: %s", steered.name, reason)
            return
        if steered.held != _held(reason):
            log.error("%s is %s", steered.name, _held(reason))
        steered.held = _held(reason)
        now_ns, before = self._clock.now_unix_ns(), steered.positions()
        order = Order(action=Action.PAUSE, who=SERINUS, reason=steered.held)
        stopped: list[SegmentDecision] = []
        for name in ramp.arms:
            segment = ramp.segments[name]
            if not (segment.phase.is_final or segment.paused or segment.frozen):
                stopped += steered.engine.command(replace(order, segment=name), now_ns)
        try:
            if stopped:
                self._commit(steered, (), stopped, now_ns, before=before, order=order)
            if steered.row is not None and steered.row.state == "running":
                self._set_state(steered, "paused")
        except JournalError as error:
            log.error("that %s is held is not journalled: %s", steered.name, error)  # noqa: TRY400 -- one line

    def _set_state(self, steered: SteeredService, state: str) -> None:
        """Let the journal know what a restart must know."""
        assert steered.row is not None  # noqa: S101 -- only rollouts have a state
        steered.row = replace(steered.row, state=state)
        self._journal.set_state(steered.row.rollout, state)

    # --- people's commands (the control API's Steering)

    async def start_rollout(self, *, service: str, canary: str, who: str, reason: str) -> str:
        """Start a rollout of `canary` in every segment that is not on it yet."""
        steered = self._find(service)
        if canary not in steered.service.versions:
            raise UnknownNameError("version", canary, steered.service.versions)
        if lack := self._sources.lacking(service, canary):
            raise RefusedError(f"{lack}: it would get people and could serve none")
        async with steered.lock:
            if steered.is_running and steered.row is not None:
                raise RefusedError(
                    f"rollout {steered.row.rollout} of {service} is running; roll it back or let it finish"
                )
            serving = steered.serving()
            pinned = {segment.name for segment in steered.service.spec.segments if segment.pin is not None}
            taking_part = [name for name, version in serving.items() if version != canary and name not in pinned]
            if not taking_part:
                raise RefusedError(f"every segment of {service} is on {canary} already")
            now_ns = self._clock.now_unix_ns()
            row = RolloutRow(
                rollout=self._new_name(service, canary), service=service, baseline=serving[taking_part[-1]],
                canary=canary, state="running", started_unix_ns=now_ns, who=who, reason=reason,
            )  # fmt: skip
            segments = {
                name: SegmentSplit(baseline=version, canary=canary if name in taking_part else None)
                for name, version in serving.items()
            }
            splits = ServiceSplits(rollout=row.rollout, generation=steered.splits.generation + 1, segments=segments)
            await self._refuse_unpublishable(steered.service, splits)
            with self._journal.atomically():
                self._journal.start_rollout(row)
                self._journal.save_splits(service, splits)
            steered.row, steered.splits, steered.held = row, splits, ""
            steered.said.clear()
            steered.unwritten.clear()
            self._begin(steered, row)
            self._publish(urgent=False)
            self._await_acks(steered)
            try:
                self._save(steered)
            except JournalError as error:
                self._hold(steered, str(error))
        self._tell()
        return row.rollout

    async def _refuse_unpublishable(self, service: Service, splits: ServiceSplits) -> None:
        """Ask before anybody is exposed: with the canary at one half, its routes are as they will be."""
        halves = {
            name: replace(split, canary_bp=TOTAL_BP // 2 if split.canary is not None else 0)
            for name, split in splits.segments.items()
        }
        mesh = only(self._publisher.mesh, service)
        refusal = await self._publisher.refusal(mesh, {service.name: replace(splits, segments=halves)})
        if refusal is not None:
            raise RefusedError(f"{service.name} cannot be rolled out: {refusal}")

    def _new_name(self, service: str, canary: str) -> str:
        """A name that no rollout of the service had: it salts the hash, so that each rollout draws its people anew."""
        known = {row.rollout for row in self._journal.rollouts() if row.service == service}
        names = (f"{service}-{canary}-{n}" for n in itertools.count(len(known) + 1))
        return next(name for name in names if name not in known)

    async def act(
        self, *, service: str, segment: str | None, action: Action, split_bp: int, who: str, reason: str
    ) -> str:
        """Obey a person; see `Steering.act`."""
        steered = self._find(service)
        order = Order(action=action, who=who, reason=reason, segment=segment, split_bp=split_bp)
        async with steered.lock:
            _refuse_unfit(steered, order)
            try:
                self._order(steered, order)
                self._after_order(steered, action, segment)
            except SpecError as error:
                raise BadRequestError(str(error)) from error
            except JournalError as error:
                self._hold(steered, str(error))
                raise
        self._tell()
        return f"{action} of {service}" + (f", segment {segment}" if segment else "") + " done"

    def _order(self, steered: SteeredService, order: Order) -> None:
        now_ns, before = self._clock.now_unix_ns(), steered.positions()
        decisions = steered.engine.command(order, now_ns)
        changed = [decision for decision in decisions if decision.changes_split]
        self._commit(steered, changed, decisions, now_ns, before=before, order=order)
        for decision in changed:
            self._telemetry.split(steered.name, decision.segment, decision.split_after_bp)

    def _after_order(self, steered: SteeredService, action: Action, segment: str | None) -> None:
        assert steered.row is not None  # noqa: S101 -- `act` has looked
        if action is Action.RESUME or action is Action.ROLLBACK:
            steered.held = ""
        state = {Action.PAUSE: "paused", Action.FREEZE: "frozen", Action.RESUME: "running"}.get(action)
        if state is not None and segment is None:
            self._set_state(steered, state)
        if not steered.is_running and steered.engine.ramp is not None:  # a finished rollout was rolled back
            outcome = {name: str(s.phase) for name, s in steered.engine.ramp.segments.items()}
            finished_ns = steered.row.finished_unix_ns or self._clock.now_unix_ns()
            self._journal.finish_rollout(steered.row.rollout, finished_ns, outcome, "finished")
            steered.row = replace(steered.row, outcome=outcome)
        self._finish_if_over(steered, self._clock.now_unix_ns())

    async def exclude_node(self, *, node: str, excluded: bool, who: str, reason: str) -> str:
        """Let increases go on without an Envoy's ACK, or wait for it again."""
        known = {view.node for view in self._cache.nodes()} | self._excluded.keys()
        if node not in known:
            raise UnknownNameError("node", node, known)
        now_ns = self._clock.now_unix_ns()
        if excluded:
            self._journal.exclude_node(node, at_unix_ns=now_ns, who=who, reason=reason)
        else:
            self._journal.include_node(node)
        self._excluded = self._journal.excluded_nodes()
        log.warning(
            "%s is %s by %s: %s", node, "excluded" if excluded else "included", who, reason or "no reason given"
        )
        self._tell()
        return f"no increase waits for {node} any more" if excluded else f"increases wait for {node} again"

    # --- another mesh

    async def refusal(self) -> str | None:
        """Say why the configuration in force could not be published; None: it could."""
        splits = {steered.name: steered.splits for steered in self._services.values()}
        return await self._publisher.refusal(self._publisher.mesh, splits)

    async def change_mesh(self, mesh: Mesh) -> None:
        """Serve another mesh. Raises RefusedError, or MeshError of a file of endpoints; then nothing changes."""
        async with self._mesh_lock:
            running = {steered.name for steered in self._services.values() if steered.is_running}
            served, waiting = effective(self._publisher.mesh, mesh, running)
            stored = self._journal.load_splits()
            splits = {name: self._splits_in(served, name, stored.get(name)) for name in served.services}
            files = await asyncio.to_thread(self._sources.opened, served)
            refusal = await self._publisher.refusal(served, splits)
            if refusal is not None:
                raise RefusedError(refusal)
            changed = [s for s in self._services.values() if served.services.get(s.name) != s.service]
            async with contextlib.AsyncExitStack() as locks:
                for steered in changed:
                    await locks.enter_async_context(steered.lock)
                if {s.name for s in self._services.values() if s.is_running} - running:
                    raise RefusedError("a rollout was started meanwhile")
                self._serve(served, changed, files)
            self._wanted = mesh
            self._mesh_status = pb.MeshStatus(path=mesh.path, read_unix_ns=self._clock.now_unix_ns(), waiting=waiting)
        self._telemetry.mesh_read("adopted")
        log.info("serves %s%s", mesh.path, f"; changes of {', '.join(waiting)} wait for rollouts" if waiting else "")
        self._tell()

    def _splits_in(self, mesh: Mesh, name: str, stored: ServiceSplits | None) -> ServiceSplits:
        steered = self._services.get(name)
        return reconciled(mesh.services[name], steered.splits if steered is not None else stored)

    def _serve(self, mesh: Mesh, changed: Sequence[SteeredService], files: OpenedFiles) -> None:
        """Serve a mesh that has been checked; the locks of what changes are held."""
        newest = {row.service: row for row in self._journal.rollouts()}
        for steered in changed:
            service = mesh.services.get(steered.name)
            if service is not None and service.spec == steered.service.spec:
                steered.service, steered.splits = service, reconciled(service, steered.splits)
                continue
            del self._services[steered.name]
            if steered.ticking is not None:
                steered.ticking.cancel()
        self._ingest.adopt(mesh)
        stored = self._journal.load_splits()
        for name, service in mesh.services.items():
            if name not in self._services:
                self._services[name] = self._take_up(service, stored.get(name), newest.get(name))
                self._start_ticking(self._services[name])
        self._services = {name: self._services[name] for name in mesh.services}
        self._sources.adapt(mesh, files)
        self._publisher.mesh = mesh
        self._publish(urgent=False)

    async def _adopt_what_waited(self) -> None:
        try:
            await self.change_mesh(self._wanted)
        except (MeshError, RefusedError) as error:
            self.refuse_mesh(str(error))

    def refuse_mesh(self, reason: str) -> None:
        """Remember that the mesh file, as it is now, cannot be served."""
        log.error("%s is not served as it is now: %s", self._mesh_status.path, reason)
        self._mesh_status.refused = reason
        self._telemetry.mesh_read("refused")
        self._tell()

    def _find(self, service: str) -> SteeredService:
        steered = self._services.get(service)
        if steered is None:
            raise UnknownNameError("service", service, self._services)
        return steered

    # --- looking (the control API's Steering)

    def open_sessions(self) -> dict[str, int]:
        """Sessions being followed, by service."""
        return {name: steered.engine.observer.tracker.open_n for name, steered in self._services.items()}

    def evicted_sessions(self) -> dict[str, int]:
        """Sessions dropped unjudged since too many were open, by service."""
        return {name: steered.engine.observer.tracker.evicted_n for name, steered in self._services.items()}

    def status(self, service: str | None) -> pb.Status:
        """Return the status now, of one service or of all."""
        chosen = [self._find(service)] if service else list(self._services.values())
        counters = self._cache.counters
        return pb.Status(
            at_unix_ns=self._clock.now_unix_ns(),
            services=[service_status(steered, self._ingest.generations(steered.name)) for steered in chosen],
            nodes=node_statuses(self._cache.nodes(), self._excluded),
            endpoints=[endpoints_status(view) for view in self._sources.view(service) if view.source != "mesh"],
            pushes=counters.pushes,
            acks=counters.acks,
            nacks=counters.nacks,
            version=__version__,
            mesh=self._mesh_status,
        )

    async def changed(self) -> None:
        """Wait for the next tick, command, acknowledgement or rejection."""
        await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def rollouts(self) -> Sequence[RolloutRow]:
        """All rollouts, oldest first."""
        return await asyncio.to_thread(self._journal.rollouts)

    async def history(self, *, service: str | None, rollout: str | None, limit: int) -> Sequence[DecisionRow]:
        """The newest decisions, oldest first."""
        if service is not None:
            self._find(service)
        return await asyncio.to_thread(self._journal.history, service, rollout, limit)


def _refuse_unfit(steered: SteeredService, order: Order) -> None:
    """Raise a SteeringError where an order does not fit the state that the service is in."""
    row, ramp = steered.row, steered.engine.ramp
    if row is None:
        raise RefusedError(f"{steered.name} has no rollout; start one first")
    if not steered.is_running and order.action is not Action.ROLLBACK:
        raise RefusedError(f"rollout {row.rollout} is finished; start a new one, or roll it back")
    if ramp is None:
        raise RefusedError(f"nothing is known of rollout {row.rollout} any more; start a new one")
    if order.segment is not None and order.segment not in ramp.arms:
        raise UnknownNameError("segment of this rollout", order.segment, ramp.arms)


def _held(reason: str) -> str:
    return HELD + " ".join(reason.split())


def _advance(
    engine: ServiceEngine, rows: npt.NDArray[np.void], now_ns: int, labels: Mapping[str, int]
) -> tuple[SegmentDecision, ...]:
    engine.observe(rows)
    return engine.tick(now_ns, labels)


def _seed(name: str) -> int:
    """A service's own seed: the same service draws the same numbers in every run, and no two services the same ones."""
    return int.from_bytes(name.encode()[-8:].rjust(8, b"\0"), "big") & 0x7FFFFFFF
