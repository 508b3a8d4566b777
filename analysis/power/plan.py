"""The whole of a plan's check: what it finds, what it costs, what is refused and what is worth a warning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from analysis.power.budget import BudgetCheck, check_budget
from analysis.power.detection import DAY_S, EVERYWHERE, Detection, Traffic, detections, participating, splits
from analysis.power.good_release import GoodRelease, good_releases
from analysis.power.health import HealthNeed, needs
from analysis.spec import KpiKind, ServiceSpec

NOTABLE = "x4"  # the effect that a segment must be able to find within a day


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is known of a service's plan before it runs.

    `false_rollback`: bound on the chance that a release which is within its tolerances is rolled back on proof.
    `refusals`: why the plan must not run as it is; `warnings`: what it will not do well. Each is a line.
    """

    service: str
    traffic: Traffic
    false_rollback: float
    detections: tuple[Detection, ...]
    health: tuple[HealthNeed, ...]
    budget: BudgetCheck
    good: tuple[GoodRelease, ...]
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]


def check_plan(
    spec: ServiceSpec, traffic: Traffic, *, seed: int = 0, progress: Callable[[float], object] = lambda _: None
) -> Plan:
    """Check a service's plan at its traffic. `progress`: is told the share that is done, from 0 to 1."""
    found = tuple(detections(spec, traffic))
    health = needs(spec, traffic, {i: splits(spec, [i])[-1] for i in participating(spec)})
    budget = check_budget(spec, traffic)
    refusals = tuple(_refusals(budget))
    good = () if refusals else good_releases(spec, traffic, seed=seed, progress=progress)
    warnings = (*_undetected(spec, traffic, found), *_unhealthy(traffic, spec, health), *_hanging(good))
    return Plan(
        service=spec.name,
        traffic=traffic,
        false_rollback=spec.rollout.false_rollback,
        detections=found,
        health=health,
        budget=budget,
        good=good,
        refusals=refusals,
        warnings=warnings,
    )


def _refusals(check: BudgetCheck) -> Iterator[str]:
    if check.budget < check.needed_not_to_freeze:
        yield (
            f"harm.budget {check.budget:g} is too small for {check.base:.2%} bad sessions on the baseline: a good "
            f"release would freeze; {_would_do(check.needed_not_to_freeze)}, or a harm.tolerance of "
            f"{_points(check.tolerance_not_to_freeze)}"
        )
    if check.budget < check.needed_to_begin:
        yield (
            f"harm.budget {check.budget:g} is too small for the traffic: a first step of 1 %, all bad until it is "
            f"noticed, costs more, and no release would begin; {_would_do(check.needed_to_begin)}, or "
            f"judging sessions sooner (session.judge_after)"
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


def _unhealthy(traffic: Traffic, spec: ServiceSpec, health: tuple[HealthNeed, ...]) -> Iterator[str]:
    for need in health:
        if need.seconds is None:
            rate = traffic.sessions_per_s[spec.segment_index[need.segment]]
            instead = "" if need.tolerance is None else f", or accept {_points(need.tolerance)} ({_key(need.what)})"
            yield (
                f"segment {need.segment}: a good canary cannot be known to be healthy: that takes {need.sessions:,.0f} "
                f"sessions within {need.within_s / 60:.0f} min, {need.sessions_per_s:.2g} a second, and it has "
                f"{rate:.2g}: merge it with another{instead}"
            )


def _hanging(good: tuple[GoodRelease, ...]) -> Iterator[str]:
    for each in good:
        if 2 * each.promoted < each.runs:
            yield (
                f"segment {each.segment}: of {each.runs} good releases that were simulated {each.promoted} came to "
                f"100 % within {each.played_s / 3600:.1f} h: it takes longer, or a larger harm.budget or harm.tolerance"
            )


def _key(what: str) -> str:
    return "harm.tolerance" if what == "harm" else f"the tolerance of {what}"


def _would_do(sessions: float) -> str:
    """A budget of so much, rounded up to two digits or so."""
    if sessions == float("inf"):
        return "no budget would do"
    step = 10 ** max(len(str(int(sessions))) - 2, 0)
    return f"a budget of {math.ceil(sessions / step) * step:d} would do"


def _points(difference: float) -> str:
    """A difference of shares, as mesh files write it."""
    return f"{100 * difference:.3g}pp"
