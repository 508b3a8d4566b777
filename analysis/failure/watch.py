"""A release's first minutes, counted as they pass: the same for a rollout that runs and for one that was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from analysis.failure.facts import FIRST_MINUTES_S, FirstMinutes
from analysis.spec import TOTAL_BP, KpiKind
from analysis.window import BASELINE, CANARY

Floats = npt.NDArray[np.float64]

HALVES = 2  # of the first minutes, between which a slope is told
SMALLEST_N = 20.0  # people of each arm, below which a share has no standard error to speak of
ANOMALY_KPI = str(KpiKind.ANOMALY)


class Watch:
    """Counts of S segments and K KPIs from the first exposure on, for FIRST_MINUTES_S; what comes later is left out.

    Counts are added up by halves of that time, so that they stay small however short the ticks are.
    """

    def __init__(self, kpis: Sequence[str], n_segments: int) -> None:
        self._kpis = tuple(kpis)
        self._counts = np.zeros((HALVES, 2, n_segments, len(kpis), 2))  # half; people, bad ones; segment; KPI; arm
        self._expected, self._came = 0.0, 0.0
        self._anomaly: float | None = None
        self.seen_s = 0.0

    def add(self, n: npt.ArrayLike, bad: npt.ArrayLike, *, expected: float, came: float, since_s: float) -> None:
        """Add one tick that ended `since_s` seconds after the first exposure.

        `n`, `bad` (S, K, 2): people judged, and bad ones. `expected`, `came`: sessions that the splits asked for on the
        canary, and that began there; NaN: not recorded.
        """
        if not 0 < since_s <= FIRST_MINUTES_S:
            return
        half = min(int(since_s * HALVES / FIRST_MINUTES_S), HALVES - 1)
        self._counts[half] += np.stack([np.asarray(n, float), np.asarray(bad, float)])
        self._expected, self._came = self._expected + expected, self._came + came
        self.seen_s = since_s

    def first_minutes(self) -> FirstMinutes | None:
        """What has been seen so far; None: nobody was exposed yet."""
        if self.seen_s <= 0:
            return None
        whole = dict(zip(self._kpis, _differences(self._counts.sum(axis=0)), strict=True))
        anomaly, _ = whole.pop(ANOMALY_KPI, (np.nan, np.nan))
        early, late = (dict(zip(self._kpis, _differences(half), strict=True)) for half in self._counts)
        effects = {kpi: z for kpi, found in whole.items() if np.isfinite(z := _z(found))}
        slopes = {kpi: z for kpi in effects if np.isfinite(z := _z(_growth(early[kpi], late[kpi])))}
        is_told = np.isfinite(self._expected + self._came) and self._expected >= SMALLEST_N
        return FirstMinutes(
            seen_s=self.seen_s,
            effects=effects,
            slopes=slopes,
            anomaly=anomaly if np.isfinite(anomaly) else None,
            silence=float(np.clip(1 - self._came / self._expected, 0, 1)) if is_told else None,
        )

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as JSON-able values."""
        return {
            "counts": self._counts.tolist(), "expected": _or_none(self._expected), "came": _or_none(self._came),
            "seen_s": self.seen_s,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave. Raises ValueError, TypeError or KeyError where it is damaged."""
        counts = np.asarray(state["counts"], float).reshape(self._counts.shape)
        expected, came = (np.nan if state[name] is None else float(state[name]) for name in ("expected", "came"))
        seen_s = float(state["seen_s"])
        if not np.isfinite(counts).all() or not 0 <= seen_s <= FIRST_MINUTES_S:
            raise ValueError("what was seen of the first minutes is damaged")
        self._counts, self._expected, self._came, self.seen_s = counts, expected, came, seen_s


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _z(found: tuple[float, float]) -> float:
    difference, error = found
    return difference / error if error > 0 else float("nan")


def _growth(early: tuple[float, float], late: tuple[float, float]) -> tuple[float, float]:
    return late[0] - early[0], float(np.hypot(early[1], late[1]))


def _differences(counts: Floats) -> list[tuple[float, float]]:
    """By KPI: canary minus baseline, pooled over segments, and its standard error; NaN where too few were judged.

    Segments are weighted as Mantel & Haenszel (1959) do, by n₀n₁/(n₀ + n₁), each with its own pooled share, so that
    segments with other base rates and other splits make no difference of their own.
    """
    n, bad = counts  # (S, K, 2) each
    both = n.min(axis=-1) > 0
    enough = np.where(both[:, :, None], n, 0.0).sum(axis=0).min(axis=-1) >= SMALLEST_N
    total = n.sum(axis=-1)
    weight = np.divide(n[..., BASELINE] * n[..., CANARY], total, out=np.zeros_like(total), where=both)
    share = np.divide(bad, n, out=np.zeros_like(n), where=n > 0)
    pooled = (bad.sum(axis=-1) + 0.5) / (total + 1.0)  # half a bad one more: a share of 0 has an error too
    variance = np.divide(weight**2 * pooled * (1 - pooled) * total, n[..., 0] * n[..., 1], out=np.zeros_like(total),
                         where=both)  # fmt: skip
    sums = weight.sum(axis=0)
    found = np.full((2, n.shape[1]), np.nan)
    np.divide((weight * (share[..., CANARY] - share[..., BASELINE])).sum(axis=0), sums, out=found[0], where=enough)
    np.divide(np.sqrt(variance.sum(axis=0)), sums, out=found[1], where=enough)
    return list(zip(found[0].tolist(), found[1].tolist(), strict=True))


class Recorded(Protocol):
    """What of a recorded rollout its first minutes are told from. T ticks, S segments, K KPIs, two arms.

    `at_s` (T,): end of each tick after the beginning; `n`, `bad` (T, S, K, 2): people judged, and bad ones;
    `exposed`, `arrived` (T, S): sessions that began on the canary, and on either version; `split_bp` (T, S): the
    canary's share in basis points. NaN: not recorded.
    """

    @property
    def kpis(self) -> tuple[str, ...]: ...
    @property
    def segments(self) -> tuple[str, ...]: ...
    @property
    def at_s(self) -> Floats: ...
    @property
    def n(self) -> npt.NDArray[np.int64]: ...
    @property
    def bad(self) -> npt.NDArray[np.int64]: ...
    @property
    def exposed(self) -> Floats: ...
    @property
    def arrived(self) -> Floats: ...
    @property
    def split_bp(self) -> Floats: ...


def first_minutes_of(record: Recorded) -> FirstMinutes | None:
    """What a recorded rollout's first minutes showed; None: its split is not recorded, or nobody was exposed."""
    split = np.where(np.isfinite(record.split_bp), record.split_bp, 0.0)
    exposed = np.flatnonzero((split > 0).any(axis=1))
    if not len(exposed):
        return None
    first = int(exposed[0])
    began_s = float(record.at_s[first - 1]) if first else 0.0
    watch = Watch(record.kpis, len(record.segments))
    for t in range(first, len(record.at_s)):
        asked = record.arrived[t] * record.split_bp[t] / TOTAL_BP
        watch.add(
            record.n[t], record.bad[t], expected=float(asked.sum()), came=float(record.exposed[t].sum()),
            since_s=float(record.at_s[t]) - began_s,
        )  # fmt: skip
    return watch.first_minutes()
