"""The installed `serinus run` and what applications, browsers and Envoys tell it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest

from tests import chromium
from xds_server.ingest.otlp import LOGS, TRACES
from xds_server.pb import otlp_pb2

MESH = """
services:
  shop:
    domains: ["*"]
    port: 10000
    identity: [{{header: x-user-id}}, {{cookie: {{name: sid}}}}]
    session: {{gap: 2s, judge_after: {{error_rate: 1s, latency_p95: 1s, anomaly: 1s}}}}
    versions:
      v1: {{endpoints: ["127.0.0.1:{v1}"]}}
      v2: {{endpoints: ["127.0.0.1:{v2}"]}}
    baseline: v1
    rollout: {{interval: 500ms, warmup: 1h, min_dwell: 1h}}
gateways:
  edge: {{listen: "127.0.0.1:{edge}"}}
browsers: ["http://127.0.0.1:{edge}"]
{more}
"""
ENTRIES = "serinus_ingest_entries_total"

PERSONAL = (
    "anna.schmidt",
    "a-schmidt",
    "4915112345678",
    "DE89370400440532013000",
    "secret-token-of-anna",
    "Anna Schmidt",
)
"""What must never be seen again: parts of an e-mail address, a name, a telephone and an account number, a key."""

MAIL, PHONE, IBAN, KEY, NAME = "anna.schmidt@a-schmidt.example", "+4915112345678", *PERSONAL[3:]
PATH = f"/users/{MAIL}/calls/{PHONE}?account={IBAN}&token={KEY}"


def write_mesh(place: Any, *, edge: int, v1: int = 1, v2: int = 1, more: str = "") -> None:
    (place.directory / "mesh.yaml").write_text(MESH.format(edge=edge, v1=v1, v2=v2, more=more))


def value(text: str) -> otlp_pb2.AnyValue:
    return otlp_pb2.AnyValue(string_value=text.encode())


def personal_attributes() -> dict[str, str]:
    """Personal data wherever an attribute can hold it."""
    return {
        "user.id": KEY, "enduser.id": MAIL, "enduser.pseudo.id": KEY, "session.id": KEY, "user.email": MAIL,
        "user.full_name": NAME, "url.path": PATH, "url.full": f"https://{KEY}@shop.example{PATH}#{KEY}",
        "url.query": f"account={IBAN}", "http.route": f"/users/{MAIL}", "client.address": "203.0.113.77",
        "exception.message": f"no account {IBAN} of {NAME}", "feature_flag.context.id": KEY, MAIL: MAIL,
        "app.widget.name": f"call {PHONE}", "app.widget.id": f"mail-{MAIL}", "app.screen.name": MAIL,
        "feature.name": f"order of {MAIL}", "event_type": "click", "target_xpath": f'//*[@id="{MAIL}"]',
    }  # fmt: skip


EVENTS = (
    "page.view", "browser.navigation", "app.screen.view", "app.widget.click", "browser.user_action.click", "exception",
    "feature.used", "feature_flag.evaluation", f"event of {MAIL}",
)  # fmt: skip


def in_json(service: str = "shop") -> tuple[bytes, bytes]:
    """Spans and events full of personal data."""
    pairs = [{"key": key, "value": {"stringValue": text}} for key, text in personal_attributes().items()]
    now = str(time.time_ns())
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}, *pairs]}
    spans = [
        {
            "name": MAIL,
            "kind": kind,
            "startTimeUnixNano": now,
            "status": {"code": 2, "message": NAME},
            "attributes": pairs,
        }
        for kind in (0, 1, 2, 3)
    ]
    records = [
        {"eventName": name, "timeUnixNano": now, "body": {"stringValue": NAME}, "attributes": pairs} for name in EVENTS
    ]
    return (
        json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}).encode(),
        json.dumps({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}).encode(),
    )


def in_protobuf() -> tuple[bytes, bytes]:
    pairs = [otlp_pb2.KeyValue(key=key.encode(), value=value(text)) for key, text in personal_attributes().items()]
    resource = otlp_pb2.Resource(attributes=[otlp_pb2.KeyValue(key=b"service.name", value=value("shop")), *pairs])
    now = time.time_ns()
    spans = [
        otlp_pb2.Span(
            name=MAIL.encode(), kind=kind, start_time_unix_nano=now, attributes=pairs, status=otlp_pb2.Status(code=2)
        )
        for kind in (1, 2)
    ]
    records = [otlp_pb2.LogRecord(event_name=name.encode(), time_unix_nano=now, attributes=pairs) for name in EVENTS]
    traces, logs = otlp_pb2.ExportTraceServiceRequest(), otlp_pb2.ExportLogsServiceRequest()
    traces.resource_spans.add(resource=resource).scope_spans.add().spans.extend(spans)
    logs.resource_logs.add(resource=resource).scope_logs.add().log_records.extend(records)
    return traces.SerializeToString(), logs.SerializeToString()


def everything_in(directory: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_nothing_personal_is_in_the_log_the_metrics_or_the_data_directory(place, rig):
    async def scenario() -> None:
        edge = place.free_port()
        async with place.versions("v1", "v2") as shop:
            write_mesh(place, edge=edge, v1=shop[0].port, v2=shop[1].port)
            async with place.serinus("--log-level", "debug") as serinus, aiohttp.ClientSession() as client:
                async with rig.envoy(place.mesh(), "edge", serinus.grpc):
                    await serinus.begin()
                    for headers in ({"x-user-id": KEY, "referer": PATH}, {"cookie": f"sid={KEY}; name={NAME}"}):
                        for path in (PATH, f"/mail/{MAIL}", "/"):
                            async with client.get(f"http://127.0.0.1:{edge}{path}", headers=headers) as answer:
                                await answer.read()
                    async with grpc.aio.insecure_channel(f"127.0.0.1:{serinus.otlp}") as channel:
                        for service, message in zip((TRACES, LOGS), in_protobuf(), strict=True):
                            await channel.unary_unary(f"/{service}/Export")(message)
                    headers = {"content-type": "application/json", "cookie": f"sid={KEY}"}
                    for body in (*in_json(), *in_json(service=MAIL)):
                        for origin in (f"http://127.0.0.1:{edge}", f"https://{KEY}.example"):
                            for path in ("/v1/traces", "/v1/logs"):
                                url = f"http://127.0.0.1:{serinus.http}{path}?token={KEY}"
                                async with client.post(url, data=body, headers={**headers, "origin": origin}) as answer:
                                    told = await answer.text()
                                assert not [part for part in PERSONAL if part in told]
                    await asyncio.sleep(4)  # sessions are judged and journalled
                    entries = await serinus.metrics(ENTRIES)
                    assert entries["accepted", "event"] >= 10
                    assert entries["accepted", "span"] >= 2
                    assert entries["accepted", "access_log"] >= 6
                    assert entries["from_browser", "span"] == 1
                    shown = await serinus.get("/metrics") + json.dumps([await serinus.shop(), await serinus.history()])
                await serinus.end()
                kept = everything_in(serinus.data_dir) + serinus.log.read_bytes() + shown.encode()
                assert len(kept) > 10_000
                assert not [part for part in PERSONAL if part.encode() in kept]

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.skipif(chromium.BINARY is None, reason="no Chromium here (apt-get install chromium)")
def test_a_browsers_clicks_arrive_at_a_running_control_plane(place, rig):
    """What becomes of them there is shown in `tests/envoy/test_browser.py`."""
    page = (
        b"<!doctype html><link rel=icon href=data:,><button id=buy>Buy</button>"
        b'<script src="/beacon.js" data-to="http://127.0.0.1:%d" data-service="shop" async></script>'
    )
    beacon = (Path(chromium.__file__).parents[1] / "xds_server" / "demo" / "beacon.js").read_bytes()

    async def scenario() -> None:
        edge, port = place.free_port(), place.free_port()
        write_mesh(place, edge=edge, v1=port, v2=port)
        async with place.serinus() as serinus, chromium.chromium() as browser:

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                head = await reader.readuntil(b"\r\n\r\n")
                body = beacon if b"/beacon.js" in head.split(b"\r\n")[0] else page % serinus.http
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
                )
                writer.close()

            server = await asyncio.start_server(answer, "127.0.0.1", port)
            async with server, rig.envoy(place.mesh(), "edge", serinus.grpc):
                person = await browser.person()
                await person.open(f"http://127.0.0.1:{edge}/")
                await person.click("#buy")

                async def arrived() -> bool:
                    return (await serinus.metrics(ENTRIES)).get(("accepted", "event")) == 2

                await rig.eventually(arrived, "the page seen, and the click")
                assert person.errors == []
                assert (await serinus.metrics("serinus_otlp_http_answers_total"))["200",] >= 1

    asyncio.run(scenario())
