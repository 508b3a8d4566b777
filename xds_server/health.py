"""gRPC's own health checks: by them load balancers, probes and Envoys know whether to send anything here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2 as pb

SERVICE: Final = "grpc.health.v1.Health"
MAX_WATCHERS: Final = 1_000

_Context: TypeAlias = grpc.aio.ServicerContext


class Health:
    """All services of a server are as well as it is.

    The servicer of gRPC's package never ends its watches, so that the server would have to cancel them.
    """

    def __init__(self, services: Iterable[str], ready: asyncio.Event, until: asyncio.Event) -> None:
        self._services = frozenset({"", *services})
        self._ready = ready
        self._until = until
        self._n_watchers = 0

    def _reply(self, service: str) -> pb.HealthCheckResponse:
        if service not in self._services:
            return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
        is_serving = self._ready.is_set() and not self._until.is_set()
        status = pb.HealthCheckResponse.SERVING if is_serving else pb.HealthCheckResponse.NOT_SERVING
        return pb.HealthCheckResponse(status=status)

    async def check(self, request: pb.HealthCheckRequest, context: _Context) -> pb.HealthCheckResponse:
        """Answer now."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service '{request.service[:200]}' here")
        return self._reply(request.service)

    async def list_all(self, request: pb.HealthListRequest, context: _Context) -> pb.HealthListResponse:
        """Answer for every service."""
        del request, context
        return pb.HealthListResponse(statuses={service: self._reply(service) for service in self._services})

    async def watch(self, request: pb.HealthCheckRequest, context: _Context) -> AsyncIterator[pb.HealthCheckResponse]:
        """Answer now and at each change; the stream ends when the control plane does."""
        if self._n_watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} watch already; try again later")
        self._n_watchers += 1
        events = tuple(asyncio.create_task(event.wait()) for event in (self._ready, self._until))
        try:
            told, is_over = None, False
            while not is_over:
                is_over = self._until.is_set()  # it may be set while the reply is on its way
                if told != (reply := self._reply(request.service)):
                    yield reply
                    told = reply
                if not self._until.is_set():
                    await asyncio.wait([e for e in events if not e.done()], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._n_watchers -= 1
            for event in events:
                event.cancel()


def add_health(server: grpc.aio.Server, services: Iterable[str], *, ready: asyncio.Event, until: asyncio.Event) -> None:
    """Serve the health of `services`, and of the whole server by the name "": SERVING from `ready` until `until`."""
    health = Health((*services, SERVICE), ready, until)
    ask = pb.HealthCheckRequest.FromString
    tell = pb.HealthCheckResponse.SerializeToString
    methods = {
        "Check": grpc.unary_unary_rpc_method_handler(health.check, ask, tell),
        "Watch": grpc.unary_stream_rpc_method_handler(health.watch, ask, tell),
        "List": grpc.unary_unary_rpc_method_handler(
            health.list_all, pb.HealthListRequest.FromString, pb.HealthListResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
