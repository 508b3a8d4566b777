"""What an Envoy is told before it can ask for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from xds_server.bootstrap import bootstrap
from xds_server.errors import BadRequestError
from xds_server.settings import load_mesh

CONFIGS = Path(__file__).parents[3] / "envoy-configs"
MESH = load_mesh(CONFIGS / "meshes" / "compose.yaml")


def test_a_gateway_is_its_own_cluster_and_everybody_else_is_a_sidecar() -> None:
    nodes = {name: bootstrap(MESH, name, xds=("127.0.0.1", 18_000))["node"] for name in ("edge", "sidecar", "pod-7")}
    assert nodes == {
        "edge": {"id": "edge", "cluster": "edge"},
        "sidecar": {"id": "sidecar", "cluster": "sidecar"},
        "pod-7": {"id": "pod-7", "cluster": "sidecar"},
    }


def test_no_route_and_no_listener_is_static() -> None:
    built = bootstrap(MESH, "edge", xds=("127.0.0.1", 18_000))
    expected = {"node", "dynamic_resources", "layered_runtime", "static_resources", "cluster_manager"}
    assert set(built) == expected
    assert [cluster["name"] for cluster in built["static_resources"]["clusters"]] == ["serinus"]
    assert set(built["static_resources"]) == {"clusters"}


@pytest.mark.parametrize(("host", "kind"), [("10.0.0.1", "STATIC"), ("::1", "STATIC"), ("serinus", "STRICT_DNS")])
def test_a_control_plane_with_a_name_is_looked_up(host: str, kind: str) -> None:
    assert bootstrap(MESH, "edge", xds=(host, 18_000))["static_resources"]["clusters"][0]["type"] == kind


def test_the_admin_interface_listens_on_an_ip_address() -> None:
    admin = bootstrap(MESH, "edge", xds=("serinus", 18_000), admin=("localhost", 9_901))["admin"]
    assert admin == {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9_901}}}
    with pytest.raises(BadRequestError, match=r"admin address envoy\.internal is a host name"):
        bootstrap(MESH, "edge", xds=("serinus", 18_000), admin=("envoy.internal", 9_901))


@pytest.mark.parametrize(("file", "node"), [("bootstrap-gateway.yaml", "edge"), ("bootstrap-sidecar.yaml", "sidecar")])
def test_the_published_bootstraps_are_what_the_tool_prints(file: str, node: str) -> None:
    text = (CONFIGS / file).read_text()
    built = bootstrap(MESH, node, xds=("serinus", 18_000), admin=("127.0.0.1", 9_901))
    command, _, body = text.partition("\n")
    mesh = "envoy-configs/meshes/compose.yaml"
    assert command == f"# serinus bootstrap {mesh} --node {node} --xds serinus:18000 --admin 127.0.0.1:9901"
    assert body == yaml.safe_dump(built, sort_keys=False)
    assert "&id" not in body  # YAML anchors, which readers would stumble over
