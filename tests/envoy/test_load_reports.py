"""Real Envoys' load reports beside their access logs: whatever becomes of requests, nothing seems lost that is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc.aio
import pytest
from aiohttp import web

from analysis.evidence.log_loss import LAG_S, LogCheck, LogLoss
from tests.envoy.relay import relay
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.ingest import Ingest
from xds_server.ingest.als import add_als
from xds_server.ingest.lrs import add_lrs
from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.settings import parse_mesh

log = logging.getLogger(__name__)

MESH = """
services:
  shop:
    domains: [shop]
    port: {shop}
    identity: [{{header: x-user-id}}]
    routes: [{{prefix: /slow, timeout: 300ms}}, {{prefix: /again, retries: 2}}, {{prefix: /}}]
    versions:
      v1: {{endpoints: ["{host}:{upstream}"]{health}}}
      v2: {{endpoints: ["{host}:{upstream}"]{health}}}
    baseline: v1
  dead:
    domains: [dead]
    port: {shop}
    identity: [{{header: x-user-id}}]
    routes: [{{prefix: /again, retries: 2}}, {{prefix: /}}]
    versions:
      v1: {{endpoints: ["127.0.0.1:{nothing}"]}}
    baseline: v1
"""


class Upstream:
    """Answers as the path says."""

    def __init__(self) -> None:
        self._asked: Counter[str] = Counter()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        person = request.headers.get("x-user-id", "")
        self._asked[person] += 1
        match request.path:
            case "/slow" | "/long":
                await asyncio.sleep(1)
            case "/again":
                return web.Response(status=503 if self._asked[person] == 1 else 200)
            case "/fail":
                return web.Response(status=503)
            case "/cut":
                assert request.transport is not None
                request.transport.abort()
            case "/stream":
                stream = web.StreamResponse()
                await stream.prepare(request)
                with contextlib.suppress(OSError):
                    for _ in range(6):
                        await stream.write(b"x")
                        await asyncio.sleep(0.5)
                return stream
        return web.Response()


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", Upstream().answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@dataclass(slots=True)
class Plane:
    """A control plane in this process that serves one mesh, and what came in."""

    ingest: Ingest
    cache: AdsCache
    port: int
    shop: int
    values: dict[str, Any]
    mesh: Mesh

    def publish(self, **changes: Any) -> None:
        """Serve the mesh with these values."""
        self.values |= changes
        self.mesh = parse_mesh(MESH.format(**self.values), "mesh.yaml")
        half = SegmentSplit(baseline="v1", canary="v2", canary_bp=5_000)
        whole = SegmentSplit(baseline="v1")
        splits = {
            name: ServiceSplits(rollout="r", generation=1, segments={"default": split})
            for name, split in (("shop", half), ("dead", whole))
        }
        self.cache.publish(self.mesh, splits)

    def found(self, service: str = "shop") -> LogCheck:
        return self.ingest.log_check(service)

    async def compared(self, n: int, service: str = "shop") -> LogLoss:
        """The loss once so many requests have been compared."""
        async with asyncio.timeout(20):
            while not (isinstance(total := self.found(service).total, LogLoss) and total.n >= n):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return total

    async def complete(self, n: int) -> LogLoss:
        """The loss once so many requests have been compared and the last entries are here; claimed is none before."""
        async with asyncio.timeout(20):
            while (loss := await self.compared(n)).lost:
                assert loss.least == 0, loss
                await asyncio.sleep(0.05)
        return loss


@contextlib.asynccontextmanager
async def plane(rig: Any, upstream_port: int) -> AsyncIterator[Plane]:
    values = {"shop": rig.free_port(), "nothing": rig.free_port(), "upstream": upstream_port}
    values |= {"host": "127.0.0.1", "health": ""}
    mesh = parse_mesh(MESH.format(**values), "mesh.yaml")
    ingest, cache = Ingest(mesh, user_hash_key=b"secret", queue_limit=10_000), AdsCache()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    end = asyncio.Event()
    add_ads(server, cache)
    add_als(server, ingest, until=end)
    add_lrs(server, ingest, rolling=lambda: ("shop", "dead"), until=end)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        result = Plane(ingest, cache, port, values["shop"], values, mesh)
        result.publish()
        yield result
    finally:
        end.set()
        await server.stop(0.2)


async def ask(
    port: int,
    path: str,
    *,
    n: int = 100,
    host: str = "shop",
    timeout_s: float = 10,
    prefix: str = "",
    at_once: int = 100,
) -> Counter[int]:
    """Ask as so many people; how often which status, 0 for a client that left."""
    statuses: Counter[int] = Counter()

    async def one(client: aiohttp.ClientSession, person: str) -> None:
        headers = {"host": host, "x-user-id": person}
        try:
            async with client.get(f"http://127.0.0.1:{port}{path}", headers=headers) as response:
                await response.read()
                statuses[response.status] += 1
        except (TimeoutError, aiohttp.ClientError):
            statuses[0] += 1

    connector, timeout = aiohttp.TCPConnector(limit=at_once), aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client, asyncio.TaskGroup() as asking:
        for i in range(n):
            asking.create_task(one(client, f"{prefix or path}-{i}"))
    return statuses


async def begin(plane: Plane) -> None:
    """Have the Envoy compared: traffic until its reports are counted."""
    async with asyncio.timeout(20):
        while not plane.found().nodes:
            await ask(plane.shop, "/", n=20)
            await asyncio.sleep(0.5)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds_server.ingest.lrs.INTERVAL_S", LAG_S * 1.2)


def test_whatever_becomes_of_requests_none_seems_lost(rig: Any) -> None:
    async def scenario() -> None:
        async with (
            upstream() as upstream_port,
            plane(rig, upstream_port) as here,
            rig.envoy(here.mesh, "side-1", here.port) as envoy,
        ):
            await begin(here)
            before = here.found().total.n
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ask(here.shop, "/"))
                tasks.create_task(ask(here.shop, "/fail"))
                again = tasks.create_task(ask(here.shop, "/again", at_once=3))  # Envoy tries 3 again at once
                tasks.create_task(ask(here.shop, "/cut", n=30))
                tasks.create_task(ask(here.shop, "/slow", n=30))
                left = tasks.create_task(ask(here.shop, "/long", n=30, timeout_s=0.3))
                tasks.create_task(ask(here.shop, "/stream", n=30))
                tasks.create_task(ask(here.shop, "/stream", n=30, timeout_s=1.2, prefix="leaves"))
            assert again.result()[200] > 50, "most were tried again"
            assert left.result() == {0: 30}
            loss = await here.complete(before + 450)
            log.info("all kinds: %s", loss)
            assert loss.least == 0
            assert loss.most < 0.6 * loss.n  # of requests that were tried again little is known
            issued = await envoy.stats("shop.*external.upstream_rq_completed|shop.*upstream_rq_total")
            assert sum(value for name, value in issued.items() if name.endswith("rq_total")) >= loss.n

    asyncio.run(scenario())


def test_requests_that_never_reach_an_upstream_hide_nothing_of_those_that_do(rig: Any) -> None:
    async def scenario() -> None:
        async with (
            upstream() as upstream_port,
            plane(rig, upstream_port) as here,
            rig.envoy(here.mesh, "side-1", here.port),
        ):
            await begin(here)
            for _ in range(3):
                await ask(here.shop, "/", host="dead", n=30)
                await ask(here.shop, "/again", host="dead", n=30)
                await ask(here.shop, "/", host="nobody", n=30)
                await ask(here.shop, "/", n=60)
                await asyncio.sleep(LAG_S)
            loss = await here.complete(150)
            assert (loss.least, loss.nodes) == (0, 1)
            assert here.found("dead").nodes == 0, "nothing was ever issued"

    asyncio.run(scenario())


def test_hosts_and_clusters_that_are_replaced_under_load_lose_nothing(rig: Any) -> None:
    """What is in progress then vanishes from the reports, and is logged when it ends."""

    async def scenario() -> None:
        async with (
            upstream() as upstream_port,
            plane(rig, upstream_port) as here,
            rig.envoy(here.mesh, "side-1", here.port),
        ):
            await begin(here)
            changes: tuple[dict[str, str], ...] = (
                {"host": "127.0.0.2"},
                {"health": ", health: {path: /, interval: 200ms}"},
            )
            for change in changes:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(ask(here.shop, "/stream", n=60, prefix=str(change)))
                    await asyncio.sleep(1.5)
                    here.publish(**change)
                    for _ in range(4):
                        await ask(here.shop, "/", n=30)
                        await asyncio.sleep(0.4)
                        assert not isinstance(total := here.found().total, LogLoss) or total.least == 0, total
                assert (await here.compared(100)).least == 0
            await asyncio.sleep(2 * LAG_S)
            assert (await here.compared(250)).least == 0

    asyncio.run(scenario())


def test_an_envoy_and_a_stream_that_begin_anew_are_compared_anew(rig: Any) -> None:
    def without_reports(config: dict[str, Any]) -> None:
        del config["cluster_manager"]

    async def scenario() -> None:
        async with upstream() as upstream_port, plane(rig, upstream_port) as here:
            async with rig.envoy(here.mesh, "side-1", here.port, edit=without_reports):
                await ask(here.shop, "/", n=200)
                await asyncio.sleep(2 * LAG_S)
                assert (here.found().nodes, here.ingest.loads.nodes) == (0, frozenset()), "it logs, and does not report"
                assert here.ingest.accepted()["shop"] == 200
            async with rig.envoy(here.mesh, "side-1", here.port):
                await begin(here)
                await ask(here.shop, "/", n=200)
                assert (await here.complete(150)).least == 0
                envoy_gone = here.ingest.loads.nodes
            assert envoy_gone == {"side-1"}
            async with asyncio.timeout(5):
                while here.ingest.loads.nodes:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert here.found().nodes == 0
            async with rig.envoy(here.mesh, "side-1", here.port):
                await begin(here)
                await ask(here.shop, "/", n=200)
                assert (await here.complete(150)).least == 0

    asyncio.run(scenario())


def test_entries_that_envoy_drops_are_counted_as_it_counts_them(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's sink is gone, and Envoy keeps next to nothing back for it: it drops, and says how many."""
    monkeypatch.setattr("xds_server.resources.listeners.LOG_BUFFER_BYTES", 1)

    async def scenario() -> None:
        async with (
            upstream() as upstream_port,
            plane(rig, upstream_port) as here,
            relay(here.port) as between,
            rig.envoy(here.mesh, "side-1", between.port) as envoy,
        ):
            await begin(here)
            await ask(here.shop, "/", n=300, prefix="before")
            await asyncio.sleep(1.5 * LAG_S)
            logged_n = here.ingest.accepted()["shop"]
            between.cut()
            for n in range(4):
                await ask(here.shop, "/", n=50, prefix=f"gone{n}")
                await asyncio.sleep(0.3)
            between.refusing = False
            await asyncio.sleep(1.0)
            await ask(here.shop, "/", n=300, prefix="after")
            await here.compared(700)
            await asyncio.sleep(3 * LAG_S)
            loss = await here.compared(700)
            stats = await envoy.stats("access_logs.grpc_access_log.logs_(dropped|written)")
            dropped_n = stats["access_logs.grpc_access_log.logs_dropped"]
            never_came_n = logged_n + 500 - here.ingest.accepted()["shop"]
            log.info("dropped %d, never came %d, %s", dropped_n, never_came_n, loss)
            assert never_came_n >= 100
            assert loss.lost == never_came_n >= dropped_n
            assert loss.least <= never_came_n <= loss.most

    asyncio.run(scenario())
