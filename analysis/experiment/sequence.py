"""Evidence and intervals that hold at every look, from an estimate, its variance and its information.

With S the information-weighted sum of differences, V its estimated variance and W the information (effective people),
z² = S²/V and the Gaussian-mixture e-process of scale τ is

    e_τ = sqrt(τ/(W+τ))·exp(z²/2 · W/(W+τ))

whose inversion, |S| <= sqrt(V/W · (W+τ)·log((W+τ)/(τα²))), is the asymptotic confidence sequence of Waudby-Smith,
Arbour, Sinha, Kennedy & Ramdas (Ann. Stat. 2024, arXiv 2103.06476, Theorem 2.2, with t = W and ρ² = 1/τ). It is
tightest where W is some multiple of τ. Nobody knows how large an experiment becomes, so e is the mean over SCALES: a
mean of e-processes is one. The guarantee is asymptotic: P(the interval ever leaves out the truth) -> at most α, as the
first look comes later (`effects.py` says when it comes).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SCALES = np.array([3e2, 1e4, 3e5])
"""τ in effective people, n_a·n_b/(n_a + n_b): experiments of about a thousand to some million people."""
_NEWTON = 12  # steps; the equation is convex, so that they come down to the root and never beyond it


def log_e(total: npt.ArrayLike, variance: npt.ArrayLike, information: npt.ArrayLike) -> Floats:
    """Log of the e-value against `no difference`; all arguments broadcast. 0 where there is no information."""
    s, v, w = np.broadcast_arrays(*(np.asarray(x, float) for x in (total, variance, information)))
    square = np.divide(s**2, v, out=np.zeros(s.shape), where=(w > 0) & (v > 0))
    return _log_mean(square, w)


def critical_square(information: npt.ArrayLike, alpha: npt.ArrayLike) -> Floats:
    """The z² at which the e-value reaches 1/alpha; alpha in (0, 1); infinity where there is no information."""
    w, a = np.broadcast_arrays(np.asarray(information, float), np.asarray(alpha, float))
    safe = np.where(w > 0, w, 1.0)[..., None]
    share = safe / (safe + SCALES)
    level = -np.log(a)
    above = 2 / share * (level[..., None] + math.log(len(SCALES)) - 0.5 * np.log1p(-share))  # each scale's root alone
    square: Floats = above.min(axis=-1)
    for _ in range(_NEWTON):
        parts = 0.5 * np.log1p(-share) + square[..., None] / 2 * share
        value = np.logaddexp.reduce(parts, axis=-1)
        slope = (np.exp(parts - value[..., None]) * share / 2).sum(axis=-1)
        square = square - (value - math.log(len(SCALES)) - level) / slope
    return np.where(w > 0, square, np.inf)


def half_width(variance: npt.ArrayLike, information: npt.ArrayLike, alpha: npt.ArrayLike) -> Floats:
    """Half of the interval's length, in the metric's unit; infinity where there is no information."""
    v, w = np.broadcast_arrays(np.asarray(variance, float), np.asarray(information, float))
    root = np.sqrt(critical_square(w, alpha))
    spread = np.divide(np.sqrt(v), w, out=np.ones(v.shape), where=w > 0)
    return np.where(w > 0, root * spread, np.inf)


def _log_mean(square: Floats, information: Floats) -> Floats:
    w = information[..., None]
    share = w / (w + SCALES)
    parts = 0.5 * np.log1p(-share) + square[..., None] / 2 * share
    mean: Floats = np.logaddexp.reduce(parts, axis=-1) - math.log(len(SCALES))
    return mean
