"""What every peer is: one rollout's decisions from what a metrics system tells, and one weight for everybody."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from benchmarks.contest.metrics import Metrics


class State(StrEnum):
    RUNNING = "running"
    PROMOTED = "promoted"  # it is over and everybody has the canary: the peer measures nothing any more
    ROLLED_BACK = "rolled back"  # it is over and nobody has the canary
    PAUSED = "paused"  # it waits for a human, who does not come in a contest, or for a metric to recover


@dataclass(frozen=True, slots=True)
class Step:
    """The canary's share of everybody, in [0, 1], from now on."""

    weight: float
    state: State = State.RUNNING


class Peer(Protocol):
    """One rollout under a peer's rules.

    `interval_s`: `decide` is called at 0 s, when nothing is known yet, and at each multiple of it, until the rollout is
    over.
    """

    name: str
    interval_s: float

    def decide(self, seen: Metrics, at_s: float) -> Step: ...


PROMOTED = Step(1.0, State.PROMOTED)
ROLLED_BACK = Step(0.0, State.ROLLED_BACK)
