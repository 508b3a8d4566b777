"""What the parts of a mesh file say of each other: names that must exist, things that may be said only once.

These checks read the tree as it was written, not the model, so that one misspelt key does not hide all other problems.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import get_args

from analysis.spec import DEFAULT_SEGMENT, RolloutSpec
from xds_server.mesh import SIDECAR_CLUSTER, MatchKind
from xds_server.mesh_file import KeyPath, Source, first_of
from xds_server.units import LISTEN, WrongValueError, nearest, show

KINDS: tuple[MatchKind, ...] = get_args(MatchKind)
MATCHED = ("headers", "cookies", "query", "path", "source", "claims")
WITH_RANGES = ("headers", "claims")


def check(source: Source) -> None:
    """Report every contradiction between the parts of the mesh."""
    for name in source.mapping(("services",)):
        for look in _SERVICE_CHECKS:
            look(source, ("services", name))
    _domains_on_a_listener(source)
    _listeners(source)
    _gateways(source)
    _access(source)
    _tokens(source)


def _unknown(source: Source, path: KeyPath, name: str, what: str, legal: list[str]) -> None:
    source.report(path, f"unknown {what}", first_of(legal), hint=nearest(name, legal))


def _versions(source: Source, service: KeyPath) -> None:
    if not source.mapping((*service, "versions")):
        return
    legal = list(source.mapping((*service, "versions")))
    segments = source.mapping((*service, "segments"))
    for path in [(*service, "baseline"), *((*service, "segments", segment, "pin") for segment in segments)]:
        name = source.value(path)
        if isinstance(name, str) and name not in legal and source.sound(path):
            _unknown(source, path, name, "version", legal)


def _endpoints(source: Source, service: KeyPath) -> None:
    listeners = {address: owner for _, owner, address in _listens(source)}
    for version in source.mapping((*service, "versions")):
        seen: set[str] = set()
        if isinstance(source.value(given := (*service, "versions", version, "endpoints")), dict):
            _one_of(source, given, ["file", "registered"], "source of endpoints")
        for path, endpoint in source.texts(given):
            if endpoint in seen:
                source.report(path, "given twice", "each endpoint once")
            if endpoint in listeners:
                owner = listeners[endpoint]
                source.report(path, f"{owner} itself listens there: a loop", "where the version's own servers listen")
            seen.add(endpoint)


def _segments(source: Source, service: KeyPath) -> None:
    segments = source.mapping((*service, "segments"))
    if DEFAULT_SEGMENT in segments:
        message = "is there anyway, last, for whoever matches no other segment"
        source.report((*service, "segments", DEFAULT_SEGMENT), message, "any other name")
    matches: dict[str, str] = {}
    learned: dict[str, str] = {}
    for name in segments:
        path = (*service, "segments", name)
        _one_of(source, path, ["match", "learned"], "way to tell who is in it")
        adopted = source.value((*path, "learned"))
        if isinstance(adopted, str) and (before := learned.setdefault(adopted, name)) != name:
            message = f"never reached: segment {show(before)} has the same people"
            source.report((*path, "learned"), message, "each name once")
        match = source.value((*path, "match"))
        first = matches.setdefault(repr(match), name)
        if match and first != name:
            source.report(
                (*path, "match"), f"never reached: segment {show(first)} matches the same", "a match of its own"
            )
        if "pin" in source.mapping(path):
            for key in ("weight", "after", "max_split"):
                if key in source.mapping(path):
                    source.report((*path, key), "does nothing: a pinned segment takes part in no rollout", "pin alone")


def _after(source: Source, service: KeyPath) -> None:
    segments = source.mapping((*service, "segments"))
    waits: dict[str, list[str]] = {name: [] for name in segments}
    for name in segments:
        legal = [other for other in (*segments, DEFAULT_SEGMENT) if other != name]
        for path, other in source.texts((*service, "segments", name, "after")):
            if other not in (*segments, DEFAULT_SEGMENT):
                _unknown(source, path, other, "segment", list(dict.fromkeys(legal)))
            elif "pin" in source.mapping((*service, "segments", other)):
                source.report(path, "a pinned segment is never promoted, so the wait would never end", "other segments")
            else:
                waits[name].append(other)
    for cycle in _cycles(waits):
        path = (*service, "segments", cycle[0], "after")
        source.report(path, f"waits for itself: {' after '.join(map(show, cycle))}", "an order without cycles")


def _cycles(waits: dict[str, list[str]]) -> Iterator[list[str]]:
    """Each segment's way back to itself, once per cycle: from the first of its segments in the file."""
    seen: set[str] = set()
    for start in waits:
        if start in seen:
            continue
        came_from: dict[str, str] = {}
        frontier = [start]
        while frontier and start not in came_from:
            here = frontier.pop()
            for other in waits.get(here, ()):
                if other not in came_from:
                    came_from[other] = here
                    frontier.append(other)
        if start not in came_from:
            continue
        way = [start]
        while len(way) == 1 or way[-1] != start:
            way.append(came_from[way[-1]])
        seen.update(way)
        yield way[::-1]


