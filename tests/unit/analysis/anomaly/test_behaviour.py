"""Behaviour: conformal p-values are uniform on usual sessions and small on odd ones, and say what is odd."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import kstest

from analysis.anomaly.behaviour import TRAIN_N, UNUSUAL, BehaviourModel
from analysis.errors import StateError
from tests.unit.analysis.visits import BUY, CART, DONE, HOME, ITEM, LABELS, SEARCH, WAY, rows, usual

AGE_S = 60.0


def _fitted(n: int = 800, seed: int = 1) -> BehaviourModel:
    model = BehaviourModel(2, age_s=AGE_S)
    model.learn(0, usual(n, np.random.default_rng(seed)), LABELS)
    model.fit(np.random.default_rng(seed))
    return model


def test_p_values_of_held_out_usual_sessions_are_uniform() -> None:
    p = _fitted(2_000).p_values(0, usual(2_000, np.random.default_rng(2)), LABELS)
    assert ((p > 0) & (p <= 1)).all()
    assert kstest(p, "uniform").statistic < 0.08
    assert (p < UNUSUAL).mean() == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(
    ("odd", "driver"),
    [
        (rows(((CART, BUY) * 8, 1.0)), "most repeats|same steps again|clicks|page /cart|click buy"),  # back and forth
        (rows(((DONE, CART, HOME, BUY, ITEM, SEARCH), 2.0)), "→"),  # no usual order
        (rows(((HOME, SEARCH, ITEM, CART), 18.0)), "seconds"),
        (rows(((HOME, *[BUY] * 20), 1.0)), "clicks|same steps again"),  # clicks that lead nowhere
    ],
)
def test_odd_session_has_a_small_p_value_and_says_why(odd: npt.NDArray[np.void], driver: str) -> None:
    model = _fitted()
    assert model.p_values(0, odd, LABELS)[0] < UNUSUAL
    drivers = model.drivers(0, odd, LABELS)[0]
    assert 1 <= len(drivers) <= 3
    assert any(part in drivers[0].name for part in driver.split("|")), [str(driver) for driver in drivers]
    assert [driver.weight for driver in drivers] == sorted((driver.weight for driver in drivers), reverse=True)


def test_labels_count_by_their_text_not_by_their_index() -> None:
    model, sessions = _fitted(), usual(50, np.random.default_rng(5))
    shuffled = ("other", *LABELS[:0:-1])
    renumbered = sessions.copy()
    renumbered["path"] = np.array([shuffled.index(label) for label in LABELS])[sessions["path"]]
    np.testing.assert_array_equal(model.p_values(0, sessions, LABELS), model.p_values(0, renumbered, shuffled))


def test_a_session_is_judged_by_what_it_had_done_at_the_age() -> None:
    model = _fitted()
    early, later = rows((WAY, 9.0)), rows(((*WAY, *[CART, BUY] * 10), 9.0))
    assert early["path_ds"][0, len(WAY)] == 0
    later["path_ds"][0, len(WAY) :] = AGE_S * 10 + 1
    np.testing.assert_array_equal(model.p_values(0, early, LABELS), model.p_values(0, later, LABELS))


def test_nothing_is_scored_before_enough_is_known() -> None:
    model = _fitted(TRAIN_N - 1)
    assert not model.is_fitted(0)
    assert np.isnan(model.p_values(0, rows((WAY, 1.0)), LABELS)).all()
    assert model.drivers(1, rows((WAY, 1.0)), LABELS) == ((),)
    assert len(_fitted().p_values(0, rows(), LABELS)) == 0


def test_bots_and_what_is_odd_teach_nothing() -> None:
    model, rng = _fitted(), np.random.default_rng(4)
    bots = usual(500, rng)
    bots["bot"] = True
    model.learn(0, bots, LABELS)
    assert not model.retrain(0, rng)
    model.learn(0, rows(*[((DONE, CART, HOME, BUY, ITEM, SEARCH) * 4, 2.0)] * 500), LABELS)
    assert not model.retrain(0, rng)


def test_a_profile_trained_anew_learns_only_from_what_came_since() -> None:
    model, rng = _fitted(), np.random.default_rng(6)
    before = model.profile(0)
    model.learn(0, usual(300, rng), LABELS)
    assert model.retrain(0, rng, trained_unix_ns=7)
    after = model.profile(0)
    assert before is not None
    assert after is not None
    assert (before.n_sessions, after.n_sessions, after.trained_unix_ns) == (800, 300, 7)
    assert before.fingerprint != after.fingerprint


def test_a_profile_calls_for_training_when_people_have_changed() -> None:
    model, rng = _fitted(), np.random.default_rng(7)
    assert model.drift(1) is None
    model.learn(0, usual(90, rng), LABELS)
    assert model.drift(0) is None
    model.learn(0, usual(500, rng), LABELS)
    same = model.drift(0)
    assert same is not None
    assert not same.calls_for_training
    model.learn(0, usual(2_000, rng, leaves=0.6), LABELS)
    changed = model.drift(0)
    assert changed is not None
    assert changed.calls_for_training
    assert model.retrain(0, rng)
    model.learn(0, usual(500, rng, leaves=0.6), LABELS)
    after = model.drift(0)
    assert after is not None
    assert not after.calls_for_training, after


def test_what_is_kept_is_bounded() -> None:
    model = BehaviourModel(1, age_s=AGE_S)
    sessions = usual(3_000, np.random.default_rng(1))
    for _ in range(3):
        sessions["start_unix_ns"] += 1
        model.learn(0, sessions, LABELS)
    model.fit(np.random.default_rng(1))
    profile = model.profile(0)
    assert profile is not None
    assert profile.n_sessions == 4_000


@pytest.mark.parametrize("n", [TRAIN_N - 1, 800])
def test_state_gives_the_same_scores(n: int) -> None:
    model, again = _fitted(n), BehaviourModel(2, age_s=AGE_S)
    state = json.loads(json.dumps(model.state()))
    again.restore(state)
    assert again.state() == state
    sessions = usual(50, np.random.default_rng(3))
    for one in (model, again):
        one.learn(0, usual(1, np.random.default_rng(9)), LABELS)
        one.fit(np.random.default_rng(8))
    np.testing.assert_array_equal(model.p_values(0, sessions, LABELS), again.p_values(0, sessions, LABELS))


@pytest.mark.parametrize("damaged", [[], [{}], [{"profile": "AAAA"}, {"profile": "AAAA"}], ["x", "y"], [[], []]])
def test_damaged_state_is_refused(damaged: list[object]) -> None:
    with pytest.raises((StateError, KeyError, TypeError, ValueError)):
        BehaviourModel(2, age_s=AGE_S).restore(damaged)  # type: ignore[arg-type]


def test_all_sessions_alike_break_nothing() -> None:
    model = BehaviourModel(1, age_s=AGE_S)
    model.learn(0, rows(*[((HOME,), 0.0)] * TRAIN_N), LABELS)
    model.fit(np.random.default_rng(0))
    assert model.p_values(0, rows(((HOME,), 0.0)), LABELS)[0] == 1.0
    assert model.p_values(0, rows(((), 0.0)), LABELS)[0] < 0.1
    assert model.p_values(0, rows(((HOME, CART), 0.0)), LABELS)[0] < 0.1
