"""Named scenarios: each plays one rollout and asserts how it must end. The ablation tests take a stage out."""

from __future__ import annotations

from dataclasses import replace

from analysis.decision import Phase
from analysis.simulation.scenario import Effect, Kpi, On, Shape, strength
from analysis.spec import KpiKind
from tests.sim.loop import DEFAULT, EU, NEWCOMERS, ONSET_S, POWER, SEGMENTS, Run, demo_spec, faulty, play

LIMIT_OF_CREEP = 0.10
ERRORS = 0.37  # sessions that meet an error where 8 % of requests fail
CREEP = Effect(kpi=Kpi.ERRORS, segment="power", plus=0.10, at_s=20.0, shape=Shape.RAMP, over_s=65.0)


def healthy_release_is_promoted_everywhere(seed: int = 0) -> Run:
    """No fault: nobody is rolled back, and everybody is promoted within the demo's time."""
    run = play(seed=seed)
    assert set(run.phases().values()) == {Phase.PROMOTED}, run.told
    return run


def demo_faults_are_told_apart(seed: int = 0) -> Run:
    """`power` meets 503s, `eu` a checkout that leads nowhere; everybody else is well served."""
    run = play(faulty(Kpi.ERRORS, POWER, plus=ERRORS), faulty(Kpi.ABANDONMENT, EU, plus=1.0), seed=seed)
    assert run.told["power"].phase is Phase.ROLLED_BACK, run.told
    assert "error_rate" in run.reason_codes("power")
    assert run.told["eu"].phase is Phase.ROLLED_BACK, run.told
    assert "abandonment" in run.reason_codes("eu")
    assert {run.told[name].phase for name in ("newcomers", "default")} == {Phase.PROMOTED}, run.told
    return run


def slow_version_is_rolled_back_on_latency(seed: int = 0) -> Run:
    run = play(faulty(Kpi.LATENCY, NEWCOMERS, times=2.0), seed=seed, until_final=("newcomers",))
    assert run.told["newcomers"].phase is Phase.ROLLED_BACK, run.told
    assert "latency" in run.reason_codes("newcomers")
    return run


def broken_feature_is_rolled_back_on_its_use(seed: int = 0) -> Run:
    """Nothing errs, nothing slows, nobody leaves: only the OTLP events of the feature stay away."""
    run = play(faulty(Kpi.FEATURE, DEFAULT, times=0.0), seed=seed, until_final=("default",))
    assert run.told["default"].phase is Phase.ROLLED_BACK, run.told
    assert "feature:wishlist" in run.reason_codes("default")
    return run


def hidden_errors_are_found_in_spans(seed: int = 0) -> Run:
    """Failures behind status 200: only the server's spans tell."""
    run = play(faulty(Kpi.ERRORS, POWER, plus=ERRORS), seed=seed, hide_errors=True, until_final=("power",), until_s=60)
    assert run.told["power"].phase is Phase.ROLLED_BACK, run.told
    assert "error_rate" in run.reason_codes("power")
    return run


def canary_that_half_of_the_logs_do_not_tell_of_is_not_promoted(seed: int = 0) -> Run:
    """All that is heard of it is good. Nothing is rolled back for it, and nothing rises."""
    run = play(Effect(kpi=Kpi.LOGS, times=0.5), seed=seed, until_s=80)
    assert set(run.phases().values()) <= {Phase.RAMPING, Phase.BAKING}, run.told
    last = run.decisions[-len(SEGMENTS) :]
    assert {decision.verdict.reasons[0].code for decision in last} == {"sample_ratio"}
    return run


def crash_is_taken_back_at_once(seed: int = 0) -> Run:
    """Every request on the canary fails: the hard tier acts within three ticks of its onset."""
    run = play(faulty(Kpi.ERRORS, plus=1.0), seed=seed, until_s=40)
    for name, told in run.told.items():
        assert (told.phase, told.tier) == (Phase.ROLLED_BACK, "hard"), (name, told)
        assert told.at_s is not None
        assert told.at_s <= ONSET_S + 3
    return run


def world_that_gets_worse_is_not_held_against_the_canary(seed: int = 0) -> Run:
    """Both versions break the error limit: hold, roll nobody back, raise nobody."""
    onset_s = 25.0
    run = play(Effect(kpi=Kpi.ERRORS, on=On.BOTH, plus=0.157, at_s=onset_s), seed=seed, until_s=60)
    assert Phase.ROLLED_BACK not in run.phases().values(), run.told
    settled = [splits for at_s, splits in run.splits if at_s >= onset_s + 9]  # judged at 4 s, a second more to hear
    for name in SEGMENTS:
        assert max(splits[name] for splits in settled) <= settled[0][name], name
    held = {reason.code for decision in run.decisions for reason in decision.verdict.reasons}
    assert "over_limit:error_rate" in held
    assert "world" in held
    return run


def too_little_traffic_is_not_known_yet(seed: int = 0) -> Run:
    """One visitor in twenty seconds: the segment is neither promoted nor condemned, and says what it needs."""
    run = play(seed=seed, rates=[15, 0.05, 15, 15], until_s=100, until_final=("power",))
    assert run.told["power"].phase is Phase.PROMOTED, run.told
    assert run.told["eu"].phase is Phase.RAMPING, run.told
    assert run.told["eu"].largest_bp <= 5_000
    assert run.engine.ramp is not None
    view = run.engine.ramp.view("eu")
    assert view.health == "unknown"
    assert view.needed is not None
    assert view.needed.needed > 0
    return run


def slow_creep_is_rolled_back_before_it_crosses_the_limit(seed: int = 1) -> Run:
    """The error rate creeps up to its limit, long within the tolerance: only the forecast sees it in time.

    With 30 people a second it cannot be told from a steady excess before it is there; with 60 it can.
    """
    spec = demo_spec(bake_s=90.0)
    errors = replace(spec.kpis[0], tolerance=0.09, limit=LIMIT_OF_CREEP)
    assert errors.kind is KpiKind.ERROR_RATE
    half = replace(spec.segments[POWER], max_split_bp=5_000)
    spec = replace(spec, kpis=(errors, *spec.kpis[1:]), segments=(half, *spec.segments[1:]))
    run = play(CREEP, seed=seed, spec=spec, until_s=85, until_final=("power",), rates=[60, 2, 2, 2])
    assert run.told["power"].phase is Phase.ROLLED_BACK, run.told
    assert run.told["power"].tier == "predicted", run.told
    assert run.told["power"].at_s is not None
    here = strength(CREEP, at_s=run.told["power"].at_s, exposed_s=0.0, split=0.0)
    assert 0.005 + CREEP.plus * here < LIMIT_OF_CREEP
    return run
