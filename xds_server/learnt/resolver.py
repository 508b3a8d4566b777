"""Answers in which learned segment somebody is, and for how long that counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from analysis.spec import DEFAULT_SEGMENT
from xds_server.clock import Clock
from xds_server.learnt.cookies import CookieSigner
from xds_server.learnt.memberships import Memberships

COUNTS_S: Final = 86_400
"""How long an answer counts. A newer table ends it before; a browser that asks again once a day costs nothing."""

LONGEST_KEY: Final = 256  # bytes; identity.lua takes no longer ones

HashUser: TypeAlias = Callable[[bytes], int]
HeldSegment: TypeAlias = Callable[[str, int], str | None]
"""From service and user hash to the segment of the session that the person has open, as the mesh file calls it."""


class Result(StrEnum):
    """What became of a question, as counted."""

    LEARNED = "learned"  # in a learned segment
    NONE = "none"  # in no learned segment
    HELD = "held"  # elsewhere than the table says, until the session is over
    UNKNOWN_SERVICE = "unknown_service"  # none with learned segments
    NO_KEY = "no_key"
    MALFORMED = "malformed"  # not the message that it should be


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A service with learned segments. `learned`: by segment of the mesh file, the name that is adopted."""

    memberships: Memberships
    learned: Mapping[str, str]
    gap_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`name`: the learned segment that somebody is in, empty for none. `cookie`: the signed value that says so."""

    name: str
    table: int
    counts_s: int
    expires_s: int
    cookie: str


def nobody_held(service: str, user_hash: int) -> str | None:
    """No session is known."""
    del service, user_hash
    return None


class Resolver:
    """Answers for all services. `held`: to be told by whoever follows sessions. `counts`: questions by result."""

    def __init__(self, *, hash_user: HashUser, signer: CookieSigner, clock: Clock) -> None:
        self.services: dict[str, Served] = {}
        self.held: HeldSegment = nobody_held
        self.counts: Counter[Result] = Counter()
        self.signer = signer
        self._hash_user = hash_user
        self._clock = clock

    def answer(self, service: str, key: bytes) -> Answer | None:
        """Where the person of this sticky key is; None: there is nobody or no such service to answer for."""
        served = self.services.get(service)
        if served is None:
            self.counts[Result.UNKNOWN_SERVICE] += 1
            return None
        if not 0 < len(key) <= LONGEST_KEY:
            self.counts[Result.NO_KEY] += 1
            return None
        table = served.memberships.current
        name, is_held = self._found(service, served, key)
        # No session that is open now is over before its gap has passed; then the table is asked again.
        counts_s = max(round(served.gap_s), 1) if is_held else COUNTS_S
        self.counts[Result.HELD if is_held else Result.LEARNED if name else Result.NONE] += 1
        expires_s = self._clock.now_unix_ns() // 10**9 + counts_s
        value = self.signer.value(service=service, key=key, table=table.version, expires_s=expires_s, segment=name)
        return Answer(name=name, table=table.version, counts_s=counts_s, expires_s=expires_s, cookie=value)

    def name(self, service: str, key: bytes) -> str:
        """The learned segment of a person, as an Envoy that asks now is told; empty for none. Counts as no question."""
        served = self.services.get(service)
        return "" if served is None or not 0 < len(key) <= LONGEST_KEY else self._found(service, served, key)[0]

    def _found(self, service: str, served: Served, key: bytes) -> tuple[str, bool]:
        """The name, and whether it is another one than the table's, for as long as a session is open."""
        user = self._hash_user(key)
        name = served.memberships.current.name_of(user) or ""
        held = _held_name(served, self.held(service, user))
        return (held, True) if held is not None and held != name else (name, False)


def _held_name(served: Served, segment: str | None) -> str | None:
    """What is adopted for the segment of an open session. A declared one says nothing of what has been learnt."""
    if segment == DEFAULT_SEGMENT:
        return ""
    return None if segment is None else served.learned.get(segment)
