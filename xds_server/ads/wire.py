"""The few lines of protobuf's wire format that let one serialised resource be shared by every stream.

Fields may come in any order and are concatenated, so a response is its resources' bytes plus a few short strings:
a push to a thousand streams serialises nothing a thousand times.
"""

from __future__ import annotations

from collections.abc import Iterable


def varint(value: int) -> bytes:
    """Encode a number in base 128, least significant group first (protobuf.dev/programming-guides/encoding)."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode one length-delimited field (wire type 2)."""
    return _header(number, value) + value


def discovery_response(*, type_url: str, version: str, nonce: str, resources: Iterable[bytes]) -> bytes:
    """Encode an envoy.service.discovery.v3.DiscoveryResponse; `resources` are serialised Anys."""
    parts = [bytes_field(1, version.encode())]  # version_info
    for packed in resources:
        parts += (_header(2, packed), packed)
    parts += (bytes_field(4, type_url.encode()), bytes_field(5, nonce.encode()))
    return b"".join(parts)


def _header(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value))
