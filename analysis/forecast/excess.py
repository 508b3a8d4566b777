"""Forecasts of every limited KPI of a rollout, in each segment and in all of them together.

What is forecast is the canary's excess, canary minus baseline of people who were judged in the same tick, as a
difference of shares: it is free of the day's course, unbiased however small the counts are (a difference of log-odds
needs several bad sessions on either side, and a 5 % split of a small segment has none for minutes), and a creep is a
line in it. Its noise is binomial. The baseline's own level is added back for the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from analysis.forecast.conformal import ConformalWidth
from analysis.forecast.crossing import p_crossing
from analysis.forecast.trend import HORIZON_UNITS, LOAD, MODELS, Ahead, TrendBank

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

BLOCK, LEAD_BLOCKS = 1 / 15, 5  # units of time of a block that forecasts are held against; made so many ago
SPLIT_MEMORY, SPLIT_PRIOR_N = 1 / 30, 20.0  # of the share of people on the canary: units of time; sessions of all
BASE_N = 5_000.0  # sessions behind the baseline's level at most, as its estimate fades
BLOCK_BAD = 0.5
LEAST_RATE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Where a KPI is heading: mean and 95 % band of the share of bad sessions on the canary, `horizon_s` ahead.

    `now`: that share now; `baseline`: the baseline's, whose level it rests on. `p_breach`: the chance that it is above
    `limit` now, then or in between. `p_above`: that the canary is worse by more than is tolerated already. `driver`:
    the model that says most of it (`MODELS`). `crosses_s`: seconds until the expected course meets the limit, None
    where it never does. `everywhere`: of all segments together. `width`: by how much the band is wider than its model
    says, learnt from earlier forecasts. `split`: of the canary, in [0, 1].
    """

    kpi: str
    limit: float
    horizon_s: float
    mean: float
    lower: float
    upper: float
    p_breach: float
    p_above: float = float("nan")
    now: float = float("nan")
    baseline: float = float("nan")
    driver: str = MODELS[0].name
    crosses_s: float | None = None
    everywhere: bool = False
    width: float = 1.0
    split: float = float("nan")


