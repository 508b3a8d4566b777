"""Path templates at the speed of a look-up, though hardly a path comes twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from xds_server.ingest.rows import path_template

MAX_SHAPES = 16_384
"""Shapes, and templates that keep digits, that are remembered; beyond it all are forgotten, which costs a moment."""

MAX_SHAPE = 256
"""Bytes of a path above which its shape is not remembered."""

_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_DIGIT = re.compile("[0-9]")
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Templates:
    """`path_template`, remembered by the shape of a path: its digits do not matter, only where they are."""

    def __init__(self) -> None:
        self._by_shape: dict[bytes, str | slice] = {}
        self._by_part: dict[tuple[bytes, bytes], str] = {}  # (shape, the part of the path whose digits are kept)

    def __call__(self, paths: Sequence[bytes]) -> list[str]:
        """Return `path_template` of each."""
        plain = [path.partition(b"?")[0] for path in paths]
        shapes = [each.translate(_DIGITS_AS_0) for each in plain]
        known = [*map(self._by_shape.get, shapes)]
        return [
            template if template.__class__ is str else self._find(template, shape, each)  # type: ignore[arg-type]
            for template, shape, each in zip(known, shapes, plain, strict=True)
        ]

    def _find(self, kept: slice | None, shape: bytes, plain: bytes) -> str:
        key = None
        if kept is not None:
            key = shape, plain[kept]
            known = self._by_part.get(key)
            if known is not None:
                return known
        template = path_template.__wrapped__(plain)
        if key is not None:
            _remember(self._by_part, key, template)
        elif len(shape) <= MAX_SHAPE:
            _remember(self._by_shape, shape, _kept(shape) if _DIGIT.search(template) else template)
        return template


def _kept(shape: bytes) -> slice:
    """Return where in the paths of this shape the digits are that their templates keep (`/v2/items/*`)."""
    at, ends = 0, []
    for segment in shape.split(b"#", 1)[0].split(b"/"):
        if b"0" in segment and "0" in path_template.__wrapped__(segment):
            ends += [at, at + len(segment)]
        at += len(segment) + 1
    return slice(min(ends), max(ends))


def _remember(memory: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(memory) >= MAX_SHAPES:
        memory.clear()
    memory[key] = value
