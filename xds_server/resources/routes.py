"""Routes of a service: segments in order, each with its weighted clusters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption, Metadata
from envoy.config.route.v3.route_components_pb2 import (
    HeaderMatcher,
    QueryParameterMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    Tracing,
    VirtualHost,
    WeightedCluster,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.lua.v3.lua_pb2 import LuaPerRoute
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.number_pb2 import DoubleMatcher
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.matcher.v3.value_pb2 import ListMatcher, OrMatcher, ValueMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from envoy.type.v3.range_pb2 import DoubleRange, Int64Range
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from analysis.spec import TOTAL_BP, SegmentSpec
from xds_server import mesh as m
from xds_server.matching import number_in
from xds_server.node import Role
from xds_server.pb import newer_pb2 as newer
from xds_server.resources import learned
from xds_server.resources.claims import JWT_METADATA, payload_key
from xds_server.resources.clusters import cluster_name, forwarding_name
from xds_server.resources.entries import Entry
from xds_server.resources.hold import held_match, hold_context, hold_s_of
from xds_server.resources.parts import (
    HELD_HEADER,
    HOLD_FILTER,
    HOP_HEADER,
    KEY_HEADER,
    LUA_FILTER,
    METADATA,
    SEGMENT_HEADER,
    STAMP,
    WATCHED_HEADER,
    cookie_attributes,
    milliseconds,
    packed,
    strings,
)
from xds_server.resources.runtime import while_canary_goes_on
from xds_server.resources.source import TAGS_HEADER, source_header, source_matcher
from xds_server.stamp import Stamp

NO_SPLITS = m.ServiceSplits(rollout="", generation=0, segments={})


def route_configuration(entry: Entry, name: str) -> RouteConfiguration:
    """A route configuration of an entry, without its virtual hosts."""
    config = RouteConfiguration(name=name, ignore_port_in_host_matching=True)
    if entry.to is None:
        config.request_headers_to_add.append(_hop(entry.kind.role))
    if entry.looks_at_source:
        config.request_headers_to_remove.append(TAGS_HEADER)
    if entry.looks_at_source and entry.kind.role == "gateway":
        config.request_headers_to_add.append(source_header())
    return config


def virtual_host(service: m.Service, splits: m.ServiceSplits, *, to: str | None = None) -> VirtualHost:
    """The routes of a service. `to`: everything is handed over to that sidecar, which splits."""
    if to is not None:
        return _virtual_host(service, [_forwarding_route(service, forwarding_name(to))])
    host = _virtual_host(service, _service_routes(service, splits))
    if service.learned and splits.learned is not None:
        for name, config in learned.per_service(service, splits.learned):
            host.typed_per_filter_config[name].CopyFrom(config)
    if service.held_segments:
        host.typed_per_filter_config[HOLD_FILTER].CopyFrom(packed(LuaPerRoute(filter_context=hold_context(service))))
    return host


def _hop(role: Role) -> HeaderValueOption:
    """Sign the request at the first hop that splits it; a later hop that finds a signature does not count."""
    return HeaderValueOption(
        header=HeaderValue(key=HOP_HEADER, value=role),
        append_action=HeaderValueOption.HeaderAppendAction.ADD_IF_ABSENT,
    )


def _virtual_host(service: m.Service, routes: Iterable[Route]) -> VirtualHost:
    return VirtualHost(
        name=service.name,
        # `ignore_port_in_host_matching` lets one entry serve every published port of the domain.
        domains=service.domains,
        routes=routes,
        typed_per_filter_config={LUA_FILTER: packed(LuaPerRoute(filter_context=_identity(service)))},
    )


def _identity(service: m.Service) -> Struct:
    """Say to `identity.lua` where to find out who asks, in order."""
    sources = []
    for place, identity in enumerate(service.identity):
        match identity:
            case m.HeaderIdentity(header=header):
                fields = {"header": header.lower()}
            case m.CookieIdentity(cookie=cookie, ttl_s=ttl_s):
                fields = {"cookie": cookie, "attributes": cookie_attributes(ttl_s)}
                if place > 0:  # an identity before it may appear in mid-session
                    fields |= _key_hold(service.spec.session.gap_s)
        sources.append(Value(struct_value=strings(fields)))
    return Struct(fields={"identity": Value(list_value=ListValue(values=sources))})


def _key_hold(gap_s: float) -> dict[str, str]:
    """For how long the key of a session is held."""
    hold_s = hold_s_of(gap_s)
    return {"hold": str(hold_s), "renew": f"{gap_s / 2:g}", "hold_attributes": cookie_attributes(hold_s)}


def _forwarding_route(service: m.Service, cluster: str) -> Route:
    """Hands everything over; no metadata, so that the entry of this hop counts for nobody. The sidecar times out."""
    return Route(
        name=f"{service.name}|forward",
        match=RouteMatch(prefix="/"),
        route=RouteAction(cluster=cluster, timeout=Duration()),
    )


def _service_routes(service: m.Service, splits: m.ServiceSplits) -> list[Route]:
    """Routes of one service: segments in order, each with every path that can still match there.

    Before them those of people who are held in a segment, whatever they match now.
    """
    routes: list[Route] = []
    held = service.held_segments
    segments = {segment.name: segment for segment in service.spec.segments}
    ways = [(segments[name], held_match(name), "held") for name in held]
    ways += [(segment, service.matches.get(name) or m.SegmentMatch(), "") for name, segment in segments.items()]
    for segment, match, how in ways:
        split = split_of(service, segment, splits)
        first = len(routes)
        mortal = service.dead_man and 0 < split.canary_bp < TOTAL_BP  # a promoted version is no canary any more
        for prefix, path in reachable(service.routes, match.path_prefix):
            for keyed, action in _actions(service.name, split, splits.rollout):
                route = Route(
                    name=f"{service.name}|{segment.name}|{how}{len(routes) - first}",
                    match=route_match(match, prefix, keyed=keyed, mortal=keyed and mortal),
                    route=_with_options(action, path, service),
                    metadata=stamp_of(service.name, segment.name, splits, path),
                    request_headers_to_remove=[HELD_HEADER] if how else [],
                )
                if segment.name in splits.watch.segments:
                    _watch(route, traced=splits.watch.traced)
                routes.append(route)
    return routes


def _watch(route: Route, *, traced: bool) -> None:
    """Have the route's requests logged sooner, on either version; and `traced`, those that bring no trace as well."""
    route.request_headers_to_add.add(
        header=HeaderValue(key=WATCHED_HEADER, value="1"),
        append_action=HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    if traced:
        nobody, everybody = (FractionalPercent(numerator=n, denominator=FractionalPercent.HUNDRED) for n in (0, 100))
        route.tracing.CopyFrom(Tracing(client_sampling=nobody, random_sampling=everybody))


def split_of(service: m.Service, segment: SegmentSpec, splits: m.ServiceSplits) -> m.SegmentSplit:
    """What a segment's routes say. A pinned one takes no part; one without a split gets the baseline alone."""
    if segment.pin is not None:
        return m.SegmentSplit(baseline=segment.pin)
    return splits.segments.get(segment.name) or m.SegmentSplit(baseline=service.spec.baseline)


def reachable(routes: Iterable[m.Route], segment_prefix: str | None) -> Iterator[tuple[str, m.Route]]:
    """Each route with the prefix at which it meets the segment's; without those that an earlier one hides."""
    seen: list[str] = []
    for route in routes:
        prefix = _meet(route.prefix, segment_prefix or "/")
        if prefix is not None and not any(prefix.startswith(earlier) for earlier in seen):
            seen.append(prefix)
            yield prefix, route


def _meet(one: str, other: str) -> str | None:
    """Return the longer of two path prefixes if a path can have both."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return longer if longer.startswith(shorter) else None


def stamp_of(service: str, segment: str, splits: m.ServiceSplits, path: m.Route) -> Metadata:
    stamp = Stamp(service, segment, splits.rollout, splits.generation, path.stream)
    return Metadata(filter_metadata={METADATA: strings({STAMP: str(stamp)})})


def route_match(match: m.SegmentMatch, prefix: str, *, keyed: bool, mortal: bool = False) -> RouteMatch:
    headers = [_header_matcher(header) for header in match.headers]
    if match.learned is not None:
        headers.append(HeaderMatcher(name=SEGMENT_HEADER, string_match=StringMatcher(exact=match.learned)))
    if match.source:
        headers.append(source_matcher(match.source))
    if keyed:
        headers.append(HeaderMatcher(name=KEY_HEADER, present_match=True))
    result = RouteMatch(
        prefix=prefix,
        headers=headers,
        query_parameters=[_query_matcher(q) for q in match.query],
        runtime_fraction=while_canary_goes_on() if mortal else None,
        dynamic_metadata=[_claim_matcher(claim) for claim in match.claims],
    )
    # xds-protos do not know cookies yet; what they do not know they keep.
    result.MergeFromString(newer.RouteMatch(cookies=map(_cookie_matcher, match.cookies)).SerializeToString())
    return result


def _cookie_matcher(match: m.ValueMatch) -> newer.CookieMatcher:
    """Envoy takes the first cookie of that name, without quotes; one that is not there matches nothing."""
    anything = StringMatcher(safe_regex=RegexMatcher(regex=".*"))
    value = anything if match.kind == "present" else _string_matcher(match)
    return newer.CookieMatcher(
        name=match.name, string_match=value.SerializeToString(), invert_match=match.value is False
    )


def _claim_matcher(match: m.ClaimMatch) -> MetadataMatcher:
    """A claim may be a text, a number or a truth, or a list: then one of its items is to match."""
    ways = list(_claim_values(match))
    either = [*ways, *(ValueMatcher(list_match=ListMatcher(one_of=way)) for way in ways if match.kind != "present")]
    value = either[0] if len(either) == 1 else ValueMatcher(or_match=OrMatcher(value_matchers=either))
    return MetadataMatcher(
        filter=JWT_METADATA,
        path=[MetadataMatcher.PathSegment(key=key) for key in (payload_key(match.provider), *match.path)],
        value=value,
        invert=match.value is False,
    )


def _claim_values(match: m.ClaimMatch) -> Iterator[ValueMatcher]:
    if match.kind == "present":
        yield ValueMatcher(present_match=True)
    elif match.kind == "range" and isinstance(match.value, tuple):
        first, end = match.value
        yield ValueMatcher(double_match=DoubleMatcher(range=DoubleRange(start=first, end=end)))
    else:
        yield ValueMatcher(string_match=_string_matcher(match))
        if match.kind == "exact" and match.value in ("true", "false"):
            yield ValueMatcher(bool_match=match.value == "true")
        elif match.kind == "exact" and (number := number_in(str(match.value))) is not None:
            yield ValueMatcher(double_match=DoubleMatcher(exact=number))


def _header_matcher(match: m.ValueMatch) -> HeaderMatcher:
    if match.kind == "present":
        return HeaderMatcher(name=match.name, present_match=bool(match.value))
    if match.kind == "range" and isinstance(match.value, tuple):
        first, end = match.value
        return HeaderMatcher(name=match.name, range_match=Int64Range(start=first, end=end))
    return HeaderMatcher(name=match.name, string_match=_string_matcher(match))


def _query_matcher(match: m.ValueMatch) -> QueryParameterMatcher:
    """Envoy has no ranges of query parameters."""
    if match.kind == "present":
        return QueryParameterMatcher(name=match.name, present_match=bool(match.value))
    return QueryParameterMatcher(name=match.name, string_match=_string_matcher(match))


def _string_matcher(match: m.ValueMatch | m.ClaimMatch) -> StringMatcher:
    value = str(match.value)
    match match.kind:
        case "exact":
            return StringMatcher(exact=value)
        case "prefix":
            return StringMatcher(prefix=value)
        case "suffix":
            return StringMatcher(suffix=value)
        case "contains":
            return StringMatcher(contains=value)
        case "regex":  # of the whole value, in RE2's syntax
            return StringMatcher(safe_regex=RegexMatcher(regex=value))
        case _:
            raise ValueError(f"Envoy cannot match so: {match}")


def _actions(service: str, split: m.SegmentSplit, rollout: str) -> Iterator[tuple[bool, RouteAction]]:
    """(needs a key, action) in matching order.

    Without a key Envoy would draw a version at random for each request, so nobody without one takes part.
    """
    baseline = cluster_name(service, split.baseline)
    if split.canary is not None:
        yield True, _weighted_action(baseline, cluster_name(service, split.canary), split.canary_bp, rollout)
    yield False, RouteAction(cluster=baseline)


def _weighted_action(baseline: str, canary: str, canary_bp: int, rollout: str) -> RouteAction:
    if not 0 <= canary_bp <= TOTAL_BP:
        raise ValueError(f"{canary}: a split of {canary_bp} is outside 0 to {TOTAL_BP} basis points")
    # Envoy takes hash % sum(weights) over cumulative intervals in this order (weighted_cluster_specifier.cc): the
    # canary first and one constant sum, or everybody would be reshuffled at each step. A share of nothing is left out:
    # routes that take a canary back name no cluster that an Envoy might not have.
    clusters = [
        WeightedCluster.ClusterWeight(name=name, weight=UInt32Value(value=weight))
        for name, weight in ((canary, canary_bp), (baseline, TOTAL_BP - canary_bp))
        if weight
    ]
    # The salt: each rollout draws its own people, with no change to the request (source/common/http/hash_policy.cc).
    salt = RegexMatchAndSubstitute(
        pattern=RegexMatcher(regex="^(.*)$"), substitution=rollout.replace("\\", "\\\\") + ":\\1"
    )
    key = RouteAction.HashPolicy(header=RouteAction.HashPolicy.Header(header_name=KEY_HEADER, regex_rewrite=salt))
    return RouteAction(
        weighted_clusters=WeightedCluster(clusters=clusters, use_hash_policy=BoolValue(value=True)),
        hash_policy=[key],
    )


def _with_options(action: RouteAction, path: m.Route, service: m.Service) -> RouteAction:
    action.timeout.CopyFrom(milliseconds(0 if path.stream else path.timeout_ms))
    if path.stream:
        action.idle_timeout.CopyFrom(milliseconds(service.idle_timeout_ms))  # else Envoy ends a silent one in 5 minutes
        action.upgrade_configs.add(upgrade_type="websocket")
    if path.retries:
        # 5xx includes connect failures and refused streams. A retry stays in the cluster that was picked.
        action.retry_policy.CopyFrom(RetryPolicy(retry_on="5xx", num_retries=UInt32Value(value=path.retries)))
    return action
