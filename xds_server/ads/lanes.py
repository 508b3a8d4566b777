"""Who writes when: a bounded number of writes under way, rollbacks first, and no slow client in anybody's way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Protocol

import grpc

LANES = 32
"""Writes under way at a time. More only make gRPC switch between them; fewer leave it idle."""

STUCK_S = 0.05
"""A write that takes longer waits for a client that does not read. Its lane no longer counts."""

WRITE_ERRORS = (grpc.aio.AioRpcError, grpc.aio.UsageError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""What writing to a client that is gone may raise."""


class Writer(Protocol):
    """One stream. It can be written to once at a time."""

    is_queued: bool

    def begin(self) -> Awaitable[None] | None:
        """Begin to write what is to be written next, if anything."""

    def is_due(self) -> bool:
        """Whether there is more to be written."""

    def fail(self) -> None:
        """End: what was to be written is lost, and would be waited for in vain."""


class Lanes:
    """Lets writers write. Belongs to one event loop. `stuck`: lanes that wait for a slow client now."""

    def __init__(self) -> None:
        self._urgent: deque[Writer] = deque()
        self._waiting: deque[Writer] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._since: dict[asyncio.Task[None], float] = {}  # when each lane's write began
        # A client may answer before gRPC says that the write is over. Whether it was put meanwhile, and urgently.
        self._writing: dict[Writer, bool | None] = {}
        self._watch: asyncio.TimerHandle | None = None
        self.stuck = 0

    def put(self, writer: Writer, *, urgent: bool = False) -> None:
        """Let a writer write when it is its turn; one that waits already is moved up if it has become urgent."""
        if writer in self._writing:
            self._writing[writer] = urgent or bool(self._writing[writer])
            return
        if not writer.is_queued:
            writer.is_queued = True
            (self._urgent if urgent else self._waiting).append(writer)
        elif urgent:
            self._urgent.append(writer)  # it is skipped when its old turn comes
        if len(self._lanes) < LANES or self._watch is None:
            self._staff()

    @property
    def depth(self) -> int:
        """Writers that wait for their turn."""
        return len(self._urgent) + len(self._waiting)

    def close(self) -> None:
        """Write nothing any more."""
        self._urgent.clear()
        self._waiting.clear()
        for lane in self._lanes:
            lane.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def _staff(self) -> None:
        if len(self._lanes) < LANES + self.stuck and len(self._lanes) < self.stuck + self.depth:
            lane = asyncio.get_running_loop().create_task(self._run())
            self._lanes.add(lane)
        elif self._watch is None and self.depth:
            self._watch = asyncio.get_running_loop().call_later(STUCK_S, self._look)

    def _look(self) -> None:
        """Replace lanes that are stuck."""
        self._watch = None
        limit = asyncio.get_running_loop().time() - STUCK_S
        self.stuck = sum(since <= limit for since in self._since.values())
        for _ in range(min(self.depth, LANES)):
            self._staff()
        if self.depth and self._watch is None:  # the new ones may get stuck as well
            self._watch = asyncio.get_running_loop().call_later(STUCK_S, self._look)

    async def _run(self) -> None:
        lane, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert lane is not None  # noqa: S101 -- it runs as one
        try:
            while len(self._lanes) <= LANES + self.stuck and (writer := self._next()) is not None:
                writer.is_queued = False
                writing = writer.begin()
                if writing is None:
                    continue
                self._since[lane] = loop.time()
                await self._write(writer, writing)
        finally:
            self._since.pop(lane, None)
            self._lanes.discard(lane)
            if self.depth:
                self._staff()

    async def _write(self, writer: Writer, writing: Awaitable[None]) -> None:
        self._writing[writer] = None
        try:
            await writing  # waits for a client that does not read
        except WRITE_ERRORS:
            writer.fail()
        finally:
            again = self._writing.pop(writer)
        if again is not None or writer.is_due():
            self.put(writer, urgent=bool(again))

    def _next(self) -> Writer | None:
        for queue in (self._urgent, self._waiting):
            while queue:
                writer = queue.popleft()
                if writer.is_queued:
                    return writer
        return None
