"""Files of rows as columns, CSV or Parquet, and their cells as checked values: what is wrong names file and row."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xds_server.errors import HistoryTableError

MOST_ROWS: Final = 20_000_000  # of one file; all of them are held in memory at once
LONGEST: Final = 20_000  # characters of a text
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of one file, all of the same length. `place`: how a row, counted from 0, is called in messages."""

    path: Path
    values: Mapping[str, Sequence[Any]]
    place: Callable[[int], str]

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))

    def wrong(self, row: int, message: str) -> HistoryTableError:
        return HistoryTableError(f"{self.path}: {self.place(row)}: {message}")

    def text(self, row: int, column: str, *, required: bool = False) -> str:
        """A cell as text; the empty one where it is empty or the column is not there."""
        value = self._cell(row, column)
        text = "" if value is None else _as_text(value)
        if required and not text:
            raise self.wrong(row, f"{column} is empty")
        if len(text) > LONGEST:
            raise self.wrong(row, f"{column} has {len(text)} characters; at most {LONGEST} are legal")
        return text

    def number(self, row: int, column: str, *, required: bool = False) -> float | None:
        """A cell as a finite number; None where it is empty or the column is not there."""
        value = self._cell(row, column)
        if value is None or value == "":
            if required:
                raise self.wrong(row, f"{column} is empty; legal: a number")
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or isinstance(value, bool):
            raise self.wrong(row, f"{column} is {_shown(value)}; legal: a finite number")
        return number

    def choice(self, row: int, column: str, legal: Iterable[str], *, required: bool = False) -> str:
        """A cell that is one of a few texts, or empty."""
        text = self.text(row, column, required=required)
        if text and text not in legal:
            raise self.wrong(row, f"{column} is {_shown(text)}; legal: {', '.join(legal)}")
        return text

    def _cell(self, row: int, column: str) -> Any:
        values = self.values.get(column)
        return None if values is None else values[row]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN]


def read_columns(path: Path) -> Columns:
    """All of one file: Parquet by its ending `.parquet`, else CSV with a header, in UTF-8.

    Raises
    ------
    HistoryTableError
        The file cannot be read, is damaged, or has more than MOST_ROWS rows.
    """
    try:
        return _parquet(path) if path.suffix == ".parquet" else _csv(path)
    except OSError as error:
        raise HistoryTableError(f"{path} cannot be read: {error.strerror or error}") from error


def _csv(path: Path) -> Columns:
    lines: list[int] = []
    rows: list[list[str]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise HistoryTableError(
                        f"{path}: line {reader.line_num}: {len(row)} cells; the header has {len(header)}"
                    )
                rows.append(row)
                lines.append(reader.line_num)
                if len(rows) > MOST_ROWS:
                    raise HistoryTableError(f"{path}: more than {MOST_ROWS} rows; give it in parts")
        except (csv.Error, UnicodeDecodeError) as error:
            raise HistoryTableError(f"{path}: line {reader.line_num + 1}: not CSV in UTF-8 ({error})") from error
    _check_header(path, header)
    columns = [*zip(*rows, strict=True)] if rows else [() for _ in header]
    return Columns(
        path=path, values=dict(zip(header, columns, strict=True)), place=lambda row: f"line {lines[row]}"
    )  # fmt: skip


def _parquet(path: Path) -> Columns:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise HistoryTableError(
            f"{path}: reading Parquet needs pyarrow: install serinus[history], or give CSV"
        ) from error
    with path.open("rb") as file:
        try:
            opened = parquet.ParquetFile(file)
            if opened.metadata.num_rows > MOST_ROWS:
                raise HistoryTableError(f"{path}: more than {MOST_ROWS} rows; give it in parts")
            table = opened.read()
            _check_header(path, table.column_names)
            values = {name: table.column(name).to_pylist() for name in table.column_names}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise HistoryTableError(
                f"{path}: not a Parquet file that can be read ({' '.join(str(error).split())})"
            ) from error
    return Columns(path=path, values=values, place=lambda row: f"row {row + 1}")


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header:
        raise HistoryTableError(f"{path} is empty; a header with the columns' names is expected")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise HistoryTableError(f"{path}: column {twice[0]!r} is there twice")


def write_columns(path: Path, columns: Mapping[str, Sequence[object]], kinds: Mapping[str, type]) -> None:
    """Write one file, CSV or Parquet by its ending. `kinds`: str, int or float of each column; None is an empty cell.

    The file is complete or, after an error, not there. Raises HistoryTableError.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        if path.suffix == ".parquet":
            _write_parquet(part, columns, kinds)
        else:
            _write_csv(part, columns)
        part.replace(path)
    except OSError as error:
        raise HistoryTableError(f"{path} cannot be written: {error.strerror or error}") from error
    except UnicodeEncodeError as error:
        raise HistoryTableError(f"{path} cannot be written: {error.object[error.start]!r} is no character") from error
    finally:
        part.unlink(missing_ok=True)


def _write_csv(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _write_parquet(path: Path, columns: Mapping[str, Sequence[object]], kinds: Mapping[str, type]) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise HistoryTableError("writing Parquet needs pyarrow: install serinus[history], or export as CSV") from error
    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    arrays = [pa.array(values, types[kinds[name]]) for name, values in columns.items()]
    parquet.write_table(pa.table(arrays, names=list(columns)), path, compression="zstd")
