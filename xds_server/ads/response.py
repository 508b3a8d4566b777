"""Responses, and the bodies that many streams share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from xds_server.ads import wire
from xds_server.snapshot import Resource, ResourceType, Snapshot, content_version
from xds_server.snapshot.snapshot import Changes

MAX_CHUNK_BYTES = 1 << 20
"""Of resources in one response, where the type allows several: a gRPC client takes 4 MiB by default."""

MAX_STEPS = 4  # streams are fed from the newest snapshot and from few older ones
MAX_BODIES = 256  # of one target: streams in rare states make bodies that nobody else wants


class Variant(StrEnum):
    """The two transports of xDS. `SOTW`: state of the world."""

    SOTW = "sotw"
    DELTA = "delta"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Body:
    """All of a response but its nonce, serialised once.

    `version`: of the whole type (in delta for people only). `removed`: delta only. `missing`: asked for and not there.
    `source`: the snapshot's mapping that all its resources were taken from, if they were; else its own resources.
    """

    variant: Variant
    type: ResourceType
    version: str
    resources: Mapping[str, Resource]
    removed: tuple[str, ...]
    missing: tuple[str, ...]
    source: Mapping[str, Resource]
    encoded: bytes = field(repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether the client drops whatever is not in it."""
        return self.variant is Variant.SOTW and self.type.is_whole_state

    def keeps(self, name: str) -> bool:
        """Whether a client that has a resource still has it once it has taken this."""
        return name in self.resources if self.is_whole else name not in self.removed


@dataclass(slots=True)
class Response:
    """What is to be written: to one stream, once."""

    body: Body
    nonce: str

    @property
    def type(self) -> ResourceType:
        return self.body.type

    @property
    def version(self) -> str:
        return self.body.version

    @property
    def resources(self) -> tuple[Resource, ...]:
        return tuple(self.body.resources.values())

    @property
    def removed(self) -> tuple[str, ...]:
        return self.body.removed

    def encode(self) -> bytes:
        """The message in protobuf's wire format."""
        return self.body.encoded + wire.nonce_field(self.nonce)


def make_body(
    variant: Variant,
    kind: ResourceType,
    version: str,
    resources: Mapping[str, Resource],
    *,
    removed: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
    source: Mapping[str, Resource] | None = None,
) -> Body:
    """Serialise a body; resources go out in the order of the mapping."""
    if variant is Variant.SOTW:
        encoded = wire.sotw_body(type_url=kind.url, version=version, resources=resources.values(), missing=missing)
    else:
        encoded = wire.delta_body(
            type_url=kind.url, version=version, resources=resources.values(), removed=removed, missing=missing
        )
    return Body(
        variant=variant,
        type=kind,
        version=version,
        resources=resources,
        removed=removed,
        missing=missing,
        source=source if source is not None else resources,
        encoded=encoded,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What it takes from one snapshot to another.

    `urgent`: route configurations in which some segment's canary is taken back; they go out before anything else.
    `only`: the one resource of all that differs, as it was before, with its type.
    """

    since: Snapshot
    changes: Changes
    urgent: frozenset[str]
    only: tuple[ResourceType, Resource] | None


class Target:
    """A snapshot as streams are fed from it. What more than one of them needs, or will be sent, is made once."""

    __slots__ = ("_bodies", "_chunks", "_steps", "snapshot")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._steps: deque[Step] = deque(maxlen=MAX_STEPS)
        self._bodies: dict[tuple[object, ...], Body] = {}
        self._chunks: dict[tuple[Variant, ResourceType], tuple[Body, ...]] = {}

    def step(self, since: Snapshot) -> Step:
        """What it takes to get here from another snapshot."""
        for step in self._steps:
            if step.since is since:
                return step
        changes = self.snapshot.changes(since)
        step = Step(
            since=since,
            changes=changes,
            urgent=_taken_back(self.snapshot, since, changes),
            only=_only(self.snapshot, since, changes),
        )
        self._steps.appendleft(step)
        return step

    def body(
        self,
        variant: Variant,
        kind: ResourceType,
        names: Iterable[str],
        *,
        removed: tuple[str, ...] = (),
        missing: tuple[str, ...] = (),
    ) -> Body:
        """The body that holds the snapshot's own resources of these names."""
        wanted = tuple(names)
        key = (variant, kind, wanted, removed, missing)
        found = self._bodies.get(key)
        if found is None:
            named = self.snapshot.resources[kind]
            resources = {name: named[name] for name in wanted}
            version = self.snapshot.versions[kind]
            found = make_body(variant, kind, version, resources, removed=removed, missing=missing, source=named)
            self._keep(key, found)
        return found

    def chunks(self, variant: Variant, kind: ResourceType) -> tuple[Body, ...]:
        """The bodies that hold, one after the other, all resources of a type."""
        found = self._chunks.get((variant, kind))
        if found is None:
            names = _cut(self.snapshot.resources[kind])
            found = self._chunks[variant, kind] = tuple(self.body(variant, kind, some) for some in names)
        return found

    def whole(self, kind: ResourceType) -> Body:
        """The state-of-the-world body that holds all resources of a type."""
        key = (Variant.SOTW, kind)
        found = self._bodies.get(key)
        if found is None:
            found = make_body(Variant.SOTW, kind, self.snapshot.versions[kind], self.snapshot.resources[kind])
            self._keep(key, found)
        return found

    def partly(
        self, variant: Variant, kind: ResourceType, resources: Mapping[str, Resource], missing: tuple[str, ...] = ()
    ) -> Body:
        """A body for one stream: with content that the snapshot does not hold, or without some that it holds."""
        version = content_version(resources.values())
        return make_body(variant, kind, version, resources, missing=missing)

    def _keep(self, key: tuple[object, ...], body: Body) -> None:
        if len(self._bodies) >= MAX_BODIES:
            self._bodies.clear()
        self._bodies[key] = body


def _only(snapshot: Snapshot, since: Snapshot, changes: Changes) -> tuple[ResourceType, Resource] | None:
    if len(changes) != 1:
        return None
    ((kind, names),) = changes.items()
    if len(names) != 1:
        return None
    (name,) = names
    before = since.resources[kind].get(name)
    return (kind, before) if before is not None and name in snapshot.resources[kind] else None


def _cut(named: Mapping[str, Resource]) -> list[tuple[str, ...]]:
    chunks: list[list[str]] = []
    size = 0
    for name, resource in named.items():
        size += len(resource.packed)
        if not chunks or size > MAX_CHUNK_BYTES:
            chunks.append([])
            size = len(resource.packed)
        chunks[-1].append(name)
    return [tuple(chunk) for chunk in chunks]


def _taken_back(snapshot: Snapshot, since: Snapshot, changes: Changes) -> frozenset[str]:
    names = changes.get(ResourceType.RDS)
    if names is None:
        return frozenset()
    before, after = since.resources[ResourceType.RDS], snapshot.resources[ResourceType.RDS]
    return frozenset(n for n in names if n in before and n in after and before[n].exposed - after[n].exposed)
