"""A relay between an Envoy and its control plane, which can hold back or cut what is not the main thread's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

CHUNK = 1 << 16


@dataclass(slots=True)
class Relay:
    """Relays to a port on this machine.

    An Envoy's main thread connects first, for its configuration and load reports; each worker has a connection of its
    own for access logs. `flowing`: cleared, nothing is read from the workers any more. `refusing`: their connections
    are cut, and new ones closed at once.
    """

    to_port: int
    port: int = 0
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    refusing: bool = False
    _workers: list[asyncio.StreamWriter] = field(default_factory=list)
    _seen_n: int = 0

    def cut(self) -> None:
        self.refusing = True
        for writer in self._workers:
            writer.transport.abort()
        self._workers.clear()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._seen_n += 1
        is_main = self._seen_n == 1
        if self.refusing and not is_main:
            writer.transport.abort()
            return
        there, to = await asyncio.open_connection("127.0.0.1", self.to_port)
        if not is_main:
            self._workers += [writer, to]
        back = asyncio.create_task(self._pump(there, writer, is_main=True))
        try:
            await self._pump(reader, to, is_main=is_main)
        finally:
            back.cancel()
            for each in (writer, to):
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_main: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if not is_main:
                    await self.flowing.wait()
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def relay(to_port: int) -> AsyncIterator[Relay]:
    result = Relay(to_port)
    result.flowing.set()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(result.take(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=CHUNK)
    result.port = server.sockets[0].getsockname()[1]
    try:
        yield result
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
