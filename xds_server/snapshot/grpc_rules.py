"""What gRPC's xDS client would reject, or take without a word and then fail: found in messages before they are packed.

Each function yields a line a problem. The rules are those of its parsers (grpc/src/core/xds/grpc/xds_*_parser.cc) for
what Serinus sends to it; a test confirms each with the real client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import ConfigSource
from envoy.config.endpoint.v3.endpoint_components_pb2 import LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from xds_server.resources.grpc import canonical, sees
from xds_server.resources.parts import is_ip

_UINT32_MAX = 0xFFFF_FFFF


def listener_problems(message: Listener) -> Iterator[str]:
    manager = HttpConnectionManager()
    if not message.api_listener.api_listener.Unpack(manager):
        yield "has no api_listener with an HTTP connection manager"
        return
    if not manager.rds.route_config_name or not _is_ads(manager.rds.config_source):
        yield "its routes do not come over ADS"
    filters = [each.typed_config for each in manager.http_filters]
    if [each.Is(Router.DESCRIPTOR) for each in filters] != [True] or not manager.http_filters[0].name:
        yield "its one HTTP filter is not the router, with a name"


def host_problems(message: VirtualHost) -> Iterator[str]:
    if list(message.domains) != ["*"]:
        yield "its domains are not just *, so an RPC with another authority finds no route"
    if message.typed_per_filter_config:
        yield "it configures a filter that gRPC does not have"
    for route in message.routes:
        for problem in _route_problems(route):
            yield f"route {route.name} {problem}"


def _route_problems(route: Route) -> Iterator[str]:
    match, action = route.match, route.route
    if match.WhichOneof("path_specifier") != "prefix":
        yield "matches no path prefix"
    if match.query_parameters or match.dynamic_metadata or match.filter_state or match.HasField("tls_context"):
        yield "asks for more than path and headers: gRPC skips it, or overlooks the rest"
    if match.HasField("runtime_fraction"):
        yield "depends on runtime, of which gRPC knows the default alone"
    for header in match.headers:
        if not sees(header.name):
            yield f"asks for the header {header.name}, which gRPC does not see"
    weights = [part.weight.value for part in action.weighted_clusters.clusters]
    specifier = action.WhichOneof("cluster_specifier")
    if specifier not in ("cluster", "weighted_clusters"):
        yield "leads to no cluster"
    elif specifier == "weighted_clusters" and not 0 < sum(weights) <= _UINT32_MAX:
        yield f"draws by weights that add up to {sum(weights)}"
    if action.hash_policy or action.weighted_clusters.use_hash_policy.value:
        yield "splits by a hash, and gRPC draws at random"
    if action.HasField("retry_policy") and action.retry_policy.num_retries.value == 0:
        yield "retries zero times"


def cluster_problems(message: Cluster) -> Iterator[str]:
    if message.HasField("transport_socket"):
        yield "has a transport socket"
    if message.lb_policy != Cluster.ROUND_ROBIN or message.HasField("load_balancing_policy"):
        yield "does not balance by round robin"
    if message.type == Cluster.EDS:
        if not _is_ads(message.eds_cluster_config.eds_config):
            yield "its endpoints do not come over ADS"
    elif message.type == Cluster.LOGICAL_DNS:
        if [len(locality.lb_endpoints) for locality in message.load_assignment.endpoints] != [1]:
            yield "has a name to resolve, but not one alone"
    else:
        yield f"is of type {Cluster.DiscoveryType.Name(message.type)}"


def assignment_problems(message: ClusterLoadAssignment) -> Iterator[str]:
    for place, locality in enumerate(message.endpoints):
        for problem in _locality_problems(locality):
            yield f"locality {place} {problem}"
    yield from _priority_problems(message)
    yield from _address_problems(message)


def _priority_problems(message: ClusterLoadAssignment) -> Iterator[str]:
    weights: Counter[int] = Counter()
    for locality in message.endpoints:
        weights[locality.priority] += locality.load_balancing_weight.value
    for priority, weight in sorted(weights.items()):
        if weight > _UINT32_MAX:
            yield f"the weights of priority {priority} add up to {weight}"
    if sorted(weights) != list(range(len(weights))):
        yield f"its priorities have a gap: {', '.join(map(str, sorted(weights)))}"
    names = Counter(
        (each.priority, each.locality.region, each.locality.zone, each.locality.sub_zone) for each in message.endpoints
    )
    for (priority, *name), n in names.items():
        if n > 1:
            yield f"locality {'/'.join(name)} is in priority {priority} {n} times"


def _address_problems(message: ClusterLoadAssignment) -> Iterator[str]:
    addresses = Counter(
        (canonical(host.endpoint.address.socket_address.address), host.endpoint.address.socket_address.port_value)
        for locality in message.endpoints
        for host in locality.lb_endpoints
    )
    for (address, port), n in addresses.items():
        if not is_ip(address):
            yield f"endpoint {address}:{port} is no IP address"
        if n > 1:
            yield f"endpoint {address}:{port} is there {n} times"


def _locality_problems(locality: LocalityLbEndpoints) -> Iterator[str]:
    if locality.load_balancing_weight.value == 0:
        yield "has no weight, so gRPC takes it for none"
    if not locality.HasField("locality"):
        yield "is not named, not even by an empty name"
    weights = [host.load_balancing_weight for host in locality.lb_endpoints if host.HasField("load_balancing_weight")]
    if not all(weight.value for weight in weights):
        yield "has an endpoint of weight 0"


def _is_ads(source: ConfigSource) -> bool:
    return source.WhichOneof("config_source_specifier") in ("ads", "self")
