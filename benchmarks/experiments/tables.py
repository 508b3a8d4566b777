"""Real experiments as tables that `serinus experiment analyse` reads, and what it and plain tests make of them."""

from __future__ import annotations

import csv
import json
import lzma
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

HEAD = ("experiment", "variant", "metric", "at", "n", "sum", "sum_sq")
ALPHA = 0.05
LEAST_LOOKS = 5


def analysed(table: Path, *options: str) -> list[dict[str, Any]]:
    """The reports of the installed command on a table."""
    out = table.with_suffix(".json")
    command = [sys.executable, "-m", "xds_server", "experiment", "analyse", str(table), "--json", str(out), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    reports: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["experiments"]
    return reports


def _write(table: Path, rows: Iterable[Sequence[object]]) -> Path:
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEAD, *rows])
    return table


# -- ASOS ------------------------------------------------------------------------------------------------------------


def asos(path: Path, folder: Path) -> dict[str, np.ndarray]:
    """By stream (a metric of a variant) of at least LEAST_LOOKS looks: what calls it.

    Arrays (streams,) of bool: `ours` at any look, alone; `corrected` over the metrics of its variant (closed testing);
    `last`, a two-sided z-test at the last look; `peeking`, the same at any; and `half`, of experiments in turn.
    """
    import pyarrow.parquet

    looks = [look for look in pyarrow.parquet.read_table(path).to_pylist() if _is_usable(look)]
    z: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for look in looks:
        z.setdefault(_stream(look), []).append((look["time_since_start"], _z(look)))
    table = _write(folder / "asos.csv", (row for look in looks for row in _rows(look)))
    rows = {
        (report["experiment"]["name"], row["metric"]): row
        for report in analysed(table, "--totals", "--control", "control")
        for row in report["effects"]
    }
    streams = sorted(stream for stream, found in z.items() if len(found) >= LEAST_LOOKS)
    line = float(norm.ppf(1 - ALPHA / 2))
    names = sorted({experiment.split("/")[0] for experiment, _ in streams})
    return {
        "ours": np.array([rows[stream]["p"] <= ALPHA for stream in streams]),
        "corrected": np.array([rows[stream]["p_adjusted"] <= ALPHA for stream in streams]),
        "last": np.array([abs(max(z[stream])[1]) > line for stream in streams]),
        "peeking": np.array([any(abs(value) > line for _, value in z[stream]) for stream in streams]),
        "half": np.array([names.index(experiment.split("/")[0]) % 2 for experiment, _ in streams]),
    }


def _stream(look: dict[str, Any]) -> tuple[str, str]:
    return f"{look['experiment_id']}/{look['variant_id']}", f"metric {look['metric_id']}"


def _is_usable(look: dict[str, Any]) -> bool:
    """Looks at fewer than two people in an arm, or without any variance, say nothing."""
    arms = [(look[f"count_{arm}"], look[f"variance_{arm}"]) for arm in "ct"]
    return all(n is not None and n > 1 and v is not None and not math.isnan(v) for n, v in arms) and any(
        v > 0 for _, v in arms
    )


def _z(look: dict[str, Any]) -> float:
    error = look["variance_t"] / look["count_t"] + look["variance_c"] / look["count_c"]
    return float((look["mean_t"] - look["mean_c"]) / np.sqrt(error))


def _rows(look: dict[str, Any]) -> Iterable[Sequence[object]]:
    experiment, metric = _stream(look)
    for arm, variant in (("c", "control"), ("t", "treatment")):
        n, mean, variance = (look[f"{name}_{arm}"] for name in ("count", "mean", "variance"))
        total, square = n * mean, (n - 1) * variance + n * mean**2
        yield experiment, variant, metric, look["time_since_start"], int(n), repr(total), repr(square)


# -- Cookie Cats -----------------------------------------------------------------------------------------------------


def cookie_cats(path: Path, folder: Path) -> dict[str, Any]:
    """The report of the one look that there is."""
    people: Counter[str] = Counter()
    kept: Counter[tuple[str, str]] = Counter()
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            people[row["version"]] += 1
            for metric in ("retention_1", "retention_7"):
                kept[row["version"], metric] += row[metric] == "True"
    rows = [
        ("cookie cats", version, metric, 0, n, kept[version, metric], kept[version, metric])
        for version, n in sorted(people.items())
        for metric in ("retention_1", "retention_7")
    ]
    (report,) = analysed(_write(folder / "cookie_cats.csv", rows))
    return report
