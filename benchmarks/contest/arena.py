"""The arena of the public contest: scenario files, the simulator, Serinus with its shipped defaults."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.simulation.scenario import Scenario
from benchmarks.contest.heat import Contestant, World
from benchmarks.contest.serinus import POLICIES, KnowingAll, Serinus
from benchmarks.contest.simulated import SimulatedWorld
from xds_server.scenario_file import ScenarioFile, load_scenario

FOLDER = Path(__file__).parent / "scenarios"


@functools.cache
def files() -> Mapping[str, ScenarioFile]:
    return {path.stem: load_scenario(path) for path in sorted(FOLDER.glob("*.yaml"))}


class SimulatedArena:
    def scenarios(self) -> Sequence[Scenario]:
        return [file.scenario for file in files().values()]

    def world(
        self, scenario: Scenario, load: float, n_runs: int, rng: np.random.Generator, *, with_durations: bool
    ) -> World:
        spec = files()[scenario.name].spec
        return SimulatedWorld(spec, scenario, load, n_runs, rng, with_durations=with_durations)

    def own(self) -> Sequence[str]:
        return (*POLICIES, KnowingAll.name)

    def contestant(self, name: str, scenario: Scenario, load: float, world: World, seed: int) -> Contestant:
        assert isinstance(world, SimulatedWorld)
        if name == KnowingAll.name:
            return KnowingAll(scenario, load, world)
        return Serinus(name, world.spec, world.n_runs, seed, moving_splits=scenario.moving_splits)
