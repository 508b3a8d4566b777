"""What a gRPC client is told, and what it says, when something is wrong; and that nothing wrong is sent to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from xds_server.mesh import Mesh, ServiceSplits
from xds_server.node import GRPC
from xds_server.resources import grpc
from xds_server.snapshot import ResourceType, Snapshot, grpc_rules, pack

CDS, EDS, LDS, RDS = ResourceType.CDS, ResourceType.EDS, ResourceType.LDS, ResourceType.RDS
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Messages:
    """All that a gRPC client of `shop` is sent, to be tampered with."""

    listener: Listener
    host: VirtualHost
    clusters: dict[str, Cluster]
    assignments: dict[str, ClusterLoadAssignment]

    @classmethod
    def of(cls, mesh: Mesh, splits: dict[str, ServiceSplits]) -> Messages:
        shop = mesh.services["shop"]
        (listener,) = grpc.listeners("shop", ["shop"])
        named = {f"shop|{version.name}": version for version in shop.versions.values()}
        return cls(
            listener,
            grpc.virtual_host(shop, splits["shop"]),
            {name: grpc.cluster(name, version) for name, version in named.items()},
            {name: grpc.assignment(name, version.endpoints) for name, version in named.items()},
        )

    def snapshot(self) -> Snapshot:
        routes = RouteConfiguration(name=grpc.routes_name("shop"))
        clusters = {name: pack.cluster(message) for name, message in self.clusters.items()}
        return Snapshot(
            {
                CDS: clusters,
                EDS: {name: pack.assignment(a, clusters[name]) for name, a in self.assignments.items()},
                LDS: {"shop": pack.listener(self.listener, [routes.name], ["shop"])},
                RDS: {routes.name: pack.routes(routes, [pack.host(self.host)])},
            }
        )

    def problems(self) -> Iterator[str]:
        yield from grpc_rules.listener_problems(self.listener)
        yield from grpc_rules.host_problems(self.host)
        for cluster in self.clusters.values():
            yield from grpc_rules.cluster_problems(cluster)
        for assignment in self.assignments.values():
            yield from grpc_rules.assignment_problems(assignment)


def test_an_unknown_target_fails_at_once_in_our_own_words(rig):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.control_plane() as plane:
            plane.cache.publish(rig.mesh(v1), {})
            async with rig.client(plane.port) as client:
                said = await client.ask("nobody", timeout_s=20.0)
                assert said.answers == ["UNAVAILABLE"]
                assert "Serinus serves no Listener called nobody" in said.details
                assert said.seconds < 1.0

    asyncio.run(scenario())


def test_without_the_handling_of_such_errors_a_client_waits(rig):
    """Fifteen seconds, of which this test waits two."""

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.control_plane() as plane:
            plane.cache.publish(rig.mesh(v1), {})
            async with rig.client(plane.port, says_why=False) as client:
                assert (await client.ask("nobody", timeout_s=2.0)).answers == ["DEADLINE_EXCEEDED"]

    asyncio.run(scenario())


def test_a_rejected_resource_is_reported_by_name_and_what_was_good_stays(rig):
    """A rejection is not answered with the same content, or the client would say no some thousand times a second."""

    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            mesh, splits = rig.mesh(v1, v2), rig.splits(1, default=5_000)
            plane.cache.publish(mesh, splits)
            async with rig.client(plane.port) as client:
                assert set((await client.ask(n=50)).answers) == {"v1", "v2"}
                bad = Messages.of(mesh, splits)
                bad.assignments["shop|v2"].endpoints[0].priority = 1
                plane.cache.publish_snapshots(mesh, {GRPC: bad.snapshot()}, urgent=True)

                async def is_rejected() -> bool:
                    return bool(plane.rejections)

                await rig.eventually(is_rejected, "the client says no")
                await asyncio.sleep(0.5)
                (rejection,) = plane.rejections
                assert (rejection.node, rejection.type) == ("app-1", "EDS")
                assert (rejection.resources, rejection.services) == (("shop|v2",), ("shop",))
                assert "shop|v2" in rejection.message
                assert plane.cache.nodes()[0].rejections == (rejection,)
                assert set((await client.ask(n=50)).answers) == {"v1", "v2"}
                # What comes after it is taken.
                plane.cache.publish(mesh, rig.splits(2, default=10_000), urgent=True)
                assert await plane.cache.in_force("shop", 2, None, 5.0) == ()

    asyncio.run(scenario())


def test_a_cluster_among_good_ones_is_the_only_one_rejected(rig):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            mesh, splits = rig.mesh(v1, v2), rig.splits(1, default=5_000)
            bad = Messages.of(mesh, splits)
            bad.clusters["shop|v2"].type = Cluster.STRICT_DNS
            plane.cache.publish_snapshots(mesh, {GRPC: bad.snapshot()})
            async with rig.client(plane.port) as client:
                await client.ask(timeout_s=1.0)
                await asyncio.sleep(0.5)
                (rejection,) = plane.rejections
                assert (rejection.type, rejection.resources) == ("CDS", ("shop|v2",))

    asyncio.run(scenario())


# --- Each rule by which Serinus refuses a resource is one that gRPC has


def no_api_listener(m: Messages) -> None:
    m.listener.ClearField("api_listener")


def change_manager(m: Messages, change: Callable[[HttpConnectionManager], None]) -> None:
    manager = HttpConnectionManager()
    m.listener.api_listener.api_listener.Unpack(manager)
    change(manager)
    m.listener.api_listener.api_listener.Pack(manager)


def no_router(m: Messages) -> None:
    change_manager(m, lambda manager: manager.ClearField("http_filters"))


def nameless_router(m: Messages) -> None:
    change_manager(m, lambda manager: manager.http_filters[0].ClearField("name"))


def routes_from_elsewhere(m: Messages) -> None:
    change_manager(m, lambda manager: manager.rds.config_source.ClearField("ads"))


def no_routes(m: Messages) -> None:
    change_manager(m, lambda manager: manager.ClearField("rds"))


def other_domains(m: Messages) -> None:
    m.host.domains[:] = ["elsewhere"]


def strange_filter(m: Messages) -> None:
    m.host.typed_per_filter_config["x"].Pack(HttpConnectionManager())


def no_path(m: Messages) -> None:
    m.host.routes[0].match.ClearField("prefix")


def with_query(m: Messages) -> None:
    for route in m.host.routes:
        route.match.query_parameters.add(name="a")


def by_runtime(m: Messages) -> None:
    for route in m.host.routes:
        route.match.runtime_fraction.default_value.numerator = 0


def no_weight(m: Messages) -> None:
    for part in m.host.routes[2].route.weighted_clusters.clusters:
        part.weight.value = 0


def no_retries(m: Messages) -> None:
    policy = m.host.routes[0].route.retry_policy
    policy.retry_on = "unavailable"
    policy.num_retries.value = 0


def no_action(m: Messages) -> None:
    for route in m.host.routes:
        route.route.ClearField("cluster_specifier")


def static_cluster(m: Messages) -> None:
    m.clusters["shop|v1"].type = Cluster.STATIC


def random_cluster(m: Messages) -> None:
    m.clusters["shop|v1"].lb_policy = Cluster.RANDOM


def endpoints_from_elsewhere(m: Messages) -> None:
    m.clusters["shop|v1"].eds_cluster_config.eds_config.ClearField("ads")


def two_names(m: Messages) -> None:
    cluster = m.clusters["shop|v1"]
    cluster.type = Cluster.LOGICAL_DNS
    for name in ("a.example", "b.example"):
        host = cluster.load_assignment.endpoints.add().lb_endpoints.add()
        host.endpoint.address.socket_address.address = name
        host.endpoint.address.socket_address.port_value = 80


def encrypted(m: Messages) -> None:
    m.clusters["shop|v1"].transport_socket.name = "tls"
    m.clusters["shop|v1"].transport_socket.typed_config.Pack(HttpConnectionManager())


def no_locality_weight(m: Messages) -> None:
    m.assignments["shop|v1"].endpoints[0].ClearField("load_balancing_weight")


def no_locality(m: Messages) -> None:
    m.assignments["shop|v1"].endpoints[0].ClearField("locality")


def priority_gap(m: Messages) -> None:
    m.assignments["shop|v1"].endpoints[0].priority = 1


def same_locality(m: Messages) -> None:
    again = m.assignments["shop|v1"].endpoints.add()
    again.locality.SetInParent()
    again.load_balancing_weight.value = 1


def too_much_weight(m: Messages) -> None:
    for zone in "ab":
        locality = m.assignments["shop|v1"].endpoints.add()
        locality.locality.zone = zone
        locality.load_balancing_weight.value = 3_000_000_000


def same_address(m: Messages) -> None:
    hosts = m.assignments["shop|v1"].endpoints[0].lb_endpoints
    hosts.append(hosts[0])


def name_as_address(m: Messages) -> None:
    m.assignments["shop|v1"].endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address = "a.example"


def weightless_endpoint(m: Messages) -> None:
    m.assignments["shop|v1"].endpoints[0].lb_endpoints[0].load_balancing_weight.value = 0


REJECTED = [
    *(no_api_listener, no_router, nameless_router, routes_from_elsewhere, no_routes),
    *(strange_filter, no_path, no_weight, no_retries),
    *(static_cluster, random_cluster, endpoints_from_elsewhere, two_names, encrypted),
    *(no_locality, priority_gap, same_locality, too_much_weight, same_address, name_as_address, weightless_endpoint),
]
FAILING = [other_domains, with_query, by_runtime, no_action, no_locality_weight]
"""gRPC takes these without a word, and then has nowhere to send an RPC."""


@pytest.mark.parametrize("tamper", [*REJECTED, *FAILING], ids=lambda function: function.__name__)
def test_what_serinus_would_refuse_is_what_grpc_does_not_take(rig, tamper):
    async def scenario() -> None:
        async with rig.greeter("v1") as v1, rig.greeter("v2") as v2, rig.control_plane() as plane:
            mesh, splits = rig.mesh(v1, v2), rig.splits(1, default=5_000)
            messages = Messages.of(mesh, splits)
            assert not list(messages.problems())
            tamper(messages)
            (problem, *_) = messages.problems()
            plane.cache.publish_snapshots(mesh, {GRPC: messages.snapshot()})
            async with rig.client(plane.port) as client:
                said = await client.ask(n=30, timeout_s=0.1)
                assert said.counts["UNAVAILABLE"] + said.counts["DEADLINE_EXCEEDED"] > 5, said
                log.info("%s: %s; gRPC: %s", tamper.__name__, problem, said.details)

                async def is_rejected() -> bool:
                    return bool(plane.rejections)

                if tamper in REJECTED:
                    await rig.eventually(is_rejected, "gRPC says no")
                else:
                    await asyncio.sleep(0.2)
                    assert not plane.rejections

    asyncio.run(scenario())
