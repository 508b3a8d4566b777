"""Past deployments in the journal's file: what each rollout was given, what others have recorded, what people say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from analysis.tape import Lost
from xds_server.mesh import HistoryBounds
from xds_server.store.journal import Journal
from xds_server.store.records import EventRow, ImportedRow, LabelRow
from xds_server.tape_form import encode, kind_of

ONE_PART: Final = 4  # a rollout's tape may take one part in so many of all that may be kept
EVENTS_AT_ONCE: Final = 1_000  # that are deleted in one transaction: the loop's own writes wait for it
_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How much there is. `began_unix_ns` None: nothing."""

    rollouts: int
    bytes: int
    began_unix_ns: int | None


class HistoryStore:
    """The history of all services. Every method raises JournalError. `bounds` may be changed at any time."""

    def __init__(self, journal: Journal, bounds: HistoryBounds | None = None) -> None:
        self._journal = journal
        self.bounds = bounds if bounds is not None else HistoryBounds()

    # what rollouts were given

    def append(self, rollout: str, began_unix_ns: int, rows: Sequence[EventRow]) -> None:
        """Add events to a rollout's tape; call it in the transaction that stores what they led to.

        A tape that takes more than its part ends, and says so.
        """
        if not rows:
            return
        with self._journal.atomically(durably=False) as connection:
            connection.execute("INSERT OR IGNORE INTO tapes VALUES (?, ?, 0, 0)", (rollout, began_unix_ns))
            found = connection.execute("SELECT bytes, is_full FROM tapes WHERE rollout = ?", (rollout,)).fetchone()
            taken, is_full = int(found[0]), bool(found[1])
            if is_full:
                return
            is_full = taken + sum(len(row.payload) for row in rows) > self.bounds.bytes // ONE_PART
            kept = [_end(rows[0].at_unix_ns)] if is_full else rows
            connection.executemany(
                "INSERT INTO tape_events VALUES (NULL, ?, ?, ?, ?)",
                [(rollout, row.at_unix_ns, row.kind, row.payload) for row in kept],
            )
            connection.execute(
                "UPDATE tapes SET bytes = bytes + ?, is_full = ? WHERE rollout = ?",
                (sum(len(row.payload) for row in kept), is_full, rollout),
            )

    def tape(self, rollout: str) -> Iterator[EventRow]:
        """A rollout's events in order; none where none are kept."""
        last = 0
        while found := self.some_events(rollout, last):
            yield from (row for _, row in found)
            last = found[-1][0]

    def some_events(self, rollout: str, after: int) -> list[tuple[int, EventRow]]:
        """The next events of a rollout behind a number, 0 at first; with their numbers."""
        with self._journal.atomically(durably=False) as connection:
            found = connection.execute(
                "SELECT id, at_unix_ns, kind, payload FROM tape_events WHERE rollout = ? AND id > ?"
                " ORDER BY id LIMIT ?",
                (rollout, after, EVENTS_AT_ONCE),
            ).fetchall()
        return [(number, EventRow(at_unix_ns=at, kind=kind, payload=payload)) for number, at, kind, payload in found]

    # what others have recorded

    def put_imported(self, rows: Iterable[ImportedRow]) -> None:
        """Keep these deployments: all of them, or none. Raises ValueError where one is known already."""
        with self._journal.atomically() as connection:
            for row in rows:
                known = connection.execute(_IS_KNOWN, {"name": row.rollout}).fetchone()
                if known is not None:
                    raise ValueError(row.rollout)
                connection.execute(
                    "INSERT INTO imported_rollouts VALUES (?, ?, ?, ?, ?)",
                    (row.rollout, row.service, row.at_unix_ns, row.who, row.payload),
                )

    def imported(self) -> dict[str, str]:
        """The deployments that others have recorded, in the order in which they came, with their services."""
        with self._journal.atomically(durably=False) as connection:
            return dict(connection.execute("SELECT rollout, service FROM imported_rollouts ORDER BY rowid").fetchall())

    def imported_since(self, unix_ns: int) -> int:
        """How many of them have come since then."""
        with self._journal.atomically(durably=False) as connection:
            found = connection.execute("SELECT COUNT(*) FROM imported_rollouts WHERE at_unix_ns > ?", (unix_ns,))
            return int(found.fetchone()[0])

    def imported_record(self, rollout: str) -> bytes | None:
        """One of them; None: it is not there any more."""
        with self._journal.atomically(durably=False) as connection:
            row = connection.execute("SELECT payload FROM imported_rollouts WHERE rollout = ?", (rollout,)).fetchone()
        return None if row is None else bytes(row[0])

    # what people say

    def put_label(self, row: LabelRow) -> None:
        """Keep what is said of a rollout now, in place of what was said before."""
        with self._journal.atomically() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?)",
                (row.rollout, row.at_unix_ns, row.verdict, row.who, row.reason),
            )

    def labels(self) -> dict[str, LabelRow]:
        """What people say, by rollout."""
        with self._journal.atomically(durably=False) as connection:
            return {row[0]: _label(row) for row in connection.execute(_LABELS)}

    def label(self, rollout: str) -> LabelRow | None:
        """What people say of one; None: nothing."""
        with self._journal.atomically(durably=False) as connection:
            row = connection.execute(f"{_LABELS} WHERE rollout = ?", (rollout,)).fetchone()
        return None if row is None else _label(row)

    def labelled_since(self, unix_ns: int) -> int:
        """Of how many rollouts people have said something since then."""
        with self._journal.atomically(durably=False) as connection:
            found = connection.execute("SELECT COUNT(*) FROM labels WHERE at_unix_ns > ?", (unix_ns,))
            return int(found.fetchone()[0])

    # bounds

    def kept(self) -> Kept:
        with self._journal.atomically(durably=False) as connection:
            rollouts, size, began = connection.execute(
                f"SELECT COUNT(*), SUM(bytes), MIN(began) FROM ({_ALL})"  # noqa: S608 (our own names)
            ).fetchone()
        return Kept(rollouts=rollouts, bytes=int(size or 0), began_unix_ns=began)

    def prune(self, now_unix_ns: int) -> tuple[str, ...]:
        """Forget the oldest deployments that are beyond the bounds, but no running one; return their names.

        In small transactions, for a thread beside the loop.
        """
        with self._journal.atomically(durably=False) as connection:
            rows = connection.execute(f"{_ALL} ORDER BY began DESC, rollout").fetchall()
            running = {
                row[0] for row in connection.execute("SELECT rollout FROM rollouts WHERE finished_unix_ns IS NULL")
            }
        gone, size = [], 0
        for i, (rollout, began, taken) in enumerate(rows):
            size += taken
            is_old = began < now_unix_ns - int(self.bounds.keep_s * _S)
            if (is_old or i >= self.bounds.rollouts or size > self.bounds.bytes) and rollout not in running:
                gone.append(str(rollout))
        for rollout in gone:
            self._forget(rollout)
        with self._journal.atomically(durably=False) as connection:
            connection.execute(
                "DELETE FROM labels WHERE rollout NOT IN"
                " (SELECT rollout FROM rollouts UNION SELECT rollout FROM tapes"
                " UNION SELECT rollout FROM imported_rollouts)"
            )
        return tuple(gone)

    def _forget(self, rollout: str) -> None:
        while True:
            with self._journal.atomically(durably=False) as connection:
                deleted = connection.execute(
                    "DELETE FROM tape_events WHERE id IN (SELECT id FROM tape_events WHERE rollout = ? LIMIT ?)",
                    (rollout, EVENTS_AT_ONCE),
                ).rowcount
                if deleted < EVENTS_AT_ONCE:
                    connection.execute("DELETE FROM tapes WHERE rollout = ?", (rollout,))
                    connection.execute("DELETE FROM imported_rollouts WHERE rollout = ?", (rollout,))
                    return


def _end(at_ns: int) -> EventRow:
    lost = Lost(at_ns=at_ns, reason="it takes a quarter of all that may be kept of past deployments, and ends here")
    return EventRow(at_unix_ns=at_ns, kind=kind_of(lost), payload=encode(lost, None))


def _label(row: tuple[str, int, str, str, str]) -> LabelRow:
    rollout, at, verdict, who, reason = row
    return LabelRow(rollout=rollout, at_unix_ns=at, verdict=verdict, who=who, reason=reason)


_LABELS: Final = "SELECT rollout, at_unix_ns, verdict, who, reason FROM labels"
_IS_KNOWN: Final = (
    "SELECT 1 FROM rollouts WHERE rollout = :name UNION SELECT 1 FROM imported_rollouts WHERE rollout = :name"
)
_ALL: Final = (
    "SELECT rollout, began_unix_ns AS began, bytes FROM tapes"
    " UNION ALL SELECT rollout, at_unix_ns, LENGTH(payload) FROM imported_rollouts"
)
