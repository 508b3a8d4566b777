"""Protobuf's wire format, as far as serialised parts are put together without being parsed.

Fields may come in any order and are concatenated (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))


def varint(value: int) -> bytes:
    """Encode a number in base 128, least significant group first."""
    if value < 0x80:
        return _ONE_BYTE[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode one length-delimited field."""
    return header(number, value) + value


def text_field(number: int, value: str) -> bytes:
    """Encode one string field."""
    return bytes_field(number, value.encode())


def header(number: int, value: bytes) -> bytes:
    """What comes before the value of a length-delimited field (wire type 2)."""
    return varint(number << 3 | 2) + varint(len(value))
