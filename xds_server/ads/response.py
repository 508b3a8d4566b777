"""Responses, and the bodies that many streams share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from xds_server.ads import wire
from xds_server.snapshot import Resource, ResourceType, Snapshot, content_version
from xds_server.snapshot.snapshot import Changes

MAX_BODIES = 256  # of one target: streams in rare states make bodies that nobody else wants


class Variant(StrEnum):
    """The two transports of xDS. `SOTW`: state of the world."""

    SOTW = "sotw"
    DELTA = "delta"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Body:
    """All of a response but its nonce, serialised once.

    `version`: of the whole type (in delta for people only). `removed`: delta only. `missing`: asked for and not there.
    """

    variant: Variant
    type: ResourceType
    version: str
    resources: Mapping[str, Resource]
    removed: tuple[str, ...]
    missing: tuple[str, ...]
    encoded: bytes = field(repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether the client drops whatever is not in it."""
        return self.variant is Variant.SOTW and self.type.is_whole_state

    def keeps(self, name: str) -> bool:
        """Whether a client that has a resource still has it once it has taken this."""
        return name in self.resources if self.is_whole else name not in self.removed


@dataclass(frozen=True, slots=True)
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
        encoded=encoded,
    )


class Target:
    """A snapshot as streams are fed from it. Bodies that more than one of them will be sent are made once.

    `changes`: against `since`, the snapshot that most streams were fed from before. `urgent`: route configurations in
    which some segment's canary has been taken back; they go out before anything else.
    """

    __slots__ = ("_bodies", "changes", "since", "snapshot", "urgent")

    def __init__(self, snapshot: Snapshot, since: Snapshot | None = None) -> None:
        self.snapshot = snapshot
        self.since = since
        self.changes: Changes = snapshot.changes(since) if since is not None else {}
        self.urgent = _taken_back(snapshot, since, self.changes)
        self._bodies: dict[tuple[object, ...], Body] = {}

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
            found = make_body(variant, kind, version, resources, removed=removed, missing=missing)
            self._keep(key, found)
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


def _taken_back(snapshot: Snapshot, since: Snapshot | None, changes: Changes) -> frozenset[str]:
    names = changes.get(ResourceType.RDS)
    if names is None or since is None:
        return frozenset()
    before, after = since.resources[ResourceType.RDS], snapshot.resources[ResourceType.RDS]
    return frozenset(n for n in names if n in before and n in after and before[n].exposed - after[n].exposed)
