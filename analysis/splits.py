"""Which share of a segment the canary was to have, at any time of the recent past."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from analysis.columns import Times

SKEW_S = 1.0  # by which the clocks of Envoys and of Serinus differ at most
_NS = 1_000_000_000
SMALLEST_BP = 10  # a smaller split, or a smaller step, is not worth a push
STEP_SHARE, STEP_BP = 4, 100  # nor is a step of less than a quarter of the split, or of 1 pp where that is more
IN_DOUBT = -1  # in place of a share

Splits = npt.NDArray[np.int64]


def worth_bp(split_bp: int) -> int:
    """The smallest rise from a split that is worth a push, in basis points."""
    return max(SMALLEST_BP, min(STEP_BP, split_bp // STEP_SHARE))


class SplitHistory:
    """The canary's share of one segment over the last `keep_s` seconds, in basis points.

    Before that, the oldest kept.
    """

    def __init__(self, *, keep_s: float) -> None:
        self._keep_ns = int(keep_s * _NS)
        self._changes: deque[tuple[int, int]] = deque([(0, 0)])
        self._settled: deque[tuple[int, int]] = deque()  # when changes were decided, and when they were in force
        self._changing_ns: int | None = None  # since when a change is not in force everywhere

    def set(self, at_ns: int, split_bp: int) -> None:
        if self._changes[-1][1] != split_bp:
            if at_ns < self._changes[-1][0]:  # the clock has gone back; what was before is before
                self._changes = deque((min(then_ns, at_ns), before_bp) for then_ns, before_bp in self._changes)
            self._changes.append((at_ns, split_bp))
            self._changing_ns = at_ns if self._changing_ns is None else self._changing_ns
        while len(self._changes) > 1 and self._changes[1][0] < at_ns - self._keep_ns:
            self._changes.popleft()
        while self._settled and self._settled[0][1] + SKEW_S * _NS < self._changes[0][0]:
            self._settled.popleft()

    def settle(self, at_ns: int) -> None:
        """The newest share is in force, from now on, wherever the traffic is."""
        if self._changing_ns is not None:
            self._settled.append((self._changing_ns, at_ns))
            self._changing_ns = None

    def doubt(self, since_ns: int, until_ns: int) -> None:
        """Envoys may not have gone by what was asked for then."""
        self._settled.append((since_ns, until_ns))
        while self._settled[0][1] < until_ns - self._keep_ns:
            self._settled.popleft()

    def asked(self, at_ns: Times) -> Splits:
        """The share that every request of those times (n,) was asked to be routed by.

        IN_DOUBT while a change was under way or it is in doubt, within SKEW_S of that, and from before the history.
        """
        early_ns, late_ns = at_ns - int(SKEW_S * _NS), at_ns + int(SKEW_S * _NS)
        doubtful = at_ns < self._changes[0][0]
        if self._changing_ns is not None:
            doubtful |= self._changing_ns <= late_ns
        for decided_ns, in_force_ns in self._settled:
            doubtful |= (decided_ns <= late_ns) & (early_ns <= in_force_ns)
        lowest, _ = self.extremes(at_ns, 0)
        result: Splits = np.where(doubtful, IN_DOUBT, lowest)
        return result

    def extremes(self, since_ns: Times, span_ns: int) -> tuple[Splits, Splits]:
        """Lowest and highest share that was in force at any time in [since, since + span], (n,) each."""
        at = np.array([at_ns for at_ns, _ in self._changes], np.int64)
        shares = np.array([split_bp for _, split_bp in self._changes], np.int64)
        first, last = (np.maximum(np.searchsorted(at, t, "right") - 1, 0) for t in (since_ns, since_ns + span_ns))
        if not len(first):
            return first, last
        pairs, which = np.unique(np.stack([first, np.maximum(first, last)]), axis=1, return_inverse=True)
        lowest = np.array([shares[a : b + 1].min() for a, b in pairs.T], np.int64)
        highest = np.array([shares[a : b + 1].max() for a, b in pairs.T], np.int64)
        return lowest[which.ravel()], highest[which.ravel()]
