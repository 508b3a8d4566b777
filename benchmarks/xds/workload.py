"""The meshes that are served, and the changes that are pushed."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from google.protobuf.message import Message

from analysis.spec import SegmentSpec, ServiceSpec
from xds_server import resources
from xds_server.mesh import (
    ErrorRule,
    Gateway,
    HeaderIdentity,
    Mesh,
    Route,
    SegmentMatch,
    SegmentSplit,
    Service,
    ServiceSplits,
    ValueMatch,
    Version,
)
from xds_server.node import ANY_SIDECAR, NodeKind

Shape = Literal["sidecar", "gateway"]

PUSHES_N = 8
"""Contents of the changed route configuration, which are published in turn."""

_BETA = (
    SegmentSpec(name="beta"),
    SegmentMatch(headers=(ValueMatch(name="x-beta", kind="exact", value="1"),)),
)


STEADY = SegmentSplit(baseline="v1", canary="v2", canary_bp=1_000)


@cache
def _steady_splits(services: int) -> Mapping[str, ServiceSplits]:
    """Splits that do not change; the same objects each time, as a controller has them."""
    segments = {"beta": STEADY, "default": STEADY}
    return {_name(n): ServiceSplits(rollout=f"{_name(n)}-1", generation=1, segments=segments) for n in range(services)}


@dataclass(frozen=True, slots=True)
class Workload:
    """Services with two versions and one segment besides the default.

    `sidecar`: each service has a port, hence a listener and a route configuration, of its own. `gateway`: all are
    behind one listener, which finds a service's route configuration by its scope.
    """

    services: int
    shape: Shape

    @property
    def mesh(self) -> Mesh:
        services = {service.name: service for service in map(_service, range(self.services))}
        gateway = Gateway(node="edge", listen=("127.0.0.1", 9_999), services=tuple(services))
        return Mesh(path="", services=services, gateways={"edge": gateway} if self.shape == "gateway" else {})

    @property
    def cluster(self) -> str:
        """Node cluster of the Envoys."""
        return "edge" if self.shape == "gateway" else "sidecar"

    def splits(self, generation: int) -> dict[str, ServiceSplits]:
        """All splits; from one generation to the next that of one segment of the first service changes."""
        changed = SegmentSplit(baseline="v1", canary="v2", canary_bp=1_000 + 250 * (generation % PUSHES_N))
        first = ServiceSplits(
            rollout=f"{_name(0)}-1",
            generation=10 + generation % PUSHES_N,  # of one length, so that all pushes are
            segments={"beta": changed, "default": STEADY},
        )
        return {**_steady_splits(self.services), _name(0): first}

    def messages(self, generation: int) -> dict[str, dict[str, Message]]:
        """What Serinus serves, by type and name."""
        kind = NodeKind("gateway", "edge") if self.shape == "gateway" else ANY_SIDECAR
        built = resources.build(self.mesh, self.splits(generation), kind)
        return {
            "CDS": {message.name: message for message in built.clusters},
            "EDS": {message.cluster_name: message for message in built.assignments},
            "LDS": {message.name: message for message in built.listeners},
            "SRDS": {message.name: message for message in built.scopes},
            "RDS": {message.name: message for message in built.routes},
        }

    def dump(self, path: Path) -> dict[str, list[str]]:
        """Write all resources, and those of each push, for another server to send; return the names by type."""
        first = self.messages(0)
        changed_name = f"gateway|{self.cluster}|{_name(0)}" if self.shape == "gateway" else "sidecar|10000"
        pushes = [self.messages(generation)["RDS"][changed_name] for generation in range(1, PUSHES_N + 1)]
        content = {
            "resources": {kind: _encoded(named.items()) for kind, named in first.items()},
            "pushes": _encoded((changed_name, message) for message in pushes),
        }
        path.write_text(json.dumps(content))
        return {kind: list(named) for kind, named in first.items()}


def _encoded(named: Iterable[tuple[str, Message]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "message": b64encode(message.SerializeToString(deterministic=True)).decode()}
        for name, message in named
    ]


def _name(n: int) -> str:
    return f"service-{n:03d}"


def _service(n: int) -> Service:
    name = _name(n)
    named = [_BETA, (SegmentSpec(name="default"), None)]
    versions = {
        version: Version(name=version, endpoints=(("127.0.0.1", 20_000 + 2 * n + i),))
        for i, version in enumerate(("v1", "v2"))
    }
    return Service(
        name=name,
        domains=(name,),
        port=10_000 + n,
        identity=(HeaderIdentity(header="x-user-id"),),
        routes=(Route(),),
        versions=versions,
        matches={segment.name: match for segment, match in named},
        errors=ErrorRule(),
        spec=ServiceSpec(
            name=name,
            baseline="v1",
            versions=tuple(versions),
            segments=tuple(segment for segment, _ in named),
            kpis=(),
        ),
    )
