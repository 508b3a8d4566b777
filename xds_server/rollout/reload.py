"""A mesh file that has changed while rollouts run: what of it applies now, and what waits until they have ended."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from types import MappingProxyType

from xds_server.mesh import Gateway, JwtProvider, Mesh, Service


def effective(current: Mesh, wanted: Mesh, running: Collection[str]) -> tuple[Mesh, tuple[str, ...]]:
    """The mesh to serve now, and the services that still have parts of the old one, in order of their names.

    Where requests go (endpoints, routes, domains, ports, health checks) changes at once. What a running rollout is
    about (its versions, segments, identities, KPIs and settings) stays until the rollout has ended: people would be
    dealt out anew, and what has been learnt would be about something else. So does a service that is no longer wanted.
    """
    services: dict[str, Service] = {}
    waiting = []
    for name, service in wanted.services.items():
        old = current.services.get(name)
        if old is not None and name in running and not _is_same_rollout(old, service):
            service = _rerouted(old, service)  # noqa: PLW2901 -- the same one, as it is for now
            waiting.append(name)
        services[name] = service
    kept = [name for name in running if name not in services and name in current.services]
    services |= {name: current.services[name] for name in kept}
    waiting += kept
    gateways = {
        name: _with_kept(gateway, current.gateways.get(name), kept) for name, gateway in wanted.gateways.items()
    }
    mesh = replace(
        wanted,
        services=MappingProxyType(services),
        gateways=MappingProxyType(gateways),
        jwt=MappingProxyType({**_still_asked(current, wanted, map(services.__getitem__, waiting)), **wanted.jwt}),
    )
    return mesh, tuple(sorted(waiting))


def only(mesh: Mesh, service: Service) -> Mesh:
    """The mesh as if there were one service."""
    gateways = {
        name: replace(gateway, services=(service.name,))
        for name, gateway in mesh.gateways.items()
        if service.name in gateway.services
    }
    return replace(mesh, services=MappingProxyType({service.name: service}), gateways=MappingProxyType(gateways))


def _is_same_rollout(old: Service, new: Service) -> bool:
    return (old.spec, old.identity, old.matches, old.holds) == (new.spec, new.identity, new.matches, new.holds)


def _rerouted(old: Service, new: Service) -> Service:
    """The old service at its new places."""
    return replace(
        old,
        domains=new.domains,
        port=new.port,
        routes=new.routes,
        errors=new.errors,
        dead_man=new.dead_man,
        idle_timeout_ms=new.idle_timeout_ms,
        learned_timeout_ms=new.learned_timeout_ms,
        retrain_s=new.retrain_s,
        keep_s=new.keep_s,
        versions=MappingProxyType({name: new.versions.get(name, version) for name, version in old.versions.items()}),
    )


def _still_asked(current: Mesh, wanted: Mesh, waiting: Iterable[Service]) -> dict[str, JwtProvider]:
    """Issuers of tokens that are no longer wanted, of which services that wait ask claims."""
    matches = [match for service in waiting for match in service.matches.values() if match is not None]
    names = {claim.provider for match in matches for claim in match.claims}
    return {name: current.jwt[name] for name in sorted(names - wanted.jwt.keys())}


def _with_kept(gateway: Gateway, before: Gateway | None, kept: Collection[str]) -> Gateway:
    """The gateway, with those services that it had and that are still there though they are no longer wanted."""
    still = [name for name in before.services if name in kept] if before is not None else []
    return replace(gateway, services=(*gateway.services, *still))
