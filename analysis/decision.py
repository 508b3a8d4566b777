"""What the engine says: verdicts with their reasons, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Health(StrEnum):
    """What the evidence says of a segment's canary. No data is never `healthy`."""

    HARMFUL = "harmful"
    HEALTHY = "healthy"
    UNKNOWN = "unknown"


class Tier(StrEnum):
    """What a rollback rests on."""

    HARD = "hard"
    PROVEN = "proven"
    PREDICTED = "predicted"
    OPERATOR = "operator"


class Phase(StrEnum):
    """Where one segment stands in a rollout."""

    WAITING = "waiting"  # for another segment (`after`)
    WARMUP = "warmup"  # the baseline is being learnt; split 0
    RAMPING = "ramping"
    BAKING = "baking"  # at bake_split, the last hash buckets stay on the baseline
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    WITHDRAWN = "withdrawn"  # neither proven harmful nor tolerable within the budget
    PINNED = "pinned"

    @property
    def is_final(self) -> bool:
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.WITHDRAWN, Phase.PINNED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why, as data: `code` is stable, `text` is for people. `observed` and `limit` share `unit`."""

    code: str
    text: str
    kpi: str | None = None
    observed: float | None = None
    limit: float | None = None
    unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Insufficient:
    """Not enough data for an estimate: `n` judged people so far, `needed` more, about `minutes` at today's traffic."""

    n: int
    needed: int
    minutes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    split_bp: int
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce:
    split_bp: int
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    tier: Tier
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    reasons: tuple[Reason, ...]


Verdict = Advance | Hold | Reduce | Withdraw | Rollback | Promote


def verdict_name(verdict: Verdict) -> str:
    """The verdict's name as journalled and shown: `advance`, `hold` and so on."""
    return type(verdict).__name__.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowChoice:
    """What a policy that only watches would have done, and the probability with which it would do so again."""

    policy: str
    verdict: str
    split_bp: int
    propensity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDecision:
    """One tick's decision for one segment. Splits are the canary's share in basis points."""

    segment: str
    verdict: Verdict
    phase: Phase
    split_before_bp: int
    split_after_bp: int
    propensity: float = 1.0
    numbers: dict[str, float] = field(default_factory=dict)  # evidence behind it, by name, for journal and explain
    shadow: ShadowChoice | None = None  # where a policy watches
    differences: tuple[str, ...] = ()  # what the canary's sessions do otherwise, in words, where it loses its people

    @property
    def changes_split(self) -> bool:
        return self.split_after_bp != self.split_before_bp


class Action(StrEnum):
    """What a person may order."""

    PAUSE = "pause"  # the engine may still lower and roll back, never raise
    RESUME = "resume"
    SET = "set"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    FREEZE = "freeze"  # nothing moves, not even down, until resume


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A person's command. `segment` None: every one that takes part. `split_bp` counts for SET only."""

    action: Action
    who: str
    reason: str = ""
    segment: str | None = None
    split_bp: int = 0
