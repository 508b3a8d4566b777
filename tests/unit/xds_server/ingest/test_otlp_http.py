"""OTLP over HTTP, served for real on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import io
import json
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.rpc import status_pb2

from analysis.sample import UNKNOWN, SampleKind
from tests.waiting import until
from xds_server.clock import Clock
from xds_server.http_requests import Pace
from xds_server.ingest import Ingest
from xds_server.ingest.browsers import MAX_EVENTS, MAX_LABELS
from xds_server.ingest.otlp_http import JSON, MAX_BROWSER_BYTES, MAX_BYTES, PROTOBUF, OtlpHttp
from xds_server.mesh import CookieIdentity, HeaderIdentity, Mesh
from xds_server.pb import otlp_pb2
from xds_server.web.app import create_app
from xds_server.web.server import listen, serve

UNIX_NS = 1_700_000_000_000_000_000
ORIGIN = "https://shop.example"
RECORDED = json.loads(Path(__file__).with_name("otlp_sdk.json").read_text())


@pytest.fixture
def ingest(mesh: Mesh, clock: Clock) -> Ingest:
    return Ingest(mesh, user_hash_key=b"secret", queue_limit=4_000, clock=clock)


@pytest.fixture
def open_mesh(mesh: Mesh) -> Mesh:
    """Browsers may send, and its people are known by a cookie unless a header says who they are."""
    identity = (HeaderIdentity(header="x-user-id"), CookieIdentity(cookie="sid", ttl_s=3_600))
    shop = dataclasses.replace(mesh.services["shop"], identity=identity)
    return dataclasses.replace(mesh, services={**mesh.services, "shop": shop}, browsers=frozenset({ORIGIN}))


@dataclasses.dataclass
class Said:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Send = Callable[..., Awaitable[Said]]


def talk(otlp: OtlpHttp, scenario: Callable[[Send], Awaitable[None]]) -> None:
    """Serve, and let a client say what it likes."""

    async def go() -> None:
        stop = asyncio.Event()
        listener = listen("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = create_app(not_ready=lambda: None, metrics=lambda: b"", more=otlp.routes())

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as client:
            tasks.create_task(serve(app, listener, stop))

            async def send(path: str = "/v1/logs", body: Any = b"", *, method: str = "POST", **headers: str) -> Said:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                async with client.request(method, url + path, data=body, headers=named) as answer:
                    return Said(answer.status, answer.headers, await answer.read())

            try:
                await scenario(send)
            finally:
                stop.set()

    asyncio.run(go())


def attributes(**named: str) -> list[dict[str, Any]]:
    return [{"key": name.replace("_", "."), "value": {"stringValue": value}} for name, value in named.items()]


def record(name: str = "page.view", *, unix_ns: int = UNIX_NS, **named: str) -> dict[str, Any]:
    return {"timeUnixNano": str(unix_ns), "eventName": name, "attributes": attributes(**named)}


def logs(*records: dict[str, Any], service: str = "shop", version: str = "v2") -> bytes:
    resource = {"attributes": attributes(service_name=service, service_version=version)}
    return json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}).encode()


def spans(*members: dict[str, Any]) -> bytes:
    resource = {"attributes": attributes(service_name="shop")}
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": members}]}]}).encode()


ERROR_SPAN = {
    "traceId": "5B8EFFF798038103D269B633813FC60C",
    "spanId": "eee19b7ec3c1b174",
    "name": "GET /",
    "kind": 2,
    "startTimeUnixNano": str(UNIX_NS),
    "status": {"code": "STATUS_CODE_ERROR"},
    "attributes": attributes(user_id="anna"),
}


# --- from servers


def test_what_the_sdk_sends_is_taken_in_protobuf_plain_or_packed(ingest: Ingest) -> None:
    async def scenario(send: Send) -> None:
        for path, messages in (("/v1/traces", RECORDED["traces"]), ("/v1/logs", RECORDED["logs"])):
            for i, message in enumerate(map(bytes.fromhex, messages)):
                packed = {"content_encoding": "gzip"} if i % 2 else {}
                body = gzip.compress(message) if i % 2 else message
                said = await send(path, body, content_type=PROTOBUF, **packed)
                assert (said.status, said.headers["content-type"], said.body) == (200, PROTOBUF, b"")

    talk(OtlpHttp(ingest=ingest), scenario)
    assert ingest.accepted() == {"shop": 5}


def test_json_is_taken_as_otlp_writes_it(ingest: Ingest) -> None:
    async def scenario(send: Send) -> None:
        said = await send(
            "/v1/logs", logs(record(url_path="/cart", user_id="anna")), content_type=f"{JSON};charset=utf-8"
        )
        assert (said.status, said.headers["content-type"], said.json) == (200, JSON, {})
        said = await send(
            "/v1/traces", spans(ERROR_SPAN, {**ERROR_SPAN, "kind": "SPAN_KIND_CLIENT"}), content_type=JSON
        )
        assert (said.status, said.json) == (200, {})

    talk(OtlpHttp(ingest=ingest), scenario)
    page, error = ingest.drain()["shop"].rows
    assert (page["kind"], error["kind"]) == (SampleKind.PAGE, SampleKind.SPAN_ERROR)
    assert page["user"] == error["user"] != 0
    assert page["version"] == 1
    assert ingest.counts["span", "not_a_server_error"] == 1


def test_an_empty_request_is_a_success(ingest: Ingest) -> None:
    async def scenario(send: Send) -> None:
        assert (await send("/v1/logs", b"{}", content_type=JSON)).json == {}
        assert (await send("/v1/traces", b"", content_type=PROTOBUF)).status == 200

    talk(OtlpHttp(ingest=ingest), scenario)


def test_what_the_sender_did_wrong_is_told_and_what_nobody_needs_is_not(ingest: Ingest) -> None:
    wrong, unneeded = record(unix_ns=1, user_id="a", url_path="/"), record("gc.run")

    async def scenario(send: Send) -> None:
        said = await send("/v1/logs", logs(wrong, wrong, unneeded), content_type=JSON)
        told = said.json["partialSuccess"]
        assert (said.status, told["rejectedLogRecords"]) == (200, "2")
        assert told["errorMessage"].startswith("2 stale")
        said = await send("/v1/logs", logs(unneeded, wrong, service="other"), content_type=JSON)
        assert (said.status, said.json) == (200, {})
        message = otlp_pb2.ExportTraceServiceRequest()
        message.resource_spans.add().resource.attributes.add(
            key=b"service.name", value=otlp_pb2.AnyValue(string_value=b"shop")
        )
        message.resource_spans[0].scope_spans.add().spans.add(kind=2, status=otlp_pb2.Status(code=2))
        said = await send("/v1/traces", message.SerializeToString(), content_type=PROTOBUF)
        told = otlp_pb2.ExportServiceResponse.FromString(said.body).partial_success
        assert (said.status, told.rejected) == (200, 1)
        assert told.error_message.startswith(b"1 no_time")

    talk(OtlpHttp(ingest=ingest), scenario)


@pytest.mark.parametrize("content_type", [JSON, PROTOBUF])
def test_what_cannot_be_read_is_refused_with_a_status_and_counted(content_type: str, ingest: Ingest) -> None:
    async def scenario(send: Send) -> None:
        for body in (b"\xff", b"[]" if content_type == JSON else b"\x0a\xff"):
            said = await send("/v1/logs", body, content_type=content_type)
            assert (said.status, said.headers["content-type"]) == (400, content_type)
            if content_type == JSON:
                assert said.json == {"message": "not an OTLP export request"}
            else:
                assert status_pb2.Status.FromString(said.body).message == "not an OTLP export request"

    talk(OtlpHttp(ingest=ingest), scenario)
    assert ingest.counts["event", "malformed"] == 2


def test_other_requests_are_refused_each_with_its_status(ingest: Ingest) -> None:
    otlp = OtlpHttp(ingest=ingest)

    async def scenario(send: Send) -> None:
        assert (await send("/v1/logs", b"{}", content_type="text/plain")).status == 415
        assert (await send("/v1/logs", b"{}", content_type=JSON, content_encoding="br")).status == 415
        assert (await send("/v1/metrics", b"{", content_type=JSON)).status == 400
        assert (await send("/v1/metrics", b"", content_type=PROTOBUF)).status == 200
        assert (await send("/v1/logs", method="GET")).status == 405
        assert (await send("/v1/logs", io.BytesIO(b"x" * (MAX_BYTES + 1)), content_type=JSON)).status == 413
        bomb = gzip.compress(b"x" * (MAX_BYTES + 1))
        assert (await send("/v1/logs", bomb, content_type=JSON, content_encoding="gzip")).status == 413
        for damaged in (b"{}", gzip.compress(b"{}")[:-4], gzip.compress(b"{}") * 2):
            assert (await send("/v1/logs", damaged, content_type=JSON, content_encoding="gzip")).status == 400

    talk(otlp, scenario)
    assert otlp.answers == {"415": 2, "200": 1, "413": 2, "400": 4}


def test_at_the_end_exporters_are_told_to_come_again(ingest: Ingest) -> None:
    async def scenario(send: Send) -> None:
        otlp.until.set()
        said = await send("/v1/logs", b"{}", content_type=JSON)
        assert (said.status, said.headers["retry-after"]) == (503, "1")

    otlp = OtlpHttp(ingest=ingest)
    talk(otlp, scenario)


def test_only_so_many_are_read_at_once(ingest: Ingest) -> None:
    async def scenario(send: Send) -> None:
        async def slowly() -> Any:
            yield b"{"
            await over.wait()
            yield b"}"

        over = asyncio.Event()
        slow = [asyncio.create_task(send("/v1/logs", slowly(), content_type=JSON)) for _ in range(16)]
        await until(lambda: otlp._under_way == 16)
        said = await send("/v1/logs", b"{}", content_type=JSON)
        assert (said.status, said.headers["retry-after"]) == (503, "1")
        over.set()
        assert {said.status for said in await asyncio.gather(*slow)} == {200}

    otlp = OtlpHttp(ingest=ingest)
    talk(otlp, scenario)


def test_where_certificates_are_asked_for_http_brings_none(ingest: Ingest, open_mesh: Mesh) -> None:
    async def scenario(send: Send) -> None:
        assert (await send("/v1/traces", spans(ERROR_SPAN), content_type=JSON)).status == 403
        ingest.adopt(open_mesh)
        assert (await send("/v1/logs", logs(), content_type=JSON, origin=ORIGIN)).status == 200

    talk(OtlpHttp(ingest=ingest, asks_certificates=True), scenario)
    assert ingest.accepted() == {"shop": 0}


# --- from browsers


def test_no_page_may_send_unless_the_mesh_lists_its_origin(ingest: Ingest, open_mesh: Mesh) -> None:
    async def scenario(send: Send) -> None:
        for origin in (ORIGIN, "null", "http://127.0.0.1:8080"):
            said = await send("/v1/logs", logs(record(user_id="a", url_path="/")), content_type=JSON, origin=origin)
            assert said.status == 403
            assert "access-control-allow-origin" not in said.headers
            assert (await send("/v1/logs", method="OPTIONS", origin=origin)).status == 403
        ingest.adopt(open_mesh)
        assert (await send("/v1/logs", method="OPTIONS", origin="https://evil.example")).status == 403
        asked = {"access_control_request_method": "POST", "access_control_request_headers": "content-type"}
        said = await send("/v1/logs", method="OPTIONS", origin=ORIGIN, **asked)
        assert (said.status, said.body) == (204, b"")
        assert said.headers["access-control-allow-origin"] == ORIGIN
        assert said.headers["access-control-allow-credentials"] == "true"
        assert said.headers["access-control-allow-methods"] == "POST"
        assert "content-type" in said.headers["access-control-allow-headers"]
        assert said.headers["vary"] == "Origin"
        said = await send("/v1/logs", b"?", content_type=JSON, origin=ORIGIN)
        assert said.status == 400
        assert said.headers["access-control-allow-origin"] == ORIGIN  # the page may read what was wrong

    talk(OtlpHttp(ingest=ingest), scenario)
    assert ingest.accepted() == {"shop": 0}


COOKIE = "a=b; sid=anna; sid_hold=1"


def of_browser(ingest: Ingest, *bodies: bytes, cookies: Sequence[str] = (COOKIE,), path: str = "/v1/logs") -> Any:
    """Let browsers with these cookies send these bodies in turn; the last answer."""
    answers: list[Said] = []

    async def scenario(send: Send) -> None:
        for body, cookie in zip(bodies, cycle(cookies), strict=False):
            answers.append(await send(path, body, content_type=JSON, origin=ORIGIN, cookie=cookie))

    talk(OtlpHttp(ingest=ingest), scenario)
    return answers[-1].json


def test_a_browser_speaks_of_the_person_whose_cookie_it_has_and_of_nobody_else(ingest: Ingest, open_mesh: Mesh) -> None:
    ingest.adopt(open_mesh)
    assert (
        of_browser(ingest, logs(record(user_id="ben", url_path="/"), record("app.widget.click", app_widget_id="buy")))
        == {}
    )
    rows = ingest.drain()["shop"].rows
    assert set(rows["user"]) == {ingest._hash_user(b"anna")}
    assert set(rows["version"]) == {UNKNOWN}  # what it says of that is not believed either
    assert ("event", "no_version") not in ingest.counts


@pytest.mark.parametrize("cookie", ["", "sid=", "other=anna", "sid=" + "x" * 300])
def test_a_browser_without_a_cookie_is_nobody(cookie: str, ingest: Ingest, open_mesh: Mesh) -> None:
    ingest.adopt(open_mesh)
    of_browser(ingest, logs(record(user_id="ben", url_path="/")), cookies=[cookie])
    assert ingest.counts["event", "no_user"] == 1


def test_a_browser_does_not_say_that_a_server_failed(ingest: Ingest, open_mesh: Mesh) -> None:
    ingest.adopt(open_mesh)
    click = {
        **ERROR_SPAN,
        "kind": 1,
        "status": {},
        "attributes": attributes(event_type="click", target_xpath="//a[@id='b']"),
    }
    click["attributes"] = [
        {"key": "event_type", "value": {"stringValue": "click"}},
        {"key": "target_xpath", "value": {"stringValue": "//a[@id='b']"}},
    ]
    told = of_browser(ingest, spans(ERROR_SPAN, click), path="/v1/traces")["partialSuccess"]
    assert told["rejectedSpans"] == "1"
    assert list(ingest.drain()["shop"].rows["kind"]) == [SampleKind.CLICK]
    assert ingest.counts["span", "from_browser"] == 1


@pytest.mark.parametrize(
    ("off_by_s", "taken_for_s"),
    [(-3 * 86_400, 0), (-11, 0), (-9, -9), (0, 0), (1, 1), (2, 0), (3 * 86_400, 0)],
)
def test_a_browsers_clock_is_believed_only_where_it_may_be_right(
    off_by_s: int, taken_for_s: int, ingest: Ingest, open_mesh: Mesh
) -> None:
    """What lies between the events of one message is believed in any case."""
    ingest.adopt(open_mesh)
    then = UNIX_NS + off_by_s * 10**9
    of_browser(ingest, logs(record(unix_ns=then - 2 * 10**9, url_path="/"), record(unix_ns=then, url_path="/cart")))
    seconds = (ingest.drain()["shop"].rows["start_unix_ns"] - UNIX_NS) / 10**9
    assert list(seconds) == [taken_for_s - 2, taken_for_s]


def test_one_person_says_only_so_much(ingest: Ingest, open_mesh: Mesh) -> None:
    ingest.adopt(open_mesh)
    many = logs(*[record(url_path="/")] * 100)
    told = of_browser(ingest, *[many] * (MAX_EVENTS // 100 + 1))["partialSuccess"]
    assert told["rejectedLogRecords"] == "100"
    assert ingest.counts["event", "too_many"] == 100
    assert of_browser(ingest, many, cookies=["sid=ben"]) == {}


def test_browsers_fill_half_of_the_queue_at_most(ingest: Ingest, open_mesh: Mesh) -> None:
    ingest.adopt(open_mesh)
    many = logs(*[record(url_path="/")] * 100)
    of_browser(ingest, *[many] * 30, cookies=[f"sid={person}" for person in range(30)])
    assert ingest.depths() == {"shop": 2_001}
    assert ingest.dropped() == {"shop": 0}


def test_browsers_cannot_fill_up_the_vocabulary(ingest: Ingest, open_mesh: Mesh) -> None:
    ingest.adopt(open_mesh)
    words = (f"{'abcdefghij'[i // 100 % 10]}{'abcdefghij'[i // 10 % 10]}{'abcdefghij'[i % 10]}" for i in range(1_000))
    made_up = [record("app.widget.click", app_widget_id=word) for word in words]
    bodies = [logs(*made_up[i : i + 100]) for i in range(0, 1_000, 100)]
    of_browser(ingest, *bodies, cookies=[f"sid={i}" for i in range(10)])
    assert ingest.labels()["shop"] <= MAX_LABELS + 10
    assert ingest.labels_overflow()["shop"] == 1_000 - MAX_LABELS


def test_a_browsers_request_is_small_and_there_are_only_so_many(ingest: Ingest, open_mesh: Mesh) -> None:
    ingest.adopt(open_mesh)

    async def scenario(send: Send) -> None:
        big = b" " * MAX_BROWSER_BYTES + b"{}"
        assert (await send("/v1/logs", big, content_type=JSON, origin=ORIGIN)).status == 413
        now[0] = 7.0
        said = [await send("/v1/logs", b"{}", content_type=JSON, origin=ORIGIN) for _ in range(1_001)]
        assert [each.status for each in said[-2:]] == [200, 429]
        assert said[-1].headers["retry-after"] == "1"
        now[0] = 8.0
        assert (await send("/v1/logs", b"{}", content_type=JSON, origin=ORIGIN)).status == 200

    now = [1.0]
    talk(OtlpHttp(ingest=ingest, pace=Pace(clock=lambda: now[0])), scenario)
