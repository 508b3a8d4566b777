"""Who has been seen in which segment of a service in the last minutes, by what the access logs say."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
import numpy.typing as npt

from analysis.sample import SampleKind

SLOTS: Final = 5
SLOT_S: Final = 60.0
WINDOW_S: Final = SLOTS * SLOT_S
KEPT: Final = 256
"""Smallest of the people's hashes that are kept a segment and slot, 2 KiB: beyond it people are estimated, to 6 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen, by segment. `people`: the smallest of their hashes, which are spread evenly, in order."""

    requests: npt.NDArray[np.int64]
    people: tuple[npt.NDArray[np.uint64], ...]

    def people_n(self, segment: int) -> int:
        """How many people there were, about (Bar-Yossef et al., 2002: from the k-th smallest hash)."""
        smallest = self.people[segment]
        if len(smallest) < KEPT:
            return len(smallest)
        return round((KEPT - 1) / ((float(smallest[-1]) + 1.0) / 2.0**64))


def seen_in(rows: npt.NDArray[np.void], segments_n: int) -> Seen:
    """What is to be seen in rows of SAMPLE_DTYPE: requests, and the people behind them who are known and no bots."""
    requests = rows[(rows["kind"] == SampleKind.REQUEST) & (rows["segment"] < segments_n)]
    known = requests[(requests["user"] != 0) & ~requests["bot"]]
    return Seen(
        requests=np.bincount(requests["segment"], minlength=segments_n),
        people=tuple(np.unique(known["user"][known["segment"] == n])[:KEPT] for n in range(segments_n)),
    )


class Coverage:
    """The last minutes of one service, in slots of a minute; the running one is the last."""

    def __init__(self) -> None:
        self._slots: deque[tuple[int, Seen]] = deque(maxlen=SLOTS)
        self._began_s: float | None = None

    def add(self, seen: Seen, now_s: float) -> None:
        """Take in what has been seen since the last call. Of other segments than before, nothing before counts."""
        if self._slots and len(self._slots[-1][1].people) != len(seen.people):
            self._slots.clear()
            self._began_s = None
        self._began_s = now_s if self._began_s is None else self._began_s
        slot = int(now_s // SLOT_S)
        if self._slots and self._slots[-1][0] == slot:
            seen = _merged((self._slots.pop()[1], seen))
        self._slots.append((slot, seen))

    def seen(self, now_s: float) -> Seen | None:
        """Everything of the last minutes; None: nobody has looked yet."""
        oldest = int(now_s // SLOT_S) - SLOTS
        recent = [seen for slot, seen in self._slots if slot > oldest]
        return _merged(recent) if recent else None

    def watched_s(self, now_s: float) -> float:
        """How long that is."""
        return 0.0 if self._began_s is None else min(now_s - self._began_s, WINDOW_S)


def _merged(parts: Iterable[Seen]) -> Seen:
    return reduce(_both, parts)


def _both(one: Seen, two: Seen) -> Seen:
    return Seen(
        requests=one.requests + two.requests,
        people=tuple(np.union1d(a, b)[:KEPT] for a, b in zip(one.people, two.people, strict=True)),
    )
