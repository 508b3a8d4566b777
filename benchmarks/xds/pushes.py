"""Pushes of one segment's new split to ever more streams, the columns in turn, so that noise hits all alike."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.xds import columns
from benchmarks.xds.children import ChildError
from benchmarks.xds.columns import GCP, TITLES, Column, Key, Place, Push, SkippedError
from benchmarks.xds.protocol import Variant
from benchmarks.xds.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Pushes of one column to so many streams. `skipped`: None, or why there are none."""

    variant: Variant
    workload: Workload
    streams: int
    key: Key
    pushes: Sequence[Push] = ()
    kb_per_stream: float | None = None
    skipped: str | None = None

    @property
    def seen_ms(self) -> float:
        return median(push.seen_ms for push in self.pushes)

    @property
    def server_us(self) -> float:
        return median(push.server_us for push in self.pushes)


@dataclass(slots=True)
class _Group:
    """The columns of one workload, all running; `skipped` ones say why."""

    variant: Variant
    workload: Workload
    place: Place
    exits: contextlib.ExitStack
    running: dict[Key, tuple[Column, contextlib.ExitStack]] = field(default_factory=dict)
    skipped: dict[Key, str] = field(default_factory=dict)
    message: bytes = b""  # what Serinus pushed last

    def start(self, keys: Sequence[Key]) -> None:
        for key in keys:
            own = self.exits.enter_context(contextlib.ExitStack())
            try:
                if key == "serinus":
                    columns.check(key, self.variant, self.workload, self.place)
                self.running[key] = (
                    own.enter_context(columns.column(key, self.variant, self.workload, self.place)),
                    own,
                )
            except (SkippedError, ChildError) as error:
                self.skip(key, str(error))

    def skip(self, key: Key, reason: str) -> None:
        """End a column for good; its server and client with it."""
        _note(f"    {TITLES[key]}: SKIPPED: {reason}")
        self.skipped[key] = reason
        _, own = self.running.pop(key, (None, None))
        if own is not None:
            own.close()

    def measure(self, streams: int, repetitions: int) -> Iterator[Cell]:
        keys = [*self.running, *self.skipped]
        memory: dict[Key, float] = {}
        for key, (column, _) in list(self.running.items()):
            try:
                column.open(streams)
                memory[key] = column.kb_per_stream()
            except (SkippedError, ChildError) as error:
                self.skip(key, str(error))
        pushes: dict[Key, list[Push]] = {key: [] for key in keys}
        for repetition in range(repetitions + 1):  # the first one warms up
            for key, push in self._once_each():
                if repetition:
                    pushes[key].append(push)
        for key in sorted(keys, key=list(TITLES).index):
            reason = self.skipped.get(key)
            yield Cell(
                variant=self.variant,
                workload=self.workload,
                streams=streams,
                key=key,
                pushes=() if reason else pushes[key],
                kb_per_stream=None if reason else memory[key],
                skipped=reason,
            )

    def _once_each(self) -> Iterator[tuple[Key, Push]]:
        """Serinus first: the floor sends what it has just sent."""
        if not self.message:
            self.message = columns.floor_message(self.variant, self.workload)
        for key, (column, _) in list(self.running.items()):
            try:
                yield key, column.push(self.message)
                self.message = column.sample or self.message
            except (SkippedError, ChildError) as error:
                self.skip(key, str(error))

    def drop(self, key: Key) -> None:
        """End a column that has shown what it can."""
        _, own = self.running.pop(key)
        own.close()


def run(variant: Variant, workload: Workload, streams: Sequence[int], repetitions: int, place: Place) -> Iterator[Cell]:
    """Measure a workload. go-control-plane goes on after the first number of streams with the faster of its caches."""
    _note(f"pushes: {variant}, {workload.services} service(s), {workload.shape}")
    with contextlib.ExitStack() as exits:
        group = _Group(variant, workload, place, exits)
        group.start(("serinus", "floor", *GCP))
        for i, n in enumerate(streams):
            _note(f"  {n} streams")
            cells = {cell.key: cell for cell in group.measure(n, repetitions)}
            yield from cells.values()
            if i == 0:
                for key in _slower(cells):
                    group.drop(key)


def _slower(cells: Mapping[Key, Cell]) -> list[Key]:
    shown = sorted((cells[key].seen_ms, key) for key in GCP if key in cells and cells[key].pushes)
    return [key for _, key in shown[1:]]


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
