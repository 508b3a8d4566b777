from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import HttpGrpcAccessLogConfig
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthzPerRoute
from envoy.extensions.filters.http.lua.v3.lua_pb2 import LuaPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.type.v3.percent_pb2 import FractionalPercent

from xds_server.mesh import LearnedTable, Mesh, SegmentMatch, SegmentSplit, Service, ServiceSplits, ValueMatch, Watch
from xds_server.node import ANY_SIDECAR, NodeKind, kind_of, kinds
from xds_server.resources import Resources, build
from xds_server.settings import parse_mesh

TEXT = """
services:
  shop:
    domains: [shop, shop.example]
    port: 10000
    identity: [{header: X-User-Id}, {cookie: {name: sid, ttl: 30d}}]
    routes: [{prefix: /api/, timeout: 2s, retries: 1}, {prefix: /}]
    versions:
      v1: {endpoints: ["127.0.0.1:9001"], health: {path: /healthz}}
      v2: {endpoints: ["127.0.0.1:9002", "shop-v2.example:9002"]}
    baseline: v1
    segments:
      vip: {match: {headers: [{name: x-plan, exact: enterprise}]}, pin: v1}
      beta: {match: {path: /api/beta}}
  blog:
    domains: [blog]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:9003"]}}
    baseline: v1
gateways:
  edge: {listen: "127.0.0.1:8000", services: [shop, blog], strip: [x-plan]}
  front: {listen: "127.0.0.1:8001", services: [shop], to: inner}
sidecars:
  inner: {listen: "127.0.0.1:9500"}
"""
EDGE, FRONT, INNER = NodeKind("gateway", "edge"), NodeKind("gateway", "front"), NodeKind("sidecar", "inner")


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return parse_mesh(TEXT, "mesh.yaml")


def splits(canary_bp: int = 500) -> dict[str, ServiceSplits]:
    split = SegmentSplit(baseline="v1", canary="v2", canary_bp=canary_bp)
    segments = dict.fromkeys(("vip", "beta", "default"), split)
    return {"shop": ServiceSplits(rollout="shop-7", generation=3, segments=segments)}


def routes_of(built: Resources, service: str = "shop") -> dict[str, Route]:
    (config,) = built.routes
    return {route.name: route for host in config.virtual_hosts if host.name == service for route in host.routes}


def manager_of(built: Resources) -> HttpConnectionManager:
    manager = HttpConnectionManager()
    assert built.listeners[0].filter_chains[0].filters[0].typed_config.Unpack(manager)
    return manager


def test_every_weighted_route_lists_the_canary_first_and_adds_up_to_ten_thousand(mesh: Mesh) -> None:
    for canary_bp in (0, 1, 9_500, 10_000):
        action = routes_of(build(mesh, splits(canary_bp), ANY_SIDECAR))["shop|default|0"].route
        weights = [(part.name, part.weight.value) for part in action.weighted_clusters.clusters]
        asked_for = [("shop|v2", canary_bp), ("shop|v1", 10_000 - canary_bp)]
        assert weights == [(name, weight) for name, weight in asked_for if weight]
        assert action.weighted_clusters.use_hash_policy.value
        (policy,) = action.hash_policy
        assert policy.header.header_name == "x-serinus-key"
        assert policy.header.regex_rewrite.substitution == "shop-7:\\1"


def test_a_split_outside_its_range_is_refused(mesh: Mesh) -> None:
    with pytest.raises(ValueError, match="10001"):
        build(mesh, splits(10_001), ANY_SIDECAR)


def test_people_without_a_key_follow_to_the_baseline_alone(mesh: Mesh) -> None:
    routes = routes_of(build(mesh, splits(), ANY_SIDECAR))
    keyed, fallback = routes["shop|default|0"], routes["shop|default|1"]
    assert [header.name for header in keyed.match.headers] == ["x-serinus-key"]
    assert not fallback.match.headers
    assert fallback.route.cluster == "shop|v1"


def test_a_pinned_segment_takes_no_part(mesh: Mesh) -> None:
    routes = routes_of(build(mesh, splits(), ANY_SIDECAR))
    pinned = [route for name, route in routes.items() if name.startswith("shop|vip|")]
    assert [(route.match.prefix, route.route.cluster) for route in pinned] == [("/api/", "shop|v1"), ("/", "shop|v1")]