def _matchers(source: Source, service: KeyPath) -> None:
    for segment in source.mapping((*service, "segments")):
        match = (*service, "segments", segment, "match")
        if source.value(match) == {}:
            source.report(match, "empty: it would match everybody", f"one or more of {first_of(MATCHED)}")
        for part in ("headers", "cookies", "query", "claims"):
            kinds: list[str] = [kind for kind in KINDS if part in WITH_RANGES or kind != "range"]
            for path, _ in source.items((*match, part)):
                _one_of(source, path, kinds, "way to match")
                _range(source, (*path, "range"))


def _one_of(source: Source, path: KeyPath, legal: list[str], what: str) -> None:
    given = [key for key in source.mapping(path) if key in legal]
    if len(given) > 1:
        source.report(path, f"{' and '.join(given)} at once", f"exactly one of {first_of(legal)}")
    elif not given and isinstance(source.value(path), dict) and source.sound(path):
        source.report(path, f"no {what}", f"exactly one of {first_of(legal)}")


def _range(source: Source, path: KeyPath) -> None:
    if source.sound(path) and len(ends := source.texts(path)) == 2:
        first, last = (text for _, text in ends)
        if int(first) >= int(last):
            source.report(path, "matches nothing", "[a, b] with a < b: a <= value < b", value=f"[{first}, {last}]")


def _networks(source: Source, service: KeyPath) -> None:
    for segment in source.mapping((*service, "segments")):
        seen: set[str] = set()
        for path, network in source.texts((*service, "segments", segment, "match", "source")):
            if network in seen:
                source.report(path, "given twice", "each network once")
            seen.add(network)


def _claims(source: Source, service: KeyPath) -> None:
    """Each claim must be of a provider that there is; where there is one alone it need not be named."""
    legal = list(source.mapping(("jwt",)))
    for segment in source.mapping((*service, "segments")):
        for path, claim in source.items((*service, "segments", segment, "match", "claims")):
            provider = source.value((*path, "provider"))
            if isinstance(provider, str) and provider not in legal and source.sound((*path, "provider")):
                _unknown(source, (*path, "provider"), provider, "provider", legal)
            elif isinstance(claim, dict) and "provider" not in claim and len(legal) != 1 and source.sound(path):
                message = "which provider's?" if legal else "nobody is there whose tokens could be verified"
                source.report(path, message, f"provider: one of {first_of(legal)}" if legal else "jwt: {NAME: ...}")


def _tokens(source: Source) -> None:
    for name in source.mapping(("jwt",)):
        provider = ("jwt", name)
        _one_of(source, (*provider, "jwks"), ["file", "inline"], "keys")
        token = (*provider, "token")
        _one_of(source, token, ["header", "cookie"], "place")
        if "prefix" in source.mapping(token) and "header" not in source.mapping(token):
            source.report((*token, "prefix"), "does nothing: only a header has a prefix", "header with it")


def _identity(source: Source, service: KeyPath) -> None:
    cookies = []
    for path, identity in source.items((*service, "identity")):
        _one_of(source, path, ["header", "cookie"], "identity")
        if isinstance(identity, dict) and "cookie" in identity:
            cookies.append(path)
    for path in cookies[1:]:
        source.report((*path, "cookie"), "a second cookie", "at most one: the first is minted for whoever has none")


