"""How the initial capital of an e-process is spent over event time, so that late changes are found as well.

Restarts after Shiryaev and Roberts: at each tick a share of the capital is put on 'it changes now',
R_t = e_t·(R_{t-1} + w_t), where the w_t are the masses of a density over event time that sums to at most one, so that R
is itself an e-process, E[R_t] <= sum of w <= 1 (Shin, Ramdas & Rinaldo, arXiv 2203.03532, with weights in place of the
ARL form).
"""

from __future__ import annotations

NOW_SHARE = 0.5  # of the initial capital: bad from the first exposure on; the rest waits for later changes


class Stake:
    """What has been put to work of a capital of 1. `spent`: so far."""

    def __init__(self, tau_s: float) -> None:
        self._tau_s = tau_s
        self.spent = 0.0

    def due(self, since_s: float) -> float:
        """The share that falls due now, `since_s` after the first exposure: a point at 0, then 1/tau·(1 + t/tau)^-2."""
        total = NOW_SHARE + (1 - NOW_SHARE) * (1 - 1 / (1 + max(since_s, 0.0) / self._tau_s))
        due, self.spent = max(total - self.spent, 0.0), max(total, self.spent)
        return due
