"""Training is reproducible, and what it left in the package keeps to the cap and goes up when nothing is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.decision import Phase
from analysis.policy import LearnedPolicy, PolicyView, load_table
from analysis.policy.learned import FORMAT, QTable
from analysis.simulation.counts import SegmentWorld
from analysis.simulation.training import Scenario, draw, play, score, train

TABLE = load_table()


def _nothing(_: int) -> None:
    pass


def _healthy_demo(seed: int) -> Scenario:
    """The demo's own traffic, and a canary that is as good as the baseline."""
    scenario = draw((seed,), "demo")
    healthy = SegmentWorld(sessions_per_s=15.0, base=(0.005, 0.05, 0.1, 0.65, 0.03), excess=(0.0,) * 5)
    return replace(scenario, world=(healthy,) * len(scenario.world), horizon=95)


def test_the_same_seed_gives_the_same_table() -> None:
    done: list[int] = []
    one = train(seed=3, episodes=2, held_out=0, progress=done.append)
    other = train(seed=3, episodes=2, held_out=0, progress=_nothing)
    assert one.to_json() == other.to_json()
    assert done == [1, 2]
    assert one.visits.sum() > 0


def test_a_table_survives_its_artefact() -> None:
    again = QTable.from_json(TABLE.to_json())
    assert np.array_equal(again.values, TABLE.values)
    assert np.array_equal(again.visits, TABLE.visits)
    assert again.origin == TABLE.origin


def test_the_shipped_table_says_where_it_comes_from() -> None:
    assert FORMAT == 1
    assert {"seed", "episodes", "scores", "held_out_rollouts"} <= TABLE.origin.keys()
    scores = TABLE.origin["scores"]
    assert isinstance(scores, dict)
    for pace in ("demo", "production"):
        assert {"learned", "budget", "fixed"} == scores[pace].keys()
    assert TABLE.visits.sum() > 1_000


@settings(max_examples=200)
@given(
    split=st.floats(0, 1), cap=st.floats(0, 1), suspicion=st.floats(-50, 2), worst=st.floats(0.001, 1),
    anomaly=st.floats(0, 1), healthy=st.booleans(),
)  # fmt: skip
def test_the_shipped_policy_never_proposes_above_the_cap(
    split: float, cap: float, suspicion: float, worst: float, anomaly: float, *, healthy: bool
) -> None:
    view = PolicyView(split=split, cap=cap, suspicion=suspicion, worst_excess=worst, anomaly=anomaly, healthy=healthy)
    proposal = LearnedPolicy(TABLE).propose(view, rng=np.random.default_rng(0))
    assert proposal.split <= max(cap, split) + 1e-12  # at or below the split where the cap is lower: the guard reduces
    assert proposal.split >= split
    assert 0 < proposal.propensity <= 1


def test_with_no_fault_the_shipped_policy_promotes_every_segment_within_90_seconds() -> None:
    endings = [play(_healthy_demo(seed), LearnedPolicy(TABLE)) for seed in range(5)]
    in_time = [all(e.phase is Phase.PROMOTED and e.seconds <= 90 for e in rollout) for rollout in endings]
    assert sum(in_time) >= 3, score(endings)
    assert score(endings)["good_rolled_back"] == 0


@pytest.mark.parametrize("kind", [0, 2], ids=["errors", "abandonment"])
def test_the_shipped_policy_takes_a_bad_canary_back(kind: int) -> None:
    scenario = _healthy_demo(kind)
    excess = tuple(0.4 if k == kind else 0.0 for k in range(5))
    world = (replace(scenario.world[0], excess=excess), *scenario.world[1:])
    bad = play(replace(scenario, world=world, horizon=40), LearnedPolicy(TABLE))[0]
    assert bad.phase is Phase.ROLLED_BACK
    assert bad.harm < 100
