"""The values that `learned` chooses by: their artefact, what they prefer, and how far they may move on the job."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import StateError
from analysis.policy import LearnedPolicy, PolicyView, QValues, load_values
from analysis.policy.learned import (
    DRIFT_MAX,
    N_TILES,
    SHARES,
    STARTS,
    STEP_MAX,
    TILINGS,
    WHOLE,
    Transition,
    learn_bounded,
    state_of,
)
from xds_server.cli import train_policy

SHIPPED = load_values()
VIEW = PolicyView(split=0.1, cap=0.5, suspicion=0.1, worst_excess=0.1, anomaly=0.0, healthy=False)
STATE = state_of(VIEW)


def _values(worth: tuple[float, ...], visits: int) -> QValues:
    """The same worth of each action everywhere."""
    values = np.tile(np.array(worth) / len(TILINGS), (N_TILES, 1))
    return QValues(values=values, visits=np.full(values.shape, visits, np.int64), origin={})


def test_the_shipped_values_say_where_they_come_from() -> None:
    assert {
        "seed",
        "episodes",
        "held_out_releases",
        "scores",
        "finding",
        "is_better",
        "actions",
    } <= SHIPPED.origin.keys()
    assert set(SHIPPED.origin["scores"]) == {"2", "20", "200"}  # type: ignore[call-overload]
    for by_policy in SHIPPED.origin["scores"].values():  # type: ignore[attr-defined]
        assert set(by_policy) == {"learned", "budget", "whole-cap"}
    assert SHIPPED.visits.sum() > 100_000
    usual = {name: parameter.default for name, parameter in inspect.signature(train_policy).parameters.items()}
    assert (SHIPPED.origin["seed"], SHIPPED.origin["episodes"]) == (usual["seed"], usual["episodes"])
    assert sum(SHIPPED.origin["actions"].values()) > 1_000  # type: ignore[attr-defined]


def test_values_survive_their_artefact() -> None:
    again = QValues.from_json(SHIPPED.to_json())
    assert np.array_equal(again.values, SHIPPED.values)
    assert np.array_equal(again.visits, SHIPPED.visits)
    assert again.origin == SHIPPED.origin


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 1}, "format 1; this version reads format 2"),
        ({"shares": [0, 1]}, "other tiles or actions"),
        ({"tilings": [["split"]]}, "other tiles or actions"),
        ({"values": [1.0]}, "cannot be read"),
        ({"values": None}, "cannot be read"),
        ({"values": [float("nan")] * (N_TILES * len(SHARES))}, "no number"),
    ],
)
def test_another_artefact_is_refused(change: dict[str, object], said: str) -> None:
    text = json.dumps(json.loads(SHIPPED.to_json()) | change)
    with pytest.raises(StateError, match=said):
        QValues.from_json(text)


@settings(max_examples=100, deadline=None)
@given(split=st.floats(0, 1), suspicion=st.floats(-50, 2), at_once=st.floats(0, 1e6), anomaly=st.floats(0, 1))
def test_every_view_has_one_tile_in_each_tiling(split: float, suspicion: float, at_once: float, anomaly: float) -> None:
    state = state_of(replace(VIEW, split=split, suspicion=suspicion, at_once=at_once, anomaly=anomaly))
    ends = (*STARTS[1:], N_TILES)
    assert all(start <= tile < end for tile, start, end in zip(state, STARTS, ends, strict=True))


@pytest.mark.parametrize(
    "changed",
    [
        {"anomaly": 0.2}, {"risk": 0.5}, {"ahead": 2.0}, {"share": 0.2}, {"weight": 4.0}, {"settling_s": 100.0},
        {"at_once": 900.0}, {"suspicion": 0.3}, {"worst_excess": 0.01}, {"split": 0.4}, {"cap": 0.15},
        {"healthy": True},
    ],
    ids=str,
)  # fmt: skip
def test_everything_that_it_may_know_is_in_its_state(changed: dict[str, float]) -> None:
    assert state_of(replace(VIEW, **changed)) != STATE  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("worth", "visits", "best"),
    [
        ((3.0, 0.0, 0.0, 1.0), 10_000, 0),
        ((0.0, 0.0, 3.0, 1.0), 10_000, 2),
        ((1.05, 1.05, 1.05, 1.0), 10_000, WHOLE),  # a near tie is noise
        ((3.0, 0.0, 0.0, 1.0), 99, WHOLE),  # seen too seldom
        ((1.5, 0.0, 0.0, 1.0), 101, WHOLE),  # … or not often enough for what it is worth
    ],
)
def test_it_leaves_the_whole_room_only_for_what_is_surely_worth_more(
    worth: tuple[float, ...], visits: int, best: int
) -> None:
    assert LearnedPolicy(_values(worth, visits)).best(STATE) == best


def test_learning_on_the_job_keeps_to_its_bounds() -> None:
    shipped = _values((0.0, 0.0, 0.0, 0.0), 0)
    values, seen = shipped, Transition(state=STATE, action=1, gained=1e6, discount=0.9, following=STATE)
    moved = learn_bounded(values, shipped, seen, rate=1.0)
    assert np.abs(moved.values - values.values).max() == pytest.approx(STEP_MAX)
    for _ in range(100):
        values = learn_bounded(values, shipped, seen, rate=1.0)
    assert np.abs(values.values - shipped.values).max() == pytest.approx(DRIFT_MAX)
    untouched = np.ones(values.values.shape, bool)
    untouched[list(STATE), 1] = False
    assert not values.values[untouched].any()
    assert not shipped.values.any()  # what is shipped is never changed
    assert values.visits[list(STATE), 1].tolist() == [100] * len(TILINGS)


def test_learning_on_the_job_approaches_what_it_sees() -> None:
    shipped = _values((0.0, 0.0, 0.0, 0.0), 0)
    values = shipped
    for _ in range(300):
        seen = Transition(state=STATE, action=2, gained=0.03, discount=0.9, following=None)
        values = learn_bounded(values, shipped, seen, rate=0.1)
    assert values.of(STATE)[2] == pytest.approx(0.03, abs=1e-3)


@pytest.mark.parametrize("gained", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_teaches_nothing(gained: float) -> None:
    shipped = _values((0.0, 0.0, 0.0, 0.0), 0)
    seen = Transition(state=STATE, action=2, gained=gained, discount=0.9, following=None)
    assert learn_bounded(shipped, shipped, seen, rate=0.1) is shipped
