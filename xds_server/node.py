"""Kinds of nodes: Envoys of one kind are sent the same configuration; gRPC clients are a kind of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from xds_server.mesh import Mesh

Role = Literal["gateway", "sidecar", "grpc"]


@dataclass(frozen=True, slots=True)
class NodeKind:
    """`name`: the gateway's, or that of a sidecar the mesh names; empty for all other sidecars, which are alike.

    Role `grpc`: an application that is its own proxy, with gRPC's xDS client. `services`: those that the certificate
    lets it see; None: all.
    """

    role: Role
    name: str = ""
    services: frozenset[str] | None = None


ANY_SIDECAR = NodeKind("sidecar")
GRPC = NodeKind("grpc")


def is_grpc(user_agent: str) -> bool:
    """Whether a client that gives this `user_agent_name` is gRPC itself: `gRPC C-core …`, `gRPC Go`, … (gRFC A27)."""
    return user_agent.startswith("gRPC")


def kinds(mesh: Mesh) -> tuple[NodeKind, ...]:
    """Every kind of Envoy that the mesh can have."""
    gateways = (NodeKind("gateway", name) for name in mesh.gateways)
    sidecars = (NodeKind("sidecar", name) for name in mesh.sidecars)
    everywhere = (*gateways, *sidecars, ANY_SIDECAR)
    return everywhere + tuple(replace(kind, services=scope) for scope in _scopes(mesh) for kind in everywhere)


def _scopes(mesh: Mesh) -> tuple[frozenset[str], ...]:
    """Every set of services that certificates limit their owners' configuration to."""
    rules = [rule for rule in mesh.access or () if "xds" in rule.may]
    return tuple(dict.fromkeys(rule.services for rule in rules if rule.services is not None))


def kind_of(mesh: Mesh, node_id: str, cluster: str) -> NodeKind:
    """Kind of the Envoy that calls itself `node_id` in `cluster`; one that the mesh does not name is a sidecar.

    A node's own ID outranks its cluster, so that one Envoy of a cluster can be configured apart.
    """
    named = [(gateway.node, NodeKind("gateway", name)) for name, gateway in mesh.gateways.items()]
    named += [(sidecar.node, NodeKind("sidecar", name)) for name, sidecar in mesh.sidecars.items()]
    for identifier in (node_id, cluster):
        for node, kind in named:
            if node == identifier:
                return kind
    # `serinus bootstrap` names the cluster after the gateway
    return NodeKind("gateway", cluster) if cluster in mesh.gateways else ANY_SIDECAR
