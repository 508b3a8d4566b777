"""Envoy's configuration for a mesh and the splits in force: the only builder of Envoy messages.

`build` is a pure function. A change of split touches route configurations only, so that listeners never drain.

Names: cluster `<service>|<version>`, route `<service>|<segment>|<n>`, virtual host `<service>`; listener and route
configuration `gateway|<name>`, `sidecar|<port>`, or `sidecar|<name>` for a sidecar that the mesh names.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.address_pb2 import Address as EnvoyAddress
from envoy.config.core.v3.address_pb2 import SocketAddress
from envoy.config.core.v3.base_pb2 import DataSource, HeaderValue, HeaderValueOption, Metadata
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.health_check_pb2 import HealthCheck
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, Http2ProtocolOptions
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import (
    HeaderMatcher,
    QueryParameterMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig
from envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua, LuaPerRoute
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.metadata.v3.metadata_pb2 import MetadataKey, MetadataKind
from envoy.type.tracing.v3.custom_tag_pb2 import CustomTag
from envoy.type.v3.range_pb2 import Int64Range
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from analysis.spec import TOTAL_BP
from xds_server import mesh as m
from xds_server.node import NodeKind, Role

KEY_HEADER = "x-serinus-key"
HOP_HEADER = "x-serinus-hop"
RESERVED_PREFIX = "x-serinus-"
METADATA = "serinus"
CONTROL_CLUSTER = "serinus"
"""Static cluster of every bootstrap: xDS and access logs."""

LUA_FILTER = "envoy.filters.http.lua"
IDENTITY_LUA = files("xds_server").joinpath("identity.lua").read_text("utf-8")

LOG_FLUSH_MS = 200
LOG_BUFFER_BYTES = 1 << 20  # also the cap above which Envoy drops entries; its default of 16 KiB drops under load
CONNECT_TIMEOUT_MS = 1_000

NO_SPLITS = m.ServiceSplits(rollout="", generation=0, segments={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Envoy messages of one kind of node."""

    listeners: tuple[Listener, ...]
    routes: tuple[RouteConfiguration, ...]
    clusters: tuple[Cluster, ...]
    assignments: tuple[ClusterLoadAssignment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One listener with its route configuration: who listens where, for which services. `to`: forwards only."""

    name: str
    kind: NodeKind
    listen: m.Address
    services: tuple[m.Service, ...]
    strip: tuple[str, ...] = ()
    to: str | None = None


def build(mesh: m.Mesh, splits: Mapping[str, m.ServiceSplits], node: NodeKind) -> Resources:
    """Build the configuration of one kind of node. A service or segment without a split gets its baseline alone."""
    entries = _entries(mesh, node)
    clusters = dict(_destinations(mesh, entries))
    return Resources(
        listeners=tuple(_listener(entry) for entry in entries),
        routes=tuple(_route_configuration(entry, splits) for entry in entries),
        clusters=tuple(_cluster(name, version) for name, version in clusters.items()),
        assignments=tuple(
            _assignment(name, version.endpoints)
            for name, version in clusters.items()
            if not _needs_dns(version.endpoints)
        ),
    )


def cluster_name(service: str, version: str) -> str:
    return f"{service}|{version}"


# --- Who listens where ------------------------------------------------------------------------------------------------


def _entries(mesh: m.Mesh, node: NodeKind) -> tuple[_Entry, ...]:
    if node.role == "gateway":
        gateway = mesh.gateways[node.name]
        services = tuple(mesh.services[name] for name in gateway.services)
        name = f"gateway|{node.name}"
        return (
            _Entry(name=name, kind=node, listen=gateway.listen, services=services, strip=gateway.strip, to=gateway.to),
        )
    if node.name:
        listen = mesh.sidecars[node.name].listen
        return (_Entry(name=f"sidecar|{node.name}", kind=node, listen=listen, services=tuple(mesh.services.values())),)
    by_port: dict[int, list[m.Service]] = {}
    for service in mesh.services.values():
        by_port.setdefault(service.port, []).append(service)
    return tuple(
        _Entry(name=f"sidecar|{port}", kind=node, listen=("0.0.0.0", port), services=tuple(services))  # noqa: S104
        for port, services in sorted(by_port.items())
    )


def _destinations(mesh: m.Mesh, entries: Iterable[_Entry]) -> Iterator[tuple[str, m.Version]]:
    """Each cluster that the routes of these entries can name."""
    for entry in entries:
        if entry.to is not None:
            yield _forwarding_name(entry.to), m.Version(name=entry.to, endpoints=(mesh.sidecars[entry.to].listen,))
            continue
        for service in entry.services:
            for version in service.versions.values():
                yield cluster_name(service.name, version.name), version


# --- Listeners --------------------------------------------------------------------------------------------------------


def _listener(entry: _Entry) -> Listener:
    host, port = entry.listen
    # A DNS name says where others reach this Envoy; Envoy itself can only bind IP addresses.
    bound = host if _is_ip(host) else "0.0.0.0"  # noqa: S104
    manager = Filter(name="envoy.filters.network.http_connection_manager", typed_config=_any(_http_manager(entry)))
    return Listener(
        name=entry.name,
        address=_address((bound, port)),
        filter_chains=[FilterChain(filters=[manager])],
    )


def _http_manager(entry: _Entry) -> HttpConnectionManager:
    at_edge = entry.kind.role == "gateway"
    return HttpConnectionManager(
        codec_type=HttpConnectionManager.AUTO,
        stat_prefix=entry.name.replace("|", "_"),
        rds=Rds(route_config_name=entry.name, config_source=_ads()),
        http_filters=[
            HttpFilter(
                name=LUA_FILTER,
                typed_config=_any(Lua(default_source_code=DataSource(inline_string=IDENTITY_LUA))),
            ),
            HttpFilter(name="envoy.filters.http.router", typed_config=_any(Router())),
        ],
        access_log=[AccessLog(name="envoy.access_loggers.http_grpc", typed_config=_any(_access_log()))],
        generate_request_id=BoolValue(value=True),
        # The client's own address ends up in x-forwarded-for, and what it claims of itself is not believed.
        use_remote_address=BoolValue(value=at_edge),
        # A path prefix must mean the same to the routes here and to the application behind them.
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        early_header_mutation_extensions=[_strip(entry.strip)] if at_edge else [],
    )


def _strip(names: Iterable[str]) -> TypedExtensionConfig:
    """Drop what clients must not set, before the first choice of a route.

    `request_headers_to_remove` of a route would come too late: the route has been matched by then.
    """
    reserved = HeaderMutation.RemoveOnMatch(key_matcher=StringMatcher(prefix=RESERVED_PREFIX))
    mutations = [HeaderMutation(remove_on_match=reserved), *(HeaderMutation(remove=name) for name in names)]
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=_any(EarlyHeaderMutation(mutations=mutations)),
    )


def _access_log() -> HttpGrpcAccessLogConfig:
    """Each entry names the configuration that routed it, whatever was pushed since: the tags are the route's own."""
    route_tags = [
        CustomTag(
            tag=name,
            metadata=CustomTag.Metadata(
                kind=MetadataKind(route=MetadataKind.Route()),
                metadata_key=MetadataKey(key=METADATA, path=[MetadataKey.PathSegment(key=name)]),
            ),
        )
        for name in ("service", "segment", "rollout", "generation")
    ]
    header_tags = [
        CustomTag(tag=tag, request_header=CustomTag.Header(name=header))
        for tag, header in (("key", KEY_HEADER), ("hop", HOP_HEADER))
    ]
    return HttpGrpcAccessLogConfig(
        common_config=CommonGrpcAccessLogConfig(
            log_name="serinus",
            grpc_service=GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=CONTROL_CLUSTER)),
            transport_api_version=ApiVersion.V3,
            buffer_flush_interval=_ms(LOG_FLUSH_MS),
            buffer_size_bytes=UInt32Value(value=LOG_BUFFER_BYTES),
            custom_tags=route_tags + header_tags,
        ),
        # gRPC's own verdict: a header of a response without body, else a trailer.
        additional_response_headers_to_log=["grpc-status"],
        additional_response_trailers_to_log=["grpc-status"],
    )


