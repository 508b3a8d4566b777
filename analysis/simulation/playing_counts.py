"""A scenario played at the level of counts: many rollouts in step, decided by the code that decides for a live one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from analysis.engine import policy_named
from analysis.policy import Policy
from analysis.ramps import Ramps
from analysis.simulation.counts import CountSimulator
from analysis.simulation.noting import lower, note
from analysis.simulation.outcome import End, Run, segment_run
from analysis.simulation.scenario import Scenario
from analysis.spec import ServiceSpec

BATCH = 64  # rollouts in step


def play_counts(
    scenario: Scenario,
    spec: ServiceSpec,
    *,
    load: float,
    seeds: Sequence[int],
    policy: Callable[[], Policy] | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Run]:
    """Play one rollout for each seed, until each has ended or at the scenario's horizon.

    `load`: sessions a second; `policy` makes one rollout's; None: the one that the specification names. `progress` is
    told how many rollouts are over, those that are on by their share of the horizon. The same seeds give the same runs;
    a run depends on the seeds that are played in step with it.
    """
    make = policy or (lambda: policy_named(spec.rollout.policy))
    runs: list[Run] = []
    for first in range(0, len(seeds), BATCH):
        batch = _Batch(scenario, spec, load=load, seeds=seeds[first : first + BATCH], policy=make)
        while not batch.is_over:
            batch.tick()
            progress(first + len(batch.seeds) * min(batch.now_s / scenario.horizon_s, 1.0))
        runs += batch.results()
        progress(len(runs))
    return runs


class _Batch:
    """Rollouts in progress."""

    def __init__(
        self, scenario: Scenario, spec: ServiceSpec, *, load: float, seeds: Sequence[int], policy: Callable[[], Policy]
    ) -> None:
        self.scenario, self.spec, self.seeds = scenario, spec, seeds
        people, *chances = np.random.SeedSequence(list(seeds)).spawn(1 + len(seeds))
        self._chances = [np.random.default_rng(chance) for chance in chances]
        self._people = CountSimulator(
            spec, scenario, load=load, n_runs=len(seeds), rng=np.random.default_rng(people)
        )  # fmt: skip
        canary = next(version for version in spec.versions if version != spec.baseline)
        arms = {segment.name: (spec.baseline, canary) for segment in spec.segments}
        self._ramps = Ramps(spec, [policy() for _ in seeds], arms)
        shape = len(seeds), len(spec.segments)
        self._ends = [[End() for _ in spec.segments] for _ in seeds]
        self._harm, self._exposed = np.zeros(shape), np.zeros(shape, np.int64)
        self._length_s = np.zeros(len(seeds))

    @property
    def now_s(self) -> float:
        return self._people.now_s

    @property
    def is_over(self) -> bool:
        return self.now_s >= self.scenario.horizon_s or bool(self._ramps.is_finished.all())

    def tick(self) -> None:
        """One interval of all of them; nothing more is counted of those that have ended."""
        running = ~self._ramps.is_finished
        came = self._people.advance(self._ramps.split_bp)
        self._harm += came.harm * running[:, None]
        self._exposed += came.window.exposed * running[:, None]
        self._length_s[running] = self.now_s
        decided = self._ramps.step(came.window, came.newcomers, now_s=self.now_s, rngs=self._chances)
        for rollout in np.flatnonzero(running).tolist():
            ramp = self._ramps.ramps[rollout]
            for i, state in enumerate(ramp.segments.values()):
                note(self._ends[rollout][i], state, decided[rollout][i], self.now_s)
            if self.scenario.moving_splits:
                lower(ramp, self._chances[rollout])

    def results(self) -> list[Run]:
        """How each has ended by now."""
        return [
            Run(
                seed=seed, length_s=float(self._length_s[b]),
                segments=tuple(
                    segment_run(
                        self.scenario, segment.name, self._ends[b][i], harm=float(self._harm[b, i]),
                        exposed=int(self._exposed[b, i]),
                    )
                    for i, segment in enumerate(self.spec.segments)
                ),
            )
            for b, seed in enumerate(self.seeds)
        ]  # fmt: skip
