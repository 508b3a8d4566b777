"""All services of a mesh under one roof: taken up, ticked, commanded by people, and given another mesh."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from analysis.decision import Action, Order
from analysis.errors import RecordError, SpecError
from analysis.evidence.log_loss import LogCheck
from analysis.history.record import Attribute, check_attributes
from analysis.spec import TOTAL_BP
from xds_server import __version__
from xds_server.ads.cache import AdsCache
from xds_server.clock import Clock
from xds_server.discovery.sources import EndpointSources
from xds_server.discovery.watched import OpenedFiles
from xds_server.errors import BadRequestError, JournalError, RefusedError, UnknownNameError
from xds_server.ingest.ingest import Ingest
from xds_server.ingest.rows import user_hash
from xds_server.learnt.cookies import CookieSigner
from xds_server.learnt.resolver import Resolver
from xds_server.mesh import Mesh, SegmentSplit, Service, ServiceSplits
from xds_server.mesh_file import MeshError
from xds_server.pb import control_pb2 as pb
from xds_server.rollout.acknowledgements import TRAFFIC_WINDOW_S, Acknowledgements
from xds_server.rollout.dead_man import beat_forever
from xds_server.rollout.execution import Execution
from xds_server.rollout.fleet import Fleet
from xds_server.rollout.imported_past import ImportedPast
from xds_server.rollout.learnt import LearnedSegments
from xds_server.rollout.past import PastDeployments
from xds_server.rollout.profile_views import profile_evaluation, profile_reply
from xds_server.rollout.profiling import Profiling
from xds_server.rollout.publisher import Publisher
from xds_server.rollout.reload import effective, only
from xds_server.rollout.risk import ReleaseRisk
from xds_server.rollout.status import add_coverage, endpoints_status, log_check, node_statuses, risk, service_status
from xds_server.rollout.steered import SteeredService, reconciled
from xds_server.rollout.taking_up import begin, take_up
from xds_server.rollout.ticks import Ticks
from xds_server.snapshot import InconsistentSnapshotError
from xds_server.store.artefacts import ArtefactStore
from xds_server.store.journal import Journal
from xds_server.store.learned import LearnedStore
from xds_server.store.profiles import ProfileStore
from xds_server.store.records import DecisionRow, LabelRow, RolloutRow
from xds_server.telemetry import Telemetry

log = logging.getLogger(__name__)


class Controller:
    """Steers every service of a mesh.

    Its coroutines belong to one event loop. An engine ticks in a thread, so whoever touches it
    holds the service's lock. `resolver`: answers Envoys who is in which learned segment; `learnt`: where that is
    changed, and where proposals of the profiler are put.
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
        self._fleet = Fleet(journal=journal, telemetry=telemetry, clock=clock)
        self._cache = cache
        self._ingest = ingest
        self._sources = sources if sources is not None else EndpointSources(mesh, clock=clock)
        self._publisher = Publisher(mesh, cache, lambda: self._sources.current)
        self._execution = Execution(self._fleet, self._publisher)
        self.resolver = _resolver(journal, clock)
        self.learnt = LearnedSegments(self._fleet, LearnedStore(journal), self.resolver)
        self.past = PastDeployments(self._fleet, self._execution.history)
        self._execution.history.bounds = mesh.history
        self._publisher.learned = self.learnt.table
        self._publisher.watched = self._watched
        self.resolver.held = self._held_segment
        self.risk = ReleaseRisk(self._fleet, ArtefactStore(journal), ImportedPast(self._execution.history))
        self.past.on_news = self.risk.look_again
        self.profiling = Profiling(self._fleet, ProfileStore(journal), self.learnt)
        self.learnt.on_table = lambda: self._execution.publish(urgent=False)
        self._acknowledgements = Acknowledgements(self._fleet, self._execution, cache, ingest)
        self._ticks = Ticks(self._fleet, self._execution, ingest)
        self._execution.on_splits = self._acknowledgements.wait_for
        self._execution.on_end = self._on_end
        self._sources.on_change = lambda: self._execution.publish(urgent=False)
        self._wanted = mesh  # the file as it is; parts of it may wait until rollouts have ended
        self._mesh_status = pb.MeshStatus(path=mesh.path, read_unix_ns=clock.now_unix_ns())
        self._mesh_lock = asyncio.Lock()

    # --- life

    def restore(self) -> None:
        """Take up every service where the journal left it, and publish exactly those splits."""
        self.risk.restore()
        self._put(self._taken_up(self._publisher.mesh, {}))
        self._execution.publish(urgent=True)
        for steered in self._fleet.services.values():
            if steered.is_running:  # it may have ended before its last split was acknowledged
                self._acknowledgements.wait_for(steered)

    def _taken_up(self, mesh: Mesh, known: Mapping[str, SteeredService]) -> dict[str, SteeredService]:
        """The services of a mesh, in its order: those that are known, the others as the journal left them."""
        journal, clock = self._fleet.journal, self._fleet.clock
        stored = journal.load_splits()
        newest = {row.service: row for row in journal.rollouts()}  # oldest first: the newest one stays
        return {
            name: known.get(name) or take_up(service, stored.get(name), newest.get(name), journal=journal, clock=clock)
            for name, service in mesh.services.items()
        }

    def _put(self, services: Mapping[str, SteeredService]) -> None:
        """Steer these services from now on, and no others."""
        running = [name for name, steered in services.items() if steered.is_running]
        self.learnt.serve({name: steered.service for name, steered in services.items()}, running)
        before = dict(self._fleet.services)
        for name, steered in before.items():
            if name not in services:
                self.profiling.leave(steered)
        self._fleet.services.clear()
        self._fleet.services.update(services)
        for name, steered in services.items():
            if before.get(name) is not steered:
                self.profiling.take_up(steered, before.get(name))
                self._ticks.start(steered)
                for segment, split in steered.splits.segments.items():
                    self._fleet.telemetry.split(name, segment, split.canary_bp)
                    self._fleet.telemetry.watched(name, segment, watched=segment in steered.watched)
        for name, steered in before.items():
            if services.get(name) is not steered and steered.ticking is not None:
                steered.ticking.cancel()

    async def run(self) -> None:
        """Tick every service at its own interval until cancelled."""
        beats = beat_forever(self._fleet, self._cache, dead_man_s=lambda: self._publisher.mesh.dead_man_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(beats, name="the dead-man switch's beat")
                tasks.create_task(self._ticks.run(), name="ticks")
                tasks.create_task(self.profiling.run(), name="profiles")
                tasks.create_task(self.past.run(), name="history")
                tasks.create_task(self.risk.run(), name="failure model")
        finally:
            self._fleet.cancel()

    # --- people's commands (the control API's Steering)

    async def start_rollout(
        self, *, service: str, canary: str, who: str, reason: str, attributes: Mapping[str, Attribute] | None = None
    ) -> str:
        """Start a rollout of `canary` in every segment that is not on it yet; see `Steering.start_rollout`."""
        try:
            check_attributes(attributes or {})
        except RecordError as error:
            raise BadRequestError(str(error)) from error
        async with self._in_turn(service) as steered:
            if canary not in steered.service.versions:
                raise UnknownNameError("version", canary, steered.service.versions)
            if lack := self._sources.lacking(service, canary):
                raise RefusedError(f"{lack}: it would get people and could serve none")
            if steered.is_running and steered.row is not None:
                raise RefusedError(
                    f"rollout {steered.row.rollout} of {service} is running; roll it back or let it finish"
                )
            serving = steered.serving()
            pinned = {segment.name for segment in steered.service.spec.segments if segment.pin is not None}
            taking_part = [name for name, version in serving.items() if version != canary and name not in pinned]
            if not taking_part:
                raise RefusedError(f"every segment of {service} is on {canary} already")
            now_ns = self._fleet.clock.now_unix_ns()
            row = RolloutRow(
                rollout=await self._new_name(service, canary), service=service, baseline=serving[taking_part[-1]],
                canary=canary, state="running", started_unix_ns=now_ns, who=who, reason=reason,
                attributes=dict(attributes or {}),
            )  # fmt: skip
            segments = {
                name: SegmentSplit(baseline=version, canary=canary if name in taking_part else None)
                for name, version in serving.items()
            }
            splits = ServiceSplits(rollout=row.rollout, generation=steered.splits.generation + 1, segments=segments)
            await self._refuse_unpublishable(steered.service, splits)
            foresight = await self.risk.foresee(row)
            with self._fleet.journal.atomically():
                self._fleet.journal.start_rollout(row)
                self._fleet.journal.save_splits(service, splits)
            steered.take_tape()  # what came since the last rollout ended is of no rollout
            steered.row, steered.splits, steered.held = row, splits, ""
            steered.said.clear()
            steered.unwritten.clear()
            begin(steered, row, foresight)
            self._execution.publish(urgent=False)
            self._acknowledgements.wait_for(steered)
            try:
                self._execution.save(steered)
            except JournalError as error:
                self._execution.hold(steered, str(error))
        self._fleet.tell()
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

    async def _new_name(self, service: str, canary: str) -> str:
        """A name that no rollout of the service had: it salts the hash, so that each rollout draws its people anew.

        Nor has an imported deployment it, which may come from another Serinus: labels go by names.
        """
        rollouts = await asyncio.to_thread(self._fleet.journal.rollouts)
        own = [row.rollout for row in rollouts if row.service == service]
        known = {*own, *await asyncio.to_thread(self._execution.history.imported)}
        names = (f"{service}-{canary}-{n}" for n in itertools.count(len(own) + 1))
        return next(name for name in names if name not in known)

    async def act(
        self, *, service: str, segment: str | None, action: Action, split_bp: int, who: str, reason: str
    ) -> str:
        """Obey a person; see `Steering.act`."""
        order = Order(action=action, who=who, reason=reason, segment=segment, split_bp=split_bp)
        async with self._in_turn(service) as steered:
            _refuse_unfit(steered, order)
            try:
                self._execution.order(steered, order)
                self._after_order(steered, action, segment)
            except SpecError as error:
                raise BadRequestError(str(error)) from error
            except InconsistentSnapshotError as error:
                raise RefusedError(f"{action} of {service} cannot be published: {error}") from error
            except JournalError as error:
                self._execution.hold(steered, str(error))
                raise
        self._fleet.tell()
        return f"{action} of {service}" + (f", segment {segment}" if segment else "") + " done"

    def _after_order(self, steered: SteeredService, action: Action, segment: str | None) -> None:
        assert steered.row is not None  # noqa: S101 -- `act` has looked
        if action is Action.RESUME or action is Action.ROLLBACK:
            steered.held = ""
        state = {Action.PAUSE: "paused", Action.FREEZE: "frozen", Action.RESUME: "running"}.get(action)
        if state is not None and segment is None:
            steered.set_state(state, self._fleet.journal)
        if not steered.is_running and steered.engine.ramp is not None:  # a finished rollout was rolled back
            outcome = {name: str(s.phase) for name, s in steered.engine.ramp.segments.items()}
            finished_ns = steered.row.finished_unix_ns or self._fleet.clock.now_unix_ns()
            self._fleet.journal.finish_rollout(steered.row.rollout, finished_ns, outcome, "finished")
            steered.row = replace(steered.row, outcome=outcome)
        self._execution.finish_if_over(steered, self._fleet.clock.now_unix_ns())

    async def exclude_node(self, *, node: str, excluded: bool, who: str, reason: str) -> str:
        """Let increases go on without an Envoy's ACK, or wait for it again; see `Steering.exclude_node`."""
        self._acknowledgements.exclude(node, excluded=excluded, who=who, reason=reason)
        return f"no increase waits for {node} any more" if excluded else f"increases wait for {node} again"

    async def adopt_segment(self, *, service: str, cluster: int, name: str, who: str, reason: str) -> str:
        """Give a cluster's people a name; see `Steering.adopt_segment`."""
        async with self._in_turn(service) as steered:
            said = await self.learnt.adopt(steered, cluster=cluster, name=name, who=who, reason=reason)
        self._fleet.tell()
        return said

    async def drop_segment(self, *, service: str, name: str, who: str) -> str:
        """Forget a name and whose it is; see `Steering.drop_segment`."""
        async with self._in_turn(service) as steered:
            said = self.learnt.drop(steered, name=name, who=who)
        self._fleet.tell()
        return said

    async def renew_segments(self, *, service: str, people: Mapping[str, Iterable[int]], who: str) -> str:
        """Let adopted names have just these people (user hashes), as a new clustering says; what was done, in words."""
        async with self._in_turn(service) as steered:
            said = await self.learnt.renew(steered, people, who=who)
        self._fleet.tell()
        return said

    async def profile(self, service: str, segment: str | None) -> pb.ProfileReply:
        """What is usual in one segment of a service, or in all."""
        async with self._in_turn(service) as steered:
            return profile_reply(steered, self.profiling.services[service].rows, _chosen(steered, segment))

    async def evaluate_profile(self, service: str, segment: str | None) -> pb.ProfileEvaluationReply:
        """How well that fits the sessions that have come since."""
        async with self._in_turn(service) as steered:
            rows, chosen = self.profiling.services[service].rows, _chosen(steered, segment)
            return await asyncio.to_thread(profile_evaluation, steered, rows, chosen)

    async def train_profile(self, *, service: str, who: str) -> pb.TrainProfileReply:
        """Learn it anew from those; see `Steering.train_profile`."""
        trained = await self.profiling.train(self._find(service), who=who)
        reply = await self.profile(service, None)
        names = {row.segment for row in trained}
        return pb.TrainProfileReply(segments=[each for each in reply.segments if each.segment in names])

    def _watched(self, service: str) -> frozenset[str]:
        """Segments that Envoys are to look at more closely."""
        steered = self._fleet.services.get(service)
        return frozenset() if steered is None else steered.watched

    def _held_segment(self, service: str, user_hash: int) -> str | None:
        """The segment of the session that somebody has open, as the mesh file calls it."""
        steered = self._fleet.services.get(service)
        index = None if steered is None else steered.engine.observer.tracker.segment_of(user_hash)
        return None if steered is None or index is None else steered.service.spec.segments[index].name

    def told(self, service: str) -> tuple[Service, ServiceSplits] | None:
        """A service, and the splits that clients of flags are told; None: there is none of that name."""
        steered = self._fleet.services.get(service)
        return None if steered is None else (steered.service, steered.told(self._fleet.clock.monotonic()))

    def names(self) -> list[str]:
        """All services, in the mesh file's order."""
        return list(self._fleet.services)

    def learned_segment(self, service: str, key: bytes) -> str:
        """The name of the learned segment that Envoys are told for somebody; empty for none."""
        return self.resolver.name(service, key) if self.learnt.table(service) is not None else ""

    def segments(self, service: str) -> pb.ListSegmentsReply:
        """Learned segments of a service: what is proposed, and what has been adopted."""
        return self.learnt.listing(self._find(service).service)

    # --- another mesh

    async def refusal(self) -> str | None:
        """Say why the configuration in force could not be published; None: it could."""
        splits = {steered.name: steered.splits for steered in self._fleet.services.values()}
        return await self._publisher.refusal(self._publisher.mesh, splits)

    async def change_mesh(self, mesh: Mesh) -> None:
        """Serve another mesh.

        Raises RefusedError, JournalError, or MeshError of a file of endpoints; then nothing changes.
        """
        async with self._mesh_lock:
            await self._change_mesh(mesh)

    async def _change_mesh(self, mesh: Mesh) -> None:
        running = {steered.name for steered in self._fleet.services.values() if steered.is_running}
        served, waiting = effective(self._publisher.mesh, mesh, running)
        stored = self._fleet.journal.load_splits()
        splits = {name: self._splits_in(served, name, stored.get(name)) for name in served.services}
        files = await asyncio.to_thread(self._sources.opened, served)
        refusal = await self._publisher.refusal(served, splits)
        if refusal is not None:
            raise RefusedError(refusal)
        changed = [s for s in self._fleet.services.values() if served.services.get(s.name) != s.service]
        async with contextlib.AsyncExitStack() as locks:
            for steered in changed:
                await locks.enter_async_context(steered.lock)
            if {s.name for s in self._fleet.services.values() if s.is_running} - running:
                raise RefusedError("a rollout was started meanwhile")
            self._serve(served, changed, files)
        self._wanted = mesh
        self._mesh_status = pb.MeshStatus(path=mesh.path, read_unix_ns=self._fleet.clock.now_unix_ns(), waiting=waiting)
        self._fleet.telemetry.mesh_read("adopted")
        log.info("serves %s%s", mesh.path, f"; changes of {', '.join(waiting)} wait for rollouts" if waiting else "")
        if not set(waiting) <= set(self.rolling()):  # one has ended meanwhile, when nothing waited for it yet
            self._fleet.spawn(self._adopt_wanted())
        self._fleet.tell()

    def _splits_in(self, mesh: Mesh, name: str, stored: ServiceSplits | None) -> ServiceSplits:
        steered = self._fleet.services.get(name)
        return reconciled(mesh.services[name], steered.splits if steered is not None else stored)

    def _serve(self, mesh: Mesh, changed: Sequence[SteeredService], files: OpenedFiles) -> None:
        """Serve a mesh that has been checked; the locks of what changes are held.

        Raises JournalError; then nothing has changed.
        """
        kept = dict(self._fleet.services)
        rerouted: list[tuple[SteeredService, Service]] = []
        for steered in changed:
            service = mesh.services.get(steered.name)
            if service is not None and service.spec == steered.service.spec:
                rerouted.append((steered, service))
            else:
                del kept[steered.name]
        services = self._taken_up(mesh, kept)
        for steered, service in rerouted:
            steered.service, steered.splits = service, reconciled(service, steered.splits)
        self._ingest.adopt(mesh)
        self._put(services)
        self._sources.adapt(mesh, files)
        self._publisher.mesh = mesh
        self.past.bound(mesh.history)
        self._execution.publish(urgent=False)

    def _on_end(self, steered: SteeredService) -> None:
        self._fleet.spawn(self.past.prune())
        self.risk.ended(steered)
        self.learnt.rollout_ended(steered)
        self._adopt_what_waited(steered)

    def _adopt_what_waited(self, steered: SteeredService) -> None:
        if steered.name in self._mesh_status.waiting:
            self._fleet.spawn(self._adopt_wanted())

    async def _adopt_wanted(self) -> None:
        try:
            async with self._mesh_lock:  # which mesh is wanted may change until then
                refused = self._mesh_status.refused  # of a newer file, which is no better for this
                await self._change_mesh(self._wanted)
                self._mesh_status.refused = refused
        except (MeshError, RefusedError, JournalError) as error:
            self.refuse_mesh(str(error))

    def refuse_mesh(self, reason: str) -> None:
        """Remember that the mesh file, as it is now, cannot be served."""
        log.error("%s is not served as it is now: %s", self._mesh_status.path, reason)
        self._mesh_status.refused = reason
        self._fleet.telemetry.mesh_read("refused")
        self._fleet.tell()

    @contextlib.asynccontextmanager
    async def _in_turn(self, service: str) -> AsyncIterator[SteeredService]:
        """The service, with its lock held; while it was waited for, another mesh may have put another in its place."""
        while True:
            steered = self._find(service)
            async with steered.lock:
                if self._fleet.services.get(service) is steered:
                    yield steered
                    return

    def _find(self, service: str) -> SteeredService:
        steered = self._fleet.services.get(service)
        if steered is None:
            raise UnknownNameError("service", service, self._fleet.services)
        return steered

    # --- looking (the control API's Steering)

    def begun_sessions(self) -> dict[str, int]:
        """Sessions begun since the start, by service."""
        return {name: s.engine.observer.tracker.columns.begun_n for name, s in self._fleet.services.items()}

    def bot_sessions(self) -> dict[str, int]:
        """Sessions since the start that were judged for nothing, since they say that they are machines', by service."""
        return {name: steered.engine.observer.bots_n for name, steered in self._fleet.services.items()}

    def open_sessions(self) -> dict[str, int]:
        """Sessions being followed, by service."""
        return {name: steered.engine.observer.tracker.open_n for name, steered in self._fleet.services.items()}

    def evicted_sessions(self) -> dict[str, int]:
        """Sessions dropped unjudged since too many were open, by service."""
        return {name: steered.engine.observer.tracker.evicted_n for name, steered in self._fleet.services.items()}

    def rolling(self) -> list[str]:
        """Services whose rollouts run."""
        return [name for name, steered in self._fleet.services.items() if steered.is_running]

    def log_checks(self) -> dict[str, LogCheck]:
        """What the access logs lack, by service with a running rollout."""
        return {name: self._ingest.log_check(name) for name in self.rolling()}

    def status(self, service: str | None) -> pb.Status:
        """Return the status now, of one service or of all."""
        chosen = [self._find(service)] if service else list(self._fleet.services.values())
        counters = self._cache.counters
        return pb.Status(
            at_unix_ns=self._fleet.clock.now_unix_ns(),
            services=[self._service_status(steered) for steered in chosen],
            nodes=node_statuses(self._cache.nodes(), self._acknowledgements.excluded),
            endpoints=[endpoints_status(view) for view in self._sources.view(service) if view.source != "mesh"],
            pushes=counters.pushes,
            acks=counters.acks,
            nacks=counters.nacks,
            version=__version__,
            mesh=self._mesh_status,
        )

    def _service_status(self, steered: SteeredService) -> pb.ServiceStatus:
        carriers = self._ingest.traffic_nodes(steered.name, TRAFFIC_WINDOW_S, self._fleet.clock.now_unix_ns() / 1e9)
        status = service_status(steered, self._ingest.generations(steered.name))
        status.notes.extend(self.learnt.notes(steered.service))
        add_coverage(status, steered, self._fleet.clock.monotonic())
        if steered.is_running:
            status.log_check.CopyFrom(log_check(self._ingest.log_check(steered.name), len(carriers)))
            status.risk.CopyFrom(risk(steered, self.risk.source))
        return status

    async def changed(self) -> None:
        """Wait for the next tick, command, acknowledgement or rejection."""
        await self._fleet.changed()

    async def rollouts(self) -> Sequence[RolloutRow]:
        """All rollouts, oldest first."""
        return await asyncio.to_thread(self._fleet.journal.rollouts)

    async def labels(self) -> Mapping[str, LabelRow]:
        """What operators say of rollouts."""
        return await self.past.labels()

    async def history(self, *, service: str | None, rollout: str | None, limit: int) -> Sequence[DecisionRow]:
        """The newest decisions, oldest first."""
        if service is not None:
            self._find(service)
        return await asyncio.to_thread(self._fleet.journal.history, service, rollout, limit)


def _chosen(steered: SteeredService, segment: str | None) -> list[str]:
    names = [each.name for each in steered.service.spec.segments]
    if segment is None:
        return names
    if segment not in names:
        raise UnknownNameError(f"segment of {steered.name}", segment, names)
    return [segment]


def _resolver(journal: Journal, clock: Clock) -> Resolver:
    """Whoever is asked who is in a learned segment, with the keys of this journal."""
    signer = CookieSigner(journal.secret("segment_cookie_key"))
    return Resolver(hash_user=partial(user_hash, journal.secret()), signer=signer, clock=clock)


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
