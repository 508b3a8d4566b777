"""The simulator, Serinus and the oracle in the contest: what is told of requests is what is true of sessions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtri

from analysis.simulation.scenario import Effect, Group, Kpi, Must, Scenario
from analysis.spec import HarmSpec, KpiKind, KpiSpec, Outcome, RolloutSpec, SegmentSpec, ServiceSpec
from benchmarks.contest.heat import Tick, play
from benchmarks.contest.metrics import BASELINE, CANARY, History, Metrics
from benchmarks.contest.outcome import cell_of
from benchmarks.contest.serinus import KnowingAll, Serinus
from benchmarks.contest.simulated import SimulatedWorld

RNG = np.random.default_rng
GROUPS = (Group(name="power", share=0.3), Group(name="default", share=0.7))
SPEC = ServiceSpec(
    name="shop", baseline="v1", versions=("v1", "v2"),
    segments=(SegmentSpec(name="power"), SegmentSpec(name="default")),
    kpis=(KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=60, tolerance=0.005),),
    rollout=RolloutSpec(harm=HarmSpec(bad=frozenset({Outcome.ERROR}))),
)  # fmt: skip


def scenario(*effects: Effect, must: Must = Must.PROMOTE) -> Scenario:
    return Scenario(name="x", title="", must=must, groups=GROUPS, effects=effects, loads=(50.0,), horizon_s=3_600.0)


def seen(world: SimulatedWorld, split_bp: int, ticks: int) -> tuple[Metrics, list[Tick]]:
    """What a metrics system knows of the first run after some ticks at one split."""
    history, played = History(world.n_runs, world.edges_ms), []
    for _ in range(ticks):
        played.append(world.advance(np.full((world.n_runs, 2), split_bp)))
        history.add(played[-1].batch)
    return history.of(0), played


def test_requests_errors_and_people_are_as_many_as_the_segments_people_make() -> None:
    world = SimulatedWorld(SPEC, scenario(Effect(kpi=Kpi.ERRORS, times=10.0)), 1_000.0, 1, RNG(1))
    told, _ = seen(world, 5_000, 30)
    sessions = told.count(4, CANARY)
    assert sessions == pytest.approx(1_000 * 300 / 2, rel=0.02)
    assert told.count(0, CANARY) / sessions == pytest.approx(5 * 0.85, rel=0.02)
    assert told.rate(3, 2, CANARY) == pytest.approx(0.05, rel=0.1)
    assert told.rate(3, 2, BASELINE) == pytest.approx(0.005, rel=0.2)
    assert told.error_rate(CANARY) == pytest.approx(0.05 * 2 / 4.25, rel=0.1)


def test_durations_follow_the_segments_law_and_a_tail_lengthens_the_last_percentile_only() -> None:
    told, _ = seen(
        SimulatedWorld(SPEC, scenario(Effect(kpi=Kpi.LATENCY, tail_times=3.0)), 1_000.0, 1, RNG(2)), 5_000, 6
    )
    buckets = told.buckets(BASELINE)
    assert buckets[:6].sum() / buckets.sum() == pytest.approx(0.672, abs=0.01)  # within 50 ms, of a median of 40
    assert told.mean_ms(BASELINE) == pytest.approx(40 * np.exp(0.125), rel=0.01)
    usual_p99 = 40 * np.exp(0.5 * float(ndtri(0.99)))
    assert told.quantile_ms(0.99, CANARY) > 2 * usual_p99 > told.quantile_ms(0.99, BASELINE) - 100
    assert told.quantile_ms(0.95, CANARY) == pytest.approx(told.quantile_ms(0.95, BASELINE), rel=0.02)
    longer, _ = seen(SimulatedWorld(SPEC, scenario(Effect(kpi=Kpi.LATENCY, times=2.0)), 1_000.0, 1, RNG(3)), 5_000, 6)
    assert longer.mean_ms(CANARY) == pytest.approx(2 * longer.mean_ms(BASELINE), rel=0.02)


def test_harm_that_is_still_to_come_is_what_playing_on_would_have_shown() -> None:
    world = SimulatedWorld(SPEC, scenario(Effect(kpi=Kpi.ERRORS, times=4.0, at_s=300.0)), 50.0, 20, RNG(4))
    _, played = seen(world, 10_000, 90)
    shown = np.mean([tick.harm.sum(axis=1) for tick in played]) * 90
    ahead = SimulatedWorld(SPEC, scenario(Effect(kpi=Kpi.ERRORS, times=4.0, at_s=300.0)), 50.0, 20, RNG(4))
    ahead.advance(np.full((20, 2), 10_000))
    told = ahead.harm_ahead(np.full((20, 2), 10_000), 0.0, 900.0)
    assert told is not None
    assert told == pytest.approx(np.full(20, shown), rel=0.03)
    assert shown == pytest.approx(50 * 600 * 0.015, rel=0.03)
    nobody = ahead.harm_ahead(np.zeros((20, 2), np.int64), 0.0, 900.0)
    assert nobody is not None
    assert not nobody.any()


def test_serinus_takes_a_broken_release_back_and_says_when() -> None:
    bad = scenario(Effect(kpi=Kpi.ERRORS, plus=0.3), must=Must.ROLLBACK)
    world = SimulatedWorld(SPEC, bad, 50.0, 3, RNG(5), with_durations=False)
    (record,) = play(world, [Serinus("serinus", SPEC, 3, 1)], horizon_s=3_600.0, may_harm=True)
    made = cell_of(bad, 50.0, record)
    assert made.figures["missed"].value == 0.0
    assert made.figures["delay_min"].value < 10
    assert 0 < made.figures["harm"].value < 200


def test_the_oracle_knows_the_effect_of_a_bad_release_and_supposes_one_of_a_good_one() -> None:
    bad = scenario(Effect(kpi=Kpi.ERRORS, times=4.0), must=Must.ROLLBACK)
    for played, limit_min in ((bad, 10.0), (scenario(), 10.0)):
        world = SimulatedWorld(SPEC, played, 50.0, 5, RNG(6), with_durations=False)
        (record,) = play(world, [KnowingAll(played, 50.0, world)], horizon_s=1_800.0, may_harm=played is bad)
        made = cell_of(played, 50.0, record)
        assert made.figures["delay_min" if played is bad else "full_min"].value < limit_min


def test_harm_that_is_still_to_come_is_told_by_one_threshold_as_harm_that_was_done() -> None:
    """A canary that is as good does no harm, though its sessions must be slower to be slow than the baseline's own."""
    slow = KpiSpec(kind=KpiKind.LATENCY, judge_after_s=60, tolerance=0.02)
    spec = replace(SPEC, kpis=(*SPEC.kpis, slow), rollout=RolloutSpec(harm=HarmSpec(bad=frozenset(Outcome))))
    split_bp = np.full((1, 2), 5_000)
    world = SimulatedWorld(spec, scenario(), 100.0, 1, RNG(1))
    assert world.advance(split_bp).harm == pytest.approx(0.0)
    assert world.harm_ahead(split_bp, 100.0, 700.0) == pytest.approx(0.0)
    world = SimulatedWorld(spec, scenario(Effect(kpi=Kpi.LATENCY, times=1.5)), 100.0, 200, RNG(1))
    split_bp = np.full((200, 2), 5_000)
    done = np.mean([world.advance(split_bp).harm.sum(axis=1).mean() for _ in range(6)])
    ahead = world.harm_ahead(split_bp, 60.0, 120.0)
    assert ahead is not None
    assert ahead.mean() == pytest.approx(6 * done, rel=0.03)


def test_splits_that_somebody_moves_expose_fewer_of_serinus_s_people_too() -> None:
    exposed = []
    for moving in (False, True):
        world = SimulatedWorld(SPEC, scenario(), 50.0, 3, RNG(5), with_durations=False)
        contestant = Serinus("serinus", SPEC, 3, 1, moving_splits=moving)
        (record,) = play(world, [contestant], horizon_s=400.0, may_harm=False)
        exposed.append(record.canary_sessions.sum())
    assert 0 < exposed[1] < exposed[0]