# --- Routes -----------------------------------------------------------------------------------------------------------


def _route_configuration(entry: _Entry, splits: Mapping[str, m.ServiceSplits]) -> RouteConfiguration:
    if entry.to is not None:
        forward = _forwarding_name(entry.to)
        hosts = [_virtual_host(service, [_forwarding_route(service, forward)]) for service in entry.services]
        return RouteConfiguration(name=entry.name, virtual_hosts=hosts, ignore_port_in_host_matching=True)
    return RouteConfiguration(
        name=entry.name,
        virtual_hosts=[
            _virtual_host(service, _service_routes(service, splits.get(service.name, NO_SPLITS)))
            for service in entry.services
        ],
        ignore_port_in_host_matching=True,
        request_headers_to_add=[_hop(entry.kind.role)],
    )


def _hop(role: Role) -> HeaderValueOption:
    """Sign the request at the first hop that splits it; a later hop that finds a signature does not count."""
    return HeaderValueOption(
        header=HeaderValue(key=HOP_HEADER, value=role),
        append_action=HeaderValueOption.HeaderAppendAction.ADD_IF_ABSENT,
    )


def _virtual_host(service: m.Service, routes: Iterable[Route]) -> VirtualHost:
    return VirtualHost(
        name=service.name,
        # `ignore_port_in_host_matching` lets one entry serve every published port of the domain.
        domains=service.domains,
        routes=routes,
        typed_per_filter_config={LUA_FILTER: _any(LuaPerRoute(filter_context=_identity(service)))},
    )


