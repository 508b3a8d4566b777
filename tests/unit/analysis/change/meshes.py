"""A shop in a mesh, minute by minute, with releases: frontend calls cart and pay, cart calls stock."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from analysis.change import Edge, Release, Series, Source
from analysis.change.series import BASELINE, CANARY, Floats

BEFORE, AFTER = 15, 18  # minutes
EDGES = tuple(Edge(*edge) for edge in (("frontend", "cart"), ("frontend", "pay"), ("cart", "stock")))
CALLERS = tuple({edge.caller for edge in EDGES})

Values = Callable[[Floats], Floats]
"""Success by the minutes after the first release; NaN: nobody called."""


def well(minute: Floats) -> Floats:
    return np.ones_like(minute)


def broken(share: float, since: float = 1.0) -> Values:
    return lambda minute: np.where(minute > since, 1 - share, 1.0)


def silent(minute: Floats) -> Floats:
    return np.full_like(minute, np.nan)


def stops(minute: Floats) -> Floats:
    return np.where(minute > 1.0, np.nan, 1.0)


def release(
    service: str,
    *,
    starts: float = 0.0,
    canary: Mapping[Edge, Values] | None = None,
    old: Mapping[Edge, Values] | None = None,
    latency_times: float = 1.0,
    heard: bool = True,
    seed: int = 1,
) -> Release:
    """A release `starts` minutes after the first, of three pods and a canary that is heard from minute 2 on.

    `canary`, `old`: success on an edge as the canary, or whoever is no canary, sees it; well where nothing is said.
    """
    rng = np.random.default_rng(seed)
    minute = np.arange(-BEFORE, AFTER) + 0.5
    series: list[Series] = []

    def add(kpi: str, source: Source, arm: int, values: Floats) -> None:
        known = np.isfinite(values) & ((minute - starts > 1) if arm == CANARY else (minute < np.inf))
        series.append(
            Series(kpi=kpi, arm=arm, at_s=(minute - starts)[known] * 60, value=values[known], source=source)
        )  # fmt: skip

    for edge in EDGES:
        for observer in edge:
            if observer == "frontend" and service != "frontend":
                pods = [("frontend-1", BASELINE)]
            else:
                pods = [(f"{observer}-{i}", BASELINE) for i in range(3)]
            if observer == service:
                pods.append((f"{service}-canary", CANARY))
            for pod, arm in pods:
                told = (canary if arm == CANARY else old) or {}
                name = "" if observer == service else observer
                add("success_rate", Source(edge, name, pod), arm, told.get(edge, well)(minute))
    for pod, arm in [*((f"{service}-{i}", BASELINE) for i in range(3)), (f"{service}-canary", CANARY)]:
        times = latency_times if arm == CANARY else 1.0
        add("latency_ms", Source(None, "", pod), arm, times * 20 * rng.lognormal(0, 0.1, len(minute)))
    if not heard:
        series = [each for each in series if each.arm == BASELINE]
    return Release(
        rollout=service, service=service, started_unix_s=1e9 + starts * 60, interval_s=60.0,
        series=tuple(each for each in series if len(each.at_s)),
    )  # fmt: skip
