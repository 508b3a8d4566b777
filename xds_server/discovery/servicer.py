"""The registry over gRPC: a thin servicer over where endpoints come from."""

# ruff: noqa: N802 (methods are named in the .proto)

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import grpc

from xds_server import access
from xds_server.answering import answering, bound, require
from xds_server.clock import Clock
from xds_server.discovery.registry import Key, Registration, show_address
from xds_server.discovery.sources import EndpointSources, VersionEndpoints
from xds_server.errors import BadRequestError, UnknownNameError
from xds_server.pb import registry_pb2 as pb
from xds_server.pb import registry_pb2_grpc as pb_grpc
from xds_server.resources.clusters import cluster_name

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Registry"].full_name
MAX_WAIT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.05

Laggards: TypeAlias = Callable[[str], Sequence[str]]
"""Connected nodes that may still have other endpoints of a cluster than they should."""

_Context: TypeAlias = grpc.aio.ServicerContext


def add_registry(
    server: grpc.aio.Server, sources: EndpointSources, laggards: Laggards, *, clock: Clock, until: asyncio.Event
) -> None:
    """Serve the registry on `server`; `until` ends every wait."""
    servicer = RegistryServicer(sources, laggards, clock, until)
    pb_grpc.add_RegistryServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]  # generated


class RegistryServicer(pb_grpc.RegistryServicer):
    """Reads requests, asks `EndpointSources`, writes replies."""

    def __init__(self, sources: EndpointSources, laggards: Laggards, clock: Clock, until: asyncio.Event) -> None:
        self._sources = sources
        self._laggards = laggards
        self._clock = clock
        self._until = until
        self._looks: dict[Key, asyncio.Task[None]] = {}  # one for all who wait for the same version

    async def Register(self, request: pb.RegisterRequest, context: _Context) -> pb.Lease:
        async with answering(context):
            require(service=request.service, version=request.version, address=request.address)
            bound(request.service, request.version, request.address)
            registration = self._sources.register(
                request.service,
                request.version,
                request.address,
                lease_s=request.lease_ms / 1_000,
                who=context.peer() or "somebody",
            )
            return _lease(registration)

    async def Renew(self, request: pb.RenewRequest, context: _Context) -> pb.Lease:
        async with answering(context):
            bound(request.lease)
            return _lease(self._sources.renew(request.lease))

    async def Deregister(self, request: pb.DeregisterRequest, context: _Context) -> pb.Removal:
        async with answering(context):
            bound(request.lease)
            wait_s = _wait_s(request.wait_ms)
            return await self._removal([self._sources.deregister(request.lease)], wait_s)

    async def Remove(self, request: pb.RemoveRequest, context: _Context) -> pb.Removal:
        async with answering(context):
            require(service=request.service, version=request.version, who=request.who)
            bound(request.service, request.version, request.address, request.who, request.reason)
            wait_s = _wait_s(request.wait_ms)
            removed = self._sources.remove(
                request.service,
                request.version,
                request.address or None,
                who=access.current().signed(request.who),
                reason=request.reason,
            )
            return await self._removal(removed, wait_s)

    async def List(self, request: pb.ListRequest, context: _Context) -> pb.ListReply:
        async with answering(context):
            bound(request.service)
            found = [v for v in self._sources.view(request.service or None) if access.current().sees(v.service)]
            if request.service and not found:
                raise UnknownNameError("service", request.service, {each.service for each in self._sources.view()})
            now_s = self._clock.monotonic()
            return pb.ListReply(
                at_unix_ns=self._clock.now_unix_ns(), versions=[_endpoints(each, now_s) for each in found]
            )

    async def _removal(self, removed: Sequence[Registration], wait_s: float) -> pb.Removal:
        """Answer once what was removed is out of every Envoy, or the time is up."""
        key = removed[0].key
        shown = ", ".join(show_address(registration.address) for registration in removed)
        waiting_for = await self._in_force(key, wait_s)
        return pb.Removal(message=f"{shown} is no longer an endpoint of {key[0]} {key[1]}", waiting_for=waiting_for)

    async def _in_force(self, key: Key, wait_s: float) -> Sequence[str]:
        if wait_s:
            await self._sources.told()
            look = self._looks.get(key)
            if look is None:
                look = self._looks[key] = asyncio.create_task(self._look(key))
                look.add_done_callback(lambda _: self._looks.pop(key, None))
            end = asyncio.create_task(self._until.wait())
            await asyncio.wait((look, end), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            end.cancel()
        return self._laggards(cluster_name(*key))

    async def _look(self, key: Key) -> None:
        """Look until no Envoy lags behind, and nobody needs to know any more."""
        until_s = self._clock.monotonic() + MAX_WAIT_S
        while self._laggards(cluster_name(*key)) and self._clock.monotonic() < until_s:
            await self._clock.sleep(LOOK_EVERY_S)


def _wait_s(wait_ms: int) -> float:
    if wait_ms > MAX_WAIT_S * 1_000:
        raise BadRequestError(f"wait_ms {wait_ms} is out of range; legal: 0 to {MAX_WAIT_S * 1_000:.0f}")
    return wait_ms / 1_000


def _lease(registration: Registration) -> pb.Lease:
    return pb.Lease(lease=registration.lease, lease_ms=round(registration.lease_s * 1_000))


def _endpoints(each: VersionEndpoints, now_s: float) -> pb.Endpoints:
    rows: Iterable[pb.Endpoint]
    if each.registrations:
        rows = (_registered(registration, now_s) for registration in each.registrations)
    else:
        rows = (pb.Endpoint(address=show_address(address)) for address in each.endpoints)
    return pb.Endpoints(
        service=each.service, version=each.version, source=each.source, endpoints=rows, refused=each.why_not
    )


def _registered(registration: Registration, now_s: float) -> pb.Endpoint:
    return pb.Endpoint(
        address=show_address(registration.address),
        stale=registration.is_stale,
        since_unix_ns=registration.since_unix_ns,
        lease_ms=round(registration.lease_s * 1_000),
        left_ms=0 if registration.is_stale else max(0, round((registration.expires_s - now_s) * 1_000)),
    )
