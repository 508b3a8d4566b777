"""The journal: what was decided, what is in force, and what a restart resumes from. One SQLite file.

Every write is one transaction. Decisions, splits and rollouts are on the disk when the call returns
(`synchronous=FULL`); engine states, which are replaced every tick, may lose the last ticks at a power failure, never at
a crash of the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from xds_server.errors import JournalDamagedError, JournalError, JournalLockedError, JournalTooNewError
from xds_server.mesh import SegmentSplit, ServiceSplits
from xds_server.store import schema
from xds_server.store.records import DecisionRow, EngineState, ExcludedNode, RejectionRow, RolloutRow

KEPT_DECISIONS: Final = 200_000  # about 100 MB; the oldest go first
KEPT_REJECTIONS: Final = 10_000
KEPT_ROLLOUTS: Final = 10_000
PRUNE_EVERY: Final = 500  # rows; a bound may be exceeded by this many for a while
SECRET_BYTES: Final = 32
BUSY_MS: Final = 200  # a write waits so long for somebody else's tool that has locked the file; Envoys wait meanwhile

_DECISION_COLUMNS: Final = tuple(column.name for column in fields(DecisionRow) if column.name != "id")
_ROLLOUT_COLUMNS: Final = tuple(column.name for column in fields(RolloutRow))
_JSON_COLUMNS: Final = ("outcome", "attributes")
_SELECT_DECISIONS: Final = f"SELECT {', '.join(_DECISION_COLUMNS)}, id FROM decisions"  # noqa: S608 (our own names)
_SELECT_ROLLOUTS: Final = f"SELECT {', '.join(_ROLLOUT_COLUMNS)} FROM rollouts"  # noqa: S608


class Journal:
    """The journal in a data directory, which belongs to one control plane at a time.

    Any thread may call it. Writes take well under a millisecond plus one flush of the disk, so the event loop may call
    them; reads have a connection of their own and belong in a worker thread when they may be long (`history`).

    Raises
    ------
    JournalLockedError, JournalDamagedError, JournalTooNewError, JournalError
        On opening; later only JournalError (disk full, disk gone) and JournalDamagedError.
    """

    def __init__(self, data_dir: Path, *, kept_decisions: int = KEPT_DECISIONS) -> None:
        self.path: Final = data_dir / "journal.sqlite"
        self._kept_decisions = kept_decisions
        self._unpruned = PRUNE_EVERY  # so that the first append of each run prunes
        self._write_lock = threading.RLock()
        self._read_lock = threading.Lock()
        self._lock_fd = _lock(data_dir)
        try:
            self._writer = _open_writer(self.path)
            self._reader = _connect(self.path)
            self._reader.execute("PRAGMA query_only = ON")
        except BaseException:
            os.close(self._lock_fd)
            raise

    def close(self) -> None:
        """Close files and give the data directory free."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()
            os.close(self._lock_fd)

    @contextmanager
    def atomically(self, *, durably: bool = True) -> Iterator[sqlite3.Connection]:
        """Make what is written inside one transaction: all of it is kept, or nothing."""
        with self._write_lock, _translated(self.path):
            nested = self._writer.in_transaction
            if nested:
                yield self._writer
                return
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if durably else 'NORMAL'}")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    # rollouts

    def start_rollout(self, row: RolloutRow) -> None:
        """Note that a rollout runs. States of the service's earlier engines are dropped.

        Raises
        ------
        ValueError
            If the service has a running rollout, or the name is taken.
        """
        values = [getattr(row, column) for column in _ROLLOUT_COLUMNS]
        for column in _JSON_COLUMNS:
            values[_ROLLOUT_COLUMNS.index(column)] = json.dumps(dict(getattr(row, column)))
        with self.atomically():
            try:
                self._writer.execute(_insert("rollouts", _ROLLOUT_COLUMNS), values)
            except sqlite3.IntegrityError as error:
                raise ValueError(f"service {row.service} has a running rollout, or {row.rollout} is known") from error
            self._writer.execute(
                "DELETE FROM engine_states WHERE rollout IN (SELECT rollout FROM rollouts WHERE service = ?)",
                (row.service,),
            )
            self._writer.execute(
                "DELETE FROM rollouts WHERE finished_unix_ns IS NOT NULL AND rowid NOT IN"
                " (SELECT rowid FROM rollouts ORDER BY started_unix_ns DESC, rowid DESC LIMIT ?)",
                (KEPT_ROLLOUTS,),
            )

    def set_state(self, rollout: str, state: str) -> None:
        """Change a running rollout's state (paused, frozen, running), so that a restart keeps a person's command."""
        with self.atomically():
            self._changed_one(self._writer.execute("UPDATE rollouts SET state = ? WHERE rollout = ?", (state, rollout)))

    def finish_rollout(self, rollout: str, at_unix_ns: int, outcome: Mapping[str, str], state: str) -> None:
        with self.atomically():
            cursor = self._writer.execute(
                "UPDATE rollouts SET finished_unix_ns = ?, outcome = ?, state = ? WHERE rollout = ?",
                (at_unix_ns, json.dumps(dict(outcome)), state, rollout),
            )
            self._changed_one(cursor)

    def rollout(self, name: str) -> RolloutRow | None:
        """One rollout; None where it is not known."""
        rows = self.read(f"{_SELECT_ROLLOUTS} WHERE rollout = ?", (name,))
        return self._rollout(rows[0]) if rows else None

    def rollouts(self) -> tuple[RolloutRow, ...]:
        """All rollouts, oldest first."""
        return tuple(self._rollout(row) for row in self.read(f"{_SELECT_ROLLOUTS} ORDER BY started_unix_ns, rowid"))

    def running(self) -> dict[str, RolloutRow]:
        """Return the running rollout of each service that has one."""
        rows = self.read(f"{_SELECT_ROLLOUTS} WHERE finished_unix_ns IS NULL")
        return {row.service: row for row in map(self._rollout, rows)}

    # decisions and splits

    def append(self, decision: DecisionRow) -> int:
        """Journal a decision and return its ID. Callers leave out holds that repeat the previous reason."""
        with self.atomically():
            values = [getattr(decision, column) for column in _DECISION_COLUMNS]
            identifier = self._writer.execute(_insert("decisions", _DECISION_COLUMNS), values).lastrowid
            self._prune()
        return int(identifier or 0)

    def commit(
        self,
        service: str,
        splits: ServiceSplits,
        decisions: Sequence[DecisionRow],
        *,
        state: EngineState | None = None,
    ) -> tuple[int, ...]:
        """Write splits, the decisions that led to them and the engine's state at once; return the decisions' IDs."""
        segments = {name: [s.baseline, s.canary, s.canary_bp] for name, s in splits.segments.items()}
        with self.atomically():
            identifiers = tuple(self.append(decision) for decision in decisions)
            self._writer.execute(
                "INSERT INTO splits VALUES (?, ?, ?, ?) ON CONFLICT (service) DO UPDATE SET"
                " rollout = excluded.rollout, generation = excluded.generation, segments = excluded.segments",
                (service, splits.rollout, splits.generation, json.dumps(segments)),
            )
            if state is not None:
                self.save_state(state.rollout, state.payload, state.at_unix_ns)
        return identifiers

    def save_splits(self, service: str, splits: ServiceSplits) -> None:
        """Keep splits that no decision led to (a service's first, or after a changed mesh file)."""
        self.commit(service, splits, ())

    def load_splits(self) -> dict[str, ServiceSplits]:
        """Return the splits decided last, by service: exactly what a restart must serve."""
        rows = self.read("SELECT service, rollout, generation, segments FROM splits ORDER BY service")
        with decoded(self.path):
            return {
                service: ServiceSplits(
                    rollout=rollout,
                    generation=generation,
                    segments={
                        name: SegmentSplit(baseline=baseline, canary=canary, canary_bp=canary_bp)
                        for name, (baseline, canary, canary_bp) in json.loads(segments).items()
                    },
                )
                for service, rollout, generation, segments in rows
            }

    def mark_in_force(self, service: str, generation: int, at_unix_ns: int) -> None:
        """Note that Envoys have ACKed `generation`, and with it each earlier decision that it still carries."""
        with self.atomically():
            self._writer.execute(
                "UPDATE decisions SET in_force_unix_ns = ? WHERE service = ? AND generation <= ?"
                " AND in_force_unix_ns = 0 AND observed_only = 0 AND NOT EXISTS (SELECT 1 FROM decisions AS later"
                " WHERE later.service = decisions.service AND later.segment = decisions.segment"
                " AND later.generation > decisions.generation AND later.generation <= ?"
                " AND later.split_after_bp <> decisions.split_after_bp)",
                (at_unix_ns, service, generation, generation),
            )

    def history(
        self, service: str | None = None, rollout: str | None = None, limit: int = 200, *, segment: str | None = None
    ) -> tuple[DecisionRow, ...]:
        """Return the newest `limit` decisions, oldest first; `segment` adds those that were for the whole service."""
        wanted = {"service = ?": service, "rollout = ?": rollout, "segment IN (?, '')": segment}
        clauses = {clause: value for clause, value in wanted.items() if value}
        where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
        rows = self.read(f"{_SELECT_DECISIONS}{where} ORDER BY id DESC LIMIT ?", (*clauses.values(), limit))
        return tuple(map(_decision, reversed(rows)))

    # the engine's state, rejections, secrets

    def save_state(self, rollout: str, payload: bytes, at_unix_ns: int) -> None:
        """Replace the engine's state."""
        with self.atomically(durably=False):
            self._writer.execute(
                "INSERT INTO engine_states VALUES (?, ?, ?) ON CONFLICT (rollout) DO UPDATE SET"
                " payload = excluded.payload, at_unix_ns = excluded.at_unix_ns",
                (rollout, payload, at_unix_ns),
            )

    def load_state(self, rollout: str) -> EngineState | None:
        """Return the engine's last state; None if it never saved one."""
        rows = self.read("SELECT payload, at_unix_ns FROM engine_states WHERE rollout = ?", (rollout,))
        return EngineState(rollout=rollout, payload=rows[0][0], at_unix_ns=rows[0][1]) if rows else None

    def append_rejection(self, node: str, type: str, version: str, message: str, at_unix_ns: int) -> None:  # noqa: A002
        with self.atomically(durably=False):
            values = (at_unix_ns, node, type, version, message)
            cursor = self._writer.execute("INSERT INTO rejections VALUES (NULL, ?, ?, ?, ?, ?)", values)
            oldest_kept = int(cursor.lastrowid or 0) - KEPT_REJECTIONS
            self._writer.execute("DELETE FROM rejections WHERE id <= ?", (oldest_kept,))

    def rejections(self, limit: int = 200) -> tuple[RejectionRow, ...]:
        """Return the newest `limit` rejections, oldest first."""
        sql = "SELECT at_unix_ns, node, type, version, message FROM rejections ORDER BY id DESC LIMIT ?"
        return tuple(
            RejectionRow(at_unix_ns=at, node=node, type=kind, version=version, message=message)
            for at, node, kind, version, message in reversed(self.read(sql, (limit,)))
        )

    def exclude_node(self, node: str, *, at_unix_ns: int, who: str, reason: str) -> None:
        """Remember that no increase waits for an Envoy."""
        with self.atomically():
            self._writer.execute(
                "INSERT INTO excluded_nodes VALUES (?, ?, ?, ?) ON CONFLICT (node) DO UPDATE SET"
                " at_unix_ns = excluded.at_unix_ns, who = excluded.who, reason = excluded.reason",
                (node, at_unix_ns, who, reason),
            )

    def include_node(self, node: str) -> None:
        """Forget that no increase waits for an Envoy."""
        with self.atomically():
            self._writer.execute("DELETE FROM excluded_nodes WHERE node = ?", (node,))

    def excluded_nodes(self) -> dict[str, ExcludedNode]:
        """Return the Envoys that no increase waits for, by node ID."""
        rows = self.read("SELECT node, at_unix_ns, who, reason FROM excluded_nodes ORDER BY node")
        return {node: ExcludedNode(at_unix_ns=at, who=who, reason=reason) for node, at, who, reason in rows}

    def secret(self, name: str = "user_hash_key") -> bytes:
        """32 random bytes, made when first asked for and the same ever after."""
        with self.atomically():
            fresh = secrets.token_bytes(SECRET_BYTES)
            self._writer.execute("INSERT INTO secrets VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (name, fresh))
            row = self._writer.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()
        return bytes(row[0])

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows that the store's other parts ask for; beside the writes, so it may take long in a worker thread."""
        with self._read_lock, _translated(self.path):
            return self._reader.execute(sql, parameters).fetchall()

    def _rollout(self, row: tuple[Any, ...]) -> RolloutRow:
        values = dict(zip(_ROLLOUT_COLUMNS, row, strict=True))
        with decoded(self.path):
            return RolloutRow(**{**values, **{column: json.loads(values[column]) for column in _JSON_COLUMNS}})

    def _prune(self) -> None:
        self._unpruned += 1
        if self._unpruned >= PRUNE_EVERY:
            self._unpruned = 0
            self._writer.execute(
                "DELETE FROM decisions WHERE id <= (SELECT MAX(id) FROM decisions) - ?", (self._kept_decisions,)
            )

    @staticmethod
    def _changed_one(cursor: sqlite3.Cursor) -> None:
        if cursor.rowcount != 1:
            raise ValueError("no such rollout in the journal")


def _decision(row: tuple[Any, ...]) -> DecisionRow:
    values = dict(zip((*_DECISION_COLUMNS, "id"), row, strict=True))
    return DecisionRow(**{**values, "observed_only": bool(values["observed_only"])})


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608


def _lock(data_dir: Path) -> int:
    """Lock a data directory, made if need be; the lock goes with the process. Return its open file."""
    path = data_dir / "lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise JournalError(f"data directory {data_dir} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise JournalLockedError(
            f"data directory {data_dir} is in use by another control plane (process {owner or 'unknown'}); "
            "stop that one or choose another --data-dir"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _connect(path: Path) -> sqlite3.Connection:
    # Autocommit: transactions are begun by hand. Serialised by our own locks, hence any thread.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)


def _open_writer(path: Path) -> sqlite3.Connection:
    with _translated(path):
        path.touch(mode=0o600)  # it holds the key of the user hash
        connection = _connect(path)
        try:
            _check(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
            _bring_up_to_date(connection)
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        except BaseException:
            connection.close()
            raise
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not a sound journal of a version that is known here; an empty file is a new journal."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (n_tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
    if application_id != schema.APPLICATION_ID and (application_id or version or n_tables):
        raise JournalDamagedError(f"{path} is another application's database, not a journal of Serinus")
    if version > schema.VERSION:
        raise JournalTooNewError(
            f"journal {path} has format {version}, this Serinus reads up to {schema.VERSION}: run the newer Serinus"
        )
    problem = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    if problem != "ok":
        raise _damaged(path, problem)


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Make the tables, or those that have come since the journal was written."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version == schema.VERSION:
        return
    steps = [schema.TABLES] if version == 0 else []
    steps += [schema.MIGRATIONS[step] for step in range(max(version, 1), schema.VERSION)]
    # executescript() would commit first and leave a half-made schema behind if the process were killed in between
    connection.execute("BEGIN IMMEDIATE")
    for statement in ";\n".join(step.rstrip().removesuffix(";") for step in steps).split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {schema.VERSION}")
    connection.execute("COMMIT")


def _damaged(path: Path, problem: str) -> JournalDamagedError:
    return JournalDamagedError(
        f"journal {path} is damaged ({' '.join(problem.split())}); restore a backup, or move it away: "
        "then all traffic starts on the baselines"
    )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into one line that says what to do."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        # SQLite's "unable to open", "disk is full", "readonly database", "disk I/O error"
        raise JournalError(f"journal {path} cannot be used: {error}") from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from error


@contextmanager
def decoded(path: Path) -> Iterator[None]:
    """Turn what is raised on a column that is not what we wrote into one line."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, f"unreadable record: {error}") from error
