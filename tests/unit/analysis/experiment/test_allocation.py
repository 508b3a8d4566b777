"""Shares follow results, within floors and caps; and intervals hold although they do."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.experiment.allocation import next_shares, regret, top_two
from analysis.experiment.design import Allocation, Better, Metric
from analysis.experiment.effects import Effects
from analysis.experiment.posterior import posterior
from tests.unit.analysis.experiment.experiments import experiment, rates

FREE = np.ones((1, 3))


def _after(rate: list[float], allocation: Allocation, better: Better = Better.UP) -> Effects:
    effects = Effects(experiment(3, allocation=allocation, metrics=(Metric(name="c", better=better),)))
    n = np.full((1, 3), 600)
    effects.update(rates(n, np.round(n * rate)), [1 / 3] * 3)
    return effects


def _shares(effects: Effects, withdrawn: tuple[bool, ...] = (False,) * 3, caps: np.ndarray = FREE) -> list[int]:
    rng = np.random.default_rng(1)
    given = np.array([withdrawn])
    found = next_shares(effects.experiment, posterior(effects), given, caps, rng)
    assert found.sum() == 10_000
    assert given[0].tolist() == list(withdrawn)
    return found[0].tolist()


@pytest.mark.parametrize("better", list(Better))
def test_the_likely_best_gets_most_and_everybody_the_floor(better: Better) -> None:
    shares = _shares(_after([0.1, 0.3, 0.1] if better is Better.UP else [0.3, 0.1, 0.3], Allocation.THOMPSON, better))
    np.testing.assert_allclose(shares, [500, 9_000, 500], atol=5)


def test_who_seeks_the_best_arm_spends_half_on_the_rival() -> None:
    shares = _shares(_after([0.3, 0.3, 0.1], Allocation.BEST_ARM))
    assert shares[2] == pytest.approx(500, abs=5)
    assert abs(shares[0] - shares[1]) < 500
    assert _shares(_after([0.1, 0.3, 0.1], Allocation.BEST_ARM))[1] == pytest.approx(4_750, abs=5)


def test_fixed_shares_move_only_by_withdrawals_and_caps() -> None:
    effects = _after([0.1, 0.3, 0.1], Allocation.FIXED)
    assert _shares(effects) == [3_334, 3_333, 3_333]
    assert _shares(effects, (False, False, True)) == [5_000, 5_000, 0]
    assert _shares(effects, caps=np.array([[0.0, 0.02, 0.1]])) == [8_800, 200, 1_000]


def test_caps_outrank_every_policy_and_what_they_take_goes_to_the_control() -> None:
    effects = _after([0.1, 0.3, 0.1], Allocation.THOMPSON)
    assert _shares(effects, caps=np.array([[1.0, 0.12345, 0.01]])) == [10_000 - 1_234 - 100, 1_234, 100]
    assert _shares(effects, caps=np.array([[1.0, np.nan, 1.0]]))[1] == 0  # not known to be allowed
    assert _shares(effects, (True, True, True)) == [10_000, 0, 0]  # the control is never withdrawn
    assert _shares(effects, (False, True, False))[1] == 0


def test_nothing_known_is_shared_equally() -> None:
    assert max(_shares(Effects(experiment(3, allocation=Allocation.THOMPSON)))) <= 3_334


def test_top_two_is_what_sampling_twice_gives() -> None:
    chances = np.array([0.5, 0.3, 0.2])
    rng = np.random.default_rng(3)
    drawn = np.zeros(3)
    for _ in range(20_000):
        first = rng.choice(3, p=chances)
        second = first
        while second == first:
            second = rng.choice(3, p=chances)
        drawn[first if rng.random() < 0.5 else second] += 1
    np.testing.assert_allclose(top_two(chances), drawn / drawn.sum(), atol=0.015)
    np.testing.assert_allclose(top_two(np.array([1.0, 0.0])), [1.0, 0.0])


def test_regret_is_what_the_worse_variants_people_missed() -> None:
    own, equal = regret(np.array([90.0, 10.0]), np.array([0.12, 0.10]), 1.0)
    assert (own, equal) == (pytest.approx(0.2), pytest.approx(1.0))
    own, _ = regret(np.array([90.0, 10.0]), np.array([0.12, 0.10]), -1.0)
    assert own == pytest.approx(1.8)


@pytest.mark.parametrize("allocation", [Allocation.THOMPSON, Allocation.BEST_ARM])
def test_intervals_hold_and_estimates_are_right_while_shares_follow_results_and_rates_drift(
    allocation: Allocation,
) -> None:
    runs, rng = 200, np.random.default_rng(6)
    plan = experiment(runs=runs, allocation=allocation)
    effects, held = Effects(plan), np.ones(runs, bool)
    shares, people = np.full((runs, 2), 0.5), np.zeros((runs, 2))
    for tick in range(40):
        base = 0.10 + 0.2 * tick / 40
        n = np.array([rng.multinomial(250, row) for row in shares])
        effects.update(rates(n, rng.binomial(n, [base, base + 0.04])), shares)
        people += n
        pairs = effects.pairs(0.05)
        held &= ~(pairs.low[:-1, 0, 1, 0] > 0.04) & ~(pairs.high[:-1, 0, 1, 0] < 0.04)
        if tick % 4 == 3:
            withdrawn, caps = np.zeros((runs, 2), bool), np.ones((runs, 2))
            shares = next_shares(plan, posterior(effects), withdrawn, caps, rng) / 10_000
    assert (~held).mean() <= 0.05
    assert effects.pairs().effect[:-1, 0, 1, 0].mean() == pytest.approx(0.04, abs=0.004)
    share_of_best = people[:, 1].mean() / people.sum(axis=1).mean()
    assert (
        share_of_best > 0.8 if allocation is Allocation.THOMPSON else 0.47 < share_of_best < 0.53
    )  # of two, the rival is the other
