"""Rules are what protoc-gen-validate says they are, and none that Envoy's messages carry is passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import HealthCheck
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf import any_pb2, duration_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass
from validate import validate_pb2

from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.node import kinds
from xds_server.resources import build
from xds_server.settings import load_mesh
from xds_server.validation.rules import KNOWN, violations

MESHES = sorted((Path(__file__).parents[4] / "envoy-configs" / "meshes").glob("*.yaml"))


def rules_in(rules: Any, path: str = "") -> Iterator[str]:
    """The kinds of rules in use, such as `string.min_len`."""
    for field, value in rules.ListFields():
        if field.message_type is not None and field.message_type.full_name.startswith("validate."):
            if path:
                yield f"{path}.{field.name}"
            yield from rules_in(value, "" if field.message_type.name == "FieldRules" else field.name)
        else:
            yield f"{path}.{field.name}"


def test_every_rule_that_envoys_messages_carry_is_known(envoy_types: tuple[Descriptor, ...]) -> None:
    fields = [field for each in envoy_types for field in each.fields]
    used = {rule for field in fields for rule in rules_in(field.GetOptions().Extensions[validate_pb2.rules])}
    assert len(fields) > 5_000
    assert {"string.well_known_regex", "repeated.items", "map.keys", "message.required", "float.gte"} <= used
    assert used <= KNOWN


def test_every_rule_that_there_is_is_known() -> None:
    types = validate_pb2.DESCRIPTOR.message_types_by_name
    kinds = {field.name: field.message_type for field in types["FieldRules"].fields}
    assert {f"{kind}.{rule.name}" for kind, rules in kinds.items() for rule in rules.fields} == KNOWN


def test_every_type_of_message_can_be_checked(envoy_types: tuple[Descriptor, ...]) -> None:
    found = {each.full_name: violations(GetMessageClass(each)()) for each in envoy_types}
    assert found["envoy.config.cluster.v3.Cluster"] == ("name: '' breaks string.min_len = 1",)
    assert not found["envoy.config.bootstrap.v3.Bootstrap"]


def decided(mesh: Mesh) -> dict[str, ServiceSplits]:
    """A rollout in every segment of every service that has something to roll out."""
    splits = {}
    for service in mesh.services.values():
        others = [version for version in service.versions if version != service.spec.baseline]
        split = SegmentSplit(baseline=service.spec.baseline, canary=others[0] if others else None, canary_bp=500)
        segments = {segment.name: split for segment in service.spec.segments}
        splits[service.name] = ServiceSplits(rollout=f"{service.name}-1", generation=1, segments=segments)
    return splits


@pytest.mark.parametrize("path", MESHES, ids=lambda path: path.stem)
def test_what_is_built_for_the_example_meshes_breaks_no_rule(path: Path) -> None:
    mesh = load_mesh(path)
    for splits in ({}, decided(mesh)):
        for kind in kinds(mesh):
            built = build(mesh, splits, kind)
            for each in (*built.listeners, *built.routes, *built.clusters, *built.assignments):
                assert not violations(each)


def test_each_violation_is_one_line_with_path_value_and_rule() -> None:
    config = RouteConfiguration(name="edge")
    host = config.virtual_hosts.add(name="shop", domains=["shop", "a\nb"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.match.headers.add(name="x" * 100 + "\0")
    route.route.weighted_clusters.clusters.add()
    route.metadata.filter_metadata[""].update({})
    assert violations(config) == (
        r"virtual_hosts[0].domains[1]: 'a\nb' breaks string.well_known_regex = HTTP_HEADER_VALUE, not strict",
        "virtual_hosts[0].routes[0].metadata.filter_metadata['']: '' breaks string.min_len = 1",
        f"virtual_hosts[0].routes[0].match.headers[0].name: '{'x' * 56}... breaks "
        "string.well_known_regex = HTTP_HEADER_NAME, not strict",
    )


def test_an_any_is_looked_into_if_its_type_is_known() -> None:
    packed = any_pb2.Any()
    packed.Pack(HealthCheck())
    lines = (
        "timeout: not set breaks duration.required",
        "interval: not set breaks duration.required",
        "unhealthy_threshold: not set breaks message.required",
        "healthy_threshold: not set breaks message.required",
        "health_checker: not set breaks oneof.required",
    )
    assert violations(packed) == lines
    around = Cluster(name="shop|v1")
    around.typed_extension_protocol_options["health"].CopyFrom(packed)
    assert violations(around) == tuple(f"typed_extension_protocol_options['health'].{line}" for line in lines)


def test_an_any_of_an_unknown_type_is_left_alone() -> None:
    for url in ("", "/", "type.googleapis.com/", "type.googleapis.com/no.such.Type", "HealthCheck"):
        assert not violations(any_pb2.Any(type_url=url, value=b"\xff"))


def test_an_any_that_does_not_hold_its_type_is_found() -> None:
    packed = any_pb2.Any(type_url="type.googleapis.com/envoy.config.core.v3.HealthCheck", value=b"\xff\xff")
    assert violations(packed) == ("value: 2 bytes breaks its type: not a envoy.config.core.v3.HealthCheck",)


def test_a_message_may_nest_deeper_than_python_can_recurse() -> None:
    packed = any_pb2.Any()
    packed.Pack(HealthCheck())
    for _ in range(3_000):
        outer = any_pb2.Any()
        outer.Pack(packed)
        packed = outer
    assert len(violations(packed)) == 5


# --- Rules for one value ---

DURATION, TIMESTAMP, ANY, UINT32, STRING = (
    f".google.protobuf.{name}" for name in ("Duration", "Timestamp", "Any", "UInt32Value", "StringValue")
)
span, at, packed = duration_pb2.Duration, timestamp_pb2.Timestamp, any_pb2.Any
number, text = wrappers_pb2.UInt32Value, wrappers_pb2.StringValue

VALUES = [
    # (type, rules, what keeps them, what breaks them)
    ("UINT32", "uint32 { const: 3 }", [3], [0, 4]),
    ("UINT32", "uint32 { gte: 1 lte: 5 }", [1, 5], [0, 6]),
    ("INT32", "int32 { gt: -1 lt: 5 }", [0, 4], [-1, 5]),
    ("SINT64", "sint64 { lt: 3 gt: 5 }", [2, 6], [3, 4, 5]),
    ("FIXED32", "fixed32 { lte: 3 gte: 5 }", [3, 5], [4]),
    ("INT64", "int64 { in: [1, 3] }", [1, 3], [0, 2]),
    ("SFIXED64", "sfixed64 { not_in: [1, 3] }", [0, 2], [1, 3]),
    ("UINT64", "uint64 { gte: 5 ignore_empty: true }", [0, 5], [1]),
    ("FLOAT", "float { lte: 0.1 }", [0.1, float("nan")], [0.2, float("inf")]),
    ("DOUBLE", "double { gt: 0 }", [0.5, float("nan")], [0.0, -0.0]),
    ("DOUBLE", "double { in: 1 }", [1.0], [float("nan")]),
    ("BOOL", "bool { const: true }", [True], [False]),
    ("BOOL", "bool { const: false }", [False], [True]),
    ("ENUM", "enum { const: 2 }", [2], [0]),
    ("ENUM", "enum { defined_only: true }", [0, 2], [1]),
    ("ENUM", "enum { defined_only: false }", [1], []),
    ("ENUM", "enum { in: [2, 3] }", [2, 3], [0]),
    ("ENUM", "enum { not_in: 0 }", [1], [0]),
    ("STRING", "string { const: 'a' }", ["a"], ["", "b"]),
    ("STRING", "string { len: 2 }", ["ab", "éé"], ["a", "é"]),
    ("STRING", "string { min_len: 2 }", ["ab", "€€"], ["€", ""]),
    ("STRING", "string { max_len: 2 }", ["", "€€"], ["abc"]),
    ("STRING", "string { len_bytes: 2 }", ["ab", "é"], ["a", "éé"]),
    ("STRING", "string { min_bytes: 3 }", ["abc", "€"], ["é"]),
    ("STRING", "string { max_bytes: 2 }", ["ab", "é"], ["€"]),
    ("STRING", "string { pattern: '^a+|b$' }", ["aa", "b"], ["", "ab", "b\n"]),
    ("STRING", r"string { pattern: '\\pL' }", ["é"], ["1", "éé"]),
    ("STRING", "string { prefix: 'ab' }", ["abc"], ["", "a"]),
    ("STRING", "string { suffix: 'bc' }", ["abc"], ["", "c"]),
    ("STRING", "string { contains: 'b' }", ["abc"], [""]),
    ("STRING", "string { not_contains: 'b' }", ["", "ac"], ["abc"]),
    ("STRING", "string { in: ['a', ''] }", ["a", ""], ["b"]),
    ("STRING", "string { not_in: ['a'] }", ["", "b"], ["a"]),
    ("STRING", "string { min_len: 2 ignore_empty: true }", ["", "ab"], ["a"]),
    ("STRING", "string { email: true }", ["a.b@shop.example"], ["", "a", "a@", "@a", "a..b@c", "a@b@-c"]),
    ("STRING", "string { hostname: true }", ["a", "a-1.b.", "A" * 63], ["", "-a", "a-", "a..b", "a_b", "A" * 64]),
    ("STRING", "string { hostname: false }", ["-"], []),
    ("STRING", "string { ip: true }", ["127.0.0.1", "::1"], ["", "1.2.3", "[::1]", "fe80::1%eth0"]),
    ("STRING", "string { ipv4: true }", ["127.0.0.1"], ["::1", "1.2.3.256"]),
    ("STRING", "string { ipv6: true }", ["::1"], ["127.0.0.1", ":::"]),
    ("STRING", "string { address: true }", ["::1", "shop.example"], ["[::1]", "a b"]),
    ("STRING", "string { uri: true }", ["http://a/b?c#d", "mailto:a@b"], ["", "//a/b", "/b", "http://a b", "a:%zz"]),
    ("STRING", "string { uri_ref: true }", ["", "/b", "http://a/%20"], ["a b", "%", "é"]),
    ("STRING", "string { uuid: true }", ["01234567-89ab-CDEF-0123-456789abcdef"], ["", "0" * 32, "{" + "0" * 36]),
    ("STRING", "string { well_known_regex: HTTP_HEADER_NAME }", ["x-a", ":path", "a,b"], ["", "a b", "a:", "a\n"]),
    ("STRING", "string { well_known_regex: HTTP_HEADER_VALUE }", ["", "a b\té"], ["\n", "\0", "\x7f", "a\n"]),
    ("STRING", "string { well_known_regex: HTTP_HEADER_NAME strict: false }", ["", "a b:\x01"], ["\n", "\0", "a\r"]),
    ("STRING", "string { well_known_regex: UNKNOWN }", ["\0"], []),
    ("BYTES", "bytes { const: 'a' }", [b"a"], [b""]),
    ("BYTES", "bytes { len: 2 }", [b"ab"], [b"a"]),
    ("BYTES", "bytes { min_len: 2 ignore_empty: true }", [b"", "é".encode()], [b"a"]),
    ("BYTES", "bytes { max_len: 1 }", [b"", b"a"], ["é".encode()]),
    ("BYTES", "bytes { pattern: 'a.' }", [b"ab"], [b"a", b"abc"]),
    ("BYTES", "bytes { prefix: 'a' suffix: 'c' contains: 'b' }", [b"abc"], [b"ac"]),
    ("BYTES", "bytes { in: ['a', 'b'] }", [b"b"], [b""]),
    ("BYTES", "bytes { not_in: 'a' }", [b""], [b"a"]),
    ("BYTES", "bytes { ip: true }", [b"1234", b"x" * 16], [b"", b"12345"]),
    ("BYTES", "bytes { ipv4: true }", [b"1234"], [b"x" * 16]),
    ("BYTES", "bytes { ipv6: true }", [b"x" * 16], [b"1234"]),
    (UINT32, "uint32 { gte: 1 }", [number(value=1)], [number()]),
    (STRING, "string { len: 1 }", [text(value="a")], [text()]),
    (DURATION, "duration { const { seconds: 1 } }", [span(seconds=1)], [span()]),
    (DURATION, "duration { gt {} }", [span(seconds=1), span(nanos=1)], [span()]),
    (DURATION, "duration { lt { seconds: 1 } }", [span(nanos=999_999_999)], [span(seconds=1)]),
    (DURATION, "duration { lte {} gte { seconds: 1 } }", [span(), span(seconds=1)], [span(nanos=5)]),
    (DURATION, "duration { in [{ seconds: 1 }, {}] }", [span(seconds=1), span()], [span(nanos=5)]),
    (DURATION, "duration { not_in { seconds: 1 } }", [span()], [span(seconds=1)]),
    (DURATION, "duration { gte { seconds: -9 } }", [span(seconds=-9)], [span(nanos=10**9), span(seconds=10**12)]),
    (DURATION, "duration { gte { seconds: -9 } }", [span(seconds=-1, nanos=-1)], [span(seconds=1, nanos=-1)]),
    (DURATION, "duration { required: true }", [span(nanos=-(10**9))], []),
    (TIMESTAMP, "timestamp { const { seconds: 1 } }", [at(seconds=1)], [at()]),
    (TIMESTAMP, "timestamp { gte { seconds: 1 } }", [at(seconds=1)], [at()]),
    (TIMESTAMP, "timestamp { gte { seconds: 1 } }", [at(seconds=2)], [at(seconds=2, nanos=-1), at(seconds=10**12)]),
    (TIMESTAMP, "timestamp { lt_now: true }", [at(seconds=1)], [at(seconds=10**11)]),
    (TIMESTAMP, "timestamp { gt_now: true }", [at(seconds=10**11)], [at(seconds=1)]),
    (TIMESTAMP, "timestamp { within { seconds: 60 } }", [], [at(seconds=1), at(seconds=10**11)]),
    (ANY, "any { in: 'a/b' }", [packed(type_url="a/b")], [packed(), packed(type_url="b")]),
    (ANY, "any { not_in: 'a/b' }", [packed(type_url="b")], [packed(type_url="a/b")]),
]  # fmt: skip


def field(kind: str, rules: str, *, number: int = 1, label: str = "OPTIONAL", more: str = "") -> str:
    """The text of a field of M, called `x` with its number."""
    of = "type: TYPE_ENUM type_name: '.PACKAGE.Colour'" if kind == "ENUM" else f"type: TYPE_{kind}"
    if kind.startswith("."):
        of = f"type: TYPE_MESSAGE type_name: '{kind}'"
    ruled = f"options {{ [validate.rules] {{ {rules} }} }}" if rules else ""
    return f"field {{ name: 'x{number}' number: {number} label: LABEL_{label} {of} {ruled} {more} }}"


@pytest.mark.parametrize(
    ("kind", "rules", "good", "bad"), VALUES, ids=lambda each: each if isinstance(each, str) else ""
)
def test_a_value_breaks_its_rules(
    message_type: Callable[[str], Any], kind: str, rules: str, good: list[Any], bad: list[Any]
) -> None:
    single = message_type(field(kind, rules))
    many = message_type(field(kind, f"repeated {{ items {{ {rules} }} }}", label="REPEATED"))
    for value in good:
        assert not violations(single(x1=value))
        assert not violations(many(x1=[value]))
    for value in bad:
        (line,) = violations(single(x1=value))
        assert line.startswith("x1: ")
        (line,) = violations(many(x1=[*good, value]))
        assert line.startswith(f"x1[{len(good)}]: ")


def test_a_scalar_that_is_not_set_is_checked_unless_it_says_so(message_type: Callable[[str], Any]) -> None:
    rule = "string { min_len: 1 }"
    assert violations(message_type(field("STRING", rule))()) == ("x1: '' breaks string.min_len = 1",)
    optional = message_type(
        field("STRING", rule, more="proto3_optional: true oneof_index: 0") + "oneof_decl { name: '_x1' }"
    )
    assert not violations(optional())
    assert violations(optional(x1="")) == ("x1: '' breaks string.min_len = 1",)


def test_a_message_that_is_not_set_breaks_only_that_it_is_required(message_type: Callable[[str], Any]) -> None:
    assert not violations(message_type(field(".PACKAGE.Inner", ""))())
    required = message_type(field(".PACKAGE.Inner", "message { required: true }"))
    assert violations(required()) == ("x1: not set breaks message.required",)
    assert violations(required(x1={})) == ("x1.name: '' breaks string.min_len = 1",)
    wrapped = message_type(
        field(UINT32, "uint32 { gt: 0 } message { required: true }")
        + field(UINT32, "uint32 { gt: 0 }", number=2)
        + field(DURATION, "duration { gt {} required: true }", number=3)
        + field(DURATION, "duration { gt {} }", number=4)
        + field(ANY, "any { required: true }", number=5)
        + field(TIMESTAMP, "timestamp { required: true }", number=6)
    )
    kinds = {"x1": "message", "x3": "duration", "x5": "any", "x6": "timestamp"}
    assert violations(wrapped()) == tuple(f"{name}: not set breaks {kind}.required" for name, kind in kinds.items())


def test_a_skipped_message_is_not_looked_into(message_type: Callable[[str], Any]) -> None:
    skipped = message_type(
        field(".PACKAGE.Inner", "message { skip: true required: true }")
        + field(".PACKAGE.Inner", "repeated { items { message { skip: true } } }", number=2, label="REPEATED")
    )
    assert not violations(skipped(x1={}, x2=[{}]))
    assert violations(skipped()) == ("x1: not set breaks message.required",)


@pytest.mark.parametrize("option", ["disabled", "ignored"])
def test_a_type_can_be_exempt(message_type: Callable[[str], Any], option: str) -> None:
    exempt = message_type(
        field("STRING", "string { min_len: 1 }")
        + field(".PACKAGE.Inner", "", number=2)
        + f"options {{ [validate.{option}]: true }}"
    )
    assert not violations(exempt(x2={}))


def test_a_member_of_a_oneof_counts_only_if_it_is_chosen(message_type: Callable[[str], Any]) -> None:
    member = "oneof_index: 0"
    choice = (
        field("STRING", "string { min_len: 1 }", more=member)
        + field(".PACKAGE.Inner", "message { required: true }", number=2, more=member)
        + field("UINT32", "", number=3, more=member)
    )
    free = message_type(choice + "oneof_decl { name: 'choice' }")
    must = message_type(choice + "oneof_decl { name: 'choice' options { [validate.required]: true } }")
    assert not violations(free())
    assert violations(must()) == ("choice: not set breaks oneof.required",)
    for chosen in ({"x3": 0}, {"x1": "a"}, {"x2": {"name": "a"}}):
        assert not violations(must(**chosen))
    assert violations(must(x1="")) == ("x1: '' breaks string.min_len = 1",)
    assert violations(must(x2={})) == ("x2.name: '' breaks string.min_len = 1",)


def test_how_many_a_repeated_field_holds(message_type: Callable[[str], Any]) -> None:
    bounded = message_type(field("UINT32", "repeated { min_items: 1 max_items: 2 }", label="REPEATED"))
    assert violations(bounded()) == ("x1: 0 of them breaks repeated.min_items = 1",)
    assert not violations(bounded(x1=[1, 1]))
    assert violations(bounded(x1=[1, 2, 3])) == ("x1: 3 of them breaks repeated.max_items = 2",)
    lenient = message_type(field("UINT32", "repeated { min_items: 2 ignore_empty: true }", label="REPEATED"))
    assert not violations(lenient())
    assert violations(lenient(x1=[1])) == ("x1: 1 of them breaks repeated.min_items = 2",)


def test_a_repeated_field_can_be_a_set(message_type: Callable[[str], Any]) -> None:
    distinct = message_type(field("STRING", "repeated { unique: true }", label="REPEATED"))
    assert not violations(distinct(x1=["a", "b"]))
    assert violations(distinct(x1=["a", "b", "a"])) == ("x1[2]: 'a' breaks repeated.unique",)


def test_pairs_of_a_map_have_rules_of_their_own(message_type: Callable[[str], Any]) -> None:
    rules = "map { min_pairs: 1 max_pairs: 3 no_sparse: true keys { string { min_len: 1 } } }"
    entry = (
        "nested_type { name: 'X1Entry' options { map_entry: true }"
        + " field { name: 'key' number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }"
        + " field { name: 'value' number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: '.PACKAGE.Inner' } }"
    )
    mapped = message_type(field(".PACKAGE.M.X1Entry", rules, label="REPEATED") + entry)
    assert violations(mapped()) == ("x1: 0 of them breaks map.min_pairs = 1",)
    assert not violations(mapped(x1={"a": {"name": "a"}}))
    assert violations(mapped(x1={"b": {}, "": {"name": "a"}})) == (
        "x1['']: '' breaks string.min_len = 1",
        "x1['b'].name: '' breaks string.min_len = 1",
    )
    assert violations(mapped(x1={key: {"name": "a"} for key in "abcd"})) == ("x1: 4 of them breaks map.max_pairs = 3",)
    skipping = rules.replace("keys", "values { message { skip: true } } keys")
    mapped = message_type(field(".PACKAGE.M.X1Entry", skipping, label="REPEATED") + entry)
    assert not violations(mapped(x1={"b": {}}))
