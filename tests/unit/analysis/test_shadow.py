"""A policy that only watches: it says what it would do, counts, and changes nothing at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.decision import SegmentDecision
from analysis.engine import shadow_named
from analysis.policy import ThompsonPolicy
from analysis.policy.learned import SHARES
from analysis.policy.protocol import FLOOR
from analysis.ramp import Ramp
from analysis.shadow import Shadow
from analysis.window import BASELINE, CANARY, Window, empty
from tests.unit.analysis.rows import small_spec

SPEC = small_spec()
ARMS = {segment.name: ("v1", "v2") for segment in SPEC.segments}
PEOPLE, TICKS = 400, 40


def _window(rng: np.random.Generator, ramp: Ramp) -> Window:
    window = empty(len(SPEC.segments), len(SPEC.kpis))
    for i, state in enumerate(ramp.segments.values()):
        n_c = round(PEOPLE * state.split_bp / 10_000)
        n = np.array([PEOPLE - n_c, n_c])
        window.n[i], window.bad[i] = n, rng.binomial(n, 0.01, (len(SPEC.kpis), 2))
        window.harm_n[i], window.harm_bad[i], window.exposed[i] = n, window.bad[i, 0], n_c
        window.arrived[i], window.people[i] = PEOPLE, n * 3
        window.newcomers[i, state.split_bp, CANARY], window.newcomers[i, state.split_bp, BASELINE] = n_c, PEOPLE - n_c
    return replace(window, entries=200)


def _played(shadow: str | None, *, restart_at: int | None = None) -> tuple[Ramp, list[SegmentDecision]]:
    """A good release under policy `thompson`, which draws lots at each tick."""
    people, made = np.random.default_rng(3), []
    ramp = Ramp(SPEC, ThompsonPolicy(), ARMS)
    ramp.watch_beside(shadow_named(shadow))
    for tick in range(1, TICKS):
        if tick == restart_at:
            kept = ramp.state()
            ramp = Ramp(SPEC, ThompsonPolicy(), ARMS)
            ramp.watch_beside(shadow_named(shadow))
            ramp.restore(kept, gap_s=0.0)
        at_s = SPEC.rollout.warmup_s + tick * SPEC.rollout.interval_s
        made += ramp.step(_window(people, ramp), now_s=at_s, rng=np.random.default_rng((5, tick)))
        for name in ramp.segments:
            ramp.confirm(name)
    return ramp, made


def test_the_acting_policy_does_what_it_would_do_alone() -> None:
    alone, beside = (_played(shadow)[1] for shadow in (None, "learned"))
    assert [replace(decision, shadow=None) for decision in beside] == alone
    assert all(decision.shadow is not None for decision in beside if not decision.phase.is_final)
    assert any(decision.changes_split for decision in alone)


@pytest.mark.parametrize(("shadow", "propensities"), [("fixed", {1.0}), ("learned", None)])
def test_what_it_would_do_is_said_and_counted(shadow: str, propensities: set[float] | None) -> None:
    ramp, made = _played(shadow)
    chosen = [(decision, decision.shadow) for decision in made if decision.shadow is not None]
    assert {choice.policy for _, choice in chosen} == {shadow}
    found = {choice.propensity for _, choice in chosen}
    assert found == propensities or {round(FLOOR, 9), round(1 - FLOOR * (len(SHARES) - 1), 9)} >= {
        round(each, 9) for each in found
    }
    assert ramp.shadow is not None
    for name, tally in ramp.shadow.tallies.items():
        mine = [(d.split_after_bp, c.split_bp) for d, c in chosen if d.segment == name]
        assert tally.less == sum(theirs < ours for ours, theirs in mine)
        assert tally.more == sum(theirs > ours for ours, theirs in mine)
        assert tally.same == len(mine) - tally.less - tally.more
    assert any(tally.less or tally.more for tally in ramp.shadow.tallies.values())
    assert ramp.view(SPEC.segments[0].name).shadow is ramp.shadow.tallies[SPEC.segments[0].name]


def test_it_passes_the_same_guard() -> None:
    """A step of ten points at once is clipped where the acting policy's would be."""
    for decision in _played("fixed")[1]:
        if decision.shadow is not None and decision.shadow.verdict == "advance":
            assert decision.shadow.split_bp - decision.split_before_bp <= SPEC.rollout.max_step_bp


def test_a_restart_goes_on_counting() -> None:
    straight, restarted = _played("fixed")[0], _played("fixed", restart_at=TICKS // 2)[0]
    assert straight.shadow is not None
    assert restarted.shadow is not None
    assert restarted.shadow.state() == straight.shadow.state()


def test_a_tally_that_cannot_be_is_refused() -> None:
    shadow = Shadow(ThompsonPolicy(), ("a", "b"))
    shadow.restore({"a": [1, 2, 3]})
    assert shadow.state() == {"a": [1, 2, 3], "b": [0, 0, 0]}
    for wrong in ([1, 2], [1, -2, 3], ["x", 0, 0]):
        with pytest.raises(ValueError, match=r"."):
            shadow.restore({"a": wrong})
