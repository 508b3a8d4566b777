"""What policies have learnt on the job, in the journal's file: the next rollout of a service goes on from it."""

from __future__ import annotations

from typing import Final

from xds_server.store.journal import Journal

KEPT_NS: Final = 400 * 86_400 * 1_000_000_000  # of a service that has had no rollout since


class PolicyStore:
    """Values by service, as `Learnt.to_json` gives them. Every method raises JournalError."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def load(self, service: str) -> str | None:
        """What was kept of a service; None: nothing yet."""
        with self._journal.atomically(durably=False) as connection:
            row = connection.execute("SELECT payload FROM policy_values WHERE service = ?", (service,)).fetchone()
        return None if row is None else str(row[0])

    def save(self, service: str, payload: str, *, at_unix_ns: int) -> None:
        """Replace it; what is very old of other services goes."""
        with self._journal.atomically() as connection:
            connection.execute("DELETE FROM policy_values WHERE at_unix_ns < ?", (at_unix_ns - KEPT_NS,))
            connection.execute(
                "INSERT INTO policy_values VALUES (?, ?, ?) ON CONFLICT (service) DO UPDATE SET"
                " at_unix_ns = excluded.at_unix_ns, payload = excluded.payload",
                (service, at_unix_ns, payload),
            )

    def forget(self, service: str) -> None:
        """Drop what cannot be used any more."""
        with self._journal.atomically() as connection:
            connection.execute("DELETE FROM policy_values WHERE service = ?", (service,))
