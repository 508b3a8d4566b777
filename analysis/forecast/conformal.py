"""How much wider than its model says a forecast must be, learnt from earlier forecasts that have come due.

Quantile tracking with a saturated integrator: the P and I parts of conformal PID control (Angelopoulos, Candès &
Tibshirani, NeurIPS 2023, section 2.2; the P part alone is adaptive conformal inference, Gibbs & Candès, NeurIPS 2021).
A score is the absolute error of a forecast in standard deviations of its model; the tracked 95 % quantile of the scores
over that of the normal distribution is the factor. It holds on average over time whatever the scores are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MISS = 0.05  # share of forecasts that may fall out of their band
NORMAL = 1.959964
RATE = 0.1  # of the proportional part, in standard deviations a score
INTEGRAL, SATURATES = 0.2, 20.0  # of the integrator, and the summed excess of misses at which it is at a half of that
NARROWEST, WIDEST = 0.75, 2.5  # bounds of the factor: a fault that has just begun must not silence its own forecast


class ConformalWidth:
    """One tracked factor for each of B rollouts and L limited KPIs. `factor`: (B, L), in [NARROWEST, WIDEST]."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._quantile = np.full(shape, NORMAL)
        self._missed = np.zeros(shape)

    def learn(self, scores: Floats) -> None:
        """Take the scores of forecasts that came due together, (B, rows, L); NaN: nothing came due there."""
        known = np.isfinite(scores)
        n = known.sum(axis=1)
        missed = (known & (scores > (NORMAL * self.factor)[:, None])).sum(axis=1)
        error = np.divide(missed, n, out=np.full(n.shape, MISS), where=n > 0) - MISS
        self._quantile = np.clip(self._quantile + RATE * error, NARROWEST * NORMAL, WIDEST * NORMAL)
        self._missed = np.clip(self._missed + error, -SATURATES, SATURATES)

    @property
    def factor(self) -> Floats:
        tracked = self._quantile / NORMAL + INTEGRAL * self._missed / (SATURATES + np.abs(self._missed))
        factor: Floats = np.clip(tracked, NARROWEST, WIDEST)
        return factor

    def state(self) -> list[object]:
        """Everything needed to go on, as plain lists. Of a single rollout."""
        return [self._quantile[0].tolist(), self._missed[0].tolist()]

    def restore(self, values: Sequence[object]) -> None:
        """Take a state that `state` gave. Raises ValueError where it is damaged."""
        kept = np.asarray(values, float).reshape(2, *self._quantile.shape)
        if not np.isfinite(kept).all():
            raise ValueError("widths of forecasts are damaged")
        self._quantile = np.clip(kept[0], NARROWEST * NORMAL, WIDEST * NORMAL)
        self._missed = np.clip(kept[1], -SATURATES, SATURATES)
