"""The bank of trends: as statsmodels' filter says, weighted by what it foretells."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.forecast.crossing import p_crossing
from analysis.forecast.trend import LOAD, MODELS, TrendBank

DT = 1 / 180
SLOW = 1


def _observed(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    var = rng.uniform(0.05, 0.5, n)
    y = np.linspace(0, 0.6, n) + rng.normal(size=n) * np.sqrt(var)
    return np.where(rng.random(n) < 0.2, np.nan, y), var


def _bank(y: np.ndarray, var: np.ndarray, split: float = 0.05) -> TrendBank:
    bank = TrendBank((1,))
    bank.begun[:] = True
    for one, noise in zip(y, var, strict=True):
        seen = np.array([np.isfinite(one)])
        bank.update(np.array([one]), np.array([noise]), seen, split=np.array([split]), dt=DT)
    return bank


def test_filter_is_statsmodels_filter() -> None:
    """Level, slope and their covariance are those of statsmodels' exact filter of the same model, gaps and all."""
    from statsmodels.tsa.statespace.mlemodel import MLEModel

    y, var = _observed(1)
    model = MODELS[SLOW]
    reference = MLEModel(y, k_states=2, k_posdef=2)
    reference["design"] = np.array([[1.0, 0.0]])
    reference["transition"] = np.array([[1.0, DT], [0.0, 1.0]])
    reference["selection"] = np.eye(2)
    q_level, q_slope = model.level_step**2, model.slope_step**2
    reference["state_cov"] = np.array(
        [[q_level * DT + q_slope * DT**3 / 3, q_slope * DT**2 / 2], [q_slope * DT**2 / 2, q_slope * DT]]
    )
    reference["obs_cov"] = var[None, None, :]
    first = np.array([[1.0, DT], [0.0, 1.0]])
    prior = first @ np.diag([model.level**2, model.slope**2]) @ first.T + reference["state_cov"]
    reference.ssm.initialize_known(np.zeros(2), prior)
    filtered = reference.ssm.filter()
    bank = _bank(y, var)
    assert bank.mean[0, SLOW] == pytest.approx(filtered.filtered_state[:, -1], abs=1e-6)
    p = filtered.filtered_state_cov[:, :, -1]
    assert bank.cov[0, SLOW] == pytest.approx([p[0, 0], p[0, 1], p[1, 1]], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_chance_to_cross_is_that_of_simulated_lines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    level, slope, limit = rng.normal(0.3, 0.2), rng.normal(0.4, 0.3), 0.8
    cov = np.array([[0.04, 0.01], [0.01, 0.09]]) * rng.uniform(0.5, 2)
    lines = rng.multivariate_normal([level, slope], cov, 200_000)
    crosses = (lines[:, 0] > limit) | (lines.sum(axis=1) > limit)
    end_var = cov.sum()
    arrays = (np.array([x]) for x in (level, cov[0, 0], level + slope, end_var, cov[0].sum(), limit))
    assert p_crossing(*arrays)[0] == pytest.approx(crosses.mean(), abs=0.01)


def test_creep_is_told_from_a_step_and_load_from_both() -> None:
    rng, n = np.random.default_rng(5), 400
    var = np.full(n, 0.02)
    noise = rng.normal(size=n) * np.sqrt(var)
    creep, step = _bank(np.linspace(0, 1.5, n) + noise, var), _bank(np.full(n, 0.5) + noise, var)
    assert creep.weight[0, 0] < 0.05
    assert step.weight[0].argmax() == 0
    bank, splits = TrendBank((1,)), np.repeat([0.05, 0.1, 0.4, 0.1, 0.6], n // 5)
    for split, error in zip(splits, noise, strict=True):
        bank.update(np.array([split + error]), np.array([0.02]), np.array([True]), split=np.array([split]), dt=DT)
    assert bank.weight[0].argmax() == LOAD
    assert bank.mean[0, LOAD, 1] == pytest.approx(1.0, abs=0.15)


def test_time_alone_widens_and_moves_nothing_before_the_first_observation() -> None:
    bank = TrendBank((1,))
    nobody = np.array([False])
    before = bank.cov.copy()
    bank.update(np.array([np.nan]), np.array([np.nan]), nobody, split=np.array([0.0]), dt=1.0)
    assert (bank.cov == before).all()
    bank = _bank(*_observed(2))
    before = bank.cov.copy()
    bank.update(np.array([np.nan]), np.array([np.nan]), nobody, split=np.array([0.0]), dt=1.0)
    assert (bank.cov[..., 0] > before[..., 0]).all()
    assert np.isfinite(bank.mean).all()


def test_state_is_restored_exactly_and_damage_is_refused() -> None:
    bank, again = _bank(*_observed(3)), TrendBank((1,))
    state = json.loads(json.dumps(bank.state()))
    again.restore(state)
    assert json.dumps(again.state()) == json.dumps(bank.state())
    with pytest.raises(ValueError, match="damaged"):
        again.restore({**state, "mean": [[[float("nan")] * 2] * len(MODELS)]})
