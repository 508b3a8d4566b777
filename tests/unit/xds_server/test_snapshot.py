from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from google.protobuf.any_pb2 import Any

from xds_server.ads.wire import discovery_response
from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.node import ANY_SIDECAR
from xds_server.resources import Resources, build
from xds_server.settings import parse_mesh
from xds_server.snapshot import InconsistentSnapshotError, ResourceType, Snapshot

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


def built(mesh: Mesh, *, canary: str = "v2", generation: int = 1) -> Resources:
    split = SegmentSplit(baseline="v1", canary=canary, canary_bp=500)
    splits = {"shop": ServiceSplits(rollout="shop-1", generation=generation, segments={"default": split})}
    return build(mesh, splits, ANY_SIDECAR)


def test_equal_content_has_equal_versions_and_bytes(mesh: Mesh) -> None:
    assert Snapshot.of(built(mesh)) == Snapshot.of(built(mesh))


def test_the_order_of_resources_makes_no_difference(mesh: Mesh) -> None:
    resources = built(mesh)
    turned = replace(resources, clusters=resources.clusters[::-1], assignments=resources.assignments[::-1])
    assert Snapshot.of(turned).versions == Snapshot.of(resources).versions


def test_a_new_generation_changes_the_routes_alone(mesh: Mesh) -> None:
    first, second = Snapshot.of(built(mesh)), Snapshot.of(built(mesh, generation=2))
    changed = {kind for kind in ResourceType if first.versions[kind] != second.versions[kind]}
    assert changed == {ResourceType.RDS}
    (routes,) = second.resources[ResourceType.RDS].values()
    assert routes.generations == {"shop": 2}
    assert routes.services == {"shop"}
    assert routes.needs == {"shop|v1", "shop|v2"}


def test_a_consistent_snapshot_passes(mesh: Mesh) -> None:
    Snapshot.of(built(mesh)).check()


def test_a_route_to_an_unknown_cluster_is_refused(mesh: Mesh) -> None:
    with pytest.raises(InconsistentSnapshotError, match=r"RDS sidecar\|10000 refers to CDS shop\|v9, which does not"):
        Snapshot.of(built(mesh, canary="v9")).check()


def test_a_cluster_without_its_endpoints_is_refused(mesh: Mesh) -> None:
    with pytest.raises(InconsistentSnapshotError, match=r"CDS shop\|v1 refers to EDS shop\|v1"):
        Snapshot.of(replace(built(mesh), assignments=())).check()


def test_a_listener_without_its_routes_is_refused(mesh: Mesh) -> None:
    with pytest.raises(InconsistentSnapshotError, match=r"LDS sidecar\|10000 refers to RDS"):
        Snapshot.of(replace(built(mesh), routes=())).check()


def test_weights_that_do_not_add_up_are_refused(mesh: Mesh) -> None:
    resources = built(mesh)
    resources.routes[0].virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].weight.value = 1
    with pytest.raises(InconsistentSnapshotError, match=r"route shop\|default\|0 add up to 9501, not 10000"):
        Snapshot.of(resources).check()


def test_a_domain_of_two_services_is_refused(mesh: Mesh) -> None:
    resources = built(mesh)
    resources.routes[0].virtual_hosts.add(name="other", domains=["SHOP"])
    with pytest.raises(InconsistentSnapshotError, match="domain shop belongs to more than one service"):
        Snapshot.of(resources).check()


def test_one_name_twice_is_refused(mesh: Mesh) -> None:
    resources = built(mesh)
    with pytest.raises(InconsistentSnapshotError, match=r"two CDS resources are called shop\|v1"):
        Snapshot.of(replace(resources, clusters=resources.clusters + resources.clusters))


def test_a_response_put_together_from_parts_is_the_message_that_protobuf_would_write(mesh: Mesh) -> None:
    resources = Snapshot.of(built(mesh)).resources[ResourceType.CDS]
    raw = discovery_response(
        type_url=ResourceType.CDS.url, version="v", nonce="1", resources=[r.packed for r in resources.values()]
    )
    expected = DiscoveryResponse(
        version_info="v",
        resources=[Any.FromString(resource.packed) for resource in resources.values()],
        type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster",
        nonce="1",
    )
    assert DiscoveryResponse.FromString(raw) == expected
