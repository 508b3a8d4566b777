"""Peers with fixed steps and thresholds do what their sources say: Argo Rollouts, Flagger, predict_linear, a z-test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.contest.metrics import CANARY, History, histogram_quantile
from benchmarks.contest.peers import argo
from benchmarks.contest.peers.argo import AnalysisRun, Argo, MeasureError, Metric, Pause, Phase, SetWeight
from benchmarks.contest.peers.flagger import Flagger, flagger_docs, flagger_steps, request_duration
from benchmarks.contest.peers.predict_linear import PredictLinear, predict_linear
from benchmarks.contest.peers.protocol import State
from benchmarks.contest.peers.ramp_z import RampZ
from tests.peer_rig import BOUNDS_MS, Truth, batch, play, seen_of

NOTHING = seen_of()


# -- what Prometheus tells ---------------------------------------------------------------------------------------------


def test_a_rate_of_nothing_is_nan_and_a_window_is_cut_at_the_start() -> None:
    assert math.isnan(NOTHING.success_rate(CANARY, 60))
    seen = seen_of((Truth(errors=(0, 1)), 0.5), (Truth(errors=(0, 0)), 0.5))
    assert seen.success_rate(CANARY) == seen.success_rate(CANARY, 60) == 0.5
    assert seen.instant_success_rate(CANARY) == 1.0


def test_a_quantile_is_linear_within_its_bucket_and_the_last_bound_beyond_all() -> None:
    bounds = np.array([100.0, 200.0, np.inf])
    assert histogram_quantile(0.5, np.array([0, 10, 0]), bounds) == 150.0
    assert histogram_quantile(0.99, np.array([0, 0, 3]), bounds) == 200.0
    assert math.isnan(histogram_quantile(0.5, np.array([0, 0, 0]), bounds))


# -- Argo Rollouts -----------------------------------------------------------------------------------------------------


def phase(n: int, value: float = 0.0, **metric: object) -> Phase:
    """The run's phase after n measurements, a second apart."""
    run = AnalysisRun((Metric(measure=lambda _: value, **{"interval_s": 1.0, **metric}),), 0.0)  # type: ignore[arg-type]
    return [run.advance(NOTHING, float(at)) for at in range(n)][-1]


