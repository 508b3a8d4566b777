"""Whatever mesh, splits and endpoints there are, what gRPC clients are sent passes gRPC's own rules."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.node import ANY_SIDECAR
from xds_server.resources import grpc
from xds_server.settings import MeshError, parse_mesh
from xds_server.snapshot import ResourceType
from xds_server.snapshot.builder import SnapshotBuilder
from xds_server.snapshot.grpc import GrpcSnapshotBuilder

ENDPOINTS = st.lists(
    st.sampled_from(["10.0.0.1:80", "10.0.0.2:80", "[::1]:80", "[0:0:0:0:0:0:0:1]:80", "a.example:80", "b.example:80"]),
    min_size=1,
    max_size=3,
    unique=True,
)
KINDS = [
    *({"exact": "a"}, {"prefix": "a"}, {"suffix": "a"}, {"contains": "a"}, {"regex": "a+"}),
    *({"present": True}, {"present": False}, {"range": [1, 5]}),
]
HEADERS = st.builds(
    lambda name, kind: {"name": name, **kind},
    st.sampled_from(["x-plan", "x-it", ":path", ":authority", "token-bin", "user-agent"]),
    st.sampled_from(KINDS),
)
MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "headers": st.lists(HEADERS, min_size=1, max_size=2),
        "query": st.just([{"name": "q", "exact": "1"}]),
        "path": st.sampled_from(["/", "/a/", "/a/b", "/a/b/c", "/b"]),
    },
).filter(bool)
OPTIONS = st.sampled_from([{}, {"pin": "v1"}, {"max_split": "50%"}])
SEGMENTS = st.dictionaries(
    st.sampled_from(["s1", "s2", "s3"]),
    st.builds(lambda match, options: {"match": match, **options}, MATCHES, OPTIONS),
    max_size=3,
)
ROUTES = st.sampled_from(
    [
        [{"prefix": "/"}],
        [{"prefix": "/a/b", "timeout": "10ms", "retries": 10}, {"prefix": "/a/"}],
        [{"prefix": "/a/b/c/d"}, {"prefix": "/"}],
    ]
)
SERVICES = st.fixed_dictionaries(
    {
        "domains": st.lists(
            st.sampled_from(["shop", "shop.example", "*.example", "*"]), min_size=1, max_size=3, unique=True
        ),
        "port": st.sampled_from([10_000, 10_001, 10_002]),
        "identity": st.just([{"header": "x-user-id"}]),
        "routes": ROUTES,
        "versions": st.fixed_dictionaries(
            {"v1": ENDPOINTS.map(lambda given: {"endpoints": given})},
            optional={"v2": ENDPOINTS.map(lambda given: {"endpoints": given, "health": {"path": "/"}})},
        ),
        "baseline": st.just("v1"),
        "segments": SEGMENTS,
    }
)


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    tree: dict[str, Any] = {"services": draw(st.dictionaries(st.sampled_from(["one", "two"]), SERVICES, min_size=1))}
    try:
        return parse_mesh(yaml.safe_dump(tree), "mesh.yaml")
    except MeshError:  # two services may not share a port and a domain, nor two segments a match
        assume(False)
        raise


@settings(max_examples=200, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(meshes(), st.data())
def test_what_is_built_passes_and_serves_every_service_that_it_can(mesh: Mesh, data: st.DataObject) -> None:
    splits = {}
    for service in mesh.services.values():
        canary = data.draw(st.sampled_from([None, *service.versions]))
        bp = data.draw(st.sampled_from([0, 1, 500, 10_000]))
        split = SegmentSplit(baseline="v1", canary=canary, canary_bp=bp)
        names = data.draw(st.sets(st.sampled_from([segment.name for segment in service.spec.segments])))
        splits[service.name] = ServiceSplits(rollout="r", generation=1, segments=dict.fromkeys(names, split))
    SnapshotBuilder().build(mesh, splits, ANY_SIDECAR).check()
    snapshot = GrpcSnapshotBuilder().build(mesh, splits)
    snapshot.check()
    served = grpc.served(mesh)
    assert set(snapshot.resources[ResourceType.RDS]) == {f"grpc|{name}" for name in served}
    assert set(snapshot.resources[ResourceType.LDS]) == {target for targets in served.values() for target in targets}
    if served.keys() != mesh.services.keys():
        assert list(grpc.limits(mesh)), "nobody is told"
