"""Data that nobody here made: in SERINUS_DATA, else beside the repository (benchmarks/README.md says where from)."""

from __future__ import annotations

import lzma
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_LINE = re.compile(r'^(\S+) \S+ \S+ \[([^\]]+)\] "(\S+) (\S+)[^"]*" (\d+) (\S+) "[^"]*" "([^"]*)"$')


def real_data(name: str) -> Path:
    """The file of that name. Where nobody says that it must be there, its absence skips the test."""
    said = os.environ.get("SERINUS_DATA")
    path = Path(said) / name if said else ROOT.parent / "shared" / "data" / name
    if not path.exists():
        if said:
            pytest.fail(f"SERINUS_DATA is set, and {path} is not there")
        pytest.skip(f"{name} is not here: set SERINUS_DATA to a folder that has it")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One line of a combined log. A visitor is an address with a user agent."""

    unix_s: float
    address: str
    agent: str
    method: str
    path: str
    status: int

    @property
    def visitor(self) -> str:
        return f"{self.address} {self.agent}"


def apache_hits() -> list[Hit]:
    """The 9,999 readable lines of the Apache log (one is cut off), oldest first."""
    with lzma.open(real_data("apache_access_log.xz"), "rt", encoding="utf-8", errors="replace") as lines:
        found = [_LINE.match(line.rstrip("\n")) for line in lines]
    hits = [
        Hit(
            unix_s=datetime.strptime(match[2], "%d/%b/%Y:%H:%M:%S %z").timestamp(),
            address=match[1], agent=match[7], method=match[3], path=match[4], status=int(match[5]),
        )
        for match in found
        if match is not None
    ]  # fmt: skip
    return sorted(hits, key=lambda hit: hit.unix_s)
