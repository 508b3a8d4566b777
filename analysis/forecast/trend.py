"""The bank of models of how a canary's excess moves, filtered for many streams at once.

Each model has a state of two numbers, observed through (1, x). In a trend they are level and slope, x is 0, and the
level moves by the slope: a local linear trend (Durbin & Koopman 2012, section 3.2, with the exact discretisation of its
continuous form). In `load` they are intercept and slope over the canary's split, x is the split, and both are constant
but for a slow drift. The noise of an observation is binomial and known, so that the Kalman recursion needs no fit; how
fast things move is not known, so that the models differ in it and are weighted by how well they foretell (Bayesian
model averaging; a fixed share of the weight goes back to the prior, Herbster & Warmuth 1998, so that a creep which
begins late is not ruled out by a long calm). statsmodels' filter is the reference of a test.

Excesses are in limits of their KPI, times in quarters of the horizon: what moves much faster is seen at once, and what
moves much slower is nothing to fear within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

HORIZON_UNITS = 4.0  # units of time of a horizon
FORGET = 0.02  # share of a model's weight that goes back to the prior in a unit of time
OUTLIER = 9.0  # squared error, in variances, beyond which an observation says no more about the models


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """How an excess may move.

    `share`: prior weight. `level`, `slope`: standard deviations of the prior; `level_step`, `slope_step`: of the steps
    of their random walks in a unit of time.
    """

    name: str
    share: float
    level: float
    slope: float
    level_step: float
    slope_step: float
    by_load: bool = False


MODELS = (
    Model(name="steady", share=5 / 6, level=0.15, slope=0.0, level_step=0.015, slope_step=0.0),
    Model(name="slow trend", share=0.095, level=0.05, slope=0.3, level_step=0.01, slope_step=0.05),
    Model(name="steep trend", share=0.06, level=0.05, slope=0.8, level_step=0.03, slope_step=0.1),
    Model(name="load", share=1 / 6 - 0.155, level=0.1, slope=1.0, level_step=0.015, slope_step=0.1, by_load=True),
)
"""Few releases creep: a trend must foretell five times as well as a level before it is as likely.

So the weights ask for evidence of growth, valid at every look: for a level that stays, the trends' likelihood over that
of the steady model is a martingale on average over the steady prior, and reaches 1/a with a probability of at most a.
"""
LOAD = next(m for m, model in enumerate(MODELS) if model.by_load)


def _column(name: str) -> Floats:
    return np.array([getattr(model, name) for model in MODELS], float)


_MOVES = np.array([not model.by_load for model in MODELS], float)
_PRIOR = _column("share") / _column("share").sum()
_LEVEL_Q, _SLOPE_Q = _column("level_step") ** 2, _column("slope_step") ** 2


@dataclass(frozen=True, slots=True)
class Ahead:
    """Jointly normal excess now and at a horizon, by model: (…, M) each, and the models' weights."""

    now: Floats
    now_var: Floats
    end: Floats
    end_var: Floats
    cov: Floats
    weight: Floats


class TrendBank:
    """The models' states of streams of one shape. `mean` (…, M, 2), `cov` (…, M, 3: 11, 12, 22), `weight` (…, M)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        n = (*shape, len(MODELS))
        self.mean = np.zeros((*n, 2))
        self.cov = np.zeros((*n, 3))
        self.cov[..., 0], self.cov[..., 2] = _column("level") ** 2, _column("slope") ** 2
        self.weight = np.broadcast_to(_PRIOR, n).copy()
        self.begun = np.zeros(shape, np.bool_)

    def update(self, y: Floats, var: Floats, seen: Flags, *, split: Floats, dt: float) -> None:
        """Let `dt` pass and take one observation of each stream with its variance; all but `dt` are (…).

        Where it is not `seen` only the time passes, and not even that before the first: excess begins with exposure.
        """
        self._pass(dt)
        self.begun = self.begun | seen
        x = split[..., None] * (1 - _MOVES)
        p11, p12, p22 = np.moveaxis(self.cov, -1, 0)
        a, b = p11 + x * p12, p12 + x * p22
        total = a + x * b + np.where(seen, var, 1.0)[..., None]
        error = np.where(seen, y, 0.0)[..., None] - self.mean[..., 0] - x * self.mean[..., 1]
        live = seen[..., None]
        gain_a, gain_b = np.where(live, a / total, 0.0), np.where(live, b / total, 0.0)
        self.mean = self.mean + np.stack([gain_a * error, gain_b * error], axis=-1)
        self.cov = self.cov - np.stack([gain_a * a, gain_a * b, gain_b * b], axis=-1)
        log_lik = -0.5 * (np.log(total) + np.minimum(error**2 / total, OUTLIER))
        log_lik = np.where(live, log_lik - log_lik.max(axis=-1, keepdims=True), 0.0)
        weight = self.weight * np.exp(log_lik)
        self.weight = np.where(live, weight / weight.sum(axis=-1, keepdims=True), self.weight)

    def _pass(self, dt: float) -> None:
        dts = np.where(self.begun, dt, 0.0)[..., None]
        move = dts * _MOVES
        p11, p12, p22 = np.moveaxis(self.cov, -1, 0)
        self.mean[..., 0] += move * self.mean[..., 1]
        self.cov = np.stack(
            [
                p11 + 2 * move * p12 + move**2 * p22 + _LEVEL_Q * dts + _SLOPE_Q * move**3 / 3,
                p12 + move * p22 + _SLOPE_Q * move**2 / 2,
                p22 + _SLOPE_Q * dts,
            ],
            axis=-1,
        )
        share = np.minimum(FORGET * dts, 1.0)
        self.weight = (1 - share) * self.weight + share * _PRIOR

    def ahead(self, horizon: float, split: Floats) -> Ahead:
        """The excess now and after `horizon`, at a split that stays."""
        x = split[..., None] * (1 - _MOVES)
        p11, p12, p22 = np.moveaxis(self.cov, -1, 0)
        now = self.mean[..., 0] + x * self.mean[..., 1]
        now_var = p11 + 2 * x * p12 + x**2 * p22
        h = horizon * _MOVES
        q_level, q_slope = _LEVEL_Q * horizon, _SLOPE_Q * np.where(_MOVES > 0, h**3 / 3, x**2 * horizon)
        return Ahead(
            now=now,
            now_var=now_var,
            end=now + h * self.mean[..., 1],
            end_var=now_var + 2 * h * p12 + h**2 * p22 + q_level + q_slope,
            cov=now_var + h * p12,
            weight=self.weight,
        )

    @property
    def level(self) -> Floats:
        """(…) the excess now, of the trends; a shape of the whole bank that needs no split."""
        w = self.weight * _MOVES
        level: Floats = (w * self.mean[..., 0]).sum(axis=-1) / np.maximum(w.sum(axis=-1), 1e-12)
        return level

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists. Of a single rollout."""
        return {
            "mean": self.mean[0].tolist(),
            "cov": self.cov[0].tolist(),
            "weight": self.weight[0].tolist(),
            "begun": self.begun[0].tolist(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave. Raises ValueError where it is damaged."""
        parts = {name: np.asarray(state[name], float).reshape(getattr(self, name).shape) for name in state}
        if set(parts) != {"mean", "cov", "weight", "begun"} or not all(np.isfinite(x).all() for x in parts.values()):
            raise ValueError("trends are damaged")
        self.mean, self.cov, self.weight = parts["mean"], parts["cov"], parts["weight"]
        self.begun = parts["begun"] > 0
