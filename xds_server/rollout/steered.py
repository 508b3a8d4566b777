"""One service under the controller: its engine, its splits, its rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from analysis.decision import SegmentDecision, verdict_name
from analysis.engine import ServiceEngine
from analysis.sample import SAMPLE_DTYPE
from analysis.segment import SegmentState
from analysis.spec import TOTAL_BP
from analysis.tape import Lost
from xds_server.ingest.ingest import MAX_GAUGED
from xds_server.ingest.rows import Gauged
from xds_server.mesh import SegmentSplit, Service, ServiceSplits
from xds_server.rollout.coverage import Coverage
from xds_server.store.journal import Journal
from xds_server.store.records import DecisionRow, EventRow, RolloutRow
from xds_server.tape_form import encode, kind_of

SERINUS = "serinus"  # who gives an order that no person gave
HELD = "held: "  # how the reason of what Serinus itself has stopped begins
WATCHED_TICK = 0.25  # of the mesh file's interval, while any segment is watched more closely
TOLD_ANYWAY_S = 30.0  # how long flags go by what was in force, while Envoys that carry traffic lag behind
SHORTEST_TICK_S = 1.0  # … but no shorter: all services' ticks share a core
MOST_TAPED = 2_000  # events that wait for a journal that works again
INBOX_LIMIT = 1_000_000  # rows, of 38 bytes or so: other services' ticks drain what a slow one's has yet to take


@dataclass(slots=True, kw_only=True)
class SteeredService:
    """The mutable state of one service. `lock` guards the engine, which one tick at a time runs in a thread.

    `waiting_for`: nodes that have not acknowledged the newest generation; `in_force`: none is missing.
    """

    service: Service
    engine: ServiceEngine
    splits: ServiceSplits
    row: RolloutRow | None = None
    in_force: bool = True
    waiting_for: tuple[str, ...] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    inbox: list[npt.NDArray[np.void]] = field(default_factory=list)
    watched: frozenset[str] = frozenset()  # segments that Envoys look at more closely
    said: dict[str, tuple[str, str, int, bool, str | None]] = field(
        default_factory=dict
    )  # segment to the verdict journalled last
    saved_s: float = 0.0  # monotonic time of the last stored engine state
    held: str = ""  # why the rollout is held until a person resumes it
    unwritten: list[DecisionRow] = field(default_factory=list)  # carried out, but the journal could not take them
    good: ServiceSplits | None = None  # the newest that were in force
    decided_s: float = 0.0  # monotonic time since when something has not been in force
    ticked_s: float = 0.0  # monotonic time of the last tick's end
    ticking: asyncio.Task[None] | None = None
    coverage: Coverage = field(default_factory=Coverage)
    gauged: list[Gauged] = field(default_factory=list)
    taped: list[EventRow] = field(default_factory=list)  # what the rollout was given, as yet unwritten

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def is_running(self) -> bool:
        return self.row is not None and self.row.finished_unix_ns is None

    def set_state(self, state: str, journal: Journal) -> None:
        """Let the journal know what a restart must know."""
        assert self.row is not None  # noqa: S101 -- only rollouts have a state
        self.row = replace(self.row, state=state)
        journal.set_state(self.row.rollout, state)

    def positions(self) -> dict[str, SegmentState]:
        """Where each segment stands in the engine now; for `put_back`."""
        return self.engine.positions()

    def put_back(self, positions: Mapping[str, SegmentState], now_ns: int) -> None:
        """Let the engine forget what it has decided for these segments since `positions`, because it was not done."""
        self.engine.put_back(positions, now_ns)

    def take_tape(self) -> None:
        """Put what the engine was given into the form in which it is stored; of a finished rollout nothing is."""
        events = [] if self.engine.tape is None else self.engine.tape.take()
        if not self.is_running:
            self.taped.clear()
            return
        for event in events:
            self.taped.append(
                EventRow(at_unix_ns=event.at_ns, kind=kind_of(event), payload=encode(event, self.engine.spec))
            )
        if len(self.taped) > MOST_TAPED:
            lost = Lost(at_ns=self.taped[-1].at_unix_ns, reason="the journal took nothing for too long")
            self.taped[:] = [
                EventRow(at_unix_ns=lost.at_ns, kind=kind_of(lost), payload=encode(lost, self.engine.spec))
            ]

    def follow_watch(self) -> bool:
        """Take over which segments the engine watches; whether that is new. While it ticks it must not be asked."""
        ramp, before = self.engine.ramp, self.watched
        states = ramp.segments if ramp is not None and self.is_running else {}
        self.watched = frozenset(name for name, state in states.items() if state.watched)
        return self.watched != before

    @property
    def tick_s(self) -> float:
        """From one tick to the next."""
        interval_s = self.service.spec.rollout.interval_s
        return min(interval_s, max(interval_s * WATCHED_TICK, SHORTEST_TICK_S)) if self.watched else interval_s

    def put_rows(self, rows: npt.NDArray[np.void]) -> None:
        """Keep rows for the next tick; of too many the oldest go."""
        self.inbox.append(rows)
        while len(self.inbox) > 1 and sum(map(len, self.inbox)) > INBOX_LIMIT:
            del self.inbox[0]

    def put_gauged(self, gauged: Sequence[Gauged]) -> None:
        """Keep reports of resources for the next tick; of too many the oldest go."""
        self.gauged = [*self.gauged, *gauged][-MAX_GAUGED:]

    def take_gauged(self) -> list[Gauged]:
        """All reports of resources since the last call."""
        gauged, self.gauged = self.gauged, []
        return gauged

    def take_rows(self) -> npt.NDArray[np.void]:
        """All rows that have come since the last call."""
        rows = np.concatenate(self.inbox) if self.inbox else np.empty(0, SAMPLE_DTYPE)
        self.inbox.clear()
        return rows

    def news(self, decisions: Iterable[SegmentDecision], *, observed_only: bool) -> list[SegmentDecision]:
        """Those decisions that are worth a line: the split changes, or what is said of the segment has changed."""
        fresh = []
        for decision in decisions:
            split_bp = decision.split_after_bp if observed_only else decision.split_before_bp
            watched = decision.segment in self.watched
            shadow = None if decision.shadow is None else decision.shadow.verdict
            said = (verdict_name(decision.verdict), decision.verdict.reasons[0].code, split_bp, watched, shadow)
            if (decision.changes_split and not observed_only) or self.said.get(decision.segment) != said:
                fresh.append(decision)
            self.said[decision.segment] = said
        return fresh

    def risen(self) -> dict[str, int]:
        """Segments whose split is above what was last in force, and that split in basis points."""
        if self.good is None or self.good.rollout != self.splits.rollout:
            return {}
        before = {name: split.canary_bp for name, split in self.good.segments.items()}
        return {
            name: before.get(name, 0)
            for name, split in self.splits.segments.items()
            if split.canary_bp > before.get(name, 0)
        }

    def told(self, now_s: float) -> ServiceSplits:
        """What clients of flags are told: what was last in force, until this is, or Envoys lag behind for too long.

        Of another mesh's segments nothing is told. `now_s`: monotonic time.
        """
        is_lagging = not self.in_force and now_s - self.decided_s < TOLD_ANYWAY_S
        if is_lagging and self.good is not None and self.good.segments.keys() == self.splits.segments.keys():
            return self.good
        return self.splits

    def rollbacks(self) -> Iterator[ServiceSplits]:
        """What the next splits would be if one segment's canary, or every one, were taken back."""
        exposed = [name for name, split in self.splits.segments.items() if split.canary is not None and split.canary_bp]
        for taken_back in (*([name] for name in exposed), exposed):
            segments = {
                name: replace(split, canary_bp=0) if name in taken_back else split
                for name, split in self.splits.segments.items()
            }
            yield ServiceSplits(rollout=self.splits.rollout, generation=self.splits.generation + 1, segments=segments)

    def splits_after(self, decisions: Iterable[SegmentDecision]) -> ServiceSplits:
        """The splits, one generation on, once these decisions are carried out."""
        segments = dict(self.splits.segments)
        for decision in decisions:
            split = segments[decision.segment]
            segments[decision.segment] = SegmentSplit(
                baseline=split.baseline, canary=split.canary, canary_bp=decision.split_after_bp
            )
        return ServiceSplits(rollout=self.splits.rollout, generation=self.splits.generation + 1, segments=segments)

    def serving(self) -> Mapping[str, str]:
        """The version that each segment is on for good: the canary of a promoted segment, else its baseline."""
        return {
            name: split.canary if split.canary is not None and split.canary_bp == TOTAL_BP else split.baseline
            for name, split in self.splits.segments.items()
        }


def held_because(reason: str) -> str:
    """What a rollout that Serinus itself holds says of itself, in one line."""
    return HELD + " ".join(reason.split())


def resting_splits(service: Service) -> ServiceSplits:
    """The splits of a service that has never had a rollout: everybody on the baseline, pinned segments on their pin."""
    segments = {
        segment.name: SegmentSplit(baseline=segment.pin if segment.pin is not None else service.spec.baseline)
        for segment in service.spec.segments
    }
    return ServiceSplits(rollout="", generation=0, segments=segments)


def reconciled(service: Service, stored: ServiceSplits | None) -> ServiceSplits:
    """Stored splits as far as the mesh file still knows their segments and versions; the rest at rest."""
    resting = resting_splits(service)
    if stored is None:
        return resting
    versions = set(service.spec.versions)
    segments = {}
    for name, split in resting.segments.items():
        old = stored.segments.get(name)
        known = old is not None and old.baseline in versions and (old.canary is None or old.canary in versions)
        segments[name] = old if known and old is not None else split
    return ServiceSplits(rollout=stored.rollout, generation=stored.generation, segments=segments)
