"""Over every course that a few ticks can take, each with its exact chance: Ville's inequality, and who breaks it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from analysis.evidence.regression import Against, RegressionEvidence
from analysis.evidence.stake import Stake
from analysis.spec import KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec
from analysis.window import BASELINE, CANARY, Window
from tests.unit.analysis.rows import stacked_window

TICKS = 4
TOLERANCE = 0.1
SIZES = ((1, 1), (1, 2), (2, 1))  # people a tick: (baseline, canary)
STEADY, DRIFTING, COMMON = (0.05, 0.05, 0.05, 0.05), (0.02, 0.6, 0.3, 0.85), (0.5, 0.5, 0.5, 0.5)
KPIS = {
    Against.TOLERANCE: KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=4, tolerance=TOLERANCE),
    Against.RATIO: KpiSpec(kind=KpiKind.LATENCY, judge_after_s=4, tolerance=TOLERANCE),
}


def _spec(against: Against, false_rollback: float) -> ServiceSpec:
    return ServiceSpec(
        name="shop", baseline="v1", versions=("v1", "v2"), segments=(SegmentSpec(name="default"),),
        kpis=(KPIS[against],), rollout=RolloutSpec(interval_s=1, false_rollback=false_rollback),
    )  # fmt: skip


def _courses(sizes: tuple[int, int]) -> np.ndarray:
    """Bad ones of every course, (courses, TICKS, 2)."""
    outcomes = list(product(range(sizes[BASELINE] + 1), range(sizes[CANARY] + 1)))
    return np.array(list(product(outcomes, repeat=TICKS)))


def _chances(courses: np.ndarray, sizes: tuple[int, int], rates: np.ndarray) -> np.ndarray:
    """Of each course where the rates (TICKS, 2) are true."""
    chances: np.ndarray = binom.pmf(courses, sizes, rates).prod(axis=(1, 2))
    assert chances.sum() == pytest.approx(1)
    return chances


def _e_values(
    courses: np.ndarray, sizes: tuple[int, int], against: Against, *, false_rollback: float, flipped: bool = False
) -> np.ndarray:
    """e-values of every course after each tick, (TICKS, courses): a rollout each. `flipped`: arms are mistaken."""
    evidence = RegressionEvidence(_spec(against, false_rollback), len(courses))
    assert evidence.tests[0].against is against
    values = []
    for tick in range(TICKS):
        n, bad = np.broadcast_to(sizes, (len(courses), 2)), courses[:, tick]
        arms = (CANARY, BASELINE) if flipped else (BASELINE, CANARY)
        window: Window = stacked_window(len(courses), 1, 1)
        window.n[:, 0, 0], window.bad[:, 0, 0] = n[:, arms], bad[:, arms]
        evidence.update(window, since_exposure_s=float(tick))
        values.append(np.exp(evidence.log_e_values[:, 0, 0]))
    return np.array(values)


def _is_fair(e_values: np.ndarray, chances: np.ndarray) -> bool:
    """Whether the mean is at no time above what has been staked by then."""
    stake = Stake()
    staked = np.cumsum([stake.due(float(tick))[0] for tick in range(TICKS)])
    return bool((e_values @ chances <= staked * (1 + 1e-9)).all())


def _is_seldom_high(e_values: np.ndarray, chances: np.ndarray) -> bool:
    """Whether P(it is ever 1/a or more) <= a, at every a there is."""
    highest = e_values.max(axis=0)
    order = np.argsort(-highest)
    reached = np.cumsum(chances[order])
    return bool((reached <= 1 / highest[order] + 1e-9)[highest[order] > 1].all())


UNCUT = 1e-12  # proof so far away that no tick's evidence is cut off


@pytest.mark.parametrize("false_rollback", [0.01, UNCUT])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("against", "excess"), [(Against.TOLERANCE, TOLERANCE), (Against.RATIO, 0.0)])
def test_excess_that_is_just_accepted_is_seldom_suspected_whatever_the_base_rate_does(
    against: Against, excess: float, sizes: tuple[int, int], false_rollback: float
) -> None:
    courses = _courses(sizes)
    e_values = _e_values(courses, sizes, against, false_rollback=false_rollback)
    assert e_values.max() > 1.5, "something can be found at all"
    for base in (STEADY, DRIFTING, COMMON):
        for canary in (np.add(base, excess), np.multiply(base, 0.2)):
            chances = _chances(courses, sizes, np.stack([base, canary], axis=1))
            assert _is_fair(e_values, chances)
            assert _is_seldom_high(e_values, chances)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("against", [Against.TOLERANCE, Against.RATIO])
def test_flipped_sign_or_a_worse_canary_breaks_it(against: Against, sizes: tuple[int, int]) -> None:
    """What the test above can tell: arms mistaken for each other where the canary is the better one."""
    courses = _courses(sizes)
    better = np.tile([0.9, 0.02], (TICKS, 1))
    chances = _chances(courses, sizes, better)
    right = _e_values(courses, sizes, against, false_rollback=UNCUT)
    flipped = _e_values(courses, sizes, against, false_rollback=UNCUT, flipped=True)
    assert _is_fair(right, chances)
    assert _is_seldom_high(right, chances)
    for e_values, where in ((flipped, chances), (right, _chances(courses, sizes, better[:, ::-1]))):
        assert not _is_fair(e_values, where)
        assert not _is_seldom_high(e_values, where)
