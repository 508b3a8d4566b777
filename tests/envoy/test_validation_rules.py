"""What breaks a rule here is refused by Envoy for the same reason: one kind of rule after the other."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

# Types that are only named in texts below.
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2  # noqa: F401
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2  # noqa: F401
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401
from envoy.type.matcher.v3 import http_inputs_pb2  # noqa: F401
from google.protobuf import text_format

from xds_server.mesh import SegmentSplit, ServiceSplits
from xds_server.node import NodeKind
from xds_server.resources import build
from xds_server.settings import parse_mesh
from xds_server.validation.dry_run import envoy_binary, essence
from xds_server.validation.rules import violations
from xds_server.validation.static_bootstrap import static_bootstrap

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions:
      v1: {endpoints: ["127.0.0.1:9001"], health: {path: /healthz}}
      v2: {endpoints: ["shop-v2.example:9002"]}
    baseline: v1
    segments: {vip: {match: {headers: [{name: x-plan, exact: enterprise}]}}}
gateways: {edge: {listen: "127.0.0.1:8000"}}
"""


def good() -> Bootstrap:
    split = SegmentSplit(baseline="v1", canary="v2", canary_bp=500)
    splits = {"shop": ServiceSplits(rollout="shop-1", generation=1, segments={"vip": split, "default": split})}
    return static_bootstrap(build(parse_mesh(MESH, "mesh.yaml"), splits, NodeKind("gateway", "edge")))


@contextmanager
def part(bootstrap: Bootstrap, name: str) -> Iterator[Any]:
    """The bootstrap itself, its first cluster or listener, or a part of that listener, to be changed in place."""
    static = bootstrap.static_resources
    network_filter = static.listeners[0].filter_chains[0].filters[0]
    manager = HttpConnectionManager()
    assert network_filter.typed_config.Unpack(manager)
    host = manager.route_config.virtual_hosts[0]
    yield {
        "bootstrap": bootstrap,
        "cluster": static.clusters[0],
        "listener": static.listeners[0],
        "manager": manager,
        "host": host,
        "route": host.routes[0],
    }[name]
    network_filter.typed_config.Pack(manager)


