"""Whatever is sent as OTLP, it is taken, dropped or refused, each counted by reason, and nothing raises."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.sample import SampleKind
from xds_server.ingest import Ingest
from xds_server.ingest.browsers import cookie_in
from xds_server.ingest.events import MAX_LABEL, element_label, impersonal, path_of
from xds_server.ingest.otlp import EVENTS, SIGNALS, SPANS, Signal
from xds_server.ingest.otlp_json import logs_from_json, traces_from_json
from xds_server.settings import parse_mesh

FUZZ = Path(__file__).with_name("fuzz_otlp.py")
FUZZ_S = 10
MESH = parse_mesh(
    """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{cookie: {name: sid}}]
    versions: {v1: {endpoints: ["127.0.0.1:9001"]}}
    baseline: v1
    resources: [{name: memory, metric: memory, limit: 9}]
browsers: ["https://shop.example"]
""",
    "mesh.yaml",
)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["shop", "page.view", "app.widget.click", "click", "user.id", "url.path", "1700000000000000000",
                     "service.name", "event_type", "\ud800", "SPAN_KIND_SERVER", "-1", "1e3", "9" * 50]),
)  # fmt: skip
keys = st.sampled_from(
    [
        "resourceSpans", "resourceLogs", "resource", "scopeSpans", "scopeLogs", "spans", "logRecords", "attributes",
        "key", "value", "stringValue", "intValue", "name", "kind", "status", "code", "startTimeUnixNano",
        "timeUnixNano", "observedTimeUnixNano", "eventName", "?", "resourceMetrics", "scopeMetrics", "metrics", "gauge",
        "sum", "dataPoints", "asDouble", "asInt", "flags", "aggregationTemporality",
    ]
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=40
)


@st.composite
def nearly_right(draw: st.DrawFn) -> bytes:
    """A request of the right form, some of whose parts are something else."""

    def perhaps(right: Any) -> Any:
        return draw(anything) if draw(st.integers(0, 9)) == 0 else right

    def pairs() -> Any:
        names = ["service.name", "user.id", "url.path", "event.name", "event_type", "app.widget.id", "feature.name"]
        some = draw(st.lists(st.tuples(st.sampled_from(names), scalars), max_size=5))
        return perhaps([perhaps({"key": name, "value": perhaps({"stringValue": text})}) for name, text in some])

    item = {
        "name": draw(scalars), "eventName": draw(st.sampled_from(["page.view", "app.widget.click", "?"])),
        "kind": perhaps(draw(st.integers(-1, 6))), "timeUnixNano": perhaps(str(time.time_ns())),
        "startTimeUnixNano": perhaps(time.time_ns()), "status": perhaps({"code": 2}), "attributes": pairs(),
    }  # fmt: skip
    resource = perhaps({"attributes": perhaps([{"key": "service.name", "value": {"stringValue": "shop"}}])})
    scopes = [{"spans": perhaps([perhaps(item)]), "logRecords": perhaps([perhaps(item), item])}]
    point = {"timeUnixNano": perhaps(str(time.time_ns())), "asDouble": perhaps(draw(st.floats())), "flags": perhaps(0)}
    values = perhaps({"dataPoints": perhaps([perhaps(point), {"asInt": draw(scalars)}]), "aggregationTemporality": 2})
    metric = {"name": perhaps("memory"), draw(st.sampled_from(["gauge", "sum", "histogram"])): values}
    measured = [{"resource": resource, "scopeMetrics": perhaps([{"metrics": perhaps([perhaps(metric)])}])}]
    group = [perhaps({"resource": resource, "scopeSpans": perhaps(scopes), "scopeLogs": perhaps(scopes)})]
    everything = {"resourceSpans": perhaps(group), "resourceLogs": group, "resourceMetrics": perhaps(measured)}
    return json.dumps(everything).encode("utf-8", "surrogatepass")


def ingest() -> Ingest:
    return Ingest(MESH, user_hash_key=b"secret", queue_limit=100)


def check_taken(text: bytes, signal: Signal, jar: list[bytes] | None) -> None:
    box = ingest()
    try:
        request = signal.from_json(text)
    except ValueError:
        return
    outcomes = [outcome for outcome in signal.take(box, request, jar) if outcome is not None]
    counted = sum(n for (_, reason), n in box.counts.items() if reason != "no_version")
    assert counted == len(outcomes)
    for gauged in box.drain_gauged().get("shop", ()):
        assert 0 <= gauged.value < math.inf
    for row in box.drain()["shop"].rows:
        assert abs(int(row["start_unix_ns"]) - time.time_ns()) < 2 * 86_400 * 10**9
        assert row["kind"] in (SampleKind.SPAN_ERROR, SampleKind.PAGE, SampleKind.CLICK, SampleKind.FEATURE)
        assert not math.isfinite(row["first_byte_ms"])
        assert jar is None or row["user"] == box._hash_user(b"anna")


@given(nearly_right(), st.sampled_from(SIGNALS), st.sampled_from([None, [b"sid=anna"]]))
def test_json_that_is_nearly_right_is_taken_or_refused(text: bytes, signal: Signal, jar: list[bytes] | None) -> None:
    check_taken(text, signal, jar)


@given(
    st.one_of(anything.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")), st.binary(max_size=99))
)
@example(b"[" * 100_000)
@example(b'{"resourceLogs":' * 50_000)
@example(b'{"resourceLogs":[{"resource":{"attributes":[{"key":"k","value":{"intValue":' + b"9" * 5_000 + b"}}]}}]}")
@example(b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":NaN}]}]}]}')
@example(b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":1e400}]}]}]}')
@example(b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"eventName":"\\ud800"}]}]}]}')
@example(b'{"resourceLogs":1,"resourceLogs":[]}')
@example(b'\xef\xbb\xbf{"resourceLogs":[]}')
def test_any_json_is_taken_or_refused(text: bytes) -> None:
    for signal in SIGNALS:
        check_taken(text, signal, None)


@pytest.mark.parametrize(
    "text",
    [
        b"[]", b"1", b"", b"\xff", b"[" * 100_000, b'{"resourceLogs": {}}', b'{"resourceLogs": [1]}',
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":-1}]}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":1.5}]}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":true}]}]}]}',
        b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"eventName":1}]}]}]}',
        b'{"resourceLogs":[{"resource":{"attributes":[{"value":{"intValue":"9223372036854775808"}}]}}]}',
        b'{"resourceLogs":[{"resource":[]}]}',
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        logs_from_json(text)


def test_json_and_protobuf_say_the_same() -> None:
    text = b"""{"resourceSpans": [{"resource": {"droppedAttributesCount": 1,
        "attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
        "scopeSpans": [{"scope": {"name": "x"}, "spans": [{"traceId": "00FF", "name": "GET", "kind": 2, "flags": 1,
        "startTimeUnixNano": 1700000000000000000, "status": {"code": 2, "message": "m"}, "attributes": [
        {"key": "n", "value": {"intValue": "-7"}}, {"key": "d", "value": {"doubleValue": "NaN"}}]}]}]}]}"""
    request = traces_from_json(text)
    assert traces_from_json(text.replace(b'"kind": 2', b'"kind": "SPAN_KIND_SERVER"')) == request
    assert SPANS.from_protobuf(request.SerializeToString()) == request
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert (span.kind, span.status.code, span.start_time_unix_nano) == (2, 2, 1_700_000_000_000_000_000)
    assert span.attributes[0].value.int_value == -7


@given(st.binary(max_size=1_500))
def test_names_are_bounded_and_on_one_line(text: bytes) -> None:
    for name in (impersonal(text), element_label(text)):
        assert len(name) <= MAX_LABEL
        assert "@" not in name
        assert not any(letter.isdecimal() for letter in name)
        assert "\n" not in name
    assert path_of(text)[:1] in (b"", b"/")


@pytest.mark.parametrize(
    "text", [b"a" * 4_000, b"1-" * 2_000, b"@id='" * 800, b"#" * 4_000, b"%4" * 2_000, b" a" * 2_000]
)
def test_no_name_takes_long(text: bytes) -> None:
    began = time.perf_counter()
    for i in range(50):
        impersonal(text + b"%d" % i)
        element_label(b"%d" % i + text)
    assert time.perf_counter() - began < 0.5


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_a_cookie_is_found_in_any_header(jar: list[bytes]) -> None:
    assert len(cookie_in(jar, b"sid")) <= 256
    assert cookie_in([b"a=1; sid=x=y; sid=z", *jar], b"sid") == b"x=y"
    assert cookie_in(jar, None) == b""


@pytest.mark.parametrize("message", [b"\x0a\x00" * 50_000, b"\x0a\xa0\x8d\x06" + b"\x12\x00" * 50_000])
def test_many_empty_things_leave_others_their_turn(message: bytes) -> None:
    """Two bytes each: a megabyte of them must not be one long step."""
    began, longest, steps = time.perf_counter(), 0.0, 0
    for _ in EVENTS.take(ingest(), EVENTS.from_protobuf(message)):
        now, steps = time.perf_counter(), steps + 1
        longest, began = max(longest, now - began), now
    assert steps >= 50_000
    assert longest < 0.05


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="no atheris for this Python")
def test_a_fuzzer_that_is_led_by_coverage_finds_nothing_that_raises(tmp_path: Path) -> None:
    found = subprocess.run(
        (sys.executable, FUZZ, str(tmp_path), f"-max_total_time={FUZZ_S}", "-max_len=4096", "-timeout=5", "-seed=1"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=FUZZ_S + 60,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr[-3_000:]
    assert "Done " in found.stderr