def test_a_segment_with_a_path_has_only_routes_that_can_match_and_keeps_their_options(mesh: Mesh) -> None:
    routes = routes_of(build(mesh, splits(), ANY_SIDECAR))
    beta = [route for name, route in routes.items() if name.startswith("shop|beta|")]
    assert [route.match.prefix for route in beta] == ["/api/beta", "/api/beta"]  # with a key, and without
    for route in beta:
        assert route.route.timeout.ToMilliseconds() == 2_000
        assert route.route.retry_policy.num_retries.value == 1


def test_each_route_says_which_configuration_it_belongs_to(mesh: Mesh) -> None:
    stamp = routes_of(build(mesh, splits(), ANY_SIDECAR))["shop|beta|0"].metadata.filter_metadata["serinus"]
    assert dict(stamp) == {"stamp": "shop|beta|shop-7|3"}


def test_a_service_without_decisions_is_served_by_its_baseline(mesh: Mesh) -> None:
    routes = routes_of(build(mesh, {}, ANY_SIDECAR), "blog")
    assert [route.route.cluster for route in routes.values()] == ["blog|v1"]


def context_of(mesh: Mesh, service: str) -> list[dict[str, str]]:
    """What `identity.lua` is told of a service's identities."""
    (host,) = (host for host in build(mesh, splits(), ANY_SIDECAR).routes[0].virtual_hosts if host.name == service)
    per_route = LuaPerRoute()
    assert host.typed_per_filter_config["envoy.filters.http.lua"].Unpack(per_route)
    return [dict(source) for source in per_route.filter_context["identity"]]


def test_only_a_cookie_that_another_identity_stands_before_is_held_and_for_more_than_the_gap(mesh: Mesh) -> None:
    """Written half a gap ago at the earliest, it must still be there after a whole gap of silence."""
    attributes = "; Path=/; Max-Age={}; HttpOnly; SameSite=Lax"
    cookie = {"cookie": "sid", "attributes": attributes.format(2_592_000)}
    held = {"hold": "2701", "renew": "900", "hold_attributes": attributes.format(2_701)}
    assert context_of(mesh, "shop") == [{"header": "x-user-id"}, cookie | held]
    assert context_of(mesh, "blog") == [{"header": "x-user-id"}]
    shop = mesh.services["shop"]
    first = replace(shop, identity=shop.identity[::-1])
    assert context_of(replace(mesh, services={"shop": first}), "shop") == [cookie, {"header": "x-user-id"}]


def test_services_on_one_port_share_a_listener(mesh: Mesh) -> None:
    built = build(mesh, splits(), ANY_SIDECAR)
    assert [listener.name for listener in built.listeners] == ["sidecar|10000"]
    assert [list(host.domains) for host in built.routes[0].virtual_hosts] == [["shop", "shop.example"], ["blog"]]
    assert built.routes[0].ignore_port_in_host_matching


def test_a_connection_may_be_idle_for_as_long_as_any_service_of_its_listener_allows(mesh: Mesh) -> None:
    shop, blog = (
        replace(s, idle_timeout_ms=ms) for s, ms in zip(mesh.services.values(), (90_000, 30_000), strict=True)
    )
    both, one = replace(mesh, services={"shop": shop, "blog": blog}), replace(mesh, services={"blog": blog})
    timeouts = [
        manager_of(build(m, splits(), ANY_SIDECAR)).common_http_protocol_options.idle_timeout for m in (both, one)
    ]
    assert [timeout.seconds for timeout in timeouts] == [90, 30]


def test_a_gateway_drops_what_clients_must_not_set_and_a_sidecar_believes_it(mesh: Mesh) -> None:
    (strip,) = manager_of(build(mesh, splits(), EDGE)).early_header_mutation_extensions
    assert b"x-serinus-" in strip.typed_config.value
    assert b"x-plan" in strip.typed_config.value
    assert manager_of(build(mesh, splits(), EDGE)).use_remote_address.value
    assert not manager_of(build(mesh, splits(), ANY_SIDECAR)).early_header_mutation_extensions
    assert not manager_of(build(mesh, splits(), ANY_SIDECAR)).use_remote_address.value


