"""Tables of experiments, as CSV or Parquet: counts and moments by variant and metric over time (docs/experiments.md).

Reading is strict: what is not understood is refused with the row it is in.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from analysis.errors import SpecError
from analysis.experiment.design import Better, Experiment, Kind, Metric, Variant
from analysis.experiment.tally import Tally
from xds_server.errors import SerinusError

REQUIRED: Final = ("experiment", "variant", "metric", "at", "n", "sum", "sum_sq")
OPTIONAL: Final = ("segment", "share", "exposed", "multiple", "prior_sum", "prior_sum_sq", "cross_sum")
TEXTS: Final = ("experiment", "segment", "variant", "metric")
COUNTS: Final = ("n", "exposed", "multiple")
MOMENTS: Final = ("n", "sum", "sum_sq", "prior_sum", "prior_sum_sq", "cross_sum")
MAX_ROWS: Final = 1_000_000
SHARES_NEAR: Final = 1e-3  # a third is often written as 0.333
_NEAR: Final = 1e-6  # relative differences that come from printing numbers


class TableError(SerinusError):
    """A table that cannot be read or says what cannot be; the message names file, row and what is legal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the table does not say.

    `control`: a variant; the first in the table if empty. `primary`: the metric that decides; the first goal if empty.
    `lower`: metrics that ought to go down. `margins`: guardrails, with what they may worsen by.
    """

    control: str = ""
    primary: str = ""
    lower: frozenset[str] = frozenset()
    margins: Mapping[str, float] = field(default_factory=dict)
    alpha: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One experiment of a table: its design, and by time its tally and shares (S, V)."""

    experiment: Experiment
    ticks: dict[float, Tally]
    shares: dict[float, np.ndarray[Any, np.dtype[np.float64]]]


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    texts: dict[str, str]
    at: float
    numbers: dict[str, float]


def read_table(path: Path, asked: Asked) -> list[Told]:
    """Every experiment of a table, in its order. Raises TableError."""
    by_name: dict[str, list[_Row]] = {}
    for number, (where, row) in enumerate(_raw_rows(path), 1):
        if number > MAX_ROWS:
            raise TableError(f"{path}: more than {MAX_ROWS:,} rows; legal: as many at most")
        read = _row(f"{path}: {where}", row)
        by_name.setdefault(read.texts["experiment"], []).append(read)
    if not by_name:
        raise TableError(f"{path}: no rows")
    known = {kind: {row.texts[kind] for rows in by_name.values() for row in rows} for kind in ("variant", "metric")}
    _require(path, "variant", {asked.control} - {""}, known["variant"])
    _require(path, "metric", ({asked.primary} - {""}) | asked.lower | asked.margins.keys(), known["metric"])
    return [_told(path, name, rows, asked) for name, rows in by_name.items()]


def _require(path: Path, kind: str, names: Collection[str], known: Collection[str]) -> None:
    for name in sorted(names):
        if name not in known:
            raise TableError(f"{path}: no {kind} '{name}'; known: {', '.join(sorted(known)[:20])}")


# -- rows ------------------------------------------------------------------------------------------------------------


