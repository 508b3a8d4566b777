"""Ticks put together until a block has people of both arms: one arm alone says nothing about a difference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Blocks:
    """Counts (…, 2) by arm that wait for the other arm. A small segment would else lose nearly all it sees."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._n, self._bad = np.zeros((*shape, 2)), np.zeros((*shape, 2))

    def take(self, n: Floats, bad: Floats) -> tuple[Floats, Floats]:
        """Add a tick's counts; those of the blocks that are whole now, 0 elsewhere."""
        n, bad = self._n + n, self._bad + bad
        whole = (n > 0).all(axis=-1, keepdims=True)
        self._n, self._bad = np.where(whole, 0.0, n), np.where(whole, 0.0, bad)
        return np.where(whole, n, 0.0), np.where(whole, bad, 0.0)

    def state(self) -> list[object]:
        """What is waiting, as plain lists. Of a single rollout."""
        return [self._n[0].tolist(), self._bad[0].tolist()]

    def restore(self, values: object) -> None:
        """Take a state that `state` gave."""
        self._n, self._bad = np.asarray(values, float).reshape(2, *self._n.shape)
