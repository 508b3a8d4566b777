"""Real Envoy takes every bootstrap that is published or printed, and the regexes that a mesh file may hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xds_server.bootstrap import bootstrap
from xds_server.settings import MeshError, parse_mesh

pytestmark = pytest.mark.envoy

CONFIGS = Path(__file__).parents[2] / "envoy-configs"
ENVOY = Path(sys.executable).with_name("envoy")
MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: [127.0.0.1:9001]}}
    baseline: v1
    segments: {s: {match: {headers: [{name: x-s, regex: "REGEX"}]}}}
gateways:
  edge: {listen: 127.0.0.1:10000}
"""


def complaints(config: Path) -> str:
    """What Envoy has against the configuration; empty if it takes it."""
    run = subprocess.run(
        [ENVOY, "--mode", "validate", "--config-path", config], capture_output=True, text=True, timeout=30, check=False
    )
    return "" if run.returncode == 0 else run.stderr


@pytest.mark.parametrize("file", ["bootstrap-gateway.yaml", "bootstrap-sidecar.yaml"])
def test_envoy_takes_the_published_bootstraps(file: str) -> None:
    assert not complaints(CONFIGS / file)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "serinus.internal"])
def test_envoy_takes_what_the_tool_builds(host: str, tmp_path: Path) -> None:
    config = tmp_path / "bootstrap.json"
    built = bootstrap(parse_mesh(MESH, "mesh"), "edge", xds=(host, 18_000), admin=("localhost", 9_901))
    config.write_text(json.dumps(built))
    assert not complaints(config)


@pytest.mark.parametrize(
    "regex", ["a" * 96, "a" * 97, "(?=a)", "[a-z]{1,20}", "[a-z]{1,60}", "(a|b)+c?", r"\\p{Greek}+"]
)
def test_a_mesh_file_may_hold_exactly_the_regular_expressions_that_envoy_takes(regex: str, tmp_path: Path) -> None:
    match = {
        "prefix": "/",
        "headers": [{"name": "x-s", "string_match": {"safe_regex": {"regex": json.loads(f'"{regex}"')}}}],
    }
    manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    host = {"name": "h", "domains": ["*"], "routes": [{"match": match, "direct_response": {"status": 200}}]}
    typed = {
        "@type": f"type.googleapis.com/{manager}",
        "stat_prefix": "t",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": typed}]}],
    }
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    try:
        parse_mesh(MESH.replace("REGEX", regex), "mesh.yaml")
        taken = True
    except MeshError:
        taken = False
    refusal = complaints(config)
    assert taken == (not refusal), refusal
