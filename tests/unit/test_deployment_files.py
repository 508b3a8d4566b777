"""No container engine runs in the tests, so they check that everything docker-compose.yml names is there and fits."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from xds_server.mesh import Mesh
from xds_server.settings import load_mesh, parse_mesh

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MESH = load_mesh(ROOT / "envoy-configs" / "meshes" / "compose.yaml")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "serinus:local"}


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """Files of the repository by their path in the container."""
    parts = [volume.split(":") for volume in service.get("volumes", []) if volume.startswith("./")]
    return {inside: ROOT / outside for outside, inside, *_ in parts}


def flags(service: dict[str, Any]) -> set[str]:
    return {word.partition("=")[0] for word in service["command"] if word.startswith("--")}


def test_every_service_says_where_it_comes_from() -> None:
    assert set(SERVICES) == {
        "serinus", "edge", "sidecar", "shop-v1", "shop-v2", "otel-collector", "people", "rollout"
    }  # fmt: skip
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[a-z/-]+:[v0-9.]+|serinus:local", service["image"]), name
    assert [name for name, service in SERVICES.items() if "build" in service] == ["serinus"]
    assert (ROOT / SERVICES["serinus"]["build"] / "Dockerfile").is_file()


def test_the_envoys_are_official_and_of_the_version_that_the_tests_run() -> None:
    ours = subprocess.run(
        [Path(sys.executable).with_name("envoy"), "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    version = re.search(r"/([0-9]+\.[0-9]+\.[0-9]+)/", ours.stdout)
    assert version
    for name in ("edge", "sidecar"):
        assert SERVICES[name]["image"] == f"envoyproxy/envoy:v{version[1]}"


def test_every_mounted_file_is_there_and_is_what_the_command_reads() -> None:
    for name in ("serinus", "edge", "sidecar", "otel-collector"):
        mounted = mounts(SERVICES[name])
        assert mounted, name
        for inside, outside in mounted.items():
            assert outside.is_file(), outside
            assert any(word.endswith(inside) for word in SERVICES[name]["command"]), (name, inside)
    named = {volume.split(":")[0] for s in SERVICES.values() for volume in s.get("volumes", []) if volume[0] != "."}
    assert named == set(COMPOSE["volumes"])


def test_every_dependency_is_a_service_with_a_health_check_where_one_is_waited_for() -> None:
    for service in SERVICES.values():
        needs = service.get("depends_on", {})
        assert isinstance(needs, dict)
        assert set(needs) <= set(SERVICES)
        for name, need in needs.items():
            assert need["condition"] in ("service_started", "service_healthy")
            assert need["condition"] == "service_started" or "healthcheck" in SERVICES[name]


@pytest.mark.parametrize("name", [name for name in OURS if "entrypoint" in OURS[name]])
def test_every_module_exists_and_knows_the_flags_it_is_given(name: str) -> None:
    python, dash_m, module = OURS[name]["entrypoint"]
    assert (python, dash_m) == ("python", "-m")
    assert importlib.util.find_spec(module)
    text = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    for flag in flags(OURS[name]):
        assert re.search(rf"{flag}\b", text), f"{module} has no {flag}"


@pytest.mark.parametrize("name", [name for name in OURS if "entrypoint" not in OURS[name]])
def test_every_verb_exists_and_knows_the_flags_it_is_given(name: str) -> None:
    verbs = [word for word in OURS[name]["command"] if re.fullmatch(r"[a-z]+", word)]
    verbs = verbs[:2] if verbs[0] == "rollout" else verbs[:1]
    text = subprocess.run(
        [Path(sys.executable).with_name("serinus"), *verbs, "--help"],
        capture_output=True, text=True, timeout=60, check=True, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    ).stdout  # fmt: skip
    for flag in flags(OURS[name]):
        assert re.search(rf"{flag}\b", text), f"serinus {' '.join(verbs)} has no {flag}"


def test_the_mesh_names_the_containers_and_the_ports_they_listen_on() -> None:
    shop = MESH.services["shop"]
    for version in shop.versions.values():
        for host, port in version.endpoints:
            assert f"--port={port}" in SERVICES[host]["command"]
            assert f"--version={version.name}" in SERVICES[host]["command"]
    assert MESH.sidecars["sidecar"].listen[0] in SERVICES
    assert [f"127.0.0.1:{MESH.gateways['edge'].listen[1]}:{MESH.gateways['edge'].listen[1]}"] == SERVICES["edge"][
        "ports"
    ]
    people = SERVICES["people"]["command"]
    assert f"--target=edge:{MESH.gateways['edge'].listen[1]}" in people
    shops = ",".join(f"{v.name}={host}:{port}" for v in shop.versions.values() for host, port in v.endpoints)
    assert f"--shops={shops}" in people
    canary = next(name for name in shop.versions if name != shop.spec.baseline)
    assert {"shop", f"--canary={canary}"} <= set(SERVICES["rollout"]["command"])


def test_health_checks_ask_where_the_container_listens() -> None:
    for host, port in [address for version in MESH.services["shop"].versions.values() for address in version.endpoints]:
        assert f"127.0.0.1:{port}/healthz" in SERVICES[host]["healthcheck"]["test"][-1]
    for name, (_, port) in (("edge", MESH.gateways["edge"].listen), ("sidecar", MESH.sidecars["sidecar"].listen)):
        assert SERVICES[name]["healthcheck"]["test"][-1] == f"</dev/tcp/127.0.0.1/{port}"
    assert "127.0.0.1:8080/readyz" in SERVICES["serinus"]["healthcheck"]["test"][-1]


def test_it_is_the_same_demo() -> None:
    """But for addresses, the mesh is the demo's own; what is changed in the one must be changed in the other."""
    template = Template((ROOT / "xds_server" / "demo" / "mesh.yaml").read_text())
    ports = {"edge": 1, "sidecar": 2, "v1": 3, "v2": 4}
    addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    demo: Mesh = parse_mesh(template.substitute(service_port="5", **addresses), "demo")
    assert MESH.services["shop"].spec == demo.services["shop"].spec
    assert MESH.services["shop"].matches == demo.services["shop"].matches
    assert MESH.services["shop"].errors == demo.services["shop"].errors
    assert MESH.gateways["edge"].to == demo.gateways["edge"].to


