"""Records as tables: `read_tables` gives the same records again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.history.record import Attribute, RolloutRecord
from analysis.window import BASELINE, CANARY
from xds_server.errors import HistoryTableError
from xds_server.history_table.columns import write_columns
from xds_server.history_table.names import ARMS, ATTRIBUTE, DECISIONS, OUTCOME, PER_SEGMENT, ROLLOUTS, SERIES, SESSIONS

FORMATS = ("parquet", "csv")

_Row = Mapping[str, object]


def write_tables(records: Sequence[RolloutRecord], directory: Path, ending: str) -> list[Path]:
    """Write the tables `rollouts`, `series` and `decisions` into a directory, which is made; return the files.

    `ending`: one of FORMATS. Raises HistoryTableError.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoryTableError(f"{directory} cannot be made: {error.strerror or error}") from error
    kinds, rows = _rollouts(records)
    written = [_write(directory / f"rollouts.{ending}", kinds, rows)]
    written.append(_write(directory / f"series.{ending}", SERIES, (row for each in records for row in _series(each))))
    decisions = (row for each in records for row in _decisions(each))
    return [*written, _write(directory / f"decisions.{ending}", DECISIONS, decisions)]


def _write(path: Path, kinds: Mapping[str, type], rows: Iterable[_Row]) -> Path:
    columns: dict[str, list[object]] = {name: [] for name in kinds}
    for row in rows:
        for name, values in columns.items():
            values.append(row.get(name))
    write_columns(path, columns, kinds)
    return path


def _rollouts(records: Sequence[RolloutRecord]) -> tuple[dict[str, type], list[_Row]]:
    """The kinds of the columns, of which attributes and outcomes depend on the records; and the rows."""
    attributes = {name: [each.attributes[name] for each in records if name in each.attributes]
                  for name in sorted({name for each in records for name in each.attributes})}  # fmt: skip
    outcomes = sorted({segment for each in records for segment in each.outcome})
    kinds = {
        **ROLLOUTS,
        **{f"{ATTRIBUTE}{name}": _kind(values) for name, values in attributes.items()},
        **{f"{OUTCOME}{segment}": str for segment in outcomes},
    }
    return kinds, [_rollout(record, kinds) for record in records]


def _kind(values: Iterable[Attribute]) -> type:
    return float if all(isinstance(value, float) for value in values) else str


def _rollout(record: RolloutRecord, kinds: Mapping[str, type]) -> _Row:
    attributes = {f"{ATTRIBUTE}{name}": value for name, value in record.attributes.items()}
    return {
        **{name: getattr(record, name) for name in list(ROLLOUTS)[:6]},
        "label": None if record.label is None else str(record.label.verdict),
        "labelled_by": None if record.label is None else record.label.who,
        "label_reason": None if record.label is None else record.label.reason,
        "segments": json.dumps(record.segments, ensure_ascii=False),
        "kpis": json.dumps(record.kpis, ensure_ascii=False),
        **{name: str(value) if kinds[name] is str else value for name, value in attributes.items()},
        **{f"{OUTCOME}{segment}": phase for segment, phase in record.outcome.items()},
    }


def _series(record: RolloutRecord) -> Iterator[_Row]:
    """Counts of nobody are left out; that there was a tick at all is told by its splits."""
    about: dict[str, object] = {"rollout": record.rollout}
    for t, at_s in enumerate(record.at_s.tolist()):
        for s, segment in enumerate(record.segments):
            here = {**about, "at_s": at_s, "segment": segment}
            for kpi, name in PER_SEGMENT.items():
                value = float(getattr(record, name)[t, s])
                if kpi == "serinus.split_bp" or not math.isnan(value):
                    told = None if math.isnan(value) else value
                    yield {**here, "arm": ARMS[CANARY], "kpi": kpi, "value": told}
            if not math.isnan(record.arrived[t, s]):
                exposed = int(record.exposed[t, s])
                yield {**here, "arm": ARMS[CANARY], "kpi": SESSIONS, "n": exposed}
                yield {**here, "arm": ARMS[BASELINE], "kpi": SESSIONS, "n": int(record.arrived[t, s]) - exposed}
        for s, k, arm in np.argwhere(record.n[t]).tolist():
            yield {
                **about, "at_s": at_s, "segment": record.segments[s], "arm": ARMS[arm], "kpi": record.kpis[k],
                "n": int(record.n[t, s, k, arm]), "bad": int(record.bad[t, s, k, arm]),
            }  # fmt: skip
    for gauge in record.gauges:
        series = {**about, "segment": gauge.segment, "arm": ARMS[gauge.arm], "kpi": gauge.kpi, "source": gauge.source}
        for at_s, value in zip(gauge.at_s.tolist(), gauge.value.tolist(), strict=True):
            yield {**series, "at_s": at_s, "value": value}


def _decisions(record: RolloutRecord) -> Iterator[_Row]:
    for each in record.decisions:
        yield {"rollout": record.rollout, **{name: getattr(each, name) for name in list(DECISIONS)[1:]}}
