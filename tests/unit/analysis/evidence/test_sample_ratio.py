"""Splits that are kept are hardly ever doubted, however often one looks; splits that are not are found soon."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from analysis.evidence.sample_ratio import ASKED, LOG_ODDS, ON_CANARY, PEOPLE, RISK, SampleRatio
from analysis.evidence.stake import NOW_SHARE, Stake
from analysis.window import BASELINE, CANARY

RISKS = (0.5, 0.2, 0.1, 0.05)
Newcomers = npt.NDArray[np.int64]


def _newcomers(people: npt.ArrayLike, on_canary: npt.ArrayLike, split_bp: npt.ArrayLike) -> Newcomers:
    """One tick of each segment of the only rollout."""
    n, x, bp = np.broadcast_arrays(np.asarray(people), np.asarray(on_canary), np.asarray(split_bp))
    segment, none = np.arange(len(n)), np.zeros(len(n), int)
    return np.concatenate(
        [
            np.stack([none, segment, bp, np.full(len(n), CANARY), x], axis=1),
            np.stack([none, segment, bp, np.full(len(n), BASELINE), n - x], axis=1),
        ]
    )


def _rows(*rows: tuple[int, int, int, int]) -> Newcomers:
    """(segment, split in basis points, arm, people) of the only rollout."""
    return np.array([(0, *row) for row in rows], np.int64).reshape(-1, 5)


def test_over_every_course_that_things_can_take_the_risk_is_at_most_the_stated_one() -> None:
    """Twelve people, every outcome, each with its exact probability: Ville's inequality, and a martingale."""
    splits_bp = (500, 5_000, 9_500, 1_000, 1_000, 8_000, 5_000, 2_500, 9_900, 100, 5_000, 7_000)
    courses = np.array(list(product((0, 1), repeat=len(splits_bp))))
    p = np.array(splits_bp) / 10_000
    chance = np.prod(np.where(courses == 1, p, 1 - p), axis=1)
    assert chance.sum() == pytest.approx(1)
    ratio, stake = SampleRatio(len(courses)), Stake()
    highest = np.full(len(courses), -np.inf)
    for tick, split_bp in enumerate(splits_bp):
        ratio.update(_newcomers(np.ones(len(courses), int), courses[:, tick], split_bp), since_exposure_s=10.0 * tick)
        stake.due(10.0 * tick)
        e_values = np.exp(ratio.log_e_values[0, :-1])
        assert chance @ e_values == pytest.approx(stake.spent[0]), "a fair bet: what is staked, neither more nor less"
        highest = np.maximum(highest, e_values)
    for risk in (0.9, *RISKS, 0.01):
        assert chance[highest >= 1 / risk].sum() <= risk


Splits = Callable[[int, npt.NDArray[np.float64]], npt.NDArray[np.int64]]


