"""Of metrics the last values are taken that the mesh file asks for; all else is dropped, each by its reason."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from analysis.spec import ResourceSpec
from xds_server.clock import Clock
from xds_server.ingest import Ingest
from xds_server.ingest.ingest import MAX_GAUGED
from xds_server.ingest.otlp import GAUGES, METRICS, add_otlp
from xds_server.ingest.rows import Gauged
from xds_server.mesh import Mesh
from xds_server.pb import otlp_pb2

UNIX_NS = 1_700_000_000_000_000_000
RECORDED = json.loads(Path(__file__).with_name("otlp_sdk.json").read_text())["metrics"]
DAY_NS = 86_400 * 10**9


@pytest.fixture
def ingest(mesh: Mesh, clock: Clock) -> Ingest:
    """The shop's memory, its queue and two more are asked for."""
    names = ("process.memory.usage", "queue.length", "handled", "latency")
    resources = tuple(ResourceSpec(name=f"r{i}", metric=name, limit=1e3) for i, name in enumerate(names))
    shop = mesh.services["shop"]
    asking = dataclasses.replace(shop, spec=dataclasses.replace(shop.spec, resources=resources))
    wider = dataclasses.replace(mesh, services={**mesh.services, "shop": asking})
    return Ingest(wider, user_hash_key=b"secret", queue_limit=100, clock=clock)


def point(**changes: Any) -> dict[str, Any]:
    return {"timeUnixNano": str(UNIX_NS), "asDouble": 512.5, **changes}


def said(
    *points: dict[str, Any], name: str = "process.memory.usage", service: str = "shop", version: str = "v2",
    kind: str = "gauge", **more: Any,
) -> bytes:  # fmt: skip
    pairs = [("service.name", service), ("service.version", version)]
    resource = {"attributes": [{"key": key, "value": {"stringValue": value}} for key, value in pairs]}
    metrics = [{"name": name, "unit": "MBy", kind: {"dataPoints": list(points), **more}}]
    return json.dumps({"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": metrics}]}]}).encode()


def take(ingest: Ingest, request: Any, jar: list[bytes] | None = None) -> None:
    deque(GAUGES.take(ingest, request, jar), maxlen=0)


def test_what_the_sdk_exports_is_taken_over_grpc(ingest: Ingest) -> None:
    """A gauge, a sum that falls and rises and one that only rises; a histogram has no last value."""

    async def scenario() -> None:
        server = grpc.aio.server()
        add_otlp(server, ingest)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            export = channel.unary_unary(f"/{METRICS}/Export")
            for message in RECORDED:
                assert await export(bytes.fromhex(message), timeout=10) == b""
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await export(b"\xff", timeout=10)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await server.stop(None)

    asyncio.run(scenario())
    assert sorted(ingest.drain_gauged()["shop"], key=lambda each: each.metric) == [
        Gauged(metric="handled", version="v2", value=7.0),
        Gauged(metric="process.memory.usage", version="v2", value=512.5),
        Gauged(metric="queue.length", version="v2", value=7.0),
    ]
    assert ingest.counts == {("metric", "accepted"): 3, ("metric", "no_gauge"): 1, ("metric", "malformed"): 1}
    assert ingest.drain_gauged() == {}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (said(point(), service="cart"), "unknown_service"),
        (said(point(), version="v9"), "unknown_version"),
        (said(point(), name="process.threads"), "no_resource"),
        (said(point(), kind="histogram"), "no_gauge"),
        (said(point(), kind="sum", aggregationTemporality=1), "no_gauge"),
        (said(point(timeUnixNano=0)), "no_time"),
        (said(point(timeUnixNano=UNIX_NS + DAY_NS)), "ahead"),
        (said(point(timeUnixNano=UNIX_NS - 2 * DAY_NS)), "stale"),
        (said(point(asDouble="NaN")), "no_value"),
        (said(point(asDouble=-1)), "no_value"),
        (said(point(flags=1)), "no_value"),
        (said({"timeUnixNano": UNIX_NS}), "no_value"),
        (said(point(), kind="sum", aggregationTemporality="AGGREGATION_TEMPORALITY_CUMULATIVE"), "accepted"),
    ],
)
def test_each_data_point_is_taken_or_dropped_by_a_reason(ingest: Ingest, message: bytes, reason: str) -> None:
    request = GAUGES.from_json(message)
    take(ingest, request)
    take(ingest, GAUGES.from_protobuf(request.SerializeToString()))
    assert ingest.counts == {("metric", reason): 2}
    assert len(ingest.drain_gauged().get("shop", ())) == (2 if reason == "accepted" else 0)


def test_what_a_browser_says_of_memory_is_not_believed(ingest: Ingest) -> None:
    take(ingest, GAUGES.from_json(said(point())), [b"sid=anna"])
    assert ingest.counts == {("metric", "from_browser"): 1}


def test_reports_that_nobody_takes_are_bounded(ingest: Ingest) -> None:
    request = otlp_pb2.ExportMetricsServiceRequest.FromString(
        GAUGES.from_json(said(*(point(asDouble=i) for i in range(MAX_GAUGED + 5)))).SerializeToString()
    )
    take(ingest, request)
    waiting = ingest.drain_gauged()["shop"]
    assert (len(waiting), waiting[0].value) == (MAX_GAUGED, 5.0)
    assert ingest.dropped() == {"shop": 5}


@pytest.mark.parametrize(
    "damage",
    [lambda text: text.replace(b"512.5", b"[]"), lambda text: text.replace(b"512.5", b"true"),
     lambda text: text.replace(b"512.5", b"1" + b"0" * 400), lambda text: text.replace(b"512.5", b'"much"')],
)  # fmt: skip
def test_a_value_that_is_none_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match=r"asDouble|could not convert"):
        GAUGES.from_json(damage(said(point())))
