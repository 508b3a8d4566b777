"""Envoy's load reporting service: each Envoy says how many requests it has sent to which cluster.

Wanted are the clusters of services with a running rollout, by name: asked for all of them, an Envoy would list every
cluster that it has in each report, and forget what a new one did until its first report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from analysis.evidence.log_loss import LAG_S, Load
from xds_server import access
from xds_server.clock import Clock, SystemClock
from xds_server.ending import unless
from xds_server.ingest.ingest import Ingest
from xds_server.pb import lrs_pb2

SERVICE = "envoy.service.load_stats.v3.LoadReportingService"

INTERVAL_S = 2.0
"""Between two reports of an Envoy, while there are few Envoys."""

REPORTS_PER_S = 200
"""Of all Envoys together; more of them report less often. Each report carries the whole node: 60 kB."""

IDLE_REPORTS_PER_S = 50
"""The same while nothing is wanted. The answer to a report is where an Envoy learns what is wanted from now on."""

FIRST_REPORT_S = 30.0
MAX_REQUESTS = 1 << 32  # of one report: more is nonsense


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an Envoy is asked to report, and how often."""

    clusters: tuple[bytes, ...]
    interval_s: float

    def encode(self) -> bytes:
        seconds, rest = divmod(self.interval_s, 1)
        interval = lrs_pb2.Interval(seconds=int(seconds), nanos=int(rest * 1e9))
        return lrs_pb2.WantedLoadStats(clusters=self.clusters, load_reporting_interval=interval).SerializeToString()


class LoadReports:
    """All streams of load reports. `rolling`: names of the services whose rollouts run."""

    def __init__(self, ingest: Ingest, rolling: Callable[[], Iterable[str]], clock: Clock) -> None:
        self._ingest = ingest
        self._rolling = rolling
        self._clock = clock
        self.streams = 0

    async def serve(self, context: grpc.aio.ServicerContext) -> None:
        """Serve one stream until the Envoy ends it."""
        first = await self._first(context)
        node = first.node.id.decode("utf-8", "replace")
        if not node:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first report must carry node.id")
        access.current().check_node(node)  # a second stream of a node stops its comparison
        loads = self._ingest.loads
        loads.open(node)
        self.streams += 1
        try:
            told = None
            while True:
                if told != (wanted := self.wanted()):
                    await context.write(wanted.encode())
                    told = wanted
                raw = await context.read()
                if raw is grpc.aio.EOF:
                    return
                self._take(node, wanted, raw)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a LoadStatsRequest")
        finally:
            self.streams -= 1
            loads.close(node)

    async def _first(self, context: grpc.aio.ServicerContext) -> lrs_pb2.FirstLoadStats:
        """The first message. Its counts tell of a time before this stream."""
        try:
            async with asyncio.timeout(FIRST_REPORT_S):
                raw = await context.read()
            return lrs_pb2.FirstLoadStats.FromString(raw if isinstance(raw, bytes) else b"")
        except (TimeoutError, DecodeError):
            return lrs_pb2.FirstLoadStats()

    def wanted(self) -> Wanted:
        """What the Envoy that is served is to report from now on: what its certificate lets it see."""
        clusters = self._ingest.clusters(filter(access.current().sees, self._rolling()))
        n_a_second = REPORTS_PER_S if clusters else IDLE_REPORTS_PER_S
        steps = max(1, -(-self.streams // int(n_a_second * INTERVAL_S)))
        return Wanted(clusters, steps * INTERVAL_S)

    def _take(self, node: str, wanted: Wanted, raw: bytes) -> None:
        grant = access.current()
        clusters = [name for name in wanted.clusters if grant.sees(name.decode().partition("|")[0])]
        loads = dict.fromkeys(clusters, Load(issued=0, active=0))
        for stats in lrs_pb2.LoadStats.FromString(raw).cluster_stats:
            if stats.cluster_name in loads:
                loads[stats.cluster_name] = _load(stats)
        self._ingest.loads.report(node, loads, self._clock.monotonic())
        later = asyncio.get_running_loop().call_later
        later(LAG_S * 1.01, lambda: self._ingest.loads.settle(node, self._clock.monotonic()))


def _load(stats: lrs_pb2.ClusterStats) -> Load:
    localities = stats.upstream_locality_stats
    return Load(
        issued=min(sum(each.total_issued_requests for each in localities), MAX_REQUESTS),
        active=min(sum(each.total_requests_in_progress for each in localities), MAX_REQUESTS),
    )


def add_lrs(
    server: grpc.aio.Server,
    ingest: Ingest,
    *,
    rolling: Callable[[], Iterable[str]],
    until: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> LoadReports:
    """Serve `StreamLoadStats` on `server`; `until` ends every stream."""
    end = until if until is not None else asyncio.Event()
    reports = LoadReports(ingest, rolling, clock or SystemClock())

    async def stream_load_stats(_requests: object, context: grpc.aio.ServicerContext) -> None:
        await unless(end, reports.serve(context))

    methods = {"StreamLoadStats": grpc.stream_stream_rpc_method_handler(stream_load_stats)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    return reports
