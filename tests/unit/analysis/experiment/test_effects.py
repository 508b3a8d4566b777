"""Effects: right under drift and moving shares, at all looks at once, with and without covariates, over a restart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.errors import StateError
from analysis.experiment.design import Better, Kind, Metric
from analysis.experiment.effects import LEAST_N, Effects
from analysis.experiment.posterior import posterior
from analysis.experiment.tally import Tally
from tests.unit.analysis.experiment.experiments import experiment, moments, rates

RUNS, TICKS = 300, 60


def _held(effects: Effects, truth: float, held: np.ndarray) -> None:
    pairs = effects.pairs(0.05)
    held &= ~(pairs.low[:-1, 0, 1, 0] > truth) & ~(pairs.high[:-1, 0, 1, 0] < truth)


@pytest.mark.parametrize("lift", [0.0, 0.03])
def test_intervals_hold_the_truth_at_all_looks_while_rates_drift_and_shares_move(lift: float) -> None:
    """Simpson's trap: b is met by many while the rate is low."""
    rng, effects, held = np.random.default_rng(3), Effects(experiment(runs=RUNS)), np.ones(RUNS, bool)
    seen = np.zeros((2, 2))
    for tick in range(TICKS):
        b = 0.9 - 0.8 * (tick // 6) / (TICKS // 6)
        base = 0.05 + 0.2 * tick / TICKS
        n = rng.multinomial(150, [1 - b, b], RUNS)
        yes = rng.binomial(n, [base, base + lift])
        effects.update(rates(n, yes), [1 - b, b])
        _held(effects, lift, held)
        seen += np.stack([n.sum(0), yes.sum(0)])
    found = effects.pairs().effect[:-1, 0, 1, 0]
    assert (~held).mean() <= 0.05
    assert found.mean() == pytest.approx(lift, abs=0.003)
    assert np.diff(seen[1] / seen[0])[0] < lift - 0.04  # pooled, the trap would have closed
    assert posterior(effects).against_control()[0][:-1, 0, 1].mean() == pytest.approx(lift, abs=0.003)


def _revenue(effects: Effects, rng: np.random.Generator, *, lift: float, known: float) -> np.ndarray:
    """Whether the truth was always held: revenue of which the past tells the share `known` of the variance."""
    held = np.ones(RUNS, bool)
    for _ in range(TICKS):
        x = rng.exponential(20.0, (RUNS, 100))
        y = np.sqrt(known) * x + np.sqrt(1 - known) * rng.exponential(20.0, x.shape)
        n_a = rng.binomial(100, 0.5, RUNS)
        y += lift * (np.arange(100) >= n_a[:, None])
        effects.update(moments(y, x, n_a), [0.5, 0.5])
        _held(effects, lift, held)
    return held


def test_the_past_narrows_intervals_and_breaks_none() -> None:
    plan = experiment(runs=RUNS, metrics=(Metric(name="revenue", kind=Kind.MEAN),))
    with_past, without = Effects(plan), Effects(plan)
    assert (~_revenue(with_past, np.random.default_rng(5), lift=1.0, known=0.75)).mean() <= 0.05
    _revenue(without, np.random.default_rng(5), lift=1.0, known=0.0)
    pairs, plain = with_past.pairs(), without.pairs()
    width, plain_width = ((p.high - p.low)[:-1, 0, 1, 0].mean() for p in (pairs, plain))
    assert width / plain_width == pytest.approx(np.sqrt(0.25), abs=0.04)
    assert with_past.variance_left[0] == pytest.approx(0.25, abs=0.03)
    assert without.variance_left[0] == pytest.approx(1.0, abs=0.01)
    assert with_past.theta[0] == pytest.approx(np.sqrt(0.75), abs=0.03)
    assert pairs.effect[:-1, 0, 1, 0].mean() == pytest.approx(1.0, abs=0.05)


def test_each_pair_is_the_other_one_turned_round() -> None:
    rng = np.random.default_rng(2)
    effects = Effects(experiment(3, metrics=(Metric(name="conversion", better=Better.UP),)))
    for _ in range(40):
        n = rng.multinomial(300, [1 / 3] * 3, 1)
        effects.update(rates(n, rng.binomial(n, [0.1, 0.3, 0.2])), [1 / 3] * 3)
    pairs = effects.pairs()
    assert pairs.low[0, 0, 1, 0] > 0.15
    assert pairs.high[0, 0, 0, 1] == -pairs.low[0, 0, 1, 0]
    assert pairs.low[0, 0, 2, 1] == -pairs.high[0, 0, 1, 2]
    assert pairs.high[0, 0, 2, 1] < 0
    assert posterior(effects).chance_to_beat()[0, 0].round(3).tolist() == [0.5, 1.0, 1.0]


def test_what_an_allocation_leaves_over_is_left_out_and_never_mixed() -> None:
    effects = Effects(experiment())
    effects.update(rates(np.array([[100, 1]]), np.array([[50, 1]])), [0.99, 0.01])
    assert not effects.people.any()
    effects.update(rates(np.array([[2, 200]]), np.array([[0, 20]])), [0.01, 0.99])
    assert effects.left_out.sum() == 101
    assert effects.people[0, :, 0].tolist() == [2, 200]
    effects.update(rates(np.array([[0, 5]]), np.array([[0, 0]])), [0.01, 0.99])
    effects.update(rates(np.array([[3, 0]]), np.array([[0, 0]])), [0.01, 0.99])  # the same allocation: one stratum
    assert effects.people[0, :, 0].tolist() == [5, 205]


def test_a_withdrawn_variant_keeps_no_stratum_open() -> None:
    effects = Effects(experiment(3))
    effects.update(rates(np.array([[50, 50, 0]]), np.array([[5, 5, 0]])), [0.5, 0.5, 0.0])
    assert effects.people[0, :, 0].tolist() == [50, 50, 0]


def test_nothing_is_said_of_few_people_and_few_events() -> None:
    effects = Effects(experiment())
    n = LEAST_N - 1
    effects.update(rates(np.array([[10 * n, n]]), np.array([[5 * n, 0]])), [0.9, 0.1])
    assert np.isnan(effects.pairs().effect).all()
    assert not effects.highest_log_e.any()
    many = Effects(experiment())
    many.update(rates(np.array([[10_000, 10_000]]), np.array([[1, 4]])), [0.5, 0.5])
    assert np.isnan(many.pairs().effect).all()
    many.update(rates(np.array([[10_000, 10_000]]), np.array([[10, 40]])), [0.5, 0.5])
    assert np.isfinite(many.pairs().effect[0, 0, 1, 0])


def test_outcomes_on_both_sides_of_zero_need_many_people_and_no_events() -> None:
    effects = Effects(experiment(metrics=(Metric(name="change", kind=Kind.MEAN),)))
    rng, some = np.random.default_rng(1), np.array([4_000])
    for is_known in (False, False, True):
        effects.update(moments(rng.normal(0, 1, (1, 8_000)), np.zeros((1, 8_000)), some), [0.5, 0.5])
        assert np.isfinite(effects.pairs().effect[0, 0, 1, 0]) == is_known


@pytest.mark.parametrize("fill", [0.0, np.nan, np.inf])
def test_nothing_and_no_numbers_never_crash(fill: float) -> None:
    plan = experiment(3, runs=2, metrics=(Metric(name="c"), Metric(name="r", kind=Kind.MEAN)))
    effects = Effects(plan)
    for cells in (np.full((2, 3, 2, 6), fill), np.zeros((2, 3, 2, 6))):
        effects.update(Tally(cells, np.zeros((2, 3), np.int64), np.zeros(2, np.int64)), [0.5, 0.25, 0.25])
    assert np.isnan(effects.pairs().effect).all()
    assert not effects.people.any()
    belief = posterior(effects)
    assert (belief.chance_to_beat() == 0.5).all()
    chances = belief.chance_best(0, np.ones((3, 3), bool), np.random.default_rng(0))
    np.testing.assert_allclose(chances, 1 / 3)


def test_a_restart_changes_nothing() -> None:
    rng = np.random.default_rng(8)
    whole, first = Effects(experiment(runs=2)), Effects(experiment(runs=2))
    ticks = [rng.multinomial(9, [0.8, 0.2], 2) for _ in range(40)]
    for tick, n in enumerate(ticks):
        if tick == 20:
            again = Effects(experiment(runs=2))
            again.restore(json.loads(json.dumps(first.state())))
            first = again
        for effects in (whole, first):
            effects.update(rates(n, n // 2), [0.8, 0.2])
    np.testing.assert_array_equal(whole.pairs().low, first.pairs().low)
    np.testing.assert_array_equal(whole.highest_log_e, first.highest_log_e)
    with pytest.raises(StateError, match="damaged"):
        first.restore({**first.state(), "pairs": [1.0]})


def test_totals_replace_what_was_and_the_highest_evidence_stays() -> None:
    effects = Effects(experiment())
    effects.replace(rates(np.array([[1_000, 1_000]]), np.array([[100, 250]])))
    high = effects.highest_log_e[0, 0, 1, 0]
    assert high > np.log(20)
    effects.replace(rates(np.array([[3_000, 3_000]]), np.array([[500, 510]])))
    assert effects.people[0, 0, 0] == 3_000
    assert effects.pairs().log_e[0, 0, 1, 0] < 1 < high == effects.highest_log_e[0, 0, 1, 0]
