"""Kayenta's Mann-Whitney test: a confidence interval for the shift between two samples, and its estimate.

Own code from the formulas of `kayenta-mannwhitney` (which are those of R's `wilcox.test`): the roots in mu of the
normalised rank sum of `x - mu` against `y`, with the correction for ties, and with the one for continuity for the
interval. The solver's tolerance is 1e-4, absolute: an error ratio of that size loses its resolution, as there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """By how much x lies above y."""

    low: float
    high: float
    estimate: float


def shift_interval(x: Floats, y: Floats, confidence: float = 0.98) -> Shift:
    """`x`: the experiment's points, `y`: the control's; both are not empty and not all the same value."""
    return _remembered(x.tobytes(), y.tobytes(), confidence)


@functools.lru_cache(maxsize=4_096)
def _remembered(x_bytes: bytes, y_bytes: bytes, confidence: float) -> Shift:
    """Tuning asks for the same points again and again."""
    x, y = np.frombuffer(x_bytes), np.frombuffer(y_bytes)
    z = float(ndtri((1 + confidence) / 2))
    return Shift(
        low=_root(x, y, z, corrected=True),
        high=_root(x, y, -z, corrected=True),
        estimate=_root(x, y, 0.0, corrected=False),
    )


def statistic(mu: float, x: Floats, y: Floats, *, corrected: bool) -> float:
    """Normalised rank sum of `x - mu` against `y`; it falls with mu."""
    n, m = len(x), len(y)
    ranks = rankdata(np.concatenate([x - mu, y]))
    dz = float(ranks[:n].sum()) - n * (n + 1) / 2 - n * m / 2
    if corrected:
        dz -= 0.5 * float(np.sign(dz))
    _, ties = np.unique(ranks, return_counts=True)
    tied = float((ties.astype(float) ** 3 - ties).sum())
    variance = n * m / 12 * ((n + m + 1) - tied / ((n + m) * (n + m - 1)))
    return dz / float(np.sqrt(variance)) if variance > 0 else 0.0


def _root(x: Floats, y: Floats, z: float, *, corrected: bool) -> float:
    lowest, highest = float(x.min() - y.max()), float(x.max() - y.min())

    def off(mu: float) -> float:
        return statistic(mu, x, y, corrected=corrected) - z

    if off(lowest) <= 0:
        return lowest
    if off(highest) >= 0:
        return highest
    return float(brentq(off, lowest, highest, xtol=TOLERANCE))
