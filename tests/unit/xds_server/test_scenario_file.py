"""A scenario file is read as its author meant it, and each mistake in it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.simulation.scenario import Effect, Kpi, Must, On, Shape
from analysis.spec import KpiKind, Outcome, RolloutSpec
from xds_server.scenario_file import MeshError, load_scenario, parse_scenario
from xds_server.settings import parse_mesh

FOLDER = Path(__file__).parents[3] / "benchmarks" / "contest" / "scenarios"
FILES = sorted(FOLDER.glob("*.yaml"))
HEAD = "title: t\nmust: keep\n"


def _wrong(text: str) -> list[str]:
    with pytest.raises(MeshError) as caught:
        parse_scenario(text, "x.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_committed_scenario_is_fine(path: Path) -> None:
    file = load_scenario(path)
    assert file.scenario.name == path.stem
    assert [group.name for group in file.scenario.groups] == list(file.spec.segment_index)
    harms = any(file.scenario.harms(group.name) for group in file.scenario.groups)
    assert harms or file.scenario.must is not Must.ROLLBACK
    assert not harms or file.scenario.must is not Must.PROMOTE


def test_every_scenario_of_the_suite_is_there_and_four_are_held_out() -> None:
    numbers = {path.stem.rstrip("ab") for path in FILES}
    assert {f"s{i:02}" for i in range(1, 21)} <= numbers
    assert sum(load_scenario(path).scenario.held_out for path in FILES) == 4


def test_what_a_file_does_not_say_is_as_a_mesh_file_without_it() -> None:
    spec = parse_scenario(HEAD, "x.yaml").spec
    mesh = parse_mesh(
        "services: {shop: {domains: [a], port: 80, identity: [{header: x-u}], baseline: v1, kpis: {features: {wishlist:"
        " {}}}, versions: {v1: {endpoints: ['a:1']}, v2: {endpoints: ['a:2']}}}}", "mesh.yaml",
    )  # fmt: skip
    assert spec.kpis == mesh.services["shop"].spec.kpis
    assert spec.rollout == mesh.services["shop"].spec.rollout
    assert spec.session == mesh.services["shop"].spec.session


def test_a_file_is_read_as_it_is_meant() -> None:
    file = parse_scenario(
        """
title: All of it
must: rollback
loads: [1, 2.5]
horizon: 2h
segments:
  default: {share: 75%, errors: 2%}
  eu: {share: 25%, latency: 90ms}
people: {errors: 1%, again: 2h}
traffic: {daily: 30%, peak: 1h, bots: 5%}
effects:
  - {kpi: errors, plus: 3pp, segment: eu, at: 10m, until: 1h, people: 50%}
  - {kpi: latency, on: both, times: 2, shape: periodic, period: 5m, active: 10s}
