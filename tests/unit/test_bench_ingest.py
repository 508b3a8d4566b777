"""The benchmark of access logs runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_way_takes_every_entry_and_what_is_too_much_is_counted(tmp_path: Path) -> None:
    command = "-m benchmarks.ingest --seconds 1 --repetitions 1 --overload-seconds 3"
    report = tmp_path / "report.json"
    ran = subprocess.run(
        [sys.executable, *command.split(), "--json", str(report)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    data = json.loads(report.read_text())
    assert len(data["costs"]) == 5
    assert all(cost["per_s"] > 1_000 for cost in data["costs"])
    for phase in data["overload"]["phases"]:
        assert phase["offered_n"] == phase["decoded_n"] + phase["given_up_n"]
        assert phase["pushes_ms"]
