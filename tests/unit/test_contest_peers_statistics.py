"""Peers that test or learn do what their sources say: Kayenta, GrowthBook, Statsig, Iter8, Q-learning."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest

from benchmarks.contest.contestants import PEERS
from benchmarks.contest.peers import growthbook, pritchard, statsig
from benchmarks.contest.peers.iter8_v1 import Iter8V1
from benchmarks.contest.peers.iter8_v2 import Iter8V2
from benchmarks.contest.peers.kayenta import Direction, Judge, Kayenta, Label, score
from benchmarks.contest.peers.mann_whitney import shift_interval, statistic
from benchmarks.contest.peers.pritchard import Pritchard
from benchmarks.contest.peers.protocol import State
from tests.peer_rig import Truth, play, seen_of

RNG = np.random.default_rng


# -- Kayenta -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_mann_whitney_agrees_with_all_pairwise_differences(seed: int) -> None:
    """The statistic steps at pairwise differences only; so the interval ends at those where it passes z."""
    rng = RNG(seed)
    x, y = rng.normal(1.0, 1.0, 11), rng.normal(0.0, 1.0, 15)  # an odd number of pairs: one middle one
    jumps = np.sort([a - b for a, b in itertools.product(x, y)])
    between = (jumps[1:] + jumps[:-1]) / 2
    found = shift_interval(x, y)
    for z, corrected, value in (
        (2.3263479, True, found.low),
        (-2.3263479, True, found.high),
        (0.0, False, found.estimate),
    ):
        above = [statistic(mu, x, y, corrected=corrected) > z for mu in between]
        expected = jumps[1 + np.flatnonzero(above)[-1]]
        assert value == pytest.approx(expected, abs=2e-4)
    assert found.low < found.estimate < found.high


def test_mann_whitney_corrects_for_ties() -> None:
    x, y = np.array([1.0, 1, 2, 2]), np.array([1.0, 2, 2, 3])
    n = m = 4
    ranks_x, tied = 2 + 2 + 5.5 + 5.5, (3**3 - 3) + (4**3 - 4)
    variance = n * m / 12 * ((n + m + 1) - tied / ((n + m) * (n + m - 1)))
    assert statistic(0.0, x, y, corrected=False) == pytest.approx((ranks_x - 10 - 8) / math.sqrt(variance))


def points(mean: float, n: int = 60, seed: int = 1) -> np.ndarray:
    return RNG(seed).normal(mean, 10.0, n)


def test_the_judge_finds_a_large_shift_and_only_in_its_direction() -> None:
    high, low, same = points(130.0), points(70.0), points(100.0, seed=2)
    assert Judge().label(high, same, RNG(0)) is Label.HIGH
    assert Judge().label(low, same, RNG(0)) is Label.PASS
    assert Judge(direction=Direction.DECREASE).label(low, same, RNG(0)) is Label.LOW
    assert Judge(direction=Direction.EITHER).label(low, same, RNG(0)) is Label.LOW
    assert Judge(allowed_increase=1.5).label(high, same, RNG(0)) is Label.PASS


def test_power_and_false_alarms_of_one_judgement_are_as_measured_elsewhere() -> None:
    """5 % up, 60 points: about 1 in 3; 10 %: nearly always; no shift: never in 100."""

    def found(mean: float, n: int) -> float:
        return float(np.mean([
            Judge().label(RNG([i, 1]).normal(mean, 10, n), RNG([i, 2]).normal(100, 10, n), RNG(0)) is Label.HIGH
            for i in range(100)
        ]))  # fmt: skip

    assert 0.15 < found(105.0, 60) < 0.50
    assert found(110.0, 60) > 0.95
    assert found(100.0, 60) == 0.0


def test_what_the_judge_makes_of_missing_identical_and_constant_points() -> None:
    nan = np.full(5, np.nan)
    assert Judge().label(nan, points(1.0), RNG(0)) is Label.NODATA
    assert Judge().label(points(1.0), points(1.0), RNG(0)) is Label.PASS
    assert Judge().label(np.full(9, 2.0), np.full(9, 2.0), RNG(0)) is Label.PASS
    assert Judge().label(np.full(60, 2.0), np.full(60, 1.0), RNG(0)) is Label.HIGH  # by noise of 1e-5


def test_a_baseline_without_errors_and_a_canary_with_few_pass() -> None:
    """kayenta#377: most points are zero in both."""
    canary = np.zeros(60)
    canary[::10] = 0.2
    assert Judge().label(canary, np.zeros(60), RNG(0)) is Label.PASS


def test_the_score_is_the_share_of_groups_and_half_without_data_is_nothing() -> None:
    assert score({"a": Label.PASS, "b": Label.HIGH}) == 50.0
    assert score({"a": Label.PASS, "b": Label.PASS, "c": Label.NODATA}) == 100.0
    assert score({"a": Label.PASS, "b": Label.NODATA}) == 0.0


