"""The configuration in force, who is connected, and what each of them has ACKed.

Everything runs on one event loop and nothing here waits while it changes state: streams are woken, and each works out
what to send when it can write (so that a slow Envoy is sent the newest state once, not every state in turn).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from xds_server import node as nodes_of
from xds_server.ads.answer import Answer, Nacked
from xds_server.ads.response import Response, Target, Variant
from xds_server.ads.session import DeltaRequest, Request, StreamSession
from xds_server.ads.standing import ResourceView
from xds_server.mesh import Mesh, ServiceSplits
from xds_server.node import NodeKind, Role
from xds_server.snapshot import InconsistentSnapshotError, Resource, ResourceType, Snapshot
from xds_server.snapshot.builder import NO_ENDPOINTS, Endpoints, SnapshotBuilder
from xds_server.snapshot.grpc import GrpcSnapshotBuilder

log = logging.getLogger(__name__)

DEBOUNCE_S = 0.01
"""Decisions of one tick go out together. What is urgent does not wait."""

REJECTIONS_KEPT = 16
GONE_NODES_KEPT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """One NACK. `services`, `resources`: those that the client may mean. `at_unix_ns`: when.

    `rolled_back`: services whose canary the rejected response would have taken back, there. `fell_back`: an older
    configuration that takes it back as well is sent in its place.
    """

    node: str
    services: tuple[str, ...]
    type: str
    version: str
    message: str
    at_unix_ns: int
    resources: tuple[str, ...] = ()
    rolled_back: tuple[str, ...] = ()
    fell_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One Envoy as others see it. Versions are by short type name (`RDS`); a gone node keeps its last ones."""

    node: str
    cluster: str
    role: Role
    connected: bool
    acked: Mapping[str, str]
    sent: Mapping[str, str]
    rejections: tuple[Rejection, ...]


