"""The last intervals of a rollout: counts of people by KPI and arm, for what must not look at all that ever was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Recent:
    """A ring of the last `length` ticks of counts, each of shape (B, S, K, 2); sums over the last `spans` of them."""

    def __init__(self, shape: tuple[int, int, int], length: int, spans: Sequence[int]) -> None:
        self._ring = np.zeros((length, 2, *shape, 2))
        self._sums = {span: np.zeros((2, *shape, 2)) for span in spans}
        self._next = 0
        self._filled = 0

    def push(self, n: Floats, bad: Floats, *, begins: bool = True) -> None:
        """Add one tick's judged people and the bad ones among them; to the newest entry if it `begins` none."""
        length = len(self._ring)
        tick = np.stack([n, bad])
        if not begins and self._filled:
            self._ring[self._next - 1] += tick
            self._sums = {span: total + tick for span, total in self._sums.items()}
            return
        for span in self._sums:
            gone = self._ring[(self._next - span) % length] if self._filled >= span else 0.0
            self._sums[span] = self._sums[span] + tick - gone
        self._ring[self._next] = tick
        self._next = (self._next + 1) % length
        self._filled = min(self._filled + 1, length)

    def sums(self, span: int) -> tuple[Floats, Floats]:
        """(B, S, K, 2) people judged in the last `span` ticks, and the bad ones."""
        n, bad = self._sums[span]
        return n, bad

    def series(self, rollout: int, segment: int) -> tuple[Floats, Floats]:
        """(ticks, K, 2) people and bad ones of one segment, oldest first, from the first tick that judged anybody."""
        order = (self._next - self._filled + np.arange(self._filled)) % len(self._ring)
        n, bad = np.moveaxis(self._ring[order, :, rollout, segment], 1, 0)
        seen = np.flatnonzero(n.any(axis=(1, 2)))
        first = int(seen[0]) if len(seen) else len(n)
        return n[first:], bad[first:]

    def state(self) -> list[list[list[object]]]:
        """[people, bad ones] by segment, as nested lists. Of a single rollout."""
        return [[part.tolist() for part in self.series(0, s)] for s in range(self._ring.shape[3])]

    def restore(self, values: Sequence[Sequence[object]]) -> None:
        """Take a state that `state` gave. Raises ValueError where it is damaged."""
        length, _, _, n_segments, n_kpis, _ = self._ring.shape
        parts = np.zeros((length, 2, n_segments, n_kpis, 2))
        for segment, pair in enumerate(values):
            for which, part in enumerate(pair):
                counts = np.asarray(part, float).reshape(-1, n_kpis, 2)[-length:]
                parts[length - len(counts) :, which, segment] = counts
        if len(values) != n_segments or not np.isfinite(parts).all():
            raise ValueError("history is damaged")
        for tick in parts:
            self.push(tick[0][None], tick[1][None])
