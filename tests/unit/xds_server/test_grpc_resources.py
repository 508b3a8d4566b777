from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.resources import grpc
from xds_server.settings import parse_mesh

TEXT = """
services:
  shop:
    domains: [shop, shop.example, "*.shop.example"]
    port: 10000
    identity: [{header: x-user-id}, {cookie: {name: sid}}]
    routes: [{prefix: /api/, timeout: 2s, retries: 1}, {prefix: /}]
    versions:
      v1: {endpoints: ["127.0.0.1:9001"], health: {path: /healthz}}
      v2: {endpoints: ["shop-v2.example:9002"]}
    baseline: v1
    segments:
      vip: {match: {headers: [{name: x-plan, exact: enterprise}]}, pin: v1}
      asked: {match: {query: [{name: beta, exact: "1"}]}}
      other: {match: {headers: [{name: User-Agent, contains: bot}]}}
      beta: {match: {path: /api/beta}}
  blog:
    domains: [blog]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:9003"]}}
    baseline: v1
  old-blog:
    domains: [blog]
    port: 10001
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:9004"]}}
    baseline: v1
  far:
    domains: [far]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:9005"]}, v2: {endpoints: ["a.example:1", "127.0.0.1:9006"]}}
    baseline: v1
"""


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return parse_mesh(TEXT, "mesh.yaml")


def splits(canary_bp: int = 500) -> ServiceSplits:
    split = SegmentSplit(baseline="v1", canary="v2", canary_bp=canary_bp)
    segments = dict.fromkeys(("vip", "asked", "other", "beta", "default"), split)
    return ServiceSplits(rollout="shop-7", generation=3, segments=segments)


def routes_of(mesh: Mesh, canary_bp: int = 500) -> list[Route]:
    return list(grpc.virtual_host(mesh.services["shop"], splits(canary_bp)).routes)


def test_a_client_names_a_domain_with_or_without_the_port_and_without_only_where_one_service_has_it(
    mesh: Mesh,
) -> None:
    assert grpc.served(mesh) == {
        "shop": ("shop", "shop:10000", "shop.example", "shop.example:10000"),
        "blog": ("blog:10000",),
        "old-blog": ("blog:10001",),
    }


def test_what_clients_do_not_get_is_said(mesh: Mesh) -> None:
    assert list(grpc.limits(mesh)) == [
        "service shop: a client must name its target, so nobody is served by *.shop.example",
        "nobody is in segment asked of service shop: an RPC has no query parameters",
        "nobody is in segment other of service shop: gRPC chooses routes without the header user-agent",
        "service blog: other services have blog as well, so clients must name the port: xds:///blog:10000",
        "service old-blog: other services have blog as well, so clients must name the port: xds:///blog:10001",
        "service far is not served: version v2 has several endpoints, one with a name; "
        "gRPC takes one name, or IP addresses",
    ]


def test_a_listener_has_routes_over_ads_and_the_router_and_nothing_of_envoys() -> None:
    one, other = grpc.listeners("shop", ["shop", "shop:10000"])
    assert (one.name, other.name) == ("shop", "shop:10000")
    assert one.api_listener == other.api_listener
    assert not one.HasField("address")
    manager = HttpConnectionManager()
    assert one.api_listener.api_listener.Unpack(manager)
    assert manager.rds.route_config_name == "grpc|shop"
    assert [each.name for each in manager.http_filters] == ["envoy.filters.http.router"]
    assert not manager.access_log


def test_a_bucket_decides_before_chance_does(mesh: Mesh) -> None:
    drawn = [route for route in routes_of(mesh) if route.name.startswith("shop|default|") and route.match.prefix == "/"]
    first, second, last = drawn
    (bucket,) = first.match.headers
    assert (bucket.name, bucket.range_match.start, bucket.range_match.end) == ("x-serinus-bucket", 0, 500)
    assert first.route.cluster == "shop|v2"
    (present,) = second.match.headers
    assert (present.name, present.present_match, second.route.cluster) == ("x-serinus-bucket", True, "shop|v1")
    assert not last.match.headers
    weights = {part.name: part.weight.value for part in last.route.weighted_clusters.clusters}
    assert weights == {"shop|v2": 500, "shop|v1": 9_500}


