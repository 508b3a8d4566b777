"""Parts of many deployments, which figures are given of by themselves."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from enum import StrEnum


class Split(StrEnum):
    """How figures are given in parts as well, so that what a judge was tuned on can be told from what it was not."""

    NONE = "none"
    HASH = "hash"
    DAY = "day"


def part(case: str, started_unix_s: float, split: Split) -> str:
    """Which part a deployment belongs to: its case's half by hash, or the day (UTC) on which it began."""
    match split:
        case Split.NONE:
            return "all"
        case Split.HASH:
            return ("train", "test")[hashlib.sha256(f"split:{case}".encode()).digest()[0] & 1]
        case Split.DAY:
            return datetime.fromtimestamp(started_unix_s, UTC).date().isoformat()
