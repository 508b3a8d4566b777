"""Envoy's messages as resources: serialised once, with what others need to know of them read from the message."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from google.protobuf.message import Message

from analysis.spec import TOTAL_BP
from xds_server.resources.parts import METADATA, STAMP
from xds_server.snapshot.encoding import bytes_field
from xds_server.snapshot.resource import Resource, ResourceType
from xds_server.stamp import read_stamp
from xds_server.validation.rules import violations

_VIRTUAL_HOSTS_FIELD = RouteConfiguration.DESCRIPTOR.fields_by_name["virtual_hosts"].number


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedHost:
    """A virtual host, serialised; what a route configuration that holds it says of itself.

    `problems`: what Envoy would reject, a line each.
    """

    service: str
    domains: tuple[str, ...]
    content: bytes = field(repr=False)
    needs: frozenset[str]
    exposed: frozenset[str]
    generation: int | None
    problems: tuple[str, ...] = ()


def cluster(message: Cluster) -> Resource:
    """A cluster; it needs its endpoints where those come over EDS."""
    name = message.eds_cluster_config.service_name or message.name
    needs = [name] if message.type == Cluster.EDS else []
    return _resource(ResourceType.CDS, message.name, _content(message), needs=needs, services=_service(message.name))


def assignment(message: ClusterLoadAssignment, of: Resource) -> Resource:
    """The endpoints of the cluster `of`: another version of it makes another version of them."""
    content = _content(message)
    return _resource(
        ResourceType.EDS, message.cluster_name, content, services=_service(message.cluster_name), salt=of.version
    )


def listener(message: Listener, routes: Iterable[str], services: Iterable[str] = ()) -> Resource:
    """A listener that leads to these route configurations. `services`: whom it serves, if not everybody."""
    return _resource(ResourceType.LDS, message.name, _content(message), needs=routes, services=services)


def scope(message: ScopedRouteConfiguration, service: str) -> Resource:
    """A scope of a service."""
    needs = [message.route_configuration_name]
    return _resource(ResourceType.SRDS, message.name, _content(message), needs=needs, services=[service])


def host(message: VirtualHost, exposed: Iterable[str] = ()) -> PackedHost:
    """A virtual host, as a route configuration will hold it. `exposed`: segments of which some go to a canary."""
    generations = [int(generation) for route in message.routes if (generation := _generation(route)) is not None]
    return PackedHost(
        service=message.name,
        domains=tuple(domain.lower() for domain in message.domains),
        content=_content(message),
        needs=frozenset(cluster for route in message.routes for cluster in _clusters(route)),
        exposed=frozenset(f"{message.name}|{segment}" for segment in exposed),
        generation=generations[0] if generations else None,
        problems=(*_problems(message), *violations(message)),
    )


def routes(message: RouteConfiguration, hosts: Iterable[PackedHost]) -> Resource:
    """A route configuration of these hosts; `message` has none. Their bytes are shared, not serialised again."""
    hosts = tuple(hosts)
    fields = (bytes_field(_VIRTUAL_HOSTS_FIELD, each.content) for each in hosts)
    return _resource(
        ResourceType.RDS,
        message.name,
        b"".join((_content(message), *fields)),
        needs=frozenset().union(*(each.needs for each in hosts)),
        services=[each.service for each in hosts],
        generations={each.service: each.generation for each in hosts if each.generation is not None},
        exposed=frozenset().union(*(each.exposed for each in hosts)),
    )


def runtime(*, on: Runtime, off: Runtime, ttl_ms: int) -> Resource:
    """The dead-man switch. `ttl_ms` 0: there is none, and the layer is empty."""
    empty = _resource(ResourceType.RTDS, off.name, _content(off))
    if not ttl_ms:
        return empty
    lasting = _resource(ResourceType.RTDS, on.name, _content(on))
    mortal = _resource(ResourceType.RTDS, on.name, _content(on), salt=str(ttl_ms))
    return replace(mortal, ttl_ms=ttl_ms, at_first=empty, lasting=lasting)


def _content(message: Message) -> bytes:
    # Maps are serialised in the order of their keys, so that equal content has equal bytes.
    return bytes(message.SerializeToString(deterministic=True))


def _resource(  # noqa: PLR0913 -- a resource's own fields
    kind: ResourceType,
    name: str,
    content: bytes,
    *,
    needs: Iterable[str] = (),
    services: Iterable[str] = (),
    generations: Mapping[str, int] | None = None,
    exposed: frozenset[str] = frozenset(),
    salt: str = "",
) -> Resource:
    return Resource(
        name=name,
        version=hashlib.sha256(salt.encode() + content).hexdigest()[:16],
        packed=bytes_field(1, kind.url.encode()) + bytes_field(2, content),  # google.protobuf.Any
        needs=frozenset(needs),
        services=frozenset(services),
        generations=MappingProxyType(dict(generations or {})),
        exposed=exposed,
    )


def _service(cluster: str) -> Iterable[str]:
    return [cluster.partition("|")[0]]


def _generation(route: Route) -> str | None:
    stamp = route.metadata.filter_metadata.get(METADATA)
    return str(read_stamp(str(stamp[STAMP])).generation) if stamp is not None and STAMP in stamp else None


def _clusters(route: Route) -> Iterator[str]:
    if route.route.cluster:
        yield route.route.cluster
    for part in route.route.weighted_clusters.clusters:
        yield part.name


def _problems(message: VirtualHost) -> Iterator[str]:
    for route in message.routes:
        total = sum(part.weight.value for part in route.route.weighted_clusters.clusters)
        if route.route.HasField("weighted_clusters") and total != TOTAL_BP:
            yield f"the weights of route {route.name} add up to {total}, not {TOTAL_BP}"
