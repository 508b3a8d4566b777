"""What the journal has of a rollout as one record, and its tape as events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from analysis.errors import RecordError
from analysis.history import archive
from analysis.history.record import PER_SEGMENT, Label, RecordedDecision, RolloutRecord, Verdict
from analysis.spec import ServiceSpec
from analysis.tape import Event, Started, Ticked
from xds_server.errors import HistoryError
from xds_server.store.history import HistoryStore
from xds_server.store.journal import Journal
from xds_server.store.records import DecisionRow, EventRow, LabelRow, RolloutRow
from xds_server.tape_form import decode

NS: Final = 1e9
MOST_DECISIONS: Final = 20_000
NO_INTERVAL_S: Final = 10.0  # of a rollout of which no tick is kept

Floats = npt.NDArray[np.float64]


def decoded(rows: Iterable[EventRow]) -> Iterator[Event]:
    """The events of a tape. Raises HistoryError at one that is damaged or of another version."""
    spec: ServiceSpec | None = None
    for row in rows:
        event = decode(row.kind, row.payload, spec)
        spec = event.spec if isinstance(event, Started) else spec
        yield event


class Deployments:
    """All that is known of past deployments, one after the other. Reads only; belongs in a thread."""

    def __init__(self, journal: Journal, store: HistoryStore) -> None:
        self._journal = journal
        self._store = store

    def names(self, service: str | None = None) -> dict[str, str]:
        """Rollouts that have ended, oldest first, then what was imported; with their services."""
        ended = {row.rollout: row.service for row in self._journal.rollouts() if row.finished_unix_ns is not None}
        found = ended | self._store.imported()
        return {name: of for name, of in found.items() if service in (None, of)}

    def services(self) -> dict[str, str]:
        """The service of each deployment, running ones as well."""
        return {row.rollout: row.service for row in self._journal.rollouts()} | self._store.imported()

    def record(self, rollout: str) -> RolloutRecord:
        """One deployment. Raises HistoryError where what is kept of it cannot be read, or nothing is."""
        label = self._store.label(rollout)
        try:
            row = self._journal.rollout(rollout)
            if row is None:
                data = self._store.imported_record(rollout)
                if data is None:
                    raise HistoryError("it is not kept any more")  # noqa: TRY301 -- told with its name below
                return labelled(archive.from_bytes(data), label)
            decisions = self._journal.history(rollout=rollout, limit=MOST_DECISIONS)
            return assembled(row, label, decisions, decoded(self._store.tape(rollout)))
        except (HistoryError, RecordError) as error:
            raise HistoryError(f"deployment {rollout}: {error}") from error


def labelled(record: RolloutRecord, row: LabelRow | None) -> RolloutRecord:
    """The record, with what an operator says of it, if one does."""
    if row is None:
        return record
    return replace(record, label=_label(row))


def _label(row: LabelRow | None) -> Label | None:
    return None if row is None else Label(verdict=Verdict(row.verdict), who=row.who, reason=row.reason)


def assembled(
    row: RolloutRow, label: LabelRow | None, decisions: Sequence[DecisionRow], events: Iterable[Event]
) -> RolloutRecord:
    """The record of a rollout. Names and order of segments and KPIs are those of its newest specification.

    Ticks that the clock gave no later time than the one before are left out, and so is what was only said (mode
    observe): it was not done, and ended nothing.
    """
    spec: ServiceSpec | None = None
    ticks: list[tuple[ServiceSpec, Ticked]] = []
    for event in events:
        if isinstance(event, Started):
            spec = event.spec
        elif isinstance(event, Ticked) and spec is not None and (not ticks or event.at_ns > ticks[-1][1].at_ns):
            ticks.append((spec, event))
    segments = [segment.name for segment in spec.segments] if spec is not None else list(row.outcome)
    arrays = _arrays(ticks, segments, [kpi.name for kpi in spec.kpis] if spec is not None else [])
    return RolloutRecord(
        rollout=row.rollout, service=row.service, baseline=row.baseline, canary=row.canary,
        started_unix_s=row.started_unix_ns / NS,
        interval_s=spec.rollout.interval_s if spec is not None else NO_INTERVAL_S,
        segments=tuple(segments), kpis=tuple(kpi.name for kpi in spec.kpis) if spec is not None else (),
        at_s=np.array([(tick.at_ns - row.started_unix_ns) / NS for _, tick in ticks], float), **arrays,
        attributes=dict(row.attributes), label=_label(label),
        outcome={segment: phase for segment, phase in row.outcome.items() if segment in segments},
        decisions=tuple(_decision(each, row.started_unix_ns) for each in decisions if not each.observed_only),
    )  # fmt: skip


def _decision(row: DecisionRow, started_unix_ns: int) -> RecordedDecision:
    return RecordedDecision(
        at_s=(row.at_unix_ns - started_unix_ns) / NS, segment=row.segment, verdict=row.verdict, tier=row.tier,
        split_before_bp=row.split_before_bp, split_after_bp=row.split_after_bp, reason=row.reason, who=row.who,
    )  # fmt: skip


def _arrays(
    ticks: Sequence[tuple[ServiceSpec, Ticked]], segments: Sequence[str], kpis: Sequence[str]
) -> dict[str, Any]:
    shape = len(ticks), len(segments)
    counts = {name: np.zeros((*shape, len(kpis), 2), np.int64) for name in ("n", "bad")}
    told: dict[str, Floats] = {name: np.full(shape, np.nan) for name in PER_SEGMENT}
    places: dict[int, tuple[list[int], list[int], list[int], list[int]]] = {}
    for t, (spec, tick) in enumerate(ticks):
        if id(spec) not in places:
            places[id(spec)] = (
                *_shared([each.name for each in spec.segments], segments),
                *_shared([each.name for each in spec.kpis], kpis),
            )
        from_s, to_s, from_k, to_k = places[id(spec)]
        for name, into in counts.items():
            into[t][np.ix_(to_s, to_k)] = getattr(tick.window, name)[np.ix_(from_s, from_k)]
        values = {
            "exposed": tick.window.exposed, "arrived": tick.window.arrived,
            "split_bp": [said.split_before_bp for said in tick.said], "suspicion": tick.suspicion, "log_e": tick.log_e,
        }  # fmt: skip
        for name, value in values.items():
            told[name][t, to_s] = np.asarray(value, float)[from_s]
    return {**counts, **told}


def _shared(theirs: Sequence[str], ours: Sequence[str]) -> tuple[list[int], list[int]]:
    """Where the names that both have are, there and here."""
    shared = [(i, ours.index(name)) for i, name in enumerate(theirs) if name in ours]
    return [i for i, _ in shared], [j for _, j in shared]
