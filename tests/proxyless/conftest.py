"""gRPC's own xDS client in a process of its own, a control plane here, and servers that answer with their version.

The fixture `rig` has all of them as functions; each part is an `async with`, so that a test is one plain function
around `asyncio.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from xds_server.ads.cache import AdsCache, Rejection
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.grpc_bootstrap import grpc_bootstrap
from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.settings import parse_mesh

CLIENT = Path(__file__).with_name("client.py")
DEADLINE_S = 10.0
NO_METADATA: tuple[tuple[str, str], ...] = ()

Metadata = Sequence[tuple[str, str]]


async def wait_until(check: Callable[[], Awaitable[bool]], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Poll until `check` is true, or fail naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not await check():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


# --- The versions of the service


@dataclass(slots=True)
class Greeter:
    """One version's server. `pause_s`: how long it thinks; `failures`: RPCs still to fail; `seen_n`: RPCs so far."""

    version: str
    port: int = 0
    pause_s: float = 0.0
    failures: int = 0
    seen_n: int = 0

    async def greet(self, _: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.seen_n += 1
        if self.failures:
            self.failures -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as asked")
        await asyncio.sleep(self.pause_s)
        return self.version.encode()


@contextlib.asynccontextmanager
async def greeter(version: str) -> AsyncIterator[Greeter]:
    """Answer every RPC with the version's name."""
    result = Greeter(version)
    server = grpc.aio.server()
    methods = dict.fromkeys(("Greet", "Part", "More"), grpc.unary_unary_rpc_method_handler(result.greet))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Greeter", methods),))
    result.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield result
    finally:
        await server.stop(None)


# --- The control plane


@dataclass(slots=True)
class ControlPlane:
    port: int
    cache: AdsCache
    rejections: list[Rejection] = field(default_factory=list)


@contextlib.asynccontextmanager
async def control_plane(port: int = 0) -> AsyncIterator[ControlPlane]:
    """Serve ADS in this process; the port is the system's choice."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    plane = ControlPlane(port, AdsCache())
    plane.cache.on_rejection = plane.rejections.append
    add_ads(server, plane.cache)
    plane.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield plane
    finally:
        await server.stop(None)


# --- The client


@dataclass(frozen=True, slots=True)
class Said:
    answers: list[str]
    details: str
    seconds: float

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.answers)


@dataclass(frozen=True, slots=True)
class Tally:
    """Of a load. `first`, `last`: when, by `time.monotonic`, the first and the last RPC with an answer began."""

    answers: Mapping[str, int]
    details: Mapping[str, int]
    first: Mapping[str, float]
    last: Mapping[str, float]

    def failed(self, *versions: str) -> dict[str, int]:
        """Answers that no version gave."""
        return {answer: n for answer, n in self.answers.items() if answer not in versions}


@dataclass(slots=True)
class Client:
    """An application in a process of its own."""

    process: asyncio.subprocess.Process
    log: Path

    async def ask(
        self,
        target: str = "shop",
        metadata: Metadata = NO_METADATA,
        *,
        n: int = 1,
        each: Iterable[Metadata] | None = None,
        timeout_s: float = 5.0,
        method: str = "/test.Greeter/Greet",
    ) -> Said:
        """Call `n` times with this metadata, or once with each."""
        sent = [metadata] * n if each is None else list(each)
        return Said(**await self._do("ask", target=target, each=sent, timeout_s=timeout_s, method=method))

    async def close(self, target: str) -> None:
        await self._do("close", target=target)

    async def load(self, target: str = "shop", workers: int = 4) -> None:
        await self._do("load", target=target, workers=workers)

    async def tally(self, *, stop: bool = False) -> Tally:
        return Tally(**await self._do("tally", stop=stop))

    async def _do(self, what: str, **how: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, **how}).encode() + b"\n")
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        assert line, self.log.read_text()
        return dict(json.loads(line))


@dataclass(slots=True)
class Rig:
    """Everything that a test needs."""

    directory: Path
    _started_n: int = 0

    greeter = staticmethod(greeter)
    control_plane = staticmethod(control_plane)
    eventually = staticmethod(wait_until)

    @contextlib.asynccontextmanager
    async def client(
        self, xds_port: int, *, node: str = "app-1", says_why: bool = True, edit: Callable[[Any], None] = lambda _: None
    ) -> AsyncIterator[Client]:
        """Start an application. `says_why`: with gRPC's experimental handling of errors that the server reports."""
        config = grpc_bootstrap(node, xds=("127.0.0.1", xds_port))
        edit(config)
        env = {
            **os.environ,
            "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(config),
            "GRPC_EXPERIMENTAL_XDS_DATA_ERROR_HANDLING": str(says_why).lower(),
        }
        self._started_n += 1
        log = self.directory / f"client-{self._started_n}.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(CLIENT)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=env,
                limit=1 << 24,
            )
        try:
            yield Client(process, log)
        finally:
            process.kill()
            await process.wait()

    @staticmethod
    def mesh(*versions: Greeter, segments: str = "", more: str = "", host: str = "127.0.0.1") -> Mesh:
        """The service `shop`; the first version is its baseline."""
        named = ", ".join(f'{each.version}: {{endpoints: ["{host}:{each.port}"]}}' for each in versions)
        text = f"""
services:
  shop:
    domains: [shop, shop.example]
    port: 10000
    identity: [{{header: x-user-id}}]
    versions: {{{named}}}
    baseline: {versions[0].version}
    {f"segments: {{{segments}}}" if segments else ""}
    {more}
"""
        return parse_mesh(text, "mesh.yaml")

    @staticmethod
    def splits(generation: int = 1, *, canary: str = "v2", **segments: int) -> dict[str, ServiceSplits]:
        """Give the canary these shares, in basis points, of the segments of `shop`."""
        named = {name: SegmentSplit(baseline="v1", canary=canary, canary_bp=bp) for name, bp in segments.items()}
        return {"shop": ServiceSplits(rollout="shop-1", generation=generation, segments=named)}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)
