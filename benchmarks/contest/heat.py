"""Contestants in the same world: one tick after the other, and a record of what became of each run.

Each contestant has rows of its own in the world, so the runs are independent of each other; all see the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from analysis.spec import TOTAL_BP
from benchmarks.contest.metrics import CANARY, TICK_S, Batch, History
from benchmarks.contest.peers.protocol import Peer, State

Floats = npt.NDArray[np.float64]
Splits = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

FULL_BP = 9_999.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one tick brought, in B rows. `harm`: (B, S) expected excess bad sessions. `window`: Serinus's eyes."""

    batch: Batch
    harm: Floats
    window: object


class World(Protocol):
    """Traffic and truth of B rows over S segments; `advance` plays one tick at splits of (B, S) basis points."""

    n_runs: int
    n_segments: int
    edges_ms: Floats

    def advance(self, split_bp: Splits) -> Tick: ...

    def harm_ahead(self, split_bp: Splits, since_s: float, until_s: float) -> Floats | None:
        """(B,) harm still to come if no split changes any more; None: it has to be played."""


class Contestant(Protocol):
    """n rollouts at once. `decide` knows what was seen before `at_s`, and returns splits of (n, S) basis points."""

    name: str
    n: int

    def decide(self, at_s: float) -> Splits: ...

    def see(self, tick: Tick, rows: slice) -> None: ...

    def rolled_back(self) -> Flags:
        """(n, S) whether a segment has been taken back."""

    def is_over(self) -> bool:
        """Whether no split will ever change again."""


class Peers:
    """n rollouts of one peer: one weight for all segments."""

    def __init__(self, name: str, peers: Sequence[Peer], *, n_segments: int, edges_ms: Floats) -> None:
        self.name, self.n = name, len(peers)
        self._peers, self._segments = peers, n_segments
        self._history = History(self.n, edges_ms)
        self._weight = np.zeros(self.n)
        self._state = [State.RUNNING] * self.n
        self._is_over = False

    def decide(self, at_s: float) -> Splits:
        for run, peer in enumerate(() if self._is_over else self._peers):
            if self._state[run] in {State.RUNNING, State.PAUSED} and at_s % peer.interval_s == 0:
                step = peer.decide(self._history.of(run), at_s)
                self._weight[run], self._state[run] = step.weight, step.state
        self._is_over = all(state in {State.PROMOTED, State.ROLLED_BACK} for state in self._state)
        weights = np.round(self._weight * TOTAL_BP).astype(np.int64)
        return np.repeat(weights[:, None], self._segments, axis=1)

    def see(self, tick: Tick, rows: slice) -> None:
        if not self._is_over:
            parts = {name: getattr(tick.batch, name)[rows] for name in Batch.__dataclass_fields__}
            self._history.add(Batch(**parts))

    def rolled_back(self) -> Flags:
        flags = np.array([state is State.ROLLED_BACK for state in self._state])
        return np.repeat(flags[:, None], self._segments, axis=1)

    def is_over(self) -> bool:
        return self._is_over


@dataclass(slots=True, kw_only=True)
class Record:
    """What became of one contestant's n runs. Times in seconds after the start; infinity: never.

    `full_since_s`, `none_since_s`, `back_at_s`, `first_s`: (n, S) since when a segment has had the whole split, or none
    after it had some, without interruption until the end; when it was taken back first; when it first had any.
    `harm`, `canary_sessions`, `sessions`: (n,).
    """

    contestant: str
    full_since_s: Floats
    none_since_s: Floats
    back_at_s: Floats
    first_s: Floats
    harm: Floats
    canary_sessions: Floats
    sessions: Floats

    @classmethod
    def empty(cls, contestant: str, n: int, n_segments: int) -> Record:
        def never() -> Floats:
            return np.full((n, n_segments), math.inf)

        return cls(
            contestant=contestant, full_since_s=never(), none_since_s=never(), back_at_s=never(), first_s=never(),
            harm=np.zeros(n), canary_sessions=np.zeros(n), sessions=np.zeros(n),
        )  # fmt: skip

    def note_splits(self, at_s: float, split_bp: Splits, rolled_back: Flags) -> None:
        self.first_s[(split_bp > 0) & np.isinf(self.first_s)] = at_s
        for since, holds in (
            (self.full_since_s, split_bp >= FULL_BP),
            (self.none_since_s, (split_bp == 0) & np.isfinite(self.first_s)),
        ):
            since[~holds] = math.inf
            since[holds & np.isinf(since)] = at_s
        self.back_at_s[rolled_back & np.isinf(self.back_at_s)] = at_s

    def note_traffic(self, tick: Tick, rows: slice) -> None:
        self.harm += tick.harm[rows].sum(axis=1)
        self.canary_sessions += tick.batch.sessions[rows, CANARY]
        self.sessions += tick.batch.sessions[rows].sum(axis=1)


def play(world: World, contestants: Sequence[Contestant], *, horizon_s: float, may_harm: bool) -> list[Record]:
    """Until the horizon, or until nothing more can happen. `may_harm`: whether the canary ever makes things worse."""
    records = [Record.empty(c.name, c.n, world.n_segments) for c in contestants]
    ends = np.cumsum([c.n for c in contestants])
    rows = [slice(int(end) - c.n, int(end)) for c, end in zip(contestants, ends, strict=True)]
    for number in range(round(horizon_s / TICK_S)):
        at_s = number * TICK_S
        splits = np.concatenate([c.decide(at_s) for c in contestants])
        for contestant, record, part in zip(contestants, records, rows, strict=True):
            record.note_splits(at_s, splits[part], contestant.rolled_back())
        if all(c.is_over() for c in contestants) and _is_settled(
            world, splits, records, rows, at_s, horizon_s, may_harm
        ):
            break
        tick = world.advance(splits)
        for contestant, record, part in zip(contestants, records, rows, strict=True):
            record.note_traffic(tick, part)
            contestant.see(tick, part)
    return records


def _is_settled(
    world: World, splits: Splits, records: list[Record], rows: list[slice], at_s: float, horizon_s: float,
    may_harm: bool,
) -> bool:  # fmt: skip
    """Whether the rest need not be played; then the harm still to come has been added."""
    if not may_harm or not splits.any():
        return True
    ahead = world.harm_ahead(splits, at_s, horizon_s)
    if ahead is None:
        return False
    for record, part in zip(records, rows, strict=True):
        record.harm += ahead[part]
    return True
