"""Named scenarios: each plays one rollout and asserts how it must end. The ablation tests take a stage out."""

from __future__ import annotations

from dataclasses import replace

from analysis.decision import Phase
from analysis.simulation.people import Habits, Truth
from analysis.spec import KpiKind
from tests.sim.loop import DEFAULT, EU, NEWCOMERS, ONSET_S, POWER, SEGMENTS, Run, Truths, demo_spec, faulty, play

LIMIT_OF_CREEP = 0.10


def healthy_release_is_promoted_everywhere(seed: int = 0) -> Run:
    """No fault: nobody is rolled back, and everybody is promoted within the demo's time."""
    run = play({}, seed=seed)
    assert set(run.phases().values()) == {Phase.PROMOTED}, run.told
    return run


def demo_faults_are_told_apart(seed: int = 0) -> Run:
    """`power` meets 503s, `eu` a checkout that leads nowhere; everybody else is well served."""
    run = play({(POWER, 1): faulty(request_errors=0.08), (EU, 1): faulty(dead_checkout=1.0)}, seed=seed)
    assert run.told["power"].phase is Phase.ROLLED_BACK, run.told
    assert "error_rate" in run.reason_codes("power")
    assert run.told["eu"].phase is Phase.ROLLED_BACK, run.told
    assert "abandonment" in run.reason_codes("eu")
    assert {run.told[name].phase for name in ("newcomers", "default")} == {Phase.PROMOTED}, run.told
    return run


def slow_version_is_rolled_back_on_latency(seed: int = 0) -> Run:
    run = play({(NEWCOMERS, 1): faulty(slow=0.3)}, seed=seed, until_final=("newcomers",))
    assert run.told["newcomers"].phase is Phase.ROLLED_BACK, run.told
    assert "latency" in run.reason_codes("newcomers")
    return run


def broken_feature_is_rolled_back_on_its_use(seed: int = 0) -> Run:
    """Nothing errs, nothing slows, nobody leaves: only the OTLP events of the feature stay away."""
    run = play({(DEFAULT, 1): faulty(feature_broken=1.0)}, seed=seed, until_final=("default",))
    assert run.told["default"].phase is Phase.ROLLED_BACK, run.told
    assert "feature:wishlist" in run.reason_codes("default")
    return run


def hidden_errors_are_found_in_spans(seed: int = 0) -> Run:
    """Failures behind status 200: only the server's spans tell."""
    run = play(
        {(POWER, 1): faulty(request_errors=0.08)}, seed=seed, hide_errors=True, until_final=("power",), until_s=60
    )
    assert run.told["power"].phase is Phase.ROLLED_BACK, run.told
    assert "error_rate" in run.reason_codes("power")
    return run


def canary_that_half_of_the_logs_do_not_tell_of_is_not_promoted(seed: int = 0) -> Run:
    """All that is heard of it is good. Nothing is rolled back for it, and nothing rises."""
    run = play({}, seed=seed, lose_logs=True, until_s=80)
    assert set(run.phases().values()) <= {Phase.RAMPING, Phase.BAKING}, run.told
    last = run.decisions[-len(SEGMENTS) :]
    assert {decision.verdict.reasons[0].code for decision in last} == {"sample_ratio"}
    return run


def crash_is_taken_back_at_once(seed: int = 0) -> Run:
    """Every request on the canary fails: the hard tier acts within three ticks of its onset."""
    run = play({(i, 1): faulty(request_errors=1.0) for i in range(len(SEGMENTS))}, seed=seed, until_s=40)
    for name, told in run.told.items():
        assert (told.phase, told.tier) == (Phase.ROLLED_BACK, "hard"), (name, told)
        assert told.at_s is not None
        assert told.at_s <= ONSET_S + 3
    return run


def world_that_gets_worse_is_not_held_against_the_canary(seed: int = 0) -> Run:
    """Both versions break the error limit: hold, roll nobody back, raise nobody."""
    onset_s = 25.0
    truths = {(i, v): Truth(onset_s=onset_s, request_errors=0.03) for i in range(len(SEGMENTS)) for v in (0, 1)}
    run = play(truths, seed=seed, until_s=60)
    assert Phase.ROLLED_BACK not in run.phases().values(), run.told
    settled = [splits for at_s, splits in run.splits if at_s > onset_s + 20]
    for name in SEGMENTS:
        assert max(splits[name] for splits in settled) <= settled[0][name], name
    assert any(reason.code == "world" for decision in run.decisions for reason in decision.verdict.reasons)
    return run


def too_little_traffic_is_not_known_yet(seed: int = 0) -> Run:
    """One visitor in twenty seconds: the segment is neither promoted nor condemned, and says what it needs."""
    run = play({}, seed=seed, habits={EU: Habits(sessions_per_s=0.05)}, until_s=100, until_final=("power",))
    assert run.told["power"].phase is Phase.PROMOTED, run.told
    assert run.told["eu"].phase is Phase.RAMPING, run.told
    assert run.told["eu"].largest_bp <= 5_000
    assert run.engine.ramp is not None
    view = run.engine.ramp.view("eu")
    assert view.health == "unknown"
    assert view.needed is not None
    assert view.needed.needed > 0
    return run


def slow_creep_is_rolled_back_before_it_crosses_the_limit(seed: int = 0) -> Run:
    """The error rate creeps up to its limit, long within the tolerance: only the forecast sees it in time."""
    truth_now = {"share": 0.0}

    def creep(at_s: float, truths: Truths) -> None:
        by_request = max(at_s - 20.0, 0.0) * 0.0003
        truth_now["share"] = 1 - (1 - by_request) ** 5.6 + 0.005  # a session has 5.6 requests on average
        truths[POWER, 1] = Truth(request_errors=by_request)

    spec = demo_spec(bake_s=90.0)
    errors = replace(spec.kpis[0], tolerance=0.09, limit=LIMIT_OF_CREEP)
    assert errors.kind is KpiKind.ERROR_RATE
    half = replace(spec.segments[POWER], max_split_bp=5_000)
    spec = replace(spec, kpis=(errors, *spec.kpis[1:]), segments=(half, *spec.segments[1:]))
    few = dict.fromkeys((EU, NEWCOMERS, DEFAULT), Habits(sessions_per_s=2))
    run = play(
        {}, seed=seed, spec=spec, each_tick=creep, until_s=85, until_final=("power",),
        habits={POWER: Habits(sessions_per_s=30), **few},
    )  # fmt: skip
    assert run.told["power"].phase is Phase.ROLLED_BACK, run.told
    assert run.told["power"].tier == "predicted", run.told
    assert truth_now["share"] < LIMIT_OF_CREEP
    return run
