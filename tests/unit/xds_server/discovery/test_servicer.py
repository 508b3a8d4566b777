"""The registry over a real gRPC channel, and the registrar that speaks to it for an instance."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from tests.waiting import until
from xds_server.client import connected
from xds_server.clock import SystemClock
from xds_server.discovery.servicer import add_registry
from xds_server.discovery.sources import EndpointSources
from xds_server.errors import ServerError
from xds_server.pb import registry_pb2 as pb
from xds_server.pb.registry_pb2_grpc import RegistryStub
from xds_server.registrar import Registrar
from xds_server.settings import parse_mesh

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions:
      v1: {endpoints: ["127.0.0.1:9001"]}
      v2: {endpoints: {registered: {lease: 1s}}}
    baseline: v1
sidecars:
  s: {listen: "127.0.0.9:80"}
"""
HERE = "127.0.0.1"


@dataclass(slots=True)
class Plane:
    """A registry that is served. `lagging`: Envoys that have not acknowledged what is published."""

    sources: EndpointSources
    port: int
    lagging: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    stub: Any = None

    def here(self) -> list[int]:
        return [port for _, port in self.sources.current["shop|v2"]]

    async def register(self, port: int = 80, **more: Any) -> pb.Lease:
        request = {"service": "shop", "version": "v2", "address": f"{HERE}:{port}", **more}
        reply: pb.Lease = await self.stub.Register(pb.RegisterRequest(**request))
        return reply


@asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[Plane]:
    clock = SystemClock()
    server = grpc.aio.server()
    plane = Plane(EndpointSources(parse_mesh(MESH, "mesh.yaml"), clock=clock), port)
    add_registry(server, plane.sources, lambda _: tuple(plane.lagging), clock=clock, until=plane.stop)
    plane.port = server.add_insecure_port(f"{HERE}:{port}")
    await server.start()
    looking = asyncio.create_task(plane.sources.run())
    try:
        async with grpc.aio.insecure_channel(f"{HERE}:{plane.port}") as channel:
            plane.stub = RegistryStub(channel)  # type: ignore[no-untyped-call]  # generated
            yield plane
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        await server.stop(None)


