"""What a recorded deployment is replayed with: its service's plan, or the defaults for what was counted."""

from __future__ import annotations

from dataclasses import replace

from analysis.history.record import RolloutRecord
from analysis.spec import DEFAULT_SEGMENT, KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec

AGE_S = 60.0  # at which sessions are judged where nobody says
TOLERANCES = {KpiKind.ERROR_RATE: 0.005, KpiKind.ANOMALY: 0.10}
TOLERANCE = 0.02  # of every other kind; all as in a mesh file that says nothing
FEATURE = "feature:"


def plan(record: RolloutRecord, spec: ServiceSpec | None) -> ServiceSpec:
    """A plan with the record's own segments, KPIs and length of a tick.

    What `spec` says of those that it names is taken over, budget and risks too; all else are the defaults of a mesh
    file. A KPI that is none of Serinus's is a feature (`feature:NAME`), except for the first in a record without an
    error rate, which counts as one: a record of which nothing is harm could not be ramped.
    """
    told = {kpi.name: kpi for kpi in spec.kpis} if spec is not None else {}
    known = {segment.name: segment for segment in spec.segments} if spec is not None else {}
    names = [name for name in record.segments if name != DEFAULT_SEGMENT]
    segments = [known.get(name, SegmentSpec(name=name)) for name in (*names, DEFAULT_SEGMENT)]
    has_errors = str(KpiKind.ERROR_RATE) in record.kpis
    kpis = [told.get(name) or _kpi(name, is_harm=not has_errors and k == 0) for k, name in enumerate(record.kpis)]
    rollout = replace(RolloutSpec() if spec is None else spec.rollout, interval_s=record.interval_s)
    return ServiceSpec(
        name=record.service if spec is not None else "any", baseline="baseline", versions=("baseline", "canary"),
        segments=tuple(replace(segment, pin=None, after=()) for segment in segments), kpis=tuple(kpis),
        rollout=replace(rollout, min_dwell_s=max(rollout.min_dwell_s, record.interval_s)),
    )  # fmt: skip


def _kpi(name: str, *, is_harm: bool) -> KpiSpec:
    kinds = {str(kind): kind for kind in KpiKind if kind is not KpiKind.FEATURE}
    kind = KpiKind.ERROR_RATE if is_harm else kinds.get(name, KpiKind.FEATURE)
    feature = name.removeprefix(FEATURE) if kind is KpiKind.FEATURE else None
    return KpiSpec(kind=kind, judge_after_s=AGE_S, tolerance=TOLERANCES.get(kind, TOLERANCE), feature=feature)