def _rises(tick: int, log_e: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.full(len(log_e), min(100 + 90 * tick, 9_500))


def _follows_the_evidence(tick: int, log_e: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.where(log_e > np.log(0.5), 9_000, 300)


def _any(tick: int, log_e: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.random.default_rng(tick).integers(0, 10_001, len(log_e))


@pytest.mark.parametrize("splits", [_rises, _follows_the_evidence, _any])
def test_splits_that_are_kept_are_hardly_ever_doubted_however_often_one_looks(splits: Splits) -> None:
    """The rate of false alarms over a hundred ticks, with the upper end of its 99 % interval."""
    runs = 1_000  # as segments: rows are independent streams
    ratio, rng = SampleRatio(runs), np.random.default_rng(1)
    highest = np.full(runs, -np.inf)
    for tick in range(100):
        split_bp = splits(tick, np.maximum(ratio.log_e_values[0, :-1], -1e9))
        people = rng.poisson(15, runs)
        ratio.update(_newcomers(people, rng.binomial(people, split_bp / 10_000), split_bp), since_exposure_s=tick * 10)
        highest = np.maximum(highest, ratio.log_e_values[0, :-1])
    for risk in RISKS:
        assert (highest >= np.log(1 / risk)).mean() <= risk + 2.6 * np.sqrt(risk * (1 - risk) / runs)
    assert not ratio.is_mismatch.any()


def _people_until_found(asked: float, real: float, *, onset: int = 0, runs: int = 40) -> npt.NDArray[np.float64]:
    """People after the onset until a mismatch is proven in each run; inf where it is not within 6,000."""
    each, rng = 20, np.random.default_rng(2)
    ratio, found = SampleRatio(runs), np.full(runs, np.inf)
    ratio.log_thresholds[:-1] = np.log(2 / RISK)  # those of a rollout with one segment
    for tick in range(onset + 6_000 // each):
        rate = real if tick >= onset else asked
        x = rng.binomial(each, rate, runs)
        ratio.update(_newcomers(np.full(runs, each), x, round(asked * 10_000)), since_exposure_s=tick * 10)
        assert tick >= onset or not ratio.is_mismatch[0, :-1].any()
        new = ratio.is_mismatch[0, :-1] & np.isinf(found)
        found[new] = (tick - onset + 1) * each
    return found


@pytest.mark.parametrize(
    ("asked", "real", "within"),
    [
        (0.5, 0.45, 2_500), (0.5, 0.55, 2_500), (0.5, 0.4, 700), (0.2, 0.25, 2_000), (0.05, 0.03, 3_000),
        (0.05, 0.08, 2_000), (0.95, 0.9, 1_000), (0.95, 0.98, 2_500), (0.5, 0.0, 40), (0.05, 0.0, 300),
        (0.95, 0.0, 20), (0.5, 1.0, 40),
    ],
)  # fmt: skip
def test_splits_that_are_not_kept_are_found_soon_in_either_direction(asked: float, real: float, within: int) -> None:
    found = _people_until_found(asked, real)
    assert np.median(found) <= within
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("asked", "real", "within"), [(0.5, 0.4, 1_200), (0.5, 0.0, 60), (0.95, 0.8, 500)])
def test_logs_that_get_lost_late_need_not_outweigh_a_long_past(asked: float, real: float, within: int) -> None:
    assert np.median(_people_until_found(asked, real, onset=300)) <= within


def test_one_person_counts_what_the_odds_say() -> None:
    theta = np.exp(LOG_ODDS)
    for arm, x in ((CANARY, 1), (BASELINE, 0)):
        ratio = SampleRatio(1)
        ratio.update(_rows((0, 2_000, arm, 1)), since_exposure_s=0.0)
        expected = NOW_SHARE * np.mean(theta**x / (1 - 0.2 + 0.2 * theta))
        np.testing.assert_allclose(np.exp(ratio.log_e_values), [[expected, expected]])
        assert ratio.totals.tolist() == [[[1, x, 0.2]] * 2]


def test_bets_are_the_same_on_both_sides() -> None:
    np.testing.assert_allclose(np.sort(LOG_ODDS), np.sort(-LOG_ODDS))


@pytest.mark.parametrize("split_bp", [0, 10_000])
def test_split_that_leaves_nothing_to_chance_is_no_evidence(split_bp: int) -> None:
    """Whoever is on the other version all the same was routed by an older configuration: ACKs tell, not chance."""
    ratio = SampleRatio(2)
    ratio.update(_rows((0, split_bp, BASELINE, 1_000), (0, split_bp, CANARY, 1_000)), since_exposure_s=0.0)
    np.testing.assert_allclose(ratio.log_e_values, np.log(NOW_SHARE))
    assert not ratio.totals.any()


def test_nobody_is_no_evidence_and_no_number_that_is_none() -> None:
    ratio = SampleRatio(2)
    assert not ratio.is_mismatch.any()
    for newcomers in ((), ((0, 5_000, CANARY, 0),), ((1, 1, BASELINE, 0), (1, 9_999, CANARY, 0))):
        ratio.update(_rows(*newcomers), since_exposure_s=0.0)
        np.testing.assert_allclose(ratio.log_e_values, np.log(NOW_SHARE))
    for split_bp in (1, 9_999):
        ratio.update(_rows((0, split_bp, CANARY, 10**9), (0, split_bp, BASELINE, 10**9)), since_exposure_s=1e12)
        assert np.isfinite(ratio.log_e_values).all()


def test_segments_add_up_in_the_pooled_row_and_may_cancel_there() -> None:
    together, apart = SampleRatio(5), SampleRatio(2)
    together.update(_newcomers([600] * 5, [250] * 5, 5_000), since_exposure_s=0.0)
    assert together.is_mismatch[0].tolist() == [False] * 5 + [True]
    apart.update(_newcomers([600] * 2, [220, 380], 5_000), since_exposure_s=0.0)
    assert apart.is_mismatch[0].tolist() == [True, True, False]
    assert together.totals[0, -1].tolist() == [3_000, 1_250, 1_500]
    assert (PEOPLE, ON_CANARY, ASKED) == (0, 1, 2)


def test_risks_of_all_rows_add_up_to_the_stated_one() -> None:
    for n_segments in (1, 4):
        assert np.exp(-SampleRatio(n_segments).log_thresholds).sum() == pytest.approx(RISK)


def test_the_whole_rollout_s_evidence_reaches_its_proof_where_some_row_does() -> None:
    ratio, rng = SampleRatio(3), np.random.default_rng(3)
    assert ratio.log_e[0] == -np.inf
    seen = set()
    for tick in range(60):
        ratio.update(_newcomers([30] * 3, rng.binomial(30, [0.5, 0.4, 0.5]), 5_000), since_exposure_s=tick)
        assert ratio.is_mismatch.any() == (ratio.log_e[0] >= np.log(1 / RISK))
        seen.add(bool(ratio.is_mismatch.any()))
    assert seen == {True, False}


def test_what_is_forgotten_begins_with_what_has_been_staked() -> None:
    ratio, stake = SampleRatio(2), Stake()
    for tick in range(10):
        ratio.update(_newcomers([30, 30], [0, 15], 5_000), since_exposure_s=tick * 10)
        stake.due(tick * 10)
    kept, staked = ratio.log_e_values[0, 1], np.log(stake.spent[0])
    ratio.forget(np.array([[True, False, True]]))
    np.testing.assert_allclose(ratio.log_e_values, [[staked, kept, staked]])
    assert ratio.totals[0].tolist() == [[0, 0, 0], [300, 150, 150], [0, 0, 0]]
    unused = SampleRatio(1)
    unused.forget(np.array([[True, True]]))
    assert np.isneginf(unused.log_e_values).all()


def test_restart_from_state_equals_an_uninterrupted_run() -> None:
    rng = np.random.default_rng(5)
    ticks = [_newcomers([30] * 3, rng.binomial(30, 0.3, 3), [3_000, 2_500, 4_000]) for _ in range(20)]
    whole, first = SampleRatio(3), SampleRatio(3)
    for tick, newcomers in enumerate(ticks):
        whole.update(newcomers, since_exposure_s=tick)
        if tick in (0, 9):
            second = SampleRatio(3)
            second.restore(json.loads(json.dumps(first.state())))
            first = second
        first.update(newcomers, since_exposure_s=tick)
    np.testing.assert_array_equal(whole.log_e_values, first.log_e_values)
    np.testing.assert_array_equal(whole.totals, first.totals)


@pytest.mark.parametrize(
    "damage",
    [{"log_r": [[0.0]]}, {"log_r": None}, {"totals": [[1.0]]}, {"spent": 2.0}, {"spent": "much"}, {"totals": "x"}],
)
def test_damaged_state_is_refused_and_changes_nothing(damage: dict[str, object]) -> None:
    ratio = SampleRatio(2)
    ratio.update(_rows((0, 5_000, CANARY, 3)), since_exposure_s=0.0)
    before = ratio.state()
    with pytest.raises((TypeError, ValueError)):
        ratio.restore(before | damage)
    infinite = np.full((3, len(LOG_ODDS)), np.inf).tolist()
    with pytest.raises(ValueError, match="damaged"):
        ratio.restore(before | {"log_r": infinite})
    assert ratio.state() == before
