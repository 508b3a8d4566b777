"""The capital over event time, and that it does not matter how finely time is cut into ticks."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.evidence.regression import RegressionEvidence
from analysis.evidence.stake import NOW_SHARE, Stake
from analysis.spec import KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec
from analysis.window import BASELINE, CANARY, empty

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


def _course(rng: np.random.Generator, people: tuple[int, int], canary: float) -> tuple[np.ndarray, np.ndarray]:
    """About so many people of every quarter of 40 ticks, (40, PARTS, K, 2), and the bad ones."""
    n = np.broadcast_to(rng.poisson(people, (40, PARTS, 1, 2)), (40, PARTS, 2, 2))
    return n, rng.binomial(n, (0.05, canary))


def _played(n: np.ndarray, bad: np.ndarray, *, step_s: float, elapsed_s: float | None = None) -> np.ndarray:
    """Log e-values after each tick of `step_s`, (ticks, tests), of counts (ticks, K, 2)."""
    evidence, values = RegressionEvidence(SPEC), []
    for tick, (n_now, bad_now) in enumerate(zip(n, bad, strict=True)):
        window = empty(1, 2)
        window.n[0], window.bad[0] = n_now, bad_now
        lasted_s = step_s if elapsed_s is None else elapsed_s
        evidence.update(window, since_exposure_s=(tick + 1) * step_s, elapsed_s=lasted_s)
        values.append(evidence.log_e_values[0, 0])
    return np.array(values)


GROUNDS = RegressionEvidence(SPEC).grounds
PROOF = RegressionEvidence(SPEC).log_thresholds[0, GROUNDS]


def _proven_s(log_e: np.ndarray, step_s: float) -> np.ndarray:
    """When each ground was proven, (grounds,); inf: never."""
    crossed = log_e[:, GROUNDS] >= PROOF
    return np.where(crossed.any(axis=0), (crossed.argmax(axis=0) + 1) * step_s, np.inf)


@pytest.mark.parametrize(("people", "apart"), [((80, 30), 1.2), ((8, 3), 2.0)])
def test_same_people_are_proof_at_about_the_same_time_in_ticks_of_any_length(
    people: tuple[int, int], apart: float
) -> None:
    """Never sooner in finer ticks; later where few people come, as then each of them is above the ceiling."""
    whole, cut = [], []
    for seed in range(5):
        n, bad = _course(np.random.default_rng(seed), people, 0.5)
        whole.append(_proven_s(_played(n.sum(axis=1), bad.sum(axis=1), step_s=INTERVAL_S), INTERVAL_S))
        each = INTERVAL_S / PARTS
        cut.append(_proven_s(_played(n.reshape(-1, 2, 2), bad.reshape(-1, 2, 2), step_s=each), each))
    ratio = np.median(cut, axis=0) / np.median(whole, axis=0)
    assert np.isfinite(whole).all()
    assert ((ratio >= 1 / 1.2) & (ratio <= apart)).all()


def test_a_burst_is_cut_off_by_event_time_and_not_by_the_number_of_ticks() -> None:
    """Everybody on the canary is hit: the evidence grows at its ceiling, which four ticks share that one would have."""
    n = np.full((12, PARTS, 2, 2), 200)
    bad = n * np.eye(2, dtype=int)[CANARY]
    whole = _played(n.sum(axis=1), bad.sum(axis=1), step_s=INTERVAL_S)
    parts = (n.reshape(-1, 2, 2), bad.reshape(-1, 2, 2))
    cut = _played(*parts, step_s=INTERVAL_S / PARTS)
    np.testing.assert_allclose(cut[PARTS - 1 :: PARTS][:, GROUNDS], whole[:, GROUNDS], atol=0.05)
    assert (np.diff(whole[:, GROUNDS], axis=0).max(axis=0) <= PROOF / np.array([4, 12, 4]) + 0.01).all()
    unaware = _played(*parts, step_s=INTERVAL_S / PARTS, elapsed_s=INTERVAL_S)
    assert (_proven_s(unaware, INTERVAL_S / PARTS) <= _proven_s(cut, INTERVAL_S / PARTS) / 2).all(), "what it is for"


def test_without_time_there_is_no_evidence_against_the_canary_but_some_for_it() -> None:
    """A clock that stands still must not add up bursts; nobody is bad on either arm: that counts."""
    n = np.full((3, 2, 2), 200)
    bad = n * np.eye(2, dtype=int)[CANARY]
    assert _played(n, bad, step_s=INTERVAL_S, elapsed_s=0.0).max() <= 0.0
    better = n * np.eye(2, dtype=int)[BASELINE]
    assert _played(n, better, step_s=INTERVAL_S, elapsed_s=0.0)[-1].max() < np.log(NOW_SHARE)
