"""What all parts of the loop share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field

from xds_server.clock import Clock
from xds_server.rollout.steered import SteeredService
from xds_server.store.journal import Journal
from xds_server.telemetry import Telemetry


@dataclass(slots=True, kw_only=True)
class Fleet:
    """The services by name, in the mesh's order, and where what happens to them is written and told."""

    journal: Journal
    telemetry: Telemetry
    clock: Clock
    services: dict[str, SteeredService] = field(default_factory=dict)
    _waits: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Let something go on that waits: for a lock, for ACKs."""
        task = asyncio.create_task(work)
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)

    def cancel(self) -> None:
        """Nothing more is waited for."""
        for task in self._waits:
            task.cancel()

    def tell(self) -> None:
        """There is something new to see."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next `tell`."""
        await self._changed.wait()
