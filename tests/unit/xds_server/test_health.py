"""gRPC's health checks, asked by a real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from xds_server.health import SERVICE, add_health

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@dataclass
class Place:
    health: HealthStub
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)

    async def check(self, service: str = "") -> int:
        return (await self.health.Check(HealthCheckRequest(service=service))).status


@asynccontextmanager
async def serving() -> AsyncIterator[Place]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        place = Place(HealthStub(channel))
        add_health(server, ("shop.Shop",), ready=place.ready, until=place.end)
        await server.start()
        yield place
    await server.stop(None)


def run(scenario: Callable[[Place], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10), serving() as place:
            await scenario(place)

    asyncio.run(main())


def test_it_serves_from_the_first_snapshot_until_it_ends() -> None:
    async def scenario(place: Place) -> None:
        assert await place.check() == NOT_SERVING
        place.ready.set()
        assert [await place.check(name) for name in ("", "shop.Shop", SERVICE)] == [SERVING] * 3
        listed = (await place.health.List(HealthListRequest())).statuses
        assert {name: each.status for name, each in listed.items()} == {"": 1, "shop.Shop": 1, SERVICE: 1}
        place.end.set()
        assert await place.check("shop.Shop") == NOT_SERVING

    run(scenario)


def test_a_service_that_is_not_here_is_not_found() -> None:
    async def scenario(place: Place) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await place.check("nobody")
        watch = place.health.Watch(HealthCheckRequest(service="nobody"))
        assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        place.end.set()
        assert await watch.read() is grpc.aio.EOF

    run(scenario)


def test_who_watches_is_told_of_each_change_once() -> None:
    async def scenario(place: Place) -> None:
        watch = place.health.Watch(HealthCheckRequest())
        assert (await watch.read()).status == NOT_SERVING
        place.ready.set()
        assert (await watch.read()).status == SERVING
        place.end.set()
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF

    run(scenario)


def test_watches_are_bounded_and_a_place_is_free_when_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds_server.health.MAX_WATCHERS", 1)

    async def scenario(place: Place) -> None:
        place.ready.set()
        first = place.health.Watch(HealthCheckRequest())
        assert (await first.read()).status == SERVING
        second = place.health.Watch(HealthCheckRequest())
        assert await second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
        for _ in range(500):
            third = place.health.Watch(HealthCheckRequest())
            if await third.read() is not grpc.aio.EOF:
                break
            await asyncio.sleep(0.01)
        assert third.cancel()

    run(scenario)
