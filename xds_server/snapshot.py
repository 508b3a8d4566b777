"""What an Envoy is sent: immutable, addressed by content, serialised once and shared by all streams."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from analysis.spec import TOTAL_BP
from xds_server.errors import SerinusError
from xds_server.resources import METADATA, Resources


class InconsistentSnapshotError(SerinusError):
    """A snapshot that Envoy would reject or answer with 503; the message names every resource at fault."""


class ResourceType(StrEnum):
    """The types that Serinus serves, in the order that keeps traffic whole: what is referenced goes out first.

    xDS protocol, "Eventual consistency considerations": CDS, EDS, LDS, RDS.
    """

    CDS = "CDS"
    EDS = "EDS"
    LDS = "LDS"
    RDS = "RDS"

    @property
    def url(self) -> str:
        return TYPE_URLS[self]

    @property
    def is_whole_state(self) -> bool:
        """Whether a state-of-the-world response must hold every subscribed resource (LDS and CDS)."""
        return self in (ResourceType.CDS, ResourceType.LDS)


_MESSAGES: Mapping[ResourceType, type[Message]] = MappingProxyType(
    {
        ResourceType.CDS: Cluster,
        ResourceType.EDS: ClusterLoadAssignment,
        ResourceType.LDS: Listener,
        ResourceType.RDS: RouteConfiguration,
    }
)
TYPE_URLS = MappingProxyType(
    {t: f"type.googleapis.com/{message.DESCRIPTOR.full_name}" for t, message in _MESSAGES.items()}
)
TYPES_BY_URL = MappingProxyType({url: t for t, url in TYPE_URLS.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource, ready to be sent.

    `packed`: the message in a serialised Any. `hash`: its SHA-256. `needs`: names of the resources that it refers to
    (LDS: RDS, RDS: CDS, CDS: EDS). `services`: whom it serves. `generations`: RDS only, that of each service's splits.
    """

    name: str
    hash: str
    packed: bytes = field(repr=False)
    needs: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    generations: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that one kind of node is sent. `versions` are hashes of the content, equal in every replica."""

    resources: Mapping[ResourceType, Mapping[str, Resource]]
    versions: Mapping[ResourceType, str]

    @classmethod
    def of(cls, built: Resources) -> Snapshot:
        """Serialise what `resources.build` made.

        Raises
        ------
        InconsistentSnapshotError
            Two resources of one type share a name (Envoy would reject the whole response).
        """
        resources = {
            ResourceType.CDS: _index(ResourceType.CDS, map(_cluster, built.clusters)),
            ResourceType.EDS: _index(ResourceType.EDS, map(_assignment, built.assignments)),
            ResourceType.LDS: _index(ResourceType.LDS, map(_listener, built.listeners)),
            ResourceType.RDS: _index(ResourceType.RDS, map(_routes, built.routes)),
        }
        return cls(
            resources=MappingProxyType(resources),
            versions=MappingProxyType({t: content_version(named.values()) for t, named in resources.items()}),
        )

    def check(self) -> None:
        """Refuse what Envoy would reject, or accept and then answer with 503 (a route to an unknown cluster).

        Raises
        ------
        InconsistentSnapshotError
            The message names each resource at fault.
        """
        problems = [*self._missing(), *self._bad_routes()]
        if problems:
            raise InconsistentSnapshotError("; ".join(problems))

    def _missing(self) -> Iterable[str]:
        for referring, referred in (
            (ResourceType.LDS, ResourceType.RDS),
            (ResourceType.RDS, ResourceType.CDS),
            (ResourceType.CDS, ResourceType.EDS),
        ):
            for resource in self.resources[referring].values():
                for name in sorted(resource.needs - self.resources[referred].keys()):
                    yield f"{referring} {resource.name} refers to {referred} {name}, which does not exist"

    def _bad_routes(self) -> Iterable[str]:
        """Read back from the bytes: what is checked is what will be sent."""
        for name, resource in self.resources[ResourceType.RDS].items():
            config = _unpack(resource, RouteConfiguration)
            domains = [domain.lower() for host in config.virtual_hosts for domain in host.domains]
            for domain in sorted({domain for domain in domains if domains.count(domain) > 1}):
                yield f"RDS {name}: domain {domain} belongs to more than one service"
            for route in (route for host in config.virtual_hosts for route in host.routes):
                total = sum(part.weight.value for part in route.route.weighted_clusters.clusters)
                if route.route.HasField("weighted_clusters") and total != TOTAL_BP:
                    yield f"RDS {name}: the weights of route {route.name} add up to {total}, not {TOTAL_BP}"


def content_version(resources: Iterable[Resource]) -> str:
    """Version of a set of resources: the hash of its content, whatever the order.

    Never a counter: a restart or another replica would give the same number to other content.
    """
    digest = hashlib.sha256()
    for resource in sorted(resources, key=lambda resource: resource.name):
        digest.update(f"{resource.name}\0{resource.hash}\n".encode())
    return digest.hexdigest()[:16]


def _index(kind: ResourceType, resources: Iterable[Resource]) -> Mapping[str, Resource]:
    named: dict[str, Resource] = {}
    for resource in resources:
        if resource.name in named:
            raise InconsistentSnapshotError(f"two {kind} resources are called {resource.name}")
        named[resource.name] = resource
    return MappingProxyType(named)


def _resource(
    name: str,
    message: Message,
    *,
    needs: Iterable[str] = (),
    services: Iterable[str] = (),
    generations: Mapping[str, int] | None = None,
) -> Resource:
    packed = Any()
    # Maps are serialised in the order of their keys, so that equal content has equal bytes.
    packed.Pack(message, deterministic=True)
    content = packed.SerializeToString(deterministic=True)
    return Resource(
        name=name,
        hash=hashlib.sha256(content).hexdigest(),
        packed=content,
        needs=frozenset(needs),
        services=frozenset(services),
        generations=MappingProxyType(dict(generations or {})),
    )


def _unpack(resource: Resource, message: type[RouteConfiguration]) -> RouteConfiguration:
    unpacked = message()
    Any.FromString(resource.packed).Unpack(unpacked)
    return unpacked


def _cluster(cluster: Cluster) -> Resource:
    eds = cluster.type == Cluster.EDS
    name = cluster.eds_cluster_config.service_name or cluster.name
    return _resource(cluster.name, cluster, needs=[name] if eds else [], services=_service_of(cluster.name))


def _assignment(assignment: ClusterLoadAssignment) -> Resource:
    return _resource(assignment.cluster_name, assignment, services=_service_of(assignment.cluster_name))


def _service_of(cluster: str) -> Iterable[str]:
    return [cluster.partition("|")[0]]


def _listener(listener: Listener) -> Resource:
    needs: list[str] = []
    for chain in listener.filter_chains:
        for network_filter in chain.filters:
            manager = HttpConnectionManager()
            if network_filter.typed_config.Unpack(manager) and manager.HasField("rds"):
                needs.append(manager.rds.route_config_name)
    return _resource(listener.name, listener, needs=needs)


def _routes(config: RouteConfiguration) -> Resource:
    routes = [route for host in config.virtual_hosts for route in host.routes]
    generations = {}
    for route in routes:
        stamp = route.metadata.filter_metadata.get(METADATA)
        if stamp is not None and "generation" in stamp:
            generations[stamp["service"]] = int(stamp["generation"])
    return _resource(
        config.name,
        config,
        needs={cluster for route in routes for cluster in _clusters(route)},
        services=(host.name for host in config.virtual_hosts),
        generations=generations,
    )


def _clusters(route: Route) -> Iterable[str]:
    if route.route.cluster:
        yield route.route.cluster
    for part in route.route.weighted_clusters.clusters:
        yield part.name
