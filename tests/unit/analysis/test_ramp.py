"""The ramp: phases, people's orders, and what a mode or a segment's terms forbid."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.decision import Action, Advance, Hold, Order, Phase, Promote, Rollback, SegmentDecision, Tier
from analysis.errors import SpecError, StateError
from analysis.evidence.log_loss import NO_CHECK, LogCheck, LogLoss
from analysis.evidence.regression import Against
from analysis.evidence.regression import tests_of as hypotheses_of
from analysis.policy import BudgetPolicy
from analysis.ramp import Ramp
from analysis.reading import NAMED_FDR, Reading
from analysis.spec import Mode, SegmentSpec, ServiceSpec
from analysis.window import BASELINE, CANARY, Window, empty
from tests.unit.analysis.rows import small_spec

ARMS = {"power": ("v1", "v2"), "default": ("v1", "v2")}
PEOPLE = 40  # a tick and segment
USUAL = 0.02


def _spec(*, segments: tuple[SegmentSpec, ...] | None = None, **rollout: Any) -> ServiceSpec:
    spec = small_spec() if segments is None else small_spec(segments=segments)
    return replace(spec, rollout=replace(spec.rollout, **rollout))


class Driver:
    """A ramp fed with windows in which the canary is as good as the baseline, or as bad as it is told."""

    def __init__(self, spec: ServiceSpec | None = None, arms: dict[str, tuple[str, str]] | None = None) -> None:
        self.spec = spec or _spec()
        self.ramp = Ramp(self.spec, BudgetPolicy(), arms or ARMS)
        self.now_s = 0.0
        self.rng = np.random.default_rng(1)
        self.told: list[SegmentDecision] = []

    def window(self, excess: float, lost: float = 0.0) -> Window:
        window = empty(2, 5)
        for i, state in enumerate(self.ramp.segments.values()):
            n_c = round(PEOPLE * state.split_bp / 10_000)
            n = np.array([PEOPLE - n_c, n_c])
            exposed = state.since_s is not None
            bad = self.rng.binomial(n, [USUAL, USUAL + excess])
            if exposed:
                window.n[i], window.bad[i] = n, bad
                window.harm_n[i], window.harm_bad[i], window.exposed[i] = n, bad, n_c
            else:
                window.unexposed_n[i], window.unexposed_bad[i] = PEOPLE, bad[BASELINE]
                window.unexposed_harm_n[i], window.unexposed_harm_bad[i] = PEOPLE, bad[BASELINE]
            window.arrived[i] = PEOPLE
            if exposed and i == 0:
                window.newcomers[i, state.split_bp, CANARY] = round(n_c * (1 - lost))
                window.newcomers[i, state.split_bp, BASELINE] = PEOPLE - n_c
            window.people[i] = n * 3
        return replace(window, entries=200)

    def run(
        self, ticks: int, *, excess: float = 0.0, quiet: bool = False, lost: float = 0.0, logs: LogCheck = NO_CHECK
    ) -> Driver:
        for _ in range(ticks):
            self.now_s += 1
            window = empty(2, 5) if quiet else self.window(excess, lost)
            self.told = list(self.ramp.step(window, now_s=self.now_s, rng=self.rng, logs=logs))
            for name in self.ramp.segments:
                self.ramp.confirm(name)
        return self

    def order(self, action: Action, **fields: Any) -> tuple[SegmentDecision, ...]:
        return self.ramp.command(Order(action=action, who="ann", **fields))

    def split(self, name: str = "power") -> int:
        return self.ramp.segments[name].split_bp

    def phase(self, name: str = "power") -> Phase:
        return self.ramp.segments[name].phase


def test_good_release_passes_every_phase_in_order() -> None:
    driver, seen = Driver(), []
    for _ in range(150):
        driver.run(1)
        if not seen or seen[-1] is not driver.phase():
            seen.append(driver.phase())
        if driver.ramp.is_finished:
            break
    assert seen == [Phase.WARMUP, Phase.RAMPING, Phase.BAKING, Phase.PROMOTED]
    assert driver.split() == 10_000


def test_nobody_is_exposed_during_the_warmup() -> None:
    driver = Driver().run(4)
    assert (driver.split(), driver.phase()) == (0, Phase.WARMUP)


def test_steps_are_bounded_and_dwelt_on() -> None:
    driver, before, changed_at = Driver(_spec(max_step_bp=700, min_dwell_s=4)), 0, -10
    for tick in range(60):
        driver.run(1)
        if driver.split() != before:
            assert driver.split() - before <= 700
            assert before == 0 or tick - changed_at >= 4
            before, changed_at = driver.split(), tick
    assert before > 1_400


def test_unacknowledged_split_is_not_raised() -> None:
    driver = Driver().run(8)
    held = driver.split()
    assert held > 0
    for _ in range(20):
        driver.ramp.segments["power"].confirmed = False
        driver.now_s += 1
        driver.ramp.step(driver.window(0.0), now_s=driver.now_s, rng=driver.rng)
    assert driver.split() == held


def test_bad_canary_is_rolled_back_and_stays_there() -> None:
    driver = Driver().run(10).run(40, excess=0.5)
    assert (driver.phase(), driver.split()) == (Phase.ROLLED_BACK, 0)
    driver.run(30)
    assert (driver.phase(), driver.split()) == (Phase.ROLLED_BACK, 0)


def test_without_logs_nothing_rises() -> None:
    driver = Driver(_spec(max_step_bp=500)).run(9).run(6, quiet=True)
    held = driver.split()
    assert 0 < held < 9_500
    driver.run(40, quiet=True)
    assert driver.split() <= held
    assert driver.phase() in (Phase.RAMPING, Phase.BAKING)


def test_mode_observe_says_what_it_would_do_and_changes_nothing() -> None:
    driver = Driver(_spec(mode=Mode.OBSERVE)).run(40)
    assert driver.split() == 0
    assert isinstance(driver.told[0].verdict, Advance)
    assert driver.told[0].split_after_bp > 0


def test_segment_waits_for_the_promotion_of_another() -> None:
    segments = (SegmentSpec(name="power", after=("default",)), SegmentSpec(name="default"))
    driver = Driver(_spec(segments=segments)).run(15)
    assert (driver.phase(), driver.split()) == (Phase.WAITING, 0)
    assert driver.split("default") > 0
    driver.order(Action.PROMOTE, segment="default")
    driver.run(10)
    assert driver.split() > 0


def test_segment_after_one_that_was_rolled_back_never_starts() -> None:
    segments = (SegmentSpec(name="power", after=("default",)), SegmentSpec(name="default"))
    driver = Driver(_spec(segments=segments)).run(10)
    driver.order(Action.ROLLBACK, segment="default")
    assert driver.run(40).split() == 0


def test_pinned_segment_takes_no_part() -> None:
    driver = Driver(arms={"default": ("v1", "v2")}).run(30)
    assert (driver.phase(), driver.split()) == (Phase.PINNED, 0)
    assert driver.split("default") > 0
    with pytest.raises(SpecError, match="pinned"):
        driver.order(Action.SET, segment="power", split_bp=100)


def test_segment_s_own_ceiling_is_kept_to_the_end() -> None:
    segments = (SegmentSpec(name="power", max_split_bp=3_000), SegmentSpec(name="default"))
    driver = Driver(_spec(segments=segments))
    for _ in range(150):
        assert driver.run(1).split() <= 3_000
    assert (driver.phase(), driver.split()) == (Phase.PROMOTED, 3_000)


def test_promotion_needs_health_even_where_the_bake_s_split_is_low() -> None:
    """Below one half the way up asks for no health: the end does."""
    segments = (SegmentSpec(name="power", max_split_bp=100), SegmentSpec(name="default"))
    driver = Driver(_spec(segments=segments, bake_s=1)).run(24)
    assert driver.phase() is Phase.BAKING
    assert driver.ramp.view("power").needed is not None
    assert isinstance(driver.told[0].verdict, Hold)
    assert driver.told[0].verdict.reasons[0].code == "unknown"


def test_pause_stops_a_rise_but_no_rollback() -> None:
    driver = Driver().run(10)
    driver.order(Action.PAUSE)
    held = driver.split()
    assert driver.run(15).split() <= held
    assert driver.run(40, excess=0.5).phase() is Phase.ROLLED_BACK


def test_freeze_stops_everything_until_resume() -> None:
    driver = Driver().run(10)
    driver.order(Action.FREEZE)
    held = driver.split()
    assert driver.run(30, excess=0.5).split() == held
    driver.order(Action.RESUME)
    assert driver.run(10, excess=0.5).phase() is Phase.ROLLED_BACK


def test_orders_outrank_the_engine_and_name_who_gave_them() -> None:
    driver = Driver().run(10)
    (decision,) = driver.order(Action.ROLLBACK, segment="power", reason="ticket 7")
    assert isinstance(decision.verdict, Rollback)
    assert decision.verdict.tier is Tier.OPERATOR
    assert (driver.split(), driver.phase()) == (0, Phase.ROLLED_BACK)
    assert "ann" in driver.ramp.segments["power"].reason
    assert "ticket 7" in decision.verdict.reasons[0].text
    (promoted,) = driver.order(Action.PROMOTE, segment="power")
    assert isinstance(promoted.verdict, Promote)
    assert driver.split() == 10_000


def test_order_without_a_segment_is_for_all_that_take_part() -> None:
    driver = Driver().run(10)
    assert len(driver.order(Action.ROLLBACK)) == 2
    assert driver.ramp.is_finished


def test_order_to_set_counts_in_mode_observe_too() -> None:
    driver = Driver(_spec(mode=Mode.OBSERVE)).run(10)
    driver.order(Action.SET, segment="power", split_bp=1_234)
    assert driver.run(5).split() == 1_234


def test_split_set_to_the_bake_s_is_a_bake_and_does_not_hang() -> None:
    driver = Driver().run(10)
    driver.order(Action.SET, segment="power", split_bp=9_500)
    assert driver.phase() is Phase.BAKING


@pytest.mark.parametrize("split_bp", [-1, 10_001])
def test_split_out_of_range_is_refused(split_bp: int) -> None:
    driver = Driver().run(10)
    held = driver.split()
    with pytest.raises(SpecError, match="0 to 10000"):
        driver.order(Action.SET, segment="power", split_bp=split_bp)
    assert driver.split() == held


def test_unknown_segment_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(SpecError, match="power, default"):
        Driver().order(Action.PAUSE, segment="nobody")


def test_restart_goes_on_as_if_nothing_had_happened_but_for_the_time_charged() -> None:
    driver, again = Driver().run(20), Driver()
    again.ramp.restore(json.loads(json.dumps(driver.ramp.state())), gap_s=0)
    for name in ARMS:
        assert again.split(name) == driver.split(name)
        assert again.phase(name) is driver.phase(name)
        assert again.ramp.segments[name].reason == driver.ramp.segments[name].reason
    np.testing.assert_array_equal(again.ramp.reading.evidence.log_e_values, driver.ramp.reading.evidence.log_e_values)


def test_state_of_other_segments_is_refused() -> None:
    other = _spec(segments=(SegmentSpec(name="vip"), SegmentSpec(name="default")))
    stored = json.loads(json.dumps(Driver().run(10).ramp.state()))
    with pytest.raises(StateError):
        Ramp(other, BudgetPolicy(), {"vip": ("v1", "v2"), "default": ("v1", "v2")}).restore(stored, gap_s=0)


def _lossy() -> Driver:
    """A driver in whose segment `power` every second person of the canary has not been heard of since tick 10."""
    return Driver(_spec(max_step_bp=1_000, bake_s=80)).run(10).run(60, lost=0.5)


def test_sample_ratio_that_is_not_what_was_asked_for_holds_with_its_numbers_and_rolls_nothing_back() -> None:
    driver = _lossy()
    told = driver.told[0]
    assert isinstance(told.verdict, Hold)
    (reason,) = told.verdict.reasons
    assert reason.code == "sample_ratio"
    ratio = driver.ramp.view("power").sample_ratio
    assert f"{ratio.on_canary:,} of {ratio.people:,} new people here are on the canary" in reason.text
    assert f"where {ratio.asked:,.0f} were asked for" in reason.text
    assert reason.observed is not None
    assert reason.limit is not None
    assert reason.observed < 0.8 * reason.limit
    assert told.numbers["new_people"] == ratio.people
    assert told.numbers["sample_ratio_log_e"] >= ratio.log_threshold
    held = driver.split()
    assert 0 < held < 9_500
    assert driver.run(40, lost=0.5).split() == held
    assert driver.phase() is Phase.RAMPING


def test_sample_ratio_of_one_segment_holds_the_others_only_where_all_together_prove_it() -> None:
    """Here `power` is all that is counted, so both rows prove it, and `default` is told where it shows."""
    driver = _lossy()
    assert "in all segments together" in driver.told[1].verdict.reasons[0].text
    driver.ramp.reading.sample_ratio.forget(np.array([[False, False, True]]))
    driver.run(1, lost=0.5)
    assert driver.told[0].verdict.reasons[0].code == "sample_ratio"
    assert driver.told[1].verdict.reasons[0].code != "sample_ratio"


def test_sample_ratio_hinders_no_rollback() -> None:
    driver = _lossy().run(30, excess=0.5, lost=0.5)
    assert (driver.phase(), driver.split()) == (Phase.ROLLED_BACK, 0)


def _checked(baseline: LogLoss, canary: LogLoss, nodes: int = 1) -> LogCheck:
    both = (baseline, canary)
    total = LogLoss(
        n=sum(loss.n for loss in both),
        lost=sum(loss.lost for loss in both),
        least=sum(loss.least for loss in both),
        most=sum(loss.most for loss in both),
        nodes=nodes,
        worst="edge",
        worst_least=canary.least,
    )
    return LogCheck(total=total, versions={"v1": baseline, "v2": canary}, nodes=nodes)


COMPLETE = LogLoss(n=9_000, lost=10, least=0, most=100, nodes=1)


@pytest.mark.parametrize(
    ("logs", "text"),
    [
        (
            _checked(COMPLETE, LogLoss(n=1_000, lost=400, least=300, most=500, nodes=1)),
            "the access logs lack at least 3.0% of the 10,000 requests that Envoys sent upstream in the last minute",
        ),
        (
            _checked(COMPLETE, LogLoss(n=1_000, lost=400, least=300, most=500, nodes=2), nodes=2),
            "the access logs lack at least 3.0% of the 10,000 requests that Envoys sent upstream in the last minute, "
            "300 of them of edge",
        ),
        (
            _checked(COMPLETE, LogLoss(n=500, lost=30, least=20, most=40, nodes=1)),
            "the access logs of the last minute lack at least 4.0% of the 500 requests to v2 and at most 1.1% of the "
            "9,000 to v1: they cannot be compared",
        ),
    ],
    ids=["too much", "on one of two Envoys", "too much of one version"],
)
def test_logs_that_lack_too_much_hold_as_long_as_they_do_and_roll_nothing_back(logs: LogCheck, text: str) -> None:
    driver = Driver(_spec(max_step_bp=1_000, bake_s=80)).run(10)
    held = driver.split()
    assert 0 < held < 9_500
    for decision in driver.run(20, logs=logs).told:
        assert isinstance(decision.verdict, Hold)
        (reason,) = decision.verdict.reasons
        assert (reason.code, reason.text) == ("log_loss", text)
        assert decision.numbers["log_loss_lower"] == logs.total.lower if isinstance(logs.total, LogLoss) else False
    assert driver.split() == held
    assert driver.run(20).split() > held


def test_logs_that_lack_too_much_hinder_no_rollback() -> None:
    logs = _checked(COMPLETE, LogLoss(n=1_000, lost=900, least=900, most=950, nodes=1))
    driver = Driver().run(10).run(30, excess=0.5, logs=logs)
    assert (driver.phase(), driver.split()) == (Phase.ROLLED_BACK, 0)


def test_logs_of_which_little_is_known_or_little_is_missing_hold_nothing() -> None:
    few = LogLoss(n=1_000, lost=25, least=15, most=35, nodes=1)
    driver, other = Driver().run(10), Driver().run(10)
    assert driver.run(5, logs=_checked(few, few)).split() == other.run(5).split() > 0


def test_resume_lets_a_sample_ratio_be_looked_at_anew() -> None:
    """The cause is mended: it goes on. It is not: it is held again."""
    for lost, still in ((0.0, False), (0.5, True)):
        driver = _lossy()
        driver.order(Action.RESUME, segment="power")
        driver.run(1)
        assert driver.told[0].verdict.reasons[0].code != "sample_ratio"
        driver.run(150, lost=lost)
        assert (driver.phase() is not Phase.PROMOTED) is still
        assert (driver.told[0].verdict.reasons[0].code == "sample_ratio") is still


def test_resume_forgets_nothing_where_nothing_is_wrong() -> None:
    driver = Driver().run(20)
    before = driver.ramp.reading.sample_ratio.state()
    driver.order(Action.RESUME)
    assert driver.ramp.reading.sample_ratio.state() == before


def test_restart_keeps_a_mismatch_that_was_found_and_begins_anew_where_none_was() -> None:
    """Who has been counted is not known any more; counted twice, the same chance would look like two."""
    for driver, still in ((_lossy(), True), (Driver().run(20), False)):
        again = Driver(driver.spec)
        again.ramp.restore(json.loads(json.dumps(driver.ramp.state())), gap_s=0)
        ratio = driver.ramp.reading.sample_ratio
        assert ratio.totals[0, 0, 0] > 0
        assert again.ramp.reading.sample_ratio.totals[0, 0].any() == still
        assert (again.ramp.wording.mismatch(0) is not None) is still


def test_clock_that_goes_back_stops_the_dwelling() -> None:
    """Time does not pass: one step may be due, never a second."""
    driver = Driver(_spec(max_step_bp=500)).run(9)
    held = driver.split()
    for _ in range(10):
        driver.ramp.step(driver.window(0.0), now_s=-1e6, rng=driver.rng)
        driver.ramp.confirm("power")
    assert held <= driver.split() <= held + 500


FOUR = tuple(SegmentSpec(name=name) for name in ("power", "eu", "mobile", "default"))


def _grounds(
    leaning: dict[int, dict[int, float]], *, healthy: tuple[int, ...] = (), together: tuple[int, ...] = (0,)
) -> tuple[list[int], list[int]]:
    """Segments with proof of their own, and those that share the others', on any test.

    `leaning`: log e-values by test and segment, -5 where none is given; `together`: tests that all people prove. Beside
    it lies a rollout in which nothing leans: it never shares anything.
    """
    reading = Reading(_spec(segments=FOUR), 2)
    thresholds = reading.evidence.log_thresholds
    log_e = np.full((2, 5, len(reading.evidence.tests)), -5.0)
    log_e[0, -1, list(together)] = thresholds[-1, list(together)] + 1
    for test, by_segment in leaning.items():
        for segment, value in by_segment.items():
            log_e[0, segment, test] = value
    known = np.zeros((2, 4), bool)
    known[0, list(healthy)] = True
    own, shared = reading._grounds(log_e, *reading._named(log_e), known)
    assert not own[1].any()
    assert not shared[1].any()
    return np.flatnonzero(own[0].any(axis=-1)).tolist(), np.flatnonzero(shared[0].any(axis=-1)).tolist()


def test_proof_over_all_segments_counts_for_the_most_evident_one_alone_where_no_other_is_named() -> None:
    """One segment's errors may prove the pooled test; who leans on something else is not blamed for them."""
    for segment in range(4):
        assert _grounds({0: {segment: 2.0}}) == ([], [segment])
        assert _grounds({0: {segment: -4.9}}) == ([], [segment]), "least of all evidence, but the most there is"
    assert _grounds({0: {1: 1.0}, 2: {0: 5.0}}) == ([], [1])


