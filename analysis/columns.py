"""Sessions as columns: one array a field, a slot a session; and which slots are due when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

NEVER = 0xFFFF_FFFF
"""Offset of what has not happened."""

PATH_STEPS = 40
"""Steps of a click path that are kept; later ones only count."""

SESSION_DTYPE = np.dtype(
    [
        ("user", np.uint64),  # keyed hash of the person's sticky key
        ("start_unix_ns", np.int64),
        ("last_unix_ns", np.int64),
        ("newest_unix_ns", np.int64),  # of a request
        ("segment", np.uint16),
        ("version", np.uint16),  # of the first request
        ("newest_version", np.uint16),
        ("newest_failed", np.bool_),
        ("bucket", np.uint16),  # or NO_BUCKET
        ("n_requests", np.uint16),  # counts stop at 65,535
        ("n_pages", np.uint16),
        ("n_calls", np.uint16),
        ("n_clicks", np.uint16),
        ("n_errors", np.uint16),
        ("n_slow", np.uint16),
        ("first_error_ms", np.uint32),  # offset from the start, or NEVER
        ("first_slow_ms", np.uint32),
        ("first_tail_ms", np.uint32),  # slower than the baseline's usual ones, where slow is more than that
        ("goal_ms", np.uint32),
        ("slowest_ms", np.float32),
        ("features", np.uint64),  # bit i: guarded feature i, in the order of ServiceSpec.kpis, within its age
        ("bot", np.bool_),
        ("counts", np.bool_),  # the person's first session since the exposure: the one that evidence counts
        ("n_path", np.uint8),  # steps kept, at most PATH_STEPS
        ("path", np.uint16, (PATH_STEPS,)),  # labels of the service's Vocabulary, as they came
        ("path_ds", np.uint16, (PATH_STEPS,)),  # when, in tenths of a second from the start; stops at 65,535
    ]
)
"""One visit of one person, as far as it has been seen."""

Slots = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.uint32]
Times = npt.NDArray[np.int64]

_GROWTH = 1.5
_LEAST = 1_024
_COUNT_MAX = 0xFFFF
_NUMBERS = NEVER - 1  # after so many sessions numbers begin anew
_UNHAPPENED = ("first_error_ms", "first_slow_ms", "first_tail_ms", "goal_ms")
_BUCKET_NS = 250_000_000
_PARTS_MAX = 64


class Columns:
    """The fields of SESSION_DTYPE by slot. Slots are given back and taken anew; `number` tells who has one now.

    `number` : (capacity,) rises by one with each session and wraps; 0: nobody's.
    """

    def __init__(self, usual_n: int) -> None:
        self._usual_n = usual_n  # nothing is kept in reserve beyond so many
        self._fields: dict[str, npt.NDArray[Any]] = {
            name: np.zeros((0, *SESSION_DTYPE[name].shape), SESSION_DTYPE[name].base)
            for name in SESSION_DTYPE.names or ()
        }
        self.number: Numbers = np.zeros(0, np.uint32)
        self._free: Slots = np.zeros(0, np.int32)
        self._free_n = 0
        self._numbered = 0
        self._grow(0)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._fields[name]

    @property
    def taken_n(self) -> int:
        return len(self.number) - self._free_n

    @property
    def begun_n(self) -> int:
        """Sessions that have ever been taken."""
        return self._numbered

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in (*self._fields.values(), self.number, self._free))

    def rows(self, slots: Slots) -> npt.NDArray[np.void]:
        """Copies of these sessions, (n,) of SESSION_DTYPE; the steps of each path in order of time."""
        rows = np.empty(len(slots), SESSION_DTYPE)
        for name, column in self._fields.items():
            rows[name] = column[slots]
        beyond = np.arange(PATH_STEPS) >= rows["n_path"][:, None]
        when = np.where(beyond, np.iinfo(np.int32).max, rows["path_ds"].astype(np.int32))
        order = np.argsort(when, axis=1, kind="stable")
        for name in ("path", "path_ds"):
            rows[name] = np.where(beyond, 0, np.take_along_axis(rows[name], order, axis=1))
        return rows

    def count(self, name: str, slots: Slots, n: npt.NDArray[np.int64]) -> None:
        """Add to a counter of distinct slots; it stops at 65,535."""
        column = self._fields[name]
        column[slots] = np.minimum(column[slots].astype(np.int64) + n, _COUNT_MAX)

    def take(self, n: int) -> tuple[Slots, Numbers]:
        """Slots of `n` new sessions, all of whose fields say that nothing has happened yet; and their numbers."""
        if self._free_n < n:
            self._grow(len(self.number) + n - self._free_n)
        self._free_n -= n
        slots = self._free[self._free_n : self._free_n + n].copy()
        for name, column in self._fields.items():
            column[slots] = NEVER if name in _UNHAPPENED else 0
        numbers = ((np.arange(self._numbered, self._numbered + n) % _NUMBERS) + 1).astype(np.uint32)
        self._numbered += n
        self.number[slots] = numbers
        return slots, numbers

    def give_back(self, slots: Slots) -> None:
        """These sessions are over."""
        self.number[slots] = 0
        self._free[self._free_n : self._free_n + len(slots)] = slots
        self._free_n += len(slots)

    def oldest(self, n: int, in_use: Slots) -> Slots:
        """The `n` sessions that were begun first, without those `in_use`; fewer if there are no more."""
        taken = np.flatnonzero(self.number)
        taken = taken[~np.isin(taken, in_use)]
        n = min(n, len(taken))
        if n <= 0:
            return np.empty(0, np.int32)
        ago = (self._numbered - self.number[taken].astype(np.int64)) % _NUMBERS
        return taken[np.argpartition(-ago, n - 1)[:n]].astype(np.int32)

    def _grow(self, least: int) -> None:
        before = len(self.number)
        capacity = max(least, min(int(before * _GROWTH), self._usual_n), _LEAST)
        for name, column in self._fields.items():
            self._fields[name] = _longer(column, capacity)
        self.number = _longer(self.number, capacity)
        self._free = _longer(self._free, capacity)
        fresh = np.arange(before, capacity, dtype=np.int32)
        self._free[self._free_n : self._free_n + len(fresh)] = fresh[::-1]
        self._free_n += len(fresh)


def _longer(column: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    longer = np.zeros((capacity, *column.shape[1:]), column.dtype)
    longer[: len(column)] = column
    return longer


class Due:
    """Slots by when they are due: O(1) a slot, and one that is due late keeps no other waiting."""

    def __init__(self) -> None:
        self._parts: defaultdict[int, list[tuple[Slots, Numbers]]] = defaultdict(list)
        self._keys: list[int] = []

    def put(self, due_ns: Times, slots: Slots, numbers: Numbers) -> None:
        keys = due_ns // _BUCKET_NS
        order = np.argsort(keys, kind="stable")
        different, first = np.unique(keys[order], return_index=True)
        for key, here in zip(different.tolist(), np.split(order, first[1:]), strict=True) if len(order) else ():
            if key not in self._parts:
                heappush(self._keys, key)
            parts = self._parts[key]
            parts.append((slots[here], numbers[here]))
            if len(parts) > _PARTS_MAX:
                self._parts[key] = [_joined(parts)]

    def take(self, until_ns: int, due_ns: Callable[[Slots], Times] | None = None) -> tuple[Slots, Numbers]:
        """All that is due at `until_ns`, the earliest quarter of a second first, and the numbers they were put with.

        `due_ns`: tells when exactly; without it, only those whose quarter of a second is over are due.
        """
        last = until_ns // _BUCKET_NS
        due: list[tuple[Slots, Numbers]] = []
        while self._keys and (self._keys[0] < last or (due_ns is not None and self._keys[0] == last)):
            key = heappop(self._keys)
            slots, numbers = _joined(self._parts.pop(key))
            if key == last and due_ns is not None:
                now = due_ns(slots) <= until_ns
                if not now.all():
                    heappush(self._keys, key)
                    self._parts[key] = [(slots[~now], numbers[~now])]
                slots, numbers = slots[now], numbers[now]
                due.append((slots, numbers))
                break
            due.append((slots, numbers))
        return _joined(due)

    def __len__(self) -> int:
        return sum(len(slots) for parts in self._parts.values() for slots, _ in parts)


def _joined(parts: list[tuple[Slots, Numbers]]) -> tuple[Slots, Numbers]:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return np.empty(0, np.int32), np.empty(0, np.uint32)
    return np.concatenate([slots for slots, _ in parts]), np.concatenate([numbers for _, numbers in parts])