session: {goal: {path: /done}, gap: 10m}
kpis: {error_rate: {max_regression: 1pp}}
rollout: {harm: {budget: 7, bad: [abandoned]}, warmup: 5m}
""",
        "dir/file.yaml",
    )
    scenario, spec = file.scenario, file.spec
    assert (scenario.name, scenario.must, scenario.loads, scenario.horizon_s) == (
        "file", Must.ROLLBACK, (1.0, 2.5), 7_200.0,
    )  # fmt: skip
    eu, default = scenario.groups
    assert (eu.name, eu.share, eu.habits.errors, eu.habits.latency_ms, eu.habits.again_s) == (
        "eu", 0.25, 0.01, 90.0, 7_200.0,
    )  # fmt: skip
    assert (default.habits.errors, default.habits.latency_ms) == (0.02, 40.0)
    assert scenario.effects == (
        Effect(kpi=Kpi.ERRORS, plus=0.03, segment="eu", at_s=600, until_s=3_600, people=0.5),
        Effect(kpi=Kpi.LATENCY, on=On.BOTH, times=2, shape=Shape.PERIODIC, period_s=300, active_s=10),
    )
    assert (scenario.traffic.daily, scenario.traffic.peak_s, scenario.traffic.bots) == (0.3, 3_600, 0.05)
    assert spec.rollout.harm.bad == {Outcome.ABANDONED}
    assert (spec.rollout.harm.budget, spec.rollout.warmup_s) == (7, 300)
    assert spec.rollout.bake_s == RolloutSpec().bake_s
    kinds = [kpi.kind for kpi in spec.kpis]
    assert kinds == [KpiKind.ERROR_RATE, KpiKind.LATENCY, KpiKind.ABANDONMENT, KpiKind.FEATURE, KpiKind.ANOMALY]
    assert (spec.kpis[0].tolerance, spec.session.gap_s) == (0.01, 600)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("must: keep", "x.yaml:1: title: missing; legal: 1 to 1,024 printable characters"),
        ("title: t\nmust: win", "x.yaml:2: must: win: unknown; legal: promote, rollback, keep, hold"),
        (HEAD + "effect: []", "x.yaml:3: effect: unknown key; did you mean effects? legal: title, must, held_out,"
         " loads, horizon, moving_splits, segments, people, traffic, effects, session, kpis, rollout"),
        (HEAD + "horizon: 3", "x.yaml:3: horizon: 3: needs a unit; legal: 1m to 400d, such as 500ms, 10s, 30m,"
         " 2h or 30d"),
        (HEAD + "loads: []", "x.yaml:3: loads: empty; legal: one or more: a list, each item 0.001 to 100,000"),
        (HEAD + "segments: {eu: {share: 100%}}", "x.yaml:3: segments: default is missing; legal: the segment of"
         " everybody else, and others"),
        (HEAD + "segments: {eu: {share: 50%}, default: {share: 40%}}", "x.yaml:3: segments: the shares add up to"
         " 90.000000%; legal: shares that add up to 100%"),
        (HEAD + "traffic: {peak: 3h}", "x.yaml:3: traffic.peak: does nothing without daily; legal: daily with it"),
        (HEAD + "kpis: {abandonment: {}}", "x.yaml:3: kpis.abandonment: session.goal is missing; legal: session: {goal:"
         " {path: /...}} with it, so that a session can be complete or abandoned"),
        (HEAD + "kpis: {features: {cart: {}}}", "x.yaml:3: kpis.features.cart: simulated people do not use it; legal:"
         " wishlist"),
        (HEAD + "rollout: {budget_risk: 90%}", "x.yaml:3: rollout.budget_risk: 90%: out of range; legal: 0.01% to 50%,"
         " or the same as a number, 0.0001 to 0.5"),
        ("- a", "x.yaml:1: (top level): a list: not a mapping; legal: a YAML mapping with title, must (both required),"
         " held_out, loads, horizon, moving_splits, segments, people, traffic, effects, session, kpis, rollout"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(text: str, line: str) -> None:
    assert _wrong(text) == [line]


@pytest.mark.parametrize(
    ("effect", "says"),
    [
        ("kpi: errors, plus: 3%", "effects[0].plus: 3%: wrong unit: a difference of two shares is written in pp"),
        ("kpi: errors", "effects[0]: changes nothing; legal: one or more of times, plus, tail_times"),
        ("kpi: errors, plus: 1pp, segment: eux", "effects[0].segment: eux: unknown segment; did you mean eu?"),
        ("kpi: errors, plus: 1pp, over: 3m", "effects[0].over: does nothing without shape: ramp"),
        ("kpi: errors, plus: 1pp, shape: ramp", "effects[0].shape: ramp: over is missing; legal: over with it"),
        ("kpi: errors, plus: 1pp, tail_times: 3", "effects[0].tail_times: does nothing without kpi: latency"),
        ("kpi: latency, plus: 1pp", "effects[0].plus: a latency grows by a factor; legal: times, tail_times"),
        ("kpi: errors, plus: 1pp, at: 1h, until: 1m", "effects[0].until: 1m: not after `at`; legal: a later time"),
        ("kpi: errors, plus: 1pp, shape: periodic, period: 5s, active: 5s", "effects[0].active: 5s: not shorter than"),
        ("kpi: routing, times: 0.5, on: both", "effects[0].on: both: only the canary's people"),
        ("kpi: errors, plus: 1pp, on: both, since: exposure", "effects[0].since: exposure: the baseline is not"),
        ("kpi: errors, plus: 1pp, on: both, first_session: true", "effects[0].first_session: true: it is the first"),
        ("kpi: errors, plus: 1pp, on: both, shape: load, above: 5%", "effects[0].shape: load: it is the canary's load"),
    ],
)  # fmt: skip
def test_an_effect_that_cannot_be_is_refused(effect: str, says: str) -> None:
    wrong = _wrong(f"{HEAD}effects:\n  - {{{effect}}}\n")
    assert len(wrong) == 1
    assert wrong[0].startswith(f"x.yaml:4: {says}")


def test_a_file_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="no such file; legal: a file with a YAML mapping with title, must"):
        load_scenario(tmp_path / "none.yaml")
