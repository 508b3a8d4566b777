"""Client status discovery over a real gRPC channel, with scripted xDS clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.status.v3 import csds_pb2 as pb
from envoy.service.status.v3.csds_pb2_grpc import ClientStatusDiscoveryServiceStub
from envoy.type.matcher.v3.node_pb2 import NodeMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.struct_pb2 import StructMatcher

from tests.unit.xds_server.ads.test_cache import CDS, MESH, RDS, Client, splits, until
from xds_server.ads.cache import AdsCache
from xds_server.ads.csds import add_csds
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads

Config: TypeAlias = pb.ClientConfig.GenericXdsConfig
ROUTES = "sidecar|10000"


class Place:
    """An ADS server that tells of its clients."""

    def __init__(self, cache: AdsCache, channel: grpc.aio.Channel) -> None:
        self.cache = cache
        self.csds = ClientStatusDiscoveryServiceStub(channel)
        self.end = asyncio.Event()
        self._channel = channel

    def client(self) -> Client:
        return Client(self._channel)

    async def fetch(self, *matchers: NodeMatcher, exclude: bool = False) -> dict[str, dict[tuple[str, str], Config]]:
        """The entries by type and name, by node."""
        request = pb.ClientStatusRequest(node_matchers=matchers, exclude_resource_contents=exclude)
        return told(await self.csds.FetchClientStatus(request))

    async def one(self, name: str = ROUTES, *, exclude: bool = False) -> Config:
        """The entry of the only route configuration of the only node."""
        (entries,) = (await self.fetch(exclude=exclude)).values()
        return entries[RDS.url, name]


def told(response: pb.ClientStatusResponse) -> dict[str, dict[tuple[str, str], Config]]:
    return {
        config.node.id: {(entry.type_url, entry.name): entry for entry in config.generic_xds_configs}
        for config in response.config
    }


@asynccontextmanager
async def serving() -> AsyncIterator[Place]:
    server, cache = grpc.aio.server(options=SERVER_OPTIONS), AdsCache()
    port = server.add_insecure_port("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        place = Place(cache, channel)
        add_ads(server, cache)
        add_csds(server, cache, until=place.end)
        await server.start()
        yield place
    await server.stop(None)


def run(scenario: Callable[[Place], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), serving() as place:
            await scenario(place)

    asyncio.run(main())


def id_is(**pattern: str | bool) -> NodeMatcher:
    return NodeMatcher(node_id=StringMatcher(**pattern))


def test_a_resource_is_stale_until_its_ack_then_synced_with_its_content() -> None:
    async def scenario(place: Place) -> None:
        place.cache.publish(MESH, splits(1))
        client = place.client()
        response = await client.take_routes()
        entry = await place.one()
        assert (entry.config_status, entry.client_status) == (pb.STALE, 1)  # REQUESTED
        assert (entry.version_info, entry.HasField("xds_config")) == ("", False)
        await client.ask(RDS, ROUTES, nonce=response.nonce)
        await until(lambda: place.cache.counters.acks == 1)
        entry = await place.one()
        assert (entry.config_status, entry.client_status) == (pb.SYNCED, 3)  # ACKED
        assert entry.version_info
        assert not entry.HasField("error_state")
        routes = RouteConfiguration.FromString(entry.xds_config.value)
        assert entry.xds_config.type_url == RDS.url
        assert routes.name == ROUTES

    run(scenario)


def test_what_was_rejected_is_told_beside_what_the_client_still_has() -> None:
    async def scenario(place: Place) -> None:
        place.cache.publish(MESH, splits(1))
        client = place.client()
        response = await client.take_routes()
        await client.ask(RDS, ROUTES, nonce=response.nonce)
        await until(lambda: place.cache.counters.acks == 1)
        good = await place.one()
        place.cache.publish(MESH, splits(2))
        response = await client.read()
        stale = await place.one()
        assert (stale.config_status, stale.client_status) == (pb.STALE, 3)
        await client.ask(RDS, ROUTES, nonce=response.nonce, error="no such thing")
        await until(lambda: place.cache.counters.nacks == 1)
        bad = await place.one()
        assert (bad.config_status, bad.client_status) == (pb.ERROR, 4)  # NACKED
        assert (bad.version_info, bad.xds_config) == (good.version_info, good.xds_config)
        assert bad.error_state.details == "no such thing"
        assert bad.error_state.version_info not in ("", good.version_info)
        assert bad.error_state.failed_configuration == response.resources[0]
        seen_ns = place.cache.nodes()[0].rejections[0].at_unix_ns
        assert abs(bad.error_state.last_update_attempt.ToNanoseconds() - seen_ns) < 1_000
        without = await place.one(exclude=True)
        assert not without.HasField("xds_config")
        assert not without.error_state.HasField("failed_configuration")
        assert without.error_state.details == "no such thing"
        # The next good one ends it.
        place.cache.publish(MESH, splits(3))
        response = await client.read()
        await client.ask(RDS, ROUTES, nonce=response.nonce)
        await until(lambda: place.cache.counters.acks == 2)
        entry = await place.one()
        assert (entry.config_status, entry.HasField("error_state")) == (pb.SYNCED, False)

    run(scenario)


def test_what_waits_is_not_sent_and_what_is_not_there_does_not_exist() -> None:
    """Routes wait until the clusters that they name have been taken."""

    async def scenario(place: Place) -> None:
        place.cache.publish(MESH, splits(1))
        client = place.client()
        await client.ask(CDS, node="n1", cluster="c1")
        await client.ask(RDS, ROUTES, "nobody")
        assert (await client.read()).type_url == CDS.url
        await until(lambda: len(place.cache.nodes()) == 1)
        (config,) = (await place.csds.FetchClientStatus(pb.ClientStatusRequest())).config
        assert (config.node.id, config.node.cluster) == ("n1", "c1")
        entries = told(pb.ClientStatusResponse(config=[config]))["n1"]
        routes, missing = entries[RDS.url, ROUTES], entries[RDS.url, "nobody"]
        assert (routes.config_status, routes.client_status) == (pb.NOT_SENT, 1)  # REQUESTED
        assert (missing.config_status, missing.client_status) == (pb.NOT_SENT, 2)  # DOES_NOT_EXIST
        clusters = {name for kind, name in entries if kind == CDS.url}
        assert {entries[CDS.url, name].config_status for name in clusters} == {pb.STALE}

    run(scenario)


@pytest.mark.parametrize(
    ("matchers", "found"),
    [
        ([], {"web-1", "web-2", "API-1"}),
        ([NodeMatcher()], {"web-1", "web-2", "API-1"}),
        ([id_is(exact="web-1")], {"web-1"}),
        ([id_is(prefix="web-")], {"web-1", "web-2"}),
        ([id_is(suffix="-1")], {"web-1", "API-1"}),
        ([id_is(contains="eb-2")], {"web-2"}),
        ([id_is(exact="api-1")], set()),
        ([id_is(exact="api-1", ignore_case=True)], {"API-1"}),
        ([NodeMatcher(node_id=StringMatcher(safe_regex=RegexMatcher(regex=r"\w+-2")))], {"web-2"}),
        ([NodeMatcher(node_id=StringMatcher(safe_regex=RegexMatcher(regex="web")))], set()),
        ([id_is(exact="web-1"), id_is(exact="API-1")], {"web-1", "API-1"}),
    ],
)
def test_matchers_choose_nodes_by_their_id(matchers: list[NodeMatcher], found: set[str]) -> None:
    async def scenario(place: Place) -> None:
        place.cache.publish(MESH, splits(1))
        for node in ("web-1", "web-2", "API-1"):
            await place.client().take_routes(node=node)
        assert (await place.fetch(*matchers)).keys() == found

    run(scenario)


@pytest.mark.parametrize(
    ("matcher", "says"),
    [
        (NodeMatcher(node_metadatas=[StructMatcher()]), "node_metadatas is not supported"),
        (NodeMatcher(node_id=StringMatcher()), "no match_pattern"),
        (NodeMatcher(node_id=StringMatcher(safe_regex=RegexMatcher(regex="("))), "missing )"),
        (id_is(prefix="x" * 1_001), "1001 characters"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(matcher: NodeMatcher, says: str) -> None:
    async def scenario(place: Place) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT") as refused:
            await place.fetch(matcher)
        assert says in refused.value.details()

    run(scenario)


def test_an_answer_too_large_for_a_client_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds_server.ads.csds.MAX_ANSWER_BYTES", 300)

    async def scenario(place: Place) -> None:
        place.cache.publish(MESH, splits(1))
        client = place.client()
        response = await client.take_routes()
        await client.ask(RDS, ROUTES, nonce=response.nonce)
        await until(lambda: place.cache.counters.acks == 1)
        with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED") as refused:
            await place.fetch()
        assert "exclude_resource_contents" in refused.value.details()
        assert await place.fetch(exclude=True)

    run(scenario)


def test_a_stream_answers_each_question_and_ends_with_the_control_plane() -> None:
    async def scenario(place: Place) -> None:
        place.cache.publish(MESH, splits(1))
        call = place.csds.StreamClientStatus()
        await call.write(pb.ClientStatusRequest())
        assert told(await call.read()) == {}
        client = place.client()
        await client.take_routes()
        await call.write(pb.ClientStatusRequest())
        assert told(await call.read()).keys() == {"n1"}
        client.call.cancel()
        await until(lambda: not place.cache.connected_n())
        await call.write(pb.ClientStatusRequest())
        assert told(await call.read()) == {}
        place.end.set()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    run(scenario)
