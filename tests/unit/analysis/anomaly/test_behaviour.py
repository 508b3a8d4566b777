"""Behaviour: conformal p-values are uniform on usual sessions and small on odd ones."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import kstest

from analysis.anomaly.behaviour import TRAIN_N, Behaviour, BehaviourModel
from analysis.columns import PATH_STEPS, SESSION_DTYPE
from analysis.profile.clickpath import ClickPaths


def _rows(*behaviours: Behaviour) -> npt.NDArray[np.void]:
    """Sessions that did just that, at an even pace."""
    rows = np.zeros(len(behaviours), SESSION_DTYPE)
    for row, behaviour in zip(rows, behaviours, strict=True):
        path = behaviour.path[:PATH_STEPS]
        row["n_path"] = len(path)
        row["path"][: len(path)] = path
        row["path_ds"][: len(path)] = np.linspace(0, behaviour.duration_s * 10, len(path))
    return rows


def _usual(rng: np.random.Generator) -> Behaviour:
    steps = int(rng.integers(2, 7))
    return Behaviour(path=tuple(range(steps)), duration_s=float(rng.gamma(4, 0.2 * steps)))


def _fitted(n: int = 800, seed: int = 1) -> BehaviourModel:
    rng = np.random.default_rng(seed)
    model = BehaviourModel(2, age_s=600.0)
    model.learn(0, _rows(*(_usual(rng) for _ in range(n))), ())
    model.fit()
    return model


def test_p_values_of_held_out_usual_sessions_are_uniform() -> None:
    rng = np.random.default_rng(2)
    p = _fitted().p_values(0, _rows(*(_usual(rng) for _ in range(600))), ())
    assert ((p > 0) & (p <= 1)).all()
    assert kstest(p, "uniform").pvalue > 0.001
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.035)


@pytest.mark.parametrize(
    "odd",
    [
        Behaviour(path=(0, 1) * 20, duration_s=3.0),  # back and forth
        Behaviour(path=(5, 3, 1, 4, 0, 2), duration_s=3.0),  # no usual order
        Behaviour(path=(0, 1, 2), duration_s=300.0),
        Behaviour(path=(0,) + (1,) * 30, duration_s=10.0),  # clicks that lead nowhere
    ],
)
def test_odd_session_has_a_small_p_value(odd: Behaviour) -> None:
    assert _fitted().p_values(0, _rows(odd), ())[0] < 0.05


def test_nothing_is_scored_before_enough_is_known() -> None:
    model = _fitted(TRAIN_N - 1)
    assert not model.is_fitted(0)
    assert np.isnan(model.p_values(0, _rows(Behaviour(path=(1,), duration_s=1)), ())).all()
    assert np.isnan(model.p_values(1, _rows(Behaviour(path=(1,), duration_s=1)), ())).all()
    assert len(_fitted().p_values(0, _rows(), ())) == 0


def test_fitted_model_learns_no_more() -> None:
    model = _fitted()
    model.learn(0, _rows(Behaviour(path=(9,) * 9, duration_s=1.0)), ())
    assert len(model.state()[0]) == 800


def test_state_gives_the_same_scores() -> None:
    model, again = _fitted(), BehaviourModel(2, age_s=600.0)
    again.restore(json.loads(json.dumps(model.state())))
    rng = np.random.default_rng(3)
    sessions = _rows(*(_usual(rng) for _ in range(50)))
    np.testing.assert_array_equal(model.p_values(0, sessions, ()), again.p_values(0, sessions, ()))


def test_all_sessions_alike_break_nothing() -> None:
    model = BehaviourModel(1, age_s=600.0)
    same = Behaviour(path=(1,), duration_s=0.0)
    model.learn(0, _rows(*[same] * TRAIN_N), ())
    model.fit()
    assert model.p_values(0, _rows(same), ())[0] == 1.0
    assert model.p_values(0, _rows(Behaviour(path=(), duration_s=0.0)), ())[0] < 0.1


def test_behaviour_ends_at_the_age() -> None:
    session = _rows(Behaviour(path=(1, 60_000, 3, 5), duration_s=0.0))[0]
    session["path_ds"][:4] = (0, 20, 80, 190)
    assert Behaviour.of(session, 10.0) == Behaviour(path=(1, 127, 3), duration_s=8.0)


def test_unseen_transitions_are_surprising_and_never_impossible() -> None:
    chain = ClickPaths(128)
    chain.learn([(0, 1, 2)] * 100)
    assert chain.surprise(()) == 0.0
    assert chain.surprise((0, 1, 2)) < chain.surprise((0, 2, 1)) < np.inf
    assert np.isfinite(chain.surprise((127, 127)))
