"""What the README tells people to type about gRPC does what it says."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
PORTS = ("9011", "9012", "18001", "4319", "8081")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def blocks() -> dict[str, str]:
    """The fenced blocks of the section, by language."""
    text = README.read_text()
    section = text[text.index("### Proxyless gRPC") : text.index("## What it decides")]
    return dict(re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


def test_the_snippet_about_grpc_works_as_it_stands(tmp_path: Path) -> None:
    """Only the ports are changed, so that it runs beside anything else."""
    ports = {port: free_port() for port in PORTS}
    changed = re.compile(r"\b(" + "|".join(PORTS) + r")\b")
    mesh, code, script = (
        changed.sub(lambda match: ports[match[1]], blocks()[kind]) for kind in ("yaml", "python", "sh")
    )
    assert all(port in mesh + script for port in ports.values()), "a port of the snippet has changed: name it in PORTS"
    (tmp_path / "greeter.yaml").write_text(mesh)
    (tmp_path / "greeter.py").write_text(code)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    out = tmp_path / "out.txt"
    with out.open("wb") as stream:
        shell = subprocess.Popen(
            ("bash", "-eu", "-c", script), cwd=tmp_path, env={**os.environ, "PATH": path}, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        assert shell.wait(90) == 0, out.read_text()
        text = out.read_text()
        first, drawn, person, others = [line for line in text.splitlines() if re.match(r"\d+ from v", line)]
        assert (first, person, others) == ("100 from v1", "100 from v2", "100 from v1"), text
        counts = dict(reversed(pair) for pair in re.findall(r"(\d+) from (v\d)", drawn))
        assert counts.keys() == {"v1", "v2"}, text
        assert 20 < int(counts["v2"]) < 80, text  # six standard deviations
        assert "Traceback" not in text
    finally:
        os.killpg(shell.pid, signal.SIGKILL)  # what it has started in the background belongs to its group
