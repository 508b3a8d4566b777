"""OTLP over gRPC: the collector services of traces, logs and metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from xds_server.ingest.ingest import GaugeOutcomes, Ingest, Outcomes, Source
from xds_server.ingest.otlp_json import logs_from_json, metrics_from_json, traces_from_json
from xds_server.ingest.rows import Drop
from xds_server.pb import otlp_pb2

TRACES: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
LOGS: Final = "opentelemetry.proto.collector.logs.v1.LogsService"
METRICS: Final = "opentelemetry.proto.collector.metrics.v1.MetricsService"

TURN: Final = 250
"""Spans, records or data points taken in one go; between two such turns everything else has its own."""

REJECTED: Final = frozenset(
    {
        Drop.NO_TIME,
        Drop.AHEAD,
        Drop.STALE,
        Drop.NO_LABEL,
        Drop.NO_VALUE,
        Drop.NOT_ALLOWED,
        Drop.FROM_BROWSER,
        Drop.TOO_MANY,
    }
)
"""What is told to the sender: it has done something wrong.

Most of what is dropped is dropped because nobody needs it, such as spans without an error, or of services that are not
in the mesh. An exporter would log each of those as a fault.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One of the three kinds of things that are taken. `rejected`: what a response counts, by its name in JSON."""

    source: Source
    service: str
    rejected: str
    from_protobuf: Callable[[bytes], Any]
    from_json: Callable[[bytes], Any]
    take: Callable[..., Outcomes | GaugeOutcomes]


SPANS: Final = Signal(
    source=Source.SPAN,
    service=TRACES,
    rejected="rejectedSpans",
    from_protobuf=otlp_pb2.ExportTraceServiceRequest.FromString,
    from_json=traces_from_json,
    take=Ingest.spans,
)
EVENTS: Final = Signal(
    source=Source.EVENT,
    service=LOGS,
    rejected="rejectedLogRecords",
    from_protobuf=otlp_pb2.ExportLogsServiceRequest.FromString,
    from_json=logs_from_json,
    take=Ingest.events,
)

GAUGES: Final = Signal(
    source=Source.METRIC,
    service=METRICS,
    rejected="rejectedDataPoints",
    from_protobuf=otlp_pb2.ExportMetricsServiceRequest.FromString,
    from_json=metrics_from_json,
    take=Ingest.gauges,
)
SIGNALS: Final = (SPANS, EVENTS, GAUGES)


async def in_turns(outcomes: Outcomes | GaugeOutcomes) -> Counter[Drop]:
    """Take everything; return what has been rejected, by reason. Nobody else waits for long."""
    rejected: Counter[Drop] = Counter()
    for n, outcome in enumerate(outcomes, 1):
        if isinstance(outcome, Drop) and outcome in REJECTED:
            rejected[outcome] += 1
        if n % TURN == 0:
            await asyncio.sleep(0)
    return rejected


def why(rejected: Counter[Drop]) -> str:
    """Say what was wrong, for a person."""
    return ", ".join(f"{n} {reason}" for reason, n in sorted(rejected.items())) + ": see docs/metrics.md"


def add_otlp(server: grpc.aio.Server, ingest: Ingest, *, until: asyncio.Event | None = None) -> None:
    """Serve `Export` of traces, of logs and of metrics on `server`.

    `until`: from then on exporters are told to come again, since nobody would take up what they send.
    """
    end = until if until is not None else asyncio.Event()
    for signal in SIGNALS:
        server.add_generic_rpc_handlers((_export_handler(signal, ingest, end),))


def _export_handler(signal: Signal, ingest: Ingest, end: asyncio.Event) -> grpc.GenericRpcHandler:
    async def export(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if end.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the control plane is ending")
        try:
            request = signal.from_protobuf(message)
        except DecodeError:
            ingest.unreadable(signal.source)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not an OTLP export request")
        rejected = await in_turns(signal.take(ingest, request))
        return response(rejected)

    return grpc.method_handlers_generic_handler(signal.service, {"Export": grpc.unary_unary_rpc_method_handler(export)})


def response(rejected: Counter[Drop]) -> bytes:
    """Return a serialised `Export…Response`: of all signals it has the same form. Empty: everything was taken."""
    if not rejected:
        return b""
    told = otlp_pb2.PartialSuccess(rejected=rejected.total(), error_message=why(rejected).encode())
    return otlp_pb2.ExportServiceResponse(partial_success=told).SerializeToString()
