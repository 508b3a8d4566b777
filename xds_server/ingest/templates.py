"""Path templates at the speed of a look-up, though hardly a path comes twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import repeat

import numpy as np
import numpy.typing as npt

from xds_server.ingest.rows import path_template

MAX_SHAPES = 16_384
"""Shapes and templates remembered, by and large; beyond it all are forgotten, which costs a moment."""

MAX_SHAPE = 256
"""Bytes of a path above which its shape is not remembered."""

_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_DIGIT = re.compile("[0-9]")
_UNKNOWN, _KEEPS = -1, -2


class Templates:
    """`path_template`, remembered by the shape of a path: its digits do not matter, only where they are."""

    def __init__(self) -> None:
        self._forget()

    def __call__(self, paths: Sequence[bytes]) -> tuple[npt.NDArray[np.intp], Sequence[str]]:
        """Return for each path the index of its template, and all templates; valid until the next call."""
        if len(self._names) >= MAX_SHAPES or len(self._by_shape) >= MAX_SHAPES or len(self._by_part) >= MAX_SHAPES:
            self._forget()
        shapes = [path.partition(b"?")[0].translate(_DIGITS_AS_0) for path in paths]
        index = np.fromiter(map(self._by_shape.get, shapes, repeat(_UNKNOWN)), np.intp, len(paths))
        kept, known = self._kept, self._by_part
        for i in np.flatnonzero(index < 0).tolist():
            shape, path = shapes[i], paths[i]
            part = kept.get(shape)
            number = known.get((shape, path[part])) if part is not None else None
            index[i] = self._find(shape, path) if number is None else number
        return index, self._names

    def _forget(self) -> None:
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._by_shape: dict[bytes, int] = {}  # or _KEEPS: not without looking at the digits
        self._kept: dict[bytes, slice] = {}  # by shape: where the digits are that count
        self._by_part: dict[tuple[bytes, bytes], int] = {}  # by shape and what is there

    def _find(self, shape: bytes, path: bytes) -> int:
        kept = self._kept.get(shape)
        if kept is not None:
            key = shape, path[kept]
            known = self._by_part.get(key)
            if known is None:
                known = self._by_part[key] = self._number(path)
            return known
        number = self._number(path)
        if len(shape) <= MAX_SHAPE:
            keeps = _DIGIT.search(self._names[number]) is not None
            if keeps:
                self._kept[shape] = _kept(shape)
            self._by_shape[shape] = _KEEPS if keeps else number
        return number

    def _number(self, path: bytes) -> int:
        template = path_template.__wrapped__(path)
        number = self._numbers.setdefault(template, len(self._names))
        if number == len(self._names):
            self._names.append(template)
        return number


def _kept(shape: bytes) -> slice:
    """Return where in the paths of this shape the digits are that their templates keep (`/v2/items/*`)."""
    at, ends = 0, []
    for segment in shape.split(b"#", 1)[0].split(b"/"):
        if b"0" in segment and "0" in path_template.__wrapped__(segment):
            ends += [at, at + len(segment)]
        at += len(segment) + 1
    return slice(min(ends), max(ends))
