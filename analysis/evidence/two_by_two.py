"""E-values for two groups of yes/no outcomes against a difference of rates.

Null hypothesis: the canary's rate lies on the far side of the line p_c = p_b + d, seen from the alternative (q_c, q_b).
For a convex null the e-value of a block of n_c and n_b outcomes is the likelihood ratio of the alternative against its
projection onto the null, the point that minimises n_c·KL(q_c‖p_c) + n_b·KL(q_b‖p_b)
(Turner, Ly & Grünwald 2024, "Generic E-variables for exact sequential k-sample tests", Theorem 1; Turner & Grünwald
2023, arXiv 2302.11401). Base rates may drift between blocks and differ between people: only the difference is tested.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_EDGE = 1e-9
_BISECTIONS = 26  # halvings of an interval of at most 1: exact to 2e-8, and the e-value to its square


def project(
    n_c: npt.ArrayLike, n_b: npt.ArrayLike, q_c: npt.ArrayLike, q_b: npt.ArrayLike, difference: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """The rates (p_c, p_b) on the line p_c = p_b + difference nearest to (q_c, q_b), weighted by n_c and n_b.

    All arguments broadcast; rates and difference in [0, 1] (difference also in [-1, 0]); n >= 0. Where both n are 0 any
    point will do and the middle is given.
    """
    n_c, n_b, q_c, q_b, d = np.broadcast_arrays(*(np.asarray(x, float) for x in (n_c, n_b, q_c, q_b, difference)))
    lowest, highest = np.maximum(_EDGE, _EDGE - d), np.minimum(1 - _EDGE, 1 - _EDGE - d)
    low = np.clip(np.minimum(q_b, q_c - d), lowest, highest)
    high = np.clip(np.maximum(q_b, q_c - d), lowest, highest)
    for _ in range(_BISECTIONS):
        p_b = (low + high) / 2
        p_c = p_b + d
        slope = n_c * (p_c - q_c) / (p_c * (1 - p_c)) + n_b * (p_b - q_b) / (p_b * (1 - p_b))
        above = slope > 0
        high = np.where(above, p_b, high)
        low = np.where(above, low, p_b)
    p_b = (low + high) / 2
    return p_b + d, p_b


def log_likelihood_ratio(n: npt.ArrayLike, bad: npt.ArrayLike, q: npt.ArrayLike, p: npt.ArrayLike) -> Floats:
    """Log of q's likelihood over p's for `bad` of `n` outcomes; 0 where n is 0."""
    n, bad = np.asarray(n, float), np.asarray(bad, float)
    q = np.clip(q, _EDGE, 1 - _EDGE)
    p = np.clip(p, _EDGE, 1 - _EDGE)
    ratio: Floats = bad * np.log(q / p) + (n - bad) * np.log((1 - q) / (1 - p))
    return ratio


def log_e(
    n_c: npt.ArrayLike,
    bad_c: npt.ArrayLike,
    n_b: npt.ArrayLike,
    bad_b: npt.ArrayLike,
    q_c: npt.ArrayLike,
    q_b: npt.ArrayLike,
    difference: npt.ArrayLike,
) -> Floats:
    """Log of the e-value of one block.

    `q_c`, `q_b` must be chosen before the block is seen. 0 where an arm is empty.
    """
    p_c, p_b = project(n_c, n_b, q_c, q_b, difference)
    both = (np.asarray(n_c) > 0) & (np.asarray(n_b) > 0)
    ratio = log_likelihood_ratio(n_c, bad_c, q_c, p_c) + log_likelihood_ratio(n_b, bad_b, q_b, p_b)
    return np.where(both, ratio, 0.0)


def expected_log_e(share: npt.ArrayLike, q_c: npt.ArrayLike, q_b: npt.ArrayLike, difference: npt.ArrayLike) -> Floats:
    """Expected growth of log e a session (nats) when the alternative is true; `share` of sessions on the canary."""
    share = np.asarray(share, float)
    p_c, p_b = project(share, 1 - share, q_c, q_b, difference)
    return share * log_likelihood_ratio(1.0, q_c, q_c, p_c) + (1 - share) * log_likelihood_ratio(1.0, q_b, q_b, p_b)
