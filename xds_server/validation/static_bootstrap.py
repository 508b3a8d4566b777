"""One kind of node's resources as one static bootstrap: all that Envoy needs to check them, and no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from xds_server.resources import Resources
from xds_server.resources.parts import CONTROL_CLUSTER


def static_bootstrap(built: Resources) -> Bootstrap:
    """Return a bootstrap that has inline what Envoy would ask for over RDS and EDS; all else is as it was.

    Two changes keep its check off the network: hosts that are found by DNS become 127.0.0.1, since Envoy sends its
    queries even when it only validates, and the control plane's cluster, which the access logs name, has no endpoint.

    A reference that leads nowhere is not found here but by `Snapshot.check`: the listener keeps its `rds`, which Envoy
    then does not follow, and the cluster has no endpoints, which it accepts.
    """
    routes = {config.name: config for config in built.routes}
    assignments = {assignment.cluster_name: assignment for assignment in built.assignments}
    bootstrap = Bootstrap(node=Node(id=CONTROL_CLUSTER, cluster=CONTROL_CLUSTER))  # no `rds` without a name
    static = bootstrap.static_resources
    static.listeners.extend(_with_routes(listener, routes) for listener in built.listeners)
    static.clusters.extend(_with_endpoints(cluster, assignments) for cluster in built.clusters)
    static.clusters.add(name=CONTROL_CLUSTER, type=Cluster.STATIC)
    return bootstrap


def _with_routes(listener: Listener, routes: Mapping[str, RouteConfiguration]) -> Listener:
    result = Listener()
    result.CopyFrom(listener)
    manager = HttpConnectionManager()
    for chain in (*result.filter_chains, result.default_filter_chain):
        for network_filter in chain.filters:
            packed = network_filter.typed_config
            if not packed.Unpack(manager):
                continue
            if manager.rds.route_config_name in routes:
                manager.route_config.CopyFrom(routes[manager.rds.route_config_name])
            elif manager.HasField("scoped_routes"):
                manager.route_config.CopyFrom(_together(manager.scoped_routes.name, routes.values()))
            packed.Pack(manager)
    return result


def _together(scopes: str, routes: Iterable[RouteConfiguration]) -> RouteConfiguration:
    """All that the scopes of a listener lead to, as one: their domains differ."""
    result = RouteConfiguration()
    for config in (config for config in routes if config.name.startswith(f"{scopes}|")):
        if not result.virtual_hosts:
            result.CopyFrom(config)
        else:
            result.virtual_hosts.extend(config.virtual_hosts)
    result.name = scopes
    return result


def _with_endpoints(cluster: Cluster, assignments: Mapping[str, ClusterLoadAssignment]) -> Cluster:
    result = Cluster()
    result.CopyFrom(cluster)
    if cluster.type == Cluster.EDS:
        name = cluster.eds_cluster_config.service_name or cluster.name
        result.type = Cluster.STATIC
        result.ClearField("eds_cluster_config")
        if name in assignments:
            result.load_assignment.CopyFrom(assignments[name])
    elif cluster.type in (Cluster.STRICT_DNS, Cluster.LOGICAL_DNS):
        _resolve(result.load_assignment)
    return result


def _resolve(assignment: ClusterLoadAssignment) -> None:
    hosts = (host for locality in assignment.endpoints for host in locality.lb_endpoints)
    for address in (host.endpoint.address.socket_address for host in hosts):
        if address.address:
            address.address = "127.0.0.1"
