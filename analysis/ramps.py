"""Many rollouts of one service in step, for simulations: the very code that decides for a live one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase, SegmentDecision
from analysis.policy import Policy
from analysis.ramp import Indices, Ramp, step
from analysis.reading import Reading
from analysis.spec import ServiceSpec
from analysis.window import Window


class Ramps:
    """B rollouts that share one reading's arrays and nothing else. Every new split is in force at the next tick."""

    def __init__(self, spec: ServiceSpec, policies: Sequence[Policy], arms: Mapping[str, tuple[str, str]]) -> None:
        self.reading = Reading(spec, len(policies))
        self.ramps = [
            Ramp(spec, policy, arms, reading=self.reading, rollout=row, brief=True)
            for row, policy in enumerate(policies)
        ]

    def step(
        self, window: Window, newcomers: Indices, *, now_s: float, rngs: Sequence[np.random.Generator]
    ) -> list[tuple[SegmentDecision, ...]]:
        """One tick of all of them; see `analysis.ramp.step`. Envoys acknowledge at once."""
        decisions = step(self.ramps, self.reading, window, newcomers, now_s=now_s, rngs=rngs)
        for ramp in self.ramps:
            for state in ramp.segments.values():
                state.confirmed = True
        return decisions

    @property
    def split_bp(self) -> npt.NDArray[np.int64]:
        """(B, S) the canary's shares now."""
        return np.array([[state.split_bp for state in ramp.segments.values()] for ramp in self.ramps])

    def phase(self, rollout: int, segment: int) -> Phase:
        return list(self.ramps[rollout].segments.values())[segment].phase

    @property
    def is_finished(self) -> npt.NDArray[np.bool_]:
        """(B,) rollouts in which nothing is left to decide."""
        return np.array([ramp.is_finished for ramp in self.ramps])
