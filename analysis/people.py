"""Which people have been seen: a set of keyed hashes at eight bytes each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Users = npt.NDArray[np.uint64]

_FRESH_LEAST = 1 << 14
_FRESH_SHARE = 8


class PeopleSeen:
    """At most `limit` people; beyond it nobody new is taken, and counted in `refused_n`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sorted: Users = np.empty(0, np.uint64)
        self._fresh: set[int] = set()
        self.refused_n = 0

    def __len__(self) -> int:
        return len(self._sorted) + len(self._fresh)

    def clear(self) -> None:
        """Nobody has been seen."""
        self._sorted, self._fresh = np.empty(0, np.uint64), set()

    def add(self, users: Users) -> npt.NDArray[np.bool_]:
        """Take up (n,) people; returns which of them are new here: of one given twice, the first."""
        _, first = np.unique(users, return_index=True)
        new = np.zeros(len(users), np.bool_)
        new[first] = True
        place = np.searchsorted(self._sorted, users)
        if len(self._sorted):
            new &= self._sorted[np.minimum(place, len(self._sorted) - 1)] != users
        for index in np.flatnonzero(new).tolist():
            user = int(users[index])
            if user in self._fresh:
                new[index] = False
            elif len(self) >= self._limit:
                new[index] = False
                self.refused_n += 1
            else:
                self._fresh.add(user)
        if len(self._fresh) > max(_FRESH_LEAST, len(self._sorted) // _FRESH_SHARE):
            self._sorted = np.union1d(self._sorted, np.fromiter(self._fresh, np.uint64, len(self._fresh)))
            self._fresh = set()
        return new
