"""Rows as CSV files that `serinus backtest` reads."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[dict[str, Any]]


def write(folder: Path, rollouts: Rows, series: Rows) -> None:
    """Write `rollouts.csv` and `series.csv`; what a row does not have stays empty."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("rollouts", rollouts), ("series", series)):
        columns = list(dict.fromkeys(column for row in rows for column in row))
        if name == "series":
            columns += [column for column in ("n", "bad") if column not in columns]
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