def _routes(source: Source, service: KeyPath) -> None:
    seen: list[str] = []
    for route, _ in source.items((*service, "routes")):
        if source.value((*route, "stream")) == "true" and source.value((*route, "timeout")) is not None:
            source.report((*route, "timeout"), "a stream has no timeout", "stream: true without a timeout")
        prefix = source.value((*route, "prefix"))
        if not isinstance(prefix, str) or not source.sound((*route, "prefix")):
            continue
        before = next((other for other in seen if prefix.startswith(other)), None)
        if before is not None:
            legal = "longer prefixes before shorter ones, each once"
            source.report((*route, "prefix"), f"never reached: {show(before)} matches first", legal)
        seen.append(prefix)


def check_kpis(source: Source, service: KeyPath) -> None:
    """Nothing may be asked of a KPI that is not there."""
    session, kpis = (*service, "session"), (*service, "kpis")
    if not source.sound(session) or not source.sound(kpis):
        return
    goal = "goal" in source.mapping(session)
    features = source.mapping((*kpis, "features"))
    needs_goal = "session: {goal: {path: /...}} with it, so that a session can be complete or abandoned"
    if not goal:
        for path in ((*kpis, "abandonment"), (*session, "judge_after", "abandonment")):
            if path[-1] in source.mapping(path[:-1]):
                source.report(path, "session.goal is missing", needs_goal, value="")
        for path, word in source.texts((*service, "rollout", "harm", "bad")):
            if word == "abandoned":
                source.report(path, "session.goal is missing", needs_goal)
    if not features and "feature" in source.mapping((*session, "judge_after")):
        legal = "kpis: {features: {NAME: {}}} with it"
        source.report((*session, "judge_after", "feature"), "kpis.features is missing", legal)


def _shadow(source: Source, service: KeyPath) -> None:
    """A policy that watches itself would say nothing new."""
    rollout = (*service, "rollout")
    if not source.sound(rollout):
        return
    said = source.mapping(rollout)
    if said.get("shadow") == said.get("policy", RolloutSpec().policy):
        source.report((*rollout, "shadow"), "it is the policy that acts", "another policy, or no shadow")


def _resources(source: Source, service: KeyPath) -> None:
    for key, what in (("name", "each name once"), ("metric", "each metric once: a process has one value of it")):
        seen: set[str] = set()
        for path, _ in source.items((*service, "resources")):
            value = source.value((*path, key))
            if isinstance(value, str):
                if value in seen:
                    source.report((*path, key), "given twice", what)
                seen.add(value)


def _learned(source: Source, service: KeyPath) -> None:
    segments = source.mapping((*service, "segments"))
    if not source.sound((*service, "segments")) or "learned" not in source.mapping(service):
        return
    if not any("learned" in source.mapping((*service, "segments", name)) for name in segments):
        legal = "segments: {NAME: {learned: NAME}} with it"
        source.report((*service, "learned"), "does nothing: no segment is learned", legal, value="")


_SERVICE_CHECKS: tuple[Callable[[Source, KeyPath], None], ...] = (
    _versions,
    _endpoints,
    _segments,
    _after,
    _matchers,
    _networks,
    _claims,
    _identity,
    _routes,
    check_kpis,
    _resources,
    _learned,
    _shadow,
)


def _domains_on_a_listener(source: Source) -> None:
    services = list(source.mapping(("services",)))
    seen: dict[str, KeyPath] = {}
    for name in services:
        seen.clear()
        for path, domain in source.texts(("services", name, "domains")):
            if seen.setdefault(domain.lower(), path) != path:
                source.report(path, "duplicate domain", "each domain once")
    for listener, sharing in _listeners_of_services(source, services):
        seen.clear()
        for name in sharing:
            for path, domain in source.texts(("services", name, "domains")):
                first = seen.setdefault(domain.lower(), path)
                if first[1] != name and source.sound(path):
                    other = show(str(first[1]))
                    message = f"duplicate domain: service {other} has it too, on {listener}"
                    source.report(path, message, "domains that no other service on the same listener has")


