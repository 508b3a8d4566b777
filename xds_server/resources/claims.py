"""Who may say what in a token: Envoy verifies it before it chooses the route, and keeps what it says as metadata.

Nothing of that is a header, so there is nothing that a client could send instead of a token. What is missing, expired
or forged keeps nobody out: it only says nothing, and so matches no segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, RouteMatch
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import (
    JwtAuthentication,
    JwtCacheConfig,
    JwtHeader,
    JwtProvider,
    JwtRequirement,
    JwtRequirementAndList,
    JwtRequirementOrList,
    RequirementRule,
)
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.empty_pb2 import Empty

from xds_server import mesh as m
from xds_server.resources.entries import Entry
from xds_server.resources.parts import CLAIMS_FILTER, packed

JWT_METADATA = "envoy.filters.http.jwt_authn"
"""Where every filter of that kind leaves what tokens say, whatever it is called itself."""

TOKENS_KEPT = 1_000  # verified ones, a worker: the signature of each is looked at once


def payload_key(provider: str) -> str:
    """Under which key a provider's claims are kept."""
    return f"{CLAIMS_FILTER}|{provider}"


def claims_filters(entry: Entry) -> Iterator[HttpFilter]:
    """The filter that verifies tokens; none where no segment asks for a claim."""
    providers = {provider.name: provider for service in entry.services for provider in entry.providers(service)}
    if not providers or entry.to is not None:
        return
    config = JwtAuthentication(
        providers={name: _provider(each) for name, each in providers.items()},
        rules=_rules(entry),
        stat_prefix=CLAIMS_FILTER.partition(".")[2],
    )
    yield HttpFilter(name=CLAIMS_FILTER, typed_config=packed(config))


def _provider(given: m.JwtProvider) -> JwtProvider:
    return JwtProvider(
        issuer=given.issuer,
        audiences=given.audiences,
        local_jwks=DataSource(inline_string=given.jwks),
        forward=True,  # the application may want it as well
        from_headers=[] if given.cookie is not None else [JwtHeader(name=given.header, value_prefix=given.prefix)],
        from_cookies=[] if given.cookie is None else [given.cookie],
        payload_in_metadata=payload_key(given.name),
        jwt_cache_config=JwtCacheConfig(jwt_cache_size=TOKENS_KEPT),
        clear_route_cache=True,
    )


def _rules(entry: Entry) -> Iterator[RequirementRule]:
    """Whose tokens are looked at, by the host that is asked: the first rule that fits counts.

    In the listener alone. Named by the routes, a requirement that a draining listener does not know would be an error.
    """
    for service in entry.services:
        for domain in service.domains if entry.providers(service) else ():
            for host in _hosts(domain):
                yield _rule(entry.providers(service), [HeaderMatcher(name=":authority", string_match=host)])
    patterns = [service for service in entry.services if any("*" in domain for domain in service.domains)]
    if anybody := {each.name: each for service in patterns for each in entry.providers(service)}:
        yield _rule(anybody.values(), [])


def _hosts(domain: str) -> Iterator[StringMatcher]:
    """What the authority must be, without a port and with one; patterns come last, all together."""
    if "*" not in domain:
        yield StringMatcher(exact=domain, ignore_case=True)
        yield StringMatcher(prefix=f"{domain}:", ignore_case=True)


def _rule(providers: Iterable[m.JwtProvider], host: Iterable[HeaderMatcher]) -> RequirementRule:
    """Look at the token of each provider; without a good one the request goes on all the same."""
    anyway = JwtRequirement(allow_missing_or_failed=Empty())
    each = [
        JwtRequirement(
            requires_any=JwtRequirementOrList(requirements=[JwtRequirement(provider_name=provider.name), anyway])
        )
        for provider in providers
    ]
    requires = each[0] if len(each) == 1 else JwtRequirement(requires_all=JwtRequirementAndList(requirements=each))
    return RequirementRule(match=RouteMatch(prefix="/", headers=host), requires=requires)
