"""The simulated world of a plan's traffic: people of a canary that is as good as the baseline, each of whom comes once.

What a plan is not told is as in `simulation.scenario.Habits`. A slow threshold that is frozen from the baseline leaves
5 % of sessions beyond it, by its making, and of anomalies there are as many as in every simulation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from analysis.power.detection import Traffic
from analysis.simulation.rates import Rates
from analysis.simulation.scenario import Group, Habits, Must, Scenario
from analysis.spec import KpiKind, KpiSpec, ServiceSpec
from analysis.window import BASELINE

Floats = npt.NDArray[np.float64]

_FASTEST, _SLOWEST = np.log(1e-3), np.log(1e3)  # medians of requests tried, in units of the slow threshold


def good_scenario(spec: ServiceSpec, traffic: Traffic) -> Scenario:
    """The segments' people, in matching order."""
    total = max(sum(traffic.sessions_per_s), 1e-12)
    groups = tuple(
        Group(name=segment.name, share=rate / total, habits=_habits(spec, base))
        for segment, rate, base in zip(spec.segments, traffic.sessions_per_s, traffic.base, strict=True)
    )
    return _scenario(groups)


def harm_rates(spec: ServiceSpec, traffic: Traffic) -> Floats:
    """(S, 2) shares of sessions that count as harm, by arm: bad in any way, the ways being independent.

    Where slowness is held against a raised threshold, a canary as good as the baseline has fewer of them.
    """
    harms = list(spec.harms)
    rates = _rates(spec, good_scenario(spec, traffic))
    harm: Floats = 1 - np.prod(1 - rates[:, harms], axis=1)
    return harm


def _scenario(groups: tuple[Group, ...]) -> Scenario:
    return Scenario(name="good", title="a release as good as its baseline", must=Must.PROMOTE, groups=groups)


def _rates(spec: ServiceSpec, scenario: Scenario) -> Floats:
    """(S, K, 2) shares of sessions that are bad."""
    nobody = np.zeros((1, len(scenario.groups)))
    rates: Floats = Rates(spec, scenario).at(0.0, exposed_s=nobody, split=nobody).first[0]
    return rates


def _habits(spec: ServiceSpec, base: Sequence[float]) -> Habits:
    usual = Habits()
    errors, abandoned, unused = (
        next((rate for kpi, rate in zip(spec.kpis, base, strict=True) if kpi.kind is kind), default)
        for kind, default in (
            (KpiKind.ERROR_RATE, usual.errors),
            (KpiKind.ABANDONMENT, usual.abandoned),
            (KpiKind.FEATURE, 1 - usual.feature),
        )
    )
    slow = [(k, kpi.slow_ms) for k, kpi in enumerate(spec.kpis) if kpi.kind is KpiKind.LATENCY]
    latency_ms = usual.latency_ms
    if slow and slow[0][1] is not None:
        latency_ms = slow[0][1] * _median_times(spec.kpis[slow[0][0]], spec, abandoned, base[slow[0][0]])
    return Habits(errors=errors, abandoned=abandoned, feature=1 - unused, latency_ms=latency_ms, visits=1.0)


def _median_times(kpi: KpiSpec, spec: ServiceSpec, abandoned: float, share: float) -> float:
    """The median of requests, in units of the slow threshold, at which this share of sessions is slow."""
    assert kpi.slow_ms is not None  # noqa: S101 -- only asked for where there is a threshold
    threshold_ms, k = kpi.slow_ms, spec.kpis.index(kpi)

    def too_many(log_median: float) -> float:
        habits = Habits(abandoned=abandoned, latency_ms=threshold_ms * float(np.exp(log_median)))
        rates = _rates(spec, _scenario((Group(name="", share=1.0, habits=habits),)))
        return float(rates[0, k, BASELINE]) - share

    return float(np.exp(brentq(too_many, _FASTEST, _SLOWEST, xtol=1e-3)))
