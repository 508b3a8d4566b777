from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse, ResourceError
from google.protobuf.any_pb2 import Any

from xds_server.ads.response import Response, Variant, make_body
from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.node import ANY_SIDECAR, NodeKind
from xds_server.resources import build, virtual_host
from xds_server.settings import parse_mesh
from xds_server.snapshot import InconsistentSnapshotError, ResourceType, Snapshot, content_version, pack
from xds_server.snapshot.builder import SnapshotBuilder

CDS, EDS, LDS, SRDS, RDS, RTDS = ResourceType

TEXT = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:9001"]}, v2: {endpoints: ["127.0.0.1:9002"]}}
    baseline: v1
"""


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return parse_mesh(TEXT, "mesh.yaml")


def splits(canary: str = "v2", generation: int = 1, canary_bp: int = 500) -> dict[str, ServiceSplits]:
    split = SegmentSplit(baseline="v1", canary=canary, canary_bp=canary_bp)
    return {"shop": ServiceSplits(rollout="shop-1", generation=generation, segments={"default": split})}


def built(mesh: Mesh, **of: object) -> Snapshot:
    return SnapshotBuilder().build(mesh, splits(**of), ANY_SIDECAR)  # type: ignore[arg-type]


def test_equal_content_has_equal_versions_and_bytes(mesh: Mesh) -> None:
    assert built(mesh) == built(mesh)
    assert built(mesh).versions == built(mesh).versions


def test_the_order_of_resources_makes_no_difference(mesh: Mesh) -> None:
    clusters = built(mesh).resources[CDS].values()
    assert content_version(clusters) == content_version(reversed(list(clusters)))


def test_a_new_generation_changes_the_routes_alone(mesh: Mesh) -> None:
    first, second = built(mesh), built(mesh, generation=2)
    assert second.changes(first) == {RDS: {"sidecar|10000"}}
    assert {kind for kind in ResourceType if first.versions[kind] != second.versions[kind]} == {RDS}
    (routes,) = second.resources[RDS].values()
    assert routes.generations == {"shop": 2}
    assert routes.services == {"shop"}
    assert routes.needs == {"shop|v1", "shop|v2"}
    assert routes.exposed == {"shop|default"}


def test_routes_that_take_a_canary_back_name_no_cluster_that_an_envoy_might_lack(mesh: Mesh) -> None:
    (routes,) = built(mesh, canary_bp=0).resources[RDS].values()
    assert (routes.needs, routes.exposed) == ({"shop|v1"}, frozenset())
    (routes,) = built(mesh, canary_bp=10_000).resources[RDS].values()
    assert (routes.needs, routes.exposed) == ({"shop|v1", "shop|v2"}, {"shop|default"})  # v1: people without a key


def test_another_cluster_makes_another_version_of_its_endpoints(mesh: Mesh) -> None:
    """Else an Envoy that comes back in between would wait for endpoints that it is thought to have."""
    checked = parse_mesh(TEXT.replace('9001"]}', '9001"], health: {path: /}}'), "mesh.yaml")
    builder = SnapshotBuilder()
    before = builder.build(mesh, {}, ANY_SIDECAR)
    after = builder.build(checked, {}, ANY_SIDECAR)
    assert after.changes(before) == {CDS: {"shop|v1"}, EDS: {"shop|v1"}}
    assert after.resources[EDS]["shop|v1"].packed == before.resources[EDS]["shop|v1"].packed


def test_what_does_not_change_is_shared_with_the_snapshot_before(mesh: Mesh) -> None:
    builder = SnapshotBuilder()
    first = builder.build(mesh, splits(), ANY_SIDECAR)
    assert builder.build(mesh, splits(), ANY_SIDECAR) is first
    second = builder.build(mesh, splits(generation=2), ANY_SIDECAR)
    for kind in (CDS, EDS, LDS, SRDS):
        assert second.resources[kind] is first.resources[kind]
    again = parse_mesh(TEXT, "mesh.yaml")  # the same file, read again
    assert builder.build(again, splits(generation=2), ANY_SIDECAR) is second


def test_a_service_that_is_gone_is_forgotten() -> None:
    builder = SnapshotBuilder()
    two = parse_mesh(TEXT + TEXT.split("services:")[1].replace("shop", "blog").replace("10000", "10001"), "mesh.yaml")
    builder.build(two, splits(), ANY_SIDECAR)
    left = builder.build(parse_mesh(TEXT, "mesh.yaml"), splits(), ANY_SIDECAR)
    assert set(left.resources[LDS]) == {"sidecar|10000"}
    assert set(left.resources[CDS]) == {"shop|v1", "shop|v2"}
    assert {service for service, _ in builder._hosts} == {"shop"}
    assert set(builder._clusters) == {"shop|v1", "shop|v2"}


def test_a_consistent_snapshot_passes(mesh: Mesh) -> None:
    built(mesh).check()


def test_a_route_to_an_unknown_cluster_is_refused(mesh: Mesh) -> None:
    with pytest.raises(InconsistentSnapshotError, match=r"RDS sidecar\|10000 refers to CDS shop\|v9, which does not"):
        built(mesh, canary="v9").check()
    builder = SnapshotBuilder()
    good = builder.build(mesh, splits(), ANY_SIDECAR)
    with pytest.raises(InconsistentSnapshotError, match=r"RDS sidecar\|10000 refers to CDS shop\|v9, which does not"):
        builder.build(mesh, splits(canary="v9"), ANY_SIDECAR).check(since=good)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (EDS, r"CDS shop\|v1 refers to EDS shop\|v1"),
        (RDS, r"LDS sidecar\|10000 refers to RDS"),
        (CDS, r"RDS sidecar\|10000 refers to CDS"),
    ],
)
def test_what_is_referred_to_must_be_there(mesh: Mesh, missing: ResourceType, message: str) -> None:
    good = built(mesh)
    bad = good.but({missing: {}})
    for since in (None, good):
        with pytest.raises(InconsistentSnapshotError, match=message):
            bad.check(since=since)


def test_weights_that_do_not_add_up_are_refused(mesh: Mesh) -> None:
    message = virtual_host(mesh.services["shop"], splits()["shop"])
    message.routes[0].route.weighted_clusters.clusters[0].weight.value = 1
    (problem,) = pack.host(message).problems
    assert problem == "the weights of route shop|default|0 add up to 9501, not 10000"


def test_a_domain_of_two_services_is_refused() -> None:
    mesh = parse_mesh(TEXT, "mesh.yaml")
    shop = mesh.services["shop"]
    both = replace(mesh, services={"shop": shop, "other": replace(shop, name="other", domains=("SHOP",))})
    with pytest.raises(InconsistentSnapshotError, match="domain shop belongs to more than one service"):
        SnapshotBuilder().build(both, {}, ANY_SIDECAR)


def test_a_route_configuration_put_together_from_hosts_is_the_message_that_protobuf_would_write(mesh: Mesh) -> None:
    ((name, resource),) = built(mesh).resources[RDS].items()
    (whole,) = build(mesh, splits(), ANY_SIDECAR).routes
    unpacked = RouteConfiguration()
    assert Any.FromString(resource.packed).Unpack(unpacked)
    assert (unpacked, name) == (whole, whole.name)


@pytest.mark.parametrize("variant", list(Variant))
def test_a_body_put_together_from_parts_is_the_message_that_protobuf_would_write(mesh: Mesh, variant: Variant) -> None:
    clusters = built(mesh).resources[CDS]
    body = make_body(variant, CDS, "v", clusters, removed=("gone",), missing=("never",))
    raw = Response(body, "1").encode()
    error = ResourceError(resource_name={"name": "never"})
    error.error_detail.code = 5
    error.error_detail.message = "Serinus serves no Cluster called never"
    packed = {name: Any.FromString(r.packed) for name, r in clusters.items()}
    if variant is Variant.SOTW:
        assert DiscoveryResponse.FromString(raw) == DiscoveryResponse(
            version_info="v", resources=packed.values(), type_url=CDS.url, nonce="1", resource_errors=[error]
        )
        return
    assert DeltaDiscoveryResponse.FromString(raw) == DeltaDiscoveryResponse(
        system_version_info="v",
        resources=[{"name": name, "version": r.version, "resource": packed[name]} for name, r in clusters.items()],
        type_url=CDS.url,
        nonce="1",
        removed_resources=["gone"],
        resource_errors=[error],
    )


def test_endpoints_from_elsewhere_change_nothing_but_themselves(mesh: Mesh) -> None:
    builder = SnapshotBuilder()
    first = builder.build(mesh, splits(), ANY_SIDECAR)
    moved = {"shop|v1": (("127.0.0.1", 9_003), ("127.0.0.1", 9_004))}
    second = builder.build(mesh, splits(), ANY_SIDECAR, moved)
    assert second.changes(first) == {EDS: {"shop|v1"}}
    assert builder.build(mesh, splits(), ANY_SIDECAR, dict(moved)) is second
    assert second.resources[RDS] is first.resources[RDS]


def test_what_was_built_beside_something_that_is_refused_is_not_taken_for_done() -> None:
    """A rollback would be thought to be there, and never be published."""
    cart = TEXT.replace("services:", "").replace("shop", "cart").replace("10000", "10001")
    mesh = parse_mesh(TEXT + cart, "mesh.yaml")

    def both(shop: tuple[int, int], cart: tuple[int, int]) -> dict[str, ServiceSplits]:
        of = {"shop": shop, "cart": cart}
        return {name: splits(generation=n, canary_bp=bp)["shop"] for name, (n, bp) in of.items()}

    for refused, fine in (("shop", "cart"), ("cart", "shop")):  # which of them is built first is left open
        builder = SnapshotBuilder()
        builder.build(mesh, both((1, 500), (1, 500)), ANY_SIDECAR)
        with pytest.raises(ValueError, match="basis points"):
            builder.build(mesh, both(**{refused: (2, 20_000), fine: (2, 0)}), ANY_SIDECAR)
        routes = builder.build(mesh, both(**{refused: (1, 500), fine: (2, 0)}), ANY_SIDECAR).resources[RDS]
        assert {name: n for r in routes.values() for name, n in r.generations.items()} == {refused: 1, fine: 2}


def test_a_gateway_tells_where_people_are_from_when_the_first_service_asks() -> None:
    """Also those that are routed to its other services: their configurations are built anew, as from nothing."""
    text = """
services:
  shop: {domains: [shop], port: 1, identity: [{header: x-user-id}], versions: {v1: {endpoints: ["127.0.0.1:9"]}},
         baseline: v1, segments: {few: {match: MATCH}}}
  blog: {domains: [blog], port: 2, identity: [{header: x-user-id}], versions: {v1: {endpoints: ["127.0.0.1:9"]}},
         baseline: v1}
gateways: {edge: {listen: "127.0.0.1:80"}}
"""
    before, after = (
        parse_mesh(text.replace("MATCH", match), "mesh.yaml") for match in ("{path: /a}", "{source: [10.0.0.0/8]}")
    )
    edge = NodeKind(role="gateway", name="edge")
    builder = SnapshotBuilder()
    builder.build(before, {}, edge)
    routes = builder.build(after, {}, edge).resources[ResourceType.RDS]
    assert routes == SnapshotBuilder().build(after, {}, edge).resources[ResourceType.RDS]
    assert all(b"x-serinus-source" in resource.packed for resource in routes.values())
