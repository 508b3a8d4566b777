"""The whole of a plan's check: what it finds, what it costs, what is refused and what is worth a warning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from analysis.power.budget import BudgetCheck, check_budget
from analysis.power.detection import DAY_S, EVERYWHERE, Detection, Traffic, detections, participating, splits
from analysis.power.good_release import LARGER, GoodReleases, budget_that_does, good_releases
from analysis.power.health import HealthNeed, needs
from analysis.spec import KpiKind, ServiceSpec

NOTABLE = "x4"  # the effect that a segment must be able to find within a day


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is known of a service's plan before it runs.

    `false_rollback`: bound on the chance that a release which is within its tolerances is rolled back on proof.
    `good`: None where the budget is refused by rule, and nothing is played. `would_do`: of a refused plan, a budget
    with which good releases do arrive; None: none was found. `refusals`: why the plan must not run as it is;
    `warnings`: what it will not do well. Each is a line.
    """

    service: str
    traffic: Traffic
    false_rollback: float
    detections: tuple[Detection, ...]
    health: tuple[HealthNeed, ...]
    budget: BudgetCheck
    good: GoodReleases | None
    would_do: float | None
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]


def check_plan(
    spec: ServiceSpec, traffic: Traffic, *, seed: int = 0, progress: Callable[[float], object] = lambda _: None
) -> Plan:
    """Check a service's plan at its traffic. `progress`: is told the share that is done, from 0 to 1."""
    found = tuple(detections(spec, traffic))
    health = needs(spec, traffic, {i: splits(spec, [i])[-1] for i in participating(spec)})
    budget = check_budget(spec, traffic)
    is_ruled_out = not budget.is_enough
    good = None if is_ruled_out else good_releases(spec, traffic, seed=seed, progress=progress)
    is_refused = good is None or good.loses_too_many
    least = max(budget.needed_not_to_freeze, budget.needed_to_begin, LARGER * budget.budget if good else 0.0)
    would_do = budget_that_does(spec, traffic, least=least, seed=seed, progress=progress) if is_refused else None
    refusals = tuple(_refusals(budget, good, _would_do(would_do)))
    warnings = (
        *_above_limits(spec, traffic),
        *_undetected(spec, traffic, found),
        *_unhealthy(traffic, spec, health, good),
        *_hanging(good),
    )
    return Plan(
        service=spec.name,
        traffic=traffic,
        false_rollback=spec.rollout.false_rollback,
        detections=found,
        health=health,
        budget=budget,
        good=good,
        would_do=would_do,
        refusals=refusals,
        warnings=warnings,
    )


def _refusals(check: BudgetCheck, good: GoodReleases | None, would_do: str) -> Iterator[str]:
    if check.budget < check.needed_not_to_freeze:
        yield (
            f"harm.budget {check.budget:g} is too small for {check.base:.2%} bad sessions on the baseline: a good "
            f"release would freeze; {would_do}, or a harm.tolerance of about {_points(check.tolerance_not_to_freeze)}"
        )
    if check.budget < check.needed_to_begin:
        yield (
            f"harm.budget {check.budget:g} is too small for the traffic: a first step of 0.1 %, all bad until it is "
            f"noticed, costs more, and no release would begin; {would_do}, or judging sessions sooner "
            f"(session.judge_after)"
        )
    if good is not None and good.loses_too_many:
        back = sum(each.rolled_back for each in good.segments)
        how = "rolled back, withdrawn or undecided for a day" if back else "withdrawn or undecided for a day"
        yield (
            f"harm.budget {check.budget:g} is too small for {check.base:.2%} bad sessions on the baseline: of "
            f"{good.runs} simulated good releases {good.lost} were {how}; {would_do}, or a larger harm.tolerance"
        )


def _above_limits(spec: ServiceSpec, traffic: Traffic) -> Iterator[str]:
    """Limits that the baseline breaks by itself: then the world is bad, and nothing rises."""
    for i in participating(spec):
        for kpi, base in zip(spec.kpis, traffic.base[i], strict=True):
            if kpi.limit is not None and base >= kpi.limit:
                yield (
                    f"segment {spec.segments[i].name}: {kpi.name} is {base:.2%} on the baseline and its limit "
                    f"{kpi.limit:.2%}: proof against it would hold every release, good or bad"
                )


def _undetected(spec: ServiceSpec, traffic: Traffic, found: tuple[Detection, ...]) -> Iterator[str]:
    """Segments that cannot find the notable effect within a day at their best split."""
    anomaly = {kpi.name for kpi in spec.kpis if kpi.kind is KpiKind.ANOMALY}  # no reason to be held up
    best = {(d.segment, d.kpi): d for d in found if d.segment != EVERYWHERE and d.kpi not in anomaly}  # the last split
    for detection in best.values():
        effect = next(effect for effect in detection.effects if effect.name == NOTABLE)
        if effect.excess is None or effect.accepted:
            continue
        rate = traffic.sessions_per_s[spec.segment_index[detection.segment]]
        what = f"segment {detection.segment}: {detection.kpi} of four times the base rate ({_points(effect.excess)})"
        if rate == 0:
            yield f"{what} is not found: the segment has no traffic"
        elif effect.median_s is None:
            yield f"{what} is not proven at any length of time: it is too near the tolerance"
        elif effect.median_s > DAY_S:
            yield (
                f"{what} takes {effect.median_s / DAY_S:.1f} days to prove; {rate * effect.median_s / DAY_S:.2g} "
                f"sessions/s would take one, and it has {rate:.2g}: merge it with another, or give the rollout longer"
            )


def _unhealthy(
    traffic: Traffic, spec: ServiceSpec, health: tuple[HealthNeed, ...], good: GoodReleases | None
) -> Iterator[str]:
    """Segments that are too small, unless they became healthy when played: a canary may have less harm to show."""
    played = {each.segment for each in good.segments if each.healthy_s is not None} if good is not None else set()
    for need in health:
        if need.seconds is None and need.segment not in played:
            rate = traffic.sessions_per_s[spec.segment_index[need.segment]]
            instead = "" if need.tolerance is None else f", or accept {_points(need.tolerance)} ({_key(need.what)})"
            yield (
                f"segment {need.segment}: a good canary cannot be known to be healthy: that takes {need.sessions:,.0f} "
                f"sessions within {need.within_s / 60:.0f} min, {need.sessions_per_s:.2g} a second, and it has "
                f"{rate:.2g}: merge it with another{instead}"
            )


def _hanging(good: GoodReleases | None) -> Iterator[str]:
    for each in () if good is None else good.segments:
        if 2 * each.promoted < each.runs:
            yield (
                f"segment {each.segment}: of {each.runs} good releases that were simulated {each.promoted} came to "
                f"100 % within {each.played_s / 3600:.1f} h: it takes longer, or a larger harm.budget or harm.tolerance"
            )


def _key(what: str) -> str:
    return "harm.tolerance" if what == "harm" else f"the tolerance of {what}"


def _would_do(budget: float | None) -> str:
    return "no budget was found that would do" if budget is None else f"a budget of {budget:g} would do"


def _points(difference: float) -> str:
    """A difference of shares, as mesh files write it."""
    return f"{100 * difference:.3g}pp"
