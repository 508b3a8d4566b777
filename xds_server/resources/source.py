"""Where people are: the address that counts, and which of the segments' networks it is in.

Networks stand in the listener, a tag for each list of them in the routes. Routes change at every split, and networks in
them would be built and sent each time: 60 ms for 1,000 of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.filters.http.ip_tagging.v3.ip_tagging_pb2 import IPTagging
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.http.original_ip_detection.custom_header.v3.custom_header_pb2 import CustomHeaderConfig
from envoy.extensions.http.original_ip_detection.xff.v3.xff_pb2 import XffConfig
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from xds_server import mesh as m
from xds_server.resources.entries import Entry
from xds_server.resources.parts import packed

SOURCE_FILTER = "serinus.source"
SOURCE_HEADER = "x-serinus-source"
"""What a gateway tells those behind it: what they see themselves is the gateway."""
TAGS_HEADER = "x-serinus-networks"
"""Tags of the lists of networks that the address is in. Set by the filter; what comes in is dropped before anything."""


def source_matcher(networks: tuple[m.Network, ...]) -> HeaderMatcher:
    """Matches who is in one of the networks. Tags are of one length, with commas between them."""
    return HeaderMatcher(name=TAGS_HEADER, string_match=StringMatcher(contains=_tag(networks)))


def source_header() -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=SOURCE_HEADER, value="%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        append_action=HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def source_filters(entry: Entry) -> Iterator[HttpFilter]:
    """The filter that finds the networks; none where no segment asks."""
    lists = {
        _tag(match.source): match.source
        for service in entry.services
        for match in service.matches.values()
        if match is not None and match.source
    }
    if not lists or entry.to is not None:
        return
    config = IPTagging(
        request_type=IPTagging.BOTH,
        ip_tags=[IPTagging.IPTag(ip_tag_name=tag, ip_list=_ranges(networks)) for tag, networks in lists.items()],
        ip_tag_header=IPTagging.IpTagHeader(header=TAGS_HEADER, action=IPTagging.IpTagHeader.SANITIZE),
    )
    yield HttpFilter(name=SOURCE_FILTER, typed_config=packed(config))


def ip_detection() -> list[TypedExtensionConfig]:
    """At a sidecar: whose address counts. What a gateway says, else the last address that was forwarded."""
    said = CustomHeaderConfig(header_name=SOURCE_HEADER)
    forwarded = XffConfig(xff_num_trusted_hops=0, skip_xff_append=BoolValue(value=True))
    prefix = "envoy.http.original_ip_detection"
    return [
        TypedExtensionConfig(name=f"{prefix}.custom_header", typed_config=packed(said)),
        TypedExtensionConfig(name=f"{prefix}.xff", typed_config=packed(forwarded)),
    ]


def _tag(networks: tuple[m.Network, ...]) -> str:
    return hashlib.sha256(" ".join(map(str, networks)).encode()).hexdigest()[:16]


def _ranges(networks: Iterable[m.Network]) -> Iterator[CidrRange]:
    """Proxies that listen on IPv6 for both may write the IPv4 address 10.1.2.3 as ::ffff:10.1.2.3."""
    for network in networks:
        yield _range(str(network.network_address), network.prefixlen)
        if network.version == 4:
            yield _range(f"::ffff:{network.network_address}", 96 + network.prefixlen)


def _range(address: str, bits: int) -> CidrRange:
    return CidrRange(address_prefix=address, prefix_len=UInt32Value(value=bits))