@pytest.mark.parametrize(("canary_bp", "named"), [(0, {"shop|v1"}), (10_000, {"shop|v1", "shop|v2"})])
def test_routes_that_take_a_canary_back_name_no_cluster_of_it(mesh: Mesh, canary_bp: int, named: set[str]) -> None:
    """v1 at 100 %: for a bucket that is none."""
    actions = [route.route for route in routes_of(mesh, canary_bp)]
    drawn = {part.name for action in actions for part in action.weighted_clusters.clusters}
    assert ({action.cluster for action in actions} | drawn) - {""} == named


@pytest.mark.parametrize("canary_bp", [-1, 10_001])
def test_a_split_outside_its_range_is_refused(mesh: Mesh, canary_bp: int) -> None:
    with pytest.raises(ValueError, match=str(canary_bp)):
        routes_of(mesh, canary_bp)


def test_nothing_that_grpc_reads_otherwise_than_envoy_is_in_its_routes(mesh: Mesh) -> None:
    host = grpc.virtual_host(mesh.services["shop"], splits())
    assert list(host.domains) == ["*"]
    assert not host.typed_per_filter_config
    for route in host.routes:
        assert not route.match.HasField("runtime_fraction")
        assert not route.match.query_parameters
        assert not route.route.hash_policy
        assert not route.route.weighted_clusters.use_hash_policy.value


def test_a_pin_a_path_and_a_segment_that_no_rpc_can_be_in(mesh: Mesh) -> None:
    routes = routes_of(mesh)
    segments = [route.name.split("|")[1] for route in routes]
    assert list(dict.fromkeys(segments)) == ["vip", "beta", "default"]
    vip = [route for route in routes if route.name.startswith("shop|vip|")]
    assert [(route.match.prefix, route.route.cluster) for route in vip] == [("/api/", "shop|v1"), ("/", "shop|v1")]
    beta = [route for route in routes if route.name.startswith("shop|beta|")]
    assert {route.match.prefix for route in beta} == {"/api/beta"}
    for route in beta:
        # Two seconds more than asked for: gRPC's core takes up to two off.
        assert route.route.max_stream_duration.max_stream_duration.ToMilliseconds() == 4_000
        assert (route.route.retry_policy.retry_on, route.route.retry_policy.num_retries.value) == ("unavailable", 1)
    stamp = beta[0].metadata.filter_metadata["serinus"]
    assert dict(stamp) == {"stamp": "shop|beta|shop-7|3"}


def test_one_name_is_for_grpc_to_resolve_and_addresses_come_over_eds(mesh: Mesh) -> None:
    v1, v2 = (grpc.cluster(f"shop|{name}", version) for name, version in mesh.services["shop"].versions.items())
    assert (v1.type, v2.type) == (Cluster.EDS, Cluster.LOGICAL_DNS)
    assert not v1.health_checks
    (locality,) = v2.load_assignment.endpoints
    assert locality.lb_endpoints[0].endpoint.address.socket_address.address == "shop-v2.example"


def test_an_address_is_there_once_however_it_is_written() -> None:
    given = [("127.0.0.1", 80), ("::1", 80), ("0:0:0:0:0:0:0:1", 80), ("127.0.0.1", 81), ("127.0.0.1", 80)]
    (locality,) = grpc.assignment("shop|v1", given).endpoints
    assert locality.HasField("locality")
    assert locality.load_balancing_weight.value == 1
    sockets = [host.endpoint.address.socket_address for host in locality.lb_endpoints]
    assert [(s.address, s.port_value) for s in sockets] == [("127.0.0.1", 80), ("::1", 80), ("127.0.0.1", 81)]


def test_a_service_whose_every_domain_is_a_pattern_is_not_served(mesh: Mesh) -> None:
    shop = replace(mesh.services["shop"], domains=("*",))
    assert not grpc.served(replace(mesh, services={"shop": shop}))


def test_nobody_is_in_a_learned_segment_whatever_header_is_sent() -> None:
    mesh = parse_mesh(TEXT.replace("beta: {match: {path: /api/beta}}", "beta: {learned: newcomers}"), "mesh.yaml")
    lack = "nobody is in segment beta of service shop: a client does not ask who is in a learned segment"
    assert lack in list(grpc.limits(mesh))
    assert not [route.name for route in routes_of(mesh) if "|beta|" in route.name]
