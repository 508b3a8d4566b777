"""Work that many streams want done at once, a little in each round of the event loop.

When everybody reconnects, thousands of requests are there at once, and each takes a millisecond or so. All in one round
of the loop they would hold up whatever else runs on it: ticks, rollbacks, health checks.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Lets waiters go on in the order in which they came, `a_round` of them a round. Belongs to one event loop."""

    __slots__ = ("_a_round", "_left", "_pump", "_waiting")

    def __init__(self, a_round: int) -> None:
        self._a_round = a_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._left = self._a_round
        self._pump: asyncio.Handle | None = None

    @property
    def depth(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def wait(self) -> None:
        """Wait until it is one's turn."""
        loop = asyncio.get_running_loop()
        if self._pump is None:
            self._pump = loop.call_soon(self._next_round)
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _next_round(self) -> None:
        self._left, self._pump = self._a_round, None
        while self._waiting and self._left > 0:
            waiter = self._waiting.popleft()
            if not waiter.done():  # it may have been cancelled
                waiter.set_result(None)
                self._left -= 1
        if self._waiting:
            self._pump = asyncio.get_running_loop().call_soon(self._next_round)
