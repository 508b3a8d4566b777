"""The chance that a Gaussian level which moves in a line crosses a limit on its way, not only that it ends above it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

Floats = npt.NDArray[np.float64]

NODES = (np.arange(12) + 0.5) / 12
_LEAST = 1e-12


def p_crossing(now: Floats, now_var: Floats, end: Floats, end_var: Floats, cov: Floats, limit: Floats) -> Floats:
    """P(the level is above `limit` now or at the end), of jointly normal values; all arguments broadcast.

    `now`, `end`: means; `now_var`, `end_var`, `cov`: their variances and covariance, >= 0. In between the level is
    taken for a line, whose maximum lies at an end: what a path's own noise adds in between is left out (an integrated
    random walk is smooth, Durbin & Koopman 2012, section 3.2). The part that begins below the limit is integrated over
    its truncated normal distribution by the midpoint rule in probability.
    """
    now_sd = np.sqrt(np.maximum(now_var, _LEAST))
    below = ndtr((limit - now) / now_sd)
    below = np.broadcast_to(below, now.shape)
    start = now[..., None] + now_sd[..., None] * ndtri(np.maximum(below[..., None] * NODES, 1e-300))
    slope = cov / np.maximum(now_var, _LEAST)
    left_sd = np.sqrt(np.maximum(end_var - slope * cov, _LEAST))
    mean = end[..., None] + slope[..., None] * (start - now[..., None])
    crosses = ndtr((mean - np.asarray(limit)[..., None]) / left_sd[..., None]).mean(axis=-1)
    p: Floats = 1 - below + below * crosses
    return np.clip(p, 0.0, 1.0)