def test_a_gateway_that_forwards_has_one_cluster_and_neither_signs_nor_stamps(mesh: Mesh) -> None:
    built = build(mesh, splits(), FRONT)
    assert [cluster.name for cluster in built.clusters] == ["forward|inner"]
    (host,) = built.assignments[0].endpoints[0].lb_endpoints
    assert host.endpoint.address.socket_address.address == "127.0.0.1"
    assert host.endpoint.address.socket_address.port_value == 9_500
    (route,) = routes_of(built).values()
    assert route.route.cluster == "forward|inner"
    assert not route.HasField("metadata")
    assert not built.routes[0].request_headers_to_add


@pytest.mark.parametrize("gateway", [EDGE, FRONT])
def test_whoever_may_see_none_of_a_gateways_services_is_sent_no_listener(mesh: Mesh, gateway: NodeKind) -> None:
    """That they may be somebody's is asked of every mesh that limits what certificates may see."""
    built = build(mesh, splits(), NodeKind("gateway", gateway.name, frozenset({"cart"})))
    assert (built.listeners, built.routes, built.scopes, built.clusters) == ((), (), (), ())


def test_an_endpoint_with_a_name_makes_a_dns_cluster_and_an_address_an_eds_cluster(mesh: Mesh) -> None:
    clusters = {cluster.name: cluster for cluster in build(mesh, splits(), ANY_SIDECAR).clusters}
    assert clusters["shop|v1"].type == Cluster.EDS
    assert clusters["shop|v1"].health_checks[0].http_health_check.path == "/healthz"
    assert clusters["shop|v2"].type == Cluster.STRICT_DNS
    named = {assignment.cluster_name for assignment in build(mesh, splits(), ANY_SIDECAR).assignments}
    assert named == {"shop|v1", "blog|v1"}


def test_what_envoy_cannot_match_is_refused(mesh: Mesh) -> None:
    odd = SegmentMatch(query=(ValueMatch(name="q", kind="range", value=(1, 2)),))
    service: Service = mesh.services["shop"]
    service = replace(service, matches={**service.matches, "beta": odd})
    with pytest.raises(ValueError, match=r"Envoy cannot match so: .*range"):
        build(replace(mesh, services={"shop": service}), splits(), ANY_SIDECAR)


@pytest.mark.parametrize(
    ("node", "cluster", "kind"),
    [
        ("edge", "edge", EDGE),
        ("pod-17", "edge", EDGE),
        ("front", "whatever", FRONT),
        ("pod-17", "front", FRONT),
        ("inner", "sidecar", INNER),
        ("pod-17", "sidecar", ANY_SIDECAR),
        ("inner", "edge", INNER),  # the node's own ID outranks its cluster
    ],
)
def test_a_node_is_known_by_its_id_or_its_cluster(mesh: Mesh, node: str, cluster: str, kind: NodeKind) -> None:
    assert kind_of(mesh, node, cluster) == kind
    assert kind in kinds(mesh)


# --- learned segments


TABLE = LearnedTable(version=7, public_key="3059")


def with_learned(mesh: Mesh) -> tuple[Mesh, dict[str, ServiceSplits]]:
    text = TEXT.replace("beta: {match: {path: /api/beta}}", "fresh: {learned: newcomers}")
    split = {name: replace(each, learned=TABLE) for name, each in splits().items()}
    return parse_mesh(text, "mesh.yaml"), split


def filters_of(built: Resources) -> list[str]:
    return [each.name for each in manager_of(built).http_filters]


def test_only_where_a_service_has_learned_segments_are_people_asked_for_and_not_where_all_is_handed_over(
    mesh: Mesh,
) -> None:
    """After who it is, before the router; last of all filters that change the route."""
    learned, given = with_learned(mesh)
    for kind in (EDGE, INNER, ANY_SIDECAR):
        identity = filters_of(build(mesh, given, kind))[:-1]
        expected = [*identity, "serinus.learned", "serinus.resolver", "envoy.filters.http.router"]
        assert filters_of(build(learned, given, kind)) == expected
    assert filters_of(build(learned, given, FRONT)) == filters_of(build(mesh, given, FRONT))