class ExcessTrends:
    """B rollouts of S segments and, last, all segments together: R = S + 1 rows; L KPIs with a limit.

    `p_breach` (B, R, L): as of the newest `update`, 0 where nothing was ever compared.
    """

    def __init__(
        self,
        names: Sequence[str],
        limits: Sequence[float],
        tolerances: Sequence[float],
        n_segments: int,
        n: int = 1,
        *,
        horizon_s: float,
    ) -> None:
        self._names, self._limits = tuple(names), np.array(limits, float)
        self._tolerated = np.array(tolerances, float) / self._limits
        self._horizon_s, self._unit_s = horizon_s, horizon_s / HORIZON_UNITS
        self._shape = (n, n_segments + 1, len(limits))
        self._bank = TrendBank(self._shape)
        self.width = ConformalWidth((n, len(limits)))
        self._parts = np.zeros((n, n_segments, len(limits)))  # how much of what is compared a segment is, fading
        self._people = np.zeros((n, n_segments, 2))  # of late, on either arm
        self._split = np.zeros(self._shape)
        self._base = np.zeros(self._shape)
        self._base_var = np.zeros(self._shape)
        self._waiting = np.zeros((4, *self._shape))  # sums: weighted excess, weights, noise, bad sessions expected
        self._block = np.zeros((2, *self._shape))  # of the newest block: sum of weighted excesses, and of the weights
        self._block_time = 0.0
        self._pending = np.full((LEAD_BLOCKS, 2, *self._shape), np.nan)  # mean and variance foretold, oldest first
        self.p_breach = np.zeros(self._shape)
        self._seen_ahead: Ahead | None = None

    # -- learning ------------------------------------------------------------------------------------------------------

    def update(self, n: Floats, bad: Floats, base: Floats, base_n: Floats, *, elapsed_s: float) -> None:
        """Add a tick of `elapsed_s`. `n`, `bad` (B, S, L, 2): of blocks that have both arms, else 0.

        `base`, `base_n` (B, S, L): the baseline's rate as known before, in (0, 1), and of how many sessions.
        """
        if not len(self._limits):
            return
        dt_s = elapsed_s if np.isfinite(elapsed_s) and elapsed_s > 0 else 0.0
        y, var, seen = self._observe(n, bad, np.clip(base, LEAST_RATE, 1 - LEAST_RATE), base_n)
        dt = dt_s / self._unit_s
        self._note_people(n, dt)
        self._bank.update(y, var, seen, split=self._split, dt=dt)
        self._check(y, var, seen, dt)
        self._seen_ahead = None
        self.p_breach = np.where(self._bank.begun, self._p_breach(self._ahead), 0.0)

    def _observe(self, n: Floats, bad: Floats, base: Floats, base_n: Floats) -> tuple[Floats, Floats, Flags]:
        """(B, R, L) excess in limits, its variance, and whether there is a whole block of it.

        Ticks, and segments in the row of all together, are put together as Mantel and Haenszel do, so that neither a
        split that moves nor a base rate that drifts is taken for an excess. A block is whole once it should hold
        BLOCK_BAD bad sessions of a canary that is no worse: of fewer, a normal distribution says nothing.
        """
        seen = (n > 0).all(axis=-1) & np.isfinite(bad).all(axis=-1) & np.isfinite(n).all(axis=-1)
        n_b, n_c = (np.where(seen, n[..., arm], 1.0) for arm in (0, 1))
        bad_b, bad_c = (np.where(seen, bad[..., arm], 0.0) for arm in (0, 1))
        raised = np.clip(base + self._bank.level[:, :-1] * self._limits, base / 2, 0.5 + base / 2)
        part = np.where(seen, n_b * n_c / (n_b + n_c), 0.0)
        var = raised * (1 - raised) / n_c + base * (1 - base) / n_b
        self._parts = 0.98 * self._parts + part
        self._note_base(base, base_n)
        own = np.stack([part * (bad_c / n_c - bad_b / n_b), part, part**2 * var, np.where(seen, n_c * base, 0.0)])
        self._waiting += np.concatenate([own, own.sum(axis=2, keepdims=True)], axis=2)
        whole = self._waiting[3] >= BLOCK_BAD
        total, parts, noise, _ = self._waiting
        self._waiting = np.where(whole, 0.0, self._waiting)
        parts = np.where(whole, parts, 1.0)
        return total / parts / self._limits, noise / parts**2 / self._limits**2, whole

    def _note_base(self, base: Floats, base_n: Floats) -> None:
        parts = self._parts / np.maximum(self._parts.sum(axis=1, keepdims=True), 1e-300)
        var = base * (1 - base) / np.clip(base_n, 1.0, BASE_N)
        self._base = np.concatenate([base, (parts * base).sum(axis=1, keepdims=True)], axis=1)
        self._base_var = np.concatenate([var, (parts**2 * var).sum(axis=1, keepdims=True)], axis=1)

    def _note_people(self, n: Floats, dt: float) -> None:
        came = np.where(np.isfinite(n[:, :, 0]) & (n[:, :, 0] > 0), n[:, :, 0], 0.0)
        self._people = self._people * np.exp(-dt / SPLIT_MEMORY) + came
        self._split = self._share_on_canary()

    def _share_on_canary(self) -> Floats:
        """(B, R, L) share of the people judged of late who were on the canary, a few of everybody's added."""
        everybody = self._people.sum(axis=1, keepdims=True)
        overall = everybody[..., 1] / np.maximum(everybody.sum(axis=-1), 1.0)
        own = (self._people[..., 1] + SPLIT_PRIOR_N * overall) / (self._people.sum(axis=-1) + SPLIT_PRIOR_N)
        split = np.concatenate([own, overall], axis=1)[..., None]
        return np.broadcast_to(split, self._shape)

    def _check(self, y: Floats, var: Floats, seen: Flags, dt: float) -> None:
        """Hold the forecasts of a while ago against what has come, a block at a time, and make new ones."""
        weight = np.where(seen, 1 / np.maximum(var, 1e-300), 0.0)
        self._block += np.stack([weight * y, weight])
        self._block_time += dt
        if self._block_time < BLOCK:
            return
        total, weights = self._block
        known = weights > 0
        mean, foretold = self._pending[0]
        noise = np.divide(1.0, weights, out=np.full(weights.shape, np.nan), where=known)
        self.width.learn(np.abs(total * noise - mean) / np.sqrt(foretold + noise))
        ahead = self._bank.ahead((LEAD_BLOCKS - 0.5) * BLOCK, self._split)
        made = np.where(self._bank.begun, np.stack(_mixed(ahead.end, ahead.end_var, ahead.weight)), np.nan)
        self._pending = np.concatenate([self._pending[1:], made[None]])
        self._block, self._block_time = np.zeros_like(self._block), 0.0

    # -- looking ahead -------------------------------------------------------------------------------------------------

    @property
    def _ahead(self) -> Ahead:
        """As the bank says, with the learnt width applied and the baseline's doubt added."""
        if self._seen_ahead is None:
            ahead = self._bank.ahead(HORIZON_UNITS, self._split)
            wide = (self.width.factor**2)[:, None, :, None]
            doubt = (self._base_var / self._limits**2)[..., None]
            now_var, end_var, cov = (wide * x + doubt for x in (ahead.now_var, ahead.end_var, ahead.cov))
            self._seen_ahead = Ahead(ahead.now, now_var, ahead.end, end_var, cov, ahead.weight)
        return self._seen_ahead

    def _p_breach(self, ahead: Ahead) -> Floats:
        room = (1 - self._base / self._limits)[..., None]
        p = p_crossing(ahead.now, ahead.now_var, ahead.end, ahead.end_var, ahead.cov, room)
        chance: Floats = (ahead.weight * p).sum(axis=-1)
        return chance

    def forecast(self, rollout: int, row: int, kpi: int) -> Forecast | None:
        """The forecast of one stream, row S: everywhere; None before anybody was compared."""
        at = (rollout, row, kpi)
        if not len(self._limits) or not self._bank.begun[at]:
            return None
        ahead, limit, base = self._ahead, self._limits[kpi], float(self._base[at])
        parts = (ahead.end[at], np.sqrt(ahead.end_var[at]), ahead.weight[at])
        low, high = _quantile(0.025, *parts), _quantile(0.975, *parts)
        mean, now = (float(ahead.weight[at] @ x[at]) for x in (ahead.end, ahead.now))
        lower, middle, upper, level = (float(np.clip(base + limit * x, 0.0, 1.0)) for x in (low, mean, high, now))
        return Forecast(
            kpi=self._names[kpi], limit=float(limit), horizon_s=self._horizon_s, mean=middle, lower=lower,
            upper=upper, p_breach=float(self.p_breach[at]), p_above=self._p_above(at, ahead), now=level, baseline=base,
            driver=self._driver(at, ahead),
            crosses_s=_meets(level, middle, float(limit), self._horizon_s),
            everywhere=row == self._shape[1] - 1, width=float(self.width.factor[rollout, kpi]),
            split=float(self._split[at]),
        )  # fmt: skip

    def _p_above(self, at: tuple[int, int, int], ahead: Ahead) -> float:
        """Of a tolerance that nearly reaches to the limit, no more than half of the way counts."""
        tolerated = min(self._tolerated[at[-1]], (1 - self._base[at] / self._limits[at[-1]]) / 2)
        z = (ahead.now[at] - tolerated) / np.sqrt(np.maximum(ahead.now_var[at], 1e-12))
        return float(ahead.weight[at] @ ndtr(z))

    def _driver(self, at: tuple[int, int, int], ahead: Ahead) -> str:
        """The model that the expected excess at the horizon comes from most."""
        return MODELS[int(np.argmax(ahead.weight[at] * np.maximum(ahead.end[at], 1e-9)))].name

    def at_split(self, rollout: int, row: int, kpi: int, split: float) -> tuple[float, float, float]:
        """The share of bad sessions at another split, P(it is above the limit there), P(it grows with the split).

        By the regression of the excess on the splits so far alone.
        """
        at = (rollout, row, kpi)
        (level, slope), (p11, p12, p22) = self._bank.mean[at][LOAD], self._bank.cov[at][LOAD]
        excess = level + split * slope
        doubt = float(self._base_var[at]) / float(self._limits[kpi]) ** 2
        wide = float(self.width.factor[rollout, kpi]) ** 2
        sd = np.sqrt(max(wide * (p11 + 2 * split * p12 + split**2 * p22) + doubt, 1e-12))
        room = 1 - float(self._base[at]) / float(self._limits[kpi])
        share = float(np.clip(self._base[at] + excess * self._limits[kpi], 0.0, 1.0))
        return share, float(ndtr((excess - room) / sd)), float(ndtr(slope / np.sqrt(max(p22, 1e-12))))

    def below(self, rollout: int, segment: int, kpi: int) -> float:
        """P(a segment's excess is less than half of everybody's)."""
        ahead = self._ahead
        own, everybody = (
            _mixed(ahead.now[at], ahead.now_var[at], ahead.weight[at])
            for at in ((rollout, segment, kpi), (rollout, self._shape[1] - 1, kpi))
        )
        difference = everybody[0] / 2 - own[0]
        return float(ndtr(difference / np.sqrt(max(float(own[1] + everybody[1] / 4), 1e-12))))

    # -- restarts ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as JSON-able values. Of a single rollout."""
        pending = self._pending[:, :, 0]
        return {
            "bank": self._bank.state(),
            "width": self.width.state(),
            "parts": self._parts[0].tolist(),
            "people": self._people[0].tolist(),
            "base": [self._base[0].tolist(), self._base_var[0].tolist()],
            "waiting": self._waiting[:, 0].tolist(),
            "block": self._block[:, 0].tolist(),
            "block_time": self._block_time,
            "pending": np.where(np.isfinite(pending), pending, -1.0).tolist(),  # no variance is negative
            "p_breach": self.p_breach[0].tolist(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave, of the same specification. Raises ValueError where it is damaged."""
        self._bank.restore(state["bank"])
        self.width.restore(state["width"])
        shapes = {"parts": self._parts.shape, "people": self._people.shape, "p_breach": self._shape}
        parts, people, p_breach = (np.asarray(state[name], float).reshape(shape) for name, shape in shapes.items())
        base = np.asarray(state["base"], float).reshape(2, *self._shape)
        block, waiting = (
            np.asarray(state[name], float).reshape(where.shape)
            for name, where in (("block", self._block), ("waiting", self._waiting))
        )
        pending = np.asarray(state["pending"], float).reshape(self._pending.shape)
        if not all(np.isfinite(x).all() for x in (parts, people, p_breach, base, block, waiting, pending)):
            raise ValueError("forecasts are damaged")
        self._parts, self._people, self.p_breach, self._block = parts, people, p_breach, block
        self._base, self._base_var = base
        self._waiting, self._seen_ahead = waiting, None
        self._split = self._share_on_canary()
        self._block_time = float(state["block_time"])
        self._pending = np.where(pending[:, 1:] < 0, np.nan, pending)


def _mixed(mean: Floats, var: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of a mixture over the last axis."""
    middle = (weight * mean).sum(axis=-1)
    spread = (weight * (var + (mean - middle[..., None]) ** 2)).sum(axis=-1)
    return middle, spread


def _quantile(q: float, mean: Floats, sd: Floats, weight: Floats) -> float:
    """A quantile of a mixture of normal distributions, (M,) each, by bisection."""
    low, high = float((mean - 6 * sd).min()), float((mean + 6 * sd).max())
    for _ in range(40):
        middle = (low + high) / 2
        below = float(weight @ ndtr((middle - mean) / sd))
        low, high = (middle, high) if below < q else (low, middle)
    return (low + high) / 2


def _meets(now: float, then: float, limit: float, horizon_s: float) -> float | None:
    """Seconds until the line from now to then meets a limit."""
    if now >= limit:
        return 0.0
    return (limit - now) / (then - now) * horizon_s if then > now else None
