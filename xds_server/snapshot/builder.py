"""Snapshots, one after the other: a pure function of mesh and splits that does not do again what it has done before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

from xds_server import resources
from xds_server.mesh import Address, Mesh, Service, ServiceSplits, Version
from xds_server.node import NodeKind
from xds_server.resources.clusters import cluster_name, needs_dns
from xds_server.resources.entries import Entry
from xds_server.resources.routes import NO_SPLITS
from xds_server.snapshot import pack
from xds_server.snapshot.pack import PackedHost
from xds_server.snapshot.resource import Resource, ResourceType
from xds_server.snapshot.snapshot import InconsistentSnapshotError, Named, Snapshot

Endpoints: TypeAlias = Mapping[str, tuple[Address, ...]]

NO_ENDPOINTS: Endpoints = MappingProxyType({})

HOSTS_KEPT = 8
"""Virtual hosts kept for each service: the one in force and those that a rollback may call for."""


@dataclass(slots=True, kw_only=True)
class _View:
    """What one kind of node was built from last.

    `fixed`: what splits do not touch. `made_from`: entry and services of each route configuration, and `routes_of` the
    other way round. `routes`, `hosts`: the route configurations, and what each is made of, with these `splits`.
    """

    mesh: Mesh
    fixed: Mapping[ResourceType, Named]
    made_from: Mapping[str, tuple[Entry, tuple[Service, ...]]]
    routes_of: Mapping[str, list[str]]
    routes: Named
    hosts: dict[str, tuple[PackedHost, ...]]
    endpoints: Endpoints
    splits: Mapping[str, ServiceSplits] | None = None
    snapshot: Snapshot | None = None


class SnapshotBuilder:
    """Builds the snapshots of every kind of node. What has not changed is the same object as in the one before.

    A change of one service's splits costs that service, whatever else the mesh holds.
    """

    def __init__(self) -> None:
        self._views: dict[NodeKind, _View] = {}
        self._hosts: dict[tuple[str, str | None], list[tuple[Service, ServiceSplits, PackedHost]]] = {}
        self._clusters: dict[str, tuple[Version, Resource, Resource | None]] = {}

    def build(
        self, mesh: Mesh, splits: Mapping[str, ServiceSplits], kind: NodeKind, endpoints: Endpoints = NO_ENDPOINTS
    ) -> Snapshot:
        """The snapshot of one kind of node. `endpoints`: of versions whose endpoints are not in the mesh, by cluster.

        Raises
        ------
        InconsistentSnapshotError
            Two resources of one type share a name, a domain is given twice, or weights do not add up.
        """
        view = self._views.get(kind)
        if view is None or view.mesh is not mesh:
            self._forget(mesh)
            view = self._views[kind] = self._view(mesh, kind, endpoints, view)
        elif view.endpoints is not endpoints:
            view.fixed = {**view.fixed, **self._clusters_of(mesh, _entries(view), endpoints, view.snapshot)}
            view.endpoints = endpoints
        current = {**view.fixed, ResourceType.RDS: self._routes(view, splits)}
        before = view.snapshot
        if before is None:
            view.snapshot = Snapshot(current)
        else:
            changed = {t: named for t, named in current.items() if named is not before.resources[t]}
            view.snapshot = before.but(changed) if changed else before
        return view.snapshot

    def prepare(self, mesh: Mesh, service: str, splits: Iterable[ServiceSplits]) -> None:
        """Serialise ahead of time what a service's routes would be with these splits.

        Raises
        ------
        InconsistentSnapshotError
            Envoy would reject them.
        """
        for each in splits:
            _check(service, [self._host(mesh.services[service], each, None)])

    def _forget(self, mesh: Mesh) -> None:
        """Keep nothing of services that are no longer there."""
        for key in [key for key in self._hosts if key[0] not in mesh.services]:
            del self._hosts[key]
        names = {cluster_name(s.name, version) for s in mesh.services.values() for version in s.versions}
        for name in [name for name in self._clusters if name not in names]:
            del self._clusters[name]

    # --- What splits do not touch

    def _view(self, mesh: Mesh, kind: NodeKind, endpoints: Endpoints, before: _View | None) -> _View:
        entries = resources.entries_of(mesh, kind)
        scopes = [pack.scope(scope, service) for e in entries for scope, service in resources.scopes(e)]
        snapshot = before.snapshot if before is not None else None
        fixed = {
            **self._clusters_of(mesh, entries, endpoints, snapshot),
            ResourceType.LDS: _same(snapshot, ResourceType.LDS, map(_listener, entries)),
            ResourceType.SRDS: _same(snapshot, ResourceType.SRDS, scopes),
            ResourceType.RTDS: _same(snapshot, ResourceType.RTDS, [_dead_man(mesh)]),
        }
        made_from = _index_routes(entries)
        routes_of: dict[str, list[str]] = {}
        for name, (_, services) in made_from.items():
            for service in services:
                routes_of.setdefault(service.name, []).append(name)
        routes, hosts = _left(before, made_from)
        return _View(
            mesh=mesh,
            fixed=fixed,
            made_from=made_from,
            routes_of=routes_of,
            routes=routes,
            hosts=hosts,
            endpoints=endpoints,
            snapshot=snapshot,
        )

    def _clusters_of(
        self, mesh: Mesh, entries: Iterable[Entry], endpoints: Endpoints, before: Snapshot | None
    ) -> dict[ResourceType, Named]:
        """CDS and EDS."""
        found: dict[str, tuple[Resource, Resource | None]] = {}
        for entry in entries:
            for name, _, version in resources.destinations(mesh, entry):
                if name not in found:
                    here = endpoints.get(name)
                    found[name] = self._cluster(name, version if here is None else replace(version, endpoints=here))
        return {
            ResourceType.CDS: _same(before, ResourceType.CDS, (cluster for cluster, _ in found.values())),
            ResourceType.EDS: _same(before, ResourceType.EDS, (a for _, a in found.values() if a is not None)),
        }

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
        before = view.splits
        changed = {n for n in view.routes_of if before is None or before.get(n) is not splits.get(n)}
        routes: dict[str, Resource] = {}
        made_of: dict[str, tuple[PackedHost, ...]] = {}  # noted once all are made: what is refused is not there
        for name in dict.fromkeys(name for service in changed for name in view.routes_of[service]):
            entry, services = view.made_from[name]
            hosts = tuple(self._host(s, splits.get(s.name, NO_SPLITS), entry.to) for s in services)
            known = view.hosts.get(name)
            if known is None or any(a is not b for a, b in zip(hosts, known, strict=True)):
                _check(name, hosts)
                routes[name] = pack.routes(resources.route_configuration(entry, name), hosts)
                made_of[name] = hosts
        if routes:
            view.routes = {**view.routes, **routes}
            view.hosts |= made_of
        view.splits = dict(splits)
        if view.snapshot is None or view.routes is not view.snapshot.resources[ResourceType.RDS]:
            view.routes = _same(view.snapshot, ResourceType.RDS, view.routes.values())
        return view.routes

    def _host(self, service: Service, splits: ServiceSplits, to: str | None) -> PackedHost:
        kept = self._hosts.setdefault((service.name, to), [])
        for place, (of, at, host) in enumerate(kept):
            if (of is service or of == service) and (at is splits or at == splits):
                if place:
                    kept.insert(0, kept.pop(place))
                return host
        exposed = () if to is not None else exposed_segments(service, splits)
        host = pack.host(resources.virtual_host(service, splits, to=to), exposed)
        kept.insert(0, (service, splits, host))
        del kept[HOSTS_KEPT:]
        return host


def _dead_man(mesh: Mesh) -> Resource:
    ttl_ms = round((mesh.dead_man_s or 0.0) * 1_000)
    return pack.runtime(on=resources.runtime(canary=True), off=resources.runtime(canary=False), ttl_ms=ttl_ms)


def _listener(entry: Entry) -> Resource:
    return pack.listener(resources.listener(entry), dict.fromkeys(map(entry.routes_name, entry.services)))


def _index_routes(entries: Iterable[Entry]) -> dict[str, tuple[Entry, tuple[Service, ...]]]:
    """Each route configuration, with its entry and its services."""
    found: dict[str, tuple[Entry, tuple[Service, ...]]] = {}
    for entry in entries:
        own = {entry.name: entry.services}
        if entry.is_scoped:
            own = {entry.routes_name(service): (service,) for service in entry.services}
        for name, services in own.items():
            if name in found:
                raise InconsistentSnapshotError(f"two RDS resources are called {name}")
            found[name] = (entry, services)
    return found


def _left(
    before: _View | None, made_from: Mapping[str, tuple[Entry, tuple[Service, ...]]]
) -> tuple[Named, dict[str, tuple[PackedHost, ...]]]:
    """The route configurations of another mesh that are made in the same way, and what they are made of."""
    if before is None:
        return {}, {}
    hosts = {
        name: hosts
        for name, hosts in before.hosts.items()
        if name in made_from and _is_alike(made_from[name], before.made_from[name])
    }
    return {name: before.routes[name] for name in hosts}, hosts


def _is_alike(one: tuple[Entry, tuple[Service, ...]], other: tuple[Entry, tuple[Service, ...]]) -> bool:
    """Whether two route configurations have the same head; their hosts are looked at one by one."""
    heads = [(entry.to, entry.kind.role, entry.looks_at_source, len(services)) for entry, services in (one, other)]
    return heads[0] == heads[1]


def exposed_segments(service: Service, splits: ServiceSplits) -> Iterator[str]:
    """Segments of which some people go to a canary."""
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


def _same(before: Snapshot | None, kind: ResourceType, found: Iterable[Resource]) -> Named:
    """What was found, by name: the very mapping of the snapshot before, if that says the same.

    So whoever looks for changes finds none at a glance.
    """
    after = _index(kind, found)
    if before is None or before.resources[kind].keys() != after.keys():
        return after
    named = before.resources[kind]
    is_same = all(
        (old := named[name]) is new or (old.version == new.version and old.needs == new.needs)
        for name, new in after.items()
    )
    return named if is_same else after


def _entries(view: _View) -> Iterable[Entry]:
    return {entry.name: entry for entry, _ in view.made_from.values()}.values()