def _listeners_of_services(source: Source, services: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each listener, in words, and the services that it serves."""
    ports: dict[str, list[str]] = {}
    for name in services:
        port = source.value(("services", name, "port"))
        if isinstance(port, str):
            ports.setdefault(port, []).append(name)
    for port, sharing in ports.items():
        yield f"port {show(port)}", sharing
    for gateway in source.mapping(("gateways",)):
        chosen = source.value(("gateways", gateway, "services"))
        yield f"gateway {show(gateway)}", [n for n in services if not isinstance(chosen, list) or n in chosen]
    for sidecar in source.mapping(("sidecars",)):
        yield f"sidecar {show(sidecar)}", services


def _listens(source: Source) -> Iterator[tuple[KeyPath, str, str]]:
    """Path, owner in words and address of every listener whose address is given and can be read."""
    for section, role in (("gateways", "gateway"), ("sidecars", "sidecar")):
        for name in source.mapping((section,)):
            address = source.value((section, name, "listen"))
            if isinstance(address, str):
                yield (section, name, "listen"), f"{role} {show(name)}", address


def _listeners(source: Source) -> None:
    seen: dict[str, str] = {}
    for path, owner, address in _listens(source):
        if (host := _host(address)) is not None and host.is_unspecified:
            continue  # 0.0.0.0:10000 on two machines is two listeners
        first = seen.setdefault(address, owner)
        if first != owner:
            source.report(path, f"{first} listens there already", "an address of its own for each gateway and sidecar")
    if SIDECAR_CLUSTER in source.mapping(("gateways",)):
        source.report(("gateways", SIDECAR_CLUSTER), "the node cluster of all sidecars", "any other name")
    for name in source.mapping(("sidecars",)):
        if name in source.mapping(("gateways",)):
            source.report(("sidecars", name), "a gateway has this name", "a name of its own for each node")


def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        LISTEN(address)
    except WrongValueError:
        return None
    return ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))


def _gateways(source: Source) -> None:
    services, sidecars = list(source.mapping(("services",))), list(source.mapping(("sidecars",)))
    for name in source.mapping(("gateways",)):
        seen: set[str] = set()
        for path, service in source.texts(("gateways", name, "services")):
            if service not in services:
                _unknown(source, path, service, "service", services)
            elif service in seen:
                source.report(path, "given twice", "each service once")
            seen.add(service)
        _hand_over(source, ("gateways", name, "to"), sidecars)
        _strip(source, ("gateways", name))


def _access(source: Source) -> None:
    services = list(source.mapping(("services",)))
    seen: dict[str, KeyPath] = {}
    for rule, _ in source.items(("access",)):
        for path, service in source.texts((*rule, "services")):
            if service not in services:
                _unknown(source, path, service, "service", services)
        san = source.value((*rule, "san"))
        if isinstance(san, str) and seen.setdefault(san, rule) != rule:
            source.report((*rule, "san"), "never reached: the same name is in an entry before", "each name once")


def _strip(source: Source, gateway: KeyPath) -> None:
    """Report a gateway that takes away what alone tells a service's people apart."""
    chosen = [service for _, service in source.texts((*gateway, "services"))]
    for service in chosen or source.mapping(("services",)):
        identities = [identity for _, identity in source.items(("services", service, "identity"))]
        headers = {str(identity.get("header")).lower() for identity in identities if isinstance(identity, dict)}
        if any(isinstance(identity, dict) and "cookie" in identity for identity in identities):
            continue
        for path, header in source.texts((*gateway, "strip")):
            if headers == {header.lower()}:
                message = f"all that tells the people of service {show(service)} apart"
                source.report(path, message, "headers that are no service's only identity")


def _hand_over(source: Source, path: KeyPath, sidecars: list[str]) -> None:
    sidecar = source.value(path)
    if not isinstance(sidecar, str) or not source.sound(path):
        return
    if sidecar not in sidecars:
        _unknown(source, path, sidecar, "sidecar", sidecars)
        return
    listen = source.value(("sidecars", sidecar, "listen"))
    host = _host(listen) if isinstance(listen, str) else None
    if host is not None and host.is_unspecified:
        message = f"listens on {listen}, and a gateway cannot send requests to that address"
        source.report(path, message, "a sidecar that listens on an address or name that the gateway can reach")
