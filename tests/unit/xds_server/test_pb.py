"""The generated code is what the .proto files say."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_committed_generated_code_equals_a_fresh_make_proto(tmp_path: Path) -> None:
    """Nobody edited it by hand, nobody forgot `make proto`."""
    recipe = subprocess.run(
        ["make", "--dry-run", "proto"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout.replace("\\\n", " ")
    commands = [shlex.split(line) for line in recipe.splitlines() if "grpc_tools.protoc" in line]
    assert commands
    for _, *arguments in commands:
        redirected = [argument.replace("_out=.", f"_out={tmp_path}") for argument in arguments]
        subprocess.run([sys.executable, *redirected], cwd=ROOT, timeout=60, check=True)
    fresh = {file.name: file.read_text() for file in (tmp_path / "xds_server" / "pb").iterdir()}
    committed = {file.name: file.read_text() for file in (ROOT / "xds_server" / "pb").glob("*_pb2*.py*")}
    assert fresh.keys() == committed.keys()
    for name, text in fresh.items():
        assert text == committed[name], f"{name} is stale: run `make proto`"
