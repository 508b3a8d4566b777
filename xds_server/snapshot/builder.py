"""Snapshots, one after the other: a pure function of mesh and splits that does not do again what it has done before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from xds_server import resources
from xds_server.mesh import Mesh, Service, ServiceSplits, Version
from xds_server.node import NodeKind
from xds_server.resources.clusters import cluster_name, needs_dns
from xds_server.resources.entries import Entry
from xds_server.resources.routes import NO_SPLITS
from xds_server.snapshot import pack
from xds_server.snapshot.pack import PackedHost
from xds_server.snapshot.resource import Resource, ResourceType
from xds_server.snapshot.snapshot import InconsistentSnapshotError, Named, Snapshot

HOSTS_KEPT = 8
"""Virtual hosts kept for each service: the one in force and those that a rollback may call for."""

_Kept = TypeVar("_Kept")


@dataclass(slots=True, kw_only=True)
class _View:
    """What one kind of node was built from last. `routes`: by name, with the hosts that it was made of."""

    mesh: Mesh
    entries: tuple[Entry, ...]
    fixed: Mapping[ResourceType, Named]
    routes: dict[str, tuple[tuple[PackedHost, ...], Resource]]
    snapshot: Snapshot | None = None


class SnapshotBuilder:
    """Builds the snapshots of every kind of node. What has not changed is the same object as in the one before.

    A change of one service's splits costs that service, whatever else the mesh holds.
    """

    def __init__(self) -> None:
        self._views: dict[NodeKind, _View] = {}
        self._hosts: dict[tuple[str, str | None], list[tuple[Service, ServiceSplits, PackedHost]]] = {}
        self._clusters: dict[str, tuple[Version, Resource, Resource | None]] = {}

    def build(self, mesh: Mesh, splits: Mapping[str, ServiceSplits], kind: NodeKind) -> Snapshot:
        """The snapshot of one kind of node.

        Raises
        ------
        InconsistentSnapshotError
            Two resources of one type share a name, a domain is given twice, or weights do not add up.
        """
        view = self._views.get(kind)
        if view is None or view.mesh is not mesh:
            self._forget(mesh)
            view = self._views[kind] = self._view(mesh, kind, view)
        changed: dict[ResourceType, Named] = {ResourceType.RDS: self._routes(view, splits)}
        before = view.snapshot
        if before is None:
            view.snapshot = Snapshot({**view.fixed, **changed})
        else:
            changed |= view.fixed
            changed = {t: named for t, named in changed.items() if named is not before.resources[t]}
            view.snapshot = before.but(changed) if changed else before
        return view.snapshot

    def prepare(self, mesh: Mesh, service: str, splits: Iterable[ServiceSplits]) -> None:
        """Serialise ahead of time what a service's routes would be with these splits."""
        for each in splits:
            self._host(mesh.services[service], each, None)

    def _forget(self, mesh: Mesh) -> None:
        """Keep nothing of services that are no longer there."""
        for key in [key for key in self._hosts if key[0] not in mesh.services]:
            del self._hosts[key]
        names = {cluster_name(s.name, version) for s in mesh.services.values() for version in s.versions}
        for name in [name for name in self._clusters if name not in names]:
            del self._clusters[name]

    # --- What splits do not touch

    def _view(self, mesh: Mesh, kind: NodeKind, before: _View | None) -> _View:
        entries = resources.entries_of(mesh, kind)
        clusters, assignments = self._endpoints(mesh, entries)
        scopes = [pack.scope(scope, service) for e in entries for scope, service in resources.scopes(e)]
        fixed = {
            ResourceType.CDS: _index(ResourceType.CDS, clusters),
            ResourceType.EDS: _index(ResourceType.EDS, assignments),
            ResourceType.LDS: _index(ResourceType.LDS, map(_listener, entries)),
            ResourceType.SRDS: _index(ResourceType.SRDS, scopes),
        }
        snapshot = before.snapshot if before is not None else None
        if snapshot is not None:
            fixed = {t: _same(snapshot.resources[t], named) for t, named in fixed.items()}
        return _View(mesh=mesh, entries=entries, fixed=fixed, routes={}, snapshot=snapshot)

    def _endpoints(self, mesh: Mesh, entries: Iterable[Entry]) -> tuple[list[Resource], list[Resource]]:
        found: dict[str, tuple[Resource, Resource | None]] = {}
        for entry in entries:
            for name, _, version in resources.destinations(mesh, entry):
                if name not in found:
                    found[name] = self._cluster(name, version)
        return [c for c, _ in found.values()], [a for _, a in found.values() if a is not None]

    def _cluster(self, name: str, version: Version) -> tuple[Resource, Resource | None]:
        known = self._clusters.get(name)
        if known is not None and known[0] == version:
            return known[1:]
        cluster = pack.cluster(resources.cluster(name, version))
        assignment = None
        if not needs_dns(version.endpoints):
            assignment = pack.assignment(resources.assignment(name, version.endpoints), cluster)
        self._clusters[name] = (version, cluster, assignment)
        return cluster, assignment

    # --- Routes

    def _routes(self, view: _View, splits: Mapping[str, ServiceSplits]) -> Named:
        """All route configurations; the mapping of the snapshot before, if nothing has changed."""
        routes = {}
        for entry in view.entries:
            for name, services in _by_routes(entry):
                hosts = tuple(self._host(s, splits.get(s.name, NO_SPLITS), entry.to) for s in services)
                made_of, resource = view.routes.get(name, (None, None))
                if made_of is None or resource is None or any(a is not b for a, b in zip(hosts, made_of, strict=True)):
                    _check(name, hosts)
                    resource = pack.routes(resources.route_configuration(entry, name), hosts)
                    view.routes[name] = (hosts, resource)
                if name in routes:
                    raise InconsistentSnapshotError(f"two RDS resources are called {name}")
                routes[name] = resource
        return _same(view.snapshot.resources[ResourceType.RDS], routes) if view.snapshot is not None else routes

    def _host(self, service: Service, splits: ServiceSplits, to: str | None) -> PackedHost:
        kept = self._hosts.setdefault((service.name, to), [])
        for place, (of, at, host) in enumerate(kept):
            if (of is service or of == service) and (at is splits or at == splits):
                if place:
                    kept.insert(0, kept.pop(place))
                return host
        exposed = () if to is not None else _exposed(service, splits)
        host = pack.host(resources.virtual_host(service, splits, to=to), exposed)
        kept.insert(0, (service, splits, host))
        del kept[HOSTS_KEPT:]
        return host


