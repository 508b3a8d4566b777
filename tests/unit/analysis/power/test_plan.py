"""Which plans are refused, with which number, and which segments are too small."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.power import good_release
from analysis.power import plan as plans
from analysis.power.budget import FREEZE_C, check_budget
from analysis.power.detection import EVERYWHERE, Traffic, detections
from analysis.power.good_release import GoodReleases, budget_that_does, good_releases, rounded_up
from analysis.power.health import needs
from analysis.power.plan import check_plan
from analysis.spec import HarmSpec, KpiKind, KpiSpec, Outcome, RolloutSpec, SegmentSpec, ServiceSpec


def _spec(*segments: SegmentSpec, budget: float = 50, tolerance: float = 0.005, bake_s: float = 60.0) -> ServiceSpec:
    harm = HarmSpec(budget=budget, bad=frozenset({Outcome.ERROR}), tolerance=tolerance)
    return ServiceSpec(
        name="shop", baseline="v1", versions=("v1", "v2"), segments=(*segments, SegmentSpec(name="default")),
        kpis=(KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=60, tolerance=0.005),),
        rollout=RolloutSpec(harm=harm, bake_s=bake_s),
    )  # fmt: skip


def _traffic(*sessions_per_s: float, base: float = 0.005) -> Traffic:
    return Traffic(sessions_per_s=sessions_per_s, base=((base,),) * len(sessions_per_s))


@pytest.fixture
def unplayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated releases are tested by themselves, and take seconds."""
    monkeypatch.setattr(
        plans, "good_releases", lambda *_, **__: GoodReleases(runs=60, lost=0, played_s=60.0, segments=())
    )
    monkeypatch.setattr(plans, "budget_that_does", lambda *_, least, **__: rounded_up(least) if least < 1e9 else None)


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter plays."""
    monkeypatch.setattr(good_release, "MOST_STEPS", 20_000)


def test_budget_is_held_against_the_freeze_rule() -> None:
    """c²·p(1 - p)/(4ε), and the tolerance that is named instead of the budget would do as well."""
    check = check_budget(_spec(), _traffic(10, base=0.1))
    assert check.needed_not_to_freeze == pytest.approx(FREEZE_C**2 * 0.1 * 0.9 / (4 * 0.005))
    assert not check.is_enough
    instead = check_budget(_spec(tolerance=check.tolerance_not_to_freeze * 1.001), _traffic(10, base=0.1))
    assert instead.is_enough


def test_weights_count_in_the_budget_as_in_the_ledger() -> None:
    """Harm that costs a tenth varies by a hundredth."""
    half = check_budget(_spec(SegmentSpec(name="staff", weight=0.1)), _traffic(10, 10, base=0.1))
    v, plain = 0.1 * 0.9, FREEZE_C**2 / (4 * 0.005)
    assert half.needed_not_to_freeze == pytest.approx(plain * (v + 0.01 * v) / 1.1)


def test_what_a_raised_threshold_forgives_needs_no_budget() -> None:
    """Slow sessions vary like errors, but an equal canary has fewer beyond its raised threshold; not so a fixed one."""

    def needed(slow_ms: float | None) -> float:
        spec = _spec()
        latency = KpiSpec(kind=KpiKind.LATENCY, judge_after_s=60, tolerance=0.02, slow_ms=slow_ms)
        harm = HarmSpec(bad=frozenset({Outcome.SLOW}))
        rollout = replace(spec.rollout, harm=harm)
        spec = replace(spec, kpis=(*spec.kpis, latency), rollout=rollout)
        return check_budget(spec, Traffic(sessions_per_s=(10.0,), base=((0.005, 0.05),))).needed_not_to_freeze

    assert needed(300.0) == pytest.approx(FREEZE_C**2 * 0.05 * 0.95 / (4 * 0.005), rel=0.02)
    assert needed(None) < needed(300.0) / 2


def test_the_number_that_is_named_does_and_less_does_not(unplayed: None) -> None:
    """Of both reasons to refuse: the line names the budget."""
    for traffic in (_traffic(10, base=0.1), _traffic(4_000)):
        check = check_budget(_spec(), traffic)
        needed = max(check.needed_not_to_freeze, check.needed_to_begin)
        assert needed > 50
        line = check_plan(_spec(), traffic).refusals[-1]
        named = float(line.split("a budget of ")[1].split()[0])
        assert needed <= named <= 1.2 * needed
        assert check_plan(_spec(budget=named), traffic).refusals == ()
        assert not check_budget(_spec(budget=0.99 * needed), traffic).is_enough


def test_a_plan_that_loses_good_releases_is_refused_though_the_rule_would_take_it(fewer: None) -> None:
    """Dense traffic sees the bound more often than the rule counts on."""
    traffic, spec = _traffic(200, base=0.2), _spec(budget=340)
    assert check_budget(spec, traffic).is_enough
    played = good_releases(spec, traffic, seed=0)
    assert played.loses_too_many
    (only,) = played.segments
    assert played.lost == only.withdrawn + only.rolled_back >= 3
    assert only.promoted + only.withdrawn + only.rolled_back + only.undecided == played.runs
    named = budget_that_does(spec, traffic, least=340, seed=0)
    assert named is not None
    assert named > 340


def test_the_lines_of_a_plan_that_loses_good_releases_name_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = GoodReleases(runs=60, lost=9, played_s=7_200.0, segments=())
    monkeypatch.setattr(plans, "good_releases", lambda *_, **__: lost)
    monkeypatch.setattr(plans, "budget_that_does", lambda *_, least, **__: least)
    plan = check_plan(_spec(budget=400), _traffic(10))
    assert plan.would_do == 600
    (line,) = plan.refusals
    assert "of 60 simulated good releases 9" in line
    assert "a budget of 600 would do" in line


@pytest.mark.parametrize(("lost", "too_many"), [(0, False), (2, False), (3, True), (60, True)])
def test_chance_is_given_the_benefit_of_the_doubt(lost: int, too_many: bool) -> None:
    """Of 60, 2 lost may be bad luck of a plan that loses 1 in 100; 3 are not."""
    assert GoodReleases(runs=60, lost=lost, played_s=60.0, segments=()).loses_too_many is too_many


def test_without_a_tolerance_no_budget_will_do(unplayed: None) -> None:
    (line,) = check_plan(_spec(tolerance=0.0), _traffic(10)).refusals
    assert "no budget was found that would do" in line


def test_a_segment_that_waits_for_another_begins_by_itself() -> None:
    """Segments that start together share what is left of the budget."""
    together = check_budget(_spec(SegmentSpec(name="staff")), _traffic(200, 200)).needed_to_begin
    apart = check_budget(
        _spec(
            SegmentSpec(name="staff"),
        ),
        _traffic(200, 0),
    ).needed_to_begin
    spec = _spec(SegmentSpec(name="staff"))
    waiting = replace(spec, segments=(spec.segments[0], SegmentSpec(name="default", after=("staff",))))
    assert check_budget(waiting, _traffic(200, 200)).needed_to_begin < 0.6 * together
    assert apart == pytest.approx(together)  # an idle segment takes its share all the same


def test_a_small_segment_is_warned_of_and_a_larger_one_is_not(unplayed: None) -> None:
    """It can find nothing in a day, nor be known to be healthy before what it has learnt is forgotten."""
    spec = _spec(SegmentSpec(name="tiny"))
    warnings = check_plan(spec, _traffic(0.001, 20)).warnings
    assert any("tiny: error_rate of four times the base rate (1.5pp) takes" in line for line in warnings)
    assert any("tiny: a good canary cannot be known to be healthy" in line for line in warnings)
    assert not any("default" in line for line in warnings)


def test_the_rate_that_a_warning_names_is_enough() -> None:
    spec = _spec()
    (need,) = needs(spec, _traffic(0.001), {0: 0.5})
    assert need.seconds is None
    (enough,) = needs(spec, _traffic(1.01 * need.sessions_per_s), {0: 0.5})
    assert enough.seconds is not None


def test_so_few_sessions_as_health_takes_are_kept_for_a_day() -> None:
    """As `evidence.exclusion` forgets: an epoch lasts until the younger half knows 800 sessions of the smaller arm."""
    for per_s, base in ((1, 0.02), (50, 0.3)):
        (need,) = needs(_spec(), _traffic(per_s, base=base), {0: 0.5})
        assert need.sessions < 3_200
        assert need.within_s == 86_400


def test_a_limit_below_the_baseline_is_warned_of(unplayed: None) -> None:
    spec = _spec()
    limited = replace(spec, kpis=tuple(replace(kpi, limit=0.02) for kpi in spec.kpis))
    assert not any("limit" in line for line in check_plan(limited, _traffic(10, base=0.01)).warnings)
    assert any("its limit 2.00%" in line for line in check_plan(limited, _traffic(10, base=0.03)).warnings)


def test_pinned_segments_take_no_part_and_several_are_multiplied() -> None:
    spec = _spec(SegmentSpec(name="vip", pin="v1"), SegmentSpec(name="eu", max_split_bp=2_000))
    found = list(detections(spec, _traffic(5, 10, 10)))
    assert {(d.segment, d.split) for d in found} == {
        ("eu", 0.05), ("eu", 0.2), ("default", 0.05), ("default", 0.5), (EVERYWHERE, 0.05), (EVERYWHERE, 0.2),
    }  # fmt: skip

    def found_s(segment: str) -> float:
        (detection,) = (d for d in found if (d.segment, d.split) == (segment, 0.05))
        (effect,) = (e for e in detection.effects if e.name == "x4")
        assert effect.median_s is not None
        return effect.median_s

    assert found_s(EVERYWHERE) < 0.7 * found_s("eu")


def test_what_cannot_be_is_said_apart_from_what_is_accepted() -> None:
    """A rate of 30 % cannot become four times as high; half a point more of half a per cent is within tolerance."""
    (d, *_) = detections(_spec(), _traffic(20, base=0.3))
    assert [e.excess is None for e in d.effects] == [False, True, True, False]
    (d, *_) = detections(_spec(), _traffic(20))
    assert [e.accepted for e in d.effects] == [True, False, False, False]
    assert d.smallest[0] is not None
    assert d.smallest[2] is not None
    assert 0.005 < d.smallest[2] < d.smallest[0]


def test_good_releases_are_played_by_the_rollouts_own_code(fewer: None) -> None:
    """A generous budget: they come to 100 %, and are known to be healthy first."""
    played = good_releases(_spec(budget=400), _traffic(20), seed=1)
    (good,) = played.segments
    assert (played.lost, played.loses_too_many) == (0, False)
    assert good.promoted == good.runs > 0
    assert good.healthy_s is not None
    assert good.promoted_s is not None
    assert good.healthy_s < good.promoted_s < 3_600


def test_a_segment_without_traffic_is_said_to_have_none(unplayed: None) -> None:
    warnings = check_plan(_spec(SegmentSpec(name="empty")), _traffic(0, 20)).warnings
    assert any("empty" in line and "no traffic" in line for line in warnings)
    assert not any("too near the tolerance" in line for line in warnings)
