"""Rollouts that are steered as live ones are, many at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase
from analysis.engine import policy_named
from analysis.policy import Policy
from analysis.ramps import Ramps
from analysis.simulation.counts import CountSimulator
from analysis.spec import TOTAL_BP
from xds_server.scenario_file import ScenarioFile

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """How n rollouts ended, (n, S) each: `phase`; `full_s` when everybody had the canary for good, inf: never;

    `harm`, `exposed`: sessions spoilt by the canary, by the truth, and sessions that began on it.
    """

    phase: npt.NDArray[np.object_]
    ended_s: Floats
    full_s: Floats
    harm: Floats
    exposed: Floats

    def share(self, phase: Phase) -> Floats:
        """(n,) whether any segment ended so."""
        return np.asarray((self.phase == phase).any(axis=1), float)


def rollouts(
    file: ScenarioFile, *, load: float, n: int, seconds: float, seed: int, policy: Callable[[], Policy] | None = None
) -> Ends:
    """Play n rollouts of at most `seconds`."""
    spec = file.spec
    make = policy or (lambda: policy_named(spec.rollout.policy))
    people, *chances = np.random.default_rng(seed).spawn(n + 1)
    world = CountSimulator(spec, file.scenario, load=load, n_runs=n, rng=people)
    arms = {segment.name: ("v1", "v2") for segment in spec.segments}
    ramps = Ramps(spec, [make() for _ in range(n)], arms)
    shape = (n, len(spec.segments))
    full_s, ended_s, harm, exposed = np.full(shape, np.inf), np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
    while world.now_s < seconds and not ramps.is_finished.all():
        told = world.advance(ramps.split_bp)
        harm += told.harm
        exposed += told.window.exposed
        ramps.step(told.window, told.newcomers, now_s=world.now_s, rngs=chances)
        is_full = ramps.split_bp == TOTAL_BP
        full_s = np.where(is_full, np.minimum(full_s, world.now_s), np.inf)
        over = np.array([[s.phase.is_final for s in ramp.segments.values()] for ramp in ramps.ramps])
        ended_s = np.where(over, np.minimum(ended_s, world.now_s), np.inf)
    phase = np.array([[s.phase for s in ramp.segments.values()] for ramp in ramps.ramps], object)
    return Ends(phase=phase, ended_s=ended_s, full_s=full_s, harm=harm, exposed=exposed)
