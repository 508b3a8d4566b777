from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2

from analysis.sample import NO_BUCKET, NO_STEP, SAMPLE_DTYPE, UNKNOWN, SampleKind, Vocabulary
from xds_server.assign import bucket
from xds_server.ingest.entries import Arrived, Decoded, Decoder, Reporter, response_flags
from xds_server.ingest.events import decode_event, decode_span
from xds_server.ingest.rows import DecodeRules, Drop, Row, path_template, rules_of, user_hash
from xds_server.mesh import Mesh
from xds_server.mesh_model import FLAGS
from xds_server.pb import als_pb2, otlp_pb2
from xds_server.stamp import TAG

Entry = accesslog_pb2.HTTPAccessLogEntry
V1, V2 = 0, 1
UNIX_NS = 1_700_000_000_000_000_000


def hash_user(key: bytes) -> int:
    return user_hash(b"secret", key)


def decoded(entry: Entry | bytes, rules: DecodeRules, role: bytes = b"gateway") -> Decoded:
    message = als_pb2.StreamAccessLogsMessage()
    message.http_logs.log_entry.add().MergeFromString(entry if isinstance(entry, bytes) else entry.SerializeToString())
    arrived = Arrived(message.SerializeToString(), Reporter(node="edge", role=role))
    return Decoder(hash_key=b"secret").decode([arrived], {rules.name.encode(): rules}, UNIX_NS)


def decode(entry: Entry | bytes, rules: DecodeRules, vocabulary: Vocabulary | None = None) -> Row | Drop:
    result = decoded(entry, rules)
    if not result.rows:
        (drop,) = result.counts
        return Drop(drop)
    (part,) = result.rows
    labels = vocabulary or Vocabulary()
    (label,) = part.label.tolist()
    part.rows["label"] = NO_STEP if label < 0 else labels.index(part.labels[label])
    return part.rows[0].tolist()  # type: ignore[no-any-return]


def sample(row: Row | Drop) -> Any:
    """The row as the core sees it."""
    assert not isinstance(row, Drop), row
    return np.array([row], dtype=SAMPLE_DTYPE)[0]


@pytest.fixture
def error(rules: DecodeRules, make_entry: Callable[..., Entry]) -> Callable[..., bool]:
    return lambda **entry: bool(sample(decode(make_entry(**entry), rules))["error"])


def test_a_finished_request_becomes_a_sample(rules: DecodeRules, make_entry: Callable[..., Entry]) -> None:
    vocabulary = Vocabulary()
    row = sample(decode(make_entry(), rules, vocabulary))
    assert row["start_unix_ns"] == UNIX_NS
    assert row["duration_ms"] == pytest.approx(12.5)
    assert row["user"] == hash_user(b"anna")
    assert row["bucket"] == bucket("shop-1", "anna")
    assert row["segment"] == 1
    assert row["version"] == V2
    assert vocabulary.labels[row["label"]] == "page /product/*"
    assert row["kind"] == SampleKind.REQUEST
    assert not row["error"]
    assert not row["goal"]


@pytest.mark.parametrize(
    ("status", "failed"), [(100, 0), (204, 0), (302, 0), (404, 0), (418, 1), (499, 0), (500, 1), (503, 1), (599, 1)]
)
def test_the_status_fails_a_request_where_the_service_says_so(
    status: int, failed: int, error: Callable[..., bool]
) -> None:
    assert error(status=status) == bool(failed)


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_fails_a_request_where_the_service_says_so(
    flag: str, rules: DecodeRules, error: Callable[..., bool]
) -> None:
    assert error(flags=(flag,)) == (flag in rules.failing_flags)
    assert error(flags=("DC", flag)) == (flag in rules.failing_flags)


def test_no_flag_is_a_dash() -> None:
    assert response_flags(b"-") == response_flags(b"") == frozenset()
    assert response_flags(b"UF,URX") == {"UF", "URX"}


def test_a_client_that_hangs_up_is_no_error(error: Callable[..., bool]) -> None:
    assert not error(status=None, flags=("DC",))
    assert not error(status=None, flags=("DR",))


def test_a_client_that_hangs_up_on_a_failed_upstream_does_not_hide_the_failure(error: Callable[..., bool]) -> None:
    assert error(status=None, flags=("DC", "UT"))


