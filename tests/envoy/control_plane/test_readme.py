"""What the README tells people to type does what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

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
    ports = {port: str(free_port()) for port in PORTS}
    changed = re.compile(r"\b(" + "|".join(PORTS) + r")\b")
    mesh, script = (changed.sub(lambda match: ports[match[1]], blocks()[kind]) for kind in ("yaml", "sh"))
    assert all(port in mesh + script for port in ports.values()), "a port of the snippet has changed: name it in PORTS"
    (tmp_path / "mesh.yaml").write_text(mesh)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    out = tmp_path / "out.txt"
    with out.open("wb") as stream:
        shell = subprocess.Popen(
            ("bash", "-eu", "-c", script), cwd=tmp_path, env={**os.environ, "PATH": path}, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        assert shell.wait(60) == 0, out.read_text()
        assert "hello from v1" in out.read_text().splitlines(), out.read_text()
        assert "Traceback" not in out.read_text()
    finally:
        os.killpg(shell.pid, signal.SIGKILL)  # what it has started in the background belongs to its group
