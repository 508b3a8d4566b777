"""Four days of a real web server's log, sent through a real Envoy at four and a half thousand times their pace."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import aiohttp
import grpc.aio
import numpy as np
import pytest
from aiohttp import web

from analysis.session import SessionTracker
from analysis.spec import KpiKind, KpiSpec, SegmentSpec, ServiceSpec, SessionSpec
from tests.real_data import Hit, apache_hits
from tests.serving import serving
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.ingest import Ingest
from xds_server.ingest.als import add_als
from xds_server.settings import parse_mesh

FASTER = 4_500
GAP_S = 1_800
VISITORS, SESSIONS = 1_861, 3_223  # of the log, at a gap of 30 minutes
MESH = """
services:
  shop:
    domains: [shop]
    port: {port}
    identity: [{{header: x-user-id}}]
    versions: {{v1: {{endpoints: ["127.0.0.1:{upstream}"]}}}}
    baseline: v1
sidecars:
  web: {{listen: "127.0.0.1:{port}"}}
"""


def _upstream() -> AbstractAsyncContextManager[int]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=int(request.headers["x-status"]))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return serving(app)


async def until(condition: Callable[[], bool], *, within_s: float) -> None:
    """Give it that long at most: what got lost does not come."""
    deadline_s = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - what arrives is counted, not announced
        await asyncio.sleep(0.05)


async def _send(hits: list[Hit], port: int) -> None:
    """Each at its time, whether the one before has been answered or not."""
    began_s = time.monotonic()
    connector = aiohttp.TCPConnector(limit=200)
    async with aiohttp.ClientSession(connector=connector) as client, asyncio.TaskGroup() as tasks:

        async def send(hit: Hit) -> None:
            who = hashlib.sha256(hit.visitor.encode()).hexdigest()
            headers = {"host": "shop", "x-user-id": who, "user-agent": "replay", "x-status": str(hit.status)}
            async with client.get(f"http://127.0.0.1:{port}{hit.path}", headers=headers):
                pass

        for hit in hits:
            due_s = began_s + (hit.unix_s - hits[0].unix_s) / FASTER
            if (wait_s := due_s - time.monotonic()) > 0.001:
                await asyncio.sleep(wait_s)
            tasks.create_task(send(hit))


def _tracker() -> SessionTracker:
    return SessionTracker(
        ServiceSpec(
            name="shop",
            baseline="v1",
            versions=("v1",),
            segments=(SegmentSpec(name="default"),),
            kpis=(KpiSpec(kind=KpiKind.ERROR_RATE, judge_after_s=1, tolerance=0.02),),
            session=SessionSpec(gap_s=GAP_S / FASTER),
        )
    )


def test_the_log_through_an_envoy_gives_its_visitors_and_sessions(
    run_envoy: Callable[..., AbstractAsyncContextManager[object]], free_port: Callable[[], int]
) -> None:
    hits = apache_hits()
    tracker, users, sessions = _tracker(), set[int](), 0

    def take(ingest: Ingest) -> int:
        nonlocal sessions
        rows = ingest.drain()["shop"].rows
        users.update(rows["user"].tolist())
        sessions += len(tracker.observe(rows))
        return len(rows)

    async def run() -> int:
        async with _upstream() as upstream:
            port = free_port()
            mesh = parse_mesh(MESH.format(port=port, upstream=upstream), "mesh.yaml")
            ingest, cache = Ingest(mesh, user_hash_key=b"secret", queue_limit=200_000), AdsCache()
            server = grpc.aio.server(options=SERVER_OPTIONS)
            add_ads(server, cache)
            add_als(server, ingest)
            xds_port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            cache.publish(mesh, {})
            try:
                async with run_envoy(mesh, "web", xds_port):
                    await _send(hits, port)
                    await until(lambda: ingest.accepted()["shop"] >= len(hits), within_s=10)
            finally:
                await server.stop(grace=None)
            return take(ingest)

    assert asyncio.run(run()) == pytest.approx(len(hits), rel=0.01)
    assert len(users) == pytest.approx(VISITORS, rel=0.01)
    assert sessions == pytest.approx(SESSIONS, rel=0.01)
    assert np.isfinite(tracker.columns["slowest_ms"]).all()
