"""Logistic regression with a Gaussian prior on each coefficient: the posterior's mode and its curvature there.

An L2 penalty is such a prior (Hoerl & Kennard 1970; for the logit, le Cessie & van Houwelingen 1992). Beyond what
scikit-learn's `LogisticRegression` offers there are an offset, priors that are not zero (of the intercept: what is
thought of a release that nothing is known of), and the covariance, with which predictions are drawn in where little is
known (MacKay 1992, "The evidence framework applied to classification networks", section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

Floats = npt.NDArray[np.float64]

MOST_STEPS, HALVINGS = 50, 20
ENOUGH = 1e-8  # largest part of the gradient at which the mode is found


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """`coef` (D,): mode; `covariance` (D, D): inverse of the curvature there (Laplace's approximation)."""

    coef: Floats
    covariance: Floats


def fit(x: Floats, failed: npt.ArrayLike, *, mean: Floats, sd: Floats, offset: npt.ArrayLike = 0.0) -> Posterior:
    """The posterior of `failed` (N,) ~ expit(offset + x·coef), coef ~ Normal(mean, sd²), by Newton's method.

    x (N, D) finite; `mean`, `sd` (D,), sd > 0; `offset` (N,) or one number. No rows give the prior itself.
    """
    y, precision = np.asarray(failed, float), 1 / np.square(sd)
    offset = np.broadcast_to(np.asarray(offset, float), y.shape)

    def loss(coef: Floats) -> float:
        eta = offset + x @ coef
        return float(np.sum(np.logaddexp(0.0, eta) - y * eta) + 0.5 * precision @ np.square(coef - mean))

    coef = mean.copy()
    now = loss(coef)
    for _ in range(MOST_STEPS):
        p = expit(offset + x @ coef)
        gradient = x.T @ (p - y) + precision * (coef - mean)
        if np.abs(gradient).max(initial=0.0) < ENOUGH:
            break
        step = np.linalg.solve(_curvature(x, p, precision), gradient)
        scales = (0.5**i for i in range(HALVINGS))  # convex, so some part of Newton's step leads down, if any does
        downs = ((scale, then) for scale in scales if (then := loss(coef - scale * step)) < now)
        if (down := next(downs, None)) is None:
            break
        coef, now = coef - down[0] * step, down[1]
    curvature = _curvature(x, expit(offset + x @ coef), precision)
    covariance: Floats = np.asarray(np.linalg.inv(curvature), float)
    return Posterior(coef=coef, covariance=covariance)


def _curvature(x: Floats, p: Floats, precision: Floats) -> Floats:
    curvature: Floats = (x.T * (p * (1 - p))) @ x + np.diag(precision)
    return curvature


def drawn_in(variance: npt.ArrayLike) -> Floats:
    """By how much log-odds of that variance are drawn in to give the mean probability, in (0, 1] (MacKay 1992)."""
    factor: Floats = 1 / np.sqrt(1 + np.pi / 8 * np.asarray(variance, float))
    return factor