def test_kayenta_judges_each_hour_promotes_after_three_and_stops_at_the_marginal_score() -> None:
    def kayenta(**kwargs: object) -> Kayenta:
        return Kayenta("x", Judge(), rng=RNG(0), **kwargs)  # type: ignore[arg-type]

    told = play(kayenta(), Truth(errors=(0.01, 0.01)))
    assert (told.last.state, told.end_min, told.weight_at(100)) == (State.PROMOTED, 180, 0.05)
    bad = Truth(errors=(0.01, 0.05))  # one of two groups: 50
    assert play(kayenta(), bad).end_min == 60
    at_marginal = play(kayenta(thresholds=(40.0, 50.0)), bad)
    assert (at_marginal.last.state, at_marginal.end_min) == (State.ROLLED_BACK, 60)  # <=, not <
    above = play(kayenta(thresholds=(60.0, 40.0)), bad)
    assert (above.last.state, above.end_min) == (State.ROLLED_BACK, 180)  # the last one needs the pass score


# -- GrowthBook --------------------------------------------------------------------------------------------------------


def test_growthbooks_sequence_holds_over_many_looks_and_is_narrowest_near_its_n() -> None:
    alpha, runs = 0.05, 400
    z = np.cumsum(RNG(3).normal(size=(runs, 4_000)), axis=1)
    n = np.arange(1, 4_001)
    widths = np.array([growthbook.half_width(float(k), 1 / math.sqrt(k), alpha) for k in n])
    crossed = ((z / n)[:, 49:] > widths[49:]).any(axis=1).mean()
    assert crossed < alpha + 0.03
    relative = [growthbook.half_width(k, 1.0, alpha) for k in (50.0, 5_000.0, 5e6)]
    assert relative[1] < min(relative[0], relative[2])


def test_growthbook_ships_what_is_inconclusive_at_the_end_and_is_capped_at_half() -> None:
    told = play(growthbook.growthbook_minute(RNG(0)), Truth(per_s=1_000.0, users_bad=(0.02, 0.022)))
    assert (told.last.state, told.end_min) == (State.PROMOTED, 60)
    assert [told.weight_at(minutes) for minutes in (0, 12, 24, 36, 48)] == [0.01, 0.05, 0.10, 0.25, 0.50]


def test_growthbook_rolls_back_on_either_guardrail_but_only_when_it_looks() -> None:
    for bad in (Truth(users_bad=(0.005, 0.05)), Truth(abandoned=(0.3, 0.4))):
        assert play(growthbook.growthbook_minute(RNG(0)), bad).last.state is State.ROLLED_BACK
    told = play(growthbook.growthbook_safe(RNG(0)), Truth(users_bad=(0.005, 1.0)), hours=7)
    assert (told.last.state, told.end_min) == (State.ROLLED_BACK, 360)


def test_a_broken_sample_ratio_holds_and_never_delays_a_rollback() -> None:
    class Skewed(growthbook.GrowthBook):
        def _read(self, seen: object, at_s: float) -> None:
            super()._read(seen, at_s)  # type: ignore[arg-type]
            self._counts[1, 0, 1] *= 0.7

    peer = Skewed("x", rng=RNG(0), duration_s=3_600.0, look_s=60.0)
    assert play(peer, Truth(), hours=0.2).last.state is State.PAUSED
    worse = Skewed("x", rng=RNG(0), duration_s=3_600.0, look_s=60.0)
    assert play(worse, Truth(users_bad=(0.0, 0.5)), hours=0.2).last.state is State.ROLLED_BACK


# -- Statsig -----------------------------------------------------------------------------------------------------------


def test_the_msprt_boundary_is_the_published_one() -> None:
    v, tau = 2.0, 3.0
    assert statsig.critical_z(v, tau, 0.05) == pytest.approx(
        math.sqrt((v + tau) / tau * (-2 * math.log(0.025) - math.log(v / (v + tau))))
    )
    assert statsig.critical_z(v, tau, 0.05) > 1.96


def test_statsig_needs_enough_people_and_looks_for_harm_only() -> None:
    assert not statsig.is_worse((0, 99), (99, 99), 0.05)
    assert statsig.is_worse((5, 1_000), (60, 1_000), 0.05)
    assert not statsig.is_worse((60, 1_000), (5, 1_000), 0.05)
    told = play(statsig.statsig_minute(), Truth(per_s=50.0))
    assert (told.last.state, told.end_min) == (State.PROMOTED, 30)
    assert play(statsig.statsig_minute(), Truth(users_bad=(0.005, 0.02))).last.state is State.ROLLED_BACK