def _identity(service: m.Service) -> Struct:
    """Say to `identity.lua` where to find out who asks, in order."""
    sources = []
    for place, identity in enumerate(service.identity):
        match identity:
            case m.HeaderIdentity(header=header):
                fields = {"header": header.lower()}
            case m.CookieIdentity(cookie=cookie, ttl_s=ttl_s):
                fields = {"cookie": cookie, "attributes": _cookie_attributes(ttl_s)}
                if place > 0:  # an identity before it may appear in mid-session
                    fields |= _hold(service.spec.session.gap_s)
        sources.append(Value(struct_value=_strings(fields)))
    return Struct(fields={"identity": Value(list_value=ListValue(values=sources))})


def _cookie_attributes(max_age_s: int) -> str:
    # Lax: the visitor keeps the version when a link leads here from elsewhere.
    return f"; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax"


def _hold(gap_s: float) -> dict[str, str]:
    """How long the key of a session is held: written at its latest half a gap ago, it outlives a whole gap of silence.

    Not written anew on every answer, since caches do not keep answers that set cookies.
    """
    hold_s = math.ceil(1.5 * gap_s) + 1  # times are in whole seconds
    return {"hold": str(hold_s), "renew": f"{gap_s / 2:g}", "hold_attributes": _cookie_attributes(hold_s)}


def _forwarding_route(service: m.Service, cluster: str) -> Route:
    """Hands everything over; no metadata, so that the entry of this hop counts for nobody. The sidecar times out."""
    return Route(
        name=f"{service.name}|forward",
        match=RouteMatch(prefix="/"),
        route=RouteAction(cluster=cluster, timeout=Duration()),
    )


def _service_routes(service: m.Service, splits: m.ServiceSplits) -> list[Route]:
    """Routes of one service: segments in order, each with every path that can still match there."""
    routes: list[Route] = []
    for segment in service.spec.segments:
        match = service.matches.get(segment.name) or m.SegmentMatch()
        split = splits.segments.get(segment.name) or m.SegmentSplit(baseline=service.spec.baseline)
        if segment.pin is not None:
            split = m.SegmentSplit(baseline=segment.pin)
        stamp = _stamp(service.name, segment.name, splits)
        first = len(routes)
        for prefix, path in _reachable(service.routes, match.path_prefix):
            for keyed, action in _actions(service.name, split, splits.rollout):
                routes.append(
                    Route(
                        name=f"{service.name}|{segment.name}|{len(routes) - first}",
                        match=_match(match, prefix, keyed=keyed),
                        route=_with_options(action, path),
                        metadata=stamp,
                    )
                )
    return routes


