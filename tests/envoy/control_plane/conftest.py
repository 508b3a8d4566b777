"""The installed `serinus run` as a process, versions that remember who asked them, and people who keep asking."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from xds_server.client import connected, plain
from xds_server.mesh import Mesh
from xds_server.pb import control_pb2 as pb
from xds_server.settings import load_mesh

SERINUS = Path(sys.executable).with_name("serinus")
READY_WITHIN_S = 30.0

MESH = """
services:
  shop:
    domains: [shop]
    port: {port}
    identity:
      - header: x-user-id
    session: {{gap: 2s, judge_after: {{error_rate: 1s, latency_p95: 1s, anomaly: 1s}}}}
    versions:
      v1: {{endpoints: ["127.0.0.1:{v1}"]}}
      v2: {{endpoints: ["127.0.0.1:{v2}"]}}
    baseline: v1
    segments:
      power: {{match: {{headers: [{{name: x-plan, exact: pro}}]}}}}
      {segments}
    rollout:
      mode: {mode}
      interval: 500ms
      warmup: {warmup}
      min_dwell: {min_dwell}
      harm: {{budget: 1000000}}
{more}
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What one run of the command line ended with."""

    code: int
    out: str
    err: str


async def run_cli(*arguments: object) -> Said:
    """Run the installed `serinus`."""
    process = await asyncio.create_subprocess_exec(
        SERINUS, *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return Said(process.returncode or 0, out.decode(), err.decode())


@dataclass(slots=True)
class Serinus:
    """A `serinus run` on ports of its own; `start` again after `kill` finds its data where they were."""

    mesh_path: Path
    data_dir: Path
    log: Path
    grpc: int
    otlp: int
    http: int
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[object, ...] = ()
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        ports = ("--grpc-port", self.grpc, "--otlp-port", self.otlp, "--http-port", self.http)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(SERINUS, "run", self.mesh_path, *map(str, (*ports, *self.options)), "--data-dir", self.data_dir),
                stdout=log, stderr=log, env={**os.environ, **self.environment},
            )  # fmt: skip
        deadline = time.monotonic() + READY_WITHIN_S
        while await self.get("/readyz") != "ready\n":
            assert self.process.returncode is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; the exit code, and how many seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), 20)
        return code, time.monotonic() - began

    async def get(self, path: str) -> str:
        """What it answers over HTTP; empty when it does not."""
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{self.http}{path}") as response:
                return await response.text()
        return ""

    async def metrics(self, name: str) -> dict[tuple[str, ...], float]:
        """One metric's values by their labels' values, in order of the labels' names."""
        found = {}
        for line in (await self.get("/metrics")).splitlines():
            if match := re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', match[1] or ""))
                found[tuple(labels[key] for key in sorted(labels))] = float(match[2])
        return found

    async def say(self, *arguments: object) -> Said:
        """Give a command to this control plane."""
        return await run_cli(*arguments, "--server", f"127.0.0.1:{self.grpc}")

    async def shop(self) -> dict[str, Any]:
        """The service's status as `serinus status --json` has it, with the nodes by name."""
        status = await self.call("GetStatus", pb.GetStatusRequest())
        return {**status["services"][0], "nodes": {node["node"]: node for node in status["nodes"]}}

    async def mesh(self) -> dict[str, Any]:
        """What `serinus status --json` says about the mesh file."""
        found: dict[str, Any] = (await self.call("GetStatus", pb.GetStatusRequest()))["mesh"]
        return found

    async def history(self) -> list[dict[str, Any]]:
        return (await self.call("GetHistory", pb.GetHistoryRequest(service="shop", limit=1_000)))["decisions"]

    async def begin(self) -> str:
        """Start the rollout of v2; its name."""
        request = pb.StartRolloutRequest(service="shop", canary="v2", who="test")
        return (await self.call("StartRollout", request))["rollout"]

    async def set(self, split_bp: int, segment: str = "") -> None:
        await self.act(pb.ACTION_SET, segment, split_bp)

    async def act(self, action: pb.Action, segment: str = "", split_bp: int = 0) -> None:
        request = pb.ActRequest(service="shop", segment=segment, action=action, split_bp=split_bp, who="test")
        await self.call("Act", request)

    async def call(self, method: str, request: object) -> Any:
        """Do as the command line does, without the time that a new process takes."""

        def ask() -> Any:
            with connected(f"127.0.0.1:{self.grpc}") as client:
                return plain(client.call(method, request))

        return await asyncio.to_thread(ask)

    async def in_force(self) -> bool:
        """Whether the newest splits are in force, on one Envoy at least."""
        status = await self.shop()
        return bool(status["in_force"]) and any(node["connected"] for node in status["nodes"].values())


class _Answers(asyncio.Protocol):
    def __init__(self, version: Version) -> None:
        self._version = version
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
            self._transport.write(self._version.answer(head))


@dataclass(slots=True)
class Version:
    """One version of the service; `status` is what it answers with. `seen`: when, and whom.

    `fails_every`: one in so many is answered with 500; 0: none.
    """

    name: str
    port: int = 0
    status: int = 200
    fails_every: int = 0
    seen: list[tuple[float, str]] = field(default_factory=list)

    def answer(self, head: bytes) -> bytes:
        found = re.search(rb"x-user-id: (\S+)", head, re.IGNORECASE)
        self.seen.append((time.monotonic(), found[1].decode() if found else ""))
        name = self.name.encode()
        status = 500 if self.fails_every and len(self.seen) % self.fails_every == 0 else self.status
        return b"HTTP/1.1 %d X\r\nx-version: %b\r\ncontent-length: 2\r\n\r\nok" % (status, name)


