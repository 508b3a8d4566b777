"""A rollout that goes on from its stored state decides as one that was never interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from analysis.decision import Action, Order, Rollback, SegmentDecision, Tier
from analysis.guard import BREACH_TICKS
from analysis.policy import BudgetPolicy
from analysis.ramp import Ramp
from analysis.spec import ServiceSpec
from analysis.window import BASELINE, CANARY, Window, empty
from tests.unit.analysis.rows import small_spec

ARMS = {"power": ("v1", "v2"), "default": ("v1", "v2")}
PEOPLE, USUAL, TICKS = 40, 0.02, 50
Excess = Callable[[int], float]

ANEW = {"new_people", "new_people_canary", "new_people_asked", "sample_ratio_log_e", "p_breach"}
"""Who had been counted among the new people is not known after a restart: unless it is proof, that begins anew. A
forecast is made anew within a few ticks, and at once where it matters."""


def _spec() -> ServiceSpec:
    spec = small_spec()
    return replace(spec, rollout=replace(spec.rollout, max_step_bp=800, bake_s=20))


def _window(rng: np.random.Generator, splits_bp: list[int], excess: float) -> Window:
    window = empty(2, 5)
    for i, split_bp in enumerate(splits_bp):
        n_c = round(PEOPLE * split_bp / 10_000)
        n = np.array([PEOPLE - n_c, n_c])
        window.n[i] = n
        window.bad[i] = rng.binomial(n, [USUAL, USUAL + excess], (5, 2))
        window.harm_n[i], window.harm_bad[i], window.exposed[i] = n, window.bad[i, 0], n_c
        window.arrived[i], window.people[i] = PEOPLE, n * 3
        window.newcomers[i, split_bp, CANARY], window.newcomers[i, split_bp, BASELINE] = n_c, PEOPLE - n_c
    return replace(window, entries=200)


class Played:
    """A rollout, its people, and what it has decided."""

    def __init__(self, excess: Excess) -> None:
        self.excess = excess
        self.ramp = Ramp(_spec(), BudgetPolicy(), ARMS)
        self.rng = np.random.default_rng(3)
        self.tick = 0
        self.told: list[tuple[SegmentDecision, ...]] = []

    def run(self, ticks: int) -> Played:
        for _ in range(ticks):
            self.tick += 1
            window = _window(
                self.rng, [state.split_bp for state in self.ramp.segments.values()], self.excess(self.tick)
            )
            self.told.append(self.ramp.step(window, now_s=float(self.tick), rng=np.random.default_rng(self.tick)))
            for name in ARMS:
                self.ramp.confirm(name)
        return self

    def again(self) -> Played:
        """The same one after a restart that took no time."""
        other = Played(self.excess)
        other.ramp.restore(json.loads(json.dumps(self.ramp.state())), gap_s=0.0)
        other.rng.bit_generator.state = self.rng.bit_generator.state
        other.tick = self.tick
        return other


def _good(tick: int) -> float:
    return 0.0


def _worse_later(tick: int) -> float:
    return 0.25 if tick > 45 else 0.0


def _bad(tick: int) -> float:
    return 0.12


def _creeping(tick: int) -> float:
    return min(max(0.0025 * (tick - 20), 0.0), 0.2)


def _without_what_begins_anew(told: list[tuple[SegmentDecision, ...]]) -> list[SegmentDecision]:
    return [
        replace(one, numbers={name: value for name, value in one.numbers.items() if name not in ANEW})
        for decisions in told
        for one in decisions
    ]


@pytest.mark.parametrize(("excess", "at"), [(_good, 30), (_worse_later, 48), (_bad, 25)])
def test_stored_rollout_decides_exactly_as_the_uninterrupted_one(excess: Excess, at: int) -> None:
    whole = Played(excess).run(at)
    again = whole.again()
    whole.told = []
    assert _without_what_begins_anew(again.run(TICKS).told) == _without_what_begins_anew(whole.run(TICKS).told)
    for name in ARMS:
        assert again.ramp.segments[name].phase is whole.ramp.segments[name].phase
        assert again.ramp.segments[name].split_bp == whole.ramp.segments[name].split_bp


def test_foreseen_breach_is_still_foreseen() -> None:
    """A predicted rollback needs a breach foreseen some ticks in a row: those before a restart count."""
    whole, restarted = Played(_creeping), list[Played]()
    tiers: set[Tier] = set()
    while not tiers:
        if any(state.breach_ticks for state in whole.ramp.segments.values()):
            restarted.append(whole.again())
        tiers = {one.verdict.tier for one in whole.run(1).told[-1] if isinstance(one.verdict, Rollback)}
    assert tiers == {Tier.PREDICTED}
    assert len(restarted) >= BREACH_TICKS - 1
    for again in restarted[1 - BREACH_TICKS :]:
        again.run(whole.tick - again.tick)
        assert _without_what_begins_anew(again.told[-1:]) == _without_what_begins_anew(whole.told[-1:])


@pytest.mark.parametrize("action", [Action.PAUSE, Action.FREEZE])
def test_what_a_person_ordered_is_still_in_force(action: Action) -> None:
    whole = Played(_good).run(15)
    whole.ramp.command(Order(action=action, who="ann", segment="power"))
    again = whole.again()
    held = whole.ramp.segments["power"].split_bp
    assert 0 < held < 9_500
    assert again.run(15).ramp.segments["power"].split_bp <= held
    assert again.ramp.segments["default"].split_bp > held


def test_same_state_is_stored_again() -> None:
    whole = Played(_worse_later).run(48)
    stored, again = whole.ramp.state(), whole.again().ramp.state()
    for state in (stored, again):
        del state["reading"]["sample_ratio"]  # type: ignore[attr-defined]
    assert json.dumps(stored) == json.dumps(again)
