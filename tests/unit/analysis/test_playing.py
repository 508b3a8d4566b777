"""A scenario is played as a rollout would go, and what came of it is counted as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.decision import Phase
from analysis.policy import FixedPolicy
from analysis.simulation.outcome import End, Run, SegmentRun, onset_s, segment_run, summarise
from analysis.simulation.playing import play
from analysis.simulation.playing_counts import BATCH, play_counts
from analysis.simulation.scenario import Effect, Group, Kpi, Must, On, Scenario
from tests.simulated import SHOPPERS
from tests.unit.analysis.rows import small_spec

SPEC = small_spec(rollout=replace(small_spec().rollout, settle_s=0.0))
GROUPS = tuple(Group(name=name, share=0.5, habits=SHOPPERS) for name in ("power", "default"))


def _scenario(*effects: Effect, **fields: object) -> Scenario:
    plain = Scenario(name="s", title="t", must=Must.KEEP, groups=GROUPS, effects=effects, horizon_s=100.0)
    return replace(plain, **fields)


def test_a_good_release_is_promoted_and_a_bad_one_taken_back_from_whom_it_harms() -> None:
    run = play(_scenario(Effect(kpi=Kpi.ERRORS, plus=0.5, segment="power")), SPEC, load=30, seed=1)
    power, default = run.segments
    assert (power.outcome, power.is_bad, power.full_s) == ("rolled_back", True, None)
    assert power.delay_s is not None
    assert power.ended_s is not None
    assert 0 < power.delay_s < power.ended_s
    assert 0 < power.harm <= power.exposed
    assert (default.outcome, default.is_bad, default.delay_s, default.harm) == ("promoted", False, None, 0)
    assert default.full_s == run.length_s
    assert default.exposed > 100


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    scenario = _scenario(horizon_s=12.0)
    first, again, other = (play(scenario, SPEC, load=20, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert other.segments != first.segments


def test_a_rollout_that_has_not_ended_at_the_horizon_is_undecided() -> None:
    told: list[float] = []
    run = play(_scenario(horizon_s=10.0), SPEC, load=20, seed=1, progress=told.append)
    assert {segment.outcome for segment in run.segments} == {"undecided"}
    assert run.length_s == 10.0
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_another_policy_takes_other_steps() -> None:
    scenario = _scenario(horizon_s=14.0)
    budget, fixed = (play(scenario, SPEC, load=40, seed=1, policy=policy) for policy in (None, FixedPolicy()))
    assert sum(segment.exposed for segment in fixed.segments) < sum(segment.exposed for segment in budget.segments)


def test_splits_that_move_at_each_tick_expose_fewer() -> None:
    scenario = _scenario(horizon_s=22.0)
    still, moved = (
        play(replace(scenario, moving_splits=moving), SPEC, load=40, seed=1) for moving in (False, True)
    )  # fmt: skip
    assert 0 < sum(s.exposed for s in moved.segments) < sum(s.exposed for s in still.segments)
    assert "rolled_back" not in {segment.outcome for segment in moved.segments}


def test_counted_rollouts_in_step_end_as_single_ones_do() -> None:
    scenario = _scenario(Effect(kpi=Kpi.ERRORS, plus=0.5, segment="power"), horizon_s=200.0)
    runs = play_counts(scenario, SPEC, load=30, seeds=range(8))
    power, default, whole = summarise(runs)
    assert [run.seed for run in runs] == list(range(8))
    assert (power.is_bad, power.shares["rolled_back"]) == (True, 1.0)
    assert power.delay_s is not None
    assert 0 < power.harm < power.exposed
    assert (default.is_bad, default.harm, default.shares["promoted"]) == (False, 0.0, 1.0)
    assert whole.shares["rolled_back"] == 1.0
    assert all(run.length_s == max(s.ended_s or 0.0 for s in run.segments) for run in runs)


def test_the_same_seeds_give_the_same_counted_runs_in_any_number_of_batches() -> None:
    scenario = _scenario(horizon_s=15.0)
    told: list[float] = []
    first = play_counts(scenario, SPEC, load=10, seeds=range(BATCH + 3), progress=told.append)
    again = play_counts(scenario, SPEC, load=10, seeds=range(BATCH + 3))
    assert first == again
    assert len(first) == BATCH + 3
    assert len({str(run.segments) for run in first}) > BATCH // 2, "and each is another one"
    assert told == sorted(told)
    assert told[-1] == BATCH + 3


def test_nothing_is_counted_of_a_rollout_that_has_ended() -> None:
    scenario = _scenario(Effect(kpi=Kpi.ERRORS, plus=0.9))
    for run in play_counts(scenario, SPEC, load=40, seeds=range(4)):
        assert run.length_s < 60
        assert sum(segment.exposed for segment in run.segments) < 40 * run.length_s


def test_counted_splits_move_too() -> None:
    scenario = _scenario(horizon_s=40.0)
    still, moved = (
        summarise(play_counts(replace(scenario, moving_splits=moving), SPEC, load=40, seeds=range(6)))[-1].exposed
        for moving in (False, True)
    )
    assert 0 < moved < still


def test_a_policy_is_made_anew_for_each_counted_rollout() -> None:
    made: list[FixedPolicy] = []

    def make() -> FixedPolicy:
        made.append(FixedPolicy())
        return made[-1]

    play_counts(_scenario(horizon_s=3.0), SPEC, load=10, seeds=range(5), policy=make)
    assert len({id(policy) for policy in made}) == 5


@pytest.mark.parametrize(
    ("effect", "first_s", "expected"),
    [
        (Effect(kpi=Kpi.ERRORS, plus=0.1, at_s=50), 20.0, 50.0),
        (Effect(kpi=Kpi.ERRORS, plus=0.1, at_s=5), 20.0, 20.0),  # nobody was there to be harmed before
        (Effect(kpi=Kpi.ERRORS, plus=0.1, at_s=5, since_exposure=True), 20.0, 25.0),
        (Effect(kpi=Kpi.FEATURE, times=0.5, at_s=30), 20.0, 30.0),
        (Effect(kpi=Kpi.ERRORS, times=0.5), 20.0, None),  # an improvement
        (Effect(kpi=Kpi.ERRORS, plus=0.1, on=On.BOTH), 20.0, None),
        (Effect(kpi=Kpi.ERRORS, plus=0.1, segment="default"), 20.0, None),
        (Effect(kpi=Kpi.LOGS, times=0.1), 20.0, None),
        (Effect(kpi=Kpi.ERRORS, plus=0.1), None, None),
    ],
)
def test_harm_begins_with_its_effect_but_not_before_anybody_is_exposed(
    effect: Effect, first_s: float | None, expected: float | None
) -> None:
    assert onset_s(_scenario(effect), "power", first_s) == expected


def test_a_promoted_segment_has_no_delay_and_one_taken_back_no_time_to_full() -> None:
    scenario = _scenario(Effect(kpi=Kpi.ERRORS, plus=0.1, at_s=30))
    promoted, back, withdrawn = (
        segment_run(
            scenario, "power", End(phase=phase, ended_s=70.0, first_exposure_s=10.0), harm=1, exposed=2
        )
        for phase in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.WITHDRAWN)
    )  # fmt: skip
    assert (promoted.full_s, promoted.delay_s) == (70.0, None)
    assert (back.full_s, back.delay_s) == (None, 40.0)
    assert (withdrawn.outcome, withdrawn.delay_s) == ("withdrawn", 40.0)


def _run(*segments: tuple[str, float | None, float | None, float]) -> Run:
    return Run(
        seed=0, length_s=100.0,
        segments=tuple(
            SegmentRun(
                segment=f"s{i}", outcome=outcome, is_bad=i == 0, full_s=full_s, delay_s=delay_s, harm=harm, exposed=10
            )
            for i, (outcome, full_s, delay_s, harm) in enumerate(segments)
        ),
    )  # fmt: skip


def test_runs_are_summed_up_by_segment_and_as_a_whole() -> None:
    runs = [
        _run(("rolled_back", None, 10.0, 4.0), ("promoted", 50.0, None, 0.0)),
        _run(("promoted", 30.0, None, 8.0), ("promoted", 70.0, None, 0.0)),
        _run(("undecided", None, None, 0.0), ("withdrawn", None, None, 0.0)),
    ]
    first, second, whole = summarise(runs)
    assert first.shares == pytest.approx({"promoted": 1 / 3, "rolled_back": 1 / 3, "withdrawn": 0, "undecided": 1 / 3})
    assert (first.full_s, first.delay_s, first.harm, first.exposed) == (30.0, 10.0, 4.0, 10.0)
    assert (second.full_s, second.delay_s) == (60.0, None)
    assert whole.segment == "all"
    assert whole.shares == pytest.approx({"promoted": 1 / 3, "rolled_back": 1 / 3, "withdrawn": 1 / 3, "undecided": 0})
    assert (whole.full_s, whole.delay_s, whole.harm, whole.exposed) == (70.0, 10.0, 4.0, 20.0)


def test_no_runs_are_nothing_to_sum_up() -> None:
    with pytest.raises(ValueError, match="no runs"):
        summarise([])
