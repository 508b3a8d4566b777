"""What a rollout is asked to do: frozen, checked values, filled in from a mesh file by the shell.

Units: times in seconds (`_s`), splits in basis points (`_bp`, 0 to 10,000), rates as ratios in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from analysis.errors import SpecError

TOTAL_BP = 10_000
"""Sum of the weights of every split. It never changes: another sum would move every person (Envoy hashes modulo it)."""

DEFAULT_SEGMENT = "default"


class Outcome(StrEnum):
    """What can go wrong for a session, judged at a fixed age after its first request."""

    ERROR = "error"  # any of its requests failed
    SLOW = "slow"  # any of its requests took longer than the service's threshold
    ABANDONED = "abandoned"  # its goal was not reached


class KpiKind(StrEnum):
    """What a KPI counts; each is the share of sessions for which something bad is true."""

    ERROR_RATE = "error_rate"
    LATENCY = "latency_p95"
    ABANDONMENT = "abandonment"
    FEATURE = "feature"  # share of sessions that did *not* use the feature
    ANOMALY = "anomaly"  # share of sessions whose behaviour is unusual for their segment


OUTCOME_OF: Mapping[KpiKind, Outcome] = MappingProxyType(
    {KpiKind.ERROR_RATE: Outcome.ERROR, KpiKind.LATENCY: Outcome.SLOW, KpiKind.ABANDONMENT: Outcome.ABANDONED}
)
"""What makes a session bad, by the KPI that counts it."""


class Mode(StrEnum):
    ACT = "act"
    OBSERVE = "observe"


@dataclass(frozen=True, slots=True, kw_only=True)
class KpiSpec:
    """One guarded KPI of a service.

    `limit`: absolute limit on the share of sessions in [0, 1] (for latency the threshold in ms is `slow_ms`); None:
    none.
    `tolerance`: accepted excess of canary over baseline, as a difference of shares in [0, 1).
    `slow_ms`: latency only: a request slower than this is slow; None: frozen from the baseline's 95th percentile.
    `regression`: latency only: a slow threshold frozen from the baseline is raised by this ratio.
    `feature`: the feature's name for `KpiKind.FEATURE`.
    `judge_after_s`: age of a session, after its first request, at which this KPI is judged.
    """

    kind: KpiKind
    judge_after_s: float
    tolerance: float
    limit: float | None = None
    slow_ms: float | None = None
    regression: float = 0.1
    feature: str | None = None

    @property
    def is_behaviour(self) -> bool:
        """Whether it tells what people do, and not what is done to them."""
        return self.kind in (KpiKind.ABANDONMENT, KpiKind.FEATURE, KpiKind.ANOMALY)

    @property
    def is_relative(self) -> bool:
        """Whether the canary is held against the baseline's own threshold, raised by `regression`, and no fixed one."""
        return self.kind is KpiKind.LATENCY and self.slow_ms is None

    @property
    def name(self) -> str:
        return f"feature:{self.feature}" if self.kind is KpiKind.FEATURE else str(self.kind)

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise SpecError(f"kpi {self.name}: tolerance {self.tolerance} must lie in [0, 1)")
        if self.limit is not None and not 0 < self.limit < 1:
            raise SpecError(f"kpi {self.name}: limit {self.limit} must lie in (0, 1)")
        if self.judge_after_s <= 0:
            raise SpecError(f"kpi {self.name}: judge_after must be above 0 s")
        if (self.kind is KpiKind.FEATURE) != (self.feature is not None):
            raise SpecError(f"kpi {self.name}: a feature's name belongs to kpi 'feature', and to no other")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSpec:
    """A resource that processes of a version use up. `metric`: its gauge; `limit`: in the gauge's unit, above 0."""

    name: str
    metric: str
    limit: float

    def __post_init__(self) -> None:
        if not 0 < self.limit < float("inf"):
            raise SpecError(f"resource {self.name}: limit {self.limit} must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSpec:
    """One segment of a service's people. `weight` is the relative cost of harm there (1.0: as anybody).

    `after`: segments whose canary must have been promoted before this one starts.
    `pin`: version that this segment always gets (never takes part in a rollout); None: none.
    """

    name: str
    weight: float = 1.0
    pin: str | None = None
    after: tuple[str, ...] = ()
    max_split_bp: int = TOTAL_BP


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """How requests become sessions. `goal_path`: path prefix that a complete session reaches; None: no goal."""

    gap_s: float = 1800.0
    goal_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmSpec:
    """The harm budget: how many bad sessions beyond the baseline's a rollout may cost, all segments together.

    `bad` is errors alone unless more is asked for: one session in twenty is slow by definition of a 95th percentile,
    a third of all may be abandoned, and a budget that tells good from bad at such rates is several times as large. As
    KPIs both are judged all the same.
    """

    budget: float = 50.0
    bad: frozenset[Outcome] = frozenset({Outcome.ERROR})
    tolerance: float = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """How a rollout is run.

    `settle_s`: how long a fresh canary may be slow (cold caches, just-in-time compilers): who comes earlier after a
    segment's first exposure says nothing about latency. `shadow`: a policy that only watches, None for none.
    """

    mode: Mode = Mode.ACT
    harm: HarmSpec = field(default_factory=HarmSpec)
    budget_risk: float = 0.05
    false_rollback: float = 0.01
    policy: str = "budget"
    shadow: str | None = None
    interval_s: float = 10.0
    warmup_s: float = 60.0
    max_step_bp: int = 2_500
    min_dwell_s: float = 10.0
    horizon_s: float = 7_200.0
    settle_s: float = 300.0
    bake_s: float = 300.0
    bake_split_bp: int = 9_500


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """Everything the core knows of one service. `segments` is in matching order and ends with `default`."""

    name: str
    baseline: str
    versions: tuple[str, ...]
    segments: tuple[SegmentSpec, ...]
    kpis: tuple[KpiSpec, ...]
    session: SessionSpec = field(default_factory=SessionSpec)
    rollout: RolloutSpec = field(default_factory=RolloutSpec)
    resources: tuple[ResourceSpec, ...] = ()

    def __post_init__(self) -> None:
        names = [segment.name for segment in self.segments]
        if not names or names[-1] != DEFAULT_SEGMENT or len(set(names)) != len(names):
            raise SpecError(f"service {self.name}: segments must be distinct and end with '{DEFAULT_SEGMENT}': {names}")
        if self.baseline not in self.versions:
            raise SpecError(f"service {self.name}: baseline {self.baseline} is none of {list(self.versions)}")

    @property
    def segment_index(self) -> Mapping[str, int]:
        return MappingProxyType({segment.name: i for i, segment in enumerate(self.segments)})

    @property
    def version_index(self) -> Mapping[str, int]:
        return MappingProxyType({version: i for i, version in enumerate(self.versions)})

    @property
    def harms(self) -> tuple[int, ...]:
        """The KPIs that count what is harm, by index."""
        return tuple(k for k, kpi in enumerate(self.kpis) if OUTCOME_OF.get(kpi.kind) in self.rollout.harm.bad)

    @property
    def harm_judged_s(self) -> float:
        """Age in seconds at which a session has been judged for harm."""
        return max((self.kpis[k].judge_after_s for k in self.harms), default=self.oldest_judged_s)

    @property
    def oldest_judged_s(self) -> float:
        """Age in seconds at which a session has been judged for every KPI."""
        return max(kpi.judge_after_s for kpi in self.kpis)
