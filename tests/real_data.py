"""Where the real data lie that tests read: never in the repository (benchmarks/README.md says where they come from)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def real_data(name: str) -> Path:
    """The file of this name in `SERINUS_DATA`, else in ../shared/data; skips where neither is given nor there."""
    asked_for = os.environ.get("SERINUS_DATA")
    path = Path(asked_for or ROOT.parent / "shared" / "data") / name
    if path.exists():
        return path
    if asked_for:
        pytest.fail(f"SERINUS_DATA is {asked_for}, and has no {name}")
    pytest.skip(f"no real data: set SERINUS_DATA to the folder that has {name}")
