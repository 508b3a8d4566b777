"""What Envoy checks beforehand is what it would be sent, without anything to ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from xds_server.node import ANY_SIDECAR
from xds_server.resources import Resources, build
from xds_server.settings import parse_mesh
from xds_server.validation.static_bootstrap import static_bootstrap

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions:
      v1: {endpoints: ["10.0.0.1:9001", "10.0.0.2:9001"], health: {path: /healthz}}
      v2: {endpoints: ["10.0.0.3:9002", "shop-v2.example:9002"]}
    baseline: v1
"""


@pytest.fixture
def built() -> Resources:
    return build(parse_mesh(MESH, "mesh.yaml"), {}, ANY_SIDECAR)


def clusters_of(bootstrap: Bootstrap) -> dict[str, Cluster]:
    return {cluster.name: cluster for cluster in bootstrap.static_resources.clusters}


def managers_of(bootstrap: Bootstrap) -> list[HttpConnectionManager]:
    managers = []
    for listener in bootstrap.static_resources.listeners:
        managers.append(HttpConnectionManager())
        assert listener.filter_chains[0].filters[0].typed_config.Unpack(managers[-1])
    return managers


def test_each_listener_has_its_routes_inline_and_all_else_as_it_was(built: Resources) -> None:
    bootstrap = static_bootstrap(built)
    (manager,) = managers_of(bootstrap)
    assert manager.route_config == built.routes[0]
    before = HttpConnectionManager()
    assert built.listeners[0].filter_chains[0].filters[0].typed_config.Unpack(before)
    assert before.HasField("rds")
    for each in (before, manager):
        each.ClearField("route_specifier")
    assert manager == before
    (listener,) = bootstrap.static_resources.listeners
    assert listener.address == built.listeners[0].address


def test_clusters_that_wait_for_eds_have_their_endpoints_inline_and_all_else_as_it_was(built: Resources) -> None:
    cluster = clusters_of(static_bootstrap(built))["shop|v1"]
    assert cluster.type == Cluster.STATIC
    assert cluster.load_assignment == built.assignments[0]
    before = Cluster()
    before.CopyFrom(built.clusters[0])
    for each in (before, cluster):
        for field in ("type", "eds_cluster_config", "load_assignment"):
            each.ClearField(field)
    assert cluster == before


def test_a_service_name_in_eds_names_the_endpoints(built: Resources) -> None:
    built.clusters[0].eds_cluster_config.service_name = "elsewhere"
    built.assignments[0].cluster_name = "elsewhere"
    assert clusters_of(static_bootstrap(built))["shop|v1"].load_assignment == built.assignments[0]


def test_no_name_is_left_that_would_be_looked_up(built: Resources) -> None:
    cluster = clusters_of(static_bootstrap(built))["shop|v2"]
    assert cluster.type == Cluster.STRICT_DNS
    hosts = [host.endpoint.address.socket_address for host in cluster.load_assignment.endpoints[0].lb_endpoints]
    assert [(host.address, host.port_value) for host in hosts] == [("127.0.0.1", 9002)] * 2


def test_the_cluster_that_access_logs_name_is_there_and_leads_nowhere(built: Resources) -> None:
    assert not clusters_of(static_bootstrap(built))["serinus"].load_assignment.endpoints


def test_what_it_is_made_from_stays_as_it_was(built: Resources) -> None:
    static_bootstrap(built)
    assert built == build(parse_mesh(MESH, "mesh.yaml"), {}, ANY_SIDECAR)


def test_references_that_lead_nowhere_are_left_to_others(built: Resources) -> None:
    bootstrap = static_bootstrap(replace(built, routes=(), assignments=()))
    assert managers_of(bootstrap)[0].rds.route_config_name == "sidecar|10000"
    assert not clusters_of(bootstrap)["shop|v1"].HasField("load_assignment")
