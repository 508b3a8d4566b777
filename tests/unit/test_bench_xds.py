"""The xDS benchmark runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_few_streams_are_pushed_to_and_storm(tmp_path: Path) -> None:
    """Each stream starts as an Envoy does, gets its pushes and ACKs them; nothing but Go may be missing."""
    command = "-m benchmarks.xds --variants sotw --services 1 --streams 3 5 --repetitions 2 --storm-streams 5 --no-gcp"
    report = tmp_path / "report.json"
    ran = subprocess.run(
        [sys.executable, *command.split(), "--json", str(report)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    data = json.loads(report.read_text())
    shown = {(cell["column"], cell["streams"]): cell for cell in data["pushes"] if not cell["skipped"]}
    assert shown.keys() == {("floor", 3), ("floor", 5), ("serinus", 3), ("serinus", 5)}
    for cell in shown.values():
        assert 0 < cell["publish_ms"]["median"] < cell["seen_ms"]["median"]
        assert cell["bytes"]["median"] == pytest.approx(shown["serinus", 5]["bytes"]["median"], abs=2)
    storm = next(storm for storm in data["storms"] if storm["column"] == "serinus")
    assert all(run["served"] == 5 for run in storm["runs"])
    assert {goal["passed"] for goal in data["goals"]} <= {True, False, None}
