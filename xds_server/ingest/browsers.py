"""What a browser may say: little, of itself alone, and not for as long as it likes.

Whoever reaches the port that browsers send to can send anything. A person is known by the cookie that Envoy has minted
and that the browser sends along, never by what the message says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from analysis.sample import Vocabulary

MAX_LABELS: Final = 256  # of a service that browsers may bring up; the rest is `other`
MAX_EVENTS: Final = 600  # of one person in a window
MAX_PEOPLE: Final = 100_000  # told apart in a window
WINDOW_S: Final = 60.0
MAX_DELAY_NS: Final = 10 * 10**9  # for which a browser gathers events before it sends them
MAX_AHEAD_NS: Final = 10**9
MAX_KEY: Final = 256  # bytes; a longer key is no identity to Envoy either

_COOKIE = re.compile(rb"([^=;,\s]+)=([^;,]*)")


def cookie_in(jar: Iterable[bytes], name: bytes | None) -> bytes:
    """Return the value of a cookie as Envoy reads it: the first of that name; empty if there is none of use."""
    for line in jar:
        for found, value in _COOKIE.findall(line):
            if found == name:
                return bytes(value) if len(value) <= MAX_KEY else b""
    return b""


def clock_is_off(newest_ns: int, now_ns: int) -> int:
    """Return by how much a browser's clock is ahead of ours, by the newest event of a message that has just come.

    0 where its clock may be right. Else the newest has just happened: clocks that are off by hours are not rare.
    """
    ahead_ns = newest_ns - now_ns
    return 0 if -MAX_DELAY_NS <= ahead_ns <= MAX_AHEAD_NS else ahead_ns


@dataclass(slots=True)
class BrowserLabels:
    """The part of a service's vocabulary that browsers may use, so that they cannot fill it up for everybody."""

    vocabulary: Vocabulary
    limit: int = MAX_LABELS
    overflow_n: int = 0
    _ids: dict[str, int] = field(default_factory=dict)

    def index(self, label: str) -> int:
        """Index of `label`; a new label beyond the limit counts in `overflow_n` and is `OTHER`."""
        known = self._ids.get(label)
        if known is not None:
            return known
        if len(self._ids) >= self.limit:
            self.overflow_n += 1
            return Vocabulary.OTHER
        self._ids[label] = index = self.vocabulary.index(label)
        return index


@dataclass(slots=True)
class Allowance:
    """Counts what each person's browser has said in the window that goes on."""

    _began_s: float = 0.0
    _said: dict[int, int] = field(default_factory=dict)

    def takes(self, user: int, now_s: float) -> bool:
        """Count one event of a person; return whether it is one of the first `MAX_EVENTS` of this window."""
        if not 0 <= now_s - self._began_s < WINDOW_S:
            self._began_s = now_s
            self._said.clear()
        said = self._said.get(user, 0)
        if said >= MAX_EVENTS or (not said and len(self._said) >= MAX_PEOPLE):
            return False
        self._said[user] = said + 1
        return True
