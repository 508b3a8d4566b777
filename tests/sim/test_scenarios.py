"""Closed loop on simulated people: what the demo shows, by seed."""

from __future__ import annotations

import pytest

from analysis.decision import Phase
from tests.sim import scenarios
from tests.sim.loop import SEGMENTS, play


@pytest.mark.parametrize("seed", range(5))
def test_healthy_release_is_promoted_everywhere(seed: int) -> None:
    run = scenarios.healthy_release_is_promoted_everywhere(seed)
    for before, after in zip(run.splits, run.splits[1:], strict=False):
        for name in SEGMENTS:
            assert after[1][name] >= before[1][name] or after[1][name] > 0, "nobody is thrown out of a good canary"


@pytest.mark.parametrize("seed", range(2))
def test_demo_faults_are_told_apart(seed: int) -> None:
    scenarios.demo_faults_are_told_apart(seed)


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.slow_version_is_rolled_back_on_latency,
        scenarios.broken_feature_is_rolled_back_on_its_use,
        scenarios.hidden_errors_are_found_in_spans,
        scenarios.canary_that_half_of_the_logs_do_not_tell_of_is_not_promoted,
        scenarios.crash_is_taken_back_at_once,
        scenarios.world_that_gets_worse_is_not_held_against_the_canary,
        scenarios.too_little_traffic_is_not_known_yet,
        scenarios.slow_creep_is_rolled_back_before_it_crosses_the_limit,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_scenario(scenario: object) -> None:
    scenario()  # type: ignore[operator]


def test_restart_in_mid_rollout_goes_on_at_the_same_splits() -> None:
    run = play(seed=0, restart_at_s=25.0, until_s=45)
    splits = dict(run.splits)
    for name in SEGMENTS:
        assert splits[24.0][name] > 0
        assert splits[25.0][name] == splits[24.0][name]
        assert splits[45.0][name] >= splits[24.0][name]
    assert Phase.ROLLED_BACK not in run.phases().values()


def test_same_seed_gives_the_same_rollout() -> None:
    first, second = (play(seed=3, until_s=20) for _ in range(2))
    assert first.splits == second.splits
    assert first.decisions == second.decisions
