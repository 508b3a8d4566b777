"""The demo itself, as a person starts it: Serinus, real Envoys, shops and people, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


def test_a_canary_that_fails_every_request_is_out_of_traffic_within_three_seconds(tmp_path: Path) -> None:
    """What the demo's own verdict says, and the one number that it does not judge."""
    report = tmp_path / "summary.json"
    command = (sys.executable, "-m", "xds_server", "demo", "--fault", "crash", "--plain", "--json", str(report))
    demo = subprocess.run((*command, "--duration", "60"), capture_output=True, text=True, timeout=110, check=False)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    summary = json.loads(report.read_text())
    for segment, row in summary["segments"].items():
        assert row["outcome"] == "rolled_back", segment
        assert row["seconds_from_fault_to_zero_traffic"] <= 3.0, segment
    assert summary["failed_requests_not_the_faults_doing"] == 0
    assert summary["people_moved_back_unasked"] == 0
    assert summary["nacks"] == 0