def _raw_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path)
        else:
            yield from _csv_rows(path)
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: is no CSV in UTF-8: {error}") from None


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        _check_columns(path, list(reader.fieldnames or ()))
        for row in reader:
            if None in row or None in row.values():
                raise TableError(f"{path}: line {reader.line_num}: not as many values as columns")
            yield f"line {reader.line_num}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise TableError(f"{path}: reading Parquet needs pyarrow: install serinus[experiment]") from None
    try:
        file = ParquetFile(path)
        _check_columns(path, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except ArrowException as error:
        raise TableError(f"{path}: is no Parquet: {str(error).splitlines()[0]}") from None


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    unknown = [name for name in names if name not in REQUIRED + OPTIONAL]
    if missing or unknown or len(set(names)) != len(names):
        what = f"no column {missing[0]}" if missing else f"column {unknown[0]}" if unknown else "a column twice"
        raise TableError(f"{path}: {what}; legal: {', '.join(REQUIRED)}, and if wanted {', '.join(OPTIONAL)}")


def _row(where: str, row: Mapping[str, Any]) -> _Row:
    texts = {name: str(row.get(name, "default")).strip() for name in TEXTS}
    for name, text in texts.items():
        if not text or not text.isprintable():
            raise TableError(f"{where}: {name} is {text!r}; legal: a name of letters that can be shown")
    numbers = {
        name: _number(where, name, row[name])
        for name in (*MOMENTS, "exposed", "multiple", "share")
        if name in row and not _is_missing(row[name])
    }
    n = numbers.get("n", 0.0)
    numbers |= {name: 0.0 for name in MOMENTS if name not in numbers and (n == 0 or name in OPTIONAL)}
    for name in ("n", "sum", "sum_sq"):
        if name not in numbers:
            raise TableError(f"{where}: {name} is empty; legal: a number, or n = 0")
    _check_row(where, numbers)
    return _Row(where, texts, _number(where, "at", row["at"]), numbers)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _number(where: str, name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TableError(f"{where}: {name} is '{value}'; legal: a number")
    return number


def _check_row(where: str, numbers: Mapping[str, float]) -> None:
    for name in COUNTS:
        value = numbers.get(name, 0.0)
        if value < 0 or value != int(value):
            raise TableError(f"{where}: {name} is {value:g}; legal: a whole number from 0 on")
    if not 0 <= numbers.get("share", 0.0) <= 1:
        raise TableError(f"{where}: share is {numbers['share']:g}; legal: from 0 to 1")
    n = numbers["n"]
    for total, square in (("sum", "sum_sq"), ("prior_sum", "prior_sum_sq")):
        least = numbers[total] ** 2 / n if n else 0.0
        if numbers[square] < least * (1 - _NEAR) or (n == 0 and (numbers[total] or numbers[square])):
            raise TableError(f"{where}: {square} is {numbers[square]:g}; legal: from {total}²/n = {least:g} on")


# -- experiments -----------------------------------------------------------------------------------------------------


def _told(path: Path, name: str, rows: list[_Row], asked: Asked) -> Told:
    variants, metrics, segments = (
        list(dict.fromkeys(row.texts[kind] for row in rows)) for kind in ("variant", "metric", "segment")
    )
    control = asked.control if asked.control in variants else variants[0]
    variants.sort(key=lambda variant: variant != control)
    if asked.primary in metrics:
        metrics.sort(key=lambda metric: metric != asked.primary)
    try:
        experiment = Experiment(
            name=name,
            variants=tuple(Variant(name=each, version=each, share=1 / len(variants)) for each in variants),
            metrics=tuple(_metric(each, rows, asked) for each in metrics),
            segments=tuple(segments),
            alpha=asked.alpha,
        )
    except SpecError as error:
        raise TableError(f"{path}: {error}") from None
    ticks = _ticks(experiment, rows)
    return Told(experiment=experiment, ticks=ticks, shares=_shares(path, experiment, rows, ticks))


def _metric(name: str, rows: list[_Row], asked: Asked) -> Metric:
    """A metric whose values were all 0 or 1 is a rate."""
    own = [row.numbers for row in rows if row.texts["metric"] == name]
    is_rate = all(
        0 <= n["sum"] <= n["n"] and math.isclose(n["sum"], n["sum_sq"], rel_tol=_NEAR, abs_tol=_NEAR) for n in own
    )
    return Metric(
        name=name,
        kind=Kind.RATE if is_rate else Kind.MEAN,
        better=Better.DOWN if name in asked.lower else Better.UP,
        margin=asked.margins.get(name),
    )


def _place(experiment: Experiment, row: _Row) -> tuple[int, int, int]:
    names = [variant.name for variant in experiment.variants], [metric.name for metric in experiment.metrics]
    return (
        experiment.segments.index(row.texts["segment"]),
        names[0].index(row.texts["variant"]),
        names[1].index(row.texts["metric"]),
    )


def _ticks(experiment: Experiment, rows: list[_Row]) -> dict[float, Tally]:
    ticks: dict[float, Tally] = {}
    seen: dict[tuple[float, int, int, int], str] = {}
    multiple: dict[float, np.ndarray[Any, Any]] = {}
    for row in rows:
        tally = ticks.setdefault(row.at, Tally.empty(experiment))
        segment, variant, metric = _place(experiment, row)
        if (row.at, segment, variant, metric) in seen:
            raise TableError(
                f"{row.where}: the same experiment, segment, variant, metric and at as before; legal: once"
            )
        seen[row.at, segment, variant, metric] = row.where
        tally.cells[segment, variant, metric] = [row.numbers[name] for name in MOMENTS]
        exposed = int(row.numbers.get("exposed", row.numbers["n"]))
        tally.exposed[segment, variant] = max(tally.exposed[segment, variant], exposed)
        by_variant = multiple.setdefault(row.at, np.zeros(tally.exposed.shape, np.int64))
        by_variant[segment, variant] = max(by_variant[segment, variant], int(row.numbers.get("multiple", 0)))
    for at, tally in ticks.items():
        tally.multiple[:] = multiple[at].sum(axis=1)
    return dict(sorted(ticks.items()))


def _shares(
    path: Path, experiment: Experiment, rows: list[_Row], ticks: Mapping[float, Tally]
) -> dict[float, np.ndarray[Any, np.dtype[np.float64]]]:
    """Equal ones if the table has none. A variant without rows at a time had a share of 0 then."""
    s, v, _ = experiment.shape
    if not any("share" in row.numbers for row in rows):
        return {at: np.full((s, v), 1 / v) for at in ticks}
    shares = {at: np.zeros((s, v)) for at in ticks}
    told = {at: np.zeros(s, bool) for at in ticks}
    for row in rows:
        segment, variant, _ = _place(experiment, row)
        if "share" not in row.numbers:
            raise TableError(f"{row.where}: share is empty; legal: from 0 to 1, in every row or in none")
        shares[row.at][segment, variant] = row.numbers["share"]
        told[row.at][segment] = True
    for at, asked in shares.items():
        asked[~told[at]] = 1 / v  # nobody came there
        for name, total in zip(experiment.segments, asked.sum(axis=1).tolist(), strict=True):
            if abs(total - 1) > SHARES_NEAR:
                where = f"experiment {experiment.name}, segment {name}, at {at:g}"
                raise TableError(f"{path}: {where}: shares add up to {total:.4g}; legal: 1")
    return {at: asked / asked.sum(axis=1, keepdims=True) for at, asked in shares.items()}