def complaint(bootstrap: Bootstrap, directory: Path) -> str:
    """What Envoy has against it; empty if nothing."""
    file = directory / "bootstrap.pb"
    file.write_bytes(bootstrap.SerializeToString())
    run = subprocess.run(
        [str(envoy_binary()), "--mode", "validate", "-c", file, "-l", "critical", "--log-format", "%v"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return essence(run.stderr) if run.returncode else ""


def typed(kind: str, text: str = "", *, name: str = "x") -> str:
    return f"{{ name: '{name}' typed_config {{ [type.googleapis.com/envoy.{kind}] {{ {text} }} }} }}"


HEALTH = (
    "timeout { seconds: 1 } interval { seconds: 1 } unhealthy_threshold { value: 2 } http_health_check { path: '/' }"
)
CONNECT = f"health_checks {{ {HEALTH} healthy_threshold {{ value: 1 }} http_health_check {{ method: CONNECT }} }}"
CONNECTIONS = typed(
    "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
    name="envoy.resource_monitors.global_downstream_max_connections",
)
TEMPLATE = "extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
INPUT = typed("type.matcher.v3.HttpRequestHeaderMatchInput", "header_name: 'x'")
HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
KEEPALIVE = (
    f"typed_extension_protocol_options {{ key: '{HTTP}' value {{ [type.googleapis.com/{HTTP}] {{"
    "explicit_http_config { http3_protocol_options { quic_protocol_options {"
    "connection_keepalive { initial_interval { nanos: 500000 } } } } } } } }"
)
HITS = "rate_limits { actions { destination_cluster {} } hits_addend { format: '%s' } }"
DATAGRAM = "udp_listener_config { downstream_socket_config { max_rx_datagram_size { value: %s } } }"
HEADER = "request_headers_to_add { header { key: 'x' %s } }"
NO_ROUTER = r"type_url: 'type.googleapis.com/envoy.extensions.filters.http.router.v3.Router' value: '\377'"
LONG = "x" * 16_385

BAD = [
    # (the rule that is broken, the part, field that is taken away, text that is put in, what Envoy says)
    ("message.required", "cluster", "health_checks", f"health_checks {{ {HEALTH} }}", "HealthyThreshold"),
    ("duration.required", "route", "", "route { retry_policy { retry_back_off {} } }", "BaseInterval"),
    ("any.required", "manager", "", "early_header_mutation_extensions { name: 'x' }", "TypedConfig"),
    ("oneof.required", "manager", "route_config", "", "route_specifier: is required"),
    ("string.min_len", "cluster", "name", "", "Clusters[0].Name: value length must be at least 1"),
    (
        "string.max_len",
        "route",
        "",
        f"match {{ path_match_policy {typed(TEMPLATE, f'path_template: {LONG!r}')} }}",
        "Path",
    ),
    ("string.max_bytes", "host", "", HEADER % f"value: '{LONG}'", "Header.Value"),
    ("string.pattern", "route", "", "match { path_separated_prefix: '/a/' }", "Match.PathSeparatedPrefix"),
    ("string.prefix", "host", "", HITS % "1%", "Format: value does not have prefix"),
    ("string.suffix", "host", "", HITS % "%1", "Format: value does not have suffix"),
    ("string.in", "manager", "", "scheme_header_transformation { scheme_to_overwrite: 'ftp' }", "SchemeToOverwrite"),
    (
        "HTTP_HEADER_NAME",
        "cluster",
        "",
        "upstream_http_protocol_options { override_auto_sni_header: 'a b' }",
        "SniHeader",
    ),
    ("HTTP_HEADER_NAME, not strict", "route", "", r"match { headers { name: 'a\n' } }", "Headers[2].Name"),
    ("HTTP_HEADER_VALUE, not strict", "host", "", HEADER % r"value: '\0'", "Header.Value"),
    ("bytes.max_len", "host", "", HEADER % f"raw_value: '{LONG}'", "Header.RawValue"),
    ("uint32.gt", "cluster", "", "load_assignment { policy { overprovisioning_factor { value: 0 } } }", "Factor"),
    ("uint32.gte", "route", "", "direct_response { status: 199 }", "DirectResponse.Status"),
    ("uint32.lt", "route", "", "direct_response { status: 600 }", "DirectResponse.Status"),
    ("uint32.lte", "listener", "", "address { socket_address { port_value: 65536 } }", "SocketAddress.PortValue"),
    ("uint64.gt", "listener", "", DATAGRAM % 0, "MaxRxDatagramSize"),
    ("uint64.lt", "listener", "", DATAGRAM % 65_536, "MaxRxDatagramSize"),
    ("uint64.lte", "cluster", "", "ring_hash_lb_config { minimum_ring_size { value: 9000000 } }", "MinimumRingSize"),
    (
        "int64.gt",
        "bootstrap",
        "",
        f"overload_manager {{ resource_monitors {CONNECTIONS} }}",
        "MaxActiveDownstream",
    ),
    (
        "double.gt",
        "bootstrap",
        "",
        "dynamic_resources { ads_config { rate_limit_settings { fill_rate {} } } }",
        "FillRate",
    ),
    (
        "double.gte",
        "cluster",
        "",
        "preconnect_policy { predictive_preconnect_ratio { value: 0.5 } }",
        "PreconnectRatio",
    ),
    (
        "double.lte",
        "cluster",
        "",
        "preconnect_policy { predictive_preconnect_ratio { value: 3.5 } }",
        "PreconnectRatio",
    ),
    ("bool.const", "bootstrap", "", "stats_flush_on_admin: false", "StatsFlushOnAdmin"),
    ("enum.defined_only", "cluster", "", "lb_policy: 99", "LbPolicy"),
    ("enum.not_in", "cluster", "", CONNECT, "HttpHealthCheck.Method"),
    ("duration.gt", "cluster", "", "connect_timeout { seconds: 0 }", "ConnectTimeout"),
    (
        "duration.gte",
        "manager",
        "access_log_options",
        "access_log_options { access_log_flush_interval { nanos: 5 } }",
        "FlushInterval",
    ),
    ("duration.lt", "bootstrap", "", "stats_flush_interval { seconds: 300 }", "StatsFlushInterval"),
    # 0 or at least 1 ms: a range turned inside out
    ("duration.lte = 0s or", "cluster", "typed_extension_protocol_options", KEEPALIVE, "InitialInterval"),
    ("repeated.min_items", "host", "domains", "", "Domains: value must contain at least 1"),
    (
        "repeated.max_items",
        "host",
        "",
        HEADER % "" * 1_001,
        "RequestHeadersToAdd: value must contain no more than 1000",
    ),
    (
        "repeated.unique",
        "route",
        "",
        "route { internal_redirect_policy { response_headers_to_copy: ['a', 'a'] } }",
        "unique",
    ),
    ("string.min_len", "host", "", "request_headers_to_remove: ''", "RequestHeadersToRemove[0]"),
    ("HTTP_HEADER_VALUE, not strict", "host", "", r"domains: 'a\n'", "Domains[1]"),
    ("string.in", "manager", "", "access_log { filter { response_flag_filter { flags: 'XX' } } }", "Flags[0]"),
    (
        "enum.defined_only",
        "manager",
        "",
        "access_log { filter { grpc_status_filter { statuses: 99 } } }",
        "Statuses[0]",
    ),
    ("string.min_len", "route", "", "metadata { filter_metadata { key: '' value {} } }", "FilterMetadata"),
    (
        "map.min_pairs",
        "host",
        "routes",
        f"matcher {{ matcher_tree {{ input {INPUT} exact_match_map {{}} }} }}",
        "Map: value",
    ),
    (
        "its type",
        "manager",
        "http_filters",
        f"http_filters {{ name: 'x' typed_config {{ {NO_ROUTER} }} }}",
        "Unable to unpack",
    ),
]


@pytest.mark.parametrize(("rule", "where", "cleared", "added", "said"), BAD, ids=[case[0] for case in BAD])
def test_what_breaks_a_rule_is_refused_by_envoy(
    rule: str, where: str, cleared: str, added: str, said: str, tmp_path: Path
) -> None:
    bootstrap = good()
    with part(bootstrap, where) as changed:
        if cleared:
            changed.ClearField(cleared)
        text_format.Merge(added, changed)
    lines = violations(bootstrap)
    assert any(rule in line.partition(" breaks ")[2] for line in lines), lines
    assert said in complaint(bootstrap, tmp_path)


@pytest.mark.parametrize(
    ("where", "added"),
    [
        ("bootstrap", ""),
        ("host", "rate_limits { actions { destination_cluster {} } hits_addend { format: '' } }"),
        ("cluster", "upstream_http_protocol_options { override_auto_sni_header: '' }"),
        ("manager", "access_log_options { access_log_flush_interval { seconds: 1 } }"),
        ("host", "request_headers_to_add { header { key: 'x' } }" * 999),
    ],
)
def test_what_breaks_no_rule_is_taken_by_envoy(where: str, added: str, tmp_path: Path) -> None:
    bootstrap = good()
    with part(bootstrap, where) as changed:
        text_format.Merge(added, changed)
    assert not violations(bootstrap)
    assert not complaint(bootstrap, tmp_path)
