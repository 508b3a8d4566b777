"""The configuration in force, who is connected, and what each of them has ACKed.

Everything runs on one event loop and nothing here waits while it changes state: streams are woken, and each works out
what to send when it can write (so that a slow Envoy is sent the newest state once, not every state in turn).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from xds_server import node as nodes_of
from xds_server import resources
from xds_server.ads.session import Nacked, Request, Response, StreamSession
from xds_server.mesh import Mesh, ServiceSplits
from xds_server.node import NodeKind, Role
from xds_server.snapshot import ResourceType, Snapshot

DEBOUNCE_S = 0.01
"""Decisions of one tick go out together. What is urgent does not wait."""

REJECTIONS_KEPT = 16
GONE_NODES_KEPT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """One NACK. `services`: those whose resources had changed in the rejected response. `at_unix_ns`: when."""

    node: str
    services: tuple[str, ...]
    type: str
    version: str
    message: str
    at_unix_ns: int


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


@dataclass(slots=True, kw_only=True, eq=False)
class Stream:
    """One connected Envoy. State is kept by stream, not by node ID: two may share an ID during a hot restart."""

    node: str
    cluster: str
    kind: NodeKind
    session: StreamSession = field(default_factory=StreamSession)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    sent: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is remembered of a node ID, across its streams."""

    cluster: str
    role: Role
    streams: list[Stream] = field(default_factory=list)
    acked: dict[str, str] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    rejections: deque[Rejection] = field(default_factory=lambda: deque(maxlen=REJECTIONS_KEPT))


