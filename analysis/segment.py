"""Where one segment stands in a rollout."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase
from analysis.forecast.trend import Forecast
from analysis.reward import Reward
from analysis.spec import TOTAL_BP

Floats = npt.NDArray[np.float64]

FORECAST_TICKS = 120  # ticks of the usual interval: history kept, and behind a forecast


@dataclass(slots=True, kw_only=True)
class SegmentState:
    """Where one segment stands. Times in seconds since the rollout began."""

    phase: Phase
    split_bp: int = 0
    largest_bp: int = 0
    changed_s: float = 0.0
    since_s: float | None = None  # first exposure
    bake_since_s: float | None = None
    confirmed: bool = True
    paused: bool = False
    frozen: bool = False
    reduced: bool = False
    watched: bool = False  # a suspicion that is not proof is looked into more closely
    cleared: bool = False  # was known to be healthy while exposed, and has not been reduced since
    breach_ticks: int = 0
    verdict: str = ""
    reason: str = ""
    cap_bp: int = 0
    forecast: Forecast | None = None
    reward: Reward | None = None
    history: deque[tuple[Floats, Floats]] = field(default_factory=lambda: deque(maxlen=FORECAST_TICKS))


_KEPT: Mapping[str, Any] = {
    "split_bp": int, "largest_bp": int, "changed_s": int | float, "since_s": int | float | None,
    "bake_since_s": int | float | None, "confirmed": bool, "paused": bool, "frozen": bool, "reduced": bool,
    "cleared": bool, "verdict": str, "reason": str, "watched": bool,
}  # fmt: skip
_ADDED: Mapping[str, object] = {"watched": False}  # what states of earlier versions lack


def state_of(state: SegmentState) -> dict[str, object]:
    history = [[n.tolist(), bad.tolist()] for n, bad in state.history]
    return {"phase": str(state.phase), "history": history, **{name: getattr(state, name) for name in _KEPT}}


def restore_state(state: SegmentState, values: Mapping[str, Any]) -> None:
    values = {**_ADDED, **values}
    state.phase = Phase(values["phase"])
    for name in _KEPT:
        if not isinstance(values[name], _KEPT[name]):
            raise TypeError(f"{name} is {values[name]!r}")
        setattr(state, name, values[name])
    if not 0 <= state.split_bp <= TOTAL_BP:
        raise ValueError(f"split of {state.split_bp} basis points")
    state.history.extend((_counts(n), _counts(bad)) for n, bad in values["history"])


def _counts(values: object) -> Floats:
    """Counts of one tick, (K, 2)."""
    counts = np.asarray(values, float)
    if counts.ndim != 2 or not np.isfinite(counts).all():
        raise ValueError("history is damaged")
    return counts
