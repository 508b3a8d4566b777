"""ChangeRCA's staged rollouts (Yu et al., FSE 2024) as Serinus's tables of deployments.

A case releases one to six services of a shop in a mesh at once; one is defective. A rollout is one service's release,
as long as its first step: until the second pod is replaced, so that a verdict comes while one pod serves the canary.
Series are those of the service's own pods and, as seen by themselves, of the services that are not released.

Two oddities of the data are undone: a replaced pod's file goes on with its successor's values, so what it says after
its release is dropped; and node-wide CPU and memory, which say nothing of a pod, are left out.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POD_KPIS = {"Latency": "latency_ms", "CPUUsageRate(%)": "cpu_percent", "MemoryUsageRate(%)": "memory_percent"}
SUCCESS = "SuccessRate"
STEP_S = 60.0  # a step is under way for so long before it is complete
INTERVAL_S = 60.0

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod at one edge: (unix time, column, value) of what was measured."""

    name: str
    edge: str
    values: tuple[tuple[float, str, float], ...]

    @property
    def service(self) -> str:
        return self.name.split("-", 1)[0]

    @property
    def is_canary(self) -> bool:
        return self.name.split("-")[1] == "v2"


def tables(archive: Path) -> tuple[Rows, Rows]:
    """Rows of the tables `rollouts` and `series` from changerca.tar.xz."""
    rollouts: Rows = []
    series: Rows = []
    for case, files in sorted(_cases(archive).items()):
        plan = json.loads(
            next(text for name, text in files.items() if name.startswith(case) and name.endswith(".json"))
        )
        pods = [_pod(name, text) for name, text in files.items() if name.count("_") == 2 and name.endswith(".csv")]
        released = plan["plan"]
        for service, steps in released.items():
            name, begin = f"{case}/{service}", float(steps["release_time"])
            rollouts.append(
                {
                    "rollout": name, "service": service, "baseline": "v1", "canary": "v2", "started_unix_s": begin,
                    "interval_s": INTERVAL_S, "label": "bad" if service == plan["fault_release_service"] else "good",
                    "label_reason": plan["fault"] if service == plan["fault_release_service"] else "",
                    "attribute.case": case,
                }
            )  # fmt: skip
            for pod in pods:
                if pod.service == service or pod.service not in released:
                    series += _series(name, service, pod, steps, begin)
    return rollouts, _distinct(series)


def _cases(archive: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                *_, case, name = member.name.split("/")
                found.setdefault(case, {})[name] = file.read().decode()
    return found


def _pod(name: str, text: str) -> Pod:
    pod, caller, callee = name.removesuffix(".csv").split("_")
    values = tuple(
        (float(row["Timestamp"]), column, float(row[column]))
        for row in csv.DictReader(io.StringIO(text))
        for column in (SUCCESS, *POD_KPIS)
        if row[column] not in ("", "NaN", "nan", "+Inf", "-Inf")
    )
    return Pod(name=pod, edge=f"{caller}>{callee}", values=values)


def _series(rollout: str, service: str, pod: Pod, steps: Mapping[str, Any], begin: float) -> Iterator[dict[str, Any]]:
    first, *later = sorted(steps["process"].items(), key=lambda step: float(step[0]) != begin)
    ends = [
        float(step["release_complete_timestamp"]) - STEP_S for _, step in later if "release_complete_timestamp" in step
    ]
    until = begin if pod.name in first[1]["delete_pod"] else min(ends, default=float("inf"))
    if pod.service == service and pod.is_canary and pod.name not in first[1]["release_pod"]:
        return
    observer = "" if pod.service == service else f"@{pod.service}"
    for unix_s, column, value in pod.values:
        if unix_s > until:
            continue
        is_edge = column == SUCCESS
        source = f"{pod.edge}{observer} {pod.name}" if is_edge else f"{observer} {pod.name}".strip()
        yield {
            "rollout": rollout, "at_s": unix_s - begin, "segment": "default",
            "arm": "canary" if pod.service == service and pod.is_canary else "baseline",
            "kpi": "success_rate" if is_edge else POD_KPIS[column], "value": value / 100 if is_edge else value,
            "source": source,
        }  # fmt: skip


def _distinct(rows: Rows) -> Rows:
    """A pod's own values are in each of its files: once is enough."""
    seen = {(row["rollout"], row["kpi"], row["source"], row["arm"], row["at_s"]): row for row in reversed(rows)}
    return list(reversed(seen.values()))
