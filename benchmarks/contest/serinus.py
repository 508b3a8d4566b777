"""Serinus and the oracle as contestants: n rollouts in step, one split for each segment."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from analysis.decision import Phase
from analysis.observer import LATENESS_S
from analysis.policy import (
    BudgetPolicy,
    FixedPolicy,
    LearnedPolicy,
    Policy,
    ThompsonPolicy,
    WholeCapPolicy,
    load_values,
)
from analysis.ramps import Ramps
from analysis.simulation.counts import Tick as Counted
from analysis.simulation.noting import lower
from analysis.simulation.scenario import Effect, Kpi, Must, On, Scenario
from analysis.spec import TOTAL_BP, KpiKind, ServiceSpec
from benchmarks.contest.heat import Flags, Splits, Tick
from benchmarks.contest.metrics import CANARY, TICK_S, Floats
from benchmarks.contest.oracle import Oracle, telling
from benchmarks.contest.simulated import SimulatedWorld, Truth

LOOKED_FOR = Effect(kpi=Kpi.ERRORS, times=4.0)  # by the oracle, where nothing is worse

POLICIES: Mapping[str, Callable[[], Policy]] = {
    "serinus": BudgetPolicy,  # the default
    "serinus-learned": lambda: LearnedPolicy(load_values()),
    "serinus-thompson": ThompsonPolicy,
    "serinus-whole-cap": WholeCapPolicy,
    "serinus-fixed": FixedPolicy,
}


class Serinus:
    """The very code that decides for a live rollout."""

    def __init__(self, name: str, spec: ServiceSpec, n: int, seed: int, *, moving_splits: bool = False) -> None:
        self.name, self.n, self._moving_splits = name, n, moving_splits
        canary = next(version for version in spec.versions if version != spec.baseline)
        arms = {segment.name: (spec.baseline, canary) for segment in spec.segments}
        self._ramps = Ramps(spec, [POLICIES[name]() for _ in range(n)], arms)
        self._rngs = [np.random.default_rng([seed, run]) for run in range(n)]
        self._now_s = 0.0

    def decide(self, at_s: float) -> Splits:
        self._now_s = at_s + TICK_S
        return self._ramps.split_bp

    def see(self, tick: Tick, rows: slice) -> None:
        counted = _counted(tick, rows, self.n)
        self._ramps.step(counted.window, counted.newcomers, now_s=self._now_s, rngs=self._rngs)
        for ramp, rng in zip(self._ramps.ramps, self._rngs, strict=True) if self._moving_splits else ():
            lower(ramp, rng)

    def rolled_back(self) -> Flags:
        return np.array([[s.phase is Phase.ROLLED_BACK for s in ramp.segments.values()] for ramp in self._ramps.ramps])

    def is_over(self) -> bool:
        return bool(self._ramps.is_finished.all())


class KnowingAll:
    """The oracle in all rows: one split for all segments."""

    name = "oracle"

    def __init__(self, scenario: Scenario, load: float, world: SimulatedWorld) -> None:
        self.n, self._world, self._spec = world.n_runs, world, world.spec
        is_bad = scenario.must is Must.ROLLBACK
        of_both = tuple(effect for effect in scenario.effects if effect.on is On.BOTH)
        supposed = dataclasses.replace(scenario, effects=scenario.effects if is_bad else (*of_both, LOOKED_FOR))
        self._truth = Truth(world.spec, supposed, load)
        self._if_good = Truth(world.spec, dataclasses.replace(scenario, effects=of_both), load)
        self._is_noisy = scenario.traffic.bursts_per_h > 0
        self._ages = [math.ceil((kpi.judge_after_s + LATENESS_S) / TICK_S) for kpi in world.spec.kpis]
        self._oracle = Oracle(self.n, budget=world.spec.rollout.harm.budget)
        self._shares: deque[tuple[Floats, Floats]] = deque(maxlen=max(self._ages) + 1)  # (B, S, K) if good, if bad
        self._split = np.zeros(self.n)
        self._at_s = 0.0

    def decide(self, at_s: float) -> Splits:
        self._at_s = at_s
        split = np.repeat(self._split[:, None], self._world.n_segments, axis=1)
        middle_s = at_s + TICK_S / 2
        exposed_s = np.maximum(self._world.exposed_s(middle_s), 0.0)
        now = self._truth.at(middle_s, exposed_s, split)
        good = self._if_good.at(middle_s, exposed_s, split)
        self._shares.append((good.first[..., CANARY], now.first[..., CANARY]))
        unseen_s = self._unseen_s(exposed_s)
        then = self._truth.at(middle_s + unseen_s, exposed_s + unseen_s, split)
        per_s = np.maximum(self._truth.harm_per_s(now, middle_s), self._truth.harm_per_s(then, middle_s + unseen_s))
        self._split = self._oracle.split(per_s.sum(axis=1) * unseen_s)
        return np.round(np.repeat(self._split[:, None], self._world.n_segments, axis=1) * TOTAL_BP).astype(np.int64)

    def _unseen_s(self, exposed_s: Floats) -> float:
        """Until what is exposed now is judged by the KPI that tells most."""
        k = telling(*self._shares[-1])
        is_latency = self._spec.kpis[k].kind is KpiKind.LATENCY
        settling_s = max(self._spec.rollout.settle_s - float(exposed_s.max()), 0.0) if is_latency else 0.0
        return (self._ages[k] + 1) * TICK_S + settling_s

    def see(self, tick: Tick, rows: slice) -> None:
        window = _counted(tick, rows, self.n).window
        good, bad = np.zeros(window.n.shape[:3]), np.zeros(window.n.shape[:3])
        for k, age in enumerate(self._ages):
            if len(self._shares) > age:
                good[:, :, k], bad[:, :, k] = (shares[:, :, k] for shares in self._shares[-1 - age])
        self._oracle.see(window.n.astype(float), window.bad.astype(float), good, bad, noisy=self._is_noisy)

    def rolled_back(self) -> Flags:
        return np.repeat(self._oracle.rolled_back[:, None], self._world.n_segments, axis=1)

    def is_over(self) -> bool:
        """It may change its mind as long as people come."""
        return bool(self._oracle.rolled_back.all())


def _counted(tick: Tick, rows: slice, n: int) -> Counted:
    """They are alone in their worlds."""
    counted = tick.window
    assert isinstance(counted, Counted)
    assert rows == slice(0, n)
    return counted
