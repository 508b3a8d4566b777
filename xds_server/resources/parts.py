"""Small parts of Envoy's messages."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from envoy.config.core.v3.address_pb2 import Address as EnvoyAddress
from envoy.config.core.v3.address_pb2 import SocketAddress
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from xds_server.mesh import Address

KEY_HEADER = "x-serinus-key"
HOP_HEADER = "x-serinus-hop"
SEGMENT_HEADER = "x-serinus-segment"
"""The learned segment that a request's person is in, by the name that people were adopted under."""
HELD_HEADER = "x-serinus-held"
"""The segment that a request's person is held in, as the mesh file calls it."""
WATCHED_HEADER = "x-serinus-watched"
"""Of a request whose segment is watched more closely: set by its route, and looked at when it is logged."""

CLAIMS_FILTER = "serinus.claims"
HOLD_FILTER = "serinus.hold"
RESERVED_PREFIX = "x-serinus-"
METADATA = "serinus"
STAMP = "stamp"
"""Of a route: key of its metadata and what it writes on log entries (`xds_server.stamp`)."""

CONTROL_CLUSTER = "serinus"
"""Static cluster of every bootstrap: xDS and access logs."""

LUA_FILTER = "envoy.filters.http.lua"
LEARNED_FILTER = "serinus.learned"
RESOLVER_FILTER = "serinus.resolver"


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def address(given: Address) -> EnvoyAddress:
    host, port = given
    return EnvoyAddress(socket_address=SocketAddress(address=host, port_value=port))


def ads() -> ConfigSource:
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def milliseconds(value: int) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(value)
    return duration


def cookie_attributes(max_age_s: int) -> str:
    """What follows a cookie's value when it is set."""
    # Lax: the visitor keeps the version when a link leads here from elsewhere.
    return f"; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax"


def strings(fields: Mapping[str, str]) -> Struct:
    return Struct(fields={name: Value(string_value=value) for name, value in fields.items()})


def numbers(fields: Mapping[str, float]) -> Struct:
    return Struct(fields={name: Value(number_value=value) for name, value in fields.items()})


def packed(message: Message) -> Any:
    """The message in an Any; maps in the order of their keys, so that equal content has equal bytes."""
    result = Any()
    result.Pack(message, deterministic=True)
    return result


def lua(name: str, code: str) -> HttpFilter:
    return HttpFilter(name=name, typed_config=packed(Lua(default_source_code=DataSource(inline_string=code))))
