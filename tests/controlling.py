"""A controller as `serinus run` composes it, ticking; real parts, no Envoy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from xds_server.ads.cache import AdsCache
from xds_server.clock import SystemClock
from xds_server.ingest import Ingest
from xds_server.rollout.controller import Controller
from xds_server.settings import parse_mesh
from xds_server.store.journal import Journal
from xds_server.telemetry import Telemetry


@contextlib.asynccontextmanager
async def controlling(
    data: Path, mesh: str, prepare: Callable[[Controller], None] | None = None
) -> AsyncIterator[Controller]:
    """Run one on the journal in `data`, after `prepare`; its loop must live until the end."""
    parsed, clock, telemetry = parse_mesh(mesh, "mesh.yaml"), SystemClock(), Telemetry("test")
    with contextlib.closing(Journal(data)) as journal, contextlib.closing(telemetry):
        ingest = Ingest(parsed, user_hash_key=journal.secret(), queue_limit=100, clock=clock)
        control = Controller(
            mesh=parsed, journal=journal, cache=AdsCache(), ingest=ingest, telemetry=telemetry, clock=clock
        )
        if prepare is not None:
            prepare(control)
        control.restore()
        running = asyncio.create_task(control.run())
        await asyncio.sleep(0)  # the loop has begun
        try:
            yield control
            assert not running.done(), "the loop has died"
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
