"""OTLP over gRPC: the traces and logs collector services. Metrics are not taken: the method is not implemented."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio

from xds_server.ingest.ingest import Ingest

TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
LOGS = "opentelemetry.proto.collector.logs.v1.LogsService"


def add_otlp(server: grpc.aio.Server, ingest: Ingest, *, until: asyncio.Event | None = None) -> None:
    """Serve `Export` of traces and of logs on `server`.

    What is dropped inside a readable request is counted here and not reported back: to an exporter a rejected span is a
    fault to retry or to log, while most spans are dropped because nobody needs them. `until`: from then on exporters
    are told to come again, since nobody would take up what they send.
    """
    end = until if until is not None else asyncio.Event()
    for service, take in ((TRACES, ingest.take_spans), (LOGS, ingest.take_events)):
        server.add_generic_rpc_handlers((_export_handler(service, take, end),))


def _export_handler(service: str, take: Callable[[bytes], bool], end: asyncio.Event) -> grpc.GenericRpcHandler:
    async def export(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if end.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the control plane is ending")
        if not take(request):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not an OTLP export request")
        return b""  # an Export…Response without partial_success: everything was taken

    return grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(export)})
