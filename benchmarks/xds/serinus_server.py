"""Serinus's own ADS server in a process of its own, and nothing else of Serinus: `… SERVICES SHAPE`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

from benchmarks.xds import control
from benchmarks.xds.workload import Workload
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.garbage import settle


class _Serinus:
    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._mesh = workload.mesh
        self._generation = 0
        self.cache = AdsCache()
        self.cache.publish(self._mesh, workload.splits(0), urgent=True)
        self._next = workload.splits(1)

    def publish(self, _: dict[str, Any]) -> None:
        """Publish as a rollback does: what is not urgent waits 10 ms for company."""
        self.cache.publish(self._mesh, self._next, urgent=True)
        self._generation += 1
        self._next = self._workload.splits(self._generation + 1)

    def acks(self) -> int:
        return self.cache.counters.acks


async def _main() -> None:
    control.raise_file_limit()
    services, shape = sys.argv[1:]
    served = _Serinus(Workload(int(services), "gateway" if shape == "gateway" else "sidecar"))
    server = grpc.aio.server(options=SERVER_OPTIONS)
    add_ads(server, served.cache)
    port = server.add_insecure_port("127.0.0.1:0")
    settle()
    await server.start()
    await control.serve(served, port)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_main())
