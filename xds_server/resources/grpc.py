"""What gRPC's own xDS client is sent: listeners named as clients name their targets, and routes that gRPC understands.

gRFC A27 (client), A28 (routes), A31 (timeouts), A37 (logical DNS), A44 (retries). Names: listener `<domain>` and
`<domain>:<port>`, route configuration `grpc|<service>`; clusters are called as they are for Envoys.

What gRPC knows nothing of is not built: access logs, identity, cookies, health checks, and the hash of a split. These
routes are built here, and not derived from Envoy's, because gRPC reads the same fields otherwise: it takes a
`runtime_fraction` at its default value, having no runtime that could say anything else, so a canary route that is
switched on over runtime would be off for ever; and it skips, silently, a route with a query parameter.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.api_listener_pb2 import ApiListener
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import (
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    VirtualHost,
    WeightedCluster,
)
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy.type.v3.range_pb2 import Int64Range
from google.protobuf.wrappers_pb2 import UInt32Value

from analysis.spec import TOTAL_BP
from xds_server import mesh as m
from xds_server.assign import BUCKET_HEADER
from xds_server.resources import clusters
from xds_server.resources.clusters import cluster_name, needs_dns
from xds_server.resources.parts import ads, milliseconds, packed
from xds_server.resources.routes import reachable, route_match, split_of, stamp_of

TIMEOUT_SLACK_MS = 2_000
"""gRPC's C core takes one to two seconds off a time that comes over xDS (grpc/grpc#34547, open; in 1.85 still): a
timeout of a second would fail every RPC at once."""

_UNSEEN = frozenset(
    {
        *(":authority", ":method", ":scheme", "host", "user-agent", "te"),
        *("accept-encoding", "grpc-accept-encoding", "grpc-encoding"),
    }
)


def routes_name(service: str) -> str:
    return f"grpc|{service}"


# --- Who is served


def served(mesh: m.Mesh) -> dict[str, tuple[str, ...]]:
    """The services that gRPC clients are sent, each with its targets: what follows `xds:///`."""
    owners = _owners(mesh)
    found: dict[str, tuple[str, ...]] = {}
    for service in mesh.services.values():
        targets = tuple(_targets(service, owners))
        if targets and _unreachable(service) is None:
            found[service.name] = targets
    return found


def limits(mesh: m.Mesh) -> Iterator[str]:
    """What of a mesh gRPC clients do not get, a line each."""
    owners = _owners(mesh)
    for service in mesh.services.values():
        for domain in service.domains:
            if "*" in domain:
                yield f"service {service.name}: a client must name its target, so nobody is served by {domain}"
            elif owners[domain] > 1:
                yield (
                    f"service {service.name}: other services have {domain} as well, so clients must name the port: "
                    f"xds:///{domain}:{service.port}"
                )
        version = _unreachable(service)
        if version is not None:
            yield (
                f"service {service.name} is not served: version {version} has several endpoints, one with a name; "
                f"gRPC takes one name, or IP addresses"
            )
        for name, match in service.matches.items():
            for problem in _unmatched(match) if match is not None else ():
                yield f"nobody is in segment {name} of service {service.name}: {problem}"


def _owners(mesh: m.Mesh) -> Mapping[str, int]:
    """How many services have each domain: they are told apart by port, where there are ports."""
    return Counter(domain for service in mesh.services.values() for domain in service.domains)


def _targets(service: m.Service, owners: Mapping[str, int]) -> Iterator[str]:
    for domain in service.domains:
        if "*" not in domain:
            if owners[domain] == 1:
                yield domain
            yield f"{domain}:{service.port}"


def _unreachable(service: m.Service) -> str | None:
    """Name of a version that gRPC cannot be told how to reach: a cluster has IP addresses, or one name (gRFC A37)."""
    for version in service.versions.values():
        if needs_dns(version.endpoints) and len(version.endpoints) > 1:
            return version.name
    return None


def is_empty(service: m.Service, segment: str) -> bool:
    """Whether no RPC can be in a segment, by how it is matched."""
    match = service.matches.get(segment)
    return match is not None and any(True for _ in _unmatched(match))


def sees(header: str) -> bool:
    """Whether gRPC looks at a header when it chooses a route: at what the application has sent, if it is not binary."""
    name = header.lower()
    return name not in _UNSEEN and not name.endswith("-bin")


def _unmatched(match: m.SegmentMatch) -> Iterator[str]:
    if match.learned is not None:
        yield "a client does not ask who is in a learned segment"
    if match.query:
        yield "an RPC has no query parameters"
    for header in match.headers:
        if not sees(header.name):
            yield f"gRPC chooses routes without the header {header.name}"


# --- Listeners


def listeners(service: str, targets: Iterable[str]) -> Iterator[Listener]:
    """One listener for each target; they lead to the same routes."""
    manager = HttpConnectionManager(
        stat_prefix="grpc",
        rds=Rds(route_config_name=routes_name(service), config_source=ads()),
        http_filters=[HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router()))],
    )
    content = ApiListener(api_listener=packed(manager))
    for target in targets:
        yield Listener(name=target, api_listener=content)


# --- Routes


def virtual_host(service: m.Service, splits: m.ServiceSplits) -> VirtualHost:
    """The routes of a service: segments in order. The listener has chosen the service, so any authority is its own."""
    return VirtualHost(name=service.name, domains=["*"], routes=_routes(service, splits))


def _routes(service: m.Service, splits: m.ServiceSplits) -> list[Route]:
    routes: list[Route] = []
    for segment in service.spec.segments:
        if is_empty(service, segment.name):
            continue
        match = service.matches.get(segment.name) or m.SegmentMatch()
        split = split_of(service, segment, splits)
        first = len(routes)
        for prefix, path in reachable(service.routes, match.path_prefix):
            for bucket, action in _actions(service.name, split):
                route = Route(
                    name=f"{service.name}|{segment.name}|{len(routes) - first}",
                    match=route_match(match, prefix, keyed=False),
                    route=_with_options(action, path),
                    metadata=stamp_of(service.name, segment.name, splits, path),
                )
                if bucket is not None:
                    route.match.headers.append(bucket)
                routes.append(route)
    return routes


def _actions(service: str, split: m.SegmentSplit) -> Iterator[tuple[HeaderMatcher | None, RouteAction]]:
    """(what the bucket must be, action) in matching order.

    gRPC draws a cluster anew for each RPC: only a bucket that comes with the RPC makes a person stay. The canary owns
    the buckets [0, canary_bp), so that a split that grows only ever adds people. What is no bucket is on the baseline.
    """
    baseline = RouteAction(cluster=cluster_name(service, split.baseline))
    if split.canary is None or split.canary_bp == 0:
        yield None, baseline
        return
    if not 0 < split.canary_bp <= TOTAL_BP:
        raise ValueError(f"{service}: a split of {split.canary_bp} is outside 0 to {TOTAL_BP} basis points")
    canary = RouteAction(cluster=cluster_name(service, split.canary))
    is_canary = HeaderMatcher(name=BUCKET_HEADER, range_match=Int64Range(start=0, end=split.canary_bp))
    yield is_canary, canary
    yield HeaderMatcher(name=BUCKET_HEADER, present_match=True), baseline
    shares = ((canary.cluster, split.canary_bp), (baseline.cluster, TOTAL_BP - split.canary_bp))
    drawn = [WeightedCluster.ClusterWeight(name=n, weight=UInt32Value(value=w)) for n, w in shares if w]
    yield None, RouteAction(weighted_clusters=WeightedCluster(clusters=drawn))


def _with_options(action: RouteAction, path: m.Route) -> RouteAction:
    """`timeout` means nothing to gRPC, and it retries by its own codes. A retry stays in the cluster that was drawn."""
    result = RouteAction()
    result.CopyFrom(action)
    limit = milliseconds(0 if path.stream else path.timeout_ms + TIMEOUT_SLACK_MS)
    result.max_stream_duration.max_stream_duration.CopyFrom(limit)
    if path.retries:
        result.retry_policy.CopyFrom(RetryPolicy(retry_on="unavailable", num_retries=UInt32Value(value=path.retries)))
    return result


# --- Clusters


def canonical(host: str) -> str:
    """The one way to write an IP address; a name as it is."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def cluster(name: str, version: m.Version) -> Cluster:
    if needs_dns(version.endpoints):
        return Cluster(name=name, type=Cluster.LOGICAL_DNS, load_assignment=assignment(name, version.endpoints))
    return Cluster(name=name, type=Cluster.EDS, eds_cluster_config=Cluster.EdsClusterConfig(eds_config=ads()))


def assignment(name: str, endpoints: Iterable[m.Address]) -> ClusterLoadAssignment:
    """The endpoints of a cluster. gRPC refuses an address that is given twice, and a locality that is not named."""
    result = clusters.assignment(name, dict.fromkeys((canonical(host), port) for host, port in endpoints))
    for locality in result.endpoints:
        locality.locality.SetInParent()
    return result