@pytest.mark.parametrize(("second", "named"), [(np.log(10) + 0.01, [0, 2]), (np.log(10) - 0.01, [0])])
def test_others_are_named_by_their_false_discovery_rate(second: float, named: list[int]) -> None:
    """e-BH: two of four are named where the second e-value is at least 4 / (2 * NAMED_FDR)."""
    assert pytest.approx(0.2) == NAMED_FDR
    assert _grounds({0: {0: 6.0, 2: second}}, healthy=(1, 3)) == ([], named)


def test_who_is_not_known_to_be_healthy_goes_with_two_that_are_named_on_one_kpi() -> None:
    both = {0: 6.0, 2: 6.0}
    assert _grounds({0: both}) == ([], [0, 1, 2, 3])
    assert _grounds({0: both}, healthy=(0, 1, 2, 3)) == ([], [0, 2]), "named is named, healthy or not"
    assert _grounds({0: both}, healthy=(3,)) == ([], [0, 1, 2])
    assert _grounds({0: both}, together=()) == ([], []), "named, but nothing is proven"
    assert _grounds({0: {0: 6.0}, 2: {2: 6.0}}, healthy=(1, 3)) == ([], [0]), "one on each KPI are not two on one"


def test_proof_of_a_segment_s_own_is_its_own_and_takes_the_unknown_along_only_where_another_is_named() -> None:
    proof = float(Reading(_spec(segments=FOUR)).evidence.log_thresholds[0, 0]) + 1
    assert _grounds({0: {1: proof}}, together=()) == ([1], [])
    assert _grounds({0: {1: proof, 2: 3.0}}, together=(), healthy=(3,)) == ([1], [0, 1, 2])


