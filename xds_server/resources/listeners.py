"""Listeners: who asks is found out, the route chosen anew, and every finished request reported."""

from __future__ import annotations

from importlib.resources import files

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog, AccessLogFilter, HeaderFilter
from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.config.trace.v3.http_tracer_pb2 import Tracing
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
    ScopedRds,
    ScopedRoutes,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.tracing.v3.custom_tag_pb2 import CustomTag
from envoy.type.v3.percent_pb2 import Percent
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from xds_server.resources import learned
from xds_server.resources.claims import claims_filters
from xds_server.resources.entries import Entry
from xds_server.resources.parts import (
    CONTROL_CLUSTER,
    HOLD_FILTER,
    HOP_HEADER,
    KEY_HEADER,
    LUA_FILTER,
    METADATA,
    RESERVED_PREFIX,
    STAMP,
    WATCHED_HEADER,
    address,
    ads,
    is_ip,
    lua,
    milliseconds,
    packed,
)
from xds_server.resources.source import TAGS_HEADER, ip_detection, source_filters
from xds_server.stamp import MAX_CONTENT_TYPE, MAX_GRPC_STATUS, TAG

HOST_LUA = files("xds_server").joinpath("host.lua").read_text("utf-8")
IDENTITY_LUA = files("xds_server").joinpath("identity.lua").read_text("utf-8")
SEGMENT_LUA = files("xds_server").joinpath("segment.lua").read_text("utf-8")

TAG_LINES = (
    f"%METADATA(ROUTE:{METADATA}:{STAMP})%",
    f"%REQ({HOP_HEADER})%",
    "%ACCESS_LOG_TYPE%",
    "%RESPONSE_CODE%",
    "%RESPONSE_FLAGS%",
    "%UPSTREAM_CLUSTER%",
    f"%RESP(content-type):{MAX_CONTENT_TYPE}%",
    # gRPC's own verdict: a header of a response without body, else a trailer.
    f"%RESP(grpc-status):{MAX_GRPC_STATUS}%",
    f"%TRAILER(grpc-status):{MAX_GRPC_STATUS}%",
    f"%REQ({KEY_HEADER})%",
)
"""What comes in few forms, and the key. One tag: all but the key is read once for many requests then, while to look at
a property of an entry costs as much as to parse a tenth of it. Lines, which no header's value can break."""

ALIVE_EVERY_MS = 10_000
"""How often a request that goes on is logged: whoever has a stream open is still there."""

LOG_FLUSH_MS = 200
WATCHED_LOG_FLUSH_MS = 50
"""Where a segment is watched more closely, and ticks may be a second apart. Not for everybody: each flush of each of
Envoy's workers is a message to take, so a quarter of the time is up to four times the messages."""

LOG_BUFFER_BYTES = 1 << 20  # also the cap above which Envoy drops entries; its default of 16 KiB drops under load


def listener(entry: Entry) -> Listener:
    host, port = entry.listen
    # A DNS name says where others reach this Envoy; Envoy itself can only bind IP addresses.
    bound = host if is_ip(host) else "0.0.0.0"  # noqa: S104
    manager = Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(_http_manager(entry)))
    return Listener(
        name=entry.name,
        address=address((bound, port)),
        filter_chains=[FilterChain(filters=[manager])],
    )


def scopes(entry: Entry) -> list[tuple[ScopedRouteConfiguration, str]]:
    """For each domain of a scoped entry, which route configuration its requests are routed by; and its service."""
    if not entry.is_scoped:
        return []
    fragment = ScopedRouteConfiguration.Key.Fragment
    return [
        (
            ScopedRouteConfiguration(
                name=f"{entry.name}|{domain}",
                route_configuration_name=entry.routes_name(service),
                key=ScopedRouteConfiguration.Key(fragments=[fragment(string_key=domain)]),
            ),
            service.name,
        )
        for service in entry.services
        for domain in service.domains
    ]


