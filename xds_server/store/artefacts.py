"""Models that were trained, by kind and version, and the releases that the failure model is trained on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from analysis.decision import Phase
from analysis.failure.facts import FirstMinutes
from analysis.failure.history import PastRollout
from analysis.history.record import SAID, Verdict, judged
from xds_server.store.journal import Journal, decoded

KEPT_PAYLOADS: Final = (
    10  # newest versions of a kind that could be gone back to; the one that serves is kept in any case
)
KEPT_ROWS: Final = 1_000
_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactRow:
    """One version of a model. `fingerprint`: of the data; `scores`: on held-out releases, as JSON-able values.

    `why`: it was trained, and what came of the comparison, in words. `served_unix_ns`: when it began to serve last; 0:
    never. `payload` empty: it is kept no more.
    """

    kind: str
    version: int
    trained_unix_ns: int
    fingerprint: str
    scores: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    is_serving: bool = False
    served_unix_ns: int = 0
    why: str = ""


_PAST: Final = """
SELECT r.rollout, r.service, r.started_unix_ns, r.finished_unix_ns, r.outcome, r.attributes, x.first, l.verdict
FROM rollouts AS r LEFT JOIN releases AS x ON x.rollout = r.rollout LEFT JOIN labels AS l ON l.rollout = r.rollout
ORDER BY r.started_unix_ns, r.rowid
"""
_ENDINGS: Final = """
SELECT rollout, segment, verdict, tier, reason, who FROM decisions
WHERE verdict IN ('rollback', 'promote') AND observed_only = 0 ORDER BY id
"""
_COLUMNS: Final = "kind, version, trained_unix_ns, fingerprint, scores, payload, is_serving, served_unix_ns, why"


class ArtefactStore:
    """Every method raises JournalError."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def rows(self, kind: str) -> tuple[ArtefactRow, ...]:
        """All versions of a kind, oldest first."""
        found = self._journal.read(
            f"SELECT {_COLUMNS} FROM artefacts WHERE kind = ? ORDER BY version", (kind,)  # noqa: S608 (our own names)
        )  # fmt: skip
        with decoded(self._journal.path):
            return tuple(_row(values) for values in found)

    def add(self, row: ArtefactRow) -> ArtefactRow:
        """Keep one more version, with the next number; where it `is_serving`, no other one of its kind does."""
        scores = json.dumps(dict(row.scores))
        with self._journal.atomically() as connection:
            newest = connection.execute("SELECT MAX(version) FROM artefacts WHERE kind = ?", (row.kind,)).fetchone()[0]
            version = 1 + (newest or 0)
            connection.execute(
                f"INSERT INTO artefacts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?)",  # noqa: S608
                (row.kind, version, row.trained_unix_ns, row.fingerprint, scores, row.payload, row.why),
            )
            if row.is_serving:
                self.serve(row.kind, version, at_unix_ns=row.trained_unix_ns)
            connection.execute(
                "UPDATE artefacts SET payload = NULL WHERE kind = ? AND version <= ? AND is_serving = 0",
                (row.kind, version - KEPT_PAYLOADS),
            )
            connection.execute(
                "DELETE FROM artefacts WHERE kind = ? AND version <= ? AND is_serving = 0",
                (row.kind, version - KEPT_ROWS),
            )
        return next(each for each in self.rows(row.kind) if each.version == version)

    def serve(self, kind: str, version: int, *, at_unix_ns: int) -> None:
        """Let this version serve, and no other one of its kind. Raises ValueError where it is not kept (any more)."""
        with self._journal.atomically() as connection:
            connection.execute("UPDATE artefacts SET is_serving = 0 WHERE kind = ?", (kind,))
            cursor = connection.execute(
                "UPDATE artefacts SET is_serving = 1, served_unix_ns = ?"
                " WHERE kind = ? AND version = ? AND payload IS NOT NULL",
                (at_unix_ns, kind, version),
            )
            if cursor.rowcount != 1:
                raise ValueError(f"{kind} {version}")

    # releases

    def end(self, rollout: str, first: FirstMinutes | None) -> None:
        """Note what its first minutes showed."""
        shown = None if first is None else json.dumps(_first_to(first))
        with self._journal.atomically() as connection:
            connection.execute("INSERT OR REPLACE INTO releases VALUES (?, ?)", (rollout, shown))
            connection.execute("DELETE FROM releases WHERE rollout NOT IN (SELECT rollout FROM rollouts)")

    def past(self) -> tuple[PastRollout, ...]:
        """All rollouts, as the failure model sees them. Half-written records are read as far as they go."""
        found = self._journal.read(_PAST)
        endings: defaultdict[str, list[_Ending]] = defaultdict(list)
        for rollout, *values in self._journal.read(_ENDINGS):
            endings[rollout].append(_Ending(*values))
        return tuple(_past(values, endings.get(rollout, ())) for rollout, *values in found)


def _row(values: tuple[Any, ...]) -> ArtefactRow:
    kind, version, trained, fingerprint, scores, payload, is_serving, served, why = values
    return ArtefactRow(
        kind=kind, version=version, trained_unix_ns=trained, fingerprint=fingerprint, scores=dict(json.loads(scores)),
        payload=payload or b"", is_serving=bool(is_serving), served_unix_ns=served, why=why,
    )  # fmt: skip


class _Ending(NamedTuple):
    """A decision that ended something (`record.Ending`)."""

    segment: str
    verdict: str
    tier: str
    reason: str
    who: str


def _past(values: Sequence[Any], endings: Sequence[_Ending]) -> PastRollout:
    service, began_ns, ended_ns, outcome, attributes, first, label = values
    phases = _object(outcome)
    return PastRollout(
        service=service,
        began_s=began_ns / _S,
        ended_s=None if ended_ns is None else ended_ns / _S,
        failed=None if ended_ns is None else _failed(label, phases, endings),
        attributes={name: value for name, value in _object(attributes).items() if _is_attribute(value)},
        first=_first_from(_object(first)),
    )


def _failed(label: str | None, phases: Mapping[str, Any], endings: Sequence[_Ending]) -> bool | None:
    if label in set(Verdict):
        return SAID[Verdict(label)]
    known = {name: str(phase) for name, phase in phases.items() if phase in set(Phase)}
    return judged(known, endings).bad if len(known) == len(phases) else None


def _is_attribute(value: object) -> bool:
    return isinstance(value, str | float | int) and not isinstance(value, bool)


def _object(text: object) -> dict[str, Any]:
    """A JSON object; an empty one where the record is damaged: what cannot be read is not known."""
    try:
        found = json.loads(text) if isinstance(text, str | bytes) else {}
    except (RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _first_to(first: FirstMinutes) -> dict[str, object]:
    return {
        "seen_s": first.seen_s, "effects": dict(first.effects), "slopes": dict(first.slopes), "anomaly": first.anomaly,
        "silence": first.silence,
    }  # fmt: skip


def _first_from(values: Mapping[str, Any]) -> FirstMinutes | None:
    """First minutes as they were stored; None where they are not, or are damaged."""
    try:
        return FirstMinutes(
            seen_s=float(values["seen_s"]),
            effects={str(kpi): float(z) for kpi, z in values["effects"].items()},
            slopes={str(kpi): float(z) for kpi, z in values["slopes"].items()},
            anomaly=None if values["anomaly"] is None else float(values["anomaly"]),
            silence=None if values["silence"] is None else float(values["silence"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
