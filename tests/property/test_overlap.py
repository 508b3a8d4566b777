"""What is said of two segments holds for every request that there can be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.spec import SegmentSpec, ServiceSpec
from xds_server.mesh import ErrorRule, SegmentMatch, Service, ValueMatch, Version
from xds_server.overlap import overlaps

TEXTS = ("a", "b", "ab", "ba", "aba", "1", "12", "3")
NETWORKS = tuple(map(ip_network, ("10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/16", "11.0.0.0/8", "::/0")))


@dataclass(frozen=True)
class Request:
    x: str | None
    y: str | None
    path: str
    source: str


PATHS, SOURCES = ("/", "/a", "/a/b", "/b"), ("10.0.0.1", "10.1.0.1", "11.0.0.1")
REQUESTS = tuple(Request(*each) for each in product((None, "", *TEXTS), (None, "a", "b"), PATHS, SOURCES))


def way(name: str) -> st.SearchStrategy[ValueMatch]:
    texts = st.tuples(st.sampled_from(("exact", "prefix", "suffix", "contains")), st.sampled_from(TEXTS))
    regexes = st.tuples(st.just("regex"), st.sampled_from(("a.*", "[ab]+", "[0-9]+")))
    others = st.sampled_from((("present", True), ("present", False), ("range", (0, 3)), ("range", (2, 20))))
    return st.builds(
        lambda kind: ValueMatch(name=name, kind=kind[0], value=kind[1]),  # type: ignore[arg-type]  # of its kind
        texts | regexes | others,
    )


MATCHES = st.builds(
    SegmentMatch,
    headers=st.lists(way("x") | way("y"), max_size=3).map(tuple),
    path_prefix=st.sampled_from((None, "/", "/a", "/a/b", "/b")),
    source=st.lists(st.sampled_from(NETWORKS), max_size=2).map(tuple),
)


def is_in(match: SegmentMatch, request: Request) -> bool:
    source = IPv4Address(request.source)
    return (
        request.path.startswith(match.path_prefix or "/")
        and (not match.source or any(source in network for network in match.source))
        and all(fits(header, request.x if header.name == "x" else request.y) for header in match.headers)
    )


def fits(header: ValueMatch, text: str | None) -> bool:
    value = header.value
    if header.kind == "present":
        return (text is not None) is value
    if text is None:
        return False
    if isinstance(value, tuple):
        return text.isdigit() and value[0] <= int(text) < value[1]
    found = {
        "exact": text == value,
        "prefix": text.startswith(str(value)),
        "suffix": text.endswith(str(value)),
        "contains": str(value) in text,
        "regex": re.fullmatch(str(value), text) is not None if header.kind == "regex" else False,
    }
    return found[header.kind]


def service(matches: list[SegmentMatch]) -> Service:
    names = {f"s{n}": match for n, match in enumerate(matches)}
    spec = ServiceSpec(
        name="shop",
        baseline="v1",
        versions=("v1",),
        segments=(*(SegmentSpec(name=name) for name in names), SegmentSpec(name="default")),
        kpis=(),
    )
    return Service(
        name="shop",
        domains=("shop",),
        port=1,
        identity=(),
        routes=(),
        versions={"v1": Version(name="v1", endpoints=(("127.0.0.1", 1),))},
        matches={**names, "default": None},
        errors=ErrorRule(),
        spec=spec,
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(MATCHES, min_size=1, max_size=4))
def test_who_is_said_to_be_nobody_is_nobody_and_what_is_said_to_be_apart_is(matches: list[SegmentMatch]) -> None:
    found = overlaps(service(matches))
    for n, match in enumerate(matches):
        name = f"s{n}"
        for request in REQUESTS:
            before = [f"s{i}" for i in range(n) if is_in(matches[i], request)]
            if not is_in(match, request):
                continue
            if name in found.unreachable:
                assert before, (request, found.unreachable[name])
            elif match != SegmentMatch() and match.path_prefix != "":
                reachable = {other for other in before if other not in found.unreachable}
                known = {other for other in reachable if matches[int(other[1:])] != SegmentMatch()}
                assert known <= set(found.after.get(name, ())), request
