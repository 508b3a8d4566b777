"""The server under test: the installed `serinus run`, steered as its users steer it, by its mesh file and its verbs."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.ports import free_port

SERINUS = Path(sys.executable).with_name("serinus")
READY_S: Final = 60.0
ADOPTED_S: Final = 20.0

CHANGES: Final = ("CDS", "EDS", "LDS", "RDS")
"""Types of which one resource can be changed alone; each by another key of its service."""


def name_of(kind: str, letter: str) -> str:
    """What the resource of one service is called, as the documentation of the mesh file says."""
    return f"{letter}|v1" if kind in ("CDS", "EDS") else f"sidecar|{_port(letter)}"


def names_of(kind: str, letters: Iterable[str]) -> set[str]:
    return {name_of(kind, letter) for letter in letters}


def _port(letter: str) -> int:
    return 20_000 + ord(letter[0]) * 10 + len(letter)


@dataclass
class Service:
    """One service of the mesh: a listener, a route configuration, and a cluster with endpoints for each version.

    `endpoint`: where somebody really is, for all versions; without it nobody is. `port`: where sidecars listen, if it
    matters.
    """

    letter: str
    revisions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHANGES, 1))
    versions: tuple[str, ...] = ("v1",)
    endpoint: str = ""
    port: int = 0

    def change(self, *kinds: str) -> None:
        for kind in kinds:
            self.revisions[kind] += 1

    @property
    def is_plain(self) -> bool:
        return (self.versions, self.endpoint, self.port) == (("v1",), "", 0)

    def as_mesh(self) -> dict[str, Any]:
        number, revision = self.port or _port(self.letter), self.revisions
        return {
            "domains": [f"{self.letter.lower()}.test"],
            "port": number,
            "identity": [{"header": "x-user-id"}],
            "idle_timeout": f"{60 + revision['LDS']}s",
            "routes": [{"prefix": "/", "timeout": f"{10 + revision['RDS']}s"}],
            "versions": {
                version: {
                    "endpoints": [self.endpoint or f"127.0.0.{1 + n}:{10_000 + revision['EDS']}"],
                    "health": {"path": "/healthz", "interval": f"{10 + revision['CDS'] % 500}s"},
                }
                for n, version in enumerate(self.versions)
            },
            "baseline": self.versions[0],
            "rollout": {"interval": "500ms", "warmup": "1h", "min_dwell": "1h", "harm": {"budget": 1_000_000}},
        }


class Server:
    """A `serinus run` on ports of its own. `services`: what the mesh file says, by letter."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.services: dict[str, Service] = {}
        self._seen: dict[str, Service] = {}
        self._served = ""
        self.more: dict[str, Any] = {}
        self.grpc, self.otlp, self.http = (free_port() for _ in range(3))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "serinus.log"

    # --- life

    def start(self, *letters: str) -> None:
        """Run it, on a mesh of these services if any are given."""
        if letters:
            self.services = {letter: Service(letter) for letter in letters}
        self._write()
        ports = ("--grpc-port", self.grpc, "--otlp-port", self.otlp, "--http-port", self.http)
        command = [SERINUS, "run", self.mesh_path, *map(str, ports), "--data-dir", self.directory / "data"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._until(lambda: self._get("/readyz") == "ready\n", READY_S)

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    # --- the mesh

    def set_up(self, *letters: str, **more: Any) -> None:
        """A mesh of exactly these services, all of them plain. What has changed before stays so."""
        self.services, self.more = {letter: self._plain(letter) for letter in letters}, more
        if self._text() != self._served:
            self.reload()

    def _plain(self, letter: str) -> Service:
        """A service as it was when it was last there."""
        self._seen |= self.services
        known = self._seen.get(letter)
        return known if known is not None and known.is_plain else Service(letter)

    def update(self, kind: str, *letters: str) -> None:
        """Change the resources of one type of these services, and nothing else."""
        for letter in letters:
            self.services[letter].change(kind)
        self.reload()

    def add(self, letter: str, *changed: str) -> None:
        """Add a service; these types of its resources are others than when it was last there."""
        service = self._plain(letter)
        service.change(*changed)
        self.services[letter] = service
        self.reload()

    def remove(self, *letters: str) -> None:
        for letter in letters:
            self._seen[letter] = self.services.pop(letter)
        self.reload()

    def reload(self) -> None:
        """Write the mesh file and have it read; when this returns it is served."""
        assert self.process is not None
        before = self._adopted_n()
        self._write()
        self.process.send_signal(signal.SIGHUP)
        self._until(lambda: self._adopted_n() > before, ADOPTED_S)
        self._served = self._text()

    @property
    def mesh_path(self) -> Path:
        return self.directory / "mesh.yaml"

    def _text(self) -> str:
        """The mesh file. JSON is YAML."""
        services = {letter: service.as_mesh() for letter, service in self.services.items()}
        return json.dumps({"services": services, **self.more}, indent=1)

    def _write(self) -> None:
        """In one piece, as editors and Kubernetes do."""
        fresh = self.mesh_path.with_suffix(".new")
        fresh.write_text(self._text())
        fresh.replace(self.mesh_path)

    # --- what anybody can see and say

    def say(self, *arguments: object) -> str:
        """Give a command; what it printed."""
        command = [SERINUS, *map(str, arguments), "--server", f"127.0.0.1:{self.grpc}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values where the labels are these; 0 if there are none."""
        total = 0.0
        for line in self._get("/metrics").splitlines():
            if found := re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line):
                has = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or ""))
                total += float(found[2]) if labels.items() <= has.items() else 0.0
        return total

    def memory_mb(self) -> float:
        """Resident memory."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1_024 if found else 0.0

    def _adopted_n(self) -> float:
        return self.metric("serinus_mesh_reads_total", result="adopted")

    def _get(self, path: str) -> str:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}") as answer:
            return str(answer.read().decode())
        return ""

    def _until(self, check: Callable[[], bool], within_s: float) -> None:
        assert self.process is not None
        deadline = time.monotonic() + within_s
        while not check():
            last = self.log.read_text()[-2_000:]
            assert self.process.poll() is None, last
            assert time.monotonic() < deadline, f"not within {within_s} s:\n{last}"
            time.sleep(0.01)
