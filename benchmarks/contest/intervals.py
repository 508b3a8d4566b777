"""95 % intervals for what a cell shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, t

LEVEL = 0.95
Z = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A value with its interval and the number of runs behind it. NaN: no runs; infinity: never."""

    value: float
    low: float
    high: float
    n: int

    def surely_below(self, other: Figure) -> bool:
        return self.high < other.low

    def as_data(self) -> dict[str, float | int | str]:
        """JSON has no infinity."""
        shown = {name: getattr(self, name) for name in ("value", "low", "high")}
        return {**{k: v if math.isfinite(v) else str(v) for k, v in shown.items()}, "n": self.n}


NONE = Figure(value=math.nan, low=math.nan, high=math.nan, n=0)


def rate(flags: npt.ArrayLike) -> Figure:
    """Wilson's score interval."""
    n, k = np.size(flags), int(np.sum(flags))
    if not n:
        return NONE
    p = k / n
    middle, spread = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    low, high = max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)
    return Figure(value=p, low=0.0 if k == 0 else low, high=1.0 if k == n else high, n=n)


def mean(values: npt.NDArray[np.float64]) -> Figure:
    """Student's interval; a single run has none."""
    n = len(values)
    if not n:
        return NONE
    value = float(values.mean())
    if n == 1:
        return Figure(value=value, low=-math.inf, high=math.inf, n=1)
    spread = float(t.ppf((1 + LEVEL) / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Figure(value=value, low=value - spread, high=value + spread, n=n)


def quantile(values: npt.NDArray[np.float64], q: float = 0.5) -> Figure:
    """A quantile and the order statistics around it (distribution-free); values may be infinite."""
    n = len(values)
    if not n:
        return NONE
    ordered = np.sort(values)
    below, above = (int(binom.ppf(tail, n, q)) for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    low = -math.inf if binom.cdf(below - 1, n, q) > (1 - LEVEL) / 2 or below == 0 else float(ordered[below - 1])
    high = float(ordered[above]) if above < n else math.inf
    return Figure(value=float(ordered[min(math.ceil(q * n), n) - 1]), low=low, high=high, n=n)
