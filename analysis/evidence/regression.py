"""Is the canary worse than the baseline by more than its tolerance? One e-process a segment and test, and a pooled one.

Each tick multiplies an e-process by the block's e-value (`two_by_two`), averaged over a grid of effect sizes. Late
changes are found by restarts (`stake`). By Ville's inequality P(R ever >= 1/a) <= a, however often one looks and
however the split moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from analysis.evidence.base_rate import BaseRate
from analysis.evidence.stake import Stake
from analysis.evidence.two_by_two import log_e, log_likelihood_ratio
from analysis.spec import KpiKind, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]

EFFECTS = np.array([0.2, 0.4, 0.8, 1.6, 3.2])
"""Effect sizes bet on: the canary's log-odds above the accepted rate."""

PROOF_TICKS = 4
BURST_TICKS = {KpiKind.LATENCY: 12}
"""Ticks of the usual interval that a proof takes at least. A tick's evidence is cut off above a share of the proof: a
stall of one process or one blip of a dependency hits many people at once, who then are no independent witnesses. What
is cut off from above stays an e-value. Requests that queue behind each other are slow together, hence more for latency;
a crash is the hard tier's."""


class Against(StrEnum):
    """What a test compares the canary with."""

    TOLERANCE = "tolerance"  # baseline + tolerance: the ground of a proven rollback
    LIMIT = "limit"  # the KPI's absolute limit: needs no baseline
    ZERO = "zero"  # baseline + 0: never a ground by itself; the floor under a predicted rollback


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One hypothesis on one KPI (index into ServiceSpec.kpis). `value`: accepted difference, or the limit."""

    kpi: int
    against: Against
    value: float


def tests_of(spec: ServiceSpec) -> tuple[Test, ...]:
    """Every test that a service's KPIs ask for, in the KPIs' order."""
    tests = [Test(kpi=i, against=Against.TOLERANCE, value=kpi.tolerance) for i, kpi in enumerate(spec.kpis)]
    limited = [(i, kpi.limit) for i, kpi in enumerate(spec.kpis) if kpi.limit is not None]
    tests += [Test(kpi=i, against=Against.LIMIT, value=limit) for i, limit in limited]
    tests += [
        Test(kpi=i, against=Against.ZERO, value=0.0) for i, kpi in enumerate(spec.kpis) if _forecastable(kpi.kind)
    ]
    return tuple(tests)


def _forecastable(kind: KpiKind) -> bool:
    return kind in (KpiKind.ERROR_RATE, KpiKind.LATENCY, KpiKind.ABANDONMENT)


class RegressionEvidence:
    """e-processes of shape (S + 1, T): S segments and, last, all segments together; T tests.

    The pooled row multiplies the segments' block e-values of one tick: segments are independent given their people.
    """

    def __init__(self, spec: ServiceSpec) -> None:
        self.tests = tests_of(spec)
        self._kpi = np.array([test.kpi for test in self.tests])
        self._value = np.array([test.value for test in self.tests])
        self._is_limit = np.array([test.against is Against.LIMIT for test in self.tests])
        n_segments = len(spec.segments)
        self._log_r = np.full((n_segments + 1, len(self.tests), len(EFFECTS)), -np.inf)
        self._stake = Stake(spec.rollout.horizon_s)
        self.base = BaseRate((n_segments, len(spec.kpis)))
        self._thresholds = self._log_thresholds(spec, n_segments)
        ticks = np.array([BURST_TICKS.get(spec.kpis[test.kpi].kind, PROOF_TICKS) for test in self.tests])
        self._ceilings = self._thresholds[:, None] / ticks

    def _log_thresholds(self, spec: ServiceSpec, n_segments: int) -> Floats:
        """Half of `false_rollback` to the pooled row, half spread over the segments, each shared by the grounds.

        A union bound over e-processes holds under any dependence between KPIs.
        """
        grounds = sum(test.against is not Against.ZERO for test in self.tests)
        share = np.full(n_segments + 1, 0.5 / n_segments)
        share[-1] = 0.5
        thresholds: Floats = np.log(grounds / (spec.rollout.false_rollback * share))
        return thresholds

    @property
    def log_thresholds(self) -> Floats:
        """(S + 1,) logarithms of the e-values that prove a regression."""
        return self._thresholds

    def update(self, window: Window, *, since_exposure_s: float, share: float = 1.0) -> None:
        """Add one tick. `since_exposure_s`: event time since the first exposure, which places the restarts' weights.

        `share`: of the usual interval that it lasted, in [0, 1]. So much of what one tick may count for it counts at
        most: a burst is no more of a proof where somebody looks more often.
        """
        n, bad = window.n[:, self._kpi, :].astype(float), window.bad[:, self._kpi, :].astype(float)
        factors = self._log_factors(n, bad)  # (S, T, effects)
        factors = np.concatenate([factors, factors.sum(axis=0, keepdims=True)])
        factors = np.minimum(factors, share * self._ceilings[..., None])
        restart = self._stake.due(since_exposure_s)
        self._log_r = np.logaddexp(self._log_r, np.log(restart) if restart > 0 else -np.inf) + factors
        self.base.learn(window.n[..., BASELINE] + window.unexposed_n, window.bad[..., BASELINE] + window.unexposed_bad)

    def _log_factors(self, n: Floats, bad: Floats) -> Floats:
        base = self.base.value[:, self._kpi]
        accepted = np.where(self._is_limit, self._value, np.clip(base + self._value, 1e-6, 1 - 1e-6))
        q_c = _raise(accepted[..., None], EFFECTS)
        n_c, bad_c = n[..., CANARY, None], bad[..., CANARY, None]
        n_b, bad_b = n[..., BASELINE, None], bad[..., BASELINE, None]
        against_baseline = log_e(n_c, bad_c, n_b, bad_b, q_c, base[..., None], self._value[:, None])
        against_limit = log_likelihood_ratio(n_c, bad_c, q_c, self._value[:, None])
        # near a base rate of 1 there is no excess beyond the tolerance, and a bet inside the null would prove anything
        is_bet = q_c > np.minimum(base[..., None] + self._value[:, None], 1.0) + 1e-9
        against_baseline = np.where(is_bet, against_baseline, 0.0)
        return np.where(self._is_limit[:, None], against_limit, against_baseline)

    @property
    def log_e_values(self) -> Floats:
        """(S + 1, T) logarithms of the e-processes now; -inf before the first tick."""
        peak = self._log_r.max(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.log(np.exp(self._log_r - np.where(np.isfinite(peak), peak, 0.0)[..., None]).mean(axis=-1))
        return np.where(np.isfinite(peak), peak + mean, -np.inf)

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists."""
        return {
            "log_r": np.where(np.isfinite(self._log_r), self._log_r, -1e300).tolist(),
            "spent": self._stake.spent,
            "base_n": self.base.n.tolist(),
            "base_bad": self.base.bad.tolist(),
        }

    def restore(self, state: dict[str, object]) -> None:
        """Take a state that `state` gave, of the same specification."""
        log_r = np.asarray(state["log_r"], float).reshape(self._log_r.shape)
        self._log_r = np.where(log_r <= -1e299, -np.inf, log_r)
        self._stake.spent = float(state["spent"])  # type: ignore[arg-type] # written by `state` as a float
        self.base.n = np.asarray(state["base_n"], float).reshape(self.base.n.shape)
        self.base.bad = np.asarray(state["base_bad"], float).reshape(self.base.bad.shape)


def _raise(rate: Floats, log_odds: npt.ArrayLike) -> Floats:
    """The rate whose log-odds are higher by `log_odds`."""
    odds = rate / (1 - rate) * np.exp(log_odds)
    return odds / (1 + odds)
