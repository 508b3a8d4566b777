"""Who matches a segment, as Envoy finds out: `resources.routes` tells Envoy the same conditions, in its own words.

What Envoy does is in source/common/router/config_impl.cc, http/header_utility.cc, common/matchers.cc.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import re2

from analysis.spec import DEFAULT_SEGMENT
from xds_server.mesh import ClaimMatch, Network, SegmentMatch, Service, ValueMatch

IpAddress = IPv4Address | IPv6Address
INT64_END: Final = 1 << 63

_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,30}\s*", re.ASCII)
_NOT_THERE: Final = object()


class UnknownTraitError(Exception):
    """A segment asks for something of which nothing is known. `args[0]`: what that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What is known of a request. None: nothing is known of that; empty: there is none of it.

    `headers`: by name in lower case, all values of one; Envoy looks at each by itself (from 1.37 on; older ones join
    them by commas). `cookies`: the first of each name, without
    quotes. `query`: the first of each name, not decoded. `path`: with its query, if there is one, as Envoy routes it.
    `claims`: what verified tokens say, by issuer.
    """

    headers: Mapping[str, Sequence[str]] | None = None
    cookies: Mapping[str, str] | None = None
    query: Mapping[str, str] | None = None
    path: str | None = None
    source: IpAddress | None = None
    claims: Mapping[str, Mapping[str, Any]] | None = None


def segment_of(service: Service, traits: Traits, learned: Callable[[], str]) -> str:
    """Return the first segment that matches.

    `learned`: says the name of the learned segment that the person is in, empty for none; asked where one matters.
    Raises UnknownTraitError where a segment may match, and what it asks for is not known.
    """
    for name, match in service.matches.items():
        if match is not None and matches(match, traits, learned):
            return name
    return DEFAULT_SEGMENT


def matches(match: SegmentMatch, traits: Traits, learned: Callable[[], str]) -> bool:
    """Return whether all parts of a match hold. Raises UnknownTraitError where that hangs on what is not known."""
    unknown = ""
    for what, holds in _parts(match, traits, learned):
        if holds is False:
            return False
        if holds is None:
            unknown = unknown or what
    if unknown:
        raise UnknownTraitError(unknown)
    return True


def _parts(match: SegmentMatch, traits: Traits, learned: Callable[[], str]) -> Iterator[tuple[str, bool | None]]:
    """Each part with what it asks for, and whether it holds; None: not known."""
    if match.path_prefix is not None:
        path = None if traits.path is None else re.split(r"[?#]", traits.path, maxsplit=1)[0]
        yield "path", None if path is None else path.startswith(match.path_prefix)
    for header in match.headers:
        yield _header(header, traits)
    for kind, ways, values in (("cookies", match.cookies, traits.cookies), ("query", match.query, traits.query)):
        for way in ways:
            yield kind, None if values is None else _holds(way, [values[way.name]] if way.name in values else [])
    if match.source:
        yield "source", None if traits.source is None else is_within(traits.source, match.source)
    for claim in match.claims:
        yield "claims", None if traits.claims is None else _claim_holds(claim, traits.claims.get(claim.provider, {}))
    if match.learned is not None:
        yield "learned", learned() == match.learned


def _header(way: ValueMatch, traits: Traits) -> tuple[str, bool | None]:
    name, headers = way.name.lower(), traits.headers
    if name == ":path" and traits.path is not None:
        return "path", _holds(way, [traits.path])
    if headers is None:
        return "headers", None
    if name.startswith(":") and name not in headers:  # every request has one
        return f"headers: {name}", None
    return "headers", _holds(way, headers.get(name, ()))


def _holds(way: ValueMatch, values: Sequence[str]) -> bool:
    if way.kind == "present":
        return bool(values) is way.value
    return any(takes(way, value) for value in values)


def takes(way: ValueMatch | ClaimMatch, text: str) -> bool:
    """Return whether a text that is there matches. A claim's range is one of numbers, which no text is."""
    value = way.value
    match way.kind:
        case "exact":
            return text == value
        case "prefix":
            return text.startswith(str(value))
        case "suffix":
            return text.endswith(str(value))
        case "contains":
            return str(value) in text
        case "regex":
            return _takes_whole(str(value), text)
        case "range" if isinstance(value, tuple) and isinstance(way, ValueMatch):
            return _NUMBER.fullmatch(text) is not None and _is_in(int(text), value)
        case _:
            return False


def _takes_whole(pattern: str, text: str) -> bool:
    """Whether a regular expression takes all of a text; half a character, which only JSON can say, it does not take."""
    try:
        return _compiled(pattern).fullmatch(text) is not None
    except UnicodeEncodeError:
        return False


@lru_cache(maxsize=1_024)
def _compiled(pattern: str) -> Any:
    """A regular expression in RE2's syntax, as Envoy has it."""
    return re2.compile(pattern)


def _is_in(number: int, bounds: tuple[int, int]) -> bool:
    """Whether Envoy, which reads 64 bits, finds a number between the bounds."""
    return -INT64_END <= number < INT64_END and bounds[0] <= number < bounds[1]


def is_within(address: IpAddress, networks: tuple[Network, ...]) -> bool:
    """Return whether an address is in one of some networks; an IPv4 address may be written as ::ffff:10.1.2.3."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any(address in network or (mapped is not None and mapped in network) for network in networks)


def _claim_holds(match: ClaimMatch, payload: Mapping[str, Any]) -> bool:
    value: Any = payload
    for step in match.path:
        value = value.get(step, _NOT_THERE) if isinstance(value, Mapping) else _NOT_THERE
    if match.kind == "present":
        return (value is not _NOT_THERE) is match.value
    items = value if isinstance(value, list | tuple) else [value]
    return any(_claim_takes(match, item) for item in items)


def _claim_takes(match: ClaimMatch, value: object) -> bool:
    if isinstance(value, str):
        return takes(match, value)
    if isinstance(value, bool):
        return match.kind == "exact" and match.value == json.dumps(value)
    if not isinstance(value, int | float):
        return False
    if match.kind == "range" and isinstance(match.value, tuple):
        return match.value[0] <= value < match.value[1]
    return match.kind == "exact" and number_in(str(match.value)) == _double(value)


def _double(number: float) -> float:
    """A number as Envoy keeps it."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def number_in(text: str) -> float | None:
    """What a JSON number says; None: it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    double = _double(found) if is_number else math.inf
    return double if math.isfinite(double) else None
