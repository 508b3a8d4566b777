"""Tables of deployments as records: whatever is wrong names file and row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from analysis.decision import Phase
from analysis.errors import RecordError
from analysis.history.record import (
    LARGEST_COUNT,
    Attribute,
    Gauge,
    Label,
    RecordedDecision,
    RolloutRecord,
    Verdict,
    attribute,
)
from analysis.spec import TOTAL_BP
from analysis.window import CANARY
from xds_server.errors import HistoryTableError
from xds_server.history_table.columns import Columns, read_columns
from xds_server.history_table.names import ARMS, ATTRIBUTE, DECISIONS, OUTCOME, PER_SEGMENT, ROLLOUTS, SERIES, SESSIONS

MOST_CELLS: Final = 20_000_000  # of one deployment, for counts of two arms each: 640 MB

_REQUIRED: Final[Mapping[str, Sequence[str]]] = {
    "rollouts": list(ROLLOUTS)[:6],
    "series": list(SERIES)[:5],
    "decisions": list(DECISIONS)[:4],
}
_KNOWN: Final[Mapping[str, Mapping[str, type]]] = {"rollouts": ROLLOUTS, "series": SERIES, "decisions": DECISIONS}
_TELLS: Final = {"rollouts": "started_unix_s", "decisions": "verdict", "series": "kpi"}
"""A column that no other table has."""


def read_tables(paths: Iterable[Path]) -> list[RolloutRecord]:
    """The deployments in these files: tables `rollouts`, `series` and `decisions`, told apart by their columns.

    CSV or Parquet; a directory stands for all `.csv` and `.parquet` files in it; a table may come in several files. In
    the order of the table of rollouts.

    Raises
    ------
    HistoryTableError
        Anything in any of them is wrong; the message names file, row, column, the value given and what is legal.
    """
    tables: dict[str, list[Columns]] = {kind: [] for kind in _KNOWN}
    for path in _files(paths):
        columns = read_columns(path)
        tables[_kind(columns)].append(columns)
    if not tables["rollouts"]:
        raise HistoryTableError(
            f"no table of rollouts among the files: one with the columns {', '.join(_REQUIRED['rollouts'])}"
        )
    drafts = _drafts(tables["rollouts"])
    for columns in tables["series"]:
        _take_series(columns, drafts)
    for columns in tables["decisions"]:
        _take_decisions(columns, drafts)
    return [draft.record() for draft in drafts.values()]


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix in (".csv", ".parquet"))
            if not inside:
                raise HistoryTableError(f"{path}: no .csv and no .parquet file in it")
            found += inside
        else:
            found.append(path)
    return found


def _kind(columns: Columns) -> str:
    kind = next((kind for kind, column in _TELLS.items() if column in columns.values), None)
    if kind is None:
        told = "; ".join(f"{kind}: {', '.join(required)}" for kind, required in _REQUIRED.items())
        raise HistoryTableError(f"{columns.path}: none of the tables by its columns; needed are {told}")
    missing = [name for name in _REQUIRED[kind] if name not in columns.values]
    if missing:
        raise HistoryTableError(f"{columns.path}: a table of {kind} needs column {missing[0]!r} as well")
    for name in columns.values:
        further = kind == "rollouts" and name.startswith((ATTRIBUTE, OUTCOME))
        if name not in _KNOWN[kind] and not further:
            more = f", {ATTRIBUTE}NAME, {OUTCOME}SEGMENT" if kind == "rollouts" else ""
            raise HistoryTableError(f"{columns.path}: unknown column {name!r}; legal: {', '.join(_KNOWN[kind])}{more}")
    return kind


@dataclass(slots=True, kw_only=True)
class _Draft:
    """A record as far as its rows have been read. Keys of ticks: seconds."""

    columns: Columns
    row: int
    about: dict[str, Any]
    counts: dict[tuple[float, str, int, str], tuple[int, int]] = field(default_factory=dict)
    sessions: dict[tuple[float, str, int], int] = field(default_factory=dict)
    told: dict[tuple[str, float, str], float] = field(default_factory=dict)
    gauges: dict[tuple[str, str, int, str], dict[float, float]] = field(default_factory=dict)
    decisions: list[RecordedDecision] = field(default_factory=list)
    seen: set[tuple[object, ...]] = field(default_factory=set)
    segments: dict[str, int] = field(default_factory=dict)
    kpis: dict[str, int] = field(default_factory=dict)

    def record(self) -> RolloutRecord:
        at_s = sorted({key[0] for key in (*self.counts, *self.sessions)} | {key[1] for key in self.told})
        ticks = {time: t for t, time in enumerate(at_s)}
        segments = {name: s for s, name in enumerate(self._segments())}
        kpis = {name: k for k, name in enumerate(self.kpis)}
        if (cells := len(ticks) * len(segments) * len(kpis)) > MOST_CELLS:
            raise self.columns.wrong(
                self.row, f"{len(ticks)} ticks of {len(segments)} segments and {len(kpis)} KPIs are {cells} places for "
                f"counts; at most {MOST_CELLS} are legal"
            )  # fmt: skip
        n = np.zeros((len(ticks), len(segments), len(kpis), 2), np.int64)
        bad = np.zeros_like(n)
        for (time, segment, arm, kpi), (judged, failed) in self.counts.items():
            at = ticks[time], segments[segment], kpis[kpi], arm
            n[at], bad[at] = judged, failed
        arrays: dict[str, Any] = {name: np.full((len(ticks), len(segments)), np.nan) for name in PER_SEGMENT.values()}
        for (name, time, segment), value in self.told.items():
            arrays[name][ticks[time], segments[segment]] = value
        self._check_sessions()
        by_arm = np.full((len(ticks), len(segments), 2), np.nan)
        for (time, segment, arm), count in self.sessions.items():
            by_arm[ticks[time], segments[segment], arm] = count
        try:
            return RolloutRecord(
                **self.about, **arrays, segments=tuple(segments), kpis=tuple(kpis), at_s=np.array(at_s, float), n=n,
                bad=bad, exposed=by_arm[..., CANARY],
                arrived=by_arm.sum(axis=-1), decisions=tuple(self.decisions), gauges=tuple(self._gauges()),
            )  # fmt: skip
        except RecordError as error:
            raise self.columns.wrong(self.row, str(error)) from error

    def _check_sessions(self) -> None:
        for at_s, segment, arm in self.sessions:
            if (at_s, segment, 1 - arm) not in self.sessions:
                raise self.columns.wrong(
                    self.row, f"{SESSIONS} of {segment!r} at {at_s} s: only those of {ARMS[arm]}; both arms are needed"
                )

    def _segments(self) -> Iterable[str]:
        """In the order that the table of rollouts gives, or in which they come."""
        names = [*self.segments, *(segment for _, segment, _, _ in self.gauges), *self.about["outcome"]]
        return dict.fromkeys(names)

    def _gauges(self) -> Iterable[Gauge]:
        for (kpi, segment, arm, source), values in self.gauges.items():
            at_s = np.array(sorted(values), float)
            yield Gauge(
                kpi=kpi, segment=segment, arm=arm, source=source, at_s=at_s,
                value=np.array([values[time] for time in at_s.tolist()], float),
            )  # fmt: skip


def _drafts(tables: Iterable[Columns]) -> dict[str, _Draft]:
    drafts: dict[str, _Draft] = {}
    for columns in tables:
        for row in range(len(columns)):
            about = _about(columns, row)
            rollout = about["rollout"]
            if rollout in drafts:
                first = drafts[rollout]
                place = f"{first.columns.path}, {first.columns.place(first.row)}"
                raise columns.wrong(row, f"rollout {rollout!r} is there already: {place}")
            drafts[rollout] = _Draft(
                columns=columns, row=row, about=about, segments=_names(columns, row, "segments"),
                kpis=_names(columns, row, "kpis"),
            )  # fmt: skip
    return drafts


def _about(columns: Columns, row: int) -> dict[str, Any]:
    text, number = columns.text, columns.number
    about: dict[str, Any] = {
        name: text(row, name, required=True) for name in ("rollout", "service", "baseline", "canary")
    }
    about |= {name: number(row, name, required=True) for name in ("started_unix_s", "interval_s")}
    if about["interval_s"] <= 0:
        raise columns.wrong(row, f"interval_s is {about['interval_s']}; legal: above 0")
    verdict = columns.choice(row, "label", list(Verdict))
    who, reason = text(row, "labelled_by"), text(row, "label_reason")
    if not verdict and (who or reason):
        raise columns.wrong(row, "labelled_by and label_reason belong to a label, which is empty")
    about["label"] = Label(verdict=Verdict(verdict), who=who, reason=reason) if verdict else None
    about["attributes"] = _attributes(columns, row)
    phases = {name: columns.choice(row, name, list(Phase)) for name in columns.values if name.startswith(OUTCOME)}
    about["outcome"] = {name.removeprefix(OUTCOME): phase for name, phase in phases.items() if phase}
    return about


def _attributes(columns: Columns, row: int) -> dict[str, Attribute]:
    texts = {name: columns.text(row, name) for name in columns.values if name.startswith(ATTRIBUTE)}
    return {name.removeprefix(ATTRIBUTE): attribute(text) for name, text in texts.items() if text}


def _names(columns: Columns, row: int, column: str) -> dict[str, int]:
    """Names in a given order, in the form of a JSON list."""
    text = columns.text(row, column)
    try:
        names = json.loads(text) if text else []
    except (RecursionError, ValueError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise columns.wrong(row, f'{column} is {text[:60]!r}; legal: a JSON list of names such as ["a", "b"], or empty')
    if len(set(names)) != len(names):
        raise columns.wrong(row, f"{column}: a name is there twice")
    return dict.fromkeys(names, row)


def _draft(columns: Columns, row: int, drafts: Mapping[str, _Draft]) -> _Draft:
    rollout = columns.text(row, "rollout", required=True)
    if rollout not in drafts:
        raise columns.wrong(row, f"rollout {rollout!r} is in no table of rollouts")
    return drafts[rollout]


def _take_series(columns: Columns, drafts: Mapping[str, _Draft]) -> None:
    for row in range(len(columns)):
        draft = _draft(columns, row, drafts)
        at_s = columns.number(row, "at_s", required=True) or 0.0
        segment = columns.text(row, "segment", required=True)
        arm = ARMS.index(columns.choice(row, "arm", ARMS, required=True))
        kpi, source = columns.text(row, "kpi", required=True), columns.text(row, "source")
        n, bad = _count(columns, row, "n"), _count(columns, row, "bad")
        value = columns.number(row, "value")
        key = (at_s, segment, arm, kpi, source, n is None)
        if key in draft.seen:
            raise columns.wrong(
                row, f"a second row of {kpi!r} of {ARMS[arm]} in {segment!r} at {at_s} s, source {source!r}"
            )
        draft.seen.add(key)
        if kpi in PER_SEGMENT:
            _take_told(columns, row, draft, key=(kpi, at_s, segment), arm=arm, value=value)
        elif kpi == SESSIONS:
            _take_sessions(columns, row, draft, key=(at_s, segment, arm), n=n)
        elif kpi.startswith("serinus."):
            legal = ", ".join((SESSIONS, *PER_SEGMENT))
            raise columns.wrong(row, f"kpi {kpi!r}; of those that begin with 'serinus.' legal are {legal}")
        elif n is not None and bad is not None and value is None:
            if bad > n:
                raise columns.wrong(row, f"{bad} bad ones of {n}")
            draft.segments.setdefault(segment, row)
            draft.kpis.setdefault(kpi, row)
            before = draft.counts.get((at_s, segment, arm, kpi), (0, 0))
            draft.counts[at_s, segment, arm, kpi] = before[0] + n, before[1] + bad
        elif n is None and bad is None and value is not None:
            draft.gauges.setdefault((kpi, segment, arm, source), {})[at_s] = value
        else:
            raise columns.wrong(row, "n and bad (of counted people), or value (of anything else), belong into a row")


def _count(columns: Columns, row: int, column: str) -> int | None:
    number = columns.number(row, column)
    if number is None:
        return None
    if number < 0 or number % 1 or number > LARGEST_COUNT:
        raise columns.wrong(row, f"{column} is {number:g}; legal: a whole number from 0 to 2^53")
    return int(number)


def _take_told(
    columns: Columns, row: int, draft: _Draft, *, key: tuple[str, float, str], arm: int, value: float | None
) -> None:
    kpi, at_s, segment = key
    if arm != CANARY:
        raise columns.wrong(row, f"{kpi} is of arm {ARMS[CANARY]}")
    if kpi == "serinus.split_bp" and value is not None and not 0 <= value <= TOTAL_BP:
        raise columns.wrong(row, f"value is {value:g}; legal: a split from 0 to {TOTAL_BP} basis points")
    draft.segments.setdefault(segment, row)
    draft.told[PER_SEGMENT[kpi], at_s, segment] = math.nan if value is None else value


def _take_sessions(columns: Columns, row: int, draft: _Draft, *, key: tuple[float, str, int], n: int | None) -> None:
    if n is None:
        raise columns.wrong(row, f"n of {SESSIONS} is empty; legal: how many sessions began in that tick")
    draft.segments.setdefault(key[1], row)
    draft.sessions[key] = draft.sessions.get(key, 0) + n


def _take_decisions(columns: Columns, drafts: Mapping[str, _Draft]) -> None:
    for row in range(len(columns)):
        split = [_count(columns, row, name) or 0 for name in ("split_before_bp", "split_after_bp")]
        if max(split) > TOTAL_BP:
            raise columns.wrong(row, f"a split of {max(split)} basis points; legal: 0 to {TOTAL_BP}")
        _draft(columns, row, drafts).decisions.append(
            RecordedDecision(
                at_s=columns.number(row, "at_s", required=True) or 0.0,
                segment=columns.text(row, "segment"),
                verdict=columns.text(row, "verdict", required=True),
                tier=columns.text(row, "tier"),
                split_before_bp=split[0],
                split_after_bp=split[1],
                reason=columns.text(row, "reason"),
                who=columns.text(row, "who"),
            )
        )
