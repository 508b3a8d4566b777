"""Sequential evidence of a regression: valid under peeking, quick on late changes, kept over a restart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis.evidence.regression import EFFECT_WEIGHTS, EFFECTS, PROOF_TICKS, Against, RegressionEvidence
from analysis.evidence.regression import tests_of as hypotheses_of
from analysis.spec import KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec
from analysis.window import BASELINE, CANARY, Window, empty


def _spec(n_segments: int = 1, *, tolerance: float = 0.0, limit: float | None = None) -> ServiceSpec:
    names = [f"s{i}" for i in range(n_segments - 1)] + ["default"]
    return ServiceSpec(
        name="shop", baseline="v1", versions=("v1", "v2"), segments=tuple(SegmentSpec(name=name) for name in names),
        kpis=(KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=4, tolerance=tolerance, limit=limit),),
        rollout=RolloutSpec(interval_s=1, horizon_s=60),
    )  # fmt: skip


def _window(
    rng: np.random.Generator, n_segments: int, *, people: int, split: float, base: float, canary: float
) -> Window:
    window = empty(n_segments, 1)
    for segment in range(n_segments):
        n_c = rng.binomial(people, split)
        window.n[segment, 0] = (people - n_c, n_c)
        window.bad[segment, 0, BASELINE] = rng.binomial(people - n_c, base)
        window.bad[segment, 0, CANARY] = rng.binomial(n_c, canary)
    return window


def _drift(tick: int) -> float:
    """A base rate that follows the day: 1 % to 15 %."""
    return 0.08 + 0.07 * float(np.sin(tick / 20))


def test_as_good_a_canary_is_hardly_ever_suspected_however_often_one_looks() -> None:
    """Ville: P(the e-process ever reaches 1/a) <= a, under a drifting base rate and a split that moves."""
    runs = 100  # of the one program, as segments: rows are independent streams
    evidence = RegressionEvidence(_spec(runs))
    rng = np.random.default_rng(1)
    highest = np.full(runs, -np.inf)
    for tick in range(150):
        split = (0.02, 0.1, 0.5, 0.95)[(tick // 25) % 4]
        window = _window(rng, runs, people=40, split=split, base=_drift(tick), canary=_drift(tick))
        evidence.update(window, since_exposure_s=tick)
        highest = np.maximum(highest, evidence.log_e_values[0, :-1, 0])
    for risk in (0.2, 0.1, 0.05):
        allowance = 2.6 * np.sqrt(risk * (1 - risk) / runs)  # of a binomial count, one-sided 0.5 %
        assert (highest >= np.log(1 / risk)).mean() <= risk + allowance


def test_split_that_follows_the_evidence_does_not_raise_the_error() -> None:
    """The split goes up exactly where the evidence looks bad: still an e-process."""
    rng = np.random.default_rng(2)
    runs = 100
    evidence = RegressionEvidence(_spec(runs))
    highest = np.full(runs, -np.inf)
    for tick in range(60):
        window = empty(runs, 1)
        n_c = rng.binomial(40, np.where(evidence.log_e_values[0, :-1, 0] > 0, 0.5, 0.05))
        window.n[:, 0] = np.stack([40 - n_c, n_c], axis=1)
        window.bad[:, 0] = rng.binomial(window.n[:, 0], 0.1)
        evidence.update(window, since_exposure_s=tick)
        highest = np.maximum(highest, evidence.log_e_values[0, :-1, 0])
    assert (highest >= np.log(10)).mean() <= 0.1 + 2.6 * np.sqrt(0.09 / runs)


@pytest.mark.parametrize("base", [0.93, 0.97, 0.999, 1.0])
def test_base_rate_near_one_proves_nothing(base: float) -> None:
    """A feature that hardly anybody uses: no bet beyond base rate and tolerance is left."""
    evidence = RegressionEvidence(_spec(tolerance=0.05))
    rng = np.random.default_rng(4)
    for tick in range(100):
        window = _window(rng, 1, people=100, split=0.5, base=base, canary=base)
        evidence.update(window, since_exposure_s=tick)
        assert evidence.log_e_values[0, 0, 0] < np.log(20)


def _ticks_until_proven(*, onset: int, canary: float, ticks: int = 300, tolerance: float = 0.02) -> int | None:
    evidence = RegressionEvidence(_spec(tolerance=tolerance))
    rng = np.random.default_rng(3)
    for tick in range(ticks):
        bad = canary if tick >= onset else 0.02
        window = _window(rng, 1, people=60, split=0.3, base=0.02, canary=bad)
        evidence.update(window, since_exposure_s=tick)
        if evidence.log_e_values[0, 0, 0] >= evidence.log_thresholds[0, 0]:
            return tick
    return None


def test_fault_from_the_start_is_proven() -> None:
    proven = _ticks_until_proven(onset=0, canary=0.25)
    assert proven is not None
    assert proven < 12


def test_late_fault_is_proven_soon_after_it_comes() -> None:
    """A long healthy past must not have to be outweighed first."""
    proven = _ticks_until_proven(onset=200, canary=0.25)
    assert proven is not None
    assert 200 <= proven < 220


def test_excess_within_the_tolerance_is_never_proven() -> None:
    assert _ticks_until_proven(onset=0, canary=0.035, tolerance=0.03) is None


def test_better_canary_is_never_proven_harmful() -> None:
    """The sign: the test has one side."""
    assert _ticks_until_proven(onset=0, canary=0.0, tolerance=0.0) is None


def test_limit_needs_no_baseline() -> None:
    evidence = RegressionEvidence(_spec(tolerance=0.5, limit=0.05))
    window = empty(1, 1)
    window.n[0, 0, CANARY], window.bad[0, 0, CANARY] = 60, 20
    for _ in range(8):
        evidence.update(window, since_exposure_s=0)
    by = {test.against: evidence.log_e_values[0, 0, t] for t, test in enumerate(evidence.tests)}
    needed = {test.against: evidence.log_thresholds[0, t] for t, test in enumerate(evidence.tests)}
    assert by[Against.LIMIT] > needed[Against.LIMIT]
    assert by[Against.TOLERANCE] <= np.log(0.5) + 1e-9  # nothing to compare with: only the stake so far
    assert by[Against.ZERO] <= np.log(0.5) + 1e-9


def test_segments_add_up_to_proof_in_the_pooled_row() -> None:
    """Five segments that each show too little prove it together."""
    spec = _spec(5, tolerance=0.01)
    evidence = RegressionEvidence(spec)
    proven_at = {}
    for tick in range(60):
        window = empty(5, 1)
        window.n[:, 0] = (40, 10)
        window.bad[:, 0, CANARY] = 1
        evidence.update(window, since_exposure_s=tick)
        for row in np.flatnonzero(evidence.log_e_values[0, :, 0] >= evidence.log_thresholds[:, 0]):
            proven_at.setdefault(int(row), tick)
    assert proven_at[5] < proven_at[0]


def test_one_blip_of_one_tick_is_no_proof() -> None:
    """Who is hit by the same stall is no independent witness."""
    evidence = RegressionEvidence(_spec(tolerance=0.02))
    window = empty(1, 1)
    window.n[0, 0], window.bad[0, 0, CANARY] = (500, 500), 500
    evidence.update(window, since_exposure_s=0)
    assert evidence.log_e_values[0, 0, 0] < evidence.log_thresholds[0, 0] / 2


@pytest.mark.parametrize("n_segments", [1, 2, 4])
def test_risks_of_all_grounds_add_up_to_the_stated_one(n_segments: int) -> None:
    """The union bound: the sum over rows and grounds of 1/threshold is false_rollback.

    Of one segment alone both rows are the same, bit for bit, and their risk is one.
    """
    spec = _every_kind(n_segments)
    evidence = RegressionEvidence(spec)
    grounds = np.array([test.against is not Against.ZERO for test in hypotheses_of(spec)])
    assert (evidence.grounds == grounds).all()
    assert not grounds.all()
    risks = np.exp(-evidence.log_thresholds)[:, grounds]
    if n_segments == 1:
        window = _everywhere_worse(n_segments)
        for tick in range(20):
            evidence.update(window, since_exposure_s=tick, elapsed_s=0.7)
            np.testing.assert_array_equal(evidence.log_e_values[0, 0], evidence.log_e_values[0, 1])
        np.testing.assert_array_equal(risks[0], risks[1])
        risks = risks[:1]
    assert risks.sum() == pytest.approx(spec.rollout.false_rollback)


def _every_kind(n_segments: int) -> ServiceSpec:
    """A service with every kind of test."""
    kpis = (
        KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=4, tolerance=0.02, limit=0.1),
        KpiSpec(kind=KpiKind.LATENCY, judge_after_s=4, tolerance=0.05),
        KpiSpec(kind=KpiKind.ABANDONMENT, judge_after_s=4, tolerance=0.02),
        KpiSpec(kind=KpiKind.ANOMALY, judge_after_s=4, tolerance=0.1),
    )
    return replace(_spec(n_segments), kpis=kpis)


def _everywhere_worse(n_segments: int) -> Window:
    window = empty(n_segments, 4)
    window.n[:], window.bad[..., BASELINE], window.bad[..., CANARY] = 40, 2, 9
    return window


def test_shares_of_the_capital_put_on_each_effect_add_up_to_one() -> None:
    """More than the whole would be no e-value; less would be given away."""
    assert (EFFECT_WEIGHTS > 0).all()
    assert EFFECT_WEIGHTS.sum() == pytest.approx(1.0, abs=1e-12)
    assert len(EFFECT_WEIGHTS) == len(EFFECTS)
    assert (np.diff(EFFECTS) > 0).all()
    assert EFFECTS[0] > 0


def test_graver_kpis_need_less_evidence() -> None:
    evidence = RegressionEvidence(_every_kind(3))
    needed = {test.kpi: evidence.log_thresholds[0, t] for t, test in enumerate(evidence.tests) if evidence.grounds[t]}
    assert needed[0] < needed[1] == needed[2] < needed[3]


def test_stakes_of_all_restarts_stay_below_one() -> None:
    """With no data the e-process is what has been staked so far: at most the initial capital of one."""
    evidence = RegressionEvidence(_spec())
    staked = []
    for since_s in (0, 0, 1, 5, 5, 3, 100, 1e6, 1e12):
        evidence.update(empty(1, 1), since_exposure_s=since_s)
        staked.append(float(np.exp(evidence.log_e_values[0, 0, 0])))
    assert staked == sorted(staked)
    assert staked[0] == pytest.approx(0.5)
    assert staked[-1] <= 1 + 1e-9


def test_restart_from_state_equals_an_uninterrupted_run() -> None:
    spec = _spec(3, tolerance=0.02, limit=0.1)
    rng = np.random.default_rng(5)
    windows = [_window(rng, 3, people=30, split=0.3, base=0.05, canary=0.1) for _ in range(20)]
    whole, first = RegressionEvidence(spec), RegressionEvidence(spec)
    for tick, window in enumerate(windows):
        whole.update(window, since_exposure_s=tick)
        if tick == 9:
            second = RegressionEvidence(spec)
            second.restore(json.loads(json.dumps(first.state())))
            first = second
        first.update(window, since_exposure_s=tick)
    np.testing.assert_array_equal(whole.log_e_values, first.log_e_values)


def test_state_of_an_unused_test_survives_json() -> None:
    spec = _spec()
    evidence = RegressionEvidence(spec)
    evidence.restore(json.loads(json.dumps(RegressionEvidence(spec).state())))
    assert np.isneginf(evidence.log_e_values).all()


@pytest.mark.parametrize("looks", [1, 4, 10])
def test_burst_counts_no_more_where_somebody_looks_more_often(looks: int) -> None:
    """Forty people fail at once: seen in one of `looks` ticks that last as long together as a usual one."""
    once, often = _that_knows_the_baseline(), _that_knows_the_baseline()
    burst = empty(1, 1)
    burst.n[:], burst.bad[:] = 40, [0, 40]
    once.update(burst, since_exposure_s=1)
    for look in range(1, looks + 1):
        often.update(burst if look == 1 else empty(1, 1), since_exposure_s=1, elapsed_s=1 / looks)
    assert once.log_e_values.max() > 0
    np.testing.assert_array_equal(once.log_e_values, often.log_e_values)


@pytest.mark.parametrize("looks", [1, 4, 10])
def test_proof_of_an_outage_takes_as_long_however_often_one_looks(looks: int) -> None:
    """Everybody fails from now on: the room for evidence refills with the time that passes, not with the looks."""
    evidence, outage = _that_knows_the_baseline(), empty(1, 1)
    outage.n[:], outage.bad[:] = 400 // looks, [0, 400 // looks]
    seen = 0
    while evidence.log_e_values[0, 0, 0] < evidence.log_thresholds[0, 0] - 1e-9 and seen < 10 * looks:
        evidence.update(outage, since_exposure_s=0, elapsed_s=1 / looks)
        seen += 1
    ticks = (seen - 1) / looks  # between the first sight of it and the last
    assert PROOF_TICKS - 1 <= ticks <= PROOF_TICKS


def _that_knows_the_baseline() -> RegressionEvidence:
    evidence, before = RegressionEvidence(_spec()), empty(1, 1)
    before.unexposed_n[:], before.unexposed_bad[:] = 1_000, 5
    evidence.update(before, since_exposure_s=0)
    return evidence
