"""Effects as people read them: right under drift and moving splits, at all times at once, kept over a restart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.evidence.effect import RISK, Effects


def _play(effects: Effects, rng: np.random.Generator, ticks: int, excess: float, runs: int) -> np.ndarray:
    """Whether each run's interval has always held the truth, while the base rate and the split go together."""
    held = np.ones(runs, bool)
    for tick in range(ticks):
        base = 0.05 + 0.2 * tick / ticks
        split = 0.9 - 0.8 * tick / ticks  # Simpson's trap: the canary's people come when the base rate is low
        n_c = rng.binomial(60, split, runs)
        n = np.stack([60 - n_c, n_c], axis=-1)
        bad = rng.binomial(n, [base, base + excess])
        effects.update(n.astype(float), bad.astype(float))
        for run in range(runs):
            _, lower, upper = effects.interval((run,))
            held[run] &= not lower > excess and not upper < excess
    return held


@pytest.mark.parametrize("excess", [0.0, 0.04])
def test_intervals_hold_the_truth_at_all_times_at_once_though_rates_drift_and_splits_move(excess: float) -> None:
    runs = 120
    effects = Effects((runs,))
    held = _play(effects, np.random.default_rng(3), 120, excess, runs)
    assert (~held).mean() <= RISK + 2.6 * np.sqrt(RISK * (1 - RISK) / runs)
    found = np.array([effects.interval((run,)) for run in range(runs)])
    assert found[:, 0].mean() == pytest.approx(excess, abs=0.005)
    assert (found[:, 2] - found[:, 1]).max() < 0.12


def test_pooled_rates_would_have_been_trapped() -> None:
    """The trap is one: without strata the difference is far off."""
    rng, n_all, bad_all = np.random.default_rng(3), np.zeros(2), np.zeros(2)
    for tick in range(120):
        n_c = rng.binomial(60, 0.9 - 0.8 * tick / 120)
        n = np.array([60 - n_c, n_c])
        n_all += n
        bad_all += rng.binomial(n, 0.05 + 0.2 * tick / 120)
    rates = bad_all / n_all
    assert rates[1] - rates[0] < -0.03


def test_nobody_is_no_difference_and_one_arm_waits_for_the_other() -> None:
    effects = Effects((1,))
    assert np.isnan(effects.interval((0,))).all()
    effects.update(np.array([[0.0, 30.0]]), np.array([[0.0, 3.0]]))
    assert np.isnan(effects.interval((0,))).all()
    effects.update(np.array([[30.0, 0.0]]), np.array([[0.0, 0.0]]))
    effect, lower, upper = effects.interval((0,))
    assert effect == pytest.approx(0.1)
    assert -1 <= lower < effect < upper <= 1


def test_restart_from_state_equals_an_uninterrupted_run() -> None:
    rng, effects, again = np.random.default_rng(1), Effects((1, 2)), Effects((1, 2))
    for _ in range(5):
        n = rng.integers(0, 3, (1, 2, 2)).astype(float)
        effects.update(n, np.minimum(n, 1.0))
        again.restore(json.loads(json.dumps(effects.state())))
        assert again.interval((0, 1)) == pytest.approx(effects.interval((0, 1)), nan_ok=True)