def _http_manager(entry: Entry) -> HttpConnectionManager:
    at_edge = entry.kind.role == "gateway"
    return HttpConnectionManager(
        codec_type=HttpConnectionManager.AUTO,
        common_http_protocol_options=HttpProtocolOptions(idle_timeout=milliseconds(entry.idle_timeout_ms)),
        stat_prefix=entry.name.replace("|", "_"),
        rds=None if entry.is_scoped else Rds(route_config_name=entry.name, config_source=ads()),
        scoped_routes=_scoped_routes(entry.name) if entry.is_scoped else None,
        http_filters=[
            *([lua("serinus.host", HOST_LUA)] if entry.is_scoped else []),
            *source_filters(entry),
            *claims_filters(entry),
            lua(LUA_FILTER, IDENTITY_LUA),
            *(learned.filters() if entry.asks_who_is_learned else ()),
            *([lua(HOLD_FILTER, SEGMENT_LUA)] if entry.holds and entry.to is None else []),
            HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router())),
        ],
        access_log=[_access_log(watched=False), _access_log(watched=True)],
        access_log_options=HttpConnectionManager.HcmAccessLogOptions(
            access_log_flush_interval=milliseconds(ALIVE_EVERY_MS)
        ),
        tracing=None if entry.traced is None else _tracing(entry, entry.traced),
        generate_request_id=BoolValue(value=True),
        # The client's own address ends up in x-forwarded-for, and what it claims of itself is not believed.
        use_remote_address=BoolValue(value=at_edge),
        xff_num_trusted_hops=entry.trusted_hops,
        # A path prefix must mean the same to the routes here and to the application behind them.
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        early_header_mutation_extensions=[_strip(entry)] if at_edge or entry.looks_at_source else [],
        original_ip_detection_extensions=[] if at_edge or not entry.looks_at_source else ip_detection(),
    )


def _tracing(entry: Entry, share: float) -> HttpConnectionManager.Tracing:
    """Trace a share of the requests, as part of the client's trace where it brings one, and tell the application.

    The tracer's spans come here as well, where nothing is made of them: the access log says the same, and of all.
    """
    tracer = OpenTelemetryConfig(
        grpc_service=GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=CONTROL_CLUSTER)),
        service_name=entry.services[0].name if len(entry.services) == 1 else entry.kind.name or entry.name,
    )
    return HttpConnectionManager.Tracing(
        client_sampling=Percent(value=0),  # what asks for a trace without being one: x-client-trace-id
        random_sampling=Percent(value=100 * share),
        provider=Tracing.Http(name="envoy.tracers.opentelemetry", typed_config=packed(tracer)),
    )


def _scoped_routes(name: str) -> ScopedRoutes:
    """One route configuration a service, found by the request's host without its port.

    With all services in one route configuration Envoy compiles all of it anew for each change of one split: 150 ms of
    its main thread for 500 services, against 1 ms.
    """
    builder = ScopedRoutes.ScopeKeyBuilder
    host = builder.FragmentBuilder.HeaderValueExtractor(name=":authority", element_separator=":", index=0)
    return ScopedRoutes(
        name=name,
        rds_config_source=ads(),
        scoped_rds=ScopedRds(scoped_rds_config_source=ads()),
        scope_key_builder=builder(fragments=[builder.FragmentBuilder(header_value_extractor=host)]),
    )


def _strip(entry: Entry) -> TypedExtensionConfig:
    """Drop what those who ask must not set, before the first choice of a route.

    `request_headers_to_remove` of a route would come too late: the route has been matched by then.
    """
    reserved = HeaderMutation.RemoveOnMatch(key_matcher=StringMatcher(prefix=RESERVED_PREFIX))
    mutations = [HeaderMutation(remove=TAGS_HEADER)]
    if entry.kind.role == "gateway":
        mutations = [HeaderMutation(remove_on_match=reserved), *(HeaderMutation(remove=name) for name in entry.strip)]
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=packed(EarlyHeaderMutation(mutations=mutations)),
    )


def _access_log(*, watched: bool) -> AccessLog:
    """One of two loggers: each entry goes to the one that its route asks for, as it is now.

    So that a watch begins and ends with routes alone: to change a listener drains its connections. By a header, since
    an expression over the route's metadata takes Envoy some 10 us a request and more, a header hardly one. Somebody who
    may send it to a sidecar is logged sooner and nothing else.
    """
    header = HeaderMatcher(name=WATCHED_HEADER, present_match=True, invert_match=not watched)
    return AccessLog(
        name="envoy.access_loggers.http_grpc",
        filter=AccessLogFilter(header_filter=HeaderFilter(header=header)),
        typed_config=packed(_grpc_log(WATCHED_LOG_FLUSH_MS if watched else LOG_FLUSH_MS)),
    )


def _grpc_log(flush_ms: int) -> HttpGrpcAccessLogConfig:
    """Each entry names the configuration that routed it, whatever was pushed since: the stamp is the route's own."""
    return HttpGrpcAccessLogConfig(
        common_config=CommonGrpcAccessLogConfig(
            log_name="serinus",
            grpc_service=GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=CONTROL_CLUSTER)),
            transport_api_version=ApiVersion.V3,
            buffer_flush_interval=milliseconds(flush_ms),
            buffer_size_bytes=UInt32Value(value=LOG_BUFFER_BYTES),
            custom_tags=[CustomTag(tag=TAG, value="\n".join(TAG_LINES))],
        ),
    )
