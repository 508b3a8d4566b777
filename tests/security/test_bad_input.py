"""Whatever a client says, it is told what is wrong, it is counted, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import time

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from xds_server.ads.servicer import MAX_MESSAGE_BYTES, MAX_NAMES, MAX_RECEIVED_BYTES
from xds_server.snapshot import ResourceType

INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED
REFUSALS = "serinus_xds_refusals_total"
SPLITS = iter(range(100, 9_000, 100))


@contextlib.asynccontextmanager
async def beside_a_bystander(kit, plane):
    """Whatever is done here, another Envoy gets its next push at once."""
    async with kit.client(plane) as other, kit.client(plane) as operator:
        bystander = await kit.join(other)
        yield
        began = time.monotonic()
        await kit.push(operator, next(SPLITS))
        await bystander.until(ResourceType.RDS, within_s=5.0)
        assert time.monotonic() - began < 2.0


def meets(kit, plane, reason, *messages, method="StreamAggregatedResources", **options):
    """Say this, and return how the stream ended; it is counted for that reason, and a bystander goes on."""

    async def go():
        before = plane.metrics(REFUSALS).get(reason, 0)
        async with beside_a_bystander(kit, plane), kit.client(plane) as client:
            said = await client.said(*messages, method=kit.ads + method, **options)
        assert plane.metrics(REFUSALS).get(reason, 0) >= before + bool(reason)  # it may ask again
        return said

    return asyncio.run(go())


@pytest.mark.parametrize("method", ["StreamAggregatedResources", "DeltaAggregatedResources"])
def test_bytes_that_are_no_request_end_their_stream(kit, plain, method):
    code, text = meets(kit, plain, "malformed", b"\xff" * 1_000, method=method)
    assert code is INVALID
    assert text.startswith("not a D")


def test_bytes_that_are_no_request_end_a_stream_that_has_begun_well(kit, plain):
    code, _ = meets(kit, plain, "malformed", kit.request(ResourceType.CDS), b"\x0a\xff\xff\xff\xff\x0f")
    assert code is INVALID


def test_a_request_from_nobody_is_refused(kit, plain):
    code, text = meets(kit, plain, "no_node", kit.request(ResourceType.CDS, node=""))
    assert (code, text) == (INVALID, "the first request must carry node.id")


@pytest.mark.parametrize("url", ["", "type.googleapis.com/envoy.api.v2.Cluster", "x" * 100_000])
def test_a_type_that_there_is_not_is_refused(kit, plain, url):
    code, text = meets(kit, plain, "wrong_type", kit.request(url))
    assert code is INVALID
    assert "is not the type URL of an xDS resource" in text
    assert len(text) < 400


def test_a_type_that_does_not_belong_to_the_method_is_refused(kit, plain):
    method = "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"

    async def go():
        async with kit.client(plain) as client:
            return await client.said(kit.request(ResourceType.LDS), method=method)

    code, text = asyncio.run(go())
    assert code is INVALID
    assert ResourceType.CDS.url in text


def test_a_large_request_is_refused(kit, plain):
    code, text = meets(kit, plain, "too_large", kit.request(ResourceType.CDS, "x" * MAX_MESSAGE_BYTES))
    assert code is EXHAUSTED
    assert text.startswith("a request of ")


def test_a_huge_request_is_not_taken_in(kit, plain):
    code, _ = meets(kit, plain, "", kit.request(ResourceType.CDS, "x" * MAX_RECEIVED_BYTES))
    assert code is EXHAUSTED


def test_a_small_request_that_unpacks_to_a_huge_one_is_not_taken_in(kit, plain):
    bomb = kit.request(ResourceType.CDS, "x" * (200 << 20))
    assert len(gzip.compress(bomb)) < MAX_MESSAGE_BYTES
    before = plain.rss_mb()
    code, _ = meets(kit, plain, "", bomb, compression=grpc.Compression.Gzip)
    assert code is EXHAUSTED
    assert plain.rss_mb() - before < 100


def test_a_million_names_are_refused(kit, plain):
    message = kit.request(ResourceType.EDS, *(f"{n:x}" for n in range(1_000_000)))
    assert len(message) < MAX_MESSAGE_BYTES
    code, text = meets(kit, plain, "too_many_names", message)
    assert (code, text) == (EXHAUSTED, f"more than {MAX_NAMES} names of one type")


def test_names_that_add_up_to_too_many_are_refused(kit, plain):
    requests = []
    for part in range(3):
        message = DeltaDiscoveryRequest(type_url=ResourceType.EDS.url)
        message.node.id = "somebody"
        message.resource_names_subscribe.extend(f"{part}-{n}" for n in range(40_000))
        requests.append(message.SerializeToString())
    code, text = meets(kit, plain, "too_many_names", *requests, method="DeltaAggregatedResources")
    assert (code, text) == (EXHAUSTED, f"more than {MAX_NAMES} names of one type")


def test_access_logs_that_are_none_are_counted_and_their_stream_goes_on(kit, plain):
    async def go():
        async with beside_a_bystander(kit, plain), kit.client(plain) as client:
            call = client.channel.stream_unary("/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs")()
            for _ in range(3):
                await call.write(b"\xff" * 100)
            await call.done_writing()
            await call
            return await call.code()

    before = plain.metrics("serinus_ingest_entries_total").get("malformed,access_log", 0)
    assert asyncio.run(go()) is grpc.StatusCode.OK
    assert plain.metrics("serinus_ingest_entries_total")["malformed,access_log"] == before + 3


def test_spans_that_are_none_are_refused(kit, plain):
    async def go():
        async with kit.client(plain) as client:
            return await client.unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export", b"\xff" * 100)

    assert asyncio.run(go()) == (INVALID, "not an OTLP export request")


def test_what_is_no_method_is_not_there(kit, plain):
    async def go():
        async with kit.client(plain) as client:
            return await client.unary("/no.such.Service/Method", b"")

    assert asyncio.run(go())[0] is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 10_000]
)
def test_connections_that_go_no_further_disturb_nobody(kit, plain, said):
    host, _, port = plain.grpc.rpartition(":")

    async def go():
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                half = stack.enter_context(socket.create_connection((host, int(port))))
                with contextlib.suppress(OSError):
                    half.sendall(said)
            async with beside_a_bystander(kit, plain):
                pass

    asyncio.run(go())


def test_clients_that_never_read_cost_little_and_disturb_nobody(kit, tmp_path):
    mesh = kit.mesh_of(["shop", *(f"s{n}" for n in range(400))])

    async def go(plane):
        async with contextlib.AsyncExitStack() as stack:
            names = [f"s{n}|v{v}" for n in range(400) for v in (1, 2)]
            for n in range(60):  # more than there are lanes
                deaf = await stack.enter_async_context(kit.client(plane))
                call = deaf.raw()
                stack.callback(call.cancel)
                await call.write(kit.request(ResourceType.CDS, node=f"deaf-{n}"))
                await call.write(kit.request(ResourceType.EDS, *names))
            await asyncio.sleep(1)
            before = plane.rss_mb()
            async with kit.client(plane) as other, kit.client(plane) as operator:
                bystander = await kit.join(other)
                for n in range(20):
                    await kit.push(operator, 100 + n)
                    await bystander.until(ResourceType.RDS, within_s=5.0)
            assert plane.rss_mb() - before < 50

    with kit.running(tmp_path, mesh) as plane:
        asyncio.run(go(plane))


@pytest.mark.slow
def test_a_client_that_answers_no_pings_is_let_go(kit, plain):
    """It has been unplugged, say: nothing comes any more, not even the end."""
    host, _, port = plain.grpc.rpartition(":")
    settings, settings_ack = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", b"\x00\x00\x00\x04\x01\x00\x00\x00\x00"
    with socket.create_connection((host, int(port)), timeout=60) as unplugged:
        unplugged.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + settings_ack)
        began = time.monotonic()
        while unplugged.recv(4_096):
            pass
        assert 20 < time.monotonic() - began < 50


@pytest.mark.slow
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
def test_a_client_that_does_not_go_on_with_its_handshake_is_let_go(kit, plain, said):
    host, _, port = plain.grpc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as half:
        half.sendall(said)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while half.recv(4_096):
                pass
        assert time.monotonic() - began < 30
