"""The little of protobuf and of xDS that a load client and a floor need, by hand: a library would cost more than it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Variant = Literal["delta", "sotw"]
VARIANTS: tuple[Variant, ...] = ("delta", "sotw")

CDS, EDS, LDS, RDS = range(4)
NAMES = ("CDS", "EDS", "LDS", "RDS")
URLS = tuple(
    f"type.googleapis.com/envoy.config.{message}".encode()
    for message in (
        "cluster.v3.Cluster",
        "endpoint.v3.ClusterLoadAssignment",
        "listener.v3.Listener",
        "route.v3.RouteConfiguration",
    )
)
PATHS: dict[Variant, bytes] = {
    "delta": b"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    "sotw": b"/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
}

# --- Protobuf's wire format ---


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(number: int, value: bytes) -> bytes:
    """Encode one length-delimited field."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each length-delimited field; others are skipped.

    Raises
    ------
    ValueError
        Not a protobuf message.
    """
    end = len(data) if end is None else end
    while at < end:
        tag, at = read_varint(data, at)
        match tag & 7:
            case 2:
                length, at = read_varint(data, at)
                yield tag >> 3, at, at + length
                at += length
            case 0:
                _, at = read_varint(data, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case other:
                raise ValueError(f"wire type {other}")
    if at != end:
        raise ValueError("a field ends beyond the message")


# --- Responses ---

TAIL_BYTES = 256
"""Type URL and nonce stand at the end of a response that is written in the order of its fields, as all do here."""

_MARKERS = tuple((kind, field(4, URLS[kind])) for kind in (RDS, EDS, CDS, LDS))


@dataclass(frozen=True, slots=True)
class Head:
    """What an ACK repeats of a response."""

    kind: int
    nonce: bytes


def head(message: bytes) -> Head:
    """Read type and nonce; a glance at the end does, unless somebody writes the fields in another order.

    Raises
    ------
    ValueError
        It has no nonce, or a type that nobody asked for.
    """
    tail = message[-TAIL_BYTES:]
    for kind, marker in _MARKERS:
        at = tail.rfind(marker)
        if at >= 0:
            nonce = _nonce_behind(tail, at + len(marker))
            if nonce:
                return Head(kind, nonce)
    found = {number: message[start:end] for number, start, end in fields(message) if number in (4, 5)}
    if not found.get(5):
        raise ValueError("a response without a nonce")
    return Head(URLS.index(found[4]), found[5])


def _nonce_behind(tail: bytes, at: int) -> bytes:
    try:
        return next((tail[start:end] for number, start, end in fields(tail, at) if number == 5), b"")
    except (IndexError, ValueError):
        return b""


def version(message: bytes) -> bytes:
    """Read `version_info` (or delta's `system_version_info`): the first field, if it is there."""
    if message[:1] == b"\x0a":
        length, at = read_varint(message, 1)
        return message[at : at + length]
    return b""


def resource_names(variant: Variant, message: bytes) -> list[bytes]:
    """Names of the resources in a response."""
    found = []
    for number, start, end in fields(message):
        if number != 2:
            continue
        if variant == "delta":  # Resource.name
            found += [message[s:e] for n, s, e in fields(message, start, end) if n == 3]
        else:  # Any.value, and therein the name, which is field 1 of all four types
            value = next((s, e) for n, s, e in fields(message, start, end) if n == 2)
            found.append(next(message[s:e] for n, s, e in fields(message, *value) if n == 1))
    return found


def response(
    variant: Variant, kind: int, *, version: bytes, nonce: bytes, resources: Iterable[tuple[bytes, bytes, bytes]]
) -> bytes:
    """Write a response as a server would. `resources`: name, version and serialised Any of each."""
    if variant == "delta":
        parts = [field(2, field(1, v) + field(2, packed) + field(3, name)) for name, v, packed in resources]
    else:
        parts = [field(2, packed) for _, _, packed in resources]
    return b"".join((field(1, version), *parts, field(4, URLS[kind]), field(5, nonce)))


# --- Requests ---

# What a real Envoy 1.40 says of itself in its first request: 516 extensions, 61 kB in all. It is what a control plane
# has to read when an Envoy connects, and must not keep.
_EXTENSIONS_N = 516
_USER_AGENT = field(6, b"envoy") + field(8, field(1, b"\x08\x01\x10\x28"))  # user_agent_build_version: 1.40
_EXTENSIONS = b"".join(
    field(
        9,
        field(1, b"envoy.filters.http.extension_%03d" % n)
        + field(2, b"envoy.filters.network")
        + field(6, b"envoy.extensions.filters.http.extension_%03d.v3.Extension" % n),
    )
    for n in range(_EXTENSIONS_N)
)


def node(number: int, cluster: bytes) -> bytes:
    """Encode a core.v3.Node."""
    return field(1, b"node-%06d" % number) + field(2, cluster) + _USER_AGENT + _EXTENSIONS


def request(
    variant: Variant,
    kind: int,
    *,
    node: bytes = b"",
    names: Sequence[bytes] = (),
    version: bytes = b"",
    nonce: bytes = b"",
) -> bytes:
    """Write a request as Envoy does. Delta: `names` are subscribed to; an ACK repeats none of them, nor a version."""
    if variant == "delta":
        parts = [field(1, node) if node else b"", field(2, URLS[kind]), *(field(3, name) for name in names)]
        parts.append(field(6, nonce) if nonce else b"")
    else:
        parts = [field(1, version) if version else b"", field(2, node) if node else b""]
        parts += [field(3, name) for name in names]
        parts += [field(4, URLS[kind]), field(5, nonce) if nonce else b""]
    return b"".join(parts)
