"""What is said of the suite is so: it shares no code with what it tests, and every row is documented."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conformance.rows import BEHAVIOURS, SCENARIOS

HERE = Path(__file__).parent
OURS = {"analysis", "benchmarks", "xds_server"}


def test_nothing_here_imports_the_server() -> None:
    for path in HERE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.partition(".")[0] for name in names} & OURS, f"{path.name}: {names}"


def test_every_row_is_documented() -> None:
    page = (HERE.parents[1] / "docs" / "conformance.md").read_text()
    rows = [*SCENARIOS.values(), *(row for rows in BEHAVIOURS.values() for row in rows)]
    assert [row for row in rows if f"| {row} |" not in page] == []