@dataclass(slots=True, kw_only=True)
class Counters:
    """Since the start. `stale`: answers to a response that had been overtaken. `by_type`: by event and type."""

    streams: int = 0
    stale: int = 0
    by_type: Counter[tuple[str, str]] = field(default_factory=Counter)

    def _of(self, event: str) -> int:
        return sum(n for (name, _), n in self.by_type.items() if name == event)

    @property
    def pushes(self) -> int:
        return self._of("push")

    @property
    def acks(self) -> int:
        return self._of("ack")

    @property
    def nacks(self) -> int:
        return self._of("nack")


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is remembered of a node ID, across its streams."""

    cluster: str
    role: Role
    streams: list[Stream] = field(default_factory=list)
    acked: dict[str, str] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    rejections: deque[Rejection] = field(default_factory=lambda: deque(maxlen=REJECTIONS_KEPT))

    def remember(self, stream: Stream) -> None:
        """Keep in mind what a stream was sent and has ACKed."""
        sent, acked = stream.session.versions()
        self.sent |= sent
        self.acked |= acked


@dataclass(slots=True, kw_only=True, eq=False)
class Stream:
    """One connected client. State is kept by stream, not by node ID: two may share an ID during a hot restart.

    `wake`: called when it is worth asking `next_response`; with whether it is urgent. `services`: those that it may
    see; None: all. `has_routes`: whether its client can take routes on it; not on a stream of another type's own.
    """

    node: str
    known: _Known
    kind: NodeKind
    session: StreamSession
    wake: Callable[[bool], None]
    services: frozenset[str] | None = None
    has_routes: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class _Wait:
    """Somebody who waits for ACKs. `pending`: streams that have yet to give theirs; `gone`: nodes without a stream."""

    service: str
    generation: int
    pending: set[Stream]
    gone: set[str]
    progress: asyncio.Event = field(default_factory=asyncio.Event)


class AdsCache:
    """Snapshots by kind of node, and the streams that are fed from them. All methods belong to the loop's thread."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.on_rejection: Callable[[Rejection], None] | None = None
        self.ready = asyncio.Event()
        self._builder = SnapshotBuilder()
        self._grpc = GrpcSnapshotBuilder()
        self._has_grpc = False  # whether a gRPC client has ever connected: nothing is built for those that never do
        self._published: tuple[Mesh, Mapping[str, ServiceSplits], Endpoints] | None = None
        self._mesh: Mesh | None = None
        self._targets: dict[NodeKind, Target] = {}
        self._known: dict[str, _Known] = {}
        self._waits: set[_Wait] = set()
        self._pending_wake: asyncio.TimerHandle | None = None

    # --- Publishing

    def publish(
        self,
        mesh: Mesh,
        splits: Mapping[str, ServiceSplits],
        *,
        endpoints: Endpoints = NO_ENDPOINTS,
        urgent: bool = False,
    ) -> None:
        """Make these splits, and endpoints of versions that have none in the mesh, the configuration of every node.

        A canary that is taken back waits for nothing, and neither does what comes with it; nor what is `urgent`.

        Raises
        ------
        InconsistentSnapshotError
            Nothing has been changed: what was published before stays in force.
        """
        built = {kind: self._builder.build(mesh, splits, kind, endpoints) for kind in nodes_of.kinds(mesh)}
        for kind, snapshot in built.items():
            before = self._targets.get(kind)
            snapshot.check(since=before.snapshot if before is not None else None)
        self._published = (mesh, splits, endpoints)
        if self._has_grpc:
            built |= self._build_for_grpc(mesh, splits, endpoints)
        self.publish_snapshots(mesh, built, urgent=urgent)

    def prepare(self, mesh: Mesh, service: str, splits: Iterable[ServiceSplits]) -> None:
        """Serialise and check ahead of time what may have to go out at once; see `SnapshotBuilder.prepare`."""
        self._builder.prepare(mesh, service, splits)

    def _build_for_grpc(
        self, mesh: Mesh, splits: Mapping[str, ServiceSplits], endpoints: Endpoints
    ) -> dict[NodeKind, Snapshot]:
        """What gRPC clients are sent: what they have, if the new does not pass. Envoys are sent theirs all the same."""
        before = self._targets.get(nodes_of.GRPC)
        try:
            snapshot = self._grpc.build(mesh, splits, endpoints)
            snapshot.check(since=before.snapshot if before is not None else None)
        except InconsistentSnapshotError as error:
            log.error("gRPC clients are left with what they have: %s", error)  # noqa: TRY400 -- one line
            return {nodes_of.GRPC: before.snapshot} if before is not None else {}
        return {nodes_of.GRPC: snapshot}

    def publish_snapshots(self, mesh: Mesh, snapshots: Mapping[NodeKind, Snapshot], *, urgent: bool = False) -> None:
        """Make these snapshots, one for each kind of node of the mesh, the configuration in force, without a check."""
        before = self._targets
        self._targets = {kind: self._target(kind, snapshot) for kind, snapshot in snapshots.items()}
        if mesh is not self._mesh:
            self._mesh = mesh
            for known in self._known.values():
                self._place(known, mesh)
        self.ready.set()
        steps = (target.step(before[kind].snapshot) for kind, target in self._targets.items() if kind in before)
        urgent |= any(step.urgent for step in steps)
        if urgent:
            self._wake_all(urgent=True)
        elif self._pending_wake is None:
            self._pending_wake = asyncio.get_running_loop().call_later(DEBOUNCE_S, self._wake_all)

    def _target(self, kind: NodeKind, snapshot: Snapshot) -> Target:
        before = self._targets.get(kind)
        return before if before is not None and before.snapshot is snapshot else Target(snapshot)

    def _wake_all(self, *, urgent: bool = False) -> None:
        if self._pending_wake is not None:
            self._pending_wake.cancel()
            self._pending_wake = None
        for known in self._known.values():
            for stream in known.streams:
                stream.wake(urgent)

    def _place(self, known: _Known, mesh: Mesh) -> None:
        """Find out what kind of node a client is in this mesh."""
        for stream in known.streams:
            if stream.kind.role != "grpc":
                stream.kind = replace(nodes_of.kind_of(mesh, stream.node, known.cluster), services=stream.services)
            known.role = stream.kind.role

    def _feed(self, stream: Stream) -> None:
        """Let a stream know what its client should have by now."""
        target = self._targets.get(stream.kind)
        if target is not None:
            stream.session.offer(target)

    def _streams(self) -> Iterator[Stream]:
        for known in self._known.values():
            yield from known.streams

    def beat(self) -> None:
        """Tell every Envoy that canaries go on: without it they end when the dead-man switch's time is up."""
        for stream in self._streams():
            stream.session.beat()
            if stream.session.is_due():
                stream.wake(False)

    # --- Streams

    def open(
        self,
        node: str,
        cluster: str,
        variant: Variant,
        wake: Callable[[bool], None],
        *,
        user_agent: str = "",
        services: frozenset[str] | None = None,
        only: ResourceType | None = None,
    ) -> Stream:
        """Register a stream; it is answered once something has been published. `only`: see `StreamSession`."""
        known = self._known.pop(node, None) or _Known(cluster=cluster, role="sidecar")
        self._known[node] = known  # the newest last, for `_forget_gone`
        is_grpc = nodes_of.is_grpc(user_agent)
        kind = nodes_of.GRPC if is_grpc else NodeKind("sidecar", services=services)
        session = StreamSession(variant, may_be_legacy=not is_grpc, only=only)
        has_routes = only in (None, ResourceType.RDS)
        stream = Stream(
            node=node, known=known, kind=kind, session=session, wake=wake, services=services, has_routes=has_routes
        )
        if is_grpc:
            self._expect_grpc()
        known.streams.append(stream)
        known.cluster = cluster
        if self._mesh is not None:
            self._place(known, self._mesh)
        self.counters.streams += 1
        for wait in self._waits:
            if node in wait.gone and has_routes:
                wait.gone.discard(node)
                wait.pending.add(stream)
        return stream

    def _expect_grpc(self) -> None:
        if not self._has_grpc and self._published is not None:
            built = self._build_for_grpc(*self._published)
            self._targets |= {kind: Target(snapshot) for kind, snapshot in built.items()}
        self._has_grpc = True

    def close(self, stream: Stream) -> None:
        """Forget a stream; what its node last ACKed stays visible."""
        stream.known.remember(stream)
        stream.known.streams.remove(stream)
        self._forget_gone()
        for wait in self._waits:
            if stream in wait.pending:
                wait.progress.set()

    def _forget_gone(self) -> None:
        """Bound the memory of nodes that come and go under ever new IDs."""
        gone = [node for node, known in self._known.items() if not known.streams]
        for node in gone[:-GONE_NODES_KEPT]:
            del self._known[node]

    def receive(self, stream: Stream, request: Request | DeltaRequest) -> None:
        """Take one request of a stream."""
        self._feed(stream)
        stale_before = stream.session.stale_n
        answer = stream.session.receive(request, time.monotonic())
        self.counters.stale += stream.session.stale_n - stale_before
        self._answered(stream, request.type, answer)
        self._after(stream)

    def acked(self, stream: Stream, kind: ResourceType) -> None:
        """Take a plain ACK of the response of this type that is in flight."""
        self._answered(stream, kind, stream.session.ack(kind, time.monotonic()))
        self._after(stream)

    @staticmethod
    def _after(stream: Stream) -> None:
        if stream.session.is_due() or stream.session.next_drain() is not None:
            stream.wake(False)

    def _answered(self, stream: Stream, kind: ResourceType, answer: Answer | None) -> None:
        if isinstance(answer, Nacked):
            self._rejected(stream, answer)
        elif answer is not None:
            self.counters.by_type["ack", kind] += 1
        if self._waits and (kind is ResourceType.RDS or stream.kind == nodes_of.GRPC):
            for wait in self._waits:
                self._look_again(wait, stream)

    def _rejected(self, stream: Stream, nack: Nacked) -> None:
        self.counters.by_type["nack", nack.response.type] += 1
        rejection = Rejection(
            node=stream.node,
            services=tuple(sorted({service for resource in nack.culprits for service in resource.services})),
            type=nack.response.type,
            version=nack.response.version,
            resources=tuple(resource.name for resource in nack.culprits),
            message=nack.message,
            at_unix_ns=time.time_ns(),
            rolled_back=tuple(sorted({exposed.partition("|")[0] for exposed in nack.rolled_back})),
            fell_back=nack.fallback is not None,
        )
        stream.known.rejections.append(rejection)
        if self.on_rejection is not None:
            self.on_rejection(rejection)

    def next_response(self, stream: Stream) -> Response | None:
        """Return what to write to a stream now; it counts as sent."""
        session, target = stream.session, self._targets.get(stream.kind)
        response = session.advance(target) if target is not None else None
        if response is None:
            response = session.next_response(time.monotonic())
        if response is not None:
            self.counters.by_type["push", response.body.type] += 1
        return response

    # --- Looking

    def nodes(self) -> tuple[NodeView, ...]:
        """Every node that is or lately was connected, by ID."""
        for known in self._known.values():
            for stream in known.streams:
                known.remember(stream)
        return tuple(
            NodeView(
                node=node,
                cluster=known.cluster,
                role=known.role,
                connected=bool(known.streams),
                acked=dict(known.acked),
                sent=dict(known.sent),
                rejections=tuple(known.rejections),
            )
            for node, known in sorted(self._known.items())
        )

    def clients(self) -> tuple[Stream, ...]:
        """Every stream, by node ID."""
        return tuple(sorted(self._streams(), key=lambda stream: stream.node))

    def is_open(self, stream: Stream) -> bool:
        """Whether it has not ended since."""
        return stream in stream.known.streams

    def standings(self, stream: Stream) -> Iterator[ResourceView]:
        """How a stream's client stands to each resource that it asks for; nothing before the first snapshot."""
        target = self._targets.get(stream.kind)
        return stream.session.standings(target.snapshot) if target is not None else iter(())

    def connected_n(self) -> int:
        """Nodes with a stream."""
        return sum(bool(known.streams) for known in self._known.values())

    def laggards(self, kind: ResourceType, name: str) -> tuple[str, ...]:
        """Connected nodes that may have other content of a resource than what is published. O(streams)."""
        behind = set()
        for stream in self._streams():
            target = self._targets.get(stream.kind)
            there = target.snapshot.resources[kind].get(name) if target is not None else None
            if not stream.session.is_settled(kind, name, there.version if there is not None else None):
                behind.add(stream.node)
        return tuple(sorted(behind))

    async def in_force(
        self,
        service: str,
        generation: int,
        nodes: Collection[str] | None,
        timeout_s: float,
        *,
        excluded: Collection[str] = (),
    ) -> tuple[str, ...]:
        """Wait until every node has ACKed routes of `generation` or later for `service`.

        `nodes` None: every connected node that serves it. Nobody waits for an `excluded` one. gRPC clients of a
        service always count: they send no access logs by which they would be known to carry it. Returns the laggards,
        none when it is in force. Ends before the time is up when the laggards have all rejected it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    wait = self._wait(service, generation, nodes, excluded)
                    if all(self._has_rejected(stream, service) for stream in wait.pending) and not wait.gone:
                        break
                    self._waits.add(wait)
                    try:
                        await wait.progress.wait()
                    finally:
                        self._waits.discard(wait)
        except TimeoutError:
            wait = self._wait(service, generation, nodes, excluded)
        return tuple(sorted({stream.node for stream in wait.pending} | wait.gone))

    def _wait(self, service: str, generation: int, nodes: Collection[str] | None, excluded: Collection[str]) -> _Wait:
        """Who is missing now."""
        wait = _Wait(service=service, generation=generation, pending=set(), gone=set())
        if nodes is None:
            wait.pending = {stream for stream in self._streams() if self._routes(stream, service)}
        else:
            for node in nodes:
                streams = [s for s in self._known[node].streams if s.has_routes] if node in self._known else []
                wait.pending.update(streams)
                if not streams:
                    wait.gone.add(node)
            grpc = (stream for stream in self._streams() if stream.kind == nodes_of.GRPC)
            wait.pending.update(stream for stream in grpc if self._routes(stream, service))
        wait.pending = {
            stream
            for stream in wait.pending
            if stream.node not in excluded and not self._is_in_force(stream, service, generation)
        }
        wait.gone.difference_update(excluded)
        return wait

    def _look_again(self, wait: _Wait, stream: Stream) -> None:
        if stream not in wait.pending:
            return
        if self._is_in_force(stream, wait.service, wait.generation):
            wait.pending.discard(stream)
            if not wait.pending and not wait.gone:
                wait.progress.set()
        elif self._has_rejected(stream, wait.service):
            wait.progress.set()

    def _routes(self, stream: Stream, service: str) -> tuple[str, ...]:
        target = self._targets.get(stream.kind)
        names = target.snapshot.routes_of(service) if target is not None and stream.has_routes else ()
        if stream.kind == nodes_of.GRPC:  # it has the services that its application calls, and no others
            return tuple(name for name in names if stream.session.subscribes(ResourceType.RDS, name))
        return names

    def _is_in_force(self, stream: Stream, service: str, generation: int) -> bool:
        """Whether a stream has ACKed it in any of its route configurations; of two streams, traffic may use either."""
        return any(
            routes is not None and routes.generations.get(service, -1) >= generation and _is_complete(stream, routes)
            for name in self._routes(stream, service)
            for routes in (stream.session.acked_resource(ResourceType.RDS, name),)
        )

    def _has_rejected(self, stream: Stream, service: str) -> bool:
        target = self._targets.get(stream.kind)
        return target is not None and any(
            stream.session.has_rejected(ResourceType.RDS, target.snapshot.resources[ResourceType.RDS][name])
            for name in target.snapshot.routes_of(service)
        )


def _is_complete(stream: Stream, routes: Resource) -> bool:
    """Whether a client that has ACKed routes goes by them. gRPC asks for their clusters then, and waits for all."""
    if stream.kind != nodes_of.GRPC:
        return True
    acked = stream.session.acked_resource
    clusters = [acked(ResourceType.CDS, name) for name in routes.needs]
    return all(c is not None and all(acked(ResourceType.EDS, name) for name in c.needs) for c in clusters)
