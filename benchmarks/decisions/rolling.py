"""Rollouts that are steered as live ones are, many at a time, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analysis.simulation.playing_counts import play_counts
from xds_server.scenario_file import ScenarioFile

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """How n rollouts ended, (n, S) each, as `SegmentRun` says; times are infinite where it never happened."""

    outcome: npt.NDArray[np.str_]
    ended_s: Floats
    full_s: Floats
    harm: Floats
    exposed: Floats

    def share(self, outcome: str) -> Floats:
        """(n,) whether any segment ended so."""
        return np.asarray((self.outcome == outcome).any(axis=1), float)


def rollouts(file: ScenarioFile, *, load: float, n: int, seconds: float, seed: int) -> Ends:
    """Play n rollouts of at most `seconds`."""
    runs = play_counts(
        replace(file.scenario, horizon_s=seconds), file.spec, load=load, seeds=range(seed * n, (seed + 1) * n)
    )

    def column(name: str, missing: float = np.inf) -> Floats:
        values = [[getattr(segment, name) for segment in run.segments] for run in runs]
        return np.array([[missing if x is None else x for x in row] for row in values], float)

    return Ends(
        outcome=np.array([[segment.outcome for segment in run.segments] for run in runs]),
        ended_s=column("ended_s"), full_s=column("full_s"), harm=column("harm"), exposed=column("exposed"),
    )  # fmt: skip
