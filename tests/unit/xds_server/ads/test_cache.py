"""The cache over a real gRPC channel, with a scripted client in Envoy's place."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from tests import waiting
from xds_server.ads.cache import GONE_NODES_KEPT, AdsCache, Rejection
from xds_server.ads.response import Variant
from xds_server.ads.servicer import SERVER_OPTIONS, SERVICE, add_ads
from xds_server.ads.session import Request
from xds_server.mesh import Mesh, SegmentSplit, Service, ServiceSplits
from xds_server.node import ANY_SIDECAR, GRPC, NodeKind
from xds_server.resources import grpc as grpc_resources
from xds_server.settings import parse_mesh
from xds_server.snapshot import InconsistentSnapshotError, ResourceType

CDS, EDS, LDS, SRDS, RDS, RTDS = ResourceType
until = partial(waiting.until, within_s=5.0)
MESH: Mesh = parse_mesh(
    """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:9001"]}, v2: {endpoints: ["127.0.0.1:9002"]}}
    baseline: v1
gateways:
  edge: {listen: "127.0.0.1:8000", services: [shop]}
""",
    "mesh.yaml",
)


def splits(generation: int, canary: str = "v2") -> dict[str, ServiceSplits]:
    split = SegmentSplit(baseline="v1", canary=canary, canary_bp=500)
    return {"shop": ServiceSplits(rollout="shop-1", generation=generation, segments={"default": split})}


class Client:
    """One ADS stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call = channel.stream_stream(
            f"/{SERVICE}/StreamAggregatedResources",
            request_serializer=DiscoveryRequest.SerializeToString,
            response_deserializer=DiscoveryResponse.FromString,
        )()

    async def ask(
        self,
        kind: ResourceType,
        *names: str,
        node: str = "",
        cluster: str = "",
        nonce: str = "",
        error: str = "",
        user_agent: str = "",
    ) -> None:
        request = DiscoveryRequest(type_url=kind.url, resource_names=names, response_nonce=nonce)
        if node:
            request.node.CopyFrom(Node(id=node, cluster=cluster, user_agent_name=user_agent))
        if error:
            request.error_detail.message = error
        await self.call.write(request)

    async def read(self) -> DiscoveryResponse:
        async with asyncio.timeout(5):
            return await self.call.read()

    async def take_routes(self, name: str = "sidecar|10000", node: str = "n1") -> DiscoveryResponse:
        await self.ask(RDS, name, node=node)
        return await self.read()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[AdsCache, Callable[[], Client]]]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    cache = AdsCache()
    add_ads(server, cache)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield cache, lambda: Client(channel)
    await server.stop(None)


