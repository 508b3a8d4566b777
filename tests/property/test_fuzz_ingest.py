"""Atheris, for a few seconds, from real messages on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ingest.workload import messages

ROOT = Path(__file__).parents[2]
SECONDS = 8


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="Atheris has no wheel for this machine")
def test_nothing_that_a_fuzzer_finds_is_raised(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i, message in enumerate(messages(4, per_message=2, requests_per_s=100, start_s=1_700_000_000)):
        (corpus / str(i)).write_bytes(b"\0" + message)
    command = ["-m", "tests.property.fuzz_ingest", f"-max_total_time={SECONDS}", "-rss_limit_mb=2048", str(corpus)]
    ran = subprocess.run(
        [sys.executable, *command, f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "Done" in ran.stderr
