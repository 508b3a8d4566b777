"""Releases drawn at random, to train and score policies on. None is a scenario of the contest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.simulation.scenario import Effect, Group, Habits, Kpi, Must, Scenario, Shape, Traffic
from analysis.spec import HarmSpec, KpiKind, KpiSpec, Outcome, RolloutSpec, SegmentSpec, ServiceSpec

LOWEST, HIGHEST = 1.0, 300.0  # sessions a second, all segments together
RISKS = (0.05, 0.1, 0.2, 0.4, 0.7)
"""What may be known before of how probable a failure is; the truth is drawn with just that probability."""
QUICK_SHARE = 0.25  # of releases that are judged in seconds, as a demonstration is
LATE_SHARE = 0.25  # of faults that come some time after the exposure


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A service, its people, the truth and what was known of it before. `load`: sessions a second."""

    spec: ServiceSpec
    scenario: Scenario
    load: float
    risk: float

    @property
    def is_bad(self) -> bool:
        return bool(self.scenario.effects)

    def ahead(self, at_s: float) -> float:
        """Sessions of the next hour over those of the last one."""
        traffic = self.scenario.traffic
        return float(traffic.rate_times(at_s + 1_800) / traffic.rate_times(at_s - 1_800))


def draw(
    rng: np.random.Generator, *, load: float | None = None, bad: bool | None = None, segments: int | None = None
) -> Release:
    """A release; its load, whether it is bad and how many segments (1 to 3) it has are drawn if they are not given."""
    risk = float(rng.choice(RISKS))
    is_bad = bool(rng.random() < risk)
    drawn_load = float(np.exp(rng.uniform(np.log(LOWEST), np.log(HIGHEST))))
    is_quick = bool(rng.random() < QUICK_SHARE)
    drawn_segments = int(rng.choice([1, 1, 2, 3]))
    names = ("vip", "eu", "default")[-(segments or drawn_segments) :]
    spec = _spec(rng, names, is_quick=is_quick)
    shares = rng.dirichlet(np.full(len(names), 2.0)) * 0.9 + 0.1 / len(names)
    groups = tuple(
        Group(name=name, share=float(share), habits=_habits(rng)) for name, share in zip(names, shares, strict=True)
    )
    effects = _fault(rng, spec, names, is_quick=is_quick)  # drawn for a good one too: the rest must not hang on it
    traffic = Traffic(daily=float(rng.choice([0.0, rng.uniform(0, 0.8)])), peak_s=float(rng.uniform(0, 86_400)))
    if not (is_bad if bad is None else bad):
        effects = ()
    scenario = Scenario(
        name="drawn", title="drawn at random", must=Must.ROLLBACK if effects else Must.PROMOTE, groups=groups,
        effects=effects, traffic=traffic,
    )  # fmt: skip
    return Release(spec=spec, scenario=scenario, load=drawn_load if load is None else load, risk=risk)


def _spec(rng: np.random.Generator, names: tuple[str, ...], *, is_quick: bool) -> ServiceSpec:
    """No KPI has a limit: forecasts cost most of a tick and are the guard's matter, not the policy's."""
    age_s = float(rng.uniform(4, 10)) if is_quick else 60.0
    tolerance = float(rng.choice([0.005, 0.01, 0.02]))
    budget = float(rng.choice([25.0, 50.0, 100.0, 200.0]))
    kpis = [
        KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=age_s, tolerance=tolerance),
        KpiSpec(kind=KpiKind.LATENCY, judge_after_s=age_s, tolerance=0.02),
        KpiSpec(kind=KpiKind.ANOMALY, judge_after_s=age_s, tolerance=0.1),
    ]
    bad = {Outcome.ERROR, Outcome.SLOW}
    if rng.random() < 0.4:
        kpis.append(KpiSpec(kind=KpiKind.ABANDONMENT, judge_after_s=age_s * 2, tolerance=0.02))
        bad.add(Outcome.ABANDONED)
    harm = HarmSpec(budget=budget, tolerance=tolerance, bad=frozenset(bad))
    rollout = (
        RolloutSpec(harm=harm, interval_s=1, warmup_s=5, min_dwell_s=2, settle_s=15, bake_s=10, horizon_s=60)
        if is_quick
        else RolloutSpec(harm=harm, settle_s=float(rng.choice([60.0, 60.0, 300.0])), bake_s=120)
    )
    weights = np.round(rng.choice([1.0, 1.0, 2.0, 4.0], len(names)), 1)
    segments = tuple(SegmentSpec(name=name, weight=float(w)) for name, w in zip(names, weights, strict=True))
    return ServiceSpec(
        name="drawn", baseline="v1", versions=("v1", "v2"), segments=segments, kpis=tuple(kpis), rollout=rollout
    )


def _habits(rng: np.random.Generator) -> Habits:
    return Habits(
        requests=float(rng.uniform(3, 8)),
        abandoned=float(rng.uniform(0.1, 0.4)),
        errors=float(np.exp(rng.uniform(np.log(0.002), np.log(0.03)))),
        latency_sigma=float(rng.uniform(0.3, 0.7)),
        visits=float(rng.uniform(1.0, 2.5)),
    )


def _fault(
    rng: np.random.Generator, spec: ServiceSpec, names: tuple[str, ...], *, is_quick: bool
) -> tuple[Effect, ...]:
    """One fault above what is tolerated, in one segment or everywhere, at once, late, growing or under load."""
    worst = float(np.exp(rng.uniform(np.log(2.5 * spec.rollout.harm.tolerance), np.log(0.4))))
    segment = str(rng.choice(names)) if rng.random() < 0.3 else None
    late_s = float(rng.uniform(30, 60) if is_quick else rng.uniform(120, 700)) if rng.random() < LATE_SHARE else 0.0
    shape = Shape(str(rng.choice([Shape.STEP, Shape.STEP, Shape.STEP, Shape.RAMP, Shape.LOAD])))
    over_s, above = late_s + (20.0 if is_quick else 200.0), float(rng.uniform(0, 0.4))
    common = {
        "segment": segment, "since_exposure": True, "at_s": late_s, "shape": shape, "over_s": over_s, "above": above,
    }  # fmt: skip
    slower, which = float(rng.uniform(1.2, 2.5)), rng.random()
    if which < 0.6:
        return (Effect(kpi=Kpi.ERRORS, plus=worst, **common),)  # type: ignore[arg-type]
    if which < 0.8:
        return (Effect(kpi=Kpi.LATENCY, times=slower, **common),)  # type: ignore[arg-type]
    return (Effect(kpi=Kpi.ABANDONMENT, plus=worst, **common),)  # type: ignore[arg-type]
