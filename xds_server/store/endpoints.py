"""Endpoints that the mesh file does not list, in the journal's file: a restart must not take one out of traffic."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, fields

from xds_server.mesh import Address
from xds_server.store.journal import Journal, decoded
from xds_server.store.records import RegistrationRow

_COLUMNS = ", ".join(column.name for column in fields(RegistrationRow))
_PUT = f"INSERT OR REPLACE INTO registrations ({_COLUMNS}) VALUES ({', '.join('?' * len(fields(RegistrationRow)))})"  # noqa: S608 (our own names)


class EndpointStore:
    """Registrations, and what each version's list or file said last. Every method raises JournalError."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def registrations(self) -> tuple[RegistrationRow, ...]:
        """All registrations, in the order in which they came."""
        with self._journal.atomically(durably=False) as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM registrations ORDER BY since_unix_ns, rowid").fetchall()  # noqa: S608
        names = [column.name for column in fields(RegistrationRow)]
        found = (dict(zip(names, row, strict=True)) for row in rows)
        return tuple(RegistrationRow(**{**values, "is_stale": bool(values["is_stale"])}) for values in found)

    def change(self, *, gone: Iterable[str] = (), put: Iterable[RegistrationRow] = ()) -> None:
        """Forget these leases, then keep these registrations."""
        with self._journal.atomically() as connection:
            connection.executemany("DELETE FROM registrations WHERE lease = ?", [(lease,) for lease in gone])
            connection.executemany(_PUT, [astuple(row) for row in put])

    def known(self) -> dict[tuple[str, str], tuple[Address, ...]]:
        """What each version's list or file said last, by service and version."""
        with self._journal.atomically(durably=False) as connection:
            rows = connection.execute("SELECT service, version, endpoints FROM known_endpoints").fetchall()
        with decoded(self._journal.path):
            return {
                (service, version): tuple((host, port) for host, port in json.loads(endpoints))
                for service, version, endpoints in rows
            }

    def learn(self, endpoints: Mapping[tuple[str, str], tuple[Address, ...] | None]) -> None:
        """Keep what these say now; None: forget it."""
        gone = [key for key, addresses in endpoints.items() if addresses is None]
        known = [(*key, json.dumps(addresses)) for key, addresses in endpoints.items() if addresses is not None]
        with self._journal.atomically(durably=False) as connection:
            connection.executemany("DELETE FROM known_endpoints WHERE service = ? AND version = ?", gone)
            connection.executemany("INSERT OR REPLACE INTO known_endpoints VALUES (?, ?, ?)", known)
