"""What was learnt of a service's people, in the journal's file: profiles by version, and the people themselves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from xds_server.store.journal import Journal

KEPT_PAYLOADS: Final = 3  # newest versions of a segment's profile that could be gone back to
KEPT_ROWS: Final = 1_000  # versions of a segment: when, of how many sessions, why


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRow:
    """One version of a segment's profile. `payload`: as `Profile.to_bytes` gave it; empty where it is kept no more."""

    service: str
    segment: str
    version: int
    trained_unix_ns: int
    sessions: int
    why: str
    payload: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleRow:
    """`payload`: as `PersonTable.to_bytes` gave it; `clustering`: as `Clustering.to_bytes` did, empty without one."""

    payload: bytes
    clustering: bytes = b""


class ProfileStore:
    """The profiles of all services. Every method raises JournalError."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def newest(self, service: str) -> dict[str, ProfileRow]:
        """The newest profile of each segment of a service."""
        with self._journal.atomically(durably=False) as connection:
            rows = connection.execute(
                "SELECT service, segment, version, trained_unix_ns, sessions, why, payload FROM profiles AS p"
                " WHERE service = ? AND payload IS NOT NULL AND version ="
                " (SELECT MAX(version) FROM profiles WHERE service = p.service AND segment = p.segment)",
                (service,),
            ).fetchall()
        names = ("service", "segment", "version", "trained_unix_ns", "sessions", "why", "payload")
        found = [ProfileRow(**dict(zip(names, row, strict=True))) for row in rows]
        return {row.segment: row for row in found}

    def save(self, row: ProfileRow) -> None:
        """Keep one more version; payloads of old ones, and very old ones altogether, go."""
        with self._journal.atomically() as connection:
            connection.execute(
                "INSERT INTO profiles VALUES (?, ?, ?, ?, ?, ?, ?)",
                (row.service, row.segment, row.version, row.trained_unix_ns, row.sessions, row.why, row.payload),
            )
            about = (row.service, row.segment)
            connection.execute(
                "UPDATE profiles SET payload = NULL WHERE service = ? AND segment = ? AND version <= ?",
                (*about, row.version - KEPT_PAYLOADS),
            )
            connection.execute(
                "DELETE FROM profiles WHERE service = ? AND segment = ? AND version <= ?",
                (*about, row.version - KEPT_ROWS),
            )

    def people(self, service: str) -> PeopleRow | None:
        """What is remembered of a service's people; None: nothing yet."""
        with self._journal.atomically(durably=False) as connection:
            row = connection.execute("SELECT payload, clustering FROM people WHERE service = ?", (service,)).fetchone()
        return None if row is None else PeopleRow(payload=row[0], clustering=row[1] or b"")

    def forget_services(self, known: Collection[str], *, before_unix_ns: int) -> None:
        """Drop what is remembered of services that are not known any more and have not been written since."""
        with self._journal.atomically(durably=False) as connection:
            rows = connection.execute("SELECT service FROM people WHERE at_unix_ns < ?", (before_unix_ns,)).fetchall()
            for (service,) in rows:
                if service not in known:
                    connection.execute("DELETE FROM people WHERE service = ?", (service,))
                    connection.execute("DELETE FROM profiles WHERE service = ?", (service,))

    def save_people(self, service: str, row: PeopleRow, *, at_unix_ns: int) -> None:
        """Replace what is remembered of a service's people."""
        with self._journal.atomically(durably=False) as connection:
            connection.execute(
                "INSERT INTO people VALUES (?, ?, ?, ?) ON CONFLICT (service) DO UPDATE SET"
                " at_unix_ns = excluded.at_unix_ns, payload = excluded.payload, clustering = excluded.clustering",
                (service, at_unix_ns, row.payload, row.clustering or None),
            )