class AdsCache:
    """Snapshots by kind of node, and the streams that are fed from them. All methods belong to the loop's thread."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.on_rejection: Callable[[Rejection], None] | None = None
        self.ready = asyncio.Event()
        self._mesh: Mesh | None = None
        self._snapshots: Mapping[NodeKind, Snapshot] = {}
        self._known: dict[str, _Known] = {}
        self._progress = asyncio.Event()
        self._pending_wake: asyncio.TimerHandle | None = None

    # --- Publishing ---

    def publish(self, mesh: Mesh, splits: Mapping[str, ServiceSplits], *, urgent: bool = False) -> None:
        """Make these splits the configuration of every node; `urgent` (a rollback) does not wait for others.

        Raises
        ------
        InconsistentSnapshotError
            Nothing has been changed: what was published before stays in force.
        """
        built = {kind: Snapshot.of(resources.build(mesh, splits, kind)) for kind in nodes_of.kinds(mesh)}
        for snapshot in built.values():
            snapshot.check()
        self.publish_snapshots(mesh, built, urgent=urgent)

    def publish_snapshots(self, mesh: Mesh, snapshots: Mapping[NodeKind, Snapshot], *, urgent: bool = False) -> None:
        """Make these snapshots, one for each kind of node of the mesh, the configuration in force, without a check."""
        self._mesh, self._snapshots = mesh, dict(snapshots)
        for stream in self._streams():
            self._feed(stream, mesh)
        self.ready.set()
        if urgent:
            self._wake_all()
        elif self._pending_wake is None:
            self._pending_wake = asyncio.get_running_loop().call_later(DEBOUNCE_S, self._wake_all)

    def _wake_all(self) -> None:
        if self._pending_wake is not None:
            self._pending_wake.cancel()
            self._pending_wake = None
        for stream in self._streams():
            stream.wake.set()

    def _feed(self, stream: Stream, mesh: Mesh) -> None:
        stream.kind = nodes_of.kind_of(mesh, stream.node, stream.cluster)
        stream.session.offer(self._snapshots[stream.kind])
        self._known[stream.node].role = stream.kind.role

    def _streams(self) -> Iterator[Stream]:
        for known in self._known.values():
            yield from known.streams

    # --- Streams ---

    def open(self, node: str, cluster: str) -> Stream:
        """Register a stream; it is answered once something has been published."""
        stream = Stream(node=node, cluster=cluster, kind=nodes_of.ANY_SIDECAR)
        known = self._known.pop(node, None) or _Known(cluster=cluster, role="sidecar")
        self._known[node] = known  # the newest last, for `_forget_gone`
        known.streams.append(stream)
        known.cluster = cluster
        if self._mesh is not None:
            self._feed(stream, self._mesh)
        self.counters.streams += 1
        self._advance()
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a stream; what its node last ACKed stays visible."""
        self._known[stream.node].streams.remove(stream)
        self._forget_gone()
        self._advance()

    def _forget_gone(self) -> None:
        """Bound the memory of nodes that come and go under ever new IDs."""
        gone = [node for node, known in self._known.items() if not known.streams]
        for node in gone[:-GONE_NODES_KEPT]:
            del self._known[node]

    def receive(self, stream: Stream, request: Request) -> None:
        """Take one request of a stream."""
        stale_before = stream.session.stale_n
        answer = stream.session.receive(request, time.monotonic())
        self.counters.stale += stream.session.stale_n - stale_before
        stream.wake.set()
        if answer is None:
            return
        if isinstance(answer, Nacked):
            self._rejected(stream, answer)
        else:
            kind = answer.response.type
            self.counters.by_type["ack", kind] += 1
            self._known[stream.node].acked[kind] = stream.session.acked_version(kind)
        self._advance()

    def _rejected(self, stream: Stream, nack: Nacked) -> None:
        self.counters.by_type["nack", nack.response.type] += 1
        blamed = nack.changed or nack.response.resources
        rejection = Rejection(
            node=stream.node,
            services=tuple(sorted({service for resource in blamed for service in resource.services})),
            type=nack.response.type,
            version=nack.response.version,
            message=nack.message,
            at_unix_ns=time.time_ns(),
        )
        self._known[stream.node].rejections.append(rejection)
        if self.on_rejection is not None:
            self.on_rejection(rejection)

    def next_response(self, stream: Stream) -> Response | None:
        """Return what to write to a stream now; it counts as sent."""
        response = stream.session.next_response(time.monotonic())
        if response is not None:
            self.counters.by_type["push", response.type] += 1
            self._known[stream.node].sent[response.type] = response.version
        return response

    # --- Looking ---

    def nodes(self) -> tuple[NodeView, ...]:
        """Every node that is or lately was connected, by ID."""
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

    async def in_force(
        self, service: str, generation: int, nodes: Collection[str] | None, timeout_s: float
    ) -> tuple[str, ...]:
        """Wait until every node has ACKed routes of `generation` or later for `service`.

        `nodes` None: every connected node that serves it. Returns the names of the laggards, none when it is in force.
        Ends before the time is up when the laggards have all rejected it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (laggards := self._laggards(service, generation, nodes)) and not all(
                    self._has_rejected(node, service, generation) for node in laggards
                ):
                    await self._progress.wait()
        except TimeoutError:
            laggards = self._laggards(service, generation, nodes)
        return tuple(sorted(laggards))

    def _laggards(self, service: str, generation: int, nodes: Collection[str] | None) -> list[str]:
        if nodes is None:
            nodes = [
                node for node, known in self._known.items() if any(self._serves(s, service) for s in known.streams)
            ]
        return [node for node in nodes if not self._is_in_force(node, service, generation)]

    def _serves(self, stream: Stream, service: str) -> bool:
        snapshot = self._snapshots.get(stream.kind)
        return snapshot is not None and any(
            service in routes.generations for routes in snapshot.resources[ResourceType.RDS].values()
        )

    def _is_in_force(self, node: str, service: str, generation: int) -> bool:
        """Whether each live stream of the node has it: of two, either may be the one that traffic goes through."""
        streams = self._known[node].streams if node in self._known else []
        return bool(streams) and all(
            generation <= max(_acked_generations(stream, service), default=-1) for stream in streams
        )

    def _has_rejected(self, node: str, service: str, generation: int) -> bool:
        known = self._known.get(node)
        return known is not None and any(
            routes.generations.get(service, -1) >= generation and stream.session.has_rejected(ResourceType.RDS, routes)
            for stream in known.streams
            for routes in self._snapshots[stream.kind].resources[ResourceType.RDS].values()
        )

    def _advance(self) -> None:
        """Let everybody who waits for ACKs look again."""
        self._progress.set()
        self._progress = asyncio.Event()


def _acked_generations(stream: Stream, service: str) -> Iterator[int]:
    for routes in stream.session.acked(ResourceType.RDS).values():
        if service in routes.generations:
            yield routes.generations[service]
