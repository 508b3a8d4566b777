"""Which slot a person has: a hash table in arrays, at 24 bytes a person instead of a dictionary's 160.

Open addressing with linear probing (Knuth, The Art of Computer Programming 3, 6.4, algorithm L). Users are keyed
hashes, evenly spread, so their lowest bits are where to look first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysis.columns import Slots

Users = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

_NOBODY, _EMPTY, _REMOVED = np.uint64(0), -1, -2
_LEAST = 1 << 10
_FULLEST = 0.6


class UserIndex:
    """A mapping of people (never 0) to slots. One owner; whoever only looks may do so from another thread."""

    def __init__(self) -> None:
        self._table = _Table(_LEAST)

    def __len__(self) -> int:
        return self._table.n

    @property
    def capacity(self) -> int:
        return len(self._table.users)

    def find(self, users: Users) -> Slots:
        """Each person's slot, (n,); -1: none."""
        return self._table.find(users)

    def put(self, users: Users, slots: Slots) -> None:
        """Give (n,) people slots, whether they have one or not. Of one given twice, the last."""
        last = len(users) - 1 - np.unique(users[::-1], return_index=True)[1]
        users, slots = users[last], slots[last]
        if not self._table.has_room(len(users)):
            self._table = self._table.larger(len(users))  # at once: who looks meanwhile sees the one or the other
        self._table.put(users, slots)

    def remove(self, users: Users) -> None:
        """Forget people, each given once; who is not there stays so."""
        self._table.remove(users)


class _Table:
    def __init__(self, capacity: int) -> None:
        self.users: Users = np.zeros(capacity, np.uint64)
        self._slots: Slots = np.full(capacity, _EMPTY, np.int32)
        self.n = self._removed_n = 0

    def has_room(self, n: int) -> bool:
        return self.n + self._removed_n + n <= _FULLEST * len(self.users)

    def larger(self, n: int) -> _Table:
        """The same people, with room for n more."""
        capacity = _LEAST
        while self.n + n > _FULLEST / 2 * capacity:
            capacity *= 2
        table = _Table(capacity)
        there = self.users != _NOBODY
        table._insert(self.users[there], self._slots[there])
        return table

    def find(self, users: Users) -> Slots:
        where = self._where(users)
        slots: Slots = np.where(where >= 0, self._slots[where], _EMPTY).astype(np.int32)
        return slots

    def put(self, users: Users, slots: Slots) -> None:
        where = self._where(users)
        self._slots[where[where >= 0]] = slots[where >= 0]
        self._insert(users[where < 0], slots[where < 0])

    def remove(self, users: Users) -> None:
        where = self._where(users)
        where = where[where >= 0]
        self._slots[where] = _REMOVED  # first: whoever looks from another thread must not take this for an end
        self.users[where] = _NOBODY
        self.n -= len(where)
        self._removed_n += len(where)

    def _where(self, users: Users) -> Positions:
        mask = len(self.users) - 1
        found = np.full(len(users), -1, np.int64)
        looking, at = np.arange(len(users)), (users & np.uint64(mask)).astype(np.int64)
        while len(looking):
            there = self.users[at]
            hit = there == users[looking]
            found[looking[hit]] = at[hit]
            goes_on = ~hit & ((there != _NOBODY) | (self._slots[at] == _REMOVED))
            looking, at = looking[goes_on], (at[goes_on] + 1) & mask
        return found

    def _insert(self, users: Users, slots: Slots) -> None:
        """Put in distinct people who are not there; there is room."""
        mask = len(self.users) - 1
        self.n += len(users)
        at = (users & np.uint64(mask)).astype(np.int64)
        while len(users):
            free = np.flatnonzero(self.users[at] == _NOBODY)
            places, first = np.unique(at[free], return_index=True)  # who comes first gets it
            winners = free[first]
            self._removed_n -= int((self._slots[places] == _REMOVED).sum())
            self.users[places], self._slots[places] = users[winners], slots[winners]
            left = np.ones(len(users), np.bool_)
            left[winners] = False
            users, slots, at = users[left], slots[left], (at[left] + 1) & mask