def _reachable(routes: Iterable[m.Route], segment_prefix: str | None) -> Iterator[tuple[str, m.Route]]:
    """Each route with the prefix at which it meets the segment's; without those that an earlier one hides."""
    seen: list[str] = []
    for route in routes:
        prefix = _meet(route.prefix, segment_prefix or "/")
        if prefix is not None and not any(prefix.startswith(earlier) for earlier in seen):
            seen.append(prefix)
            yield prefix, route


def _meet(one: str, other: str) -> str | None:
    """Return the longer of two path prefixes if a path can have both."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return longer if longer.startswith(shorter) else None


def _stamp(service: str, segment: str, splits: m.ServiceSplits) -> Metadata:
    fields = {
        "service": service,
        "segment": segment,
        "rollout": splits.rollout,
        "generation": str(splits.generation),
    }
    return Metadata(filter_metadata={METADATA: _strings(fields)})


def _match(match: m.SegmentMatch, prefix: str, *, keyed: bool) -> RouteMatch:
    headers = [_header_matcher(header) for header in match.headers]
    if keyed:
        headers.append(HeaderMatcher(name=KEY_HEADER, present_match=True))
    return RouteMatch(prefix=prefix, headers=headers, query_parameters=[_query_matcher(q) for q in match.query])


def _header_matcher(match: m.ValueMatch) -> HeaderMatcher:
    if match.kind == "present":
        return HeaderMatcher(name=match.name, present_match=bool(match.value))
    if match.kind == "range" and isinstance(match.value, tuple):
        first, end = match.value
        return HeaderMatcher(name=match.name, range_match=Int64Range(start=first, end=end))
    return HeaderMatcher(name=match.name, string_match=_string_matcher(match))


def _query_matcher(match: m.ValueMatch) -> QueryParameterMatcher:
    """Envoy has no ranges of query parameters, and no test for the absence of one."""
    if match.kind == "present" and match.value is True:
        return QueryParameterMatcher(name=match.name, present_match=True)
    return QueryParameterMatcher(name=match.name, string_match=_string_matcher(match))


def _string_matcher(match: m.ValueMatch) -> StringMatcher:
    value = str(match.value)
    match match.kind:
        case "exact":
            return StringMatcher(exact=value)
        case "prefix":
            return StringMatcher(prefix=value)
        case "suffix":
            return StringMatcher(suffix=value)
        case "contains":
            return StringMatcher(contains=value)
        case "regex":  # of the whole value, in RE2's syntax
            return StringMatcher(safe_regex=RegexMatcher(regex=value))
        case _:
            raise ValueError(f"{match.name}: Envoy cannot match {match.kind}={match.value!r} here")


def _actions(service: str, split: m.SegmentSplit, rollout: str) -> Iterator[tuple[bool, RouteAction]]:
    """(needs a key, action) in matching order.

    Without a key Envoy would draw a version at random for each request, so nobody without one takes part. A split of 0
    is still written as weights: everybody is hashed the same way from the first step to the last.
    """
    baseline = cluster_name(service, split.baseline)
    if split.canary is not None:
        yield True, _weighted_action(baseline, cluster_name(service, split.canary), split.canary_bp, rollout)
    yield False, RouteAction(cluster=baseline)


def _weighted_action(baseline: str, canary: str, canary_bp: int, rollout: str) -> RouteAction:
    if not 0 <= canary_bp <= TOTAL_BP:
        raise ValueError(f"{canary}: a split of {canary_bp} is outside 0 to {TOTAL_BP} basis points")
    # Envoy takes hash % sum(weights) over cumulative intervals in this order (weighted_cluster_specifier.cc): the
    # canary first and one constant sum, or everybody would be reshuffled at each step.
    clusters = [
        WeightedCluster.ClusterWeight(name=canary, weight=UInt32Value(value=canary_bp)),
        WeightedCluster.ClusterWeight(name=baseline, weight=UInt32Value(value=TOTAL_BP - canary_bp)),
    ]
    # The salt: each rollout draws its own people, with no change to the request (source/common/http/hash_policy.cc).
    salt = RegexMatchAndSubstitute(
        pattern=RegexMatcher(regex="^(.*)$"), substitution=rollout.replace("\\", "\\\\") + ":\\1"
    )
    key = RouteAction.HashPolicy(header=RouteAction.HashPolicy.Header(header_name=KEY_HEADER, regex_rewrite=salt))
    return RouteAction(
        weighted_clusters=WeightedCluster(clusters=clusters, use_hash_policy=BoolValue(value=True)),
        hash_policy=[key],
    )


def _with_options(action: RouteAction, path: m.Route) -> RouteAction:
    action.timeout.CopyFrom(_ms(path.timeout_ms))
    if path.retries:
        # 5xx includes connect failures and refused streams. A retry stays in the cluster that was picked.
        action.retry_policy.CopyFrom(RetryPolicy(retry_on="5xx", num_retries=UInt32Value(value=path.retries)))
    return action


# --- Clusters ---------------------------------------------------------------------------------------------------------


def _cluster(name: str, version: m.Version) -> Cluster:
    cluster = Cluster(
        name=name,
        connect_timeout=_ms(CONNECT_TIMEOUT_MS),
        # gRPC in is gRPC out, HTTP/1 in is HTTP/1 out.
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _any(_same_protocol())
        },
        health_checks=[_health_check(version.health)] if version.health else [],
    )
    if _needs_dns(version.endpoints):
        # An EDS endpoint must be an IP address; names are for Envoy to resolve, and to keep resolving.
        cluster.type = Cluster.STRICT_DNS
        cluster.dns_lookup_family = Cluster.V4_PREFERRED
        cluster.load_assignment.CopyFrom(_assignment(name, version.endpoints))
    else:
        cluster.type = Cluster.EDS
        cluster.eds_cluster_config.CopyFrom(Cluster.EdsClusterConfig(eds_config=_ads()))
        # What EDS drops is gone, whatever the health checks still say.
        cluster.ignore_health_on_host_removal = True
    return cluster


def _same_protocol() -> HttpProtocolOptions:
    return HttpProtocolOptions(
        use_downstream_protocol_config=HttpProtocolOptions.UseDownstreamHttpConfig(
            http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=Http2ProtocolOptions()
        )
    )


def _health_check(health: m.HealthCheck) -> HealthCheck:
    return HealthCheck(
        timeout=_ms(health.timeout_ms),
        interval=_ms(health.interval_ms),
        # A canary has no traffic yet when its health matters most; Envoy would then check once a minute.
        no_traffic_interval=_ms(health.interval_ms),
        unhealthy_threshold=UInt32Value(value=2),
        healthy_threshold=UInt32Value(value=1),
        http_health_check=HealthCheck.HttpHealthCheck(path=health.path),
    )


def _forwarding_name(sidecar: str) -> str:
    return f"forward|{sidecar}"


def _assignment(name: str, endpoints: Iterable[m.Address]) -> ClusterLoadAssignment:
    hosts = [LbEndpoint(endpoint=Endpoint(address=_address(endpoint))) for endpoint in endpoints]
    # Proxyless gRPC takes a locality without a weight for an empty one.
    locality = LocalityLbEndpoints(lb_endpoints=hosts, load_balancing_weight=UInt32Value(value=1))
    return ClusterLoadAssignment(cluster_name=name, endpoints=[locality])


# --- Small parts ------------------------------------------------------------------------------------------------------


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _needs_dns(endpoints: Iterable[m.Address]) -> bool:
    return any(not _is_ip(host) for host, _ in endpoints)


def _address(address: m.Address) -> EnvoyAddress:
    host, port = address
    return EnvoyAddress(socket_address=SocketAddress(address=host, port_value=port))


def _ads() -> ConfigSource:
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def _ms(value: int) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(value)
    return duration


def _strings(fields: Mapping[str, str]) -> Struct:
    return Struct(fields={name: Value(string_value=value) for name, value in fields.items()})


def _any(message: Message) -> Any:
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed
