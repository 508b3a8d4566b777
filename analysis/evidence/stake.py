"""How the initial capital of an e-process is spent over event time, so that late changes are found as well.

Restarts after Shiryaev and Roberts: at each tick a share of the capital is put on 'it changes now',
R_t = e_t·(R_{t-1} + w_t), where the w_t are the masses of a density over event time that sums to at most one, so that R
is itself an e-process, E[R_t] <= sum of w <= 1 (Shin, Ramdas & Rinaldo, arXiv 2203.03532, with weights in place of the
ARL form). The weight of an hour is the same however many ticks it has.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NOW_SHARE = 0.5  # of the initial capital: bad from the first exposure on
SOON_SHARE = 0.15  # spread with the density 1/tau·(1 + t/tau)^-2, tau = SOON_S: most faults show early
EVEN_SHARE = 0.3  # spread evenly over EVEN_S; what is left is spread after it, as 1/t², for ever
SOON_S = 1_800.0
EVEN_S = 36 * 3_600.0


class Stake:
    """What has been put to work of a capital of 1, in each of B rollouts. `spent`: (B,), so far."""

    def __init__(self, n: int = 1) -> None:
        self.spent = np.zeros(n)

    def due(self, since_s: npt.ArrayLike) -> Floats:
        """(B,) the shares that fall due now, `since_s` (B,) seconds after each rollout's first exposure."""
        total = np.maximum(_spent_by(np.maximum(np.asarray(since_s, float), 0.0)), self.spent)
        due: Floats = total - self.spent
        self.spent = total
        return due


def _spent_by(t: Floats) -> Floats:
    even = np.minimum(t / EVEN_S, 1.0)
    late = 1.0 - EVEN_S / np.maximum(t, EVEN_S)
    late_share = 1.0 - NOW_SHARE - SOON_SHARE - EVEN_SHARE
    spent: Floats = NOW_SHARE + SOON_SHARE * t / (t + SOON_S) + EVEN_SHARE * even + late_share * late
    return spent