def run(scenario: Callable[[AdsCache, Callable[[], Client]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), serving() as (cache, client):
            await scenario(cache, client)

    asyncio.run(main())


def test_only_the_stream_that_carries_routes_is_waited_for_where_each_type_has_its_own() -> None:
    async def main() -> None:
        cache = AdsCache()
        cache.publish(MESH, splits(1))
        opened = {kind: cache.open("n1", "", Variant.SOTW, lambda _: None, only=kind) for kind in (CDS, EDS, LDS, RDS)}
        assert await cache.in_force("shop", 1, None, 0.05) == ("n1",)
        for kind, stream in opened.items():
            names = ("sidecar|10000",) if kind is RDS else ()
            cache.receive(stream, Request(type=kind, names=names))
            response = cache.next_response(stream)
            if response is not None:
                cache.receive(stream, Request(type=kind, names=names, nonce=response.nonce))
        assert await cache.in_force("shop", 1, None, 0.05) == ()
        assert await cache.in_force("shop", 1, {"n1"}, 0.05) == ()
        cache.close(opened[RDS])
        assert await cache.in_force("shop", 1, {"n1"}, 0.05) == ("n1",), "it carries traffic by its routes of old"

    asyncio.run(main())


def test_nobody_is_answered_before_the_first_publish() -> None:
    """An empty answer would take a running Envoy's listeners away."""

    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        stream = client()
        await stream.ask(CDS, node="n1")
        await until(lambda: cache.counters.streams == 1)
        assert not cache.ready.is_set()
        assert cache.counters.pushes == 0
        cache.publish(MESH, {})
        assert {r.type_url for r in (await stream.read()).resources} == {CDS.url}

    run(scenario)


def test_a_generation_is_in_force_when_every_node_has_acked_it() -> None:
    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        cache.publish(MESH, splits(1))
        one, two = client(), client()
        first, second = await one.take_routes(node="n1"), await two.take_routes(node="n2")
        await one.ask(RDS, "sidecar|10000", nonce=first.nonce)
        assert await cache.in_force("shop", 1, {"n1"}, 1.0) == ()
        assert await cache.in_force("shop", 1, None, 0.05) == ("n2",)
        waiting = asyncio.create_task(cache.in_force("shop", 1, None, 5.0))
        await two.ask(RDS, "sidecar|10000", nonce=second.nonce)
        assert await waiting == ()
        assert await cache.in_force("shop", 2, None, 0.05) == ("n1", "n2")
        assert await cache.in_force("shop", 1, {"n1", "never-seen"}, 0.05) == ("never-seen",)

    run(scenario)


def test_a_node_that_left_is_no_laggard_unless_it_is_asked_for() -> None:
    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        cache.publish(MESH, splits(1))
        stream = client()
        await stream.take_routes()
        stream.call.cancel()
        await until(lambda: not cache.nodes()[0].connected)
        assert await cache.in_force("shop", 1, None, 1.0) == ()
        assert await cache.in_force("shop", 1, {"n1"}, 0.05) == ("n1",)

    run(scenario)


def test_a_rejection_is_reported_once_and_seen_at_its_node() -> None:
    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        reported: list[Rejection] = []
        cache.on_rejection = reported.append
        cache.publish(MESH, splits(1))
        stream = client()
        response = await stream.take_routes()
        await stream.ask(RDS, "sidecar|10000", nonce=response.nonce, error="no such thing")
        # Long before the time is up: the only node that is missing will not have it.
        assert await cache.in_force("shop", 1, None, 15.0) == ("n1",)
        (rejection,) = reported
        assert (rejection.node, rejection.services, rejection.type) == ("n1", ("shop",), "RDS")
        assert (rejection.version, rejection.message) == (response.version_info, "no such thing")
        assert cache.nodes()[0].rejections == (rejection,)
        assert (cache.counters.pushes, cache.counters.acks, cache.counters.nacks) == (1, 0, 1)

    run(scenario)


def test_an_inconsistent_mesh_is_refused_and_changes_nothing() -> None:
    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        cache.publish(MESH, splits(1))
        with pytest.raises(InconsistentSnapshotError):
            cache.publish(MESH, splits(2, canary="v9"))
        response = await client().take_routes()
        assert b"v9" not in response.resources[0].value

    run(scenario)


def test_a_gateway_is_known_by_its_cluster_and_gets_its_own_configuration() -> None:
    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        cache.publish(MESH, splits(1))
        stream = client()
        await stream.ask(LDS, node="pod-17", cluster="edge")
        response = await stream.read()
        assert len(response.resources) == 1
        assert b"gateway|edge" in response.resources[0].value
        assert (cache.nodes()[0].role, cache.nodes()[0].cluster) == ("gateway", "edge")
        assert cache.nodes()[0].sent == {"LDS": response.version_info}

    run(scenario)


def test_an_urgent_change_takes_what_waits_along() -> None:
    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        cache.publish(MESH, splits(1), urgent=True)
        stream = client()
        first = await stream.take_routes()
        await stream.ask(RDS, "sidecar|10000", nonce=first.nonce)
        await until(lambda: cache.counters.acks == 1)
        cache.publish(MESH, splits(2))
        cache.publish(MESH, splits(3), urgent=True)
        second = await stream.read()
        await stream.ask(RDS, "sidecar|10000", nonce=second.nonce)
        assert await cache.in_force("shop", 3, None, 2.0) == ()
        assert cache.counters.pushes == 2

    run(scenario)


def test_a_stream_that_does_not_say_who_it_is_is_refused() -> None:
    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        stream = client()
        await stream.ask(CDS)
        assert await stream.call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "node.id" in await stream.call.details()
        assert cache.nodes() == ()

    run(scenario)


def test_types_that_are_not_served_are_met_with_silence() -> None:
    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        cache.publish(MESH, {})
        stream = client()
        secret = DiscoveryRequest(type_url="type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret")
        secret.node.id = "n1"
        await stream.call.write(secret)
        await stream.ask(LDS)
        assert (await stream.read()).type_url == LDS.url

    run(scenario)


def test_nodes_that_come_and_go_do_not_pile_up() -> None:
    cache = AdsCache()
    for n in range(GONE_NODES_KEPT + 50):
        cache.close(cache.open(f"pod-{n}", "sidecar", Variant.SOTW, lambda _: None))
    assert len(cache.nodes()) == GONE_NODES_KEPT


# --- gRPC clients

GRPC_CLIENT = "gRPC C-core linux Python"


def test_a_grpc_client_has_a_configuration_of_its_own_and_an_empty_list_is_nothing() -> None:
    """To an Envoy it would be everything."""

    async def scenario() -> None:
        async with serving() as (cache, connect):
            cache.publish(MESH, splits(1))
            client = connect()
            await client.ask(LDS, node="app-1", user_agent=GRPC_CLIENT)
            await client.ask(LDS, "shop")
            response = await client.read()
            assert [any_.type_url for any_ in response.resources] == [LDS.url]
            await client.ask(RDS, "grpc|shop")
            assert len((await client.read()).resources) == 1
            (node,) = cache.nodes()
            assert (node.node, node.role) == ("app-1", "grpc")

    asyncio.run(scenario())


@pytest.mark.parametrize("is_first", [True, False])
def test_a_grpc_client_gets_its_answer_whenever_the_first_publication_comes(is_first: bool) -> None:
    async def scenario() -> None:
        async with serving() as (cache, connect):
            if is_first:
                cache.publish(MESH, splits(1))
            client = connect()
            await client.ask(RDS, "grpc|shop", node="app-1", user_agent=GRPC_CLIENT)
            if not is_first:
                await asyncio.sleep(0.05)
                cache.publish(MESH, splits(1))
            assert len((await client.read()).resources) == 1

    asyncio.run(scenario())


def test_nothing_is_built_for_grpc_where_there_is_no_such_client() -> None:
    async def scenario() -> None:
        async with serving() as (cache, connect):
            cache.publish(MESH, splits(1))
            assert set(cache._targets) == {NodeKind("gateway", "edge"), ANY_SIDECAR}
            client = connect()
            await client.ask(LDS, "shop", node="app-1", user_agent=GRPC_CLIENT)
            await client.read()
            cache.publish(MESH, splits(2))
            assert set(cache._targets) == {NodeKind("gateway", "edge"), ANY_SIDECAR, GRPC}

    asyncio.run(scenario())


def test_what_grpc_would_reject_is_not_published_and_envoys_get_theirs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of ours must not keep a rollback from the Envoys; gRPC clients go on with what they have."""

    async def scenario() -> None:
        async with serving() as (cache, connect):
            cache.publish(MESH, splits(1))
            envoy, client = connect(), connect()
            await envoy.ask(RDS, "sidecar|10000", nonce=(await envoy.take_routes()).nonce)
            await client.ask(RDS, "grpc|shop", node="app-1", user_agent=GRPC_CLIENT)
            first = await client.read()
            await client.ask(RDS, "grpc|shop", nonce=first.nonce)
            monkeypatch.setattr(grpc_resources, "virtual_host", by_runtime)
            cache.publish(MESH, splits(2))
            assert "gRPC would not take RDS grpc|shop: route shop|default|0 depends on runtime" in caplog.text
            assert len((await envoy.read()).resources) == 1
            monkeypatch.undo()
            cache.publish(MESH, splits(3))
            again = await client.read()
            assert again.version_info != first.version_info
            # The faulty one would have come in between.
            assert cache.counters.by_type["push", RDS] == 4

    sound = grpc_resources.virtual_host

    def by_runtime(service: Service, splits: ServiceSplits) -> VirtualHost:
        built = sound(service, splits)
        for route in built.routes:
            route.match.runtime_fraction.default_value.numerator = 0
        return built

    asyncio.run(scenario())


def test_routes_are_in_force_at_a_grpc_client_once_it_has_their_clusters() -> None:
    """It ACKs routes before it asks for those, and goes by the routes before until it has them."""

    async def scenario() -> None:
        async with serving() as (cache, connect):
            cache.publish(MESH, splits(1))
            client, other = connect(), connect()
            await other.ask(LDS, "blog", node="app-2", user_agent=GRPC_CLIENT)  # does not call the service
            await other.read()
            names = {RDS: ["grpc|shop"], CDS: ["shop|v1", "shop|v2"], EDS: ["shop|v1", "shop|v2"]}
            for kind, named in names.items():
                await client.ask(kind, *named, node="app-1", user_agent=GRPC_CLIENT)
                response = await client.read()
                assert await cache.in_force("shop", 1, None, 0.1) == ("app-1",)
                await client.ask(kind, *named, nonce=response.nonce)
            assert await cache.in_force("shop", 1, None, 5.0) == ()
            assert await cache.in_force("shop", 2, [], 0.1) == ("app-1",)  # it may carry the traffic

    asyncio.run(scenario())


def test_who_has_not_acked_the_newest_content_of_a_resource_lags_behind() -> None:
    """Whoever does not subscribe to it does not."""

    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        cache.publish(MESH, splits(1))
        one, other = client(), client()
        await one.ask(EDS, "shop|v1", node="n1")
        first = await one.read()
        await other.take_routes(node="n2")
        assert cache.laggards(EDS, "shop|v1") == ("n1",)
        await one.ask(EDS, "shop|v1", nonce=first.nonce)
        await until(lambda: not cache.laggards(EDS, "shop|v1"))
        cache.publish(MESH, splits(1), endpoints={"shop|v1": (("127.0.0.1", 9009),)})
        assert cache.laggards(EDS, "shop|v1") == ("n1",)
        assert cache.laggards(EDS, "shop|v2") == ()
        await one.ask(EDS, "shop|v1", nonce=(await one.read()).nonce)
        await until(lambda: not cache.laggards(EDS, "shop|v1"))

    run(scenario)


def test_nothing_is_kept_of_the_requests_that_a_stream_has_taken() -> None:
    """Envoy's first one has 60 kB, and others may be as large where it sends its node with each."""
    streams_n, node_bytes = 10, 1_000_000

    async def scenario(cache: AdsCache, client: Callable[[], Client]) -> None:
        cache.publish(MESH, splits(1))
        streams = [client() for _ in range(streams_n)]
        tracemalloc.start()
        try:
            for n, stream in enumerate(streams):
                request = DiscoveryRequest(type_url=CDS.url)
                request.node.id = f"n{n}"
                request.node.user_agent_name = "x" * node_bytes
                await stream.call.write(request)
                nonce = (await stream.read()).nonce
                request.response_nonce = nonce
                await stream.call.write(request)
            del request
            await until(lambda: cache.counters.acks == streams_n)
            gc.collect()
            kept_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept_bytes < streams_n * node_bytes / 4

    run(scenario)
