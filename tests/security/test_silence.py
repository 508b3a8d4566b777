"""Who says nothing is not waited for."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from xds_server.access import Access
from xds_server.ads import servicer
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, Refusal, add_ads


@pytest.mark.parametrize("ending", ["waits", "half_closes", "cancels"])
def test_a_stream_without_a_request_ends(monkeypatch, kit, ending):
    monkeypatch.setattr(servicer, "FIRST_REQUEST_S", 0.3)

    async def go():
        server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=(Access().interceptor(),))
        xds = add_ads(server, AdsCache())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream(kit.ads + "StreamAggregatedResources")()
            if ending == "half_closes":
                await call.done_writing()
            elif ending == "cancels":
                await asyncio.sleep(0.1)
                call.cancel()
            code = await call.code()
        await asyncio.sleep(0.2)
        await server.stop(0)
        return code, xds.refusals[Refusal.SILENT]

    code, refused = asyncio.run(go())
    assert refused == 1
    assert code is (grpc.StatusCode.CANCELLED if ending == "cancels" else grpc.StatusCode.INVALID_ARGUMENT)


def test_there_are_only_so_many_streams(monkeypatch, kit):
    monkeypatch.setattr(servicer, "MAX_STREAMS", 3)

    async def go():
        server = grpc.aio.server(options=SERVER_OPTIONS)
        add_ads(server, AdsCache())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            calls = [channel.stream_stream(kit.ads + "StreamAggregatedResources")() for _ in range(4)]
            done, _ = await asyncio.wait(
                [asyncio.create_task(call.code()) for call in calls], return_when=asyncio.FIRST_COMPLETED, timeout=5
            )
            codes = [task.result() for task in done]
            for call in calls:
                call.cancel()
        await server.stop(0)
        return codes

    assert asyncio.run(go()) == [grpc.StatusCode.RESOURCE_EXHAUSTED]
