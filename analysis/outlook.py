"""Where the KPIs of a segment are heading: the seam of predicted rollbacks.

A forecast alone takes nobody back. It must be sure for several ticks, and the evidence against zero excess must have
reached a floor of its own, so that false alarms stay bounded whatever the forecast is worth.
"""

from __future__ import annotations

import math

from analysis.decision import Phase
from analysis.evidence.regression import Against
from analysis.forecast.trend import Forecast, forecast
from analysis.guard import BREACH_LIKELY, BREACH_SURE
from analysis.reading import Reading
from analysis.segment import SegmentState
from analysis.window import CANARY

LEANING = 1.0  # log e-value against zero excess below which a forecast is only noise
CALM_FORECAST_TICKS = 5


class Outlook:
    """Forecasts of one rollout of a reading."""

    def __init__(self, reading: Reading, rollout: int) -> None:
        self._reading, self._rollout = reading, rollout
        spec = reading.spec
        self._limited = [k for k, kpi in enumerate(spec.kpis) if kpi.limit is not None]
        self._kpi = {kpi.name: k for k, kpi in enumerate(spec.kpis)}
        zero = sum(test.against is Against.ZERO for test in reading.evidence.tests)
        self._floor = math.log(len(spec.segments) * zero / spec.rollout.false_rollback) if zero else math.inf
        self._horizon_ticks = max(1, round(spec.rollout.horizon_s / spec.rollout.interval_s))

    def look_ahead(self, index: int, state: SegmentState, *, tick: int) -> None:
        """A new forecast every tick while any count leans against the canary, every few ticks otherwise."""
        if not self._limited:
            return
        if state.phase not in (Phase.RAMPING, Phase.BAKING):
            state.forecast = None
            return
        leaning = any(self._log_e(index, k) > LEANING for k in self._limited)
        if leaning or tick % CALM_FORECAST_TICKS == index % CALM_FORECAST_TICKS:
            state.forecast = self._forecast(index)

    def _log_e(self, index: int, kpi: int) -> float:
        return self._reading.log_e_against_zero(self._rollout, index, kpi)

    def _forecast(self, index: int) -> Forecast | None:
        """The most worrying forecast among the KPIs with a limit; never further ahead than the data reach back."""
        n, bad = self._reading.recent.series(self._rollout, index)
        found = []
        for k in self._limited:
            kpi = self._reading.spec.kpis[k]
            if len(n) and kpi.limit is not None:
                horizon = min(self._horizon_ticks, len(n))
                found.append(
                    forecast(kpi.name, bad[:, k, CANARY], n[:, k, CANARY], limit=kpi.limit, horizon_ticks=horizon)
                )
        return max((f for f in found if f is not None), key=lambda f: f.p_breach, default=None)

    def is_founded(self, index: int, state: SegmentState) -> bool:
        """A breach is foreseen, and evidence against zero excess of that KPI is above the floor."""
        if state.forecast is None or state.forecast.p_breach < BREACH_SURE:
            return False
        return self._log_e(index, self._kpi[state.forecast.kpi]) >= self._floor

    def is_likely(self, index: int, state: SegmentState) -> bool:
        """A breach is more likely than not, and the counts lean against the canary at all."""
        if state.forecast is None or state.forecast.p_breach < BREACH_LIKELY:
            return False
        return self._log_e(index, self._kpi[state.forecast.kpi]) > LEANING