def test_what_is_no_ground_proves_nothing_together_either() -> None:
    zero = [t for t, test in enumerate(hypotheses_of(_spec(segments=FOUR))) if test.against is Against.ZERO]
    assert zero
    for test in zero:
        assert _grounds({test: {0: 99.0, 1: 99.0}}, together=(test,)) == ([], [])


def _suspected(driver: Driver, power: float) -> Driver:
    """From now on the evidence against `power` is that share of the proof; there is none against the other."""
    reading = driver.ramp.reading
    whole = type(reading).conclude
    suspicion = np.array([[power, 0.0]])
    reading.conclude = lambda standing: replace(whole(reading, standing), suspicion=suspicion)  # type: ignore[method-assign]
    return driver


def _watched(driver: Driver) -> list[str]:
    return [name for name, state in driver.ramp.segments.items() if state.watched]


def test_suspicion_begins_a_closer_watch_of_that_segment_which_ends_when_it_is_calm() -> None:
    driver = Driver().run(15)
    assert driver.split() > 0
    seen = []
    for share in (0.49, 0.5, 0.3, 0.9, 0.26, 0.24, 0.49):
        _suspected(driver, share).run(1)
        seen.append(_watched(driver))
    assert seen == [[], *[["power"]] * 4, [], []]


def test_nobody_is_watched_where_nobody_is_exposed_and_where_all_is_over() -> None:
    assert not _watched(_suspected(Driver(_spec(warmup_s=100)), 0.9).run(15))
    assert not _watched(_suspected(Driver(_spec(mode=Mode.OBSERVE)), 0.9).run(15))
    driver = _suspected(Driver().run(15), 0.6).run(1)
    assert _watched(driver) == ["power"]
    driver.order(Action.ROLLBACK, segment="power")
    assert not _watched(driver.run(1))
    driver.order(Action.PROMOTE, segment="power")
    assert not _watched(driver.run(1))


