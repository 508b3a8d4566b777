"""Envoy's access log service: each Envoy streams the requests that it has finished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from xds_server.ending import unless
from xds_server.ingest.entries import Reporter
from xds_server.ingest.ingest import Ingest

FLUSH_S = 0.3
"""For what has arrived when the end comes; Envoys' streams have no end of their own."""

SERVICE = "envoy.service.accesslog.v3.AccessLogService"


def add_als(server: grpc.aio.Server, ingest: Ingest, *, until: asyncio.Event | None = None) -> None:
    """Serve `StreamAccessLogs` on `server`. Bytes go in as they are: what cannot be parsed must not end the stream.

    `until`: ends every stream within `FLUSH_S`, in which what has arrived is still taken. One that the server has to
    cancel logs a traceback.
    """
    end = until if until is not None else asyncio.Event()

    async def take(messages: AsyncIterator[bytes]) -> None:
        reporter: Reporter | None = None
        async for message in messages:
            reporter = ingest.take_access_logs(message, reporter)

    async def stream_access_logs(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        if end.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the control plane is ending")
        await unless(end, take(messages), grace_s=FLUSH_S)
        return b""  # StreamAccessLogsResponse has no fields; Envoy never waits for it

    methods = {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(stream_access_logs)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