@pytest.mark.parametrize(
    ("grpc_status", "failed"),
    [("0", 0), ("1", 0), ("3", 0), ("5", 0), ("7", 0), ("2", 1), ("4", 1), ("12", 1), ("13", 1), ("14", 1), ("15", 1)],
)
def test_a_grpc_call_answers_200_and_fails_all_the_same(
    grpc_status: str, failed: int, error: Callable[..., bool]
) -> None:
    assert error(status=200, grpc_trailer=grpc_status) == bool(failed)
    assert error(status=200, grpc_header=grpc_status) == bool(failed)


@pytest.mark.parametrize("nonsense", ["OK", "-1", "٣", "9" * 5000])
def test_a_grpc_status_that_is_no_number_is_a_failure(nonsense: str, error: Callable[..., bool]) -> None:
    assert error(status=200, grpc_trailer=nonsense)


def test_the_trailers_have_the_last_word(error: Callable[..., bool]) -> None:
    assert error(status=200, grpc_header="0", grpc_trailer="14")
    assert not error(status=200, grpc_header="14", grpc_trailer="0")


def test_a_service_may_leave_grpc_statuses_out(mesh: Mesh, make_entry: Callable[..., Entry]) -> None:
    shop = mesh.services["shop"]
    rules = rules_of(dataclasses.replace(shop, errors=dataclasses.replace(shop.errors, grpc_failing=False)))
    assert not sample(decode(make_entry(grpc_trailer="14"), rules))["error"]


