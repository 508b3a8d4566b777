"""Where the KPIs of a segment are heading: the seam of predicted rollbacks.

A forecast alone takes nobody back. It must be sure for several ticks, and the evidence against zero excess, mixed over
segments and KPIs, must have reached a floor, so that false alarms stay bounded whatever the forecast is worth.
"""

from __future__ import annotations

import math

import numpy as np

from analysis.decision import Phase
from analysis.evidence.regression import KPI_WEIGHTS, Against
from analysis.failure.facts import PRIOR_RISK
from analysis.forecast.excess import Forecast
from analysis.guard import BREACH_LIKELY, BREACH_SURE, LoadForecast, forecast_threshold
from analysis.reading import Reading
from analysis.segment import SegmentState

FOUNDED = math.log(20)  # e-value against zero excess of what a forecast itself is about, beneath the mixed one
ABOVE_SURE = 0.7  # probability that the canary is worse by more than is tolerated already, besides
OWN_SURE = 0.75  # probability at which a breach counts that one segment of several foresees for itself
LEANING = 1.0  # log e-value against zero excess below which a forecast is only noise
GROWS = 0.975  # probability that a KPI gets worse as the split grows, at which its forecast at the next split counts
OTHERS_LEAN = math.log(5)  # e-value of all segments but the most evident one, at which the forecast of all is theirs
SPARED = 0.9  # probability that a segment's excess is less than half of everybody's, at which it is spared


