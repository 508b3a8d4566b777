"""What the tables and their columns are called, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

ARMS: Final = ("baseline", "canary")
SESSIONS: Final = "serinus.sessions"
PER_SEGMENT: Final[Mapping[str, str]] = MappingProxyType(
    {"serinus.split_bp": "split_bp", "serinus.suspicion": "suspicion", "serinus.log_e": "log_e"}
)
"""Values by tick and segment that are no KPI, by the name that they have in the column `kpi`: fields of a record."""

ROLLOUTS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "rollout": str,
        "service": str,
        "baseline": str,
        "canary": str,
        "started_unix_s": float,
        "interval_s": float,
        "label": str,
        "labelled_by": str,
        "label_reason": str,
        "segments": str,
        "kpis": str,
    }
)
SERIES: Final[Mapping[str, type]] = MappingProxyType(
    {
        "rollout": str,
        "at_s": float,
        "segment": str,
        "arm": str,
        "kpi": str,
        "n": int,
        "bad": int,
        "value": float,
        "source": str,
    }
)
DECISIONS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "rollout": str,
        "at_s": float,
        "segment": str,
        "verdict": str,
        "tier": str,
        "split_before_bp": int,
        "split_after_bp": int,
        "reason": str,
        "who": str,
    }
)
ATTRIBUTE: Final = "attribute."
OUTCOME: Final = "outcome."
