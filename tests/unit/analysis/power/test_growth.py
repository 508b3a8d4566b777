"""Predicted times to proof, held against the evidence engine itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.evidence import regression
from analysis.evidence.regression import Against, RegressionEvidence
from analysis.power.growth import Stream, TickGrowth, median_ticks, seconds
from analysis.spec import KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec
from analysis.window import BASELINE, CANARY, empty

RUNS = 48
INTERVAL_S = 10.0


def _spec(kind: KpiKind, tolerance: float) -> ServiceSpec:
    return ServiceSpec(
        name="shop", baseline="v1", versions=("v1", "v2"), segments=(SegmentSpec(name="default"),),
        kpis=(KpiSpec(kind=kind, judge_after_s=60, tolerance=tolerance),),
        rollout=RolloutSpec(interval_s=INTERVAL_S),
    )  # fmt: skip


def _ground(evidence: RegressionEvidence) -> tuple[regression.Test, float]:
    """The only ground and what proves it."""
    (place,) = np.flatnonzero(evidence.grounds)
    return evidence.tests[place], float(evidence.log_thresholds[0, place])


def _engine_median(kind: KpiKind, stream: Stream, split: float, excess: float, tolerance: float) -> float:
    evidence, rng = RegressionEvidence(_spec(kind, tolerance), RUNS), np.random.default_rng(7)
    _, threshold = _ground(evidence)
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
        evidence.update(window, since_exposure_s=tick * INTERVAL_S, elapsed_s=INTERVAL_S)
        crossed = evidence.log_e_values[:, 0, evidence.grounds][:, 0] >= threshold
        found = np.minimum(found, np.where(crossed, tick, np.inf))
        if np.isfinite(found).mean() > 0.5:
            break
    return float(np.median(found))


def _predicted(kind: KpiKind, stream: Stream, split: float, excess: float, tolerance: float) -> float:
    test, threshold = _ground(RegressionEvidence(_spec(kind, tolerance)))
    growth = TickGrowth.of(stream, split=split, test=test, interval_s=INTERVAL_S)
    return float(median_ticks([growth], [np.array([excess])], log_threshold=threshold, kind=kind)[0])


@pytest.mark.parametrize(
    ("kind", "sessions_per_s", "base", "split", "excess", "tolerance"),
    [
        (KpiKind.ERROR_RATE, 20, 0.005, 0.05, 0.015, 0.005),  # x4 errors at 5 %
        (KpiKind.ERROR_RATE, 20, 0.005, 0.5, 0.015, 0.005),
        (KpiKind.ERROR_RATE, 100, 0.005, 0.05, 0.045, 0.005),  # where a tick's evidence is cut off
        (KpiKind.ERROR_RATE, 0.5, 0.05, 0.5, 0.15, 0.02),  # where ticks have hardly anybody
        (KpiKind.ERROR_RATE, 0.02, 0.05, 0.3, 0.4, 0.02),  # … or one arm at most, and blocks wait for both
        (KpiKind.ERROR_RATE, 60, 0.005, 0.05, 0.01, 0.005),  # twice the tolerance
        (KpiKind.ERROR_RATE, 20, 0.005, 0.05, 0.015, 0.0),  # against zero
        (KpiKind.ABANDONMENT, 5, 0.3, 0.5, 0.1, 0.02),  # against two tolerances
        (KpiKind.LATENCY, 20, 0.05, 0.05, 0.05, 0.02),  # against a ratio: twice as many
        (KpiKind.LATENCY, 200, 0.05, 0.05, 0.2, 0.02),  # … cut off, over more ticks
    ],
)
def test_predicted_median_is_the_engines(
    kind: KpiKind, sessions_per_s: float, base: float, split: float, excess: float, tolerance: float
) -> None:
    """Within 35 %, which is what a plan needs to know."""
    stream = Stream(sessions_per_s=sessions_per_s, base=base)
    measured = _engine_median(kind, stream, split, excess, tolerance)
    assert _predicted(kind, stream, split, excess, tolerance) == pytest.approx(measured, rel=0.35)


def test_more_excess_and_more_traffic_are_found_sooner_and_a_tolerated_excess_never() -> None:
    test, threshold = _ground(RegressionEvidence(_spec(KpiKind.ERROR_RATE, 0.005)))
    assert test.against is Against.TOLERANCE

    def ticks(sessions_per_s: float, *excess: float) -> list[float]:
        stream = Stream(sessions_per_s=sessions_per_s, base=0.01)
        growth = TickGrowth.of(stream, split=0.2, test=test, interval_s=INTERVAL_S)
        found = median_ticks([growth], [np.array(excess)], log_threshold=threshold, kind=KpiKind.ERROR_RATE)
        return [float(x) for x in found]

    rare, often = ticks(2, 0.01, 0.02, 0.05), ticks(20, 0.01, 0.02, 0.05)
    assert rare == sorted(rare, reverse=True)
    assert all(b < a for a, b in zip(rare, often, strict=True))
    assert ticks(20, 0.0, 0.005) == [math.inf, math.inf]
    assert ticks(0.0, 0.5) == [math.inf]


def test_a_decision_waits_for_the_age_for_whole_ticks_and_for_a_fresh_canary_to_settle() -> None:
    """Judged at 60 s, 1.5 s later for what is late: the first tick that has it ends at 70 s, plus its own 10 s."""
    rollout = RolloutSpec(interval_s=10.0, settle_s=295.0)
    errors, slow = (
        KpiSpec(kind=kind, judge_after_s=60, tolerance=0.005) for kind in (KpiKind.ERROR_RATE, KpiKind.LATENCY)
    )
    assert seconds(np.array([1.0, 4.0]), errors, rollout).tolist() == [80.0, 110.0]
    assert seconds(np.array([1.0]), slow, rollout).tolist() == [380.0]
