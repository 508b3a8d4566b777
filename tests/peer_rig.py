"""A peer's rollout against counters that say what a test wants: no chance, whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.contest.metrics import TICK_S, Batch, History, Metrics
from benchmarks.contest.peers.protocol import Peer, State, Step

BOUNDS_MS = np.array([10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Of each arm: share of failed requests, duration of each request, share of bad people, of abandoned sessions."""

    per_s: float = 1_000.0
    errors: tuple[float, float] = (0.0, 0.0)
    ms: tuple[float, float] = (20.0, 20.0)
    users_bad: tuple[float, float] = (0.0, 0.0)
    abandoned: tuple[float, float] = (0.3, 0.3)


@dataclass(slots=True, kw_only=True)
class Told:
    """What a peer decided, by time in seconds."""

    steps: dict[float, Step] = field(default_factory=dict)

    @property
    def last(self) -> Step:
        return self.steps[max(self.steps)]

    @property
    def end_min(self) -> float:
        return max(self.steps) / 60

    def weight_at(self, minutes: float) -> float:
        return self.steps[max(at for at in self.steps if at <= minutes * 60)].weight


def batch(truth: Truth, weight: float) -> Batch:
    n = np.round(truth.per_s * TICK_S * np.array([[1 - weight, weight]])).astype(np.int64)
    durations = np.zeros((1, 2, len(BOUNDS_MS) + 1), np.int64)
    for arm in range(2):
        durations[0, arm, np.searchsorted(BOUNDS_MS, truth.ms[arm])] = n[0, arm]
    people = n // 5

    def share(counts: np.ndarray, shares: tuple[float, float]) -> np.ndarray:
        return np.round(counts * np.array(shares)).astype(np.int64)

    return Batch(
        requests=n, failed=share(n, truth.errors), durations=durations, duration_ms=n * np.array(truth.ms),
        users=people, users_bad=share(people, truth.users_bad), sessions=people,
        abandoned=share(people, truth.abandoned),
    )  # fmt: skip


def play(peer: Peer, truth: Truth | Callable[[float], Truth], *, hours: float = 4.0) -> Told:
    """Until it is over: promoted, rolled back, or out of time."""
    history, told, weight = History(1, BOUNDS_MS), Told(), 0.0
    for tick in range(round(hours * 3_600 / TICK_S) + 1):
        at_s = tick * TICK_S
        if at_s % peer.interval_s == 0:
            told.steps[at_s] = step = peer.decide(history.of(0), at_s)
            weight = step.weight
            if step.state in {State.PROMOTED, State.ROLLED_BACK}:
                break
        history.add(batch(truth(at_s) if callable(truth) else truth, weight))
    return told


def seen_of(*ticks: tuple[Truth, float]) -> Metrics:
    """What is known after ticks with a truth and a weight each."""
    history = History(1, BOUNDS_MS)
    for truth, weight in ticks:
        history.add(batch(truth, weight))
    return history.of(0)
