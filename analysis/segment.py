"""Where one segment stands in a rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.decision import Phase
from analysis.forecast.excess import Forecast
from analysis.spec import TOTAL_BP


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
    watched: bool = False  # more closely, since a suspicion and until the evidence clears
    cleared: bool = False  # was known to be healthy while exposed, and has not been reduced since
    breach_ticks: int = 0
    burning_ticks: int = 0
    verdict: str = ""
    reason: str = ""
    cap_bp: int = 0
    forecast: Forecast | None = None
    reward: float | None = None


_KEPT: Mapping[str, Any] = {
    "split_bp": int, "largest_bp": int, "changed_s": int | float, "since_s": int | float | None,
    "bake_since_s": int | float | None, "confirmed": bool, "paused": bool, "frozen": bool, "reduced": bool,
    "watched": bool, "cleared": bool, "breach_ticks": int, "verdict": str, "reason": str,
}  # fmt: skip


def state_of(state: SegmentState) -> dict[str, object]:
    return {"phase": str(state.phase), **{name: getattr(state, name) for name in _KEPT}}


def restore_state(state: SegmentState, values: Mapping[str, Any]) -> None:
    state.phase = Phase(values["phase"])
    for name in _KEPT:
        if not isinstance(values[name], _KEPT[name]):
            raise TypeError(f"{name} is {values[name]!r}")
        setattr(state, name, values[name])
    if not 0 <= state.split_bp <= TOTAL_BP:
        raise ValueError(f"split of {state.split_bp} basis points")
