"""The worst excess of bad sessions that recent data have not excluded: U of design section 5.

For each excess d of a grid an e-process tests 'the canary's rate is at least the baseline's plus d' against 'it is the
same'. U is the smallest d such that it and everything above are excluded. Two accumulators run, half an epoch apart,
and the older one is read: it never looks back further than one epoch, so a fault that comes late is seen as late.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from analysis.evidence.blocks import Blocks
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


ENOUGH_N = 800.0  # sessions of the smaller arm without which an epoch goes on: a small segment must learn, too
LONGEST_S = 86_400.0  # … but no longer than this


class ExcessExclusion:
    """U for each of R rows (segments, say) in each of B rollouts.

    `risk`: chance that any row of a rollout is wrong in an epoch. Times in seconds of event time.
    """

    def __init__(self, n_rows: int, *, risk: float, epoch_s: float, n: int = 1) -> None:
        self._shape = (n, n_rows, len(GRID))
        self._epoch_s = epoch_s
        self.log_threshold = float(np.log(n_rows / risk)) if n_rows else 0.0
        self._older, self._younger = np.zeros(self._shape), np.zeros(self._shape)
        self._begun_s = np.tile([0.0, epoch_s / 2], (n, n_rows, 1))  # the older one, the younger one
        self._blocks = Blocks((n, n_rows))
        self._younger_n = np.zeros((n, n_rows))  # sessions of the smaller arm behind the younger one

    def update(self, n: npt.ArrayLike, bad: npt.ArrayLike, base: npt.ArrayLike, *, at_s: npt.ArrayLike) -> None:
        """Add one tick's counts, (B, R, 2) as (baseline, canary), at `at_s` (B,).

        `base` (B, R) is the baseline's rate as known before it. Rows of which an arm is empty wait for it.
        """
        counts, bads = self._blocks.take(*(np.asarray(x, float).reshape(*self._shape[:2], 2) for x in (n, bad)))
        seen = (counts > 0).all(axis=-1)
        q = np.broadcast_to(np.asarray(base, float).reshape(self._shape[:2])[seen][:, None], (seen.sum(), len(GRID)))
        (n_b, n_c), (bad_b, bad_c) = counts[seen].T[..., None], bads[seen].T[..., None]
        factor = log_e(n_c, bad_c, n_b, bad_b, q, q, _reachable(q))
        self._older[seen] += factor
        at = np.broadcast_to(np.reshape(np.asarray(at_s, float), (-1, 1)), self._shape[:2])
        begun = (at >= self._begun_s[..., 1]) & seen
        self._younger[begun] += factor[begun[seen]]
        self._younger_n += np.where(begun, counts.min(axis=-1), 0.0)
        self._turn_over(at)

    def _turn_over(self, at: Floats) -> None:
        """Let the younger one take over where the epoch is over and it knows enough, or a day is."""
        lasted_s = at - self._begun_s[..., 0]
        over = (lasted_s >= self._epoch_s) & ((self._younger_n >= ENOUGH_N) | (lasted_s >= LONGEST_S))
        self._older[over], self._younger[over], self._younger_n[over] = self._younger[over], 0.0, 0.0
        self._begun_s[over] = np.stack([self._begun_s[over, 1], at[over]], axis=-1)

    @property
    def worst(self) -> Floats:
        """(B, R) U in (0, 1]: 1.0 where nothing is excluded yet."""
        excluded = self._older >= self.log_threshold
        all_above = np.logical_and.accumulate(excluded[..., ::-1], axis=-1)[..., ::-1]
        first = np.where(all_above.any(axis=-1), all_above.argmax(axis=-1), len(GRID))
        worst: Floats = np.append(GRID, 1.0)[first]
        return worst

    def sessions_needed(
        self, rollout: int, rows: npt.ArrayLike, excess: npt.ArrayLike, base: npt.ArrayLike, share: npt.ArrayLike
    ) -> Floats:
        """Sessions, both arms together, until `excess` is excluded if the canary is as good as the baseline.

        Of some rows of a rollout; the arguments broadcast. `share`: the canary's share of the sessions. 0 where it is
        excluded already, inf where an arm gets nothing.
        """
        which, excess, base, share = np.broadcast_arrays(
            np.asarray(rows, int), *(np.asarray(x, float) for x in (excess, base, share))
        )
        column = np.maximum(np.searchsorted(GRID, excess + 1e-12) - 1, 0)
        least = np.minimum.accumulate(self._older[rollout, which][..., ::-1], axis=-1)[..., ::-1]
        missing = self.log_threshold - np.take_along_axis(least, column[..., None], axis=-1)[..., 0]
        growth = expected_log_e(share, base, base, GRID[column])
        grows = (share > 0) & (share < 1) & (growth > 0)
        sessions = np.divide(missing, growth, out=np.full(missing.shape, np.inf), where=grows)
        return np.where(missing > 0, sessions, 0.0)

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists. Of a single rollout."""
        return {
            "older": self._older[0].tolist(),
            "younger": self._younger[0].tolist(),
            "begun_s": self._begun_s[0].tolist(),
            "younger_n": self._younger_n[0].tolist(),
            "blocks": self._blocks.state(),
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Take a state that `state` gave, of the same specification."""
        self._begun_s = np.asarray(state["begun_s"], float).reshape(*self._shape[:2], 2)
        self._younger_n = np.asarray(state["younger_n"], float).reshape(self._shape[:2])
        self._blocks.restore(state["blocks"])
        self._older, self._younger = (
            np.asarray(state[name], float).reshape(self._shape) for name in ("older", "younger")
        )


def _reachable(base: Floats) -> Floats:
    """The grid, cut where baseline plus excess would pass 1 (there the test says nothing)."""
    reachable: Floats = np.minimum(GRID, 1 - base - 1e-6)
    return reachable
