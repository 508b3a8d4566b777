"""The worst excess of bad sessions that recent data have not excluded: U of design section 5.

For each excess d of a grid an e-process tests 'the canary's rate is at least the baseline's plus d' against 'it is the
same'. U is the smallest d such that it and everything above are excluded. Two accumulators run, half an epoch apart,
and the older one is read: it never looks back further than one epoch, so a fault that comes late is seen as late.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.evidence.two_by_two import expected_log_e, log_e

Floats = npt.NDArray[np.float64]

GRID = np.array(
    [
        0.002,
        0.005,
        0.01,
        0.015,
        0.02,
        0.03,
        0.04,
        0.05,
        0.06,
        0.08,
        0.1,
        0.12,
        0.15,
        0.18,
        0.2,
        0.25,
        0.32,
        0.45,
        0.6,
        0.8,
    ]
)
"""Excess rates tested; above the last, 1.0 stands for 'anything is possible'."""


@dataclass(slots=True, kw_only=True)
class _Accumulator:
    log_e: Floats  # (S, D)
    begun_s: float


class ExcessExclusion:
    """U for each of S segments.

    `risk`: chance that any of them is wrong in an epoch. Times in seconds of event time.
    """

    def __init__(self, n_segments: int, *, risk: float, epoch_s: float) -> None:
        self._shape = (n_segments, len(GRID))
        self._epoch_s = epoch_s
        self.log_threshold = float(np.log(n_segments / risk))
        self._older = _Accumulator(log_e=np.zeros(self._shape), begun_s=0.0)
        self._younger = _Accumulator(log_e=np.zeros(self._shape), begun_s=epoch_s / 2)

    def update(self, n: npt.ArrayLike, bad: npt.ArrayLike, base: Floats, *, at_s: float) -> None:
        """Add one tick's harm counts, shape (S, 2) as (baseline, canary); `base` (S,) is the rate known before it."""
        counts, bads = np.asarray(n, float)[:, None, :], np.asarray(bad, float)[:, None, :]
        q = np.broadcast_to(base[:, None], self._shape)
        factor = log_e(counts[..., 1], bads[..., 1], counts[..., 0], bads[..., 0], q, q, _reachable(q))
        self._older.log_e += factor
        if at_s >= self._younger.begun_s:
            self._younger.log_e += factor
        if at_s >= self._older.begun_s + self._epoch_s:
            begun_s = self._younger.begun_s + self._epoch_s / 2
            self._older, self._younger = self._younger, _Accumulator(log_e=np.zeros(self._shape), begun_s=begun_s)

    def forget(self, segment: int) -> None:
        """Start again for one segment: what was learnt no longer describes what runs there."""
        self._older.log_e[segment] = 0.0
        self._younger.log_e[segment] = 0.0

    @property
    def worst(self) -> Floats:
        """(S,) U in (0, 1]: 1.0 where nothing is excluded yet."""
        excluded = self._older.log_e >= self.log_threshold
        all_above = np.logical_and.accumulate(excluded[:, ::-1], axis=1)[:, ::-1]
        first = np.where(all_above.any(axis=1), all_above.argmax(axis=1), len(GRID))
        worst: Floats = np.append(GRID, 1.0)[first]
        return worst

    def sessions_needed(self, segment: int, excess: float, base: float, share: float) -> float:
        """Sessions, both arms together, until `excess` is excluded if the canary is as good as the baseline.

        `share`: the canary's share of them. inf where an arm gets nothing.
        """
        column = max(int(np.searchsorted(GRID, excess + 1e-12)) - 1, 0)
        if not 0 < share < 1:
            return float("inf")
        missing = self.log_threshold - float(self._older.log_e[segment, column:].min())
        growth = float(expected_log_e(share, base, base, GRID[column]))
        return max(missing, 0.0) / growth if growth > 0 else float("inf")

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists."""
        return {
            "older": self._older.log_e.tolist(),
            "younger": self._younger.log_e.tolist(),
            "begun_s": [self._older.begun_s, self._younger.begun_s],
        }

    def restore(self, state: dict[str, object]) -> None:
        """Take a state that `state` gave, of the same specification."""
        begun = np.asarray(state["begun_s"], float)
        older, younger = (np.asarray(state[name], float).reshape(self._shape) for name in ("older", "younger"))
        self._older = _Accumulator(log_e=older, begun_s=float(begun[0]))
        self._younger = _Accumulator(log_e=younger, begun_s=float(begun[1]))


def _reachable(base: Floats) -> Floats:
    """The grid, cut where baseline plus excess would pass 1 (there the test says nothing)."""
    reachable: Floats = np.minimum(GRID, 1 - base - 1e-6)
    return reachable
