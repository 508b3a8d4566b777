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
_POLISH = 3  # Newton steps on the closed form, which loses digits near 0 and 1


def project(
    n_c: npt.ArrayLike, n_b: npt.ArrayLike, q_c: npt.ArrayLike, q_b: npt.ArrayLike, difference: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """The rates (p_c, p_b) on the line p_c = p_b + difference nearest to (q_c, q_b), weighted by n_c and n_b.

    All arguments broadcast; rates and difference in [0, 1] (difference also in [-1, 0]); n >= 0. Where both n are 0 any
    point will do.

    The nearest point is the maximum-likelihood estimate under a given difference of rates, of counts n·q: the root of a
    cubic in p_b (Miettinen & Nurminen 1985, appendix I; Farrington & Manning 1990, section 3).
    """
    n_c, n_b, q_c, q_b, d = np.broadcast_arrays(*(np.asarray(x, float) for x in (n_c, n_b, q_c, q_b, difference)))
    lowest, highest = np.maximum(_EDGE, _EDGE - d), np.minimum(1 - _EDGE, 1 - _EDGE - d)
    low = np.clip(np.minimum(q_b, q_c - d), lowest, highest)  # the root lies between what either arm asks for
    high = np.clip(np.maximum(q_b, q_c - d), lowest, highest)
    total = np.maximum(n_c + n_b, _EDGE)
    w_c, w_b = n_c / total, n_b / total
    p_b = np.clip(_root(w_c, w_b, q_c, q_b, d), low, high)
    for _ in range(_POLISH):
        p_c = p_b + d
        v_c, v_b = p_c * (1 - p_c), p_b * (1 - p_b)
        slope = w_c * (p_c - q_c) / v_c + w_b * (p_b - q_b) / v_b
        high, low = np.where(slope > 0, p_b, high), np.where(slope > 0, low, p_b)
        step = p_b - slope / np.maximum(w_c / v_c + w_b / v_b, _EDGE)  # Fisher's scoring
        p_b = np.where((step >= low) & (step <= high), step, (low + high) / 2)
    return p_b + d, p_b


def _root(w_c: Floats, w_b: Floats, q_c: Floats, q_b: Floats, d: Floats) -> Floats:
    """The cubic's root p_b, by its trigonometric form; `w_c` + `w_b` = 1 where there are counts at all."""
    x_b = w_b * q_b
    both = w_c * q_c + x_b
    a2 = ((w_c + 2 * w_b) * d - 1 - both) / 3
    a1 = (w_b * d - 1 - 2 * x_b) * d + both
    a0 = x_b * d * (1 - d)
    v = a2**3 - a2 * a1 / 2 + a0 / 2
    u = np.copysign(np.sqrt(np.maximum(a2**2 - a1 / 3, 0.0)), v)
    cosine = np.clip(v / np.where(u == 0.0, 1.0, u**3), -1.0, 1.0)
    root: Floats = 2 * u * np.cos((np.pi + np.arccos(cosine)) / 3) - a2
    return root


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
