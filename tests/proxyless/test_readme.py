"""What the README tells people to type about gRPC does what it says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.ports import free_port
from tests.snippets import ran, with_ports

README = Path(__file__).parents[2] / "README.md"
PORTS = ("9011", "9012", "18001", "4319", "8081")


def blocks() -> dict[str, str]:
    """The fenced blocks of the section, by language."""
    text = README.read_text()
    section = text[text.index("### Proxyless gRPC") : text.index("## What it decides")]
    return dict(re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


def test_the_snippet_about_grpc_works_as_it_stands(tmp_path: Path) -> None:
    """Only the ports are changed, so that it runs beside anything else."""
    found = blocks()
    snippet = with_ports({kind: found[kind] for kind in ("yaml", "sh")}, {port: str(free_port()) for port in PORTS})
    (tmp_path / "greeter.yaml").write_text(snippet["yaml"])
    (tmp_path / "greeter.py").write_text(found["python"])
    with ran(snippet["sh"], tmp_path, 90) as text:
        first, drawn, person, others = [line for line in text.splitlines() if re.match(r"\d+ from v", line)]
        assert (first, person, others) == ("100 from v1", "100 from v2", "100 from v1"), text
        counts = dict(reversed(pair) for pair in re.findall(r"(\d+) from (v\d)", drawn))
        assert counts.keys() == {"v1", "v2"}, text
        assert 20 < int(counts["v2"]) < 80, text  # six standard deviations
        assert "Traceback" not in text
