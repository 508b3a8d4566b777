"""The Gymnasium environment passes Gymnasium's own checks, and an agent that uses all of the room promotes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from analysis.simulation.draws import Release, draw
from analysis.simulation.environment import FEATURES, RolloutEnvironment


def _affordable(rng: np.random.Generator) -> Release:
    """A good release of two segments, with a budget that does not bind."""
    release = draw(rng, load=50.0, bad=False, segments=2)
    harm = replace(release.spec.rollout.harm, budget=1_000.0)
    return replace(release, spec=replace(release.spec, rollout=replace(release.spec.rollout, harm=harm)))


def test_it_passes_gymnasiums_own_checks() -> None:
    check_env(RolloutEnvironment(), skip_render_check=True)


def test_an_agent_that_uses_all_of_the_room_promotes_a_good_release() -> None:
    env = RolloutEnvironment(_affordable, segments=2)
    seen, info = env.reset(seed=2)
    assert seen.shape == (2, len(FEATURES))
    gained, is_over = 0.0, False
    while not is_over:
        seen, reward, is_over, truncated, info = env.step(np.ones(2))
        assert not truncated, info
        gained += reward
    assert info["phases"] == ["promoted", "promoted"]
    assert info["harm"] == pytest.approx(0)
    assert not info["is_bad"]
    assert seen[:, FEATURES.index("split")].tolist() == [1.0, 1.0]
    assert gained > 0


def test_an_agent_that_uses_none_of_it_exposes_nobody_and_is_cut_off() -> None:
    env = RolloutEnvironment(lambda rng: draw(rng, bad=True, segments=1), horizon_ticks=20)
    env.reset(seed=3)
    for _ in range(19):
        seen, reward, is_over, truncated, info = env.step(np.zeros(1))
        assert reward == 0
    assert truncated
    assert not is_over
    assert info["is_bad"]
    assert info["harm"] == 0
    assert seen[0, FEATURES.index("split")] == 0


def test_the_same_seed_gives_the_same_rollout() -> None:
    def played() -> list[float]:
        env = RolloutEnvironment()
        first, _ = env.reset(seed=5)
        return [float(first.sum()), *(float(env.step(np.full(1, 0.5))[0].sum()) for _ in range(15))]

    assert played() == played()


def test_a_release_of_other_segments_is_refused() -> None:
    env = RolloutEnvironment(lambda rng: draw(rng, segments=2), segments=1)
    with pytest.raises(ValueError, match="a release of 2 segments in an environment of 1"):
        env.reset(seed=1)
    with pytest.raises(RuntimeError, match="reset comes before"):
        env.step(np.zeros(1))
