"""Clusters and their endpoints."""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import HealthCheck
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions, Http2ProtocolOptions
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.wrappers_pb2 import UInt32Value

from xds_server import mesh as m
from xds_server.resources.parts import address, ads, is_ip, milliseconds, packed

CONNECT_TIMEOUT_MS = 1_000


def cluster_name(service: str, version: str) -> str:
    return f"{service}|{version}"


def forwarding_name(sidecar: str) -> str:
    return f"forward|{sidecar}"


def cluster(name: str, version: m.Version) -> Cluster:
    result = Cluster(
        name=name,
        connect_timeout=milliseconds(CONNECT_TIMEOUT_MS),
        # gRPC in is gRPC out, HTTP/1 in is HTTP/1 out.
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(_same_protocol())
        },
        health_checks=[_health_check(version.health)] if version.health else [],
    )
    if needs_dns(version.endpoints):
        # An EDS endpoint must be an IP address; names are for Envoy to resolve, and to keep resolving.
        result.type = Cluster.STRICT_DNS
        result.dns_lookup_family = Cluster.V4_PREFERRED
        result.load_assignment.CopyFrom(assignment(name, version.endpoints))
    else:
        result.type = Cluster.EDS
        result.eds_cluster_config.CopyFrom(Cluster.EdsClusterConfig(eds_config=ads()))
        # What EDS drops is gone, whatever the health checks still say.
        result.ignore_health_on_host_removal = True
    return result


def _same_protocol() -> HttpProtocolOptions:
    return HttpProtocolOptions(
        use_downstream_protocol_config=HttpProtocolOptions.UseDownstreamHttpConfig(
            http_protocol_options=Http1ProtocolOptions(), http2_protocol_options=Http2ProtocolOptions()
        )
    )


def _health_check(health: m.HealthCheck) -> HealthCheck:
    return HealthCheck(
        timeout=milliseconds(health.timeout_ms),
        interval=milliseconds(health.interval_ms),
        # A canary has no traffic yet when its health matters most; Envoy would then check once a minute.
        no_traffic_interval=milliseconds(health.interval_ms),
        unhealthy_threshold=UInt32Value(value=2),
        healthy_threshold=UInt32Value(value=1),
        http_health_check=HealthCheck.HttpHealthCheck(path=health.path),
    )


def assignment(name: str, endpoints: Iterable[m.Address]) -> ClusterLoadAssignment:
    hosts = [LbEndpoint(endpoint=Endpoint(address=address(endpoint))) for endpoint in endpoints]
    # Proxyless gRPC takes a locality without a weight for an empty one.
    locality = LocalityLbEndpoints(lb_endpoints=hosts, load_balancing_weight=UInt32Value(value=1))
    return ClusterLoadAssignment(cluster_name=name, endpoints=[locality])


def needs_dns(endpoints: Iterable[m.Address]) -> bool:
    return any(not is_ip(host) for host, _ in endpoints)