def test_what_is_known_of_people_is_in_routes_alone_so_that_listeners_do_not_drain(mesh: Mesh) -> None:
    learned, given = with_learned(mesh)
    other = replace(learned.services["shop"], learned_timeout_ms=5)
    changed = replace(learned, services={**learned.services, "shop": other})
    newer = {name: replace(each, learned=replace(TABLE, version=8)) for name, each in given.items()}
    one, two = build(learned, given, EDGE), build(changed, newer, EDGE)
    assert one.listeners == two.listeners
    hosts = {host.name: host for config in two.routes for host in config.virtual_hosts}
    context = LuaPerRoute()
    assert hosts["shop"].typed_per_filter_config["serinus.learned"].Unpack(context)
    assert dict(context.filter_context) == {
        "service": "shop", "cookie": "serinus-segment-shop", "table": "8", "public_key": "3059"
    }  # fmt: skip
    asked = ExtAuthzPerRoute()
    assert hosts["shop"].typed_per_filter_config["serinus.resolver"].Unpack(asked)
    assert asked.check_settings.context_extensions == {"service": "shop"}
    assert asked.check_settings.grpc_service.timeout.ToMilliseconds() == 5
    assert set(hosts["blog"].typed_per_filter_config) == {"envoy.filters.http.lua"}


def test_without_a_table_nobody_is_asked_for_and_what_clients_claim_is_dropped_all_the_same(mesh: Mesh) -> None:
    learned, _ = with_learned(mesh)
    built = build(learned, splits(), ANY_SIDECAR)
    assert "serinus.learned" in filters_of(built)
    (config,) = built.routes
    assert all(set(host.typed_per_filter_config) == {"envoy.filters.http.lua"} for host in config.virtual_hosts)
    (header,) = routes_of(built)["shop|fresh|1"].match.headers
    assert (header.name, header.string_match.exact) == ("x-serinus-segment", "newcomers")


def _with_watch(**watch: object) -> dict[str, ServiceSplits]:
    return {"shop": replace(splits()["shop"], watch=Watch(**watch))}  # type: ignore[arg-type]


def _marks(route: Route) -> list[tuple[str, str]]:
    return [(each.header.key, each.header.value) for each in route.request_headers_to_add]


def test_only_routes_of_a_watched_segment_mark_their_requests_and_trace_them_where_there_is_a_tracer(
    mesh: Mesh,
) -> None:
    watched = build(mesh, _with_watch(segments=frozenset({"beta"})), ANY_SIDECAR)
    for name, route in routes_of(watched).items():
        assert _marks(route) == [("x-serinus-watched", "1")] * ("|beta|" in name)
        assert not route.HasField("tracing")
    traced = build(mesh, _with_watch(segments=frozenset({"beta"}), traced=True), ANY_SIDECAR)
    for name, route in routes_of(traced).items():
        assert route.HasField("tracing") == ("|beta|" in name)
    tracing = routes_of(traced)["shop|beta|0"].tracing
    assert (tracing.random_sampling.numerator, tracing.random_sampling.denominator) == (100, FractionalPercent.HUNDRED)
    assert tracing.HasField("client_sampling")  # left out it would be everybody who sends x-client-trace-id
    assert tracing.client_sampling.numerator == 0
    assert watched.listeners == traced.listeners == build(mesh, splits(), ANY_SIDECAR).listeners


def test_of_two_access_loggers_each_request_meets_one_and_the_watched_are_reported_sooner(mesh: Mesh) -> None:
    usual, watched = manager_of(build(mesh, splits(), ANY_SIDECAR)).access_log
    headers = [each.filter.header_filter.header for each in (usual, watched)]
    assert [(h.name, h.present_match, h.invert_match) for h in headers] == [
        ("x-serinus-watched", True, True),
        ("x-serinus-watched", True, False),
    ]
    configs = []
    for each in (usual, watched):
        config = HttpGrpcAccessLogConfig()
        assert each.typed_config.Unpack(config)
        configs.append(config)
    flushes_ms = [config.common_config.buffer_flush_interval.ToMilliseconds() for config in configs]
    assert flushes_ms == [200, 50]
    configs[1].common_config.buffer_flush_interval.CopyFrom(configs[0].common_config.buffer_flush_interval)
    assert configs[0] == configs[1], "they differ in nothing else"