def test_spans_reach_serinus_through_the_collector() -> None:
    config = yaml.safe_load((ROOT / "envoy-configs" / "otel-collector.yaml").read_text())
    assert config["exporters"]["otlp/serinus"]["endpoint"] == "serinus:4317"
    port = config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    for version in ("shop-v1", "shop-v2"):
        assert f"--otlp=otel-collector:{port}" in SERVICES[version]["command"]
    for pipeline in ("traces", "logs"):
        parts = config["service"]["pipelines"][pipeline]
        assert parts["receivers"] == ["otlp"]
        assert parts["exporters"] == ["otlp/serinus"]
        assert set(parts["processors"]) <= set(config["processors"])


def test_the_image_holds_what_it_copies_checks_hashes_and_runs_as_nobody_special() -> None:
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in (ROOT / ".dockerignore").read_text().split()
    assert "--require-hashes" in DOCKERFILE
    stages = DOCKERFILE.split("\nFROM ")
    assert re.search(r"^USER serinus$", stages[-1], re.MULTILINE)
    assert all(image == "python:3.11-slim" for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert 'ENTRYPOINT ["serinus"]' in stages[-1]
    assert SERVICES["serinus"]["command"][0] == "run"


def test_every_file_of_envoy_configs_is_loaded_by_a_test() -> None:
    """By name or, for the meshes, right here."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for path in (ROOT / "envoy-configs").rglob("*"):
        if path.parent.name == "meshes":
            assert load_mesh(path).services
        elif path.is_file():
            assert f'"{path.name}"' in tests, f"no test reads {path.name}"
