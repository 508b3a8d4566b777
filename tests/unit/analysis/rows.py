"""Rows by hand, and a small service to read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.sample import SAMPLE_DTYPE, SampleKind
from analysis.session import NS
from analysis.spec import HarmSpec, KpiKind, KpiSpec, RolloutSpec, SegmentSpec, ServiceSpec, SessionSpec
from analysis.window import Window, empty

ERRORS, LATENCY, ABANDONMENT, FEATURE, ANOMALY = range(5)
FEATURE_LABEL = 40
LABELS = (*(f"page {i}" for i in range(FEATURE_LABEL)), "feature wishlist")
"""The vocabulary."""


def small_spec(**changes: Any) -> ServiceSpec:
    """Two segments, every kind of KPI; `changes` override fields of ServiceSpec."""
    fields: dict[str, Any] = {
        "name": "shop", "baseline": "v1", "versions": ("v1", "v2"),
        "segments": (SegmentSpec(name="power"), SegmentSpec(name="default")),
        "kpis": (
            KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=4, tolerance=0.02, limit=0.05),
            KpiSpec(kind=KpiKind.LATENCY, judge_after_s=4, tolerance=0.05),
            KpiSpec(kind=KpiKind.ABANDONMENT, judge_after_s=10, tolerance=0.02),
            KpiSpec(kind=KpiKind.FEATURE, judge_after_s=10, tolerance=0.05, feature="wishlist"),
            KpiSpec(kind=KpiKind.ANOMALY, judge_after_s=12, tolerance=0.10),
        ),
        "session": SessionSpec(gap_s=8, goal_path="/done"),
        "rollout": RolloutSpec(
            harm=HarmSpec(budget=500, tolerance=0.02), interval_s=1, warmup_s=5, min_dwell_s=2, horizon_s=60, bake_s=10,
            settle_s=0,
        ),
    }  # fmt: skip
    return ServiceSpec(**(fields | changes))


def row(at_s: float, user: int, **fields: Any) -> tuple[Any, ...]:
    """One request by default: 20 ms, segment 0, version 0, bucket 9000, no error."""
    values = {
        "start_unix_ns": round(at_s * NS), "duration_ms": 20.0, "first_byte_ms": 10.0, "user": user,
        "bucket": 9_000, "segment": 0, "version": 0,
        "label": 1, "kind": SampleKind.REQUEST, "error": False, "goal": False, "bot": False,
    } | fields  # fmt: skip
    return tuple(values[name] for name in SAMPLE_DTYPE.names or ())


def table(*rows: tuple[Any, ...]) -> npt.NDArray[np.void]:
    return np.array(list(rows), dtype=SAMPLE_DTYPE)


def stacked(windows: Sequence[Window]) -> Window:
    """One window of B rollouts: every array with a leading axis; entries of all of them together, and no newcomers."""
    arrays = {
        f.name: np.stack([getattr(window, f.name) for window in windows])
        for f in fields(Window)
        if isinstance(getattr(windows[0], f.name), np.ndarray)
    }
    return Window(**arrays, newcomers=Counter(), traffic={}, entries=sum(window.entries for window in windows))


def stacked_window(n: int, n_segments: int, n_kpis: int) -> Window:
    """A window of `n` rollouts in which nothing happened."""
    return stacked([empty(n_segments, n_kpis)] * n)


def newcomers_of(windows: Sequence[Window]) -> npt.NDArray[np.int64]:
    """Rows of (rollout, segment, split asked for in basis points, arm, people)."""
    rows = [(b, *key, n) for b, window in enumerate(windows) for key, n in window.newcomers.items()]
    return np.array(rows, np.int64).reshape(-1, 5)
