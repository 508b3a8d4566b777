"""Serinus's ADS server, its access log service and its ticks in a process of their own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc.aio

from analysis.engine import Rollout, ServiceEngine
from benchmarks.ingest.workload import MESH, SEGMENTS
from benchmarks.xds import control
from benchmarks.xds.workload import Workload
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.app import QUEUE_LIMIT
from xds_server.clock import SystemClock
from xds_server.garbage import settle
from xds_server.ingest import Ingest
from xds_server.ingest.als import AccessLogs, add_als
from xds_server.settings import parse_mesh

TICK_S = 2.0
XDS = Workload(1, "sidecar")


class _Serinus:
    def __init__(self) -> None:
        self._generation = 0
        self.cache = AdsCache()
        self.cache.publish(XDS.mesh, XDS.splits(0), urgent=True)
        mesh = parse_mesh(MESH, "mesh.yaml")
        self.clock = SystemClock()
        self.ingest = Ingest(mesh, user_hash_key=b"k" * 32, queue_limit=QUEUE_LIMIT)
        self.engine = ServiceEngine(mesh.services["shop"].spec, seed=1)
        arms = dict.fromkeys(SEGMENTS, ("v1", "v2"))
        started_ns = self.clock.now_unix_ns()
        self.engine.start(Rollout(rollout="shop-v2-1", canary="v2", started_ns=started_ns, arms=arms))
        self.logs: AccessLogs | None = None

    def publish(self, _: dict[str, Any]) -> None:
        self._generation += 1
        self.cache.publish(XDS.mesh, XDS.splits(self._generation), urgent=True)

    def acks(self) -> int:
        return self.cache.counters.acks

    def tell(self) -> dict[str, Any]:
        assert self.logs is not None
        counts = {reason: n for (_, reason), n in self.ingest.counts.items()}
        return {
            "counts": counts,
            "dropped": self.ingest.dropped()["shop"],
            "is_idle": not self.logs.waiting_n,
        }

    async def tick(self) -> None:
        """As the controller does: what has arrived goes to the engine, in a thread."""
        while True:
            await asyncio.sleep(TICK_S)
            rows = self.ingest.drain()["shop"].rows
            await asyncio.to_thread(self._advance, rows)

    def _advance(self, rows: Any) -> None:
        self.engine.observe(rows, self.ingest.vocabulary("shop").labels)
        self.engine.tick(self.clock.now_unix_ns())


async def _main() -> None:
    control.raise_file_limit()
    served = _Serinus()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_ads(server, served.cache)
    served.logs = add_als(server, served.ingest)
    port = server.add_insecure_port("127.0.0.1:0")
    settle()
    await server.start()
    ticking = asyncio.create_task(served.tick())
    await control.serve(served, port, tell=served.tell)
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_main())
