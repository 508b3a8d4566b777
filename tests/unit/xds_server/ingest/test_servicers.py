"""The collector services over real gRPC on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2_grpc

from tests.waiting import until
from xds_server.clock import Clock
from xds_server.ingest import Ingest
from xds_server.ingest.als import SERVICE, add_als
from xds_server.ingest.otlp import LOGS, METRICS, TRACES, add_otlp
from xds_server.mesh import Mesh

TIMEOUT_S = 10
MakeEntry = Callable[..., accesslog_pb2.HTTPAccessLogEntry]
MakeMessage = Callable[..., bytes]


@pytest.fixture
def ingest(mesh: Mesh, clock: Clock) -> Ingest:
    return Ingest(mesh, user_hash_key=b"secret", queue_limit=1000, clock=clock)


@asynccontextmanager
async def channel_to(ingest: Ingest) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    add_als(server, ingest)
    add_otlp(server, ingest)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(grace=None)


def test_the_service_is_the_one_that_envoy_calls() -> None:
    assert f"/{SERVICE}/StreamAccessLogs" in Path(als_pb2_grpc.__file__).read_text()


def test_logs_arrive_while_the_stream_goes_on(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    async def scenario() -> None:
        async with channel_to(ingest) as channel:
            call = channel.stream_unary(f"/{SERVICE}/StreamAccessLogs")()
            await call.write(stream_message(make_entry(), node="edge-1", cluster="edge"))
            await until(lambda: ingest.accepted()["shop"] == 1)
            await call.write(b"\xff\xff")  # must not end the stream
            await call.write(stream_message(make_entry(), make_entry()))
            await call.done_writing()
            assert await asyncio.wait_for(call, TIMEOUT_S) == b""

    asyncio.run(scenario())
    assert len(ingest.drain()["shop"].rows) == 3
    assert ingest.counts["access_log", "malformed"] == 1


def test_each_stream_has_its_own_envoy(ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage) -> None:
    async def scenario() -> None:
        async with channel_to(ingest) as channel:
            open_stream = channel.stream_unary(f"/{SERVICE}/StreamAccessLogs")
            edge, web = open_stream(), open_stream()
            await edge.write(stream_message(node="edge"))
            await web.write(stream_message(node="web-1", cluster="sidecar"))
            for call in (edge, web):
                await call.write(stream_message(make_entry(hop="gateway")))
                await call.done_writing()
            await asyncio.wait_for(asyncio.gather(edge, web), TIMEOUT_S)

    asyncio.run(scenario())
    assert ingest.counts["access_log", "accepted"] == 1
    assert ingest.counts["access_log", "later_hop"] == 1


def test_an_envoy_that_vanishes_costs_nothing_that_has_arrived(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    async def scenario() -> None:
        async with channel_to(ingest) as channel:
            call = channel.stream_unary(f"/{SERVICE}/StreamAccessLogs")()
            await call.write(stream_message(make_entry(), node="edge"))
            await until(lambda: ingest.accepted()["shop"] == 1)
            call.cancel()
            again = channel.stream_unary(f"/{SERVICE}/StreamAccessLogs")()
            await again.write(stream_message(make_entry(), node="edge"))
            await again.done_writing()
            await asyncio.wait_for(again, TIMEOUT_S)

    asyncio.run(scenario())
    assert ingest.accepted() == {"shop": 2}


def test_spans_and_events_are_taken(ingest: Ingest) -> None:
    recorded = json.loads(Path(__file__).with_name("otlp_sdk.json").read_text())

    async def scenario() -> None:
        async with channel_to(ingest) as channel:
            for service, messages in ((TRACES, recorded["traces"]), (LOGS, recorded["logs"])):
                export = channel.unary_unary(f"/{service}/Export")
                for message in messages:
                    assert await export(bytes.fromhex(message), timeout=TIMEOUT_S) == b""

    asyncio.run(scenario())
    assert ingest.accepted() == {"shop": 5}


@pytest.mark.parametrize("service", [TRACES, LOGS, METRICS])
def test_what_is_no_export_request_is_refused(service: str, ingest: Ingest) -> None:
    async def scenario() -> grpc.StatusCode:
        async with channel_to(ingest) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(f"/{service}/Export")(b"\xff", timeout=TIMEOUT_S)
            return refused.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.INVALID_ARGUMENT
