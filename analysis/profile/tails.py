"""How far out a value lies among a segment's usual ones: the log of one over its tail's share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

KNOTS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class UpperTail:
    """Share of usual values that are as large or larger, as a curve that goes on beyond the largest one seen.

    `values`: ascending, at most KNOTS; `depths`: minus the log of the share at or above each. Beyond the last knot the
    depth grows by `slope` a unit, as an exponential tail through the median and that knot would.
    """

    values: Floats
    depths: Floats
    slope: float

    @classmethod
    def of(cls, sample: Floats) -> UpperTail:
        """Of the usual values (n,), n > 0; none of them NaN."""
        ascending = np.sort(sample)
        n = len(ascending)
        shares = np.exp(np.linspace(0.0, -np.log(n), KNOTS))
        values = ascending[np.clip(np.ceil((1 - shares) * n).astype(int), 0, n - 1)]
        values = np.unique(values)
        at_least = n - np.searchsorted(ascending, values, side="left")
        depths = -np.log(at_least / (n + 1.0))
        median = float(ascending[n // 2])
        reach, depth = float(values[-1]) - median, float(depths[-1]) - np.log(2.0)
        slope = depth / reach if reach > 0 and depth > 0 else 1.0 / max(abs(median), 1.0)
        return cls(values=values, depths=depths, slope=slope)

    def depth(self, values: Floats) -> Floats:
        """Minus the log of the share of usual values that are at least as large; 0 for the smallest."""
        known = np.interp(values, self.values, self.depths, left=0.0)
        beyond: Floats = known + self.slope * np.maximum(values - self.values[-1], 0.0)
        return beyond
