"""Five rollouts at once are five rollouts: nothing is shared but the arrays."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.decision import Phase, SegmentDecision
from analysis.evidence.exclusion import ExcessExclusion
from analysis.evidence.regression import RegressionEvidence
from analysis.evidence.sample_ratio import SampleRatio
from analysis.harm import HarmLedger
from analysis.policy import BudgetPolicy
from analysis.ramp import Ramp
from analysis.ramps import Ramps
from analysis.reactive import ReactiveRule
from analysis.window import BASELINE, CANARY, Window, empty
from tests.unit.analysis.rows import newcomers_of, small_spec, stacked

B, TICKS = 5, 40
SPEC = small_spec()
ARMS = {"power": ("v1", "v2"), "default": ("v1", "v2")}
SINCE_S = np.array([0.0, 1.0, 20.0, 500.0, 90_000.0])  # of the first tick
ELAPSED_S = np.array([1.0, 0.25, 0.0, 3.0, 1.0])
BLIND = np.array([False, False, True, False, True])


def _window(rng: np.random.Generator, split_bp: tuple[int, ...], excess: float) -> Window:
    """One tick of one rollout, now and then with an arm or a segment that is empty."""
    window = empty(2, 5)
    for s, bp in enumerate(split_bp):
        people = int(rng.poisson(30)) * (rng.random() > 0.1)
        n_c = int(rng.binomial(people, bp / 10_000))
        n = np.array([people - n_c, n_c])
        window.n[s] = n
        window.bad[s] = rng.binomial(n, [0.03, 0.03 + excess], (5, 2))
        window.harm_n[s], window.harm_bad[s], window.exposed[s] = n, window.bad[s, 0], n_c
        window.unexposed_n[s], window.unexposed_harm_n[s] = 2, 3
        window.unexposed_bad[s], window.unexposed_harm_bad[s] = rng.integers(0, 2), rng.integers(0, 2)
        window.arrived[s], window.people[s] = people, n * 3
        window.newcomers[s, bp, CANARY], window.newcomers[s, bp, BASELINE] = n_c, people - n_c
    return window + _busy()


def _busy() -> Window:
    one = empty(2, 5)
    return Window(**{name: getattr(one, name) for name in one.__dataclass_fields__ if name != "entries"}, entries=99)


def _ticks() -> list[list[Window]]:
    rngs = [np.random.default_rng(seed) for seed in range(B)]
    excesses = (0.0, 0.05, 0.2, 0.5, 0.0)
    return [
        [_window(rng, (2_000, 7_000), excess) for rng, excess in zip(rngs, excesses, strict=True)] for _ in range(TICKS)
    ]


def test_evidence_of_five_is_that_of_each() -> None:
    together, alone = RegressionEvidence(SPEC, B), [RegressionEvidence(SPEC) for _ in range(B)]
    for tick, windows in enumerate(_ticks()):
        together.update(stacked(windows), since_exposure_s=SINCE_S + tick, elapsed_s=ELAPSED_S)
        for b, evidence in enumerate(alone):
            evidence.update(windows[b], since_exposure_s=SINCE_S[b] + tick, elapsed_s=ELAPSED_S[b])
        np.testing.assert_allclose(together.log_e_values, [each.log_e_values[0] for each in alone], rtol=1e-12)
    np.testing.assert_array_equal(together.base.value, [each.base.value[0] for each in alone])
    assert len(np.unique(together.log_e_values[:, 0, 0])) == B, "they do differ"


def test_exclusion_of_five_is_that_of_each() -> None:
    def new(n: int) -> ExcessExclusion:
        return ExcessExclusion(2, risk=0.05, epoch_s=15, n=n)

    together, alone = new(B), [new(1) for _ in range(B)]
    base = np.linspace(0.01, 0.95, 2 * B).reshape(B, 2)
    for tick, windows in enumerate(_ticks()):
        whole = stacked(windows)
        together.update(whole.harm_n, whole.harm_bad, base, at_s=SINCE_S + tick)
        for b, each in enumerate(alone):
            each.update(windows[b].harm_n, windows[b].harm_bad, base[b], at_s=SINCE_S[b] + tick)
        np.testing.assert_array_equal(together.worst, [each.worst[0] for each in alone])
    for b, each in enumerate(alone):
        for row in range(2):
            needed = float(together.sessions_needed(b, row, 0.1, 0.05, 0.3))
            assert needed == pytest.approx(float(each.sessions_needed(0, row, 0.1, 0.05, 0.3)), rel=1e-12)
    assert 1 < len(np.unique(together.worst)) <= 2 * B


def test_sample_ratio_of_five_is_that_of_each() -> None:
    together, alone = SampleRatio(2, B), [SampleRatio(2) for _ in range(B)]
    for tick, windows in enumerate(_ticks()):
        together.update(newcomers_of(windows), since_exposure_s=SINCE_S + tick)
        for b, each in enumerate(alone):
            each.update(newcomers_of([windows[b]]), since_exposure_s=SINCE_S[b] + tick)
    rows = np.array([[True, False, True]])
    together.forget(rows & (np.arange(B) == 2)[:, None])
    alone[2].forget(rows)
    np.testing.assert_allclose(together.log_e_values, [each.log_e_values[0] for each in alone], rtol=1e-12)
    np.testing.assert_allclose(together.totals, [each.totals[0] for each in alone], rtol=1e-12)
    np.testing.assert_allclose(together.log_e, [each.log_e[0] for each in alone], rtol=1e-12)


def test_budget_of_five_is_that_of_each() -> None:
    together, alone = HarmLedger(SPEC, B), [HarmLedger(SPEC) for _ in range(B)]
    rng = np.random.default_rng(1)
    split, live, rising = rng.random((B, 2)), rng.random((B, 2)) < 0.8, rng.random((B, 2)) < 0.6
    for tick, windows in enumerate(_ticks()):
        together.update(stacked(windows), at_s=SINCE_S + tick, elapsed_s=ELAPSED_S, blind=BLIND)
        together.miss(split, seconds=np.where(BLIND, ELAPSED_S, 0.0))
        for b, each in enumerate(alone):
            each.update(windows[b], at_s=SINCE_S[b] + tick, elapsed_s=ELAPSED_S[b], blind=BLIND[b])
            each.miss(split[b : b + 1], seconds=ELAPSED_S[b] if BLIND[b] else 0.0)
    for b, each in enumerate(alone):
        mine = slice(b, b + 1)
        at = (split[mine], live[mine])
        np.testing.assert_allclose(together.upper[b], each.upper[0], rtol=1e-12)
        np.testing.assert_allclose(together.allowed[b], each.allowed[0], rtol=1e-12)
        caps = together.caps(split, live, rising, latency_s=3.0)[b]
        np.testing.assert_allclose(caps, each.caps(*at, rising[mine], latency_s=3.0)[0], rtol=1e-12)
        affordable = together.affordable_excess(split, live, seconds=15.0, latency_s=3.0)[b]
        np.testing.assert_allclose(affordable, each.affordable_excess(*at, seconds=15.0, latency_s=3.0)[0], rtol=1e-12)
        assert together.view(b, split, live, latency_s=3.0).reserved == pytest.approx(
            each.view(0, *at, latency_s=3.0).reserved, rel=1e-12
        )
    assert len(np.unique(together.upper)) == B


def test_fixed_rule_of_five_is_that_of_each() -> None:
    together, alone = ReactiveRule(SPEC, B), [ReactiveRule(SPEC) for _ in range(B)]
    for tick, windows in enumerate(_ticks()):
        n, bad = (np.stack([getattr(w, name) for w in windows]).astype(float) for name in ("n", "bad"))
        together.update(n, bad, since_exposure_s=SINCE_S + 60 * tick)
        for b, each in enumerate(alone):
            each.update(n[b : b + 1], bad[b : b + 1], since_exposure_s=SINCE_S[b] + 60 * tick)
    np.testing.assert_array_equal(together.failures, [each.failures[0] for each in alone])
    np.testing.assert_array_equal(together.fired_s, [each.fired_s[0] for each in alone])
    assert together.failures.max() > 0


class _World:
    """The people of one rollout of SPEC: its canary is worse by an excess from a time on."""

    def __init__(self, seed: int, excess: float, from_s: float) -> None:
        self.rng, self.excess, self.from_s = np.random.default_rng(seed), excess, from_s

    def window(self, split_bp: tuple[int, ...], now_s: float) -> Window:
        return _window(self.rng, split_bp, self.excess if now_s >= self.from_s else 0.0)


def _worlds() -> list[_World]:
    cases = ((0.0, 0.0), (0.04, 0.0), (0.3, 15.0), (0.9, 8.0), (0.0, 0.0))
    return [_World(seed, excess, from_s) for seed, (excess, from_s) in enumerate(cases)]


def _splits(ramp: Ramp) -> tuple[int, ...]:
    return tuple(state.split_bp for state in ramp.segments.values())


def _alone(world: _World, ticks: int) -> tuple[list[tuple[SegmentDecision, ...]], list[Phase]]:
    ramp, rng = Ramp(SPEC, BudgetPolicy(), ARMS, brief=True), np.random.default_rng(9)
    told = []
    for tick in range(1, ticks + 1):
        told.append(ramp.step(world.window(_splits(ramp), tick), now_s=float(tick), rng=rng))
        for name in ramp.segments:
            ramp.confirm(name)
    return told, [state.phase for state in ramp.segments.values()]


def test_ramps_decide_as_each_would_alone() -> None:
    """Ways that end differently: verdicts, reasons, splits, to the last letter."""
    ticks, worlds = 60, _worlds()
    ramps, rngs = Ramps(SPEC, [BudgetPolicy()] * B, ARMS), [np.random.default_rng(9) for _ in range(B)]
    together: list[list[tuple[SegmentDecision, ...]]] = []
    for tick in range(1, ticks + 1):
        windows = [world.window(_splits(ramp), tick) for world, ramp in zip(worlds, ramps.ramps, strict=True)]
        together.append(ramps.step(stacked(windows), newcomers_of(windows), now_s=float(tick), rngs=rngs))
    ends = []
    for b, world in enumerate(_worlds()):
        told, phases = _alone(world, ticks)
        assert [each[b] for each in together] == told
        assert [ramps.phase(b, s) for s in range(2)] == phases
        ends.append(phases[0])
    assert ramps.is_finished.tolist() == [
        all(state.phase.is_final for state in ramp.segments.values()) for ramp in ramps.ramps
    ]
    assert ramps.split_bp.tolist() == [list(_splits(ramp)) for ramp in ramps.ramps]
    assert {Phase.PROMOTED, Phase.ROLLED_BACK} <= set(ends)
