"""The capital over event time, and that it does not matter how finely time is cut into ticks."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.evidence.regression import BURST_TICKS, PROOF_TICKS, RegressionEvidence
from analysis.evidence.stake import NOW_SHARE, Stake
from analysis.spec import KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec
from analysis.window import BASELINE, CANARY
from tests.unit.analysis.rows import stacked_window

INTERVAL_S, PARTS = 10.0, 4
SPEC = ServiceSpec(
    name="shop", baseline="v1", versions=("v1", "v2"), segments=(SegmentSpec(name="default"),),
    kpis=(
        KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=4, tolerance=0.02, limit=0.2),
        KpiSpec(kind=KpiKind.LATENCY, judge_after_s=4, tolerance=0.05),
    ),
    rollout=RolloutSpec(interval_s=INTERVAL_S),
)  # fmt: skip


@pytest.mark.parametrize("step_s", [2.5, 10.0, 3_600.0])
def test_what_falls_due_adds_up_to_the_same_however_time_is_cut(step_s: float) -> None:
    fine, whole = Stake(), Stake()
    for until_s in (3_600.0, 86_400.0):
        steps = np.arange(whole.spent[0] > 0 and 3_600.0, until_s, step_s) + step_s
        due = sum(float(fine.due(since_s)[0]) for since_s in steps)
        assert due == pytest.approx(float(whole.due(until_s)[0]), abs=1e-12)
    assert NOW_SHARE < fine.spent[0] < 1


def test_capital_is_never_overspent_whatever_the_clock_does() -> None:
    stake, rng = Stake(50), np.random.default_rng(1)
    total = np.zeros(50)
    for _ in range(200):
        due = stake.due(rng.choice([-1.0, 1.0], 50, p=[0.1, 0.9]) * 10 ** rng.uniform(-3, 15, 50))
        assert (due >= 0).all()
        total += due
        assert (total <= 1 + 1e-12).all()
    np.testing.assert_allclose(total, stake.spent)
    assert (total > 0.99).all(), "in the end nearly all of it is at work"


def test_first_exposure_stakes_a_half_at_once_and_late_changes_find_a_stake_of_their_own() -> None:
    stake = Stake()
    assert stake.due(0.0)[0] == NOW_SHARE
    stake.due(12 * 3_600.0)
    assert stake.due(13 * 3_600.0)[0] > 0.005


def _courses(people: tuple[int, int], canary: float, *, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """About so many people of every quarter of 40 ticks, (40, PARTS, runs, K, 2), and the bad ones."""
    rng, shape = np.random.default_rng(1), (40, PARTS, runs)
    n = np.broadcast_to(rng.poisson(people, (*shape, 1, 2)), (*shape, 2, 2))
    return n, rng.binomial(n, (0.05, canary))


def _played(n: np.ndarray, bad: np.ndarray, *, parts: int, elapsed_s: float | None = None) -> np.ndarray:
    """Log e-values after each tick, (ticks, runs, tests), of counts (40, PARTS, runs, K, 2) in so many parts."""
    runs, step_s = n.shape[2], INTERVAL_S / parts
    evidence, values = RegressionEvidence(SPEC, runs), []
    ticks = (x.reshape(-1, PARTS // parts, runs, 2, 2).sum(axis=1) for x in (n, bad))
    for tick, (n_now, bad_now) in enumerate(zip(*ticks, strict=True)):
        window = stacked_window(runs, 1, 2)
        window.n[:, 0], window.bad[:, 0] = n_now, bad_now
        lasted_s = step_s if elapsed_s is None else elapsed_s
        evidence.update(window, since_exposure_s=(tick + 1) * step_s, elapsed_s=lasted_s)
        values.append(evidence.log_e_values[:, 0])
    return np.array(values)


GROUNDS = RegressionEvidence(SPEC).grounds
PROOF = RegressionEvidence(SPEC).log_thresholds[0, GROUNDS]


def _proven_s(log_e: np.ndarray, parts: int) -> np.ndarray:
    """When each ground was proven, (runs, grounds); inf: never."""
    crossed = log_e[..., GROUNDS] >= PROOF
    return np.where(crossed.any(axis=0), (crossed.argmax(axis=0) + 1) * INTERVAL_S / parts, np.inf)


@pytest.mark.parametrize(("people", "apart"), [((80, 30), 1.2), ((8, 3), 2.0)])
def test_same_people_are_proof_at_about_the_same_time_in_ticks_of_any_length(
    people: tuple[int, int], apart: float
) -> None:
    """Never sooner by more than a look; later where few people come, as then one of them is above the ceiling."""
    counts = _courses(people, 0.5, runs=20)
    whole, cut = (np.median(_proven_s(_played(*counts, parts=parts), parts), axis=0) for parts in (1, PARTS))
    assert np.isfinite(whole).all()
    assert (cut >= whole - INTERVAL_S).all(), "it may be told within an interval, and not at its end"
    assert (cut <= whole * apart).all()


def test_a_burst_is_cut_off_by_event_time_and_not_by_the_number_of_ticks() -> None:
    """Everybody on the canary is hit: the evidence grows at its ceiling, which four ticks share that one would have."""
    n, bad = _struck(12)
    whole, cut = (_played(n, bad, parts=parts) for parts in (1, PARTS))
    np.testing.assert_allclose(cut[PARTS - 1 :: PARTS][..., GROUNDS], whole[..., GROUNDS], atol=0.05)
    least = np.array([PROOF_TICKS, BURST_TICKS[KpiKind.LATENCY], PROOF_TICKS])
    assert (_proven_s(whole, 1) >= least * INTERVAL_S).all()
    assert (np.diff(whole[..., GROUNDS], axis=0).max(axis=0) <= (PROOF - np.log(NOW_SHARE)) / least + 0.01).all()
    unaware = _played(n, bad, parts=PARTS, elapsed_s=INTERVAL_S)
    assert (_proven_s(unaware, PARTS) <= _proven_s(cut, PARTS) / 2).all(), "what it is for"


def _struck(ticks: int, arm: int = CANARY) -> tuple[np.ndarray, np.ndarray]:
    """Everybody on one arm is bad, nobody on the other."""
    n = np.full((ticks, PARTS, 1, 2, 2), 200)
    return n, n * np.eye(2, dtype=int)[arm]


def test_without_time_there_is_no_evidence_against_the_canary_but_some_for_it() -> None:
    """A clock that stands still must not add up bursts."""
    assert _played(*_struck(3), parts=1, elapsed_s=0.0).max() <= 0.0
    assert _played(*_struck(3, BASELINE), parts=1, elapsed_s=0.0)[-1].max() < np.log(NOW_SHARE)
