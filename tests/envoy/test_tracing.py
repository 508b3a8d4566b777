"""Envoys' own tracer, and a real collector: what they hand on, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest

from analysis.sample import SampleKind
from tests.waiting import until
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.demo.shop_telemetry import Telemetry
from xds_server.ingest import Ingest
from xds_server.ingest.als import add_als
from xds_server.ingest.otlp import add_otlp
from xds_server.ingest.otlp_http import OtlpHttp
from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.settings import parse_mesh
from xds_server.web.app import create_app
from xds_server.web.server import listen, serve

MESH = """
services:
  shop:
    domains: [shop]
    port: {port}
    identity: [{{header: x-user-id}}]
    versions:
      v1: {{endpoints: ["127.0.0.1:{v1}"]}}
    baseline: v1
  dead:
    domains: [dead]
    port: {port}
    identity: [{{header: x-user-id}}]
    versions: {{v1: {{endpoints: ["127.0.0.1:{nothing}"]}}}}
    baseline: v1
{tracing}
"""
PLAIN = {
    name: ServiceSplits(rollout="", generation=0, segments={"default": SegmentSplit(baseline="v1")})
    for name in ("shop", "dead")
}
COLLECTOR = os.environ.get("OTELCOL") or next(filter(None, map(shutil.which, ("otelcol", "otelcol-contrib"))), None)
CONFIG = Path(__file__).parents[2] / "envoy-configs" / "otel-collector.yaml"
TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0([01])")


@asynccontextmanager
async def control_plane(mesh: Mesh) -> AsyncIterator[tuple[Ingest, int]]:
    server, cache = grpc.aio.server(options=SERVER_OPTIONS), AdsCache()
    ingest = Ingest(mesh, user_hash_key=b"secret", queue_limit=10_000)
    add_ads(server, cache)
    add_als(server, ingest)
    add_otlp(server, ingest)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    cache.publish(mesh, PLAIN)
    try:
        yield ingest, port
    finally:
        await server.stop(None)


def traced(rig: Any, tracing: str) -> tuple[dict[str, int], list[int], list[Any]]:
    """Send people through an Envoy; what was counted of spans, the kinds of samples, and what applications saw."""

    async def go() -> tuple[dict[str, int], list[int], list[Any]]:
        port = rig.free_port()
        async with rig.backend("v1") as v1:
            mesh = parse_mesh(MESH.format(port=port, v1=v1, nothing=rig.free_port(), tracing=tracing), "mesh.yaml")
            async with control_plane(mesh) as (ingest, xds), rig.envoy(mesh, "web-1", xds):
                async with aiohttp.ClientSession() as client:
                    seen = [await rig.ask(client, port, {"x-user-id": f"p{i}"}) for i in range(40)]
                    parent = f"00-{'a' * 32}-{'b' * 16}-01"
                    seen.append(await rig.ask(client, port, {"x-user-id": "p", "traceparent": parent}))
                    for i in range(5):
                        answer = await rig.ask(client, port, {"host": "dead", "x-user-id": f"p{i}"})
                        assert answer.status == 503
                await until(lambda: ingest.counts.get(("access_log", "accepted"), 0) == 46)
                with_tracer = "100%" in tracing
                if with_tracer:
                    await until(lambda: ("span", "from_envoy") in ingest.counts)
                await asyncio.sleep(6 if with_tracer else 0.5)  # its spans wait for five seconds
                kinds = [int(kind) for name in ("shop", "dead") for kind in ingest.drain()[name].rows["kind"]]
                counts = {reason: n for (source, reason), n in ingest.counts.items() if source == "span"}
                return counts, kinds, seen

    return asyncio.run(go())


@pytest.mark.slow
def test_what_an_envoy_traces_is_counted_and_makes_no_difference(rig: Any) -> None:
    counts, kinds, seen = traced(rig, "tracing: {sampling: 100%}")
    assert counts == {"from_envoy": 46}  # failed requests as well: the access log has told of them
    assert set(kinds) == {SampleKind.REQUEST}
    assert all(TRACEPARENT.fullmatch(answer.headers["traceparent"])[1] == "1" for answer in seen)
    assert f"-{'a' * 32}-" in seen[-1].headers["traceparent"]  # the trace that the client has begun goes on


@pytest.mark.slow
def test_only_the_share_that_is_asked_for_is_traced(rig: Any) -> None:
    counts, _, seen = traced(rig, "tracing: {sampling: 0%}")
    assert counts == {}
    assert all(TRACEPARENT.fullmatch(answer.headers["traceparent"])[1] == "0" for answer in seen)
    assert f"-{'a' * 32}-" in seen[-1].headers["traceparent"]  # the client's trace, of which Envoy has no part


def test_without_the_key_nothing_is_traced(rig: Any) -> None:
    counts, _, seen = traced(rig, "")
    assert counts == {}
    assert [answer.headers.get("traceparent", "")[:2] for answer in seen] == [""] * 40 + ["00"]


GRPC = "otlp/serinus:\n    endpoint: serinus:4317\n    tls: {insecure: true}"
HTTP = "otlphttp/serinus:\n    endpoint: http://serinus:8080"
EXPORTERS = {"as shown": GRPC, "http": HTTP, "http and json": f"{HTTP}\n    encoding: json"}


@asynccontextmanager
async def http_of(ingest: Ingest) -> AsyncIterator[int]:
    listener, stop = listen("127.0.0.1", 0), asyncio.Event()
    app = create_app(not_ready=lambda: None, metrics=lambda: b"", more=OtlpHttp(ingest=ingest).routes())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(app, listener, stop))
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()


@pytest.mark.skipif(COLLECTOR is None, reason="no OpenTelemetry collector here (otelcol on the PATH, or in OTELCOL)")
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_collector_hands_everything_on(exporter: str, rig: Any, tmp_path: Path) -> None:
    log = tmp_path / "collector.log"

    async def go() -> None:
        mesh = parse_mesh(MESH.format(port=10_000, v1=1, nothing=2, tracing=""), "mesh.yaml")
        receiver = rig.free_port()
        async with control_plane(mesh) as (ingest, port), http_of(ingest) as http_port:
            text = CONFIG.read_text()
            assert GRPC in text
            text = text.replace(GRPC, EXPORTERS[exporter]).replace("[otlp/", f"[{EXPORTERS[exporter].split('/')[0]}/")
            for there, here in (("0.0.0.0:4317", receiver), ("serinus:4317", port), ("serinus:8080", http_port)):
                text = text.replace(there, f"127.0.0.1:{here}")
            (tmp_path / "collector.yaml").write_text(text)
            options = ("--config", tmp_path / "collector.yaml", "--set=service::telemetry::metrics::level=none")
            with log.open("wb") as output:
                collector = await asyncio.create_subprocess_exec(COLLECTOR, *options, stdout=output, stderr=output)
            try:
                await until(lambda: "Everything is ready" in log.read_text(), 30)
                telemetry, now = Telemetry("v1", f"127.0.0.1:{receiver}"), time.time_ns()
                telemetry.page_view(path="/cart", user="anna", at_unix_ns=now)
                telemetry.feature_used(feature="voucher", user="anna", at_unix_ns=now)
                of_request = {
                    "method": "GET",
                    "path": "/",
                    "user": "anna",
                    "start_unix_ns": now,
                    "end_unix_ns": now + 1,
                }
                telemetry.request(**of_request, status=500)
                telemetry.request(**of_request, status=200)
                await asyncio.to_thread(telemetry.close)
                await until(lambda: ingest.accepted()["shop"] == 3)
            finally:
                collector.terminate()
                await asyncio.wait_for(collector.wait(), 10)
            assert "error" not in log.read_text().lower()
            assert ingest.counts["span", "not_a_server_error"] == 1
            rows = ingest.drain()["shop"].rows
            kinds = {SampleKind.PAGE, SampleKind.FEATURE, SampleKind.SPAN_ERROR}
            assert {SampleKind(kind) for kind in rows["kind"]} == kinds
            assert len(set(rows["user"])) == 1

    asyncio.run(go())
