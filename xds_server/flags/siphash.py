"""SipHash-2-4 (Aumasson and Bernstein, 2012), with which `segment.lua` signs. Python has none of its own to call."""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1
_START: Final = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


def siphash(secret: bytes, text: bytes) -> str:
    """Return the 64-bit MAC of a text under a secret of 16 bytes, in hex.

    Examples
    --------
    The last of the reference implementation's vectors: a text of 15 bytes.

    >>> siphash(bytes(range(16)), bytes(range(15)))
    'a129ca6149be45e5'
    """
    low, high = (int.from_bytes(secret[i : i + 8], "little") for i in (0, 8))
    state = [word ^ start for word, start in zip((low, high, low, high), _START, strict=True)]
    padded = text + bytes(-(len(text) + 1) % 8) + bytes([len(text) % 256])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        state[3] ^= word
        _rounds(state, 2)
        state[0] ^= word
    state[2] ^= 0xFF
    _rounds(state, 4)
    return f"{state[0] ^ state[1] ^ state[2] ^ state[3]:016x}"


def _rounds(state: list[int], n: int) -> None:
    a, b, c, d = state
    for _ in range(n):
        a = (a + b) & _MASK
        b = _rotated(b, 13) ^ a
        a = _rotated(a, 32)
        c = (c + d) & _MASK
        d = _rotated(d, 16) ^ c
        a = (a + d) & _MASK
        d = _rotated(d, 21) ^ a
        c = (c + b) & _MASK
        b = _rotated(b, 17) ^ c
        c = _rotated(c, 32)
    state[:] = a, b, c, d


def _rotated(word: int, by: int) -> int:
    return (word << by | word >> (64 - by)) & _MASK
