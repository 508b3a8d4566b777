"""A scenario played with single people and the live engine: rows in, splits out, splits in force from the tick on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from analysis.decision import SegmentDecision
from analysis.engine import Rollout, ServiceEngine
from analysis.policy import Policy
from analysis.session import NS
from analysis.simulation.noting import lowered, note
from analysis.simulation.outcome import End, Run, segment_run
from analysis.simulation.people import LABELS, People
from analysis.simulation.scenario import Scenario
from analysis.spec import ServiceSpec

EPOCH_NS = 1_700_000_000 * NS  # when rollouts begin


@dataclass(slots=True, kw_only=True)
class _Game:
    """One rollout in progress."""

    scenario: Scenario
    spec: ServiceSpec
    people: People
    engine: ServiceEngine
    chance: np.random.Generator
    split_bp: dict[int, int] = field(default_factory=dict)
    ends: dict[str, End] = field(default_factory=dict)

    def tick(self) -> None:
        """One interval: people come, the engine looks, and what it decides is in force."""
        now_s = self.people.now_s + self.spec.rollout.interval_s
        now_ns = EPOCH_NS + round(now_s * NS)
        self.engine.observe(self.people.advance(now_s, self.split_bp, epoch_ns=EPOCH_NS), LABELS)
        decisions = self.engine.tick(now_ns)
        if self.scenario.moving_splits:
            self._move(now_ns)
        assert self.engine.ramp is not None  # noqa: S101 -- `play` has started it
        for i, (name, state) in enumerate(self.engine.ramp.segments.items()):
            self.engine.confirm(name, now_ns)
            self.split_bp[i] = state.split_bp
        for decision in decisions:
            self._note(decision, now_s)

    def _move(self, now_ns: int) -> None:
        """Somebody lowers each split that rises; the engine raises it again."""
        assert self.engine.ramp is not None  # noqa: S101 -- as above
        for name, state in self.engine.ramp.segments.items():
            order = lowered(name, state, self.chance)
            if order is not None:
                self.engine.command(order, now_ns)

    def _note(self, decision: SegmentDecision, now_s: float) -> None:
        assert self.engine.ramp is not None  # noqa: S101 -- as above
        note(
            self.ends.setdefault(decision.segment, End()), self.engine.ramp.segments[decision.segment], decision, now_s
        )

    @property
    def is_over(self) -> bool:
        return self.people.now_s >= self.scenario.horizon_s or not self.engine.is_running

    def result(self, seed: int) -> Run:
        """How it has ended by now."""
        harm = self.people.harmed(self.spec.rollout.harm.bad).tolist()
        exposed = self.people.sessions[:, 1].tolist()
        segments = tuple(
            segment_run(
                self.scenario, segment.name, self.ends.get(segment.name, End()), harm=harm[i], exposed=exposed[i]
            )
            for i, segment in enumerate(self.spec.segments)
        )
        return Run(seed=seed, segments=segments, length_s=self.people.now_s)


def play(
    scenario: Scenario,
    spec: ServiceSpec,
    *,
    load: float,
    seed: int,
    policy: Policy | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Run:
    """Play one rollout, until it has ended for every segment or at the scenario's horizon.

    `load`: sessions a second; `policy`: None: the one that the specification names. `progress` is told how much of the
    horizon is over, in [0, 1]. The same seed gives the same run.
    """
    people, engine, chance = np.random.SeedSequence(seed).spawn(3)
    game = _Game(
        scenario=scenario, spec=spec,
        people=People(scenario, spec, load=load, rng=np.random.default_rng(people)),
        engine=ServiceEngine(spec, seed=int(engine.generate_state(1)[0]), policy=policy),
        chance=np.random.default_rng(chance),
    )  # fmt: skip
    canary = next(version for version in spec.versions if version != spec.baseline)
    arms = {segment.name: (spec.baseline, canary) for segment in spec.segments}
    game.engine.start(Rollout(rollout=f"run-{seed}", canary=canary, started_ns=EPOCH_NS, arms=arms))
    while not game.is_over:
        game.tick()
        progress(min(game.people.now_s / scenario.horizon_s, 1.0))
    progress(1.0)
    return game.result(seed)
