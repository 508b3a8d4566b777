"""The loop: samples to the engines, decisions to journal and Envoys, acknowledgements back. And people's commands."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analysis.decision import Action, Order, Rollback, SegmentDecision
from analysis.engine import Rollout, ServiceEngine
from analysis.errors import AnalysisError, SpecError, StateError
from analysis.spec import Mode
from xds_server import __version__
from xds_server.ads.cache import AdsCache, NodeView, Rejection
from xds_server.clock import Clock
from xds_server.errors import BadRequestError, RefusedError, UnknownNameError
from xds_server.ingest.decode import feature_label
from xds_server.ingest.ingest import Ingest
from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.pb import control_pb2 as pb
from xds_server.rollout.rows import decision_row
from xds_server.rollout.status import service_status
from xds_server.rollout.steered import SteeredService, reconciled
from xds_server.store.journal import Journal
from xds_server.store.records import DecisionRow, EngineState, RolloutRow
from xds_server.telemetry import Telemetry

log = logging.getLogger(__name__)

ACK_TIMEOUT_S = 30.0  # an increase waits so long for acknowledgements, then holds and names the laggards
ACK_RETRY_S = 5.0
TRAFFIC_WINDOW_S = 60.0  # nodes that carried the service's traffic so lately must acknowledge an increase
SAVE_EVERY_S = 2.0  # engine state; what was seen since the last save is charged as exposed after a crash


class Controller:
    """Steers every service of a mesh. Its coroutines belong to one event loop; engines tick in threads, one at a time."""

    def __init__(
        self, *, mesh: Mesh, journal: Journal, cache: AdsCache, ingest: Ingest, telemetry: Telemetry, clock: Clock
    ) -> None:
        self._mesh = mesh
        self._journal = journal
        self._cache = cache
        self._ingest = ingest
        self._telemetry = telemetry
        self._clock = clock
        self._services: dict[str, SteeredService] = {}
        self._waits: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        cache.on_rejection = self._rejected

    # --- life

    def restore(self) -> None:
        """Take up every service where the journal left it, and publish exactly those splits."""
        stored = self._journal.load_splits()
        newest = {row.service: row for row in self._journal.rollouts()}  # oldest first: the newest one stays
        for name, service in self._mesh.services.items():
            engine = ServiceEngine(service.spec, seed=_seed(name))
            steered = SteeredService(service=service, engine=engine, splits=reconciled(service, stored.get(name)))
            steered.row = newest.get(name)
            self._services[name] = steered
            if steered.row is not None:
                self._resume(steered, steered.row)
            for segment, split in steered.splits.segments.items():
                self._telemetry.split(name, segment, split.canary_bp)
        self._publish(urgent=True)

    def _resume(self, steered: SteeredService, row: RolloutRow) -> None:
        """Go on with a rollout; where its state cannot be read, keep its splits and wait for a person."""
        state = self._journal.load_state(row.rollout)
        now_ns = self._clock.now_unix_ns()
        try:
            if state is None:
                raise StateError("no state of it was stored")
            steered.engine.from_bytes(state.payload, now_ns)
        except StateError as error:
            if not steered.is_running:
                return
            steered.held = f"held: {error}; resume, set or roll back"
            log.warning("rollout %s is held: %s", row.rollout, error)
            self._begin(steered, row)
            steered.engine.command(Order(action=Action.FREEZE, who="serinus", reason=str(error)), now_ns)
        self._match_splits(steered)

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
                ramp.segments[name].split_bp = split.canary_bp
                steered.engine.observer.set_split(name, split.canary_bp, now_ns)

    async def run(self) -> None:
        """Tick every service at its own interval until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for steered in self._services.values():
                    tasks.create_task(self._tick_forever(steered), name=f"ticks of {steered.name}")
        finally:
            for task in self._waits:
                task.cancel()
            for steered in self._services.values():
                self._save(steered)

    async def _tick_forever(self, steered: SteeredService) -> None:
        interval_s = steered.service.spec.rollout.interval_s
        due = self._clock.monotonic() + interval_s
        while True:
            await self._clock.sleep(max(due - self._clock.monotonic(), 0.0))
            due = max(due + interval_s, self._clock.monotonic())  # after a stall: no burst of ticks
            await self._tick(steered)

    # --- a tick

    async def _tick(self, steered: SteeredService) -> None:
        started = time.perf_counter()
        self._collect()
        async with steered.lock:
            now_ns = self._clock.now_unix_ns()
            rows, labels = steered.take_rows(), self._feature_labels(steered)
            try:
                decisions = await asyncio.to_thread(_advance, steered.engine, rows, now_ns, labels)
            except AnalysisError:
                log.exception("the engine of %s failed; its splits stay as they are", steered.name)
                return
            self._carry_out(steered, decisions, now_ns)
        self._measure(steered, time.perf_counter() - started)
        self._tell()

    def _collect(self) -> None:
        for name, batch in self._ingest.drain().items():
            if len(batch.rows):
                self._services[name].inbox.append(batch.rows)

    def _feature_labels(self, steered: SteeredService) -> dict[str, int]:
        vocabulary = self._ingest.vocabulary(steered.name)
        kpis = steered.service.spec.kpis
        return {k.feature: vocabulary.index(feature_label(k.feature)) for k in kpis if k.feature is not None}

    def _carry_out(self, steered: SteeredService, decisions: Sequence[SegmentDecision], now_ns: int) -> None:
        if not decisions or steered.row is None:
            return
        observed = steered.service.spec.rollout.mode is Mode.OBSERVE
        changed = [] if observed else [decision for decision in decisions if decision.changes_split]
        fresh = steered.news(decisions, observed_only=observed)
        if steered.is_running:
            for decision in decisions:
                self._telemetry.decided(steered.name, decision)
        if changed or fresh:
            self._commit(steered, changed, fresh, now_ns, observed_only=observed)
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
        observed_only: bool = False,
        order: Order | None = None,
    ) -> None:
        """Journal decisions and splits in one transaction, then publish: what is in force can always be explained."""
        assert steered.row is not None  # noqa: S101 -- there are no decisions without a rollout
        splits = steered.splits_after(changed) if changed else steered.splits
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
        state = EngineState(rollout=steered.row.rollout, payload=steered.engine.to_bytes(now_ns), at_unix_ns=now_ns)
        self._journal.commit(steered.name, splits, rows, state=state)
        steered.saved_s = self._clock.monotonic()
        self._telemetry.journal_written("decision")
        if changed:
            steered.splits = splits
            self._publish(urgent=any(isinstance(decision.verdict, Rollback) for decision in changed))
            self._await_acks(steered)

    def _publish(self, *, urgent: bool) -> None:
        self._cache.publish(self._mesh, {s.name: s.splits for s in self._services.values()}, urgent=urgent)

    def _save(self, steered: SteeredService) -> None:
        now_ns = self._clock.now_unix_ns()
        if steered.row is not None and (payload := steered.engine.to_bytes(now_ns)):
            self._journal.save_state(steered.row.rollout, payload, now_ns)
            self._telemetry.journal_written("state")
        steered.saved_s = self._clock.monotonic()

    def _finish_if_over(self, steered: SteeredService, now_ns: int) -> None:
        ramp, row = steered.engine.ramp, steered.row
        if ramp is None or row is None or not steered.is_running or not ramp.is_finished:
            return
        outcome = {name: str(state.phase) for name, state in ramp.segments.items()}
        self._journal.finish_rollout(row.rollout, now_ns, outcome, "finished")
        steered.row = replace(row, state="finished", finished_unix_ns=now_ns, outcome=outcome)
        self._save(steered)
        log.info("rollout %s finished: %s", row.rollout, outcome)

    def _measure(self, steered: SteeredService, seconds: float) -> None:
        self._telemetry.ticked(steered.name, seconds)
        ramp = steered.engine.ramp
        if ramp is None:
            return
        self._telemetry.harm(steered.name, ramp.harm.upper)
        for segment in ramp.arms:
            for kpi in ramp.view(segment).kpis:
                if np.isfinite(kpi.log_e):
                    self._telemetry.evidence(steered.name, segment, kpi.kpi, kpi.log_e)

    # --- acknowledgements

    def _await_acks(self, steered: SteeredService) -> None:
        task = asyncio.create_task(self._confirm(steered, steered.splits.generation))
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)

    async def _confirm(self, steered: SteeredService, generation: int) -> None:
        """Wait until a generation is in force where the traffic is; while it is not, nothing of it rises further."""
        started = self._clock.monotonic()
        steered.in_force = False
        timeout_s = ACK_TIMEOUT_S
        while steered.splits.generation == generation:
            nodes = self._ingest.traffic_nodes(steered.name, TRAFFIC_WINDOW_S, self._clock.now_unix_ns() / 1e9)
            laggards = await self._cache.in_force(steered.name, generation, nodes or None, timeout_s)
            if steered.splits.generation != generation:
                break
            steered.waiting_for = laggards
            self._tell()
            if not laggards:
                self._in_force(steered, generation, self._clock.monotonic() - started)
                break
            log.warning("generation %d of %s is not acknowledged by %s", generation, steered.name, ", ".join(laggards))
            timeout_s = ACK_RETRY_S
            await self._clock.sleep(ACK_RETRY_S)

    def _in_force(self, steered: SteeredService, generation: int, seconds: float) -> None:
        steered.in_force = True
        self._journal.mark_in_force(steered.name, generation, self._clock.now_unix_ns())
        self._telemetry.in_force(steered.name, seconds)
        if steered.engine.ramp is not None:
            for name in steered.engine.ramp.arms:
                steered.engine.ramp.confirm(name)

    def _rejected(self, rejection: Rejection) -> None:
        """An Envoy refused a configuration: its last good one stays in force there, and the rollout is held."""
        log.error("%s rejected %s %s: %s", rejection.node, rejection.type, rejection.version, rejection.message)
        self._journal.append_rejection(
            rejection.node, rejection.type, rejection.version, rejection.message, rejection.at_unix_ns
        )
        for name in rejection.services:
            steered = self._services.get(name)
            if steered is not None and steered.is_running:
                steered.held = f"held: {rejection.node} rejected {rejection.type}: {rejection.message}"
                self._order(steered, Order(action=Action.PAUSE, who="serinus", reason=steered.held))
        self._tell()

    # --- people's commands (the control API's Steering)

    async def start_rollout(self, *, service: str, canary: str, who: str, reason: str) -> str:
        """Start a rollout of `canary` in every segment that is not on it yet."""
        steered = self._find(service)
        if canary not in steered.service.versions:
            raise UnknownNameError("version", canary, steered.service.versions)
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
                rollout=self._new_name(service, canary), service=service, baseline=serving[taking_part[-1]], canary=canary,
                state="running", started_unix_ns=now_ns, who=who, reason=reason,
            )  # fmt: skip
            segments = {
                name: SegmentSplit(baseline=version, canary=canary if name in taking_part else None)
                for name, version in serving.items()
            }
            steered.row, steered.held = row, ""
            steered.splits = ServiceSplits(
                rollout=row.rollout, generation=steered.splits.generation + 1, segments=segments
            )
            steered.said.clear()
            self._begin(steered, row)
            with self._journal.atomically():
                self._journal.start_rollout(row)
                self._journal.save_splits(service, steered.splits)
            self._save(steered)
            self._publish(urgent=False)
            self._await_acks(steered)
        self._tell()
        return row.rollout

    def _new_name(self, service: str, canary: str) -> str:
        """A name that no rollout of the service had: it salts the hash, so that each rollout draws its people anew."""
        count = sum(row.service == service for row in self._journal.rollouts())
        return f"{service}-{canary}-{count + 1}"

    async def act(
        self, *, service: str, segment: str | None, action: Action, split_bp: int, who: str, reason: str
    ) -> str:
        """Obey a person; see `Steering.act`."""
        steered = self._find(service)
        if steered.row is None:
            raise RefusedError(f"{service} has no rollout; start one first")
        if not steered.is_running and action is not Action.ROLLBACK:
            raise RefusedError(f"rollout {steered.row.rollout} is finished; start a new one, or roll it back")
        if steered.engine.ramp is None:
            raise RefusedError(f"nothing is known of rollout {steered.row.rollout} any more; start a new one")
        known = steered.engine.ramp.arms
        if segment is not None and segment not in known:
            raise UnknownNameError("segment of this rollout", segment, known)
        async with steered.lock:
            order = Order(action=action, who=who, reason=reason, segment=segment, split_bp=split_bp)
            try:
                self._order(steered, order)
            except SpecError as error:
                raise BadRequestError(str(error)) from error
            self._after_order(steered, action, segment)
        self._tell()
        return f"{action} of {service}" + (f", segment {segment}" if segment else "") + " done"

    def _order(self, steered: SteeredService, order: Order) -> None:
        now_ns = self._clock.now_unix_ns()
        decisions = steered.engine.command(order, now_ns)
        changed = [decision for decision in decisions if decision.changes_split]
        for decision in changed:
            self._telemetry.split(steered.name, decision.segment, decision.split_after_bp)
        self._commit(steered, changed, decisions, now_ns, order=order)

    def _after_order(self, steered: SteeredService, action: Action, segment: str | None) -> None:
        assert steered.row is not None  # noqa: S101 -- `act` has looked
        if action is Action.RESUME or action is Action.ROLLBACK:
            steered.held = ""
        state = {Action.PAUSE: "paused", Action.FREEZE: "frozen", Action.RESUME: "running"}.get(action)
        if state is not None and segment is None:
            self._journal.set_state(steered.row.rollout, state)
            steered.row = replace(steered.row, state=state)
        if not steered.is_running and steered.engine.ramp is not None:  # a finished rollout was rolled back
            outcome = {name: str(s.phase) for name, s in steered.engine.ramp.segments.items()}
            finished_ns = steered.row.finished_unix_ns or self._clock.now_unix_ns()
            self._journal.finish_rollout(steered.row.rollout, finished_ns, outcome, "finished")
            steered.row = replace(steered.row, outcome=outcome)
        self._finish_if_over(steered, self._clock.now_unix_ns())

    def _find(self, service: str) -> SteeredService:
        steered = self._services.get(service)
        if steered is None:
            raise UnknownNameError("service", service, self._services)
        return steered

    # --- looking (the control API's Steering)

    def status(self, service: str | None) -> pb.Status:
        """Return the status now, of one service or of all."""
        chosen = [self._find(service)] if service else list(self._services.values())
        counters = self._cache.counters
        return pb.Status(
            at_unix_ns=self._clock.now_unix_ns(),
            services=[service_status(steered) for steered in chosen],
            nodes=[_node(view) for view in self._cache.nodes()],
            pushes=counters.pushes,
            acks=counters.acks,
            nacks=counters.nacks,
            version=__version__,
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


def _advance(
    engine: ServiceEngine, rows: npt.NDArray[np.void], now_ns: int, labels: Mapping[str, int]
) -> tuple[SegmentDecision, ...]:
    engine.observe(rows)
    return engine.tick(now_ns, labels)


def _seed(name: str) -> int:
    """A service's own seed: the same service draws the same numbers in every run, and no two services the same ones."""
    return int.from_bytes(name.encode()[-8:].rjust(8, b"\0"), "big") & 0x7FFFFFFF


def _node(view: NodeView) -> pb.NodeStatus:
    return pb.NodeStatus(
        node=view.node,
        cluster=view.cluster,
        role=view.role,
        connected=view.connected,
        acked=view.acked,
        sent=view.sent,
        rejections=[
            pb.Rejection(at_unix_ns=r.at_unix_ns, type=r.type, version=r.version, message=r.message)
            for r in view.rejections
        ],
    )
