"""The guard: every rule of safety, their order, and that no doubt ever lets a split rise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.decision import Advance, Hold, Phase, Promote, Reason, Reduce, Rollback, Tier, Withdraw
from analysis.forecast.excess import Forecast
from analysis.forecast.exhaustion import Exhaustion
from analysis.guard import (
    ALARMING,
    BREACH_SURE,
    BREACH_TICKS,
    LEAST_BREACH_SURE,
    MOST_BREACH_SURE,
    SUSPICIOUS,
    UNKNOWN_CEILING_BP,
    GuardView,
    LoadForecast,
    forecast_threshold,
    review,
)
from analysis.policy import PRIOR_RISK
from analysis.spec import RolloutSpec
from analysis.splits import SMALLEST_BP

PROOF = (Reason(code="tolerance:error_rate", text="proof"),)
DOUBT = Reason(code="unknown", text="don't know yet")
LOSS = Reason(code="log_loss", text="the access logs lack 30 % of the requests")
RATIO = Reason(code="sample_ratio", text="12 of 100 where 50 were asked for")
OVER = Reason(code="over_limit:error_rate", text="16 % where 5 % are the limit")
SUSPECT = Reason(code="tolerance:error_rate", text="looks bad")
FORECAST = Forecast(
    kpi="error_rate", limit=0.05, horizon_s=1_800.0, mean=0.06, lower=0.04, upper=0.08, p_breach=0.95
)  # fmt: skip
CLEAR = GuardView(
    phase=Phase.RAMPING, split_bp=2_000, proposal_bp=10_000, cap_bp=10_000, max_split_bp=10_000, spec=RolloutSpec()
)
TROUBLE: dict[str, Any] = {
    "frozen": True, "crash": True, "proven": PROOF, "silent": True, "budget_spent": True, "paused": True,
    "burning_ticks": 2, "stale_s": 30.0, "confirmed": False, "log_loss": LOSS, "sample_ratio": RATIO, "dwelt": False,
    "waits_for": ("internal",), "unhealthy": DOUBT,
}  # fmt: skip


def _code(view: GuardView) -> tuple[type, str]:
    verdict = review(view)
    return type(verdict), verdict.reasons[0].code


@pytest.mark.parametrize(
    ("changes", "verdict", "code"),
    [
        ({}, Advance, "allowed"),
        ({"frozen": True, "crash": True}, Hold, "frozen"),
        ({"phase": Phase.PROMOTED, "crash": True}, Hold, "final"),
        ({"phase": Phase.ROLLED_BACK}, Hold, "final"),
        ({"phase": Phase.PINNED}, Hold, "final"),
        ({"crash": True}, Rollback, "crash"),
        ({"crash_everywhere": True}, Rollback, "crash"),
        ({"silent": True}, Rollback, "silent"),
        ({"proven": PROOF}, Rollback, "tolerance:error_rate"),
        ({"proven": PROOF, "world_bad": True}, Hold, "world"),
        ({"crash": True, "world_bad": True}, Hold, "world"),
        ({"world_bad": True}, Hold, "world"),
        ({"forecast": FORECAST, "breach_ticks": BREACH_TICKS}, Rollback, "forecast"),
        ({"forecast": FORECAST, "breach_ticks": BREACH_TICKS - 1}, Advance, "allowed"),
        ({"forecast": FORECAST, "breach_likely": True}, Hold, "forecast"),
        ({"budget_spent": True}, Withdraw, "budget_spent"),
        ({"cap_bp": 1_500}, Reduce, "budget"),
        ({"suspicion": ALARMING, "suspect": SUSPECT}, Reduce, "tolerance:error_rate"),
        ({"suspicion": ALARMING, "suspect": SUSPECT, "already_reduced": True}, Hold, "tolerance:error_rate"),
        ({"suspicion": SUSPICIOUS, "suspect": SUSPECT}, Hold, "tolerance:error_rate"),
        ({"suspicion": SUSPICIOUS}, Hold, "suspicion"),
        ({"suspicion": float("nan")}, Hold, "suspicion"),
        ({"suspicion": SUSPICIOUS - 0.01, "suspect": SUSPECT}, Advance, "allowed"),
        ({"over_limit": OVER}, Hold, "over_limit:error_rate"),
        ({"over_limit": OVER, "proven": PROOF}, Rollback, "tolerance:error_rate"),
        ({"over_limit": OVER, "phase": Phase.BAKING, "split_bp": 9_500, "bake_done": True}, Hold, OVER.code),
        ({"paused": True}, Hold, "paused"),
        ({"paused": True, "proven": PROOF}, Rollback, "tolerance:error_rate"),
        ({"waits_for": ("internal",)}, Hold, "after"),
        ({"phase": Phase.WARMUP, "split_bp": 0}, Hold, "warmup"),
        ({"stale_s": 30.0}, Hold, "no_data"),
        ({"confirmed": False}, Hold, "unconfirmed"),
        ({"confirmed": False, "crash": True}, Rollback, "crash"),
        ({"log_loss": LOSS}, Hold, "log_loss"),
        ({"log_loss": LOSS, "sample_ratio": RATIO}, Hold, "log_loss"),
        ({"log_loss": LOSS, "proven": PROOF}, Rollback, "tolerance:error_rate"),
        ({"log_loss": LOSS, "cap_bp": 1_500}, Reduce, "budget"),
        ({"log_loss": LOSS, "phase": Phase.BAKING, "split_bp": 9_500, "bake_done": True}, Hold, "log_loss"),
        ({"sample_ratio": RATIO}, Hold, "sample_ratio"),
        ({"sample_ratio": RATIO, "proven": PROOF}, Rollback, "tolerance:error_rate"),
        ({"sample_ratio": RATIO, "cap_bp": 1_500}, Reduce, "budget"),
        ({"sample_ratio": RATIO, "phase": Phase.BAKING, "split_bp": 9_500, "bake_done": True}, Hold, "sample_ratio"),
        ({"dwelt": False}, Hold, "dwell"),
        ({"phase": Phase.BAKING, "split_bp": 9_500}, Hold, "baking"),
        ({"phase": Phase.BAKING, "split_bp": 9_500, "bake_done": True}, Promote, "baked"),
        ({"phase": Phase.BAKING, "split_bp": 9_500, "bake_done": True, "unhealthy": DOUBT}, Hold, "unknown"),
        ({"phase": Phase.BAKING, "split_bp": 9_500, "bake_done": True, "stale_s": 9.0}, Hold, "no_data"),
        ({"unhealthy": DOUBT, "split_bp": UNKNOWN_CEILING_BP}, Hold, "unknown"),
        ({"split_bp": 0, "crash": True}, Hold, "crash"),
        ({"split_bp": 0, "silent": True}, Hold, "crash"),
        ({"split_bp": 0, "proven": PROOF}, Hold, "tolerance:error_rate"),
        ({"split_bp": 0, "budget_spent": True}, Hold, "budget_spent"),
    ],
)  # fmt: skip
def test_rule(changes: dict[str, Any], verdict: type, code: str) -> None:
    assert _code(replace(CLEAR, **changes)) == (verdict, code)


def test_gravest_reason_speaks_first() -> None:
    """All troubles at once; each removed in turn uncovers the next milder one."""
    view = replace(CLEAR, forecast=FORECAST, breach_ticks=BREACH_TICKS, **TROUBLE)
    healed = [
        ({"frozen": False}, (Hold, "frozen")),
        ({"crash": False}, (Rollback, "crash")),
        ({"silent": False}, (Rollback, "silent")),
        ({"burning_ticks": 0}, (Rollback, "limit_burning")),
        ({"proven": ()}, (Rollback, "tolerance:error_rate")),
        ({"breach_ticks": 0}, (Rollback, "forecast")),
        ({"budget_spent": False}, (Withdraw, "budget_spent")),
        ({"paused": False}, (Hold, "paused")),
        ({"waits_for": ()}, (Hold, "after")),
        ({"stale_s": None}, (Hold, "no_data")),
        ({"confirmed": True}, (Hold, "unconfirmed")),
        ({"log_loss": None}, (Hold, "log_loss")),
        ({"sample_ratio": None}, (Hold, "sample_ratio")),
        ({"dwelt": True}, (Hold, "dwell")),
    ]
    for changes, expected in healed:
        assert _code(view) == expected
        view = replace(view, **changes)
    assert _code(view) == (Advance, "allowed")


@pytest.mark.parametrize(
    ("changes", "tier"),
    [
        ({"crash": True, "proven": PROOF}, Tier.HARD),
        ({"silent": True}, Tier.HARD),
        ({"proven": PROOF, "forecast": FORECAST, "breach_ticks": 9}, Tier.PROVEN),
        ({"forecast": FORECAST, "breach_ticks": 9}, Tier.PREDICTED),
    ],
)
def test_rollback_names_what_it_rests_on(changes: dict[str, Any], tier: Tier) -> None:
    verdict = review(replace(CLEAR, **changes))
    assert isinstance(verdict, Rollback)
    assert verdict.tier is tier


@pytest.mark.parametrize(
    ("changes", "split_bp"),
    [
        ({}, 4_500),  # one step
        ({"proposal_bp": 3_000}, 3_000),
        ({"cap_bp": 3_100}, 3_100),
        ({"split_bp": 8_000}, 9_500),  # the bake's split, never all
        ({"split_bp": 4_000, "max_split_bp": 5_000}, 5_000),
        ({"split_bp": 4_000, "unhealthy": DOUBT}, UNKNOWN_CEILING_BP),
        ({"split_bp": 0, "cap_bp": 150}, 150),
    ],
)
def test_rise_is_the_least_of_proposal_cap_step_and_ceiling(changes: dict[str, Any], split_bp: int) -> None:
    verdict = review(replace(CLEAR, **changes))
    assert isinstance(verdict, Advance)
    assert verdict.split_bp == split_bp


@pytest.mark.parametrize("split_bp", [1, 50, 99, 100, 101, 5_000])
def test_halving_never_raises_a_small_split(split_bp: int) -> None:
    verdict = review(replace(CLEAR, split_bp=split_bp, suspicion=0.9, suspect=SUSPECT))
    assert isinstance(verdict, Reduce)
    assert verdict.split_bp <= split_bp
    assert verdict.split_bp >= min(split_bp, SMALLEST_BP)


def test_a_step_too_small_to_push_is_not_taken() -> None:
    assert isinstance(review(replace(CLEAR, cap_bp=CLEAR.split_bp + SMALLEST_BP - 1)), Hold)


REASON = st.sampled_from([None, SUSPECT])
VIEWS = st.builds(
    GuardView,
    phase=st.sampled_from(list(Phase)),
    split_bp=st.integers(0, 10_000), proposal_bp=st.integers(-10, 12_000), cap_bp=st.integers(0, 10_000),
    max_split_bp=st.integers(0, 10_000), spec=st.just(RolloutSpec()),
    crash=st.booleans(), crash_everywhere=st.booleans(), silent=st.booleans(), world_bad=st.booleans(),
    proven=st.sampled_from([(), PROOF]), suspicion=st.floats(-2, 3) | st.just(float("nan")), suspect=REASON,
    forecast=st.sampled_from([None, FORECAST]), breach_ticks=st.integers(0, 5), breach_likely=st.booleans(),
    budget_spent=st.booleans(), unhealthy=st.sampled_from([None, DOUBT]), stale_s=st.sampled_from([None, 30.0]),
    confirmed=st.booleans(), dwelt=st.booleans(), bake_done=st.booleans(), paused=st.booleans(), frozen=st.booleans(),
    already_reduced=st.booleans(), log_loss=st.sampled_from([None, LOSS]), sample_ratio=st.sampled_from([None, RATIO]),
    waits_for=st.sampled_from([(), ("internal",)]), over_limit=st.sampled_from([None, OVER]),
)  # fmt: skip
LITTLE_TROUBLE = st.builds(
    lambda view, keep: replace(CLEAR, **{name: getattr(view, name) for name in keep}),
    VIEWS,
    st.sets(st.sampled_from(sorted(set(CLEAR.__slots__) - {"spec"})), max_size=4),
)


def _speaks_against_a_rise(view: GuardView) -> bool:
    foreseen = view.forecast is not None and (view.breach_likely or view.breach_ticks >= BREACH_TICKS)
    return (
        view.frozen or view.paused or view.phase.is_final or view.phase is Phase.WARMUP or bool(view.waits_for)
        or view.crash or view.crash_everywhere or view.silent or view.world_bad or bool(view.proven)
        or not view.suspicion < SUSPICIOUS or foreseen or view.budget_spent or view.stale_s is not None
        or not view.confirmed or view.log_loss is not None or view.sample_ratio is not None
        or view.over_limit is not None
    )  # fmt: skip


@settings(max_examples=600)
@given(view=VIEWS | LITTLE_TROUBLE)
def test_no_doubt_ever_lets_a_split_rise(view: GuardView) -> None:
    verdict = review(view)
    assert verdict.reasons
    if isinstance(verdict, Advance):
        assert not _speaks_against_a_rise(view)
        assert view.dwelt
        assert view.phase is not Phase.BAKING
        assert view.split_bp < verdict.split_bp <= min(view.cap_bp, view.proposal_bp)
        assert verdict.split_bp <= view.split_bp + view.spec.max_step_bp
        assert verdict.split_bp <= min(view.max_split_bp, view.spec.bake_split_bp)
        assert view.unhealthy is None or verdict.split_bp <= UNKNOWN_CEILING_BP
    elif isinstance(verdict, Promote):
        assert not _speaks_against_a_rise(view)
        assert view.phase is Phase.BAKING
        assert view.bake_done
        assert view.unhealthy is None
    elif isinstance(verdict, Reduce):
        assert 0 < verdict.split_bp <= view.split_bp


@settings(max_examples=300)
@given(view=VIEWS)
def test_proof_always_ends_an_exposed_segment_unless_a_person_or_the_world_forbids(view: GuardView) -> None:
    view = replace(view, proven=PROOF)
    if view.split_bp > 0 and not (view.frozen or view.phase.is_final or view.world_bad):
        assert isinstance(review(view), Rollback)


@pytest.mark.parametrize(("ticks", "world", "verdict"), [(1, False, Hold), (2, False, Rollback), (2, True, Hold)])
def test_limit_that_burns_for_two_ticks_takes_people_back_at_once_unless_the_world_is_bad(
    ticks: int, world: bool, verdict: type[Hold | Rollback]
) -> None:
    told = review(replace(CLEAR, burning_ticks=ticks, world_bad=world))
    assert isinstance(told, verdict)
    if isinstance(told, Rollback):
        assert told.tier is Tier.HARD
        assert told.reasons[0].code == "limit_burning"


def test_a_riskier_release_needs_a_less_certain_forecast() -> None:
    assert forecast_threshold(PRIOR_RISK) == BREACH_SURE
    thresholds = [forecast_threshold(risk) for risk in (0.0, 0.01, 0.05, PRIOR_RISK, 0.2, 0.3, 0.9, 1.0)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] == MOST_BREACH_SURE
    assert thresholds[-1] == LEAST_BREACH_SURE
    odds, usual = (p / (1 - p) for p in (forecast_threshold(0.12), BREACH_SURE))
    assert odds / usual == pytest.approx((PRIOR_RISK / (1 - PRIOR_RISK)) / (0.12 / 0.88))


def test_split_at_which_load_would_break_a_limit_is_not_taken() -> None:
    """An unknown chance holds as well."""
    for p_breach, held in ((0.2, False), (0.5, True), (0.9, True), (float("nan"), True)):
        at_next = LoadForecast(kpi="error_rate", limit=0.05, split=0.5, mean=0.06, p_breach=p_breach)
        verdict = review(replace(CLEAR, at_next=at_next))
        assert isinstance(verdict, Hold if held else Advance)
        assert (verdict.reasons[0].code == "load") == held


@pytest.mark.parametrize(
    ("p_exhausts", "log_e", "ticks", "verdict"),
    [(0.95, 6.0, BREACH_TICKS, Rollback), (0.95, 6.0, BREACH_TICKS - 1, Hold), (0.95, -1.0, 0, Advance),
     (0.1, 6.0, 0, Advance), (float("nan"), 6.0, 0, Hold)],
)  # fmt: skip
def test_resource_that_runs_out_goes_back_once_it_is_surely_the_canary(
    p_exhausts: float, log_e: float, ticks: int, verdict: type
) -> None:
    leak = Exhaustion(
        resource="memory", limit=1_000.0, level=800.0, slope=0.1, baseline_slope=0.0, lower_s=1_000.0, in_s=2_000.0,
        upper_s=3_000.0, horizon_s=7_200.0, p_exhausts=p_exhausts, log_e=log_e,
    )  # fmt: skip
    told = review(replace(CLEAR, exhaustion=leak, exhausted_ticks=ticks))
    assert isinstance(told, verdict)
    assert not isinstance(told, Rollback) or (told.tier, told.reasons[0].code) == (Tier.PREDICTED, "exhaustion")
