"""The demo's shop over real HTTP: its pages, what its faults do and to whom, its books, its spans and events."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent import futures
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web

from xds_server.demo.fault import Fault, FaultKind
from xds_server.demo.shop import Shop, make_app
from xds_server.demo.shop_telemetry import Telemetry

EU = {"x-region": "eu", "x-user-id": "erna"}
POWER = {"x-plan": "pro", "x-user-id": "paul"}


class Visitor:
    """Asks one running shop."""

    def __init__(self, client: aiohttp.ClientSession, base: str) -> None:
        self._client, self._base = client, base

    async def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", **more: Any
    ) -> tuple[int, str, Mapping[str, str]]:
        async with self._client.request(method, self._base + path, headers=headers, **more) as response:
            return response.status, await response.text(), response.headers

    async def install(self, fault: Fault) -> None:
        status, text, _ = await self.ask("/_demo/fault", method="POST", json=fault.as_dict())
        assert status == 200, text

    async def stats(self) -> dict[str, Any]:
        async with self._client.get(self._base + "/_demo/stats") as response:
            segments: dict[str, Any] = (await response.json())["segments"]
            return segments


@asynccontextmanager
async def a_shop(otlp: str | None = None) -> AsyncIterator[Visitor]:
    shop = Shop(version="v2", telemetry=Telemetry("v2", otlp), rng=random.Random(1))
    runner = web.AppRunner(make_app(shop))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with aiohttp.ClientSession() as client:
            yield Visitor(client, f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def visiting(scene: Callable[[Visitor], Awaitable[None]]) -> None:
    async def play() -> None:
        async with a_shop() as visitor:
            await scene(visitor)

    asyncio.run(play())


def test_each_page_leads_on_to_the_next_until_the_goal() -> None:
    async def scene(shop: Visitor) -> None:
        path, seen = "/", []
        while path:
            status, text, headers = await shop.ask(path, EU)
            assert status == 200
            assert headers["x-shop-version"] == "v2"
            assert "x-demo-cause" not in headers
            seen.append(path)
            path = text.split('rel="next" href="')[1].split('"')[0] if 'rel="next"' in text else ""
        assert seen == ["/", "/search", "/product/7", "/cart", "/checkout", "/checkout/done"]
        assert (await shop.ask("/healthz"))[0] == 200

    visiting(scene)


def test_a_person_of_bad_luck_gets_an_error_by_chance() -> None:
    async def scene(shop: Visitor) -> None:
        status, _, headers = await shop.ask("/cart", {**EU, "x-demo-draw": "error"})
        assert (status, headers["x-demo-cause"]) == (500, "chance")

    visiting(scene)


def test_errors_are_answered_503_to_their_segment_alone() -> None:
    async def scene(shop: Visitor) -> None:
        await shop.install(Fault(version="v2", segment="power", kind=FaultKind.ERRORS, size=0.5))
        answers = [await shop.ask("/", POWER) for _ in range(40)]
        assert {status for status, _, _ in answers} == {200, 503}
        assert {headers["x-demo-cause"] for status, _, headers in answers if status == 503} == {"fault"}
        assert {(await shop.ask("/", EU))[0] for _ in range(20)} == {200}

    visiting(scene)


def test_a_dead_end_answers_200_and_leads_nowhere() -> None:
    async def scene(shop: Visitor) -> None:
        await shop.install(Fault(version="v2", segment="eu", kind=FaultKind.ABANDONMENT))
        status, text, headers = await shop.ask("/checkout", EU, "POST")
        assert (status, 'rel="next"' in text, headers["x-demo-cause"]) == (200, False, "fault")
        assert 'rel="next"' in (await shop.ask("/cart", EU))[1]
        assert 'rel="next"' in (await shop.ask("/checkout", POWER, "POST"))[1]

    visiting(scene)


def test_slowness_delays_its_segments_requests() -> None:
    async def scene(shop: Visitor) -> None:
        await shop.install(Fault(version="v2", segment="eu", kind=FaultKind.LATENCY, size=1.0, delay_ms=150))
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await shop.ask("/", EU))[0] == 200
        assert loop.time() - began > 0.15

    visiting(scene)


def test_a_crash_fails_every_request_of_everybody_until_healed() -> None:
    async def scene(shop: Visitor) -> None:
        await shop.install(Fault(version="v2", segment="*", kind=FaultKind.CRASH))
        assert {(await shop.ask(path, who))[0] for path in ("/", "/checkout") for who in (EU, POWER)} == {503}
        await shop.ask("/_demo/fault", method="DELETE")
        assert (await shop.ask("/", EU))[0] == 200

    visiting(scene)


def test_the_books_tell_first_last_and_first_faulty_request_of_each_segment() -> None:
    async def scene(shop: Visitor) -> None:
        await shop.ask("/", EU)
        await shop.install(Fault(version="v2", segment="eu", kind=FaultKind.CRASH))
        await shop.ask("/", EU)
        await shop.ask("/healthz")
        await shop.ask("/")  # nobody in particular
        eu = (await shop.stats())["eu"]
        assert (eu["requests"], eu["faulty"]) == (2, 1)
        assert eu["first_unix"] < eu["first_fault_unix"] == eu["last_unix"]
        assert (await shop.stats())["default"]["requests"] == 0

    visiting(scene)


def test_what_comes_through_an_envoy_cannot_reach_the_demos_own_pages() -> None:
    async def scene(shop: Visitor) -> None:
        assert (await shop.ask("/_demo/stats", {"x-envoy-expected-rq-timeout-ms": "1"}))[0] == 404
        assert (await shop.ask("/_demo/fault", {"x-forwarded-proto": "http"}, "POST", json={}))[0] == 404

    visiting(scene)


@pytest.mark.parametrize(
    "raw",
    [{}, {"version": "v2", "segment": "nobody", "kind": "crash"}, {"version": "v2", "segment": "eu", "kind": "gloom"}],
)
def test_a_fault_that_is_none_is_refused(raw: dict[str, str]) -> None:
    async def scene(shop: Visitor) -> None:
        assert (await shop.ask("/_demo/fault", method="POST", json=raw))[0] == 400

    visiting(scene)


class Collector:
    """Takes OTLP as any collector does, and counts."""

    def __init__(self) -> None:
        self.spans: Counter[tuple[str, int]] = Counter()
        self.events: Counter[tuple[str, str]] = Counter()
        self.versions: set[str] = set()

    def serve(self, server: grpc.Server) -> None:
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

        def take_traces(request: Any, _: grpc.ServicerContext) -> Any:
            for resource in request.resource_spans:
                self._note(resource.resource)
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    self.spans[_attributes(span)["user.id"], span.status.code] += 1
            return traces.ExportTraceServiceResponse()

        def take_logs(request: Any, _: grpc.ServicerContext) -> Any:
            for resource in request.resource_logs:
                self._note(resource.resource)
                for record in (record for scope in resource.scope_logs for record in scope.log_records):
                    self.events[record.event_name, _attributes(record)["user.id"]] += 1
            return logs.ExportLogsServiceResponse()

        for service, take, request, reply in (
            ("trace.v1.TraceService", take_traces, traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
            ("logs.v1.LogsService", take_logs, logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse),
        ):
            handler = grpc.unary_unary_rpc_method_handler(
                take, request_deserializer=request.FromString, response_serializer=reply.SerializeToString
            )
            name = f"opentelemetry.proto.collector.{service}"
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))

    def _note(self, resource: Any) -> None:
        self.versions.add(_attributes(resource)["service.name"] + " " + _attributes(resource)["service.version"])


def _attributes(holder: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in holder.attributes}


def test_spans_and_events_reach_a_collector_and_a_dead_wishlist_shows_only_there() -> None:
    collector, server = Collector(), grpc.server(futures.ThreadPoolExecutor(2))
    collector.serve(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    async def play() -> None:
        async with a_shop(f"127.0.0.1:{port}") as shop:
            await shop.ask("/", EU)
            await shop.ask("/cart", {**EU, "x-demo-draw": "error"})
            assert (await shop.ask("/api/wishlist", POWER, "POST"))[0] == 200
            await shop.install(Fault(version="v2", segment="eu", kind=FaultKind.FEATURE))
            status, _, headers = await shop.ask("/api/wishlist", EU, "POST")
            assert (status, headers["x-demo-cause"]) == (200, "fault")

    try:
        asyncio.run(play())
    finally:
        server.stop(None)
    error = 2
    assert collector.versions == {"shop v2"}
    assert collector.spans == {("erna", 0): 2, ("erna", error): 1, ("paul", 0): 1}
    assert collector.events == {("page.view", "erna"): 1, ("feature.used", "paul"): 1}
