"""Envoy's access log service: each Envoy streams the requests that it has finished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from xds_server.ingest.ingest import Ingest, Reporter

SERVICE = "envoy.service.accesslog.v3.AccessLogService"


def add_als(server: grpc.aio.Server, ingest: Ingest, *, until: asyncio.Event | None = None) -> None:
    """Serve `StreamAccessLogs` on `server`. Bytes go in as they are: what cannot be parsed must not end the stream.

    `until`: ends every stream. They have no end of their own, and one that the server has to cancel logs a traceback.
    """
    end = until if until is not None else asyncio.Event()

    async def take(messages: AsyncIterator[bytes]) -> None:
        reporter: Reporter | None = None
        async for message in messages:
            reporter = ingest.take_access_logs(message, reporter)

    async def stream_access_logs(messages: AsyncIterator[bytes], _context: grpc.aio.ServicerContext) -> bytes:
        tasks = (asyncio.create_task(take(messages)), asyncio.create_task(end.wait()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
        return b""  # StreamAccessLogsResponse has no fields; Envoy never waits for it

    methods = {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(stream_access_logs)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
