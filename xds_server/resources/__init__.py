"""Envoy's configuration for a mesh and the splits in force: the only builder of Envoy messages.

All of it is pure. A change of split touches route configurations only, so that listeners never drain.

Names: cluster `<service>|<version>`, route `<service>|<segment>|<n>`, virtual host `<service>`; listener
`gateway|<name>`, `sidecar|<port>`, or `sidecar|<name>` for a sidecar that the mesh names; route configuration: that of
its listener, followed by `|<service>` where each service has its own; scope: listener and domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration

from xds_server.mesh import Mesh, ServiceSplits
from xds_server.node import NodeKind
from xds_server.resources.clusters import assignment, cluster, needs_dns
from xds_server.resources.entries import Entry, destinations, entries_of
from xds_server.resources.listeners import listener, scopes
from xds_server.resources.routes import NO_SPLITS, route_configuration, virtual_host
from xds_server.resources.runtime import runtime

__all__ = [
    "Entry",
    "Resources",
    "assignment",
    "build",
    "cluster",
    "destinations",
    "entries_of",
    "listener",
    "route_configuration",
    "runtime",
    "scopes",
    "virtual_host",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Envoy messages of one kind of node."""

    listeners: tuple[Listener, ...]
    scopes: tuple[ScopedRouteConfiguration, ...]
    routes: tuple[RouteConfiguration, ...]
    clusters: tuple[Cluster, ...]
    assignments: tuple[ClusterLoadAssignment, ...]


def build(mesh: Mesh, splits: Mapping[str, ServiceSplits], node: NodeKind) -> Resources:
    """Build the configuration of one kind of node. A service or segment without a split gets its baseline alone."""
    entries = entries_of(mesh, node)
    versions = {name: version for entry in entries for name, _, version in destinations(mesh, entry)}
    return Resources(
        listeners=tuple(listener(entry) for entry in entries),
        scopes=tuple(scope for entry in entries for scope, _ in scopes(entry)),
        routes=tuple(config for entry in entries for config in _routes(entry, splits)),
        clusters=tuple(cluster(name, version) for name, version in versions.items()),
        assignments=tuple(
            assignment(name, version.endpoints)
            for name, version in versions.items()
            if not needs_dns(version.endpoints)
        ),
    )


def _routes(entry: Entry, splits: Mapping[str, ServiceSplits]) -> list[RouteConfiguration]:
    configs: dict[str, RouteConfiguration] = {}
    for service in entry.services:
        name = entry.routes_name(service)
        config = configs.get(name) or configs.setdefault(name, route_configuration(entry, name))
        config.virtual_hosts.append(virtual_host(service, splits.get(service.name, NO_SPLITS), to=entry.to))
    return list(configs.values())
