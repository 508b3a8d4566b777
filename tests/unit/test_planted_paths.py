"""The planted click paths are what their generator makes: fixed beforehand, and not touched since."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

PLANTED = Path(__file__).parents[1] / "data" / "planted"


@pytest.mark.parametrize("kind", ["loops", "jumps", "cut_short"])
def test_planted_paths_are_as_made(kind: str) -> None:
    assert (PLANTED / f"{kind}.txt").read_text(encoding="ascii") == runpy.run_path(str(PLANTED / "make.py"))["text"](
        kind
    )
