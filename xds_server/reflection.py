"""gRPC server reflection: generic clients learn from the server itself what it serves and how to ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeAlias

import grpc
import grpc.aio
from envoy.service.accesslog.v3 import als_pb2  # noqa: F401 -- this and the others are looked up by name
from envoy.service.auth.v3 import external_auth_pb2  # noqa: F401
from envoy.service.cluster.v3 import cds_pb2  # noqa: F401
from envoy.service.discovery.v3 import ads_pb2  # noqa: F401
from envoy.service.endpoint.v3 import eds_pb2  # noqa: F401
from envoy.service.listener.v3 import lds_pb2  # noqa: F401
from envoy.service.load_stats.v3 import lrs_pb2  # noqa: F401
from envoy.service.route.v3 import rds_pb2, srds_pb2  # noqa: F401
from envoy.service.runtime.v3 import rtds_pb2  # noqa: F401
from envoy.service.status.v3 import csds_pb2  # noqa: F401
from grpc_reflection.v1alpha import reflection, reflection_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2  # noqa: F401
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2  # noqa: F401
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # noqa: F401

from xds_server import control, health, history_api, training
from xds_server.ads import csds
from xds_server.ads.servicer import METHODS
from xds_server.discovery import servicer as registry
from xds_server.ending import until as as_long_as
from xds_server.ingest import als, lrs, otlp
from xds_server.learnt import servicer as learnt

NAMES: Final = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
"""Both by which clients ask for it; the messages are the same."""

OTLP_SERVICES: Final = (otlp.TRACES, otlp.LOGS, otlp.METRICS)
MAIN_SERVICES: Final = (
    *METHODS,
    als.SERVICE,
    lrs.SERVICE,
    csds.SERVICE,
    learnt.SERVICE,
    control.SERVICE,
    history_api.SERVICE,
    registry.SERVICE,
    training.SERVICE,
    *OTLP_SERVICES,
)
"""What each port serves, besides health and this."""

_Context: TypeAlias = grpc.aio.ServicerContext
_Request: TypeAlias = reflection_pb2.ServerReflectionRequest
_Response: TypeAlias = reflection_pb2.ServerReflectionResponse


def add_reflection(server: grpc.aio.Server, services: Iterable[str], *, until: asyncio.Event) -> None:
    """Tell of `services` on `server`; `until` ends every stream."""
    servicer = reflection.aio.ReflectionServicer((*services, health.SERVICE, *NAMES))

    async def info(requests: AsyncIterator[_Request], context: _Context) -> AsyncIterator[_Response]:
        async for response in servicer.ServerReflectionInfo(as_long_as(until, requests), context):
            yield response

    handler = grpc.stream_stream_rpc_method_handler(
        info, request_deserializer=_Request.FromString, response_serializer=_Response.SerializeToString
    )
    for service in NAMES:
        methods = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