class Outlook:
    """Forecasts of one rollout of a reading."""

    def __init__(self, reading: Reading, rollout: int) -> None:
        self._reading, self._rollout = reading, rollout
        spec = reading.spec
        self._together = len(spec.segments)
        self._floor = -math.log(spec.rollout.false_rollback)
        self._tests = [_zero_test(reading, k) for k in reading.limited.tolist()]
        weights = [KPI_WEIGHTS[spec.kpis[k].kind] if t is not None else 0.0 for k, t in self._limited()]
        total = sum(weights)
        self._log_shares = [math.log(w / total) if w > 0 else -math.inf for w in weights]
        self._kpi = {spec.kpis[k].name: i for i, k in enumerate(reading.limited.tolist())}

    def _limited(self) -> list[tuple[int, int | None]]:
        return list(zip(self._reading.limited.tolist(), self._tests, strict=True))

    # -- the floor -----------------------------------------------------------------------------------------------------

    @property
    def log_e(self) -> float:
        """Logarithm of the mixed e-value of any excess at all on a KPI with a limit, in any segment; -inf: none is.

        Half of the capital on all people together and half spread evenly over the segments, each shared out over the
        KPIs by their gravity: a mean of e-values is an e-value under any dependence (Vovk & Wang 2021, section 3), so
        that P(it ever reaches 1/a) <= a for a canary that is no worse, by Ville's inequality.
        """
        log_e = self._reading.now.log_e[self._rollout]
        columns = [log_e[:, t] + share for t, share in zip(self._tests, self._log_shares, strict=True) if t is not None]
        if not columns:
            return -math.inf
        rows = np.logaddexp.reduce(columns, axis=0)
        if self._together == 1:
            return float(rows[0])
        own = np.logaddexp.reduce(rows[:-1]) - math.log(self._together)
        return float(np.logaddexp(own, rows[-1]) - math.log(2))

    @property
    def log_e_needed(self) -> float:
        return self._floor

    def _own_log_e(self, row: int, i: int) -> float:
        test = self._tests[i]
        return -math.inf if test is None else float(self._reading.now.log_e[self._rollout, row, test])

    # -- forecasts -----------------------------------------------------------------------------------------------------

    def look_ahead(self, index: int, state: SegmentState) -> None:
        """The most worrying forecast of a segment, its own or of all segments where it is one of those meant."""
        if not len(self._reading.limited):
            return
        if state.phase not in (Phase.RAMPING, Phase.BAKING):
            state.forecast = None
            return
        p = self._reading.trends.p_breach[self._rollout]
        own, everybody = int(p[index].argmax()), int(p[-1].argmax())
        row, i = index, own
        if p[-1, everybody] > p[index, own] and self._is_meant(index, everybody):
            row, i = self._together, everybody
        state.forecast = self._reading.trends.forecast(self._rollout, row, i)

    def _is_meant(self, index: int, i: int) -> bool:
        """Whether what is said of all people together is said of a segment.

        It is where e-BH names it, and where the others lean as well and its own excess is not surely the smaller one.
        """
        test, now = self._tests[i], self._reading.now
        if test is None or self._together == 1:
            return False
        if now.named[self._rollout, index, test] and self._own_log_e(index, i) > 0:
            return True
        if not now.others[self._rollout, 0, test] >= OTHERS_LEAN:
            return False
        return self._reading.trends.below(self._rollout, index, i) < SPARED

    def _leans(self, index: int, forecast: Forecast) -> float:
        """Log e-value against zero excess of what a forecast is about."""
        return self._own_log_e(self._together if forecast.everywhere else index, self._kpi[forecast.kpi])

    def is_founded(self, index: int, state: SegmentState, risk: float = PRIOR_RISK) -> bool:
        """A breach is foreseen, more than is tolerated is there, its own and the mixed evidence are strong.

        `risk`: that of the release, in [0, 1].
        """
        forecast = state.forecast
        if forecast is None:
            return False
        usual = OWN_SURE if self._is_one_of_many(forecast) else BREACH_SURE
        if forecast.p_breach < forecast_threshold(risk, usual) or not forecast.p_above >= ABOVE_SURE:
            return False
        return self._leans(index, forecast) >= FOUNDED and self.log_e >= self._floor

    def _is_one_of_many(self, forecast: Forecast) -> bool:
        """Whether it is of one segment beside others, of which the one that looks worst by chance would be picked."""
        return self._together > 1 and not forecast.everywhere

    def is_likely(self, index: int, state: SegmentState) -> bool:
        """A breach is more likely than not, and the counts lean against the canary at all."""
        forecast = state.forecast
        if forecast is None or forecast.p_breach < BREACH_LIKELY:
            return False
        return self._leans(index, forecast) > LEANING

    def numbers(self, state: SegmentState) -> dict[str, float]:
        """The forecast behind a decision, by name, for journal and explain."""
        forecast = state.forecast
        if forecast is None:
            return {}
        numbers = {
            "p_breach": forecast.p_breach, "forecast": forecast.mean, "forecast_lower": forecast.lower,
            "forecast_upper": forecast.upper, "forecast_limit": forecast.limit, "forecast_width": forecast.width,
            "forecast_log_e": self.log_e, "forecast_log_e_needed": self.log_e_needed,
            "forecast_crosses_s": math.inf if forecast.crosses_s is None else forecast.crosses_s,
        }  # fmt: skip
        return {name: value for name, value in numbers.items() if math.isfinite(value)}

    def at_split(self, index: int, split: float) -> LoadForecast | None:
        """The KPI that a larger split is likeliest to take across its limit, where it surely gets worse with the split.

        None where nothing does. Its own people are asked, and all together where it is one of those meant.
        """
        found = None
        for row in {index, self._together}:
            for i, k in enumerate(self._reading.limited.tolist()):
                if self._own_log_e(row, i) <= LEANING or (row == self._together and not self._is_meant(index, i)):
                    continue
                share, p_breach, p_grows = self._reading.trends.at_split(self._rollout, row, i, split)
                if p_grows >= GROWS and p_breach > (found.p_breach if found else 0.0):
                    kpi = self._reading.spec.kpis[k]
                    found = LoadForecast(
                        kpi=kpi.name, limit=kpi.limit or 1.0, split=split, mean=share, p_breach=p_breach
                    )
        return found


def _zero_test(reading: Reading, kpi: int) -> int | None:
    """The test of any excess at all on a KPI, as an index; of a relative one, that of its ratio."""
    tests = enumerate(reading.evidence.tests)
    return next((t for t, test in tests if test.kpi == kpi and test.against in (Against.ZERO, Against.RATIO)), None)
