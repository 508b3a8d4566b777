"""The command line without a control plane: exit codes and what people are told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SERINUS = Path(sys.executable).with_name("serinus")

MESH = """
services:
  checkout:
    domains: [checkout]
    port: 10000
    identity: [{header: x-user-id}]
    versions:
      v1: {endpoints: [127.0.0.1:9001]}
      v2: {endpoints: [127.0.0.1:9002]}
    baseline: v1
"""


def serinus(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TERM": "dumb", "COLUMNS": "200", **environment}
    command = [str(SERINUS), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    file = tmp_path / "mesh.yaml"
    file.write_text(MESH)
    return file


@pytest.fixture(scope="module")
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_help_names_every_verb() -> None:
    """What design promises can be found."""
    done = serinus("--help")
    assert done.returncode == 0
    for verb in [
        "run",
        "demo",
        "validate",
        "schema",
        "bootstrap",
        "status",
        "history",
        "explain",
        "rollout",
        "segment",
        "train",
        "version",
    ]:
        assert f" {verb} " in done.stdout
    steer = serinus("rollout", "--help").stdout
    for verb in ["start", "pause", "resume", "set", "promote", "rollback", "freeze", "list"]:
        assert f" {verb} " in steer


def test_help_is_fast_because_nothing_heavy_is_imported() -> None:
    """Each verb pays for what it uses."""
    heavy = {"grpc", "numpy", "yaml", "pydantic", "rich.table", "google.protobuf", "statsmodels", "sklearn", "asyncio"}
    code = "import sys, xds_server.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert heavy.isdisjoint(loaded.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuch",),
        ("status", "--nosuch"),
        ("status", "--server", "nowhere"),
        ("status", "--server", "127.0.0.1:99999"),
        ("history", "--limit", "0"),
        ("rollout", "start", "checkout"),
        ("rollout", "set", "checkout"),
        ("rollout", "set", "checkout", "--split", "101%"),
        ("rollout", "set", "checkout", "--split", "much"),
        ("rollout", "set", "checkout", "--split", "nan"),
        ("demo", "--fault", "flood"),
        ("demo", "--json", "/nosuch/summary.json"),
        ("train", "policy", "--episodes", "0"),
        ("run", "mesh.yaml", "--grpc-port", "70000"),
    ],
)
def test_wrong_usage_ends_with_2_and_no_traceback(arguments: tuple[str, ...]) -> None:
    """What is wrong is named on stderr."""
    done = serinus(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "verb",
    [
        ("status",),
        ("status", "--watch"),
        ("history",),
        ("explain", "checkout"),
        ("rollout", "list"),
        ("rollout", "pause", "checkout"),
        ("rollout", "start", "checkout", "--canary", "v2"),
    ],
)
def test_an_unreachable_control_plane_is_one_line_and_exit_code_1(verb: tuple[str, ...], nobody: str) -> None:
    """The line says where nobody answered, and what to do."""
    done = serinus(*verb, SERINUS_SERVER=nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"serinus: no control plane answers at {nobody}; start one (serinus run) or name it with --server\n"
    )


def test_a_good_mesh_file_is_called_fine(mesh: Path) -> None:
    """People and scripts are told."""
    done = serinus("validate", mesh)
    assert (done.returncode, done.stdout) == (0, f"{mesh}: fine; services: checkout\n")
    assert json.loads(serinus("validate", mesh, "--json").stdout) == {"ok": True, "problems": []}


def test_a_learned_segment_is_said_to_need_somebody_who_adopts_it(mesh: Path) -> None:
    mesh.write_text(
        MESH.replace("    baseline: v1\n", "    baseline: v1\n    segments: {fresh: {learned: newcomers}}\n")
    )
    done = serinus("validate", mesh)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "services.checkout.segments.fresh: matches nobody until somebody adopts newcomers: "
        "serinus segment adopt checkout CLUSTER newcomers"
    ]


def test_each_mistake_in_a_mesh_file_is_one_line_and_exit_code_2(mesh: Path) -> None:
    """File, line and key come first; every verb that reads the file says the same."""
    mesh.write_text(MESH.replace("baseline: v1", "baseline: v3").replace("port:", "prot:"))
    done = serinus("validate", mesh)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert all(line.startswith(f"serinus: {mesh}:") for line in lines)
    assert any("prot" in line and "port" in line for line in lines)
    again = serinus("bootstrap", mesh, "--node", "edge-1")
    assert (again.returncode, again.stderr) == (2, done.stderr)
    told = json.loads(serinus("validate", mesh, "--json").stdout)
    assert told["ok"] is False
    assert len(told["problems"]) == len(lines)
    assert {"file", "line", "key", "value", "legal"} <= told["problems"][0].keys()


@pytest.mark.parametrize("verb", ["validate", "bootstrap", "run"])
def test_a_missing_mesh_file_is_one_line_and_exit_code_2(verb: str, tmp_path: Path) -> None:
    """No traceback for a misspelt path."""
    options = ["--node", "edge-1"] if verb == "bootstrap" else []
    done = serinus(verb, tmp_path / "nosuch.yaml", *options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "nosuch.yaml" in done.stderr


def test_the_bootstrap_is_printed_as_yaml_or_json(mesh: Path) -> None:
    """Both say the same, and the addresses asked for are in it."""
    options = ("bootstrap", mesh, "--node", "edge-1", "--xds", "127.0.0.2:18001", "--admin", "127.0.0.1:9901")
    printed = serinus(*options)
    assert printed.returncode == 0
    built = yaml.safe_load(printed.stdout)
    assert built == json.loads(serinus(*options, "--output", "json").stdout)
    assert built["node"]["id"] == "edge-1"
    assert "127.0.0.2" in printed.stdout
    assert built["admin"]["address"]["socket_address"]["port_value"] == 9901


def test_the_bootstrap_of_a_grpc_client_is_json_and_what_it_does_not_get_is_said(mesh: Path) -> None:
    """Nothing but JSON on stdout, so that it can be put into a file."""
    mesh.write_text(mesh.read_text().replace("[checkout]", '[checkout, "*.shop"]'))
    options = ("bootstrap", mesh, "--node", "app-1", "--grpc", "--xds", "127.0.0.2:18001")
    printed = serinus(*options)
    assert printed.returncode == 0
    built = json.loads(printed.stdout)
    assert built["node"]["id"] == "app-1"
    assert built["xds_servers"][0]["server_uri"] == "127.0.0.2:18001"
    (line,) = printed.stderr.splitlines()
    assert line == "serinus: gRPC: service checkout: a client must name its target, so nobody is served by *.shop"
    refused = serinus(*options, "--admin", "127.0.0.1:9901")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no admin interface" in refused.stderr


def test_the_schema_of_mesh_files_is_json() -> None:
    """Editors can use it."""
    printed = serinus("schema")
    assert printed.returncode == 0
    assert "services" in json.loads(printed.stdout)["properties"]


def test_version_is_the_packages() -> None:
    """The same number everywhere."""
    import xds_server

    assert serinus("version").stdout == f"{xds_server.__version__}\n"
