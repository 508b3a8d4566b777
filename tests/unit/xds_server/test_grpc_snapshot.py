from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from xds_server.mesh import Address, Mesh, SegmentSplit, ServiceSplits
from xds_server.resources import grpc
from xds_server.settings import parse_mesh
from xds_server.snapshot import InconsistentSnapshotError, ResourceType
from xds_server.snapshot.grpc import GrpcSnapshotBuilder

CDS, EDS, LDS, SRDS, RDS, _RTDS = ResourceType

TEXT = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:9001"]}, v2: {endpoints: ["127.0.0.1:9002"]}}
    baseline: v1
    segments: {asked: {match: {query: [{name: a, exact: b}]}}}
  blog:
    domains: [blog]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["blog.example:9003"]}}
    baseline: v1
"""


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return parse_mesh(TEXT, "mesh.yaml")


def splits(generation: int = 1, canary_bp: int = 500, canary: str = "v2") -> dict[str, ServiceSplits]:
    split = SegmentSplit(baseline="v1", canary=canary, canary_bp=canary_bp)
    segments = {"asked": split, "default": split}
    return {"shop": ServiceSplits(rollout="shop-1", generation=generation, segments=segments)}


def test_a_snapshot_is_whole_and_says_whom_each_resource_serves(mesh: Mesh) -> None:
    snapshot = GrpcSnapshotBuilder().build(mesh, splits())
    snapshot.check()
    assert set(snapshot.resources[LDS]) == {"shop", "shop:10000", "blog", "blog:10000"}
    assert set(snapshot.resources[CDS]) == {"shop|v1", "shop|v2", "blog|v1"}
    assert set(snapshot.resources[EDS]) == {"shop|v1", "shop|v2"}
    assert set(snapshot.resources[RDS]) == {"grpc|shop", "grpc|blog"}
    assert not snapshot.resources[SRDS]
    routes = snapshot.resources[RDS]["grpc|shop"]
    assert (routes.generations, routes.services) == ({"shop": 1}, {"shop"})
    assert routes.exposed == {"shop|default"}  # nobody is in the other segment
    assert snapshot.resources[LDS]["shop:10000"].services == {"shop"}
    assert snapshot.routes_of("shop") == ("grpc|shop",)


def test_a_change_of_a_split_touches_one_route_configuration_and_shares_the_rest(mesh: Mesh) -> None:
    builder = GrpcSnapshotBuilder()
    first = builder.build(mesh, splits())
    assert builder.build(mesh, splits()) is first
    second = builder.build(mesh, splits(2, 600))
    assert second.changes(first) == {RDS: {"grpc|shop"}}
    assert second.resources[RDS]["grpc|blog"] is first.resources[RDS]["grpc|blog"]
    for kind in (CDS, EDS, LDS):
        assert second.resources[kind] is first.resources[kind]
    again = parse_mesh(TEXT, "mesh.yaml")  # the same file, read again
    assert builder.build(again, splits(2, 600)) is second
    assert builder.build(mesh, splits()).resources[RDS]["grpc|shop"] is first.resources[RDS]["grpc|shop"]


def test_what_is_prepared_is_not_built_again(mesh: Mesh) -> None:
    builder = GrpcSnapshotBuilder()
    builder.build(mesh, splits())
    back = splits(2, 0)
    builder.prepare("shop", back.values())
    builder.prepare("nobody", back.values())
    prepared = builder._built["shop"].routes[0][1]
    assert builder.build(mesh, back).resources[RDS]["grpc|shop"] is prepared


def test_endpoints_from_elsewhere_change_nothing_but_themselves(mesh: Mesh) -> None:
    builder = GrpcSnapshotBuilder()
    first = builder.build(mesh, splits())
    second = builder.build(mesh, splits(), {"shop|v1": (("127.0.0.1", 9_009),)})
    assert second.changes(first) == {EDS: {"shop|v1"}}
    assert builder.build(mesh, splits(), {"shop|v1": ()}).changes(second) == {EDS: {"shop|v1"}}


def test_a_service_that_is_gone_is_forgotten(mesh: Mesh) -> None:
    builder = GrpcSnapshotBuilder()
    first = builder.build(mesh, splits())
    left = builder.build(replace(mesh, services={"blog": mesh.services["blog"]}), splits())
    assert left.changes(first) == {
        LDS: {"shop", "shop:10000"},
        RDS: {"grpc|shop"},
        CDS: {"shop|v1", "shop|v2"},
        EDS: {"shop|v1", "shop|v2"},
    }
    assert set(builder._built) == {"blog"}


def test_a_split_to_a_version_that_is_not_there_is_refused(mesh: Mesh) -> None:
    snapshot = GrpcSnapshotBuilder().build(mesh, splits(canary="v9"))
    with pytest.raises(InconsistentSnapshotError, match=r"RDS grpc\|shop refers to CDS shop\|v9, which does not"):
        snapshot.check()


def test_a_resource_that_grpc_would_reject_is_not_built_and_the_next_call_builds_all(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours, were there one: a locality without a weight, which gRPC takes for none."""
    sound = grpc.assignment

    def faulty(name: str, endpoints: tuple[Address, ...]) -> ClusterLoadAssignment:
        built = sound(name, endpoints)
        if name == "shop|v2":
            built.endpoints[0].ClearField("load_balancing_weight")
        return built

    builder = GrpcSnapshotBuilder()
    monkeypatch.setattr(grpc, "assignment", faulty)
    with pytest.raises(InconsistentSnapshotError, match=r"gRPC would not take EDS shop\|v2: locality 0 has no weight"):
        builder.build(mesh, splits())
    monkeypatch.undo()
    builder.build(mesh, splits()).check()
