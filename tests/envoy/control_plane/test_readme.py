"""What the README tells people to type does what it says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.snippets import ran, with_ports

README = Path(__file__).parents[3] / "README.md"
HEADING = re.compile(r"^#+ .*attach.*$", re.IGNORECASE | re.MULTILINE)
PORTS = ("9001", "9002", "10000", "18000", "4317", "8080")


def blocks() -> dict[str, str]:
    """The first fenced block of each language below the heading about attaching an Envoy."""
    text = README.read_text()
    heading = HEADING.search(text)
    assert heading, "README.md has lost its section on attaching an Envoy"
    section = re.split(r"^#+ ", text[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    # A comment in a shell block begins like a heading, so the section is cut at the fences' own level.
    section = text[heading.end() :] if section.count("```") % 2 else section
    found: dict[str, str] = {}
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        found.setdefault(language, block)
    return found


def test_the_snippet_that_attaches_a_running_envoy_works_as_it_stands(tmp_path: Path, free_port) -> None:
    """Only the ports are changed, so that it runs beside anything else."""
    snippet = with_ports({kind: blocks()[kind] for kind in ("yaml", "sh")}, {port: str(free_port()) for port in PORTS})
    (tmp_path / "mesh.yaml").write_text(snippet["yaml"])
    with ran(snippet["sh"], tmp_path, 60) as said:
        assert "hello from v1" in said.splitlines(), said
        assert "Traceback" not in said