@pytest.mark.parametrize("cluster", ["", "shop|v9", "other|v1", "shop"])
def test_a_request_refused_before_a_version_was_chosen_counts_as_an_error_of_no_version(
    cluster: str, rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    row = sample(decode(make_entry(cluster=cluster, status=503, flags=("NC",)), rules))
    assert row["version"] == UNKNOWN
    assert row["error"]


@pytest.mark.parametrize(
    ("path", "status", "reached"),
    [
        ("/checkout/done", 200, True),
        ("/checkout/done?order=5", 302, True),
        ("/checkout/done", 404, False),
        ("/checkout/done", 503, False),
        ("/checkout/done", None, False),
        ("/checkout", 200, False),
    ],
)
def test_the_goal_is_reached_by_a_request_that_succeeds(
    path: str, status: int | None, reached: bool, rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    assert sample(decode(make_entry(path=path, status=status), rules))["goal"] == reached


def test_the_goal_is_what_the_client_asked_for_and_not_what_a_route_made_of_it(
    rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    entry = make_entry(path="/v2/done")
    entry.request.original_path = "/checkout/done"
    assert sample(decode(entry, rules))["goal"]


def test_nobody_known_is_user_0_and_has_no_bucket(rules: DecodeRules, make_entry: Callable[..., Entry]) -> None:
    row = sample(decode(make_entry(key=""), rules))
    assert row["user"] == 0
    assert row["bucket"] == NO_BUCKET


def test_a_request_routed_while_no_rollout_ran_has_no_bucket(
    rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    row = sample(decode(make_entry(rollout=""), rules))
    assert row["user"] == hash_user(b"anna")
    assert row["bucket"] == NO_BUCKET


def test_a_key_that_is_not_utf_8_is_still_a_person(rules: DecodeRules, make_entry: Callable[..., Entry]) -> None:
    key = b"\xff\xfe"
    entry = make_entry(key="??").SerializeToString().replace(b"\n??", b"\n" + key)
    row = sample(decode(entry, rules))
    assert row["user"] == hash_user(key)
    assert row["bucket"] == NO_BUCKET


def test_the_time_to_the_last_byte_is_what_the_client_waited(
    rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    entry = make_entry()
    entry.common_properties.ClearField("time_to_last_downstream_tx_byte")
    assert sample(decode(entry, rules))["duration_ms"] == pytest.approx(13.0)
    entry.common_properties.ClearField("duration")
    assert sample(decode(entry, rules))["duration_ms"] == 0.0
    entry.common_properties.duration.seconds = -5
    assert sample(decode(entry, rules))["duration_ms"] == 0.0


@pytest.mark.parametrize("seconds", [0, -1, 9_223_372_037])
def test_a_request_that_started_at_no_time_is_dropped(
    seconds: int, rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    entry = make_entry()
    entry.common_properties.start_time.seconds = seconds
    assert decode(entry, rules) is Drop.NO_TIME


@pytest.mark.parametrize("segment", ["", "mars"])
def test_a_segment_that_the_service_has_not_is_dropped(
    segment: str, rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    assert decode(make_entry(segment=segment), rules) is Drop.UNKNOWN_SEGMENT


def test_a_route_that_only_forwards_reports_nothing(rules: DecodeRules, make_entry: Callable[..., Entry]) -> None:
    assert decode(make_entry(service="", segment=""), rules) is Drop.FORWARDING_HOP


@pytest.mark.parametrize("kind", accesslog_pb2.AccessLogType.keys())
def test_only_finished_requests_count(kind: str, rules: DecodeRules, make_entry: Callable[..., Entry]) -> None:
    assert (decode(make_entry(kind=kind), rules) is Drop.UNFINISHED) == (kind != "DownstreamEnd")


@pytest.mark.parametrize(
    ("hop", "role", "later"),
    [
        ("gateway", b"gateway", False),
        ("gateway", b"sidecar", True),
        ("sidecar", b"sidecar", False),
        ("", b"sidecar", False),  # answered before the hop could be written: nobody before has split
    ],
)
def test_the_first_splitting_hop_reports(
    hop: str, role: bytes, later: bool, rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    counts = decoded(make_entry(hop=hop), rules, role).counts
    assert counts == ({Drop.LATER_HOP: 1} if later else {"accepted": 1})


@pytest.mark.parametrize(
    ("tag", "generation"), [("7", 7), ("", None), ("x", None), ("-1", None), ("1" * 400, None), ("٣", None)]
)
def test_the_generation_is_a_number_or_unknown(
    tag: str, generation: int | None, rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    assert decoded(make_entry(generation=tag), rules).seen == {("shop", "edge"): generation}


@pytest.mark.parametrize("status", ["", "-", "OK", "٣", "1000", "9" * 5000])
def test_a_status_that_is_none_is_malformed(status: str, rules: DecodeRules, make_entry: Callable[..., Entry]) -> None:
    entry = make_entry()
    tags = entry.common_properties.custom_tags
    tags[TAG] = tags[TAG].replace("\n200\n", f"\n{status}\n")
    assert decode(entry, rules) is Drop.MALFORMED


@pytest.mark.parametrize(
    ("content_type", "label"),
    [
        ("text/html", "page /cart"),
        ("TEXT/HTML; charset=utf-8", "page /cart"),
        ("application/xhtml+xml", "page /cart"),
        ("application/json", "call /cart"),
        ("application/grpc", "call /cart"),
        ("text/event-stream", "call /cart"),
        ("", "call /cart"),
        ("image/svg+xml", None),
        ("text/css", None),
        ("text/javascript; charset=utf-8", None),
        ("application/javascript", None),
        ("font/woff2", None),
    ],
)
def test_a_step_is_a_page_or_a_call_and_what_belongs_to_a_page_is_none(
    content_type: str, label: str | None, rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    vocabulary = Vocabulary()
    row = sample(decode(make_entry(path="/cart", content_type=content_type), rules, vocabulary))
    assert label == (None if row["label"] == NO_STEP else vocabulary.labels[row["label"]])


@pytest.mark.parametrize(
    ("agent", "bot"),
    [
        ("", False),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", True),
        ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0) Chrome/1.0 Safari/537.36", True),
        ("Baiduspider", True),
        ("kube-probe/1.31", True),
        ("Mozilla/5.0 (Linux; Android 11; CUBOT X30) AppleWebKit/537.36", False),
        ("Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/130.0 Safari/537.36", False),
        ("okhttp/4.12.0", False),
        ("Python/3.11 aiohttp/3.14", False),
    ],
)
def test_a_machine_that_says_so_is_a_bot(
    agent: str, bot: bool, rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    entry = make_entry()
    entry.request.user_agent = agent
    assert sample(decode(entry, rules))["bot"] == bot


def test_the_first_byte_of_the_upstream_is_kept_apart(rules: DecodeRules, make_entry: Callable[..., Entry]) -> None:
    entry = make_entry()
    assert np.isnan(sample(decode(entry, rules))["first_byte_ms"])
    entry.common_properties.time_to_first_upstream_rx_byte.nanos = 9_250_000
    row = sample(decode(entry, rules))
    assert row["first_byte_ms"] == pytest.approx(9.25)
    assert row["duration_ms"] == pytest.approx(12.5)


@pytest.mark.parametrize(
    "changes", [{"stream": True}, {"status": 101}, {"content_type": "text/event-stream; charset=utf-8"}]
)
def test_how_long_a_stream_lasts_is_not_judged_and_its_failure_is(
    changes: dict[str, Any], rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    row = sample(decode(make_entry(**changes), rules))
    assert np.isnan(row["duration_ms"])
    assert (row["kind"], row["error"]) == (SampleKind.REQUEST, False)
    assert sample(decode(make_entry(flags=("UR",), **changes), rules))["error"]


def test_a_web_socket_that_the_upstream_closes_has_not_failed(error: Callable[..., bool]) -> None:
    assert not error(status=101, flags=("UC",))
    assert error(status=200, flags=("UC",))


def test_a_stream_that_goes_on_shows_that_its_person_is_there(
    rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    entry = make_entry(stream=True, kind="DownstreamPeriodic")
    common = entry.common_properties
    common.start_time.seconds -= 3_600
    common.duration.seconds, common.duration.nanos = 3_590, 250_000_000
    row = sample(decode(entry, rules))
    assert row["kind"] == SampleKind.ALIVE
    assert row["start_unix_ns"] == UNIX_NS - 9_750_000_000  # when the entry was written
    assert row["user"] == hash_user(b"anna")
    assert row["label"] == NO_STEP
    assert np.isnan(row["duration_ms"])
    assert not row["error"]
    common.ClearField("duration")
    assert sample(decode(entry, rules))["start_unix_ns"] == UNIX_NS  # when it arrived
    assert decode(make_entry(kind="DownstreamPeriodic"), rules) is Drop.UNFINISHED


@pytest.mark.parametrize(
    "tag",
    [
        b"",
        b"serinus",
        b"shop|eu|shop-1|7",
        b"shop|eu|shop-1|7\ngateway\nDownstreamEnd\n200\n-\nshop|v1\n\n\nanna",  # a line is missing
        b"shop|eu|shop-1|7\ngateway\nDownstreamEnd\n200\n-\nshop|v1\n\n\n\n\nanna",  # one too many
    ],
)
def test_a_tag_with_other_lines_is_malformed(tag: bytes, rules: DecodeRules, make_entry: Callable[..., Entry]) -> None:
    entry = make_entry()
    entry.common_properties.custom_tags[TAG] = tag.decode()
    assert decode(entry, rules) is Drop.MALFORMED


def test_an_entry_without_our_tag_is_of_a_route_that_does_not_split(
    rules: DecodeRules, make_entry: Callable[..., Entry]
) -> None:
    entry = make_entry()
    entry.common_properties.custom_tags.clear()
    assert decode(entry, rules) is Drop.FORWARDING_HOP


@pytest.mark.parametrize(
    ("path", "template"),
    [
        (b"", "/"),
        (b"/", "/"),
        (b"/cart/", "/cart"),
        (b"//cart", "/cart"),
        (b"/product/17?x=1#top", "/product/*"),
        (b"/product/17a", "/product/17a"),
        (b"/order/3f2504e0-4f89-11d3-9a0c-0305e82c3301/items", "/order/*/items"),
        (b"/blob/DEADBEEFdeadbeef", "/blob/*"),
        (b"/blob/deadbeef", "/blob/deadbeef"),
        (b"/t/" + b"x" * 41, "/t/*"),
        (b"/a/b/c/d/e/f", "/a/b/c/d"),
        (b"/pkg.Service/Method", "/pkg.Service/Method"),
        (b"/caf\xc3\xa9", "/café"),
        (b"/\xff", "/\ufffd"),
        (b"?q", "/"),
        (b"/" * 100_000, "/"),
    ],
)
def test_paths_of_the_same_kind_share_a_template(path: bytes, template: str) -> None:
    assert path_template(path) == template


def test_a_person_is_known_by_a_keyed_hash() -> None:
    assert user_hash(b"k", b"anna") == user_hash(b"k", b"anna")
    assert user_hash(b"k", b"anna") != user_hash(b"other", b"anna")
    assert user_hash(b"k", b"anna") != user_hash(b"k", b"anni")
    assert user_hash(b"k", b"") == 0


# --- OpenTelemetry


def pairs(attributes: dict[str, str | int]) -> list[otlp_pb2.KeyValue]:
    return [
        otlp_pb2.KeyValue(
            key=key.encode(),
            value=otlp_pb2.AnyValue(string_value=value.encode())
            if isinstance(value, str)
            else otlp_pb2.AnyValue(int_value=value),
        )
        for key, value in attributes.items()
    ]


def span(*, kind: int = 2, code: int = 2, unix_ns: int = UNIX_NS, **attributes: str | int) -> otlp_pb2.Span:
    named = {name.replace("_", "."): value for name, value in attributes.items()}
    return otlp_pb2.Span(
        kind=kind, start_time_unix_nano=unix_ns, status=otlp_pb2.Status(code=code), attributes=pairs(named)
    )


def event(name: str, *, unix_ns: int = UNIX_NS, **attributes: str | int) -> otlp_pb2.LogRecord:
    named = {key.replace("_", "."): value for key, value in attributes.items()}
    return otlp_pb2.LogRecord(event_name=name.encode(), time_unix_nano=unix_ns, attributes=pairs(named))


def test_a_failed_server_span_is_an_error_of_its_person(rules: DecodeRules) -> None:
    vocabulary = Vocabulary()
    row = sample(decode_span(span(user_id="anna", url_path="/cart/17"), V2, rules, vocabulary, hash_user))
    assert row["kind"] == SampleKind.SPAN_ERROR
    assert row["error"]
    assert row["user"] == hash_user(b"anna")
    assert (row["version"], row["segment"], row["bucket"]) == (V2, UNKNOWN, NO_BUCKET)


@pytest.mark.parametrize(("kind", "code"), [(2, 0), (2, 1), (3, 2), (1, 2), (0, 2)])
def test_any_other_span_says_nothing_against_the_service(kind: int, code: int, rules: DecodeRules) -> None:
    assert decode_span(span(kind=kind, code=code), V2, rules, Vocabulary(), hash_user) is Drop.NOT_A_SERVER_ERROR


def test_a_failed_span_of_nobody_is_kept(rules: DecodeRules) -> None:
    assert sample(decode_span(span(), V1, rules, Vocabulary(), hash_user))["user"] == 0


def test_a_service_may_leave_spans_out(rules: DecodeRules) -> None:
    deaf = dataclasses.replace(rules, span_status=False)
    assert decode_span(span(), V1, deaf, Vocabulary(), hash_user) is Drop.IGNORED_BY_RULE


def test_a_span_of_no_time_is_dropped(rules: DecodeRules) -> None:
    assert decode_span(span(unix_ns=0), V1, rules, Vocabulary(), hash_user) is Drop.NO_TIME
    assert decode_span(span(unix_ns=2**64 - 1), V1, rules, Vocabulary(), hash_user) is Drop.NO_TIME


def test_a_feature_is_a_sample(rules: DecodeRules) -> None:
    vocabulary = Vocabulary()
    used = event("feature.used", feature_name="wishlist", user_id="anna")
    row = sample(decode_event(used, V2, rules, vocabulary, hash_user))
    assert row["kind"] == SampleKind.FEATURE
    assert vocabulary.labels[row["label"]] == "feature wishlist"
    assert row["user"] == hash_user(b"anna")
    assert not row["error"]
    other = event("feature.used", feature_name="compare 17 for anna@example.com", user_id="anna")
    row = sample(decode_event(other, V2, rules, vocabulary, hash_user))
    assert vocabulary.labels[row["label"]] == "feature compare * for *"


@pytest.mark.parametrize(
    ("record", "label"),
    [
        (event("page.view", url_path="/product/17?x=1", user_id="anna"), "page /product/*"),
        (event("app.screen.view", app_screen_name="Home", user_id="anna"), "screen Home"),
        (event("", event_name="page.view", url_path="/", user_id="anna"), "page /"),
        (event("browser.navigation", url_full="https://shop.example/cart?coupon=1#top", user_id="anna"), "page /cart"),
        (event("browser.page_view", url_full="https://shop.example", user_id="anna"), "page /"),
        (event("browser.page_view", http_route="/users/{id}/orders/:order", user_id="anna"), "page /users/*/orders/*"),
        (event("page.view", url_path="/users/anna@example.com/mail", user_id="anna"), "page /users/*/mail"),
        (event("page.view", url_path="/find/anna%40example.com/red%20shoes", user_id="anna"), "page /find/*/*"),
    ],
)
def test_a_page_seen_is_a_sample(record: otlp_pb2.LogRecord, label: str, rules: DecodeRules) -> None:
    vocabulary = Vocabulary()
    row = sample(decode_event(record, V1, rules, vocabulary, hash_user))
    assert row["kind"] == SampleKind.PAGE
    assert vocabulary.labels[row["label"]] == label


UUID = "f9bc787d-ff05-48ad-90e1-fca1d46130b3"


@pytest.mark.parametrize(
    ("name", "attributes", "label"),
    [
        ("app.widget.click", {"app.widget.id": "buy"}, "click buy"),
        ("app.widget.click", {"app.widget.id": UUID, "app.widget.name": "Clear Cart"}, "click Clear Cart"),
        ("app.widget.click", {"app.widget.name": "mail anna@example.com"}, "click mail *"),
        ("app.widget.click", {"app.widget.id": "order-1829"}, "click order-*"),
        ("browser.user_action.click", {"browser.css_selector": "#main > #buy"}, "click buy"),
        ("browser.user_action.click", {"browser.tag_name": "BUTTON"}, "click BUTTON"),
        ("app.screen.click", {"app.screen.name": "Cart"}, "click Cart"),
    ],
)
def test_a_click_is_a_sample(name: str, attributes: dict[str, str | int], label: str, rules: DecodeRules) -> None:
    record = event(name)
    record.attributes.extend(pairs({"user.id": "anna", **attributes}))
    vocabulary = Vocabulary()
    row = sample(decode_event(record, V1, rules, vocabulary, hash_user))
    assert row["kind"] == SampleKind.CLICK
    assert vocabulary.labels[row["label"]] == label
    assert not row["error"]


def traced(name: str, **attributes: str) -> otlp_pb2.Span:
    given: dict[str, str | int] = {"user.id": "anna", **attributes}
    return otlp_pb2.Span(name=name.encode(), kind=1, start_time_unix_nano=UNIX_NS, attributes=pairs(given))


@pytest.mark.parametrize(
    ("span", "kind", "label"),
    [
        (traced("click", event_type="click", target_xpath='//*[@id="buy"]'), SampleKind.CLICK, "click buy"),
        (
            traced("click", event_type="click", target_element="BUTTON", target_xpath="//html/body/div[2]/button"),
            SampleKind.CLICK,
            "click //html/body/div[*]/button",
        ),
        (traced("documentLoad", **{"http.url": "https://shop.example/product/7"}), SampleKind.PAGE, "page /product/*"),
    ],
)
def test_what_a_browsers_instrumentation_traces_is_a_step(
    span: otlp_pb2.Span, kind: SampleKind, label: str, rules: DecodeRules
) -> None:
    vocabulary = Vocabulary()
    row = sample(decode_span(span, V1, rules, vocabulary, hash_user))
    assert row["kind"] == kind
    assert vocabulary.labels[row["label"]] == label


@pytest.mark.parametrize(
    ("record", "drop"),
    [
        (event("", url_path="/", user_id="anna"), Drop.NOT_AN_EVENT),
        (event("browser.other", user_id="anna"), Drop.NOT_AN_EVENT),
        (event("exception", user_id="anna"), Drop.EXCEPTION),
        (event("feature_flag.evaluation", user_id="anna"), Drop.FLAG_EVALUATION),
        (event("app.widget.click", user_id="anna"), Drop.NO_LABEL),
        (event("app.widget.click", app_widget_id="4711", user_id="anna"), Drop.NO_LABEL),
        (event("feature.used", user_id="anna"), Drop.NO_LABEL),
        (event("page.view", user_id="anna"), Drop.NO_LABEL),
        (event("page.view", url_path="/"), Drop.NO_USER),
        (event("page.view", url_path="/", user_id="anna", unix_ns=0), Drop.NO_TIME),
    ],
)
def test_an_event_that_cannot_be_placed_is_dropped(record: otlp_pb2.LogRecord, drop: Drop, rules: DecodeRules) -> None:
    assert decode_event(record, V1, rules, Vocabulary(), hash_user) is drop


def test_an_event_without_a_time_happened_when_it_was_observed(rules: DecodeRules) -> None:
    record = event("page.view", url_path="/", user_id="anna", unix_ns=0)
    record.observed_time_unix_nano = UNIX_NS
    assert sample(decode_event(record, V1, rules, Vocabulary(), hash_user))["start_unix_ns"] == UNIX_NS


@pytest.mark.parametrize(
    ("attributes", "key"),
    [
        ({"user_id": "a", "enduser_pseudo_id": "b", "session_id": "c"}, b"a"),
        ({"enduser_id": "e", "enduser_pseudo_id": "b", "session_id": "c"}, b"e"),
        ({"enduser_pseudo_id": "b", "session_id": "c"}, b"b"),
        ({"user_id": "", "session_id": "c"}, b"c"),
        ({"user_id": 17}, b"17"),
    ],
)
def test_a_person_is_named_by_the_first_attribute_that_is_there(
    attributes: dict[str, str | int], key: bytes, rules: DecodeRules
) -> None:
    assert sample(decode_span(span(**attributes), V1, rules, Vocabulary(), hash_user))["user"] == hash_user(key)
