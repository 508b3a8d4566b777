"""What a document tells people to type, run as it stands."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


def with_ports(blocks: Mapping[str, str], ports: Mapping[str, str]) -> dict[str, str]:
    """The blocks with other ports in them, so that they run beside anything else; each of `ports` must be there."""
    known = re.compile(r"\b(" + "|".join(ports) + r")\b")
    changed = {kind: known.sub(lambda match: ports[match[1]], block) for kind, block in blocks.items()}
    together = "".join(changed.values())
    assert all(port in together for port in ports.values()), "a port of the snippet has changed: name it in PORTS"
    return changed


@contextlib.contextmanager
def ran(script: str, directory: Path, within_s: float) -> Iterator[str]:
    """What a script has said when it has ended well; what it has started in the background goes on meanwhile."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    out = directory / "out.txt"
    with out.open("wb") as stream:
        shell = subprocess.Popen(
            ("bash", "-eu", "-c", script), cwd=directory, env={**os.environ, "PATH": path}, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        assert shell.wait(within_s) == 0, out.read_text()
        yield out.read_text()
    finally:
        os.killpg(shell.pid, signal.SIGKILL)  # what it has started in the background belongs to its group