def test_argo_docs_promotes_a_good_release_in_40_minutes_by_its_four_steps() -> None:
    told = play(argo.argo_docs(), Truth(errors=(0.002, 0.002)))
    assert (told.last.state, told.end_min) == (State.PROMOTED, 40)
    assert [told.weight_at(minutes) for minutes in (0, 9.9, 10, 25, 39.9, 40)] == [0.2, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_a_fully_broken_canary_is_aborted_by_argo_docs_after_25_minutes() -> None:
    told = play(argo.argo_docs(), Truth(errors=(0.0, 1.0)))
    assert (told.last.state, told.last.weight, told.end_min) == (State.ROLLED_BACK, 0.0, 25)


def test_argo_strict_ends_with_the_first_failure_and_retries_while_there_is_no_series() -> None:
    told = play(argo.argo_strict(), Truth(errors=(0.0, 0.06)))
    assert (told.last.state, told.end_min) == (State.ROLLED_BACK, 10 / 60)
    assert play(argo.argo_strict(), Truth(errors=(0.0, 0.04))).last.state is State.PROMOTED


def test_argo_measures_nothing_once_promoted() -> None:
    told = play(argo.argo_docs(), lambda at_s: Truth(errors=(0.0, 1.0 if at_s >= 2_400 else 0.0)))
    assert told.last.state is State.PROMOTED


def test_irate_sees_only_the_last_scrape() -> None:
    """Four good scrapes in five minutes of errors are enough to pass."""
    told = play(argo.argo_docs(), lambda at_s: Truth(errors=(0.0, 0.0 if at_s % 300 == 290 else 1.0)))
    assert told.last.state is State.PROMOTED


def test_idle_canaries_fail_their_measurements() -> None:
    told = play(argo.argo_strict(), lambda at_s: Truth(per_s=0.0 if at_s >= 60 else 100.0))
    assert told.last.state is State.ROLLED_BACK


def test_failure_limit_3_needs_the_4th_failure() -> None:
    assert phase(3, success=bool, failure_limit=3) is Phase.RUNNING
    assert phase(4, success=bool, failure_limit=3) is Phase.FAILED
    assert phase(99, success=bool, failure_limit=-1) is Phase.RUNNING


def test_failures_are_never_forgotten() -> None:
    values = iter([1.0, 0.0] * 4)
    run = AnalysisRun((Metric(measure=lambda _: next(values), success=bool, interval_s=1.0, failure_limit=3),), 0.0)
    assert [run.advance(NOTHING, float(at)) for at in range(8)][-2:] == [Phase.RUNNING, Phase.FAILED]


def test_errors_do_not_count_are_retried_after_10_s_and_the_5th_in_a_row_ends_it() -> None:
    calls: list[float] = []

    def fails(_: object) -> float:
        calls.append(0)
        raise MeasureError

    run = AnalysisRun((Metric(measure=fails, interval_s=600.0, count=1),), 0.0)
    assert [run.advance(NOTHING, float(at)) for at in range(0, 40, 5)][-1] is Phase.RUNNING
    assert len(calls) == 4
    assert run.advance(NOTHING, 40.0) is Phase.ERROR


@pytest.mark.parametrize(
    ("conditions", "value", "expected"),
    [
        ({}, 0.0, Phase.SUCCESSFUL),  # none given, though the documentation says Inconclusive
        ({"success": bool}, 0.0, Phase.FAILED),
        ({"failure": bool}, 0.0, Phase.SUCCESSFUL),
        ({"success": lambda v: v > 5, "failure": lambda v: v < 2}, 3.0, Phase.INCONCLUSIVE),
        ({"success": bool, "failure": bool}, 1.0, Phase.FAILED),  # failure wins
    ],
)
def test_what_conditions_make_of_a_measurement(conditions: dict[str, object], value: float, expected: Phase) -> None:
    assert argo.evaluate(Metric(measure=lambda _: value, **conditions), NOTHING) is expected  # type: ignore[arg-type]


def test_a_count_ends_a_metric_and_none_with_an_interval_never_does() -> None:
    assert phase(2, success=lambda _: True, count=2) is Phase.SUCCESSFUL
    assert phase(50, success=lambda _: True) is Phase.RUNNING
    assert phase(1, success=lambda _: True, interval_s=None) is Phase.SUCCESSFUL
    assert phase(2, success=lambda _: True, consecutive_success_limit=2) is Phase.SUCCESSFUL
    assert phase(2, success=bool, failure_limit=5, count=2, consecutive_success_limit=2) is Phase.INCONCLUSIVE


def test_an_inconclusive_measurement_freezes_the_weight_until_a_human_comes() -> None:
    metric = Metric(measure=lambda _: 3.0, success=lambda v: v > 5, failure=lambda v: v < 2)
    told = play(Argo("x", (SetWeight(weight=0.3), Pause(duration_s=60)), (metric,)), Truth(), hours=0.01)
    assert (told.last.state, told.last.weight) == (State.PAUSED, 0.3)


def test_an_inline_analysis_ends_its_step_only_with_success_and_a_bare_pause_waits() -> None:
    good, bad = (Metric(measure=lambda _, v=v: v, success=bool) for v in (1.0, 0.0))  # type: ignore[misc]
    steps = (SetWeight(weight=0.1), argo.Analysis(metrics=(good,)))
    assert play(Argo("x", steps), Truth()).last.state is State.PROMOTED
    assert play(Argo("x", (steps[0], argo.Analysis(metrics=(bad,)))), Truth()).last.state is State.ROLLED_BACK
    told = play(Argo("x", (SetWeight(weight=0.1), Pause())), Truth(), hours=0.1)
    assert (told.last.state, told.last.weight) == (State.PAUSED, 0.1)


# -- Flagger -----------------------------------------------------------------------------------------------------------


def test_flagger_docs_promotes_after_27_ticks_and_never_watches_above_50_percent() -> None:
    told = play(flagger_docs(), lambda at_s: Truth(errors=(0.0, 1.0 if at_s >= 26 * 60 else 0.0)))
    assert (told.last.state, told.end_min) == (State.PROMOTED, 27)
    assert max(step.weight for at, step in told.steps.items() if at < 27 * 60) == 0.5


def test_flagger_steps_takes_six_ticks() -> None:
    told = play(flagger_steps(), Truth())
    assert (told.last.state, told.end_min) == (State.PROMOTED, 6)
    assert [told.weight_at(minutes) for minutes in range(7)] == [0.0, 0.01, 0.02, 0.10, 0.80, 0.80, 1.0]


def test_flagger_rolls_back_on_the_tick_after_the_threshold_and_holds_the_weight_meanwhile() -> None:
    """The first tick has hooks only, ten checks fail, the one after rolls back."""
    told = play(flagger_docs(), Truth(errors=(0.0, 1.0)))
    assert (told.last.state, told.end_min) == (State.ROLLED_BACK, 12)
    assert told.weight_at(11.9) == 0.02


def test_good_checks_never_reset_flaggers_counter() -> None:
    def every_second_minute(at_s: float) -> Truth:
        return Truth(errors=(0.0, 1.0 if at_s // 60 % 2 else 0.0))

    peer = flagger_docs()
    told = play(peer, every_second_minute)
    assert (told.last.state, peer.failed_checks) == (State.ROLLED_BACK, 10)
    assert told.end_min == 21


def test_several_failing_checks_are_one_failed_check_and_no_value_is_one() -> None:
    peer = Flagger("x", (0.5,), (lambda _: False, lambda _: False), threshold=10)
    peer.decide(NOTHING, 0.0)
    peer.decide(NOTHING, 60.0)
    peer.decide(NOTHING, 120.0)
    assert peer.failed_checks == 1
    assert not request_duration()(NOTHING)
    assert play(flagger_docs(), Truth(per_s=0.0)).last.state is State.ROLLED_BACK


def test_flagger_checks_the_99th_percentile() -> None:
    assert play(flagger_docs(), Truth(ms=(20.0, 400.0))).last.state is State.PROMOTED
    assert play(flagger_docs(), Truth(ms=(20.0, 800.0))).last.state is State.ROLLED_BACK


@pytest.mark.parametrize(("per_s", "errors", "low", "high"), [(5, 0.005, 0.08, 0.27), (1, 0.02, 0.32, 0.58)])
def test_flagger_docs_errs_with_little_traffic_as_measured_elsewhere(
    per_s: float, errors: float, low: float, high: float
) -> None:
    """16 % of harmless releases rolled back at 5 requests/s and .5 % errors; 45 % of bad ones at 1/s and 2 %."""
    rng, rolled_back = np.random.default_rng(5), 0
    for _ in range(150):
        peer, history, weight = flagger_docs(), History(1, BOUNDS_MS), 0.0
        for minute in range(60):
            step = peer.decide(history.of(0), minute * 60.0)
            if step.state in {State.PROMOTED, State.ROLLED_BACK}:
                break
            weight = step.weight
            n = rng.poisson(per_s * 60 * weight)
            told = batch(Truth(per_s=0.0), weight)
            told.requests[0, CANARY], told.failed[0, CANARY] = n, rng.binomial(n, errors)
            told.durations[0, CANARY, 1] = n
            history.add(told)
            for _ in range(5):
                history.add(batch(Truth(per_s=0.0), weight))
        rolled_back += step.state is State.ROLLED_BACK
    assert low < rolled_back / 150 < high


# -- predict_linear, and the naive floor -------------------------------------------------------------------------------


def test_predict_linear_is_the_least_squares_line_ahead() -> None:
    assert predict_linear([0, 60, 120], [0.0, 0.001, 0.002], now_s=120, ahead_s=600) == pytest.approx(0.012)
    assert predict_linear([0, 60], [math.nan, 0.5], now_s=60, ahead_s=60) != 0
    assert math.isnan(predict_linear([0.0], [1.0], now_s=0, ahead_s=60))


def test_predict_linear_rolls_back_before_the_limit_and_only_after_five_minutes_of_it() -> None:
    def creeps(at_s: float) -> Truth:
        return Truth(per_s=10_000.0, errors=(0.0, at_s * 5e-6))  # 1 % after 33 minutes

    told = play(PredictLinear(), creeps)
    assert told.last.state is State.ROLLED_BACK
    assert 5 < told.end_min < 20
    blip = play(PredictLinear(), lambda at_s: Truth(errors=(0.0, 0.0 if at_s % 3_600 != 1_200 else 0.05)))
    assert blip.last.state is State.PROMOTED


def test_the_z_test_ramps_in_half_an_hour_and_stops_at_its_first_significant_look() -> None:
    told = play(RampZ(), Truth(users_bad=(0.005, 0.005)))
    assert (told.last.state, told.end_min) == (State.PROMOTED, 30)
    assert told.weight_at(15) == pytest.approx(0.5, abs=0.02)
    assert play(RampZ(), Truth(users_bad=(0.005, 0.02))).last.state is State.ROLLED_BACK
