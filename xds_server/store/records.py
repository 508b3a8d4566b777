"""The journal's records: what a restart needs, and what history and `explain` are told from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """One rollout. `finished_unix_ns` None: running. `outcome`: segment to phase, filled in when it finishes.

    `attributes`: what was known of the release before it had traffic.
    """

    rollout: str
    service: str
    baseline: str
    canary: str
    state: str
    started_unix_ns: int
    finished_unix_ns: int | None = None
    outcome: Mapping[str, str] = field(default_factory=dict)
    who: str = ""
    reason: str = ""
    attributes: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def attribute_texts(self) -> dict[str, str]:
        """The attributes as people read them."""
        return {name: f"{value:.12g}" if isinstance(value, float) else value for name, value in self.attributes.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """One decision for one segment, the engine's or a person's (`who`). Splits in basis points.

    `id` 0: not yet written. `segment` empty: the whole service. `in_force_unix_ns` 0: not in force (yet).
    `observed_only`: mode observe, said but not done. Field by field the control API's `DecisionRecord`.
    """

    at_unix_ns: int
    service: str
    rollout: str
    segment: str
    verdict: str
    split_before_bp: int
    split_after_bp: int
    generation: int
    reason: str
    tier: str = ""
    detail_json: str = "{}"
    who: str = ""
    in_force_unix_ns: int = 0
    observed_only: bool = False
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """A rollout engine's own bytes, as of `at_unix_ns`."""

    rollout: str
    payload: bytes
    at_unix_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectionRow:
    """An Envoy's NACK."""

    at_unix_ns: int
    node: str
    type: str
    version: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludedNode:
    """Who has excluded an Envoy, when and why."""

    at_unix_ns: int
    who: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationRow:
    """An endpoint that has registered. `asked_s`: the lease time asked for; 0: none."""

    lease: str
    service: str
    version: str
    host: str
    port: int
    asked_s: float
    since_unix_ns: int
    is_stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One event of a rollout's tape, as `tape_form.encode` made it."""

    at_unix_ns: int
    kind: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """What an operator says of a rollout: `bad`, `good` or `unknown`."""

    rollout: str
    at_unix_ns: int
    verdict: str
    who: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRow:
    """A deployment that another tool has recorded, and when it came; `payload`: of `analysis.history.archive`."""

    rollout: str
    service: str
    at_unix_ns: int
    who: str
    payload: bytes
