"""Learned segments in Envoy: who is in one is asked for once, and believed where it is signed.

A Lua filter takes the segment from its memory or from the signed cookie, and says whether Serinus has to be asked;
ext_authz asks, and lets the request pass as it is when there is no answer in time. Both are in a listener's chain only
where one of its services has a learned segment; of the others' requests the Lua filter drops the header and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import CheckSettings, ExtAuthz, ExtAuthzPerRoute
from envoy.extensions.filters.http.lua.v3.lua_pb2 import LuaPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher, StringMatcher
from envoy.type.matcher.v3.value_pb2 import ValueMatcher
from google.protobuf.any_pb2 import Any

from xds_server.mesh import LearnedTable, Service
from xds_server.resources.parts import (
    CONTROL_CLUSTER,
    KEY_HEADER,
    LEARNED_FILTER,
    RESOLVER_FILTER,
    lua,
    milliseconds,
    packed,
    strings,
)

LEARNED_LUA = files("xds_server").joinpath("learned.lua").read_text("utf-8")

COOKIE_PREFIX = "serinus-segment-"
"""Before the service's name: cookies do not know ports, so services of one host name need names of their own."""

DEFAULT_TIMEOUT_MS = 20


def cookie_name(service: str) -> str:
    return COOKIE_PREFIX + service


def filters() -> tuple[HttpFilter, HttpFilter]:
    """Those of a listener; each service says the rest (`per_service`)."""
    asked = MetadataMatcher(
        filter=LEARNED_FILTER,
        path=[MetadataMatcher.PathSegment(key="asked")],
        value=ValueMatcher(present_match=True),
    )
    wanted = [StringMatcher(exact=KEY_HEADER), StringMatcher(exact="x-forwarded-proto")]
    resolver = ExtAuthz(
        grpc_service=_resolver(DEFAULT_TIMEOUT_MS),
        transport_api_version=ApiVersion.V3,
        filter_enabled_metadata=asked,
        failure_mode_allow=True,
        clear_route_cache=True,
        allowed_headers=ListStringMatcher(patterns=wanted),
        encode_raw_headers=True,  # a key is hashed as the bytes that it is, here as in the access log
    )
    return lua(LEARNED_FILTER, LEARNED_LUA), HttpFilter(name=RESOLVER_FILTER, typed_config=packed(resolver))


def per_service(service: Service, table: LearnedTable) -> Iterator[tuple[str, Any]]:
    """What the filters must know of one service: their names, and the configuration in its virtual host."""
    context = {
        "service": service.name,
        "cookie": cookie_name(service.name),
        "table": str(table.version),
        "public_key": table.public_key,
    }
    yield LEARNED_FILTER, packed(LuaPerRoute(filter_context=strings(context)))
    settings = CheckSettings(
        context_extensions={"service": service.name}, grpc_service=_resolver(service.learned_timeout_ms)
    )
    yield RESOLVER_FILTER, packed(ExtAuthzPerRoute(check_settings=settings))


def _resolver(timeout_ms: int) -> GrpcService:
    envoy = GrpcService.EnvoyGrpc(cluster_name=CONTROL_CLUSTER)
    return GrpcService(envoy_grpc=envoy, timeout=milliseconds(timeout_ms))
