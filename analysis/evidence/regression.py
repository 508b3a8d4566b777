"""Is the canary worse than the baseline by more than its tolerance? One e-process a segment and test, and a pooled one.

Each tick multiplies an e-process by the block's e-value, averaged over a grid of effect sizes: of a difference of rates
(`two_by_two`), of a ratio (`binomial`), or against a limit. Late changes are found by restarts (`stake`). By Ville's
inequality P(R ever >= 1/a) <= a, however often one looks and however the split moves.

Everything has a leading axis of B rollouts: one that is live, or a thousand simulated ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from analysis.evidence.base_rate import BaseRate
from analysis.evidence.binomial import log_ratio_e
from analysis.evidence.blocks import Blocks
from analysis.evidence.stake import NOW_SHARE, Stake
from analysis.evidence.two_by_two import log_e, log_likelihood_ratio
from analysis.spec import KpiKind, ServiceSpec
from analysis.window import BASELINE, CANARY, Window

Floats = npt.NDArray[np.float64]

EFFECTS = np.array([0.1, 0.25, 0.6, 1.2, 2.5])
EFFECT_WEIGHTS = np.array([0.03, 0.07, 0.3, 0.4, 0.2])
"""Effect sizes bet on, the canary's log-odds above the accepted rate; and shares of capital, most on what breaks."""

KPI_WEIGHTS = {
    KpiKind.ERROR_RATE: 4.0, KpiKind.LATENCY: 2.0, KpiKind.ABANDONMENT: 2.0, KpiKind.FEATURE: 1.0, KpiKind.ANOMALY: 1.0
}  # fmt: skip
"""Relative shares of the risk of a false rollback that the grounds of each KPI get: most for what is worst to miss."""

PROOF_TICKS = 3
BURST_TICKS = {KpiKind.LATENCY: 12}
"""Ticks of the service's interval that a proof takes at least. The evidence of so much event time is cut off above a
share of the proof: a stall of one process or one blip of a dependency hits many people at once, who then are no
independent witnesses. What is cut off from above stays an e-value. Requests that queue behind each other are slow
together, hence more for latency; a crash is the hard tier's."""


NOVELTY = 2.0
"""Tolerances of a KPI of behaviour beyond which alone a rollback goes. People's first visit after a change differs from
later ones, and evidence counts a person by the first. What lies between is left to the harm budget."""


class Against(StrEnum):
    """What a test compares the canary with."""

    TOLERANCE = "tolerance"  # baseline + tolerance: the ground of a proven rollback
    RATIO = "ratio"  # as many beyond the raised threshold as of the baseline beyond the threshold: a ground as well
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
    tests = [
        Test(kpi=i, against=Against.RATIO, value=0.0)
        if kpi.is_relative
        else Test(kpi=i, against=Against.TOLERANCE, value=kpi.tolerance * (NOVELTY if kpi.is_behaviour else 1.0))
        for i, kpi in enumerate(spec.kpis)
    ]
    limited = [(i, kpi.limit) for i, kpi in enumerate(spec.kpis) if kpi.limit is not None]
    tests += [Test(kpi=i, against=Against.LIMIT, value=limit) for i, limit in limited]
    tests += [
        Test(kpi=i, against=Against.ZERO, value=0.0)
        for i, kpi in enumerate(spec.kpis)
        if _forecastable(kpi.kind) and not kpi.is_relative
    ]
    return tuple(tests)


def _forecastable(kind: KpiKind) -> bool:
    return kind in (KpiKind.ERROR_RATE, KpiKind.LATENCY, KpiKind.ABANDONMENT)


