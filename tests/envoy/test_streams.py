"""Requests that last as long as somebody is there: SSE and WebSocket through a real Envoy."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import aiohttp
import grpc.aio
import numpy as np
import pytest
from aiohttp import web

from analysis.sample import NO_STEP, SAMPLE_DTYPE, SampleKind
from tests.serving import serving
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.ingest import Ingest
from xds_server.ingest.als import add_als
from xds_server.ingest.rows import user_hash
from xds_server.mesh import ServiceSplits
from xds_server.resources import listeners
from xds_server.settings import parse_mesh

HASH_KEY = b"secret"
EVERY_MS = 1_000
LASTS_S = 3.5
TIMEOUT_S = 30
MESH = """
services:
  shop:
    domains: [shop]
    port: {port}
    identity: [{{header: x-user-id}}]
    routes:
    - {{prefix: /live, stream: true}}
    - {{prefix: /short, timeout: 1s}}
    - {{prefix: /}}
    versions:
      v1: {{endpoints: ["127.0.0.1:{upstream}"]}}
    baseline: v1
"""
STREAMING = ("/live/events", "/live/socket")


async def events(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for i in range(int(LASTS_S * 10)):
        await answer.write(f"data: {i}\n\n".encode())
        await asyncio.sleep(0.1)
    return answer


async def socket(request: web.Request) -> web.WebSocketResponse:
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    async for message in answer:
        await answer.send_str(message.data)
    return answer


async def slow(_: web.Request) -> web.Response:
    await asyncio.sleep(LASTS_S)
    return web.Response()


def upstream() -> AbstractAsyncContextManager[int]:
    app = web.Application()
    app.router.add_get("/live/events", events)
    app.router.add_get("/undeclared/events", events)
    app.router.add_get("/live/socket", socket)
    app.router.add_get("/slow", slow)
    return serving(app)


async def talk(client: aiohttp.ClientSession, url: str) -> None:
    async with client.ws_connect(url, headers={"host": "shop", "x-user-id": "/live/socket"}) as open_socket:
        ends_s = time.monotonic() + LASTS_S
        while time.monotonic() < ends_s:
            await open_socket.send_str("?")
            assert (await open_socket.receive(timeout=5)).data == "?"
            await asyncio.sleep(0.1)


async def read(client: aiohttp.ClientSession, url: str, path: str) -> None:
    async with client.get(url + path, headers={"host": "shop", "x-user-id": path}) as answer:
        assert answer.status == 200
        await answer.read()


def test_whoever_has_a_stream_open_is_there_and_is_not_slow(
    run_envoy: Callable[..., AbstractAsyncContextManager[object]],
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listeners, "ALIVE_EVERY_MS", EVERY_MS)

    async def scenario() -> Ingest:
        async with asyncio.timeout(TIMEOUT_S), upstream() as upstream_port, aiohttp.ClientSession() as client:
            port = free_port()
            mesh = parse_mesh(MESH.format(port=port, upstream=upstream_port), "mesh.yaml")
            ingest, cache = Ingest(mesh, user_hash_key=HASH_KEY, queue_limit=1_000), AdsCache()
            server = grpc.aio.server(options=SERVER_OPTIONS)
            add_ads(server, cache)
            add_als(server, ingest)
            xds_port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            cache.publish(mesh, {"shop": ServiceSplits(rollout="", generation=1, segments={})})
            url = f"http://127.0.0.1:{port}"
            try:
                async with run_envoy(mesh, "side-1", xds_port):
                    paths = ("/live/events", "/undeclared/events", "/slow")
                    await asyncio.gather(talk(client, f"{url}/live/socket"), *(read(client, url, p) for p in paths))
                    await asyncio.sleep(5 * listeners.LOG_FLUSH_MS / 1e3)
            finally:
                await server.stop(grace=None)
            return ingest

    began_ns = time.time_ns()
    ingest = asyncio.run(scenario())
    rows = ingest.drain()["shop"].rows
    assert rows.dtype == SAMPLE_DTYPE
    for path in STREAMING:
        mine = rows[rows["user"] == user_hash(HASH_KEY, path.encode())]
        alive, (end,) = mine[mine["kind"] == SampleKind.ALIVE], mine[mine["kind"] == SampleKind.REQUEST]
        assert 2 <= len(alive) <= 4
        # Each says when it was written, not when the request began.
        gaps_s = np.diff([int(end["start_unix_ns"]), *sorted(alive["start_unix_ns"].tolist())]) / 1e9
        assert gaps_s == pytest.approx(EVERY_MS / 1e3, abs=0.4)
        assert (alive["label"] == NO_STEP).all()
        assert not mine["error"].any()
        assert np.isnan(mine["duration_ms"]).all()
    for path, is_judged in (("/undeclared/events", False), ("/slow", True)):
        (row,) = rows[rows["user"] == user_hash(HASH_KEY, path.encode())]
        assert row["start_unix_ns"] >= began_ns
        assert math.isnan(row["duration_ms"]) != is_judged
    assert ingest.counts["access_log", "unfinished"] >= 4  # of the two that are not declared
