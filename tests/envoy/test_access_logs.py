"""What real Envoys log of real requests, as Serinus understands it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc.aio
import pytest
from aiohttp import web

from analysis.sample import UNKNOWN, SampleKind
from tests.serving import serving
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.assign import bucket
from xds_server.ingest import Ingest
from xds_server.ingest.als import add_als
from xds_server.ingest.rows import user_hash
from xds_server.mesh import SegmentSplit, ServiceSplits
from xds_server.settings import parse_mesh

HASH_KEY = b"secret"
TIMEOUT_S = 30
MESH = """
services:
  shop:
    domains: [shop]
    port: {shop}
    identity: [{{header: x-user-id}}]
    session: {{goal: {{path: /checkout/done}}}}
    routes: [{{prefix: /slow-upstream, timeout: 200ms}}, {{prefix: /}}]
    versions:
      v1: {{endpoints: ["127.0.0.1:{upstream}"]}}
      v2: {{endpoints: ["127.0.0.1:{upstream}"]}}
    baseline: v1
    segments:
      eu: {{match: {{headers: [{{name: x-region, exact: eu}}]}}}}
  dead:
    domains: [dead]
    port: {shop}
    identity: [{{header: x-user-id}}]
    versions:
      v1: {{endpoints: ["127.0.0.1:{nothing}"]}}
    baseline: v1
gateways:
  edge: {{listen: "127.0.0.1:{edge}", services: [shop, dead], to: web}}
sidecars:
  web: {{listen: "127.0.0.1:{web}"}}
"""
SPLITS = {
    "shop": ServiceSplits(
        rollout="shop-1",
        generation=7,
        segments={name: SegmentSplit(baseline="v1", canary="v2", canary_bp=5_000) for name in ("eu", "default")},
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    edge: int
    web: int


async def answer(request: web.Request) -> web.Response:
    if request.path.startswith("/slow"):
        await asyncio.sleep(1)
    if request.path == "/grpc":
        return web.Response(headers={"grpc-status": "14"}, content_type="application/grpc")
    return web.Response(status=503 if request.path == "/fail" else 200)


def upstream() -> AbstractAsyncContextManager[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return serving(app)


Scenario = Callable[[Ports, Ingest], Awaitable[None]]
Play = Callable[[Scenario], Ingest]


@pytest.fixture
def play(run_envoy: Callable[..., AbstractAsyncContextManager[object]], free_port: Callable[[], int]) -> Play:
    """Runs a scenario against two Envoys in a row, an edge and a sidecar; returns what was ingested."""

    async def run(scenario: Scenario) -> Ingest:
        async with asyncio.timeout(TIMEOUT_S), upstream() as upstream_port:
            ports = Ports(edge=free_port(), web=free_port())
            text = MESH.format(
                shop=free_port(), upstream=upstream_port, nothing=free_port(), edge=ports.edge, web=ports.web
            )
            mesh = parse_mesh(text, "mesh.yaml")
            ingest = Ingest(mesh, user_hash_key=HASH_KEY, queue_limit=1_000)
            cache = AdsCache()
            server = grpc.aio.server(options=SERVER_OPTIONS)
            add_ads(server, cache)
            add_als(server, ingest)
            xds_port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            cache.publish(mesh, SPLITS)
            try:
                async with run_envoy(mesh, "web", xds_port), run_envoy(mesh, "edge", xds_port):
                    await scenario(ports, ingest)
            finally:
                await server.stop(grace=None)
            return ingest

    return lambda scenario: asyncio.run(run(scenario))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what arrives is counted, not announced
        await asyncio.sleep(0.02)


async def get(port: int, path: str, *, host: str = "shop", timeout_s: float = 10, **headers: str) -> int | None:
    """The answer's status, None if the client gave up waiting."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session:
        try:
            async with session.get(f"http://127.0.0.1:{port}{path}", headers={"host": host, **named}) as response:
                return response.status
        except TimeoutError:
            return None


