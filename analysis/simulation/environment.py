"""A rollout as a Gymnasium environment: the live code decides, an agent chooses how much of the room it uses.

Needs the extra `simulation`; nothing else in Serinus imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from analysis.policy import PolicyView, Proposal
from analysis.simulation.draws import Release, draw
from analysis.simulation.rollouts import Rollouts
from analysis.spec import TOTAL_BP

Floats = npt.NDArray[np.float64]

HORIZON_TICKS = 360
MOST = 1e9
_BOUNDS: dict[str, tuple[float, float]] = {
    "split": (0, 1), "cap": (0, 1), "suspicion": (-100, 100), "worst_excess": (0, 1), "anomaly": (0, 1),
    "healthy": (0, 1), "share": (0, 1), "weight": (0, MOST), "risk": (0, 1), "ahead": (0, MOST),
    "settling_s": (0, MOST), "at_once": (0, MOST), "canary_n": (0, MOST), "canary_bad": (0, MOST),
    "baseline_n": (0, MOST), "baseline_bad": (0, MOST), "tolerance": (0, 1),
}  # fmt: skip
FEATURES = tuple(_BOUNDS)
"""Columns of an observation, as `PolicyView` has them; `cap` is cut at 1."""


@dataclass(slots=True)
class _Agent:
    """Uses the shares of the room that it is told, by segment in order, and remembers what it saw."""

    names: tuple[str, ...]
    name: str = "agent"
    shares: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    views: dict[str, PolicyView] = field(default_factory=dict)

    def expect(self, live: list[str], shares: dict[str, float]) -> None:
        """The next proposals will be asked for these segments, in this order."""
        self.asked, self.shares = list(live), shares

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:  # noqa: ARG002 -- the seam's signature
        segment = self.asked.pop(0)
        self.views[segment] = view
        return Proposal(split=view.using(self.shares[segment]), propensity=1.0)


class RolloutEnvironment(gymnasium.Env[Floats, Floats]):
    """One rollout, a tick a step; S segments.

    Observation (S, len(FEATURES)): what a policy may know. Action (S,) in [0, 1]: the share of the room between split
    and cap that is used when the next tick is decided, where the guard lets a split rise at all. Reward: that of
    `Rollouts.reward`, by the truth, in ticks of full progress. Terminated where nothing is left to decide; truncated
    after `horizon_ticks`. `info` holds the truth: whether the release is bad, the expected harm so far in weighted
    sessions, the canary's excess shares by segment and KPI, and each segment's phase.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 -- Gymnasium's own name and type

    def __init__(
        self,
        releases: Callable[[np.random.Generator], Release] | None = None,
        *,
        segments: int = 1,
        horizon_ticks: int = HORIZON_TICKS,
    ) -> None:
        """Play what `releases` draws at each reset, of `segments` segments; by default one of `draws`."""
        self._draw = releases or (lambda rng: draw(rng, segments=segments))
        self._n = segments
        self._horizon = horizon_ticks
        low, high = (np.tile(np.array(side, float), (segments, 1)) for side in zip(*_BOUNDS.values(), strict=True))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float64)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (segments,), dtype=np.float64)
        self._rollouts: Rollouts | None = None
        self._agent = _Agent(())
        self._ticks = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """A new release, after its first tick. Raises ValueError where it has another number of segments."""
        super().reset(seed=seed, options=options)
        release = self._draw(self.np_random)
        names = tuple(segment.name for segment in release.spec.segments)
        if len(names) != self._n:
            raise ValueError(f"a release of {len(names)} segments in an environment of {self._n}")
        self._agent = _Agent(names)
        self._rollouts = Rollouts(release, [self._agent], (int(self.np_random.integers(2**31)),))
        self._ticks = 0
        self._tick(self._rollouts, np.zeros(self._n))
        return self._observation(self._rollouts), self._info(self._rollouts)

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Play a tick. Raises RuntimeError before the first `reset`."""
        if self._rollouts is None:
            raise RuntimeError("reset comes before the first step")
        gained = self._tick(self._rollouts, np.clip(np.asarray(action, float).reshape(self._n), 0.0, 1.0))
        is_over = bool(self._rollouts.ramps.is_finished.all())
        truncated = not is_over and self._ticks >= self._horizon
        return self._observation(self._rollouts), gained, is_over, truncated, self._info(self._rollouts)

    def _tick(self, rollouts: Rollouts, shares: Floats) -> float:
        names, split_bp = self._agent.names, rollouts.ramps.split_bp
        live = [name for name, phase in zip(names, rollouts.phases()[0], strict=True) if not phase.is_final]
        self._agent.expect(live, dict(zip(names, shares.tolist(), strict=True)))
        rollouts.tick()
        self._ticks += 1
        return float(rollouts.reward(split_bp)[0])

    def _observation(self, rollouts: Rollouts) -> Floats:
        splits = rollouts.ramps.split_bp[0] / TOTAL_BP
        rows = [
            _row(replace(self._agent.views[name], split=float(split)))
            for name, split in zip(self._agent.names, splits, strict=True)
        ]
        space = self.observation_space
        assert isinstance(space, gymnasium.spaces.Box)  # noqa: S101 -- made so above
        observed: Floats = np.clip(np.array(rows, float), space.low, space.high)
        return observed

    @staticmethod
    def _info(rollouts: Rollouts) -> dict[str, Any]:
        return {
            "is_bad": rollouts.release.is_bad,
            "harm": float(rollouts.harm[0]),
            "excess": rollouts.people.excess[0].copy(),
            "phases": [str(phase) for phase in rollouts.phases()[0]],
        }


def _row(view: PolicyView) -> list[float]:
    flat = {
        "canary_n": view.canary.n, "canary_bad": view.canary.bad,
        "baseline_n": view.baseline.n, "baseline_bad": view.baseline.bad,
    }  # fmt: skip
    return [float(flat[name]) if name in flat else float(getattr(view, name)) for name in FEATURES]
