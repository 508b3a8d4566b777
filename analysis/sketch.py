"""Quantile sketches of latencies: DDSketch (Masson, Rim & Lee 2019), whose bins add up exactly in any order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import DenseStore

RELATIVE_ACCURACY = 0.01  # of every quantile
LEAST_MS = 1e-3  # shorter counts as this; what is longer than a week counts as a week
MOST_MS = 7 * 24 * 3_600_000.0

_MAPPING = LogarithmicMapping(RELATIVE_ACCURACY)
_MULTIPLIER = 1 / np.log2(_MAPPING.gamma)
_LEAST_KEY = int(np.ceil(np.log2(LEAST_MS) * _MULTIPLIER))
_KEYS = int(np.ceil(np.log2(MOST_MS) * _MULTIPLIER)) - _LEAST_KEY + 1


class Sketch:
    """The distribution of some latencies in ms. NaN and infinities are left out."""

    __slots__ = ("_sketch", "_store")

    def __init__(self) -> None:
        self._store = DenseStore()
        self._sketch = BaseDDSketch(_MAPPING, self._store, DenseStore(), 0.0)

    @classmethod
    def of(cls, values_ms: npt.NDArray[np.floating]) -> Sketch:
        """The sketch of (n,) values: each goes into the bin into which the library would put it."""
        return cls.of_groups(values_ms, np.zeros(len(values_ms), np.int64), 1)[0]

    @classmethod
    def of_groups(
        cls, values_ms: npt.NDArray[np.floating], group: npt.NDArray[np.signedinteger], n_groups: int
    ) -> list[Sketch]:
        """The sketches of `n_groups` groups of values; `group`: which one each of (n,) values belongs to."""
        known = np.isfinite(values_ms)
        values = np.clip(values_ms[known].astype(float), LEAST_MS, MOST_MS)
        bins = np.ceil(np.log2(values) * _MULTIPLIER).astype(np.int64) - _LEAST_KEY
        counts = np.bincount(group[known] * _KEYS + bins, minlength=n_groups * _KEYS).reshape(n_groups, _KEYS)
        return [cls.from_bins({int(key) + _LEAST_KEY: int(row[key]) for key in np.flatnonzero(row)}) for row in counts]

    @classmethod
    def from_bins(cls, bins: Mapping[int, int]) -> Sketch:
        """The sketch with so many values in each of the library's bins. Raises ValueError for a count below 1."""
        sketch = cls()
        for key, n in sorted(bins.items()):
            if n < 1:
                raise ValueError(f"bin {key} holds {n} values")
            sketch._sketch.add(_MAPPING.value(key), float(n))
        return sketch

    @property
    def bins(self) -> dict[int, int]:
        """How many values each of the library's bins holds; `from_bins` makes the same sketch of it."""
        return {index + self._store.offset: int(n) for index, n in enumerate(self._store.bins) if n}

    @property
    def n(self) -> int:
        return int(self._sketch.count)

    def quantile(self, q: float) -> float:
        """The value in ms below which a share `q` of all lies, within 1 %; NaN of nothing."""
        value = self._sketch.get_quantile_value(q)
        return float("nan") if value is None else float(value)

    def __add__(self, other: Sketch) -> Sketch:
        both = Sketch()
        both._sketch.merge(self._sketch)
        both._sketch.merge(other._sketch)
        return both

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and self.bins == other.bins

    __hash__ = None  # type: ignore[assignment]  # it changes as long as it is being filled
