"""What can be proven of a service's segments by their matches alone: who reaches none, and where two of them overlap.

All of it errs on one side: what is called unreachable is, and two segments of which nothing is known overlap.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

from xds_server.matching import takes
from xds_server.mesh import ClaimMatch, Network, SegmentMatch, Service, ValueMatch

Subject = tuple[str, ...]
"""What a condition is about, such as ("header", "x-plan")."""
Way = ValueMatch | ClaimMatch

ALL = 1 << 128
_TEXTS = ("exact", "prefix", "suffix", "contains")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """`unreachable`: why nobody can be in a segment. `after`: earlier segments that take some of a segment's people."""

    unreachable: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def overlaps(service: Service) -> Overlaps:
    """What is known of the segments of a service; `default` is where everybody else is."""
    unreachable: dict[str, str] = {}
    after: dict[str, tuple[str, ...]] = {}
    earlier: dict[str, SegmentMatch] = {}
    for name, match in service.matches.items():
        if match is None or not _is_known(match):
            continue
        covering = next((other for other, wider in earlier.items() if _covers(wider, match)), None)
        if (subject := _contradiction(match)) is not None:
            unreachable[name] = f"matches nobody: no {subject} can be all of that"
        elif covering is not None:
            unreachable[name] = f"never reached: segment {covering} matches everybody who matches this"
        elif both := tuple(other for other, first in earlier.items() if not _exclude(first, match)):
            after[name] = both
        if name not in unreachable:
            earlier[name] = match
    return Overlaps(unreachable=unreachable, after=after)


def _is_known(match: SegmentMatch) -> bool:
    """Whether it asks for anything that is understood here."""
    return bool(match.path_prefix or match.source) or any(True for _ in _conditions(match))


def _conditions(match: SegmentMatch) -> Iterator[tuple[Subject, Way]]:
    for kind, ways in (("header", match.headers), ("cookie", match.cookies), ("query parameter", match.query)):
        for way in ways:
            yield (kind, way.name), way
    for claim in match.claims:
        yield ("claim", claim.provider, *claim.path), claim


def _covers(wider: SegmentMatch, match: SegmentMatch) -> bool:
    """Whether everybody who matches `match` matches `wider`: each condition follows from one of `match`."""
    return (
        (match.path_prefix or "/").startswith(wider.path_prefix or "/")
        and (not wider.source or _is_within(match.source, wider.source))
        and all(
            any(subject == other and _implies(given, wanted) for other, given in _conditions(match))
            for subject, wanted in _conditions(wider)
        )
    )


def _exclude(one: SegmentMatch, other: SegmentMatch) -> bool:
    """Whether nobody can match both, for certain."""
    paths = sorted((one.path_prefix or "/", other.path_prefix or "/"), key=len)
    apart = one.source and other.source and not _meet(one.source, other.source)
    return (
        not paths[1].startswith(paths[0])
        or bool(apart)
        or any(
            subject == its and _contradict(way, its_way)
            for subject, way in _conditions(one)
            for its, its_way in _conditions(other)
        )
    )


def _contradiction(match: SegmentMatch) -> str | None:
    """What a match asks two things of that exclude each other."""
    for (subject, one), (other, two) in combinations(_conditions(match), 2):
        if subject == other and _contradict(one, two):
            return " ".join((subject[0], ".".join(subject[1:])))
    return None


Span = tuple[int, int, int]
"""IP version, first and last address."""


@lru_cache(maxsize=256)
def _spans(networks: tuple[Network, ...]) -> tuple[Span, ...]:
    """The addresses of some networks: in order, with room between any two."""
    found: list[Span] = []
    for version, first, last in sorted((n.version, int(n[0]), int(n[-1])) for n in networks):
        if found and found[-1][0] == version and first <= found[-1][2] + 1:
            found[-1] = (version, found[-1][1], max(last, found[-1][2]))
        else:
            found.append((version, first, last))
    return tuple(found)


def _is_within(inner: tuple[Network, ...], outer: tuple[Network, ...]) -> bool:
    """Whether every address of `inner`, which is somewhere, is one of `outer`."""
    wide = _spans(outer)
    return bool(inner) and all(
        (place := bisect_right(wide, (version, first, ALL))) > 0
        and wide[place - 1][0] == version
        and last <= wide[place - 1][2]
        for version, first, last in _spans(inner)
    )


def _meet(one: tuple[Network, ...], other: tuple[Network, ...]) -> bool:
    """Whether they share an address."""
    spans = _spans(other)
    return any(
        (place := bisect_right(spans, (version, last, ALL))) > 0
        and spans[place - 1][0] == version
        and first <= spans[place - 1][2]
        for version, first, last in _spans(one)
    )


def _implies(given: Way, wanted: Way) -> bool:
    """Whether whatever matches `given` matches `wanted`."""
    if given == wanted:
        return True
    if wanted.kind == "present":
        return wanted.value is True and given.value is not False
    if given.value in (True, False) or (isinstance(given, ClaimMatch) and _may_be_no_text(given)):
        return False
    if isinstance(given.value, tuple):
        return (
            isinstance(wanted.value, tuple) and wanted.value[0] <= given.value[0] <= given.value[1] <= wanted.value[1]
        )
    if given.kind == "exact":
        return takes(wanted, str(given.value))
    return given.kind in _TEXTS and _is_part(given, wanted)


def _is_part(given: Way, wanted: Way) -> bool:
    """Whether what a text must begin with, end with or contain says that it does so with less."""
    text, less = str(given.value), str(wanted.value)
    match wanted.kind:
        case "prefix":
            return given.kind == "prefix" and text.startswith(less)
        case "suffix":
            return given.kind == "suffix" and text.endswith(less)
        case "contains":
            return less in text
        case _:
            return False


def _may_be_no_text(claim: ClaimMatch) -> bool:
    """Whether a claim that is no text, such as the number 3, matches as well."""
    return claim.kind == "exact" and re.fullmatch(r"true|false|[-0-9].*", str(claim.value)) is not None


def _contradict(one: Way, two: Way) -> bool:
    """Whether nothing can match both. A claim may be a list, of which one item matches one, and another the other."""
    absent = (one.value is False, two.value is False)
    if any(absent):
        return not all(absent)
    if isinstance(one, ClaimMatch) or True in (one.value, two.value):
        return False
    if isinstance(one.value, tuple) and isinstance(two.value, tuple):
        return one.value[1] <= two.value[0] or two.value[1] <= one.value[0]
    for exact, other in ((one, two), (two, one)):
        if exact.kind == "exact":
            return not takes(other, str(exact.value))
    texts = sorted((str(one.value), str(two.value)), key=len)
    if one.kind == two.kind == "prefix":
        return not texts[1].startswith(texts[0])
    return one.kind == two.kind == "suffix" and not texts[1].endswith(texts[0])
