"""The closed loop at the demo's pace: simulated people, the real engine, splits in force at the next tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase, Reason, Rollback, SegmentDecision
from analysis.engine import Rollout, ServiceEngine
from analysis.sample import NO_BUCKET, SampleKind
from analysis.session import NS
from analysis.simulation.people import LABELS, People
from analysis.simulation.scenario import Effect, Kpi
from analysis.simulation.visits import GOAL
from analysis.spec import HarmSpec, KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec, SessionSpec
from tests.simulated import shop

SEGMENTS = ("power", "eu", "newcomers", "default")
POWER, EU, NEWCOMERS, DEFAULT = range(4)
STARTS_S = 3.0
ONSET_S = 15.0


def demo_spec(**rollout: object) -> ServiceSpec:
    """The demo's service; `rollout` overrides fields of its RolloutSpec."""
    kpis = (
        KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=4, tolerance=0.02, limit=0.05),
        KpiSpec(kind=KpiKind.LATENCY, judge_after_s=4, tolerance=0.05),
        KpiSpec(kind=KpiKind.ABANDONMENT, judge_after_s=10, tolerance=0.02),
        KpiSpec(kind=KpiKind.FEATURE, judge_after_s=10, tolerance=0.05, feature="wishlist"),
        KpiSpec(kind=KpiKind.ANOMALY, judge_after_s=12, tolerance=0.10),
    )
    plan = RolloutSpec(
        harm=HarmSpec(budget=500, tolerance=0.02), interval_s=1, warmup_s=5, min_dwell_s=2, horizon_s=60, bake_s=10,
        settle_s=0,
    )  # fmt: skip
    return ServiceSpec(
        name="shop", baseline="v1", versions=("v1", "v2"), segments=tuple(SegmentSpec(name=name) for name in SEGMENTS),
        kpis=kpis, session=SessionSpec(gap_s=8, goal_path="/checkout/done"), rollout=replace(plan, **rollout),
    )  # fmt: skip


def faulty(kpi: Kpi, segment: int | None = None, **change: float) -> Effect:
    """A fault of the canary that begins at ONSET_S."""
    name = None if segment is None else SEGMENTS[segment]
    return Effect(kpi=kpi, segment=name, **{"at_s": ONSET_S, **change})


@dataclass(slots=True, kw_only=True)
class Told:
    """How it ended for one segment. `at_s`: seconds on the loop's clock; None: not ended."""

    phase: Phase
    at_s: float | None = None
    tier: str | None = None
    reasons: tuple[Reason, ...] = ()
    largest_bp: int = 0


@dataclass(slots=True, kw_only=True)
class Run:
    """One played rollout: what it came to, every split of every tick, and the people."""

    told: dict[str, Told]
    splits: list[tuple[float, dict[str, int]]]
    people: People
    engine: ServiceEngine
    decisions: list[SegmentDecision] = field(default_factory=list)

    def phases(self) -> dict[str, Phase]:
        return {name: told.phase for name, told in self.told.items()}

    def reason_codes(self, segment: str) -> str:
        return " ".join(f"{reason.code} {reason.kpi}" for reason in self.told[segment].reasons)


def play(
    *effects: Effect,
    seed: int,
    spec: ServiceSpec | None = None,
    rates: Sequence[float] | None = None,
    until_s: float = 120.0,
    hide_errors: bool = False,
    restart_at_s: float | None = None,
    until_final: tuple[str, ...] = SEGMENTS,
) -> Run:
    """Play one rollout; ends when every segment of `until_final` has, or at `until_s`.

    `hide_errors`: failed requests have status 200 and only a server span tells of the failure. `rates`: sessions a
    second of each segment.
    """
    spec = spec or demo_spec()
    people = shop(spec, effects, rates=rates, seed=seed)
    engine = ServiceEngine(spec, seed=seed)
    run = Run(told={}, splits=[], people=people, engine=engine)
    split: dict[int, int] = {}
    at_s = 0.0
    while at_s < until_s:
        at_s += spec.rollout.interval_s
        rows = people.advance(at_s, split)
        if hide_errors:
            rows = _hidden(rows)
        rows["bucket"] = rows["user"] % 10_000 if engine.ramp is not None else NO_BUCKET
        now_ns = int((at_s + 0.3) * NS)
        if engine.ramp is None and at_s >= STARTS_S:
            arms = {segment.name: ("v1", "v2") for segment in spec.segments}
            engine.start(Rollout(rollout="r1", canary="v2", started_ns=int(at_s * NS), arms=arms))
            rows["bucket"] = rows["user"] % 10_000
        if restart_at_s is not None and at_s == restart_at_s:
            stored = engine.to_bytes(now_ns)
            engine = run.engine = ServiceEngine(spec, seed=seed)
            engine.from_bytes(stored, now_ns)
        engine.observe(rows, LABELS)
        _take(run, engine.tick(now_ns), at_s, split)
        if engine.ramp is not None and all(engine.ramp.segments[name].phase.is_final for name in until_final):
            break
    return run


def _take(run: Run, decisions: tuple[SegmentDecision, ...], at_s: float, split: dict[int, int]) -> None:
    """Put the decisions in force, as Envoys that acknowledge within the tick would, and note how segments end."""
    run.decisions.extend(decisions)
    ramp = run.engine.ramp
    if ramp is None:
        return
    for i, decision in enumerate(decisions):
        run.engine.confirm(decision.segment, int((at_s + 0.3) * NS))
        state = ramp.segments[decision.segment]
        split[i] = state.split_bp
        told = run.told.setdefault(decision.segment, Told(phase=state.phase))
        told.largest_bp = max(told.largest_bp, state.split_bp)
        told.phase = state.phase
        if state.phase.is_final and told.at_s is None:
            told.at_s, told.reasons = at_s, decision.verdict.reasons
            told.tier = str(decision.verdict.tier) if isinstance(decision.verdict, Rollback) else None
    run.splits.append((at_s, {name: state.split_bp for name, state in ramp.segments.items()}))


def _hidden(rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """The same traffic where no failure shows in the access log: status 200, and a span with status ERROR."""
    spans = rows[rows["error"]].copy()
    spans["kind"] = SampleKind.SPAN_ERROR
    spans["error"] = False
    rows["error"] = False
    rows["goal"] |= (rows["label"] == GOAL) & (rows["kind"] == SampleKind.REQUEST)
    return np.concatenate([rows, spans])
