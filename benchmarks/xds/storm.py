"""A control plane has just started, and everybody connects at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.xds import columns
from benchmarks.xds.children import ChildError
from benchmarks.xds.columns import TITLES, Key, Place, SkippedError
from benchmarks.xds.protocol import Variant
from benchmarks.xds.workload import Workload

STORM_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """Storms upon one column, each upon a fresh server. `skipped`: None, or why there are none."""

    variant: Variant
    workload: Workload
    streams: int
    key: Key
    runs: Sequence[dict[str, Any]] = ()
    skipped: str | None = None


def run(
    variant: Variant, workload: Workload, keys: Sequence[Key], streams: int, repetitions: int, place: Place
) -> Iterator[Storm]:
    """Measure storms, the columns in turn."""
    print(f"storm: {variant}, {workload.services} service(s), {streams} streams", file=sys.stderr, flush=True)
    runs: dict[Key, list[dict[str, Any]]] = {key: [] for key in keys}
    skipped: dict[Key, str] = {}
    for _ in range(repetitions):
        for key in keys:
            if key in skipped:
                continue
            try:
                if key == "serinus" and not runs[key]:
                    columns.check(key, variant, workload, place)
                with columns.column(key, variant, workload, place) as column:
                    runs[key].append(column.storm(streams, STORM_S))
            except (SkippedError, ChildError) as error:
                skipped[key] = str(error)
                print(f"    {TITLES[key]}: SKIPPED: {error}", file=sys.stderr, flush=True)
    for key in keys:
        yield Storm(
            variant=variant,
            workload=workload,
            streams=streams,
            key=key,
            runs=runs[key],
            skipped=skipped.get(key),
        )
