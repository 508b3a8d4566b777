"""The aggregated discovery service over grpc.aio: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from google.protobuf.message import DecodeError

from xds_server.ads.cache import AdsCache, Stream
from xds_server.ads.session import Request
from xds_server.ads.wire import discovery_response
from xds_server.snapshot import TYPES_BY_URL

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"

FIRST_REQUEST_S = 30.0
"""A client that opens a stream and says nothing is not kept for longer."""

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # gRPC's core allows a ping in 300 s and cuts the stream at the third: Envoy's keepalive would break every stream.
    # The key with `recv` in it, found in many places, is ignored.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Notice an Envoy that is gone without a word.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 100_000),
    # The default of 4 MiB is for messages of people; a request that names many resources may be larger.
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.max_send_message_length", -1),
    # A second control plane on the same port must fail, not take half of the Envoys.
    ("grpc.so_reuseport", 0),
)


def add_ads(server: grpc.aio.Server, cache: AdsCache, *, until: asyncio.Event | None = None) -> None:
    """Serve ADS, state of the world, from `cache`. The server must be made with `SERVER_OPTIONS`."""
    servicer = _AdsServicer(cache, until or asyncio.Event())
    handler = grpc.method_handlers_generic_handler(
        SERVICE,
        # Without serializers both directions are bytes: a response is put together from parts that are shared.
        {"StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(servicer.stream)},
    )
    server.add_generic_rpc_handlers((handler,))


class _AdsServicer:
    def __init__(self, cache: AdsCache, until: asyncio.Event) -> None:
        self._cache = cache
        self._until = until  # ends every stream: one that the server has to cancel makes gRPC print a traceback

    async def stream(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """Run one stream until either side ends it."""
        first = await _first_request(requests, context)
        stream = self._cache.open(first.node.id, first.node.cluster)
        tasks = (
            asyncio.create_task(self._read(stream, first, requests, context)),
            asyncio.create_task(self._write(stream, context)),
            asyncio.create_task(self._end()),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            # When a client cancels, grpc.aio ends the iterator or cancels us: either way this runs, and nothing else.
            self._cache.close(stream)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self) -> None:
        await self._until.wait()

    async def _read(
        self,
        stream: Stream,
        first: DiscoveryRequest,
        requests: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext,
    ) -> None:
        self._receive(stream, first)
        async for raw in requests:
            # Later requests need not name the node ("The client only sends the node in the first message").
            self._receive(stream, await _parse(raw, context))

    def _receive(self, stream: Stream, message: DiscoveryRequest) -> None:
        kind = TYPES_BY_URL.get(message.type_url)
        if kind is None:
            return  # secrets, runtime and others: not served, and silence is the protocol's way to say so
        self._cache.receive(
            stream,
            Request(
                type=kind,
                names=tuple(message.resource_names),
                nonce=message.response_nonce,
                # Its presence makes a NACK; comparing versions would misread every change of subscription.
                error=message.error_detail.message if message.HasField("error_detail") else None,
            ),
        )

    async def _write(self, stream: Stream, context: grpc.aio.ServicerContext) -> None:
        """Write what is due, one response at a time; `write` waits for a client that does not read."""
        await self._cache.ready.wait()
        while True:
            stream.wake.clear()
            while (response := self._cache.next_response(stream)) is not None:
                await context.write(
                    discovery_response(
                        type_url=response.type.url,
                        version=response.version,
                        nonce=response.nonce,
                        resources=(resource.packed for resource in response.resources),
                    )
                )
            drain = stream.session.next_drain()
            try:
                async with asyncio.timeout(None if drain is None else max(drain - time.monotonic(), 0.0)):
                    await stream.wake.wait()
            except TimeoutError:
                pass  # a cluster's time is up


async def _first_request(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> DiscoveryRequest:
    try:
        async with asyncio.timeout(FIRST_REQUEST_S):
            raw = await anext(requests)
    except (TimeoutError, StopAsyncIteration):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no request came")
    request = await _parse(raw, context)
    if not request.node.id:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first request must carry node.id")
    return request


async def _parse(raw: bytes, context: grpc.aio.ServicerContext) -> DiscoveryRequest:
    try:
        return DiscoveryRequest.FromString(raw)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a DiscoveryRequest")
        raise
