"""A controller as `serinus run` composes it, ticking; real parts, no Envoy but where a test brings one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc.aio

from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.clock import SystemClock
from xds_server.ingest import Ingest
from xds_server.ingest.als import add_als
from xds_server.rollout.controller import Controller
from xds_server.settings import parse_mesh
from xds_server.store.journal import Journal
from xds_server.telemetry import Telemetry


@contextlib.asynccontextmanager
async def controlling(
    data: Path, mesh: str, prepare: Callable[[Controller], None] | None = None, *, xds_port: int | None = None
) -> AsyncIterator[Controller]:
    """Run one on the journal in `data`, after `prepare`; its loop must live until the end.

    `xds_port`: where Envoys get their configuration and leave their access logs.
    """
    parsed, clock, telemetry = parse_mesh(mesh, "mesh.yaml"), SystemClock(), Telemetry("test")
    with contextlib.closing(Journal(data)) as journal, contextlib.closing(telemetry):
        ingest, cache = Ingest(parsed, user_hash_key=journal.secret(), queue_limit=100, clock=clock), AdsCache()
        control = Controller(mesh=parsed, journal=journal, cache=cache, ingest=ingest, telemetry=telemetry, clock=clock)
        if prepare is not None:
            prepare(control)
        control.restore()
        running = asyncio.create_task(control.run())
        await asyncio.sleep(0)  # the loop has begun
        try:
            async with _served(cache, ingest, xds_port):
                yield control
                assert not running.done(), "the loop has died"
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


@contextlib.asynccontextmanager
async def _served(cache: AdsCache, ingest: Ingest, port: int | None) -> AsyncIterator[None]:
    if port is None:
        yield
        return
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_ads(server, cache)
    add_als(server, ingest)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
