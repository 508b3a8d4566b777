"""The harm budget (design section 5): how much of the split it still allows.

An advance is allowed while H_past + sum over segments of U_s·(open_s + m_s) <= budget + tolerance·exposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.evidence.base_rate import BaseRate
from analysis.evidence.exclusion import ExcessExclusion
from analysis.spec import TOTAL_BP, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]

BASE_MEMORY_N = 20.0  # baseline sessions that the running base rate counts for beside one tick's own
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
    """Past harm, sessions at risk and arrival rates of one rollout, over S segments. Times in seconds of event time.

    `weights`: (S,) relative cost of harm in each segment.
    """

    def __init__(self, spec: ServiceSpec) -> None:
        n_segments = len(spec.segments)
        self._harm = spec.rollout.harm
        self._weights = np.array([segment.weight for segment in spec.segments])
        self._age_s = spec.oldest_judged_s
        self._interval_s = spec.rollout.interval_s
        self._log_inverse_risk = math.log(2 / spec.rollout.budget_risk)  # half of budget_risk, as design section 5 says
        self._rho = max(1.0, self._harm.budget**2 / 72)  # tightest where the bound is about a third of the budget
        self.base = BaseRate((n_segments,))
        self.excess = np.zeros(n_segments)
        self._variance = 0.0
        self.exposed = np.zeros(n_segments)
        self.judged = np.zeros((n_segments, 2))
        self.lost = np.zeros(n_segments)  # exposed while nobody watched: never judged, charged at U
        self.rate = np.zeros(n_segments)
        self._elapsed_s = 0.0
        self.epoch_s = max(60 * self._interval_s, 24 * self._age_s)
        self.exclusion = ExcessExclusion(n_segments, risk=spec.rollout.budget_risk / 2, epoch_s=self.epoch_s)

    def update(self, window: Window, *, at_s: float, elapsed_s: float, blind: bool = False) -> None:
        """Add one tick that lasted `elapsed_s`, ending `at_s` after the first exposure.

        `blind`: no access log has come for long. Then nothing is learnt of the traffic: silence is not emptiness.
        """
        n, bad = window.harm_n.astype(float), window.harm_bad.astype(float)
        base = self.base.value
        self.exclusion.update(n, bad, base, at_s=at_s)
        self._add_past(n, bad, base)
        self.base.learn(window.unexposed_harm_n, window.unexposed_harm_bad)
        self.exposed += window.exposed
        self.judged += window.harm_n
        if not blind:
            self._learn_rate(window.arrived, elapsed_s)

    def miss(self, split: Floats, *, seconds: float) -> None:
        """Charge what the splits (S,) in [0, 1] must have exposed while nobody watched, at its worst."""
        self.lost += self.rate * split * seconds

    def _add_past(self, n: Floats, bad: Floats, base: Floats) -> None:
        n_c, n_b = n[:, CANARY], n[:, BASELINE]
        rate = (bad[:, BASELINE] + BASE_MEMORY_N * base) / (n_b + BASE_MEMORY_N)
        self.excess += self._weights * (bad[:, CANARY] - n_c * rate)
        spread = rate * (1 - rate)
        self._variance += float(np.sum(self._weights**2 * spread * (n_c + n_c**2 / (n_b + BASE_MEMORY_N))))
        self.base.learn(n_b, bad[:, BASELINE])

    def _learn_rate(self, arrived: npt.NDArray[np.int64], elapsed_s: float) -> None:
        if elapsed_s <= 0:
            return
        self._elapsed_s += elapsed_s
        share = max(1 - math.exp(-elapsed_s / RATE_MEMORY_S), elapsed_s / self._elapsed_s)
        self.rate += share * (arrived / elapsed_s - self.rate)

    @property
    def upper(self) -> float:
        """Anytime-valid upper bound of the total excess so far, in weighted sessions, at least 0.

        Normal mixture with estimated variance (Waudby-Smith et al. 2024, arXiv 2103.06476, Theorem 2.2): asymptotic,
        and blind to bursts of sessions by one person.
        """
        v = self._variance + self._rho
        width = math.sqrt(2 * v * (self._log_inverse_risk + 0.5 * math.log(v / self._rho)))
        return max(0.0, float(self.excess.sum()) + width)

    @property
    def open(self) -> Floats:
        """(S,) sessions exposed and not judged, those lost from sight included."""
        return self._unjudged + self.lost

    @property
    def _unjudged(self) -> Floats:
        waiting: Floats = np.maximum(self.exposed - self.judged[:, CANARY], 0.0)
        return waiting

    @property
    def allowed(self) -> float:
        return self._harm.budget + self._harm.tolerance * float(np.sum(self._weights * self.exposed))

    def in_flight(self, split: npt.ArrayLike, *, latency_s: float) -> Floats:
        """(S,) sessions at risk when splits stay as they are.

        Until the first of them have been judged and acted upon.
        """
        coming: Floats = self.rate * np.asarray(split, float) * (self._age_s + latency_s)
        return np.maximum(self._unjudged, coming) + self.lost

    def reserved(self, sessions: Floats, live: npt.NDArray[np.bool_]) -> float:
        """What `sessions` (S,) could cost at worst, in the segments whose canary is live."""
        return float(np.sum(self._weights * self.exclusion.worst * sessions * live))

    def slack(self, split: Floats, live: npt.NDArray[np.bool_], *, latency_s: float) -> float:
        """Sessions of harm that the budget has left for further exposure at the splits (S,) in [0, 1]."""
        return self.allowed - self.upper - self.reserved(self.in_flight(split, latency_s=latency_s), live)

    def affordable_excess(
        self, split: Floats, live: npt.NDArray[np.bool_], *, seconds: float, latency_s: float
    ) -> Floats:
        """(S,) excess rate that the budget could still bear for `seconds` of every live segment's whole traffic."""
        slack = max(self.slack(split, live, latency_s=latency_s), 0.0) + self.reserved(
            self.in_flight(split, latency_s=latency_s), live
        )
        sessions = np.maximum(self._weights * self.rate * seconds * max(int(live.sum()), 1), 1e-9)
        affordable: Floats = slack / sessions
        return affordable

    def caps(
        self, split: Floats, live: npt.NDArray[np.bool_], rising: npt.NDArray[np.bool_], *, latency_s: float
    ) -> Floats:
        """(S,) highest split in [0, 1] that the budget allows, the slack shared equally by the segments that may rise.

        A segment that does not rise keeps its split while the budget holds. Where even today's splits cost too much,
        every live segment is cut in proportion.
        """
        worst = self._weights * self.exclusion.worst
        slack = self.slack(split, live, latency_s=latency_s)
        lag_s = self._age_s + latency_s
        cost = np.maximum(worst * self.rate * lag_s, 1e-12)  # of a split of 1
        if slack < 0:
            return split * self._fraction_affordable(split, live, latency_s=latency_s)
        share = slack / max(int(rising.sum()), 1)
        return np.where(rising, np.minimum(1.0, split + share / cost), split)

    def _fraction_affordable(self, split: Floats, live: npt.NDArray[np.bool_], *, latency_s: float) -> float:
        """Share of today's splits whose coming exposures (those of one reaction time) the budget can still bear."""
        sunk = self.reserved(self.open, live)
        coming = self.reserved(self.rate * split * (self._interval_s + latency_s), live)
        left = self.allowed - self.upper - sunk
        return float(np.clip(left / coming, 0.0, 1.0)) if coming > 0 else 1.0

    def view(self, split: Floats, live: npt.NDArray[np.bool_], *, latency_s: float) -> HarmView:
        return HarmView(
            estimate=float(self.excess.sum()),
            upper=self.upper,
            reserved=self.reserved(self.in_flight(split, latency_s=latency_s), live),
            allowed=self.allowed,
            excess_by_segment=tuple(self.excess.tolist()),
        )

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists."""
        return {
            "base": [self.base.n.tolist(), self.base.bad.tolist()],
            "excess": self.excess.tolist(),
            "variance": self._variance,
            "exposed": self.exposed.tolist(),
            "judged": self.judged.tolist(),
            "lost": self.lost.tolist(),
            "rate": self.rate.tolist(),
            "elapsed_s": self._elapsed_s,
            "exclusion": self.exclusion.state(),
        }

    def restore(self, state: dict[str, object], *, gap_s: float, split: Floats) -> None:
        """Take a state that `state` gave, `gap_s` ago.

        Sessions that were open are lost from sight, and so are those that came meanwhile: both are charged as exposed.
        """
        shape = self.excess.shape
        base_n, base_bad = np.asarray(state["base"], float).reshape(2, *shape)
        self.base.n, self.base.bad = base_n, base_bad
        self.excess = np.asarray(state["excess"], float).reshape(shape)
        self._variance = float(state["variance"])  # type: ignore[arg-type] # written by `state` as a float
        self.rate = np.asarray(state["rate"], float).reshape(shape)
        self._elapsed_s = float(state["elapsed_s"])  # type: ignore[arg-type] # as above
        self.judged = np.asarray(state["judged"], float).reshape(*shape, 2)
        unseen = self.rate * split * max(gap_s, 0.0)
        exposed = np.asarray(state["exposed"], float).reshape(shape)
        self.lost = (
            np.asarray(state["lost"], float).reshape(shape) + np.maximum(exposed - self.judged[:, CANARY], 0.0) + unseen
        )
        self.exposed = self.judged[:, CANARY].copy()
        self.exclusion.restore(state["exclusion"])  # type: ignore[arg-type] # written by `state` as a dict


def to_bp(split: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Basis points of a split in [0, 1], rounded down: a cap is never exceeded."""
    return np.floor(np.asarray(split, float) * TOTAL_BP + 1e-6).astype(np.int64)
