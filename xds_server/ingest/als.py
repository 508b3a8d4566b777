"""Envoy's access log service: each Envoy streams the requests that it has finished.

Messages are decoded beside the event loop, which has pushes to send. What cannot be decoded in time gives way to what
is newer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio

from xds_server.ending import unless
from xds_server.ingest.entries import Arrived, Reporter
from xds_server.ingest.ingest import Ingest

FLUSH_S = 0.3
"""For what has arrived when the end comes; Envoys' streams have no end of their own."""

SERVICE = "envoy.service.accesslog.v3.AccessLogService"

QUEUE_BYTES = 32 << 20
QUEUE_MESSAGES = 10_000
"""Of messages that wait to be decoded, at most: a fraction of a second of the load that one core can carry."""

BATCH_BYTES = 1 << 20
"""Of messages decoded together: many small ones cost little more than a large one then."""


class AccessLogs:
    """Messages on their way to `Ingest`, in order of arrival. If there are too many, the oldest go, and are counted."""

    def __init__(
        self,
        ingest: Ingest,
        *,
        limit_bytes: int = QUEUE_BYTES,
        limit_messages: int = QUEUE_MESSAGES,
    ) -> None:
        self._ingest = ingest
        self._limit_bytes, self._limit_messages = limit_bytes, limit_messages
        self._waiting: deque[Arrived] = deque()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="access-logs")
        self._working: asyncio.Task[None] | None = None
        self._put_n = self._done_n = 0
        self._progress = asyncio.Condition()
        self.waiting_bytes = 0

    @property
    def waiting_n(self) -> int:
        """Messages that wait."""
        return len(self._waiting)

    def put(self, arrived: Arrived) -> None:
        self._waiting.append(arrived)
        self._put_n += 1
        self.waiting_bytes += len(arrived.message)
        while self.waiting_bytes > self._limit_bytes or len(self._waiting) > self._limit_messages:
            self._ingest.give_up(self._next())
        if not self._waiting and self._working is None:
            self._done_n = self._put_n
        elif self._working is None:
            self._working = asyncio.create_task(self._work())

    async def settled(self) -> None:
        """Wait until all that has been put by now has been taken or given up."""
        number = self._put_n
        async with self._progress:
            await self._progress.wait_for(lambda: self._done_n >= number)

    def _next(self) -> Arrived:
        arrived = self._waiting.popleft()
        self.waiting_bytes -= len(arrived.message)
        return arrived

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, n_bytes = [], 0
                while self._waiting and n_bytes < BATCH_BYTES:
                    batch.append(self._next())
                    n_bytes += len(batch[-1].message)
                number = self._put_n - len(self._waiting)
                decoded = await loop.run_in_executor(self._worker, self._ingest.decode, batch)
                self._ingest.take(decoded)
                self._done_n = number if self._waiting else self._put_n
                async with self._progress:
                    self._progress.notify_all()
        finally:
            self._working = None


def add_als(server: grpc.aio.Server, ingest: Ingest, *, until: asyncio.Event | None = None) -> AccessLogs:
    """Serve `StreamAccessLogs` on `server`. Bytes go in as they are: what cannot be parsed must not end the stream.

    `until`: ends every stream within `FLUSH_S`, in which what has arrived is still taken. One that the server has to
    cancel logs a traceback.
    """
    end = until if until is not None else asyncio.Event()
    logs = AccessLogs(ingest)

    async def take(messages: AsyncIterator[bytes]) -> None:
        reporter: Reporter | None = None
        async for message in messages:
            reporter = ingest.reporter(message, reporter)
            logs.put(Arrived(message, reporter, ingest.is_compared(reporter)))
        await logs.settled()

    async def stream_access_logs(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        if end.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the control plane is ending")
        await unless(end, take(messages), grace_s=FLUSH_S)
        return b""  # StreamAccessLogsResponse has no fields; Envoy never waits for it

    methods = {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(stream_access_logs)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    return logs
