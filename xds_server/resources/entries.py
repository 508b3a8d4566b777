"""Who listens where, for which services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from xds_server import mesh as m
from xds_server.node import NodeKind
from xds_server.resources.clusters import cluster_name, forwarding_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One listener with its routes. `to`: forwards only.

    `is_scoped`: each service has a route configuration of its own, found by exact host names; else all share one.
    `traced`: share of the requests that it traces; None: it has no tracer.
    """

    name: str
    kind: NodeKind
    listen: m.Address
    services: tuple[m.Service, ...]
    strip: tuple[str, ...] = ()
    to: str | None = None
    is_scoped: bool = False
    traced: float | None = None
    trusted_hops: int = 0
    jwt: Mapping[str, m.JwtProvider] = field(default_factory=dict)

    def routes_name(self, service: m.Service) -> str:
        """Name of the route configuration that a service's requests are routed by."""
        return f"{self.name}|{service.name}" if self.is_scoped else self.name

    @property
    def asks_who_is_learned(self) -> bool:
        """Whether requests may have to be told apart by what has been learnt of their people."""
        return self.to is None and any(service.learned for service in self.services)

    @property
    def looks_at_source(self) -> bool:
        """Whether any segment asks where requests come from."""
        return any(match.source for service in self.services for match in _matches(service))

    @property
    def holds(self) -> bool:
        """Whether people of any service stay in the segment in which their session began."""
        return any(service.held_segments for service in self.services)

    def providers(self, service: m.Service) -> tuple[m.JwtProvider, ...]:
        """Whose tokens the segments of a service look into."""
        names = {claim.provider for match in _matches(service) for claim in match.claims}
        return tuple(self.jwt[name] for name in sorted(names))

    @property
    def idle_timeout_ms(self) -> int:
        """How long a connection may be without requests: no shorter than any of its services allows."""
        return max(service.idle_timeout_ms for service in self.services)


def entries_of(mesh: m.Mesh, node: NodeKind) -> tuple[Entry, ...]:
    """The entries of one kind of node; none that has no service which that kind may see."""
    return tuple(replace(entry, traced=mesh.traced) for entry in _entries_of(mesh, node) if entry.services)


def _entries_of(mesh: m.Mesh, node: NodeKind) -> tuple[Entry, ...]:
    seen = {name: service for name, service in mesh.services.items() if _sees(node, name)}
    if node.role == "gateway":
        gateway = mesh.gateways[node.name]
        services = tuple(seen[name] for name in gateway.services if name in seen)
        return (
            Entry(
                name=f"gateway|{node.name}",
                kind=node,
                listen=gateway.listen,
                services=services,
                strip=gateway.strip,
                to=gateway.to,
                is_scoped=gateway.to is None and _are_exact(services),
                trusted_hops=gateway.trusted_hops,
                jwt=mesh.jwt,
            ),
        )
    if node.name:
        listen, services = mesh.sidecars[node.name].listen, tuple(seen.values())
        name = f"sidecar|{node.name}"
        is_scoped = _are_exact(services)
        return (Entry(name=name, kind=node, listen=listen, services=services, is_scoped=is_scoped, jwt=mesh.jwt),)
    by_port: dict[int, list[m.Service]] = {}
    for service in seen.values():
        by_port.setdefault(service.port, []).append(service)
    # Not scoped: a scope is not for one listener alone, and the same domain may be on two ports.
    return tuple(
        Entry(
            name=f"sidecar|{port}",
            kind=node,
            listen=("0.0.0.0", port),  # noqa: S104
            services=tuple(services),
            jwt=mesh.jwt,
        )
        for port, services in sorted(by_port.items())
    )


def destinations(mesh: m.Mesh, entry: Entry) -> Iterator[tuple[str, str, m.Version]]:
    """Each cluster that the routes of an entry can name: its name, the service that it is for, and the version."""
    if entry.to is not None:
        address = mesh.sidecars[entry.to].listen
        yield forwarding_name(entry.to), "", m.Version(name=entry.to, endpoints=(address,))
        return
    for service in entry.services:
        for version in service.versions.values():
            yield cluster_name(service.name, version.name), service.name, version


def _matches(service: m.Service) -> Iterator[m.SegmentMatch]:
    return (match for match in service.matches.values() if match is not None)


def _sees(node: NodeKind, service: str) -> bool:
    return node.services is None or service in node.services


def _are_exact(services: tuple[m.Service, ...]) -> bool:
    return not any("*" in domain for service in services for domain in service.domains)
