"""What an Envoy must be told before it can ask Serinus for everything else."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from xds_server.errors import BadRequestError
from xds_server.mesh import SIDECAR_CLUSTER, Address, Mesh

CLUSTER = "serinus"
"""The one static cluster: Envoy fetches its configuration from it, and sends access logs and load reports to it."""

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls:
    """How an Envoy talks TLS with its control plane; paths are those on the Envoy's machine.

    `ca`: who signs the control plane's certificate. `san`: the URI or DNS name that it must carry; None: the host.
    `certificate`, `key`: what the Envoy itself shows, if anything.
    """

    ca: str
    san: str | None = None
    certificate: str | None = None
    key: str | None = None


def bootstrap(
    mesh: Mesh, node: str, *, xds: Address, admin: Address | None = None, tls: UpstreamTls | None = None
) -> dict[str, Any]:
    """Return the bootstrap of the Envoy called `node`, as the mapping that Envoy's YAML or JSON holds.

    It names no listener, route or service: all of that comes over xDS from the control plane at `xds`. A node that the
    mesh does not name becomes a sidecar, which serves every service at the service's own port. `admin`: where Envoy's
    own administration interface listens (keep it on loopback: whoever reaches it controls the Envoy); None: nowhere.
    `tls` None: plain text.

    Raises
    ------
    BadRequestError
        `admin` is a host name other than localhost.
    """
    result: dict[str, Any] = {
        "node": {"id": node, "cluster": node if node in mesh.gateways else SIDECAR_CLUSTER},
        "dynamic_resources": {"ads_config": _ads_config(), "cds_config": _over_ads(), "lds_config": _over_ads()},
        "layered_runtime": {"layers": [_dead_man_switch(), {"name": "admin", "admin_layer": {}}]},
        "static_resources": {"clusters": [_control_plane(xds, tls)]},
        # What this Envoy sends upstream: whether its access logs are complete is checked by that.
        "cluster_manager": {"load_stats_config": _load_stats_config()},
    }
    if admin is not None:
        host, port = admin
        host = "127.0.0.1" if host == "localhost" else host
        if not _is_ip(host):
            raise BadRequestError(f"admin address {host} is a host name; Envoy listens on IP addresses only")
        result["admin"] = {"address": _socket_address((host, port))}
    return result


def _dead_man_switch() -> dict[str, Any]:
    """The runtime layer that Serinus keeps alive; an Envoy may have one of these only."""
    # An older control plane that does not answer must not hold up the start for 15 s.
    source = {**_over_ads(), "initial_fetch_timeout": "1s"}
    return {"name": CLUSTER, "rtds_layer": {"name": CLUSTER, "rtds_config": source}}


def _over_ads() -> dict[str, Any]:
    return {"ads": {}, "resource_api_version": "V3"}


def _ads_config() -> dict[str, Any]:
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        # Back within seconds of a restart; Envoy's default goes up to 30 s, in which canaries would be taken away.
        "grpc_services": [
            {
                "envoy_grpc": {
                    "cluster_name": CLUSTER,
                    "retry_policy": {"retry_back_off": {"base_interval": "0.25s", "max_interval": "2s"}},
                }
            }
        ],
    }


def _load_stats_config() -> dict[str, Any]:
    services = [{"envoy_grpc": {"cluster_name": CLUSTER}}]
    return {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": services}


def _control_plane(xds: Address, tls: UpstreamTls | None) -> dict[str, Any]:
    # A control plane that vanished without closing its connection is noticed after half a minute at most.
    keepalive = {"interval": "30s", "timeout": "5s"}
    http2 = {"explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}}}
    endpoint = {"endpoint": {"address": _socket_address(xds)}}
    cluster = {
        "name": CLUSTER,
        "type": "STATIC" if _is_ip(xds[0]) else "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {"@type": f"type.googleapis.com/{_HTTP_OPTIONS}", **http2},
        },
        "load_assignment": {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return cluster if tls is None else {**cluster, "transport_socket": _tls_socket(xds[0], tls)}


def _tls_socket(host: str, tls: UpstreamTls) -> dict[str, Any]:
    name = tls.san or host
    kind = "URI" if "://" in name else "IP_ADDRESS" if _is_ip(name) else "DNS"
    common: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": {"filename": tls.ca},
            "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}],
        },
    }
    if tls.certificate is not None:
        common["tls_certificates"] = [
            {"certificate_chain": {"filename": tls.certificate}, "private_key": {"filename": tls.key}}
        ]
    context: dict[str, Any] = {"@type": f"type.googleapis.com/{_TLS}", "common_tls_context": common}
    if not _is_ip(host):
        context["sni"] = host
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _socket_address(address: Address) -> dict[str, Any]:
    host, port = address
    return {"socket_address": {"address": host, "port_value": port}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