def test_closer_watch_outlives_a_restart() -> None:
    driver = _suspected(Driver().run(15), 0.6).run(1)
    stored = json.loads(json.dumps(driver.ramp.state()))
    again = Ramp(driver.spec, BudgetPolicy(), ARMS)
    again.restore(stored, gap_s=1)
    assert [state.watched for state in again.segments.values()] == [True, False]


def test_ticks_that_come_more_often_fill_the_same_history_and_count_no_more_towards_a_breach() -> None:
    """A closer watch looks four times an interval; who was seen is the same, and so is how long it has been."""
    driver = Driver(_spec(interval_s=4.0)).run(0)
    driver.order(Action.SET, segment="power", split_bp=4_000)
    ramp, state = driver.ramp, driver.ramp.segments["power"]
    ramp._outlook.is_founded = lambda *_: True  # type: ignore[method-assign]
    seen, now_s = [], 0.0
    for elapsed_s in (4.0, 4.01, *[0.99, 1.02, 1.0, 1.01] * 2, 3.98, 12.0):
        now_s += elapsed_s
        window = empty(2, 5)
        window.n[0] = 1
        ramp.step(window, now_s=now_s, rng=driver.rng)
        n, _ = ramp.reading.recent.series(0, 0)
        seen.append((n[:, 0, CANARY].astype(int).tolist(), state.breach_ticks))
    assert [ticks for _, ticks in seen] == [1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 6]
    assert seen[-1][0] == [1, 1, 4, 4, 1, 1]


def test_what_a_tick_says_is_needed_is_what_a_segment_shows() -> None:
    driver, said = Driver(), 0
    for _ in range(40):
        driver.run(1)
        for index, decision in enumerate(driver.told):
            reason = decision.verdict.reasons[0]
            if reason.code == "unknown":
                split = decision.split_before_bp / 10_000
                needed = driver.ramp.wording.needed(index, split)
                assert needed is not None
                assert f"(needs {needed.needed} more sessions, about {needed.minutes:.1f} min)" in reason.text
                said += 1
    assert said > 3