def by_user(ingest: Ingest) -> dict[int, Any]:
    return {int(row["user"]): row for batch in ingest.drain().values() for row in batch.rows}


def test_a_request_through_two_envoys_is_one_sample_that_names_its_configuration(play: Play) -> None:
    people = [f"person-{i}" for i in range(40)]

    async def scenario(ports: Ports, ingest: Ingest) -> None:
        for person in people:
            region = {"x_region": "eu"} if person.endswith("7") else {}
            assert await get(ports.edge, "/product/17?colour=red", x_user_id=person, **region) == 200
        await until(lambda: ingest.accepted()["shop"] >= len(people))
        await until(lambda: ingest.counts.get(("access_log", "forwarding_hop"), 0) >= len(people))
        assert ingest.generations("shop") == {"web": 7}

    ingest = play(scenario)
    assert ingest.accepted() == {"shop": len(people), "dead": 0}
    rows = by_user(ingest)
    labels = ingest.vocabulary("shop").labels
    for person in people:
        row = rows[user_hash(HASH_KEY, person.encode())]
        assert row["bucket"] == bucket("shop-1", person)
        assert row["version"] == (1 if row["bucket"] < 5_000 else 0)
        assert row["segment"] == (0 if person.endswith("7") else 1)
        assert row["kind"] == SampleKind.REQUEST
        assert labels[row["label"]] == "call /product/*"
        assert 0 < row["duration_ms"] < 5_000
        assert not row["error"]


def test_every_way_to_fail_is_an_error_and_a_client_that_leaves_is_none(play: Play) -> None:
    async def scenario(ports: Ports, ingest: Ingest) -> None:
        assert await get(ports.web, "/fail", x_user_id="status") == 503
        assert await get(ports.web, "/grpc", x_user_id="grpc") == 200
        assert await get(ports.web, "/slow-upstream", x_user_id="timeout") == 504
        assert await get(ports.web, "/", host="dead", x_user_id="refused") == 503
        assert await get(ports.web, "/slow-client", timeout_s=0.2, x_user_id="impatient") is None
        assert await get(ports.web, "/checkout/done", x_user_id="happy") == 200
        assert await get(ports.web, "/") == 200
        await until(lambda: sum(ingest.accepted().values()) == 7)
        assert ingest.traffic_nodes("dead", 60, time.time()) == {"web"}

    rows = by_user(play(scenario))
    errors = {name: bool(rows[user_hash(HASH_KEY, name.encode())]["error"]) for name in
              ("status", "grpc", "timeout", "refused", "impatient", "happy")}  # fmt: skip
    assert errors == {
        "status": True, "grpc": True, "timeout": True, "refused": True, "impatient": False, "happy": False,
    }  # fmt: skip
    assert rows[user_hash(HASH_KEY, b"happy")]["goal"]
    assert not rows[user_hash(HASH_KEY, b"impatient")]["goal"]
    assert rows[user_hash(HASH_KEY, b"impatient")]["duration_ms"] > 100
    assert rows[0]["version"] == 0  # nobody known is served by the baseline
    assert all(row["version"] != UNKNOWN for row in rows.values())


def test_bytes_that_are_no_text_cost_no_log_entry(play: Play) -> None:
    request = b"GET /caf\xe9 HTTP/1.1\r\nhost: shop\r\nx-user-id: \xff\xfe\r\nconnection: close\r\n\r\n"

    async def scenario(ports: Ports, ingest: Ingest) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.web)
        writer.write(request)
        assert (await reader.read()).startswith(b"HTTP/1.1 ")
        writer.close()
        assert await get(ports.web, "/", x_user_id="anna") == 200
        await until(lambda: ingest.accepted()["shop"] >= 1)
        await until(lambda: sum(ingest.counts.values()) >= 2)

    ingest = play(scenario)
    assert ("access_log", "malformed") not in ingest.counts
    assert user_hash(HASH_KEY, b"anna") in by_user(ingest)
