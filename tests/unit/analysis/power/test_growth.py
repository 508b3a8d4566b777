"""Predicted times to proof, held against the evidence engine itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.evidence.regression import RegressionEvidence
from analysis.power.growth import Stream, TickGrowth, median_ticks, seconds
from analysis.spec import KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec
from analysis.window import BASELINE, CANARY, empty

RUNS = 48  # of one program, as segments: rows are independent streams
INTERVAL_S = 10.0


def _spec(tolerance: float) -> ServiceSpec:
    """A risk so large that each of RUNS segments has about the threshold of a service with one."""
    names = [f"s{i}" for i in range(RUNS - 1)] + ["default"]
    return ServiceSpec(
        name="shop", baseline="v1", versions=("v1", "v2"), segments=tuple(SegmentSpec(name=name) for name in names),
        kpis=(KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=60, tolerance=tolerance),),
        rollout=RolloutSpec(interval_s=INTERVAL_S, false_rollback=0.01 * RUNS),
    )  # fmt: skip


def _engine_median(stream: Stream, split: float, excess: float, tolerance: float) -> float:
    evidence, rng = RegressionEvidence(_spec(tolerance)), np.random.default_rng(7)
    known = empty(RUNS, 1)
    known.unexposed_n[:], known.unexposed_bad[:] = 1_000, round(1_000 * stream.base)
    evidence.update(known, since_exposure_s=0)
    found = np.full(RUNS, np.inf)
    for tick in range(1, 1_500):
        window = empty(RUNS, 1)
        n = rng.poisson(stream.sessions_per_s * INTERVAL_S, RUNS)
        n_c = rng.binomial(n, split)
        window.n[:, 0] = np.stack([n - n_c, n_c], axis=1)
        window.bad[:, 0, BASELINE] = rng.binomial(n - n_c, stream.base)
        window.bad[:, 0, CANARY] = rng.binomial(n_c, stream.base + excess)
        evidence.update(window, since_exposure_s=tick * INTERVAL_S)
        crossed = evidence.log_e_values[:-1, 0] >= evidence.log_thresholds[:-1]
        found = np.minimum(found, np.where(crossed, tick, np.inf))
        if np.isfinite(found).mean() > 0.5:
            break
    return float(np.median(found))


def _predicted(stream: Stream, split: float, excess: float, tolerance: float) -> float:
    spec = _spec(tolerance)
    growth = TickGrowth.of(stream, split=split, tolerance=tolerance, interval_s=INTERVAL_S)
    threshold = float(RegressionEvidence(spec).log_thresholds[0])
    ticks = median_ticks(
        [growth], [np.array([excess])], log_threshold=threshold, rollout=spec.rollout, kind=KpiKind.ERROR_RATE
    )
    return float(ticks[0])


@pytest.mark.parametrize(
    ("sessions_per_s", "base", "split", "excess", "tolerance"),
    [
        (20, 0.005, 0.05, 0.015, 0.005),  # x4 errors at 5 %
        (20, 0.005, 0.5, 0.015, 0.005),
        (100, 0.005, 0.05, 0.045, 0.005),  # where a tick's evidence is cut off
        (0.5, 0.05, 0.5, 0.15, 0.02),  # where most ticks have an empty arm or hardly more
        (5, 0.3, 0.5, 0.06, 0.02),  # abandonment-like
        (20, 0.005, 0.05, 0.01, 0.005),  # twice the tolerance
        (20, 0.005, 0.05, 0.015, 0.0),  # against zero
    ],
)
def test_predicted_median_is_the_engines(
    sessions_per_s: float, base: float, split: float, excess: float, tolerance: float
) -> None:
    """Within 35 %, which is what a plan needs to know."""
    stream = Stream(sessions_per_s=sessions_per_s, base=base)
    measured = _engine_median(stream, split, excess, tolerance)
    assert _predicted(stream, split, excess, tolerance) == pytest.approx(measured, rel=0.35)


def test_more_excess_and_more_traffic_are_found_sooner_and_a_tolerated_excess_never() -> None:
    spec = _spec(0.005)
    threshold = float(RegressionEvidence(spec).log_thresholds[0])

    def ticks(sessions_per_s: float, *excess: float) -> list[float]:
        growth = TickGrowth.of(
            Stream(sessions_per_s=sessions_per_s, base=0.01), split=0.2, tolerance=0.005, interval_s=INTERVAL_S
        )
        found = median_ticks(
            [growth], [np.array(excess)], log_threshold=threshold, rollout=spec.rollout, kind=KpiKind.ERROR_RATE
        )
        return [float(x) for x in found]

    rare, often = ticks(2, 0.01, 0.02, 0.05), ticks(20, 0.01, 0.02, 0.05)
    assert rare == sorted(rare, reverse=True)
    assert all(b < a for a, b in zip(rare, often, strict=True))
    assert ticks(20, 0.0, 0.005) == [math.inf, math.inf]
    assert ticks(0.0, 0.5) == [math.inf]


def test_a_decision_waits_for_the_age_and_for_whole_ticks() -> None:
    """Judged at 60 s, 1.5 s later for what is late: the first tick that has it ends at 70 s, plus its own 10 s."""
    kpi = KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=60, tolerance=0.005)
    assert seconds(np.array([1.0, 4.0]), kpi, 10.0).tolist() == [80.0, 110.0]