def _listener(entry: Entry) -> Resource:
    return pack.listener(resources.listener(entry), dict.fromkeys(map(entry.routes_name, entry.services)))


def _by_routes(entry: Entry) -> Iterator[tuple[str, tuple[Service, ...]]]:
    if not entry.is_scoped:
        yield entry.name, entry.services
        return
    for service in entry.services:
        yield entry.routes_name(service), (service,)


def _exposed(service: Service, splits: ServiceSplits) -> Iterator[str]:
    for segment in service.spec.segments:
        split = splits.segments.get(segment.name)
        if segment.pin is None and split is not None and split.canary is not None and split.canary_bp > 0:
            yield segment.name


def _check(name: str, hosts: Iterable[PackedHost]) -> None:
    """Refuse what Envoy would reject."""
    problems = [problem for host in hosts for problem in host.problems]
    seen: set[str] = set()
    for domain in (domain for host in hosts for domain in host.domains):
        if domain in seen:
            problems.append(f"domain {domain} belongs to more than one service")
        seen.add(domain)
    if problems:
        raise InconsistentSnapshotError("; ".join(f"RDS {name}: {problem}" for problem in dict.fromkeys(problems)))


def _index(kind: ResourceType, found: Iterable[Resource]) -> Named:
    named: dict[str, Resource] = {}
    for resource in found:
        if resource.name in named:
            raise InconsistentSnapshotError(f"two {kind} resources are called {resource.name}")
        named[resource.name] = resource
    return MappingProxyType(named)


def _same(before: Named, after: Named) -> Named:
    """`before`, if `after` says the same, so that whoever looks for changes finds none at a glance."""
    if before.keys() != after.keys():
        return after
    is_same = all(
        (old := before[name]) is new or (old.version == new.version and old.needs == new.needs)
        for name, new in after.items()
    )
    return before if is_same else after