def test_statsig_forgets_what_came_before_a_step() -> None:
    told = play(statsig.statsig_minute(), Truth(per_s=10_000.0, users_bad=(0.02, 0.0207)))
    assert told.last.state is State.PROMOTED
    control, canary = 60 * (18_000 + 15_000 + 10_000), 60 * (2_000 + 5_000 + 10_000)
    assert statsig.is_worse((control // 50, control), (round(canary * 0.0207), canary), 0.05)


def test_the_cloud_looks_once_a_day() -> None:
    assert play(statsig.statsig_daily(), Truth(users_bad=(0.0, 1.0)), hours=20).last.weight == 0.10


# -- Iter8 -------------------------------------------------------------------------------------------------------------


def test_iter8_v2_leaves_5_percent_on_a_failing_candidate_until_its_five_minutes_are_over() -> None:
    told = play(Iter8V2(rng=RNG(0)), Truth(errors=(0.0, 1.0)))
    weights = [step.weight for at, step in told.steps.items() if 0 < at < 300]
    assert np.mean(weights) == pytest.approx(0.05, abs=0.005)
    assert (told.last.state, told.end_min) == (State.ROLLED_BACK, 5)


def test_iter8_v2_rises_by_10_points_to_95_percent_and_promotes_after_15_iterations() -> None:
    told = play(Iter8V2(rng=RNG(0)), Truth())
    weights = [step.weight for step in told.steps.values()]
    assert max(np.diff(weights[:-1])) <= 0.10 + 1e-9
    assert weights[-2] == pytest.approx(0.95, abs=0.011)
    assert (told.last.state, told.end_min) == (State.PROMOTED, 5)


def test_a_failing_baseline_ends_iter8_v2_too_where_rollback_on_failure_is_set() -> None:
    told = play(Iter8V2(rng=RNG(0), rollback_on_failure=True), Truth(errors=(0.5, 0.0)))
    assert (told.last.state, told.end_min) == (State.ROLLED_BACK, 20 / 60)


def test_iter8_v1_rises_by_two_points_an_iteration_and_ends_after_a_hundred() -> None:
    told = play(Iter8V1(rng=RNG(0)), Truth(errors=(0.002, 0.002)))
    weights = [step.weight for step in told.steps.values()]
    assert np.diff(weights[:-1]).max() <= 0.03 + 1e-9  # two points, rounded at random
    assert weights[-2] == pytest.approx(0.975, abs=0.011)
    assert (told.last.state, told.end_min) == (State.PROMOTED, 50)


def test_iter8_v1_keeps_2_5_percent_on_a_candidate_that_breaks_a_criterion() -> None:
    for bad in (Truth(errors=(0.0, 0.2)), Truth(ms=(40.0, 400.0)), Truth(ms=(1_500.0, 1_500.0))):
        told = play(Iter8V1(rng=RNG(0)), bad)
        assert told.last.state is State.ROLLED_BACK
        assert told.weight_at(45) in {0.02, 0.03}


def test_iter8_v1_believes_in_a_candidate_by_its_beta_posterior() -> None:
    few = seen_of((Truth(per_s=2.0), 0.5))
    many = seen_of((Truth(per_s=1_000.0), 0.5))
    assert Iter8V1(rng=RNG(0)).best_share(few) < Iter8V1(rng=RNG(0)).best_share(many) == 1.0


# -- Q-learning --------------------------------------------------------------------------------------------------------


def test_the_learner_prefers_progress_without_failures_and_development_with_many() -> None:
    learner = pritchard.lived(pritchard.KAPPA)
    for stage in range(1, len(pritchard.STAGES) - 1):
        assert learner.choose(stage, pritchard.bin_of(0.002), 0.0) == pritchard.UP
    assert learner.choose(4, pritchard.bin_of(0.05), 0.0) == pritchard.DEVELOPMENT
    assert pritchard.reward_of(0.5, 0.0, 200.0) == 0.5 > pritchard.reward_of(0.5, 0.01, 200.0)


def test_the_learner_reaches_everybody_with_a_good_release_and_takes_a_broken_one_back() -> None:
    good = play(Pritchard(), Truth(errors=(0.002, 0.002)), hours=1)
    assert (good.last.state, good.last.weight) == (State.RUNNING, 1.0)
    assert play(Pritchard(), Truth(errors=(0.002, 0.2))).last.state is State.ROLLED_BACK


def test_it_learns_on_and_one_rollout_does_not_teach_another() -> None:
    before = copy.deepcopy(pritchard.lived(pritchard.KAPPA).q)
    play(Pritchard(), Truth(errors=(0.0, 0.01)), hours=0.2)
    assert pritchard.lived(pritchard.KAPPA).q == before


# -- all ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", PEERS, ids=lambda entry: entry.name)
def test_every_peer_decides_whatever_it_is_told_and_its_knobs_make_it_stricter(entry: object) -> None:
    for knob in entry.knobs:  # type: ignore[attr-defined]
        assert knob.at(0) == pytest.approx(knob.loosest)
        assert knob.at(1) == pytest.approx(knob.strictest)
        assert min(knob.loosest, knob.strictest) <= knob.documented <= max(knob.loosest, knob.strictest)
    values = {knob.name: knob.documented for knob in entry.knobs}  # type: ignore[attr-defined]
    for per_s in (0.0, 0.3, 1e5):
        told = play(entry.make(RNG(0), values), Truth(per_s=per_s, errors=(0.0, 1.0), users_bad=(0.0, 1.0)), hours=1)  # type: ignore[attr-defined]
        assert all(0 <= step.weight <= 1 for step in told.steps.values())
