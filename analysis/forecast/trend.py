"""Forecast of a canary's KPI by a local linear trend (state space, statsmodels), and its chance to cross a limit.

Level and slope follow random walks (Durbin & Koopman 2012, section 3.2); their variances are fixed shares of the
observation noise, which for a share of n sessions is binomial, so that nothing is estimated from a dozen points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Floats = npt.NDArray[np.float64]

MIN_TICKS = 12  # points before a trend means anything
LEVEL_SHARE, SLOPE_SHARE = 0.001, 0.000001  # variance of a tick's step in level and in slope, as shares of the noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """`horizon_ticks` ahead: mean and 95 % band of the share of bad sessions, and P(it is above `limit` then)."""

    kpi: str
    limit: float
    horizon_ticks: int
    mean: float
    lower: float
    upper: float
    p_breach: float


def forecast(kpi: str, bad: npt.ArrayLike, n: npt.ArrayLike, *, limit: float, horizon_ticks: int) -> Forecast | None:
    """Forecast from per-tick counts, oldest first; None while fewer than MIN_TICKS ticks hold sessions.

    Ticks without sessions count as missing, never as zero.
    """
    from statsmodels.tsa.statespace.structural import UnobservedComponents  # seconds to import: only where it is used

    n, bad = np.asarray(n, float), np.asarray(bad, float)
    seen = n > 0
    if int(seen.sum()) < MIN_TICKS:
        return None
    share = np.divide(bad, n, out=np.full_like(n, np.nan), where=seen)
    pooled = (bad.sum() + 0.5) / (n.sum() + 1.0)
    noise = pooled * (1 - pooled) / float(np.median(n[seen]))
    model = UnobservedComponents(share, level="lltrend")
    fitted = model.filter([noise, LEVEL_SHARE * noise, SLOPE_SHARE * noise])
    ahead = fitted.get_forecast(horizon_ticks)
    mean = float(ahead.predicted_mean[-1])
    # the share itself, not one more noisy observation of it
    spread = float(np.sqrt(max(ahead.var_pred_mean[-1] - noise, noise * 1e-3)))
    band = 1.96 * spread
    return Forecast(
        kpi=kpi, limit=limit, horizon_ticks=horizon_ticks, mean=float(np.clip(mean, 0, 1)),
        lower=float(np.clip(mean - band, 0, 1)), upper=float(np.clip(mean + band, 0, 1)),
        p_breach=float(norm.sf(limit, loc=mean, scale=spread)),
    )  # fmt: skip
