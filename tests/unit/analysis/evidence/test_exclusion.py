"""What recent data exclude: U is never below the true excess more often than the risk says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.evidence.base_rate import BaseRate
from analysis.evidence.exclusion import GRID, ExcessExclusion

BASE = 0.1


def _tick(
    rng: np.random.Generator, runs: int, *, people: int, split: float, excess: float
) -> tuple[np.ndarray, np.ndarray]:
    n_c = rng.binomial(people, split, runs)
    n = np.stack([people - n_c, n_c], axis=1)
    bad = np.stack([rng.binomial(people - n_c, BASE), rng.binomial(n_c, BASE + excess)], axis=1)
    return n, bad


@pytest.mark.parametrize("excess", [0.03, 0.1, 0.4])
def test_u_hardly_ever_lies_below_a_steady_excess(excess: float) -> None:
    """Coverage over an epoch, looking at every tick, with every stream's share of the risk."""
    runs, risk = 150, 30.0  # risk/runs a stream: 20 % each, so that the count tells something
    exclusion = ExcessExclusion(runs, risk=risk, epoch_s=1000)
    rng = np.random.default_rng(7)
    wrong = np.zeros(runs, bool)
    for tick in range(80):
        n, bad = _tick(rng, runs, people=40, split=0.3, excess=excess)
        exclusion.update(n, bad, np.full(runs, BASE), at_s=tick)
        wrong |= exclusion.worst[0] < excess - 1e-12
    assert wrong.mean() <= risk / runs + 2.6 * np.sqrt(0.2 * 0.8 / runs)


def test_good_canary_is_told_apart_from_ever_smaller_excesses() -> None:
    exclusion = ExcessExclusion(1, risk=0.025, epoch_s=1000)
    rng = np.random.default_rng(8)
    worst = []
    for tick in range(150):
        exclusion.update(*_tick(rng, 1, people=60, split=0.4, excess=0.0), np.array([BASE]), at_s=tick)
        worst.append(float(exclusion.worst[0, 0]))
    assert worst[0] > 0.05
    assert worst[20] <= 0.2
    assert worst[149] <= 0.08


def test_without_data_anything_is_possible() -> None:
    exclusion = ExcessExclusion(2, risk=0.025, epoch_s=60)
    exclusion.update(np.zeros((2, 2)), np.zeros((2, 2)), np.array([0.0, 0.5]), at_s=1)
    assert exclusion.worst.tolist() == [[1.0, 1.0]]
    assert exclusion.sessions_needed(0, 0, 0.2, 0.1, 0.0) == np.inf
    assert exclusion.sessions_needed(0, 0, 0.2, 0.1, 1.0) == np.inf


def test_canary_alone_excludes_nothing() -> None:
    """However good it looks: without a baseline there is nothing to be worse than."""
    exclusion = ExcessExclusion(1, risk=0.025, epoch_s=1000)
    exclusion.update([[0, 10_000]], [[0, 0]], np.array([BASE]), at_s=1)
    assert exclusion.worst[0, 0] == 1.0


def test_late_fault_is_believed_again_within_two_epochs() -> None:
    exclusion = ExcessExclusion(1, risk=0.025, epoch_s=60)
    rng = np.random.default_rng(9)
    for tick in range(300):
        excess = 0.0 if tick < 150 else 0.5
        exclusion.update(*_tick(rng, 1, people=60, split=0.4, excess=excess), np.array([BASE]), at_s=tick)
        if tick == 149:
            assert exclusion.worst[0, 0] <= 0.1
    assert exclusion.worst[0, 0] > 0.4


def test_sessions_needed_shrink_as_sessions_come_and_are_about_right() -> None:
    exclusion = ExcessExclusion(1, risk=0.025, epoch_s=10_000)
    rng = np.random.default_rng(10)
    promised = exclusion.sessions_needed(0, 0, 0.1, BASE, 0.4)
    ticks = 0
    while exclusion.worst[0, 0] > 0.1:
        exclusion.update(*_tick(rng, 1, people=60, split=0.4, excess=0.0), np.array([BASE]), at_s=ticks)
        ticks += 1
        assert ticks < 200
    assert promised / 3 <= ticks * 60 <= promised * 3
    assert exclusion.sessions_needed(0, 0, 0.1, BASE, 0.4) == 0


def test_base_rate_near_one_breaks_nothing() -> None:
    exclusion = ExcessExclusion(1, risk=0.025, epoch_s=1000)
    for tick in range(30):
        exclusion.update([[50, 50]], [[50, 50]], np.array([0.999]), at_s=tick)
    assert 0 < exclusion.worst[0, 0] <= 1
    assert np.isfinite(exclusion._older).all()


def test_state_goes_through_json() -> None:
    whole, first = (ExcessExclusion(1, risk=0.025, epoch_s=20) for _ in range(2))
    rng = np.random.default_rng(11)
    for tick in range(60):
        n, bad = _tick(rng, 1, people=40, split=0.3, excess=0.0)
        whole.update(n, bad, np.array([BASE]), at_s=tick)
        again = ExcessExclusion(1, risk=0.025, epoch_s=20)
        again.restore(json.loads(json.dumps(first.state())))
        first = again
        first.update(n, bad, np.array([BASE]), at_s=tick)
        assert first.worst == whole.worst


def test_grid_rises_to_nearly_one() -> None:
    assert (np.diff(GRID) > 0).all()
    assert 0 < GRID[0] <= 0.002
    assert GRID[-1] < 1


def test_base_rate_follows_the_day_and_starts_at_its_prior() -> None:
    base = BaseRate((1,))
    assert base.value[0] == pytest.approx(0.05)
    for _ in range(100):
        base.learn([500], [5])
    assert base.value[0] == pytest.approx(0.01, rel=0.02)
    for _ in range(30):
        base.learn([500], [100])
    assert base.value[0] > 0.15


def test_sessions_needed_of_many_rows_are_those_of_each() -> None:
    exclusion = ExcessExclusion(3, risk=0.025, epoch_s=10_000)
    rng = np.random.default_rng(11)
    for tick in range(20):
        exclusion.update(*_tick(rng, 3, people=60, split=0.4, excess=0.0), np.full(3, BASE), at_s=tick)
    rows, excess, base, share = [0, 2, 1], [0.01, 0.3, 0.01], [0.05, 0.2, 0.5], [0.1, 0.4, 0.0]
    together = exclusion.sessions_needed(0, rows, excess, base, share)
    for each, needed in zip(zip(rows, excess, base, share, strict=True), together.tolist(), strict=True):
        assert needed == pytest.approx(float(exclusion.sessions_needed(0, *each)), rel=1e-9)
    assert together[0] > 0
    assert together[1] == 0.0, "it is excluded"
    assert together[2] == np.inf
