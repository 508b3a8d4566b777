"""Deployments that others have recorded, as the failure model sees the past."""

from __future__ import annotations

import logging
from dataclasses import replace

from analysis.errors import RecordError
from analysis.failure.history import PastRollout
from analysis.failure.watch import first_minutes_of
from analysis.history import archive
from analysis.history.record import SAID, RolloutRecord, Verdict, label_of
from xds_server.store.history import HistoryStore

log = logging.getLogger(__name__)


class ImportedPast:
    """Reads each deployment once: they never change, but for what operators say of them.

    As many are held as the history keeps. Every method raises JournalError and may take seconds: for a thread.
    """

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._known: dict[str, PastRollout | None] = {}  # None: cannot be read

    def past(self) -> tuple[PastRollout, ...]:
        """All of them, in the order in which they came; an operator's label outranks what the record says."""
        names, labels = self._store.imported(), self._store.labels()
        self._known = {name: self._known[name] if name in self._known else self._read(name) for name in names}
        return tuple(
            _labelled(each, labels[name].verdict if name in labels else None)
            for name, each in self._known.items()
            if each is not None
        )

    def since(self, unix_s: float) -> int:
        """How many have come since then."""
        return self._store.imported_since(int(unix_s * 1e9))

    def labelled_since(self, unix_s: float) -> int:
        """Of how many deployments, imported or not, an operator has said something since then."""
        return self._store.labelled_since(int(unix_s * 1e9))

    def _read(self, name: str) -> PastRollout | None:
        data = self._store.imported_record(name)
        try:
            return None if data is None else _past(archive.from_bytes(data))
        except RecordError as error:
            log.warning("the failure model does not learn from %s: %s", name, error)
            return None


def _past(record: RolloutRecord) -> PastRollout:
    lasted_s = max(float(record.at_s[-1]), 0.0) if len(record.at_s) else 0.0
    return PastRollout(
        service=record.service,
        began_s=record.started_unix_s,
        ended_s=record.started_unix_s + lasted_s,
        failed=label_of(record).bad,
        attributes=record.attributes,
        first=first_minutes_of(record),
    )


def _labelled(past: PastRollout, verdict: str | None) -> PastRollout:
    if verdict not in set(Verdict):
        return past
    return replace(past, failed=SAID[Verdict(verdict)])
