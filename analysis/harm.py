"""The harm budget (design section 5): how much of the split it still allows.

An advance is allowed while H_past + sum over segments of U_s·(open_s + m_s) <= budget + tolerance·exposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.evidence.base_rate import BaseRate
from analysis.evidence.exclusion import ExcessExclusion
from analysis.spec import TOTAL_BP, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

BASE_MEMORY_N = 20.0
"""Baseline sessions that the running base rate counts for beside one tick's own, at least. Where the baseline is thin,
it counts for as many as the canary has: else the bake, with 5 % left to compare with, would be all noise."""
WORLD_MEMORY_S = 100.0
"""Time constant of how much worse all baselines are of late than they used to be. What a segment remembers of its own
is worth as much less: when a dependency fails for both versions, a thin baseline shows it late."""
WORLD_PRIOR = 2.0  # bad sessions that speak for 'as usual'
NOISE = 2.0  # standard deviations of the sessions at risk by which a budget may seem short before splits are cut
RATE_MEMORY_S = 30.0  # time constant of the estimated arrival rate


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmView:
    """The budget as it stands.

    All in sessions: `upper` bounds the excess so far, `reserved` what open ones may cost.
    """

    estimate: float
    upper: float
    reserved: float
    allowed: float
    excess_by_segment: tuple[float, ...]


class HarmLedger:
    """Past harm, sessions at risk and arrival rates of B rollouts, over S segments. Times in seconds of event time.

    Splits are (B, S) in [0, 1]; `live` (B, S): segments whose canary may still do harm that the budget pays for.
    """

    def __init__(self, spec: ServiceSpec, n: int = 1) -> None:
        self._shape = (n, len(spec.segments))
        self._harm = spec.rollout.harm
        self._weights = np.array([segment.weight for segment in spec.segments])  # relative cost of harm, (S,)
        self._age_s = spec.harm_judged_s + 2 * spec.rollout.interval_s  # until the tick that judges it, and has its way
        self._interval_s = spec.rollout.interval_s
        self._risk = spec.rollout.budget_risk / 2  # half of budget_risk, as design section 5 says
        self._rho = max(1.0, self._harm.budget**2 / 72)  # tightest where the bound is about a third of the budget
        self.base = BaseRate(self._shape)
        self.excess = np.zeros(self._shape)
        self._variance = np.zeros(n)
        self.exposed = np.zeros(self._shape)
        self.judged = np.zeros((*self._shape, 2))
        self.lost = np.zeros(self._shape)  # exposed while nobody watched: never judged, charged at U
        self.rate = np.zeros(self._shape)
        self._elapsed_s = np.zeros(n)
        self._world = np.zeros((2, n))  # bad sessions of all baselines of late, and those that were to be expected
        self.epoch_s = max(60 * self._interval_s, 24 * self._age_s)
        self.exclusion = ExcessExclusion(self._shape[1], risk=spec.rollout.budget_risk / 2, epoch_s=self.epoch_s, n=n)

    def update(
        self, window: Window, *, at_s: npt.ArrayLike, elapsed_s: npt.ArrayLike, blind: npt.ArrayLike = False
    ) -> None:
        """Add one tick that lasted `elapsed_s` (B,), ending `at_s` (B,) after the first exposure.

        `blind` (B,): no access log has come for long. Then nothing is learnt of the traffic: silence is not emptiness.
        The window's arrays have the leading axis, or B is 1.
        """
        n, bad = (x.reshape(*self._shape, 2).astype(float) for x in (window.harm_n, window.harm_bad))
        base = self.base.value
        self.exclusion.update(n, bad, base, at_s=at_s)
        self._add_past(n, bad, self._as_of_late(n, bad, base, elapsed_s))
        self.base.learn(window.unexposed_harm_n.reshape(self._shape), window.unexposed_harm_bad.reshape(self._shape))
        self.exposed += window.exposed.reshape(self._shape)
        self.judged += n
        self._learn_rate(window.arrived.reshape(self._shape), np.where(blind, 0.0, elapsed_s))

    def miss(self, split: Floats, *, seconds: npt.ArrayLike) -> None:
        """Charge what the splits must have exposed while nobody watched, `seconds` (B,) long, at its worst."""
        self.lost += self.rate * split * np.reshape(np.asarray(seconds, float), (-1, 1))

    def _as_of_late(self, n: Floats, bad: Floats, base: Floats, elapsed_s: npt.ArrayLike) -> Floats:
        """(B, S) the remembered base rates, times how much worse all baselines together have lately become."""
        kept = np.exp(-np.asarray(elapsed_s, float) / WORLD_MEMORY_S)
        seen = bad[..., BASELINE].sum(axis=-1)
        expected = (n[..., BASELINE] * base).sum(axis=-1)
        self._world = self._world * kept + np.stack([seen, expected])
        worse = (self._world[0] + WORLD_PRIOR) / (self._world[1] + WORLD_PRIOR)
        late: Floats = np.minimum(base * np.maximum(worse, 1.0)[:, None], 1.0)
        return late

    def _add_past(self, n: Floats, bad: Floats, base: Floats) -> None:
        n_c, n_b = n[..., CANARY], n[..., BASELINE]
        memory_n = np.maximum(BASE_MEMORY_N, n_c - n_b)
        rate = (bad[..., BASELINE] + memory_n * base) / (n_b + memory_n)
        self.excess += self._weights * (bad[..., CANARY] - n_c * rate)
        spread = rate * (1 - rate)
        self._variance += np.sum(self._weights**2 * spread * (n_c + n_c**2 / (n_b + memory_n)), axis=-1)
        self.base.learn(n_b, bad[..., BASELINE])

    def _learn_rate(self, arrived: npt.NDArray[np.int64], elapsed_s: npt.ArrayLike) -> None:
        lasted = np.broadcast_to(np.asarray(elapsed_s, float), self._shape[:1])
        self._elapsed_s = self._elapsed_s + lasted
        known = np.maximum(self._elapsed_s, 1e-9)
        share = np.maximum(1 - np.exp(-lasted / RATE_MEMORY_S), lasted / known)
        per_s = arrived / np.maximum(lasted, 1e-9)[:, None]
        self.rate += np.where(lasted[:, None] > 0, share[:, None] * (per_s - self.rate), 0.0)

    @property
    def upper(self) -> Floats:
        """(B,) anytime-valid upper bounds of the total excess so far, in weighted sessions, at least 0.

        One-sided normal mixture (Howard et al. 2021, arXiv 1810.08240, equation 14) with estimated variance
        (Waudby-Smith et al. 2024, arXiv 2103.06476): asymptotic, and blind to bursts of sessions by one person.
        """
        v = self._variance + self._rho
        width = np.sqrt(2 * v * np.log1p(np.sqrt(v / self._rho) / (2 * self._risk)))
        upper: Floats = np.maximum(0.0, self.excess.sum(axis=-1) + width)
        return upper

    @property
    def allowed(self) -> Floats:
        """(B,) sessions that the budget and what is tolerated come to by now."""
        allowed: Floats = self._harm.budget + self._harm.tolerance * np.sum(self._weights * self.exposed, axis=-1)
        return allowed

    def in_flight(self, split: Floats, *, latency_s: float) -> Floats:
        """(B, S) sessions at risk when splits stay as they are: exposed and not judged, those lost from sight included.

        Or as many as will be exposed until the first of them have been judged and acted upon, where that is more.
        """
        coming: Floats = self.rate * split * (self._age_s + latency_s)
        return np.maximum(self.exposed - self.judged[..., CANARY], coming) + self.lost

    def reserved(self, sessions: Floats, live: Flags) -> Floats:
        """(B,) what `sessions` (B, S) could cost at worst, in the segments whose canary is live."""
        reserved: Floats = np.sum(self._weights * self.exclusion.worst * sessions * live, axis=-1)
        return reserved

    def slack(self, split: Floats, live: Flags, *, latency_s: float) -> Floats:
        """(B,) sessions of harm that the budget has left for further exposure at the splits."""
        return self.allowed - self.upper - self.reserved(self.in_flight(split, latency_s=latency_s), live)

    def affordable_excess(self, split: Floats, live: Flags, *, seconds: float, latency_s: float) -> Floats:
        """(B, S) excess rate that what is left of the budget could bear for `seconds` of a segment's whole traffic."""
        at_risk = self.reserved(self.in_flight(split, latency_s=latency_s), live)
        slack = np.maximum(self.allowed - self.upper - at_risk, 0.0) + at_risk
        sessions = self._weights * self.rate * seconds
        affordable: Floats = slack[:, None] / np.maximum(sessions, 1e-9)
        return affordable

    def caps(self, split: Floats, live: Flags, rising: Flags, *, latency_s: float) -> Floats:
        """(B, S) highest splits that the budget allows, the slack shared equally by the segments that are `rising`.

        A segment that does not rise keeps its split while the budget holds. Where even today's splits cost too much,
        every live segment is cut in proportion.
        """
        slack = self.slack(split, live, latency_s=latency_s)[:, None]
        lag_s = self._age_s + latency_s
        cost = np.maximum(self._weights * self.exclusion.worst * self.rate * lag_s, 1e-12)  # of a split of 1
        share = np.maximum(slack, 0.0) / np.maximum(rising.sum(axis=-1), 1)[:, None]
        raised = np.where(rising, np.minimum(1.0, split + share / cost), split)
        at_risk = self.in_flight(split, latency_s=latency_s)
        noise = NOISE * self.reserved(np.sqrt(at_risk), live)[:, None]
        left = np.maximum(self.allowed - self.upper, 0.0)[:, None]
        cut = split * np.clip(left / np.maximum(self.reserved(at_risk, live), 1e-12)[:, None], 0.0, 1.0)
        return np.where(slack < -noise, cut, np.where(slack < 0, split, raised))

    def view(self, rollout: int, split: Floats, live: Flags, *, latency_s: float) -> HarmView:
        """The budget of one of the rollouts."""
        return HarmView(
            estimate=float(self.excess[rollout].sum()),
            upper=float(self.upper[rollout]),
            reserved=float(self.reserved(self.in_flight(split, latency_s=latency_s), live)[rollout]),
            allowed=float(self.allowed[rollout]),
            excess_by_segment=tuple(self.excess[rollout].tolist()),
        )

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists. Of a single rollout."""
        return {
            "base": [self.base.n[0].tolist(), self.base.bad[0].tolist()],
            "excess": self.excess[0].tolist(),
            "variance": float(self._variance[0]),
            "exposed": self.exposed[0].tolist(),
            "judged": self.judged[0].tolist(),
            "lost": self.lost[0].tolist(),
            "rate": self.rate[0].tolist(),
            "elapsed_s": float(self._elapsed_s[0]),
            "world": self._world[:, 0].tolist(),
            "exclusion": self.exclusion.state(),
        }

    def restore(self, state: Mapping[str, Any], *, gap_s: float, split: Floats) -> None:
        """Take a state that `state` gave, `gap_s` ago.

        Sessions that were open are lost from sight, and so are those that came meanwhile: both are charged as exposed.
        """
        shape = self._shape
        self.base.n, self.base.bad = np.asarray(state["base"], float).reshape(2, *shape)
        self.excess = np.asarray(state["excess"], float).reshape(shape)
        self._variance = np.array([float(state["variance"])])
        self.rate = np.asarray(state["rate"], float).reshape(shape)
        self._elapsed_s = np.array([float(state["elapsed_s"])])
        self._world = np.asarray(state["world"], float).reshape(2, 1)
        self.judged = np.asarray(state["judged"], float).reshape(*shape, 2)
        unseen = self.rate * split * max(gap_s, 0.0)
        exposed = np.asarray(state["exposed"], float).reshape(shape)
        open_then = np.maximum(exposed - self.judged[..., CANARY], 0.0)
        self.lost = np.asarray(state["lost"], float).reshape(shape) + open_then + unseen
        self.exposed = self.judged[..., CANARY].copy()
        self.exclusion.restore(state["exclusion"])


def to_bp(split: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Basis points of a split in [0, 1], rounded down: a cap is never exceeded."""
    return np.floor(np.asarray(split, float) * TOTAL_BP + 1e-6).astype(np.int64)