@contextlib.asynccontextmanager
async def versions(*names: str) -> AsyncIterator[list[Version]]:
    """Serve these versions, each on a port of its own."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        result = []
        for name in names:
            version = Version(name)
            server = await loop.create_server(lambda version=version: _Answers(version), "127.0.0.1", 0)
            stack.callback(server.close)
            version.port = server.sockets[0].getsockname()[1]
            result.append(version)
        yield result


async def visit(client: aiohttp.ClientSession, port: int, person: str, plan: str = "free") -> tuple[int, str]:
    """One request of a person: its status, and the version that answered."""
    headers = {"host": "shop", "x-user-id": person, "x-plan": plan}
    async with client.get(f"http://127.0.0.1:{port}/", headers=headers) as response:
        await response.read()
        return response.status, response.headers.get("x-version", "")


@dataclass(slots=True)
class Crowd:
    """What happened to people who kept asking. `outcomes`: how often which status, 0 for no answer at all."""

    outcomes: Counter[int] = field(default_factory=Counter)
    versions: dict[str, set[str]] = field(default_factory=dict)

    @property
    def failed_n(self) -> int:
        return sum(n for status, n in self.outcomes.items() if status != 200)


@contextlib.asynccontextmanager
async def crowd(port: int, *, rate: float = 80.0, prefix: str = "c") -> AsyncIterator[Crowd]:
    """Ever new people ask, `rate` requests a second."""
    result = Crowd()

    async def ask(client: aiohttp.ClientSession, person: str) -> None:
        try:
            status, version = await visit(client, port, person)
        except (aiohttp.ClientError, OSError):
            status, version = 0, ""
        result.outcomes[status] += 1
        result.versions.setdefault(person, set()).add(version)

    async def go() -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as client, asyncio.TaskGroup() as asking:
            began, n = time.monotonic(), 0
            while not over.is_set():
                asking.create_task(ask(client, f"{prefix}{n}"))
                n += 1
                await asyncio.sleep(max(began + n / rate - time.monotonic(), 0))

    over = asyncio.Event()
    going = asyncio.create_task(go())
    try:
        yield result
    finally:
        over.set()
        await going


@dataclass(frozen=True, slots=True)
class Stopped:
    """`people`: those on the edge, which goes on. `go_on`: lets the sidecar go on as well."""

    serinus: Serinus
    people: Crowd
    go_on: Callable[[], None]


@dataclass(slots=True)
class Place:
    """Where a test's control plane lives. `mesh`: for the Envoys' bootstraps."""

    directory: Path
    free_port: Callable[[], int]
    _started: list[Serinus] = field(default_factory=list)

    def write_mesh(
        self,
        shop: Sequence[Version],
        *,
        port: int = 0,
        mode: str = "act",
        warmup: str = "1h",
        min_dwell: str = "1h",
        gateways: Mapping[str, Mapping[str, Any]] | None = None,
        sidecars: Mapping[str, Mapping[str, Any]] | None = None,
        segments: str = "",
    ) -> tuple[Path, int]:
        """Write a mesh whose splits only people move (`min_dwell`); its path, and the sidecars' port."""
        port = port or self.free_port()
        path = self.directory / "mesh.yaml"
        more = "".join(
            f"{key}: {json.dumps(of)}\n" for key, of in (("gateways", gateways), ("sidecars", sidecars)) if of
        )
        path.write_text(
            MESH.format(
                port=port, v1=shop[0].port, v2=shop[1].port, mode=mode, warmup=warmup, min_dwell=min_dwell,
                more=more, segments=segments,
            )
        )  # fmt: skip
        return path, port

    def mesh(self) -> Mesh:
        return load_mesh(self.directory / "mesh.yaml")

    @contextlib.asynccontextmanager
    async def serinus(self, *options: object, environment: Mapping[str, str] | None = None) -> AsyncIterator[Serinus]:
        """Run a control plane on the mesh that has been written."""
        ports = [self.free_port() for _ in range(3)]
        here = self.directory
        result = Serinus(here / "mesh.yaml", here / "data", here / "serinus.log", *ports, environment or {}, options)
        try:
            await result.start()
            yield result
        finally:
            if result.process is not None and result.process.returncode is None:
                result.process.kill()
                await result.process.wait()
        assert "Traceback" not in result.log.read_text(), result.log.read_text()

    @contextlib.asynccontextmanager
    async def stopped_sidecar(self, rig: Any, shop: Sequence[Version], **mesh: Any) -> AsyncIterator[Stopped]:
        """A rollout that has begun, with people on an edge, and a sidecar that has carried traffic and stands still."""
        edge = self.free_port()
        gateways = {"edge": {"listen": f"127.0.0.1:{edge}", "services": ["shop"]}}
        _, port = self.write_mesh(shop, gateways=gateways, **mesh)
        async with (
            self.serinus() as serinus,
            rig.envoy(self.mesh(), "side-1", serinus.grpc) as stopped,
            rig.envoy(self.mesh(), "edge", serinus.grpc),
            crowd(edge) as people,
        ):
            await serinus.begin()
            await rig.eventually(serinus.in_force, "the rollout's first routes")
            async with crowd(port, prefix="s"):
                await asyncio.sleep(1.5)
            stopped.process.send_signal(signal.SIGSTOP)
            yield Stopped(serinus, people, lambda: stopped.process.send_signal(signal.SIGCONT))

    cli = staticmethod(run_cli)
    versions = staticmethod(versions)
    crowd = staticmethod(crowd)
    visit = staticmethod(visit)
    binary = SERINUS


@pytest.fixture
def place(tmp_path: Path, free_port: Callable[[], int]) -> Place:
    return Place(tmp_path, free_port)
