"""Snapshots for gRPC clients, one after the other: as for Envoys, but each service is by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from envoy.config.route.v3.route_pb2 import RouteConfiguration

from xds_server.mesh import Mesh, Service, ServiceSplits, Version
from xds_server.resources import grpc
from xds_server.resources.clusters import cluster_name
from xds_server.resources.routes import NO_SPLITS
from xds_server.snapshot import grpc_rules, pack
from xds_server.snapshot.builder import HOSTS_KEPT, NO_ENDPOINTS, Endpoints, exposed_segments
from xds_server.snapshot.resource import Resource, ResourceType
from xds_server.snapshot.snapshot import InconsistentSnapshotError, Named, Snapshot


@dataclass(slots=True, kw_only=True)
class _Built:
    """What was built of one service. `routes`: with the splits in force and some others, those used last first."""

    service: Service
    targets: tuple[str, ...]
    listeners: tuple[Resource, ...]
    clusters: Mapping[str, tuple[Version, Resource, Resource | None]]
    routes: list[tuple[ServiceSplits, Resource]] = field(default_factory=list)


class GrpcSnapshotBuilder:
    """Builds the snapshots of gRPC clients. What has not changed is the same object as in the one before.

    Every message is looked at by gRPC's own rules before it is packed.
    """

    def __init__(self) -> None:
        self._built: dict[str, _Built] = {}
        self._made_from: tuple[Mesh, Endpoints] | None = None
        self._snapshot = Snapshot({})

    def build(self, mesh: Mesh, splits: Mapping[str, ServiceSplits], endpoints: Endpoints = NO_ENDPOINTS) -> Snapshot:
        """The snapshot of every gRPC client. `endpoints`: as for Envoys.

        Raises
        ------
        InconsistentSnapshotError
            gRPC would reject a resource, or take it and fail.
        """
        if self._made_from is None or self._made_from[0] is not mesh or self._made_from[1] is not endpoints:
            self._made_from = None
            targets = grpc.served(mesh)
            self._built = {name: self._service(mesh.services[name], targets[name], endpoints) for name in targets}
            self._made_from = (mesh, endpoints)
        built = self._built.values()
        parts = [part for each in built for part in each.clusters.values()]
        found: dict[ResourceType, Iterable[Resource]] = {
            ResourceType.CDS: (cluster for _, cluster, _ in parts),
            ResourceType.EDS: (assignment for _, _, assignment in parts if assignment is not None),
            ResourceType.LDS: (listener for each in built for listener in each.listeners),
            ResourceType.RDS: (_routes(each, splits.get(each.service.name, NO_SPLITS)) for each in built),
        }
        current = {kind: self._same(kind, resources) for kind, resources in found.items()}
        changed = {kind: named for kind, named in current.items() if named is not self._snapshot.resources[kind]}
        if changed:
            self._snapshot = self._snapshot.but(changed)
        return self._snapshot

    def prepare(self, service: str, splits: Iterable[ServiceSplits]) -> None:
        """Serialise ahead of time what a service's routes would be with these splits."""
        if (built := self._built.get(service)) is not None:
            for each in splits:
                _routes(built, each)

    def _same(self, kind: ResourceType, found: Iterable[Resource]) -> Named:
        """What was found, by name: the very mapping of the snapshot before, if that says the same."""
        before, after = self._snapshot.resources[kind], {resource.name: resource for resource in found}
        return before if before == after else MappingProxyType(after)

    def _service(self, service: Service, targets: tuple[str, ...], endpoints: Endpoints) -> _Built:
        before = self._built.get(service.name)
        known = before.clusters if before is not None else {}
        clusters = {}
        for each in service.versions.values():
            name = cluster_name(service.name, each.name)
            here = endpoints.get(name)
            version = each if here is None else replace(each, endpoints=here)
            clusters[name] = known[name] if name in known and known[name][0] == version else _cluster(name, version)
        if before is not None and before.service == service and before.targets == targets:
            before.clusters = clusters
            return before
        return _Built(
            service=service, targets=targets, listeners=tuple(_listeners(service.name, targets)), clusters=clusters
        )


def _listeners(service: str, targets: Iterable[str]) -> Iterator[Resource]:
    for message in grpc.listeners(service, targets):
        _refuse(ResourceType.LDS, message.name, grpc_rules.listener_problems(message))
        yield pack.listener(message, [grpc.routes_name(service)], [service])


def _cluster(name: str, version: Version) -> tuple[Version, Resource, Resource | None]:
    message = grpc.cluster(name, version)
    _refuse(ResourceType.CDS, name, grpc_rules.cluster_problems(message))
    cluster = pack.cluster(message)
    if not cluster.needs:
        return version, cluster, None
    endpoints = grpc.assignment(name, version.endpoints)
    _refuse(ResourceType.EDS, name, grpc_rules.assignment_problems(endpoints))
    return version, cluster, pack.assignment(endpoints, cluster)


def _routes(built: _Built, splits: ServiceSplits) -> Resource:
    for place, (at, resource) in enumerate(built.routes):
        if at is splits or at == splits:
            if place:
                built.routes.insert(0, built.routes.pop(place))
            return resource
    service = built.service
    message = grpc.virtual_host(service, splits)
    host = pack.host(message, (s for s in exposed_segments(service, splits) if not grpc.is_empty(service, s)))
    name = grpc.routes_name(service.name)
    _refuse(ResourceType.RDS, name, (*host.problems, *grpc_rules.host_problems(message)))
    resource = pack.routes(RouteConfiguration(name=name), (host,))
    built.routes.insert(0, (splits, resource))
    del built.routes[HOSTS_KEPT:]
    return resource


def _refuse(kind: ResourceType, name: str, problems: Iterable[str]) -> None:
    found = "; ".join(problems)
    if found:
        raise InconsistentSnapshotError(f"gRPC would not take {kind} {name}: {found}")