class RegressionEvidence:
    """e-processes of shape (B, S + 1, T): B rollouts; S segments and, last, all segments together; T tests.

    The pooled row multiplies the segments' block e-values of one tick: segments are independent given their people. Of
    several segments there is also, for each, the row of all the others together: `log_e_of_others` (B, S, T).
    """

    def __init__(self, spec: ServiceSpec, n: int = 1) -> None:
        self.tests = tests_of(spec)
        self._kpi = np.array([test.kpi for test in self.tests])
        self._value = np.array([test.value for test in self.tests])
        self._against = np.array([str(test.against) for test in self.tests])
        self.grounds = self._against != Against.ZERO
        self._interval_s = spec.rollout.interval_s
        n_segments, n_kpis = len(spec.segments), len(spec.kpis)
        self._shape = (n, n_segments, n_kpis)
        self._n_rows = n_segments + 1
        rows = self._n_rows + (n_segments if n_segments > 1 else 0)  # each segment, all of them, all but each
        self._log_r = np.full((n, rows, len(self.tests), len(EFFECTS)), -np.inf)
        self._log_e: Floats | None = None
        self._stake = Stake(n)
        self.base = BaseRate(self._shape)
        self._blocks = Blocks(self._shape)
        self._thresholds = self._log_thresholds(spec, n_segments)
        ticks = np.array([BURST_TICKS.get(spec.kpis[test.kpi].kind, PROOF_TICKS) for test in self.tests])
        self._room = np.zeros_like(self._log_r)
        ceilings = (self._thresholds - np.log(NOW_SHARE)) / ticks
        self._ceilings = np.concatenate([ceilings, np.repeat(ceilings[-1:], rows - self._n_rows, axis=0)])

    def _log_thresholds(self, spec: ServiceSpec, n_segments: int) -> Floats:
        """Half of `false_rollback` to the pooled row, half spread over the segments, each shared out over the grounds.

        A union bound over e-processes holds under any dependence between KPIs.
        """
        share = np.full(n_segments + 1, 0.5 / n_segments)
        share[-1] = 0.5
        if n_segments == 1:
            share[:] = 1.0  # both rows are the same one
        weights = np.array([KPI_WEIGHTS[spec.kpis[test.kpi].kind] for test in self.tests])
        of_test = weights / weights[self.grounds].sum()
        thresholds: Floats = -np.log(spec.rollout.false_rollback * share[:, None] * of_test)
        return thresholds

    @property
    def log_thresholds(self) -> Floats:
        """(S + 1, T) logarithms of the e-values that prove a regression."""
        return self._thresholds

    def update(self, window: Window, *, since_exposure_s: npt.ArrayLike, elapsed_s: npt.ArrayLike = np.inf) -> None:
        """Add one tick of `elapsed_s`, (B,) or the same for all; the window's arrays have the leading axis, or B is 1.

        `since_exposure_s` (B,): event time since the first exposure, which places the restarts' weights.
        """
        n, bad = (x.reshape(*self._shape, 2).astype(float) for x in (window.n, window.bad))
        factors = self._log_factors(n, bad)  # (B, S, T, effects)
        together = factors.sum(axis=1, keepdims=True)
        others = [together - factors] if factors.shape[1] > 1 else []
        factors = np.concatenate([factors, together, *others], axis=1)
        share = np.minimum(np.asarray(elapsed_s, float) / self._interval_s, 1.0)
        factors = self._cut(factors, share.reshape(-1, 1, 1, 1))
        with np.errstate(divide="ignore"):
            restart = np.log(np.broadcast_to(self._stake.due(since_exposure_s), self._shape[:1]))
        self._log_r = np.logaddexp(self._log_r, restart[:, None, None, None]) + factors
        self._log_e = None
        before, bad_before = (x.reshape(self._shape) for x in (window.unexposed_n, window.unexposed_bad))
        n_b, bad_b = (x.reshape(*self._shape, 2)[..., BASELINE] for x in (window.n, window.bad))
        self.base.learn(n_b + before, bad_b + bad_before)

    def _cut(self, factors: Floats, share: Floats) -> Floats:
        """Cut off what bursts pretend: `share` of the interval that has passed makes room for as much of the ceiling.

        The room is known before the tick, so that what is left stays an e-value; and the same however often one looks.
        """
        ceiling = self._ceilings[..., None]
        self._room = np.minimum(self._room + ceiling * share, ceiling)
        factors = np.minimum(factors, self._room)
        self._room = self._room - np.maximum(factors, 0.0)
        return factors

    def _log_factors(self, n: Floats, bad: Floats) -> Floats:
        base = self.base.value[:, :, self._kpi]
        factors = np.zeros((*base.shape, len(EFFECTS)))
        both_n, both_bad = (x[:, :, self._kpi] for x in self._blocks.take(n, bad))
        n, bad = n[:, :, self._kpi], bad[:, :, self._kpi]
        seen, both = n[..., CANARY] > 0, both_n[..., CANARY] > 0
        is_limit = self._against == Against.LIMIT
        n, bad = np.where(is_limit[:, None], n, both_n), np.where(is_limit[:, None], bad, both_bad)
        differences = both & np.isin(self._against, (Against.TOLERANCE, Against.ZERO))
        value = np.broadcast_to(self._value, base.shape)
        for test, where in (
            (self._difference, differences),
            (self._ratio, both & (self._against == Against.RATIO)),
            (self._limit, seen & is_limit),
        ):
            if where.any():
                factors[where] = test(n[where], bad[where], base[where], value[where])
        return factors

    @staticmethod
    def _difference(n: Floats, bad: Floats, base: Floats, value: Floats) -> Floats:
        q_c = _raise(np.clip(base + value, 1e-6, 1 - 1e-6)[:, None], EFFECTS)
        n_c, bad_c, n_b, bad_b = n[:, CANARY, None], bad[:, CANARY, None], n[:, BASELINE, None], bad[:, BASELINE, None]
        factors = log_e(n_c, bad_c, n_b, bad_b, q_c, base[:, None], value[:, None])
        # near a base rate of 1 there is no excess beyond the tolerance, and a bet inside the null would prove anything
        return np.where(q_c > np.minimum(base + value, 1.0)[:, None] + 1e-9, factors, 0.0)

    @staticmethod
    def _ratio(n: Floats, bad: Floats, base: Floats, value: Floats) -> Floats:  # noqa: ARG004 -- as the other tests
        return log_ratio_e(
            n[:, CANARY, None], bad[:, CANARY, None], n[:, BASELINE, None], bad[:, BASELINE, None], EFFECTS
        )

    @staticmethod
    def _limit(n: Floats, bad: Floats, base: Floats, value: Floats) -> Floats:  # noqa: ARG004 -- as the other tests
        limit = value[:, None]
        return log_likelihood_ratio(n[:, CANARY, None], bad[:, CANARY, None], _raise(limit, EFFECTS), limit)

    @property
    def log_e_values(self) -> Floats:
        """(B, S + 1, T) logarithms of the e-processes now; -inf before the first tick."""
        return self._log_e_of_rows[:, : self._n_rows]

    @property
    def log_e_of_others(self) -> Floats:
        """(B, S, T) the same for all segments but one; -inf where there is only one."""
        if self._log_r.shape[1] == self._n_rows:
            return np.full((*self._shape[:2], len(self.tests)), -np.inf)
        return self._log_e_of_rows[:, self._n_rows :]

    @property
    def _log_e_of_rows(self) -> Floats:
        if self._log_e is None:
            self._log_e = np.logaddexp.reduce(self._log_r + np.log(EFFECT_WEIGHTS), axis=-1)
        return self._log_e

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists. Of a single rollout."""
        return {
            "log_r": np.where(np.isfinite(self._log_r), self._log_r, -1e300)[0].tolist(),
            "spent": float(self._stake.spent[0]),
            "blocks": self._blocks.state(),
            "room": self._room[0].tolist(),
            "base_n": self.base.n[0].tolist(),
            "base_bad": self.base.bad[0].tolist(),
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Take a state that `state` gave, of the same specification."""
        log_r = np.asarray(state["log_r"], float).reshape(self._log_r.shape)
        self._log_r = np.where(log_r <= -1e299, -np.inf, log_r)
        self._log_e = None
        self._stake.spent = np.asarray([state["spent"]], float)
        self._blocks.restore(state["blocks"])
        self._room = np.asarray(state["room"], float).reshape(self._log_r.shape)
        self.base.n = np.asarray(state["base_n"], float).reshape(self._shape)
        self.base.bad = np.asarray(state["base_bad"], float).reshape(self._shape)


def _raise(rate: Floats, log_odds: npt.ArrayLike) -> Floats:
    """The rate whose log-odds are higher by `log_odds`."""
    odds = rate / (1 - rate) * np.exp(log_odds)
    return odds / (1 + odds)