def run(scenario: Callable[[Plane], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), serving() as plane:
            await scenario(plane)

    asyncio.run(main())


def test_an_instance_comes_stays_and_goes() -> None:
    async def scenario(plane: Plane) -> None:
        lease = await plane.register()
        assert lease.lease_ms == 1_000
        for _ in range(5):
            await asyncio.sleep(0.4)
            assert (await plane.stub.Renew(pb.RenewRequest(lease=lease.lease))).lease == lease.lease
        (listed, registered) = (await plane.stub.List(pb.ListRequest(service="shop"))).versions
        assert (listed.source, [each.address for each in listed.endpoints]) == ("mesh", [f"{HERE}:9001"])
        assert (registered.source, [each.address for each in registered.endpoints]) == ("registered", [f"{HERE}:80"])
        assert 0 < registered.endpoints[0].left_ms <= 1_000
        reply = await plane.stub.Deregister(pb.DeregisterRequest(lease=lease.lease))
        assert (reply.message, list(reply.waiting_for)) == (f"{HERE}:80 is no longer an endpoint of shop v2", [])
        assert plane.here() == []

    run(scenario)


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        ({"service": "cart"}, "NOT_FOUND", "no service with registered endpoints 'cart'; known: shop"),
        ({"version": "v1"}, "NOT_FOUND", "no version of shop with registered endpoints 'v1'; known: v2"),
        ({"version": ""}, "INVALID_ARGUMENT", "version"),
        ({"address": "shop.internal:80"}, "INVALID_ARGUMENT", "a host name"),
        ({"address": "0.0.0.0:80"}, "INVALID_ARGUMENT", "not the address of one server"),
        ({"address": "127.0.0.9:80"}, "INVALID_ARGUMENT", "sidecar s itself listens there: a loop"),
        ({"address": f"{HERE}:0"}, "INVALID_ARGUMENT", "port"),
        ({"lease_ms": 60_000}, "INVALID_ARGUMENT", "a lease of 60 s is out of range; legal: 1 s to 1 s"),
        ({"version": "v" * 2_000}, "INVALID_ARGUMENT", "legal: up to 1000"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_what_can(request_: dict[str, Any], code: str, says: str) -> None:
    async def scenario(plane: Plane) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await plane.register(**request_)
        assert refused.value.code().name == code
        assert says in (refused.value.details() or "")
        assert plane.here() == []

    run(scenario)


def test_a_lease_that_is_no_more_is_not_found() -> None:
    async def scenario(plane: Plane) -> None:
        for call in (plane.stub.Renew(pb.RenewRequest(lease="x")), plane.stub.Deregister(pb.DeregisterRequest())):
            with pytest.raises(grpc.aio.AioRpcError, match="register again"):
                await call
        with pytest.raises(grpc.aio.AioRpcError, match="no service 'cart'; known: shop"):
            await plane.stub.List(pb.ListRequest(service="cart"))

    run(scenario)


def test_who_leaves_may_wait_until_no_envoy_sends_requests_there() -> None:
    """All who wait do so together; time, or the end of the control plane, ends each wait with who is late."""

    async def scenario(plane: Plane) -> None:
        leases = [(await plane.register(port)).lease for port in (81, 82, 83, 84)]
        plane.lagging = ["edge"]

        async def leave(lease: str, wait_ms: int) -> list[str]:
            request = pb.DeregisterRequest(lease=lease, wait_ms=wait_ms)
            return list((await plane.stub.Deregister(request)).waiting_for)

        assert await leave(leases[0], 0) == ["edge"]
        began = time.monotonic()
        assert await leave(leases[1], 200) == ["edge"]
        assert 0.2 <= time.monotonic() - began < 2.0
        waiting = asyncio.create_task(leave(leases[2], 10_000))
        await until(lambda: plane.here() == [84])
        await asyncio.sleep(0.2)
        assert not waiting.done()
        plane.lagging = []
        assert await waiting == []
        plane.lagging = ["edge"]
        waiting = asyncio.create_task(leave(leases[3], 10_000))
        await until(lambda: plane.here() == [])
        plane.stop.set()
        assert await asyncio.wait_for(waiting, 2) == ["edge"]
        with pytest.raises(grpc.aio.AioRpcError, match="legal: 0 to 60000"):
            await leave("x", 60_001)

    run(scenario)


def test_a_person_removes_an_endpoint() -> None:
    async def scenario(plane: Plane) -> None:
        await plane.register(81)
        request = {"service": "shop", "version": "v2", "address": f"{HERE}:81"}
        with pytest.raises(grpc.aio.AioRpcError, match="who"):
            await plane.stub.Remove(pb.RemoveRequest(**request))
        reply = await plane.stub.Remove(pb.RemoveRequest(**request, who="ada"))
        assert reply.message == f"{HERE}:81 is no longer an endpoint of shop v2"
        assert plane.here() == []

    run(scenario)


# --- beside an instance


@dataclass(slots=True)
class Beside:
    """A registrar in a thread, whose looks are twenty times as frequent."""

    port: int
    ended: threading.Event = field(default_factory=threading.Event)
    said: list[str] = field(default_factory=list)

    async def run(self, plane_port: int, version: str = "v2") -> None:
        def go() -> None:
            with connected(f"{HERE}:{plane_port}", RegistryStub) as client:
                Registrar(
                    client=client, service="shop", version=version, address=(HERE, self.port),
                    shown=f"{HERE}:{self.port}", wait=lambda seconds: self.ended.wait(seconds / 20),
                    say=self.said.append, drain_s=0.0,
                ).run()  # fmt: skip

        await asyncio.to_thread(go)


async def instance(port: int = 0) -> asyncio.Server:
    return await asyncio.start_server(lambda _, writer: writer.close(), HERE, port)


def test_the_registrar_keeps_an_instance_registered_for_as_long_as_it_answers() -> None:
    async def scenario(plane: Plane) -> None:
        server = await instance()
        port = server.sockets[0].getsockname()[1]
        beside = Beside(port)
        running = asyncio.create_task(beside.run(plane.port))
        await until(lambda: plane.here() == [port])
        await asyncio.sleep(1.5)
        assert (plane.here(), plane.sources.stale_n()) == ([port], {("shop", "v2"): 0}), "renewed"
        server.close()
        await until(lambda: plane.here() == [])
        server = await instance(port)
        await until(lambda: plane.here() == [port])
        plane.sources.remove("shop", "v2", f"{HERE}:{port}", who="ada", reason="")
        await until(lambda: plane.here() == [port])
        beside.ended.set()
        await running
        server.close()
        assert plane.here() == []
        assert [text for text in beside.said if "register again" in text]
        assert beside.said[-1] == f"ending; {HERE}:{port} is no longer an endpoint of shop v2"

    run(scenario)


def test_the_registrar_waits_for_instance_and_control_plane_and_says_so_once() -> None:
    async def main() -> None:
        with socket.socket() as probe:
            probe.bind((HERE, 0))
            plane_port = probe.getsockname()[1]
        async with asyncio.timeout(20), await instance() as server:
            port = server.sockets[0].getsockname()[1]
            beside = Beside(port)
            running = asyncio.create_task(beside.run(plane_port))
            await asyncio.sleep(0.5)
            assert len(beside.said) == 1
            assert "no control plane answers" in beside.said[0]
            async with serving(plane_port) as plane:
                await until(lambda: plane.here() == [port])
                beside.ended.set()
                await running
                assert plane.here() == []

    asyncio.run(main())


def test_the_registrar_ends_where_it_is_refused() -> None:
    async def scenario(plane: Plane) -> None:
        async with await instance() as server:
            beside = Beside(server.sockets[0].getsockname()[1])
            with pytest.raises(ServerError, match="no version of shop with registered endpoints 'v3'"):
                await beside.run(plane.port, "v3")

    run(scenario)
