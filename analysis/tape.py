"""What a rollout was given, in order, and what it decided: enough to decide all of it again, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.decision import Order, SegmentDecision
from analysis.evidence.log_loss import LogCheck
from analysis.forecast.exhaustion import Exhaustion
from analysis.spec import ServiceSpec
from analysis.window import Window

MOST_EVENTS = 2_000  # that wait to be taken; beyond it all of them are lost, and that is noted
DIGEST_BYTES = 16

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A rollout begins, or a restart takes it up. `arms`: (baseline, canary) of each segment that takes part.

    `seed`: with a tick's time the seed of that tick's draws. `artefacts`: what was learnt and is decided with, by name:
    a digest of it. `learnt`: of the policy `learned`, what it has learnt on the job before, as `OnTheJob.state` has it.
    `width`: of forecasts, as an earlier rollout has left them; None: none has.
    """

    at_ns: int
    started_ns: int
    arms: Mapping[str, tuple[str, str]]
    spec: ServiceSpec
    seed: int
    artefacts: Mapping[str, str]
    learnt: Mapping[str, Any] | None = None
    width: Sequence[object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A restart goes on from a state that `Ramp.state` gave `gap_s` seconds before."""

    at_ns: int
    state: Mapping[str, Any]
    gap_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The split that Envoys really have."""

    at_ns: int
    segment: str
    split_bp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubted:
    """Until `until_s` seconds after the beginning, that the canary is not seen says nothing."""

    at_ns: int
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """Envoys have acknowledged a segment's newest split."""

    at_ns: int
    segment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack:
    """What was decided for these segments by the last tick or order was not done."""

    at_ns: int
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """A person's order; `digest` of what was decided."""

    at_ns: int
    order: Order
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a tick decided for one segment. Splits in basis points."""

    verdict: str
    phase: str
    split_before_bp: int
    split_after_bp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """One tick: what it took in; what it decided, segment by segment; `digest` of all that it said.

    `risk`, `ahead`: as `PolicyView` has them. `suspicion`, `log_e`: (S,) as `SegmentView` has them, after the tick.
    `exhaustion`, `exhausted_ticks`: of the canary's resources, as `GuardView` has them.
    """

    at_ns: int
    window: Window
    logs: LogCheck
    risk: float
    ahead: float
    exhaustion: Exhaustion | None
    exhausted_ticks: int
    said: tuple[Said, ...]
    suspicion: tuple[float, ...]
    log_e: tuple[float, ...]
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """From here on it is not known what the rollout was given, until the next `Started`."""

    at_ns: int
    reason: str


Event = Started | Resumed | Adopted | Doubted | Confirmed | PutBack | Ordered | Ticked | Lost


class Tape:
    """Events that wait to be taken. Bounded: where nobody takes them, they are lost, and the tape says so."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def note(self, event: Event) -> None:
        if len(self._events) >= MOST_EVENTS:
            reason = f"{len(self._events)} events were waiting to be stored, and given up"
            self._events[:] = [Lost(at_ns=event.at_ns, reason=reason)]
        self._events.append(event)

    def take(self) -> list[Event]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events


def digest_of(decisions: tuple[SegmentDecision, ...]) -> bytes:
    """Equal for decisions that are equal in every bit and word."""
    return blake2b(repr(decisions).encode(), digest_size=DIGEST_BYTES).digest()


def rng_of(seed: int, at_ns: int) -> np.random.Generator:
    """The generator of one tick's draws: of nothing but the seed and the tick's time, so a restart draws the same."""
    return np.random.default_rng((seed, max(at_ns, 0)))
