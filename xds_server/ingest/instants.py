"""Times of many log entries at once: serialised `Timestamp`s and `Duration`s to columns. Pure and total."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from xds_server.pb import als_pb2

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_Words = npt.NDArray[np.uint64]

_SECONDS, _NANOS = 0x08, 0x10  # tags: field 1 and field 2, both varints
_WORD = 8


def _u64(value: int) -> np.uint64:
    return np.uint64(value)


_CONTINUES, _PAYLOAD = _u64(0x8080808080808080), _u64(0x7F7F7F7F7F7F7F7F)
_FOLDS = tuple(
    (_u64(low), _u64(high), _u64(shift))
    for low, high, shift in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    )
)


def instants(blobs: Sequence[bytes]) -> tuple[Ints, Ints, Bools]:
    """Return seconds, nanoseconds and which blobs are no such message; an empty one is zero.

    Those that look as Envoy writes them are decoded all at once, 8 bytes of each in one word; the others one by one.
    """
    n = len(blobs)
    lengths = np.fromiter(map(len, blobs), np.int64, n)
    ends = np.cumsum(lengths)
    at = ends - lengths
    data = b"".join((*blobs, bytes(4 * _WORD)))
    octets = np.frombuffer(data, np.uint8)
    words: _Words = np.ndarray((len(data) - _WORD + 1,), "<u8", data, strides=(1,))
    odd = np.zeros(n, np.bool_)
    columns = []
    for tag in (_SECONDS, _NANOS):
        there = (octets[at] == tag) & (at < ends)
        value, size, is_long = _varints(words[at + 1])
        odd |= there & is_long
        columns.append(value * there)
        at += (size + 1) * there
    odd |= at != ends
    seconds, nanos = columns
    malformed = np.zeros(n, np.bool_)
    for i in np.flatnonzero(odd).tolist():
        try:
            instant = als_pb2.Instant.FromString(blobs[i])
            seconds[i], nanos[i] = instant.seconds, instant.nanos
        except DecodeError:
            seconds[i], nanos[i], malformed[i] = 0, 0, True
    return seconds, nanos, malformed


def _varints(words: _Words) -> tuple[Ints, Ints, Bools]:
    """Return what the varints say with which these little-endian words begin, their sizes, and which are longer."""
    stops = ~words & _CONTINUES
    first = stops & (~stops + _u64(1))  # the lowest bit: of the varint's last byte
    used = first ^ (first - _u64(1))
    value = words & used & _PAYLOAD
    for low, high, shift in _FOLDS:
        value = (value & low) | ((value & high) >> shift)
    return value.astype(np.int64), (np.bitwise_count(used) >> 3).astype(np.int64), stops == 0
