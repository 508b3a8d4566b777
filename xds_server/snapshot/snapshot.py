"""Everything that one kind of node is sent, and how one such state differs from another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeAlias

from xds_server.errors import SerinusError
from xds_server.snapshot.resource import Resource, ResourceType, content_version

Named: TypeAlias = Mapping[str, Resource]
Changes: TypeAlias = Mapping[ResourceType, frozenset[str]]
"""Names of what was added, changed or removed, by type; types without a change are left out."""

NOTHING: Named = MappingProxyType({})


class InconsistentSnapshotError(SerinusError):
    """A snapshot that Envoy would reject or answer with 503; the message names every resource at fault."""


class Snapshot:
    """Resources by type and name. Never changed once made: streams share its mappings.

    `versions`: by type, a hash of the content, equal in every replica.
    """

    __slots__ = ("_routes_of", "resources", "versions")

    def __init__(self, resources: Mapping[ResourceType, Named], versions: Mapping[ResourceType, str] | None = None):
        self.resources: Mapping[ResourceType, Named] = {kind: resources.get(kind, NOTHING) for kind in ResourceType}
        known = versions or {}
        self.versions: Mapping[ResourceType, str] = {
            kind: known.get(kind) or content_version(named.values()) for kind, named in self.resources.items()
        }
        self._routes_of: dict[str, tuple[str, ...]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self.resources == other.resources

    __hash__ = None  # type: ignore[assignment]  # equal by content, which is too much to hash

    def but(self, changed: Mapping[ResourceType, Named]) -> Snapshot:
        """The snapshot with whole types replaced; what is not replaced is shared."""
        kept = {kind: version for kind, version in self.versions.items() if kind not in changed}
        return Snapshot({**self.resources, **changed}, kept)

    def changes(self, since: Snapshot) -> Changes:
        """Names that differ from `since`. O(resources) for the types that are not shared with it."""
        found = {}
        for kind, named in self.resources.items():
            before = since.resources[kind]
            if named is not before and (differing := _differing(before, named)):
                found[kind] = differing
        return found

    def routes_of(self, service: str) -> tuple[str, ...]:
        """Names of the route configurations with splits of a service; found once."""
        found = self._routes_of.get(service)
        if found is None:
            routes = self.resources[ResourceType.RDS].values()
            found = self._routes_of[service] = tuple(r.name for r in routes if service in r.generations)
        return found

    def check(self, since: Snapshot | None = None) -> None:
        """Refuse what Envoy would accept and then answer with 503 or a wait: a reference to what is not there.

        `since`: a snapshot that has passed; only what is not shared with it is looked at.

        Raises
        ------
        InconsistentSnapshotError
            The message names each resource at fault.
        """
        problems = [problem for kind in ResourceType for problem in self._missing(kind, since)]
        if problems:
            raise InconsistentSnapshotError("; ".join(problems))

    def _missing(self, kind: ResourceType, since: Snapshot | None) -> Iterator[str]:
        referred = kind.referred
        if referred is None:
            return
        there = self.resources[referred]
        suspects: Iterable[Resource] = self.resources[kind].values()
        if since is not None and there.keys() >= since.resources[referred].keys():
            before = since.resources[kind]
            suspects = [r for r in suspects if before.get(r.name) is not r]
        for resource in suspects:
            for name in sorted(resource.needs - there.keys()):
                yield f"{kind} {resource.name} refers to {referred} {name}, which does not exist"


def _differing(before: Named, after: Named) -> frozenset[str]:
    gone = before.keys() - after.keys()
    changed = (name for name, r in after.items() if (old := before.get(name)) is not r and _version(old) != r.version)
    return frozenset(gone).union(changed)


def _version(resource: Resource | None) -> str | None:
    return resource.version if resource is not None else None
