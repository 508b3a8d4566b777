"""Who writes when, without gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from xds_server.ads.lanes import STUCK_S, Lanes


class Writer:
    """A stream that has `due` messages, each written when `written` is set; gRPC allows one write at a time."""

    def __init__(self, due: int = 1, error: Exception | None = None) -> None:
        self.is_queued = False
        self.due = due
        self.begun = 0
        self.has_failed = self.has_overlapped = False
        self.written = asyncio.Event()
        self._error = error
        self._is_writing = False

    def begin(self) -> Awaitable[None] | None:
        if not self.due:
            return None
        self.has_overlapped |= self._is_writing
        self._is_writing = True
        self.due -= 1
        self.begun += 1
        return self._write()

    def is_due(self) -> bool:
        return self.due > 0

    def fail(self) -> None:
        self.has_failed = True

    async def _write(self) -> None:
        if self._error is not None:
            raise self._error
        await self.written.wait()
        self._is_writing = False


def run(scenario: Callable[[Lanes], Awaitable[None]]) -> None:
    async def main() -> None:
        lanes = Lanes()
        async with asyncio.timeout(5):
            await scenario(lanes)
        lanes.close()

    asyncio.run(main())


@pytest.mark.parametrize("urgent", [False, True])
def test_what_becomes_due_during_a_write_is_written_after_it(urgent: bool) -> None:
    """A client may ACK, and ask for more, before gRPC says that the write is over."""

    async def scenario(lanes: Lanes) -> None:
        writer = Writer()
        lanes.put(writer)
        await asyncio.sleep(0)
        assert writer.begun == 1
        writer.due = 1
        lanes.put(writer, urgent=urgent)
        await asyncio.sleep(STUCK_S * 2)
        assert writer.begun == 1
        writer.written.set()
        await asyncio.sleep(STUCK_S)
        assert (writer.begun, writer.due) == (2, 0)
        assert not writer.has_failed
        assert not writer.has_overlapped

    run(scenario)


def test_a_slow_client_holds_up_nobody_else() -> None:
    async def scenario(lanes: Lanes) -> None:
        slow = [Writer() for _ in range(100)]
        for writer in slow:
            lanes.put(writer)
        quick = Writer()
        quick.written.set()
        lanes.put(quick)
        await asyncio.sleep(STUCK_S * 8)
        assert quick.begun == 1
        assert all(writer.begun == 1 for writer in slow)

    run(scenario)


def test_a_write_that_fails_ends_its_stream() -> None:
    """What was lost counts as sent: without an end its client would wait for it for ever."""

    async def scenario(lanes: Lanes) -> None:
        writer = Writer(error=grpc.aio.UsageError("the call is over"))
        lanes.put(writer)
        await asyncio.sleep(0.01)
        assert writer.has_failed

    run(scenario)
