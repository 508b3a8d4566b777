"""Rollouts of one release in step, each under a policy of its own, by what is true and not by what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase
from analysis.policy import Policy
from analysis.ramps import Ramps
from analysis.reward import price_of_harm, reward
from analysis.simulation.counts import CountSimulator, Tick
from analysis.simulation.draws import Release
from analysis.spec import TOTAL_BP, KpiKind

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Rollouts:
    """B rollouts of a release, tick by tick. `harm` (B,): weighted sessions spoilt by now, as expected."""

    release: Release
    policies: Sequence[Policy]
    seed: tuple[int, ...]
    ramps: Ramps = field(init=False)
    people: CountSimulator = field(init=False)
    harm: Floats = field(init=False)
    rngs: list[np.random.Generator] = field(init=False)
    _weights: Floats = field(init=False)
    _shares: Floats = field(init=False)

    def __post_init__(self) -> None:
        spec, n = self.release.spec, len(self.policies)
        arms = {segment.name: ("v1", "v2") for segment in spec.segments}
        self.ramps = Ramps(spec, self.policies, arms)
        people, chance = np.random.SeedSequence(self.seed).spawn(2)
        self.people = CountSimulator(
            spec, self.release.scenario, load=self.release.load, n_runs=n, rng=np.random.default_rng(people)
        )
        self.rngs = [np.random.default_rng(each) for each in chance.spawn(n)]
        self.harm = np.zeros(n)
        self._weights = np.array([segment.weight for segment in spec.segments])
        self._shares = np.array([group.share for group in self.release.scenario.groups])
        for ramp in self.ramps.ramps:
            ramp.risk = self.release.risk

    def tick(self) -> Tick:
        """Play one tick and decide."""
        tick = self.people.advance(self.ramps.split_bp)
        self.harm += tick.harm @ self._weights
        ahead = self.release.ahead(self.people.now_s)
        for ramp in self.ramps.ramps:
            ramp.ahead = ahead
        self.ramps.step(tick.window, tick.newcomers, now_s=self.people.now_s, rngs=self.rngs)
        return tick

    def reward(self, split_bp: npt.NDArray[np.int64]) -> Floats:
        """(B,) rewards of the last tick, at the splits (B, S) that were in force, all segments together.

        In ticks of full progress; see `reward.price_of_harm`.
        """
        spec, interval_s = self.release.spec, self.release.spec.rollout.interval_s
        errors, slowness, abandonment, anomaly = (
            self._excess(kind) for kind in (KpiKind.ERROR_RATE, KpiKind.LATENCY, KpiKind.ABANDONMENT, KpiKind.ANOMALY)
        )
        sessions = self.release.load * self._shares * interval_s * self.release.scenario.traffic.rate_times(
            self.people.now_s - interval_s / 2
        )  # fmt: skip
        parts = reward(
            split=split_bp / TOTAL_BP, errors=errors, slowness=slowness, abandonment=abandonment, anomaly=anomaly,
            weight=self._weights * sessions * price_of_harm(spec.rollout.harm.budget, interval_s),
        )  # fmt: skip
        total: Floats = parts.worth(self._shares).sum(axis=1)
        return total

    def _excess(self, kind: KpiKind) -> Floats:
        """(B, S) the truth; nothing where there is no such KPI."""
        column = next((k for k, kpi in enumerate(self.release.spec.kpis) if kpi.kind is kind), None)
        excess = self.people.excess
        return np.zeros(excess.shape[:2]) if column is None else excess[..., column]

    def phases(self) -> list[list[Phase]]:
        """(B, S) where the segments stand."""
        return [[state.phase for state in ramp.segments.values()] for ramp in self.ramps.ramps]
