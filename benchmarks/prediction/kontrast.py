"""Kontrast's KPIs around software changes (Wang et al., ISSRE 2022) as Serinus's tables of deployments.

A rollout is one series: what was before the change is the baseline, what came after it the canary; nothing ran beside
it. What a series measures is not told, so either direction may be worse.
"""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

INTERVAL_S = 60.0

Rows = list[dict[str, Any]]


def tables(archive: Path) -> tuple[Rows, Rows]:
    """Rows of the tables `rollouts` and `series` from kontrast.tar.xz."""
    with tarfile.open(archive) as tar:
        read = {member.name.rsplit("/", 1)[-1]: tar.extractfile(member) for member in tar if member.isfile()}
        files = {name: file.read().decode() for name, file in read.items() if file is not None}
    rollouts: Rows = []
    series: Rows = []
    for change in csv.DictReader(io.StringIO(files["labels.csv"])):
        name, begin = change["metric"], float(change["change_start"])
        rollouts.append(
            {
                "rollout": name, "service": name, "baseline": "before", "canary": "after", "started_unix_s": begin,
                "interval_s": INTERVAL_S, "label": "bad" if change["label"] == "1" else "good", "attribute.case": name,
            }
        )  # fmt: skip
        for row in csv.DictReader(io.StringIO(files[f"{change['instance_name']}${name}.csv"])):
            at_s = float(row["timestamp"]) - begin
            if row["value"] not in ("", "nan", "NaN"):
                series.append(
                    {
                        "rollout": name, "at_s": at_s, "segment": "default",
                        "arm": "baseline" if at_s <= 0 else "canary", "kpi": "value", "value": float(row["value"]),
                    }
                )  # fmt: skip
    return rollouts, series
