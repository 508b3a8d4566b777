"""The least that a grpc.aio server can do: write the same bytes to every stream, and count what comes back.

It parses nothing, knows no resource and answers no request. What it costs, no server in Python can go below.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from benchmarks.xds import control
from xds_server.ads.servicer import SERVER_OPTIONS, SERVICE

METHODS = ("StreamAggregatedResources", "DeltaAggregatedResources")

LANES_N = 32
"""Writes under way at a time. The fastest of 1, 2, 4, 8, 32, all at once, and one writer for each stream."""


class _Floor:
    def __init__(self) -> None:
        self._contexts: dict[grpc.aio.ServicerContext, None] = {}
        self._acks = 0
        self._lanes: list[asyncio.Task[None]] = []

    async def stream(self, _: Any, context: grpc.aio.ServicerContext) -> None:
        if await context.read() is grpc.aio.EOF:
            return
        await context.send_initial_metadata(())  # tells the client that it is registered
        self._contexts[context] = None
        try:
            while await context.read() is not grpc.aio.EOF:
                self._acks += 1
        finally:
            del self._contexts[context]

    def publish(self, asked: dict[str, Any]) -> None:
        message = bytes.fromhex(asked["message"])
        contexts = iter(list(self._contexts))

        async def write() -> None:
            for context in contexts:  # shared by the lanes
                await context.write(message)

        self._lanes = [asyncio.create_task(write()) for _ in range(LANES_N)]

    def acks(self) -> int:
        return self._acks


async def _main() -> None:
    control.raise_file_limit()
    served = _Floor()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handlers = {method: grpc.stream_stream_rpc_method_handler(served.stream) for method in METHODS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await control.serve(served, port)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_main())
