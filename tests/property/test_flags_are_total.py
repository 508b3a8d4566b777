"""Whatever a context says, a flag has an answer or one of OpenFeature's errors."""

from __future__ import annotations

import json
from ipaddress import ip_network

from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis.spec import SegmentSpec, ServiceSpec
from xds_server.flags.context import FlagError, read_context
from xds_server.flags.evaluation import Flags
from xds_server.mesh import (
    ClaimMatch,
    ErrorRule,
    HeaderIdentity,
    SegmentMatch,
    SegmentSplit,
    Service,
    ServiceSplits,
    ValueMatch,
)

WAYS = (("exact", "12"), ("regex", "[a-z]*"), ("range", (1, 5)), ("present", False), ("suffix", "b"))
TEXTS = [ValueMatch(name=name, kind=kind, value=value) for kind, value in WAYS for name in ("a", ":path")]
PLAIN = [way for way in TEXTS if way.kind != "range" and way.name == "a"]
MATCHES = [
    *(SegmentMatch(headers=(way,)) for way in TEXTS),
    *(SegmentMatch(cookies=(way,)) for way in PLAIN),
    *(SegmentMatch(query=(way,)) for way in PLAIN),
    *(SegmentMatch(claims=(ClaimMatch(provider="p", path=("a",), kind=kind, value=value),)) for kind, value in WAYS),
    SegmentMatch(source=(ip_network("10.0.0.0/8"),)),
    SegmentMatch(path_prefix="/b"),
    SegmentMatch(learned="keen"),
]


def shop(match: SegmentMatch) -> Service:
    segments = (SegmentSpec(name="few"), SegmentSpec(name="default"))
    return Service(
        name="shop",
        domains=("shop",),
        port=1,
        identity=(HeaderIdentity(header="x"),),
        routes=(),
        versions={},
        matches={"few": match, "default": None},
        errors=ErrorRule(),
        spec=ServiceSpec(name="shop", baseline="v1", versions=("v1", "v2"), segments=segments, kpis=()),
        hold_secret=b"s" * 32,
    )


few = {"few": SegmentSplit(baseline="v2"), "default": SegmentSplit(baseline="v1", canary="v2", canary_bp=5_000)}
SPLITS = ServiceSplits(rollout="r", generation=1, segments=few)
SHOPS = [shop(match) for match in MATCHES]
FLAGS = [
    Flags(told=lambda _, service=service: (service, SPLITS), names=lambda: ["shop"], learned=lambda *_: "")
    for service in SHOPS
]

texts = st.text(max_size=6) | st.sampled_from(["a", "b", "12", "/b?a=1", "10.1.2.3", "\ud800", "anna"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda of: st.lists(of, max_size=3) | st.dictionaries(texts, of, max_size=3), max_leaves=6
)
objects = st.dictionaries(texts, texts | values, max_size=3)
contexts = st.fixed_dictionaries(
    {"targetingKey": texts | values},
    optional={
        "headers": objects | values,
        "cookies": objects | values,
        "query": objects | values,
        "path": texts | values,
        "source": texts | values,
        "claims": st.fixed_dictionaries({"p": objects | values}) | values,
    },
)


@settings(max_examples=80, deadline=None)
@given(contexts)
@example({"targetingKey": "anna", "headers": {}, "path": "/", "source": "::1", "claims": {"p": {"a": 10**400}}})
@example({"targetingKey": "anna", "headers": {}, "path": "/", "source": "::1", "claims": {"p": {"a": "\ud800"}}})
@example({"targetingKey": "anna", "headers": {"\ud800": "x"}, "cookies": {"\ud800": "x"}})
def test_every_context_has_an_answer(given_context: dict[str, object]) -> None:
    for flags in FLAGS:
        said = answer(flags, given_context)
        assert said in ("v1", "v2", "TARGETING_KEY_MISSING", "INVALID_CONTEXT")


def answer(flags: Flags, context: dict[str, object]) -> str:
    """The version, or the error's code; either way it can be sent."""
    try:
        found = flags.evaluate("shop", read_context(context))
    except FlagError as error:
        json.dumps(str(error))
        return error.code
    json.dumps(found.metadata)
    return found.version
