"""Who is in which learned segment, in the journal's file: a restart must not move anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from xds_server.learnt.memberships import Adopted, Memberships, Table
from xds_server.store.journal import Journal, decoded

KEPT: Final = 1_000  # versions a service: who did what; people are kept of those that still count


class LearnedStore:
    """The tables of all services. Every method raises JournalError."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def load(self) -> dict[str, Memberships]:
        """The tables as they were left, by service."""
        with self._journal.atomically(durably=False) as connection:
            rows = connection.execute(
                "SELECT service, version, names, is_waiting, people, places FROM learned_tables"
                " WHERE people IS NOT NULL ORDER BY service, version"
            ).fetchall()
        found: dict[str, Memberships] = {}
        with decoded(self._journal.path):
            for service, version, names, is_waiting, people, places in rows:
                found.setdefault(service, Memberships()).put(
                    _table(version, names, people, places), is_running=bool(is_waiting)
                )
        return found

    def save(self, service: str, table: Table, *, is_waiting: bool, at_unix_ns: int, who: str, what: str) -> None:
        """Keep a new table. Those that it replaces keep no people."""
        names = json.dumps([asdict(adopted) for adopted in table.names])
        people, places = table.people.astype("<u8").tobytes(), table.places.tobytes()
        replaced = "AND is_waiting = 1" if is_waiting else ""
        with self._journal.atomically() as connection:
            connection.execute(
                f"UPDATE learned_tables SET people = NULL, places = NULL WHERE service = ? {replaced}",  # noqa: S608
                (service,),
            )
            connection.execute(
                "INSERT INTO learned_tables VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (service, table.version, at_unix_ns, who, what, names, is_waiting, people, places),
            )
            connection.execute(
                "DELETE FROM learned_tables WHERE service = ? AND version <= ?", (service, table.version - KEPT)
            )

    def take_up(self, service: str, version: int) -> None:
        """The table that waited is in force; the one before keeps no people."""
        with self._journal.atomically() as connection:
            connection.execute(
                "UPDATE learned_tables SET people = NULL, places = NULL WHERE service = ? AND version < ?",
                (service, version),
            )
            connection.execute("UPDATE learned_tables SET is_waiting = 0 WHERE service = ?", (service,))

    def history(self, service: str) -> list[Mapping[str, Any]]:
        """What was done to a service's tables, oldest first: version, at_unix_ns, who, what."""
        with self._journal.atomically(durably=False) as connection:
            rows = connection.execute(
                "SELECT version, at_unix_ns, who, what FROM learned_tables WHERE service = ? ORDER BY version",
                (service,),
            ).fetchall()
        return [dict(zip(("version", "at_unix_ns", "who", "what"), row, strict=True)) for row in rows]


def _table(version: int, names: str, people: bytes, places: bytes) -> Table:
    adopted = tuple(Adopted(**each) for each in json.loads(names))
    hashes, which = np.frombuffer(people, "<u8").astype(np.uint64), np.frombuffer(places, np.uint8)
    if len(hashes) != len(which) or (len(which) and int(which.max()) >= len(adopted)):
        raise ValueError("people and names of a learned table do not fit")
    return Table(version=version, names=adopted, people=hashes, places=which)
