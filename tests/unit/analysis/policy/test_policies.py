"""Every policy keeps to the room that it is given, is repeatable, and says how probable its choice was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.engine import POLICIES, policy_named
from analysis.policy import (
    Arm,
    BudgetPolicy,
    FixedPolicy,
    LearnedPolicy,
    Policy,
    PolicyView,
    ThompsonPolicy,
    WholeCapPolicy,
    load_values,
)
from analysis.policy.learned import SHARES
from analysis.policy.protocol import FLOOR
from analysis.spec import Mode

SHADOW = LearnedPolicy.shadow(load_values())
EVERY: dict[str, Policy] = {name: policy_named(name) for name in POLICIES} | {
    "shadow": SHADOW,
    "whole-cap": WholeCapPolicy(),
}
VIEW = PolicyView(split=0.1, cap=0.5, suspicion=-0.1, worst_excess=0.1, anomaly=0.0, healthy=False)

shares = st.floats(0, 1)
arms = st.builds(lambda n, p: Arm(n=n, bad=n * p), st.integers(0, 10_000), shares)
views = st.builds(
    PolicyView, split=shares, cap=shares, suspicion=st.floats(-50, 2), worst_excess=st.floats(0.002, 1), anomaly=shares,
    healthy=st.booleans(), share=shares, weight=st.floats(0, 100), risk=shares, ahead=st.floats(0, 100),
    settling_s=st.floats(0, 1e5), at_once=st.floats(0, 1e6), canary=arms, baseline=arms, tolerance=st.floats(0, 0.5),
)  # fmt: skip


@pytest.mark.parametrize("policy", EVERY.values(), ids=EVERY.keys())
@settings(max_examples=60, deadline=None)
@given(view=views, seed=st.integers(0, 100))
def test_no_policy_proposes_above_the_cap_or_below_where_it_stands(policy: Policy, view: PolicyView, seed: int) -> None:
    proposal = policy.propose(view, rng=np.random.default_rng(seed))
    assert view.split <= proposal.split <= max(view.cap, view.split) + 1e-12
    assert 0 < proposal.propensity <= 1
    assert policy.propose(view, rng=np.random.default_rng(seed)) == proposal


@pytest.mark.parametrize(
    "chances",
    [lambda view, _: SHADOW.chances(view), lambda view, rng: ThompsonPolicy.chances(view, rng=rng)],
    ids=["shadow", "thompson"],
)
@settings(max_examples=60, deadline=None)
@given(view=views, seed=st.integers(0, 100))
def test_where_lots_are_drawn_every_action_keeps_its_floor(
    chances: Callable[[PolicyView, np.random.Generator], np.ndarray], view: PolicyView, seed: int
) -> None:
    found = chances(view, np.random.default_rng(seed))
    assert found.min() >= FLOOR - 1e-12
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("policy", [SHADOW, ThompsonPolicy()], ids=["shadow", "thompson"])
def test_a_logged_propensity_is_how_often_it_happens(policy: Policy) -> None:
    view = replace(VIEW, canary=Arm(n=300, bad=15), baseline=Arm(n=300, bad=9), tolerance=0.01, worst_excess=0.06)
    proposals = [policy.propose(view, rng=np.random.default_rng(seed)) for seed in range(2_000)]
    for share in (0.0, 0.25, 0.5, 1.0):
        chosen = [p for p in proposals if p.split == view.using(share)]
        expected = float(np.mean([p.propensity for p in chosen]))
        assert len(chosen) / len(proposals) == pytest.approx(expected, abs=0.05), share


def test_the_whole_cap_is_not_offered_by_name() -> None:
    with pytest.raises(ValueError, match="legal: budget, fixed, learned, thompson"):
        policy_named("whole-cap")


def test_learned_tries_everything_where_it_only_watches() -> None:
    def splits(mode: Mode) -> set[float]:
        policy = policy_named("learned", mode)
        return {policy.propose(VIEW, rng=np.random.default_rng(seed)).split for seed in range(200)}

    assert len(splits(Mode.OBSERVE)) == len(SHARES)
    assert len(splits(Mode.ACT)) == 1


@pytest.mark.parametrize(
    ("suspicion", "used"), [(-3.0, 1.0), (0.0, 1.0), (0.125, 0.75), (0.25, 0.5), (0.5, 0.0), (1.2, 0.0)]
)
def test_budget_leaves_room_in_proportion_to_suspicion(suspicion: float, used: float) -> None:
    view = replace(VIEW, suspicion=suspicion)
    assert BudgetPolicy().propose(view, rng=np.random.default_rng(0)).split == pytest.approx(0.1 + used * 0.4)


def test_fixed_steps_go_up_by_ten_points() -> None:
    rng = np.random.default_rng(0)
    assert FixedPolicy().propose(VIEW, rng=rng).split == pytest.approx(0.2)
    assert FixedPolicy().propose(replace(VIEW, cap=0.15), rng=rng).split == pytest.approx(0.15)


def test_thompson_believes_what_it_has_seen() -> None:
    def mean(canary_bad: float) -> float:
        arms = {"canary": Arm(n=2_000, bad=canary_bad), "baseline": Arm(n=2_000, bad=20)}
        view = replace(VIEW, **arms, tolerance=0.005)  # type: ignore[arg-type]
        return float(np.mean([ThompsonPolicy().propose(view, rng=np.random.default_rng(i)).split for i in range(200)]))

    good, doubtful, bad = mean(20), mean(120), mean(300)
    assert good > doubtful > bad
    assert good > 0.4  # of a cap of 0.5, but for what the floor takes
    assert bad < 0.2  # hardly above the split of 0.1


def test_a_risky_release_takes_the_step_that_costs_no_more_than_usual() -> None:
    def step(**known: object) -> float:
        view = replace(VIEW, **known)  # type: ignore[arg-type]
        return BudgetPolicy().propose(view, rng=np.random.default_rng(0)).split - view.split

    assert step() == pytest.approx(0.4)
    assert step(risk=0.02) == step() == step(risk=0.9, healthy=True)
    assert step(risk=0.2) == pytest.approx(0.2)
    assert step(risk=0.4, suspicion=0.25) == pytest.approx(0.05)  # suspicion halves it first
    assert step(split=0.0, cap=0.02, risk=0.5) == pytest.approx(0.004)


def test_risk_never_stops_a_step_that_is_just_worth_a_push() -> None:
    view = replace(VIEW, split=0.4, cap=0.42, risk=1.0)
    assert BudgetPolicy().propose(view, rng=np.random.default_rng(0)).split == pytest.approx(0.41)
    narrow = replace(view, cap=0.405)
    assert BudgetPolicy().propose(narrow, rng=np.random.default_rng(0)).split == pytest.approx(0.405)
