"""Who is in which learned segment: tables that stand still while people are exposed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_NAMES: Final = 64  # adopted in one service
MAX_PEOPLE: Final = 5_000_000  # in one table, at 9 bytes each


def _nobody() -> npt.NDArray[np.uint64]:
    return np.empty(0, np.uint64)


def _nowhere() -> npt.NDArray[np.uint8]:
    return np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A cluster of people whom the profiler finds alike."""

    cluster: int
    size: int
    description: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposals:
    """All that the profiler proposes for a service. `users`: keyed hashes; `cluster_of`: of each, its cluster."""

    clusters: tuple[Proposal, ...] = ()
    users: npt.NDArray[np.uint64] = field(default_factory=_nobody)
    cluster_of: npt.NDArray[np.uint8] = field(default_factory=_nowhere)

    def people(self, cluster: int) -> npt.NDArray[np.uint64]:
        """The user hashes of a cluster's people."""
        people: npt.NDArray[np.uint64] = self.users[self.cluster_of == cluster]
        return people


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A name that somebody has given to a cluster of people."""

    name: str
    description: str
    at_unix_ns: int
    who: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """One version of who is in which learned segment of a service; nobody is in two. `version` 0: there is none yet.

    `people`: user hashes in ascending order; `places`: for each of them, which of `names`.
    """

    version: int = 0
    names: tuple[Adopted, ...] = ()
    people: npt.NDArray[np.uint64] = field(default_factory=_nobody)
    places: npt.NDArray[np.uint8] = field(default_factory=_nowhere)

    def name_of(self, user_hash: int) -> str | None:
        """The name of the learned segment that somebody is in; None: in none."""
        at = int(np.searchsorted(self.people, np.uint64(user_hash)))
        if at == len(self.people) or int(self.people[at]) != user_hash:
            return None
        return self.names[int(self.places[at])].name

    def sizes(self) -> dict[str, int]:
        """How many people each name has."""
        found = np.bincount(self.places, minlength=len(self.names))
        return {adopted.name: int(n) for adopted, n in zip(self.names, found, strict=True)}

    def adopting(self, adopted: Adopted, people: Iterable[int]) -> Table:
        """The next version, in which just these people have the name; who had another before has it no more."""
        before = self.dropping(adopted.name)
        names = (*before.names, adopted)
        fresh = np.unique(np.fromiter(people, np.uint64))
        stay = ~np.isin(before.people, fresh, assume_unique=True)
        everybody = np.concatenate([before.people[stay], fresh])
        places = np.concatenate([before.places[stay], np.full(len(fresh), len(names) - 1, np.uint8)])
        order = np.argsort(everybody)
        return replace(before, names=names, people=everybody[order], places=places[order])

    def renewed(self, people: Mapping[str, Iterable[int]]) -> Table:
        """The next version, in which each of these names has just these people; this one, if that says the same.

        A name that nobody has adopted is left out. Who is among the people of two has the later one.
        """
        table = self
        for adopted in self.names:
            if adopted.name in people:
                table = table.adopting(adopted, people[adopted.name])
        if self._says(table):
            return self
        return replace(table, version=self.version + 1)

    def _says(self, other: Table) -> bool:
        mine, theirs = (np.array([adopted.name for adopted in t.names], object) for t in (self, other))
        return np.array_equal(self.people, other.people) and np.array_equal(
            mine[self.places] if len(mine) else mine, theirs[other.places] if len(theirs) else theirs
        )

    def dropping(self, name: str) -> Table:
        """The next version, without that name; its people are in no learned segment."""
        place = next((i for i, adopted in enumerate(self.names) if adopted.name == name), len(self.names))
        stay = self.places != place
        places = self.places[stay]
        return Table(
            version=self.version + 1,
            names=self.names[:place] + self.names[place + 1 :],
            people=self.people[stay],
            places=np.where(places > place, places - 1, places).astype(np.uint8),
        )


@dataclass(slots=True, kw_only=True)
class Memberships:
    """The table in force for a service, and one that waits until no rollout runs.

    So who is in which segment is settled before the first of them is exposed; whoever is unknown then stays so.
    """

    current: Table = field(default_factory=Table)
    waiting: Table | None = None

    @property
    def newest(self) -> Table:
        """The table as it will be when nothing waits any more."""
        return self.waiting if self.waiting is not None else self.current

    def put(self, table: Table, *, is_running: bool) -> bool:
        """Take a table up, or let it wait while a rollout runs; return whether it is in force."""
        if is_running:
            self.waiting = table
            return False
        self.current, self.waiting = table, None
        return True

    def take_up(self) -> bool:
        """No rollout runs any more: what waits is in force. Return whether anything waited."""
        if self.waiting is None:
            return False
        self.current, self.waiting = self.waiting, None
        return True


def moved(before: Table, after: Table) -> dict[str, int]:
    """By the names that they had before: how many people have another now."""
    known = {adopted.name: place for place, adopted in enumerate(before.names)}
    elsewhere = len(before.names)
    as_before = np.array([known.get(adopted.name, elsewhere) for adopted in after.names], np.int64)
    stay = np.isin(before.people, after.people, assume_unique=True)
    old = before.places[stay].astype(np.int64)
    new = after.places[np.searchsorted(after.people, before.people[stay])]
    left = np.bincount(old[old != as_before[new]] if len(old) else old, minlength=elsewhere)
    return {adopted.name: int(n) for adopted, n in zip(before.names, left, strict=True) if n}
