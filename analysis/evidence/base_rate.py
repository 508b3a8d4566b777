"""The baseline's rate as known before a tick: what an alternative may be built on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PRIOR_N = 2.0  # weight of the prior, in sessions
PRIOR_RATE = 0.05
MEMORY_N = 5_000.0  # sessions after which old ones fade, so that the estimate follows the day


class BaseRate:
    """Fading estimate of the baseline's rate, per stream. It shapes bets only; no claim of validity rests on it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n = np.zeros(shape)
        self.bad = np.zeros(shape)

    def learn(self, n: npt.ArrayLike, bad: npt.ArrayLike) -> None:
        """Add outcomes; counts of the same shape as the estimate."""
        fade = np.minimum(1.0, MEMORY_N / np.maximum(self.n, 1.0))
        self.n = self.n * fade + np.asarray(n, float)
        self.bad = self.bad * fade + np.asarray(bad, float)

    def rate_at(self, place: tuple[int, ...]) -> float:
        """One stream's rate; see `value`."""
        return float((self.bad[place] + PRIOR_N * PRIOR_RATE) / (self.n[place] + PRIOR_N))

    @property
    def value(self) -> Floats:
        """The rate, in (0, 1); the prior where nothing was seen."""
        rate: Floats = (self.bad + PRIOR_N * PRIOR_RATE) / (self.n + PRIOR_N)
        return rate
