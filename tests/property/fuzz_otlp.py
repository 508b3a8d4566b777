"""Lets atheris look for bytes that make reading OTLP raise: `python tests/property/fuzz_otlp.py CORPUS [-runs=N …]`.

Coverage of `xds_server.ingest` leads it. What raises ends the process with the bytes in a file `crash-…`.
"""

from __future__ import annotations

import json
import sys
from collections import deque

import atheris

with atheris.instrument_imports(include=["xds_server.ingest"]):
    from xds_server.ingest import Ingest
    from xds_server.ingest.browsers import cookie_in
    from xds_server.ingest.otlp_json import logs_from_json, traces_from_json

from google.protobuf.message import DecodeError

from xds_server.ingest.otlp import EVENTS, GAUGES, SPANS
from xds_server.pb import otlp_pb2
from xds_server.settings import parse_mesh

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
INGEST = Ingest(MESH, user_hash_key=b"secret", queue_limit=100)


def take(data: bytes) -> None:
    """The first byte chooses the signal, the encoding, and whether it comes from a browser."""
    if not data:
        return
    chosen, message = data[0], data[1:]
    signal = GAUGES if chosen & 16 else SPANS if chosen & 1 else EVENTS
    read = signal.from_json if chosen & 2 else signal.from_protobuf
    jar = [b"sid=" + message[:50]] if chosen & 4 else None
    cookie_in([message], b"sid")
    try:
        request = read(message)
    except (DecodeError, ValueError):
        INGEST.unreadable(signal.source)
        return
    deque(signal.take(INGEST, request, jar), maxlen=0)
    if INGEST.labels()["shop"] > 512:
        raise AssertionError
    if chosen & 8:
        INGEST.drain()
        INGEST.drain_gauged()


def seeds() -> list[bytes]:
    """One message of each kind, to begin with."""
    pairs = [
        {"key": key, "value": {"stringValue": text}}
        for key, text in {
            "service.name": "shop", "user.id": "a", "url.full": "http://a/b?c", "event_type": "click",
            "app.widget.id": "buy", "target_xpath": '//*[@id="b"]', "feature.name": "f@g 7", "event.name": "page.view",
        }.items()
    ]  # fmt: skip
    pairs.append({"key": "n", "value": {"intValue": "-7"}})
    logs, spans = {}, {}
    record = {"timeUnixNano": "1700000000000000000", "eventName": "app.widget.click", "attributes": pairs}
    span = {"name": "documentLoad", "kind": 1, "startTimeUnixNano": 17e17, "status": {"code": 2}, "attributes": pairs}
    logs["resourceLogs"] = [{"resource": {"attributes": pairs}, "scopeLogs": [{"logRecords": [record]}]}]
    spans["resourceSpans"] = [{"resource": {"attributes": pairs}, "scopeSpans": [{"spans": [span]}]}]
    in_json = [json.dumps(logs).encode(), json.dumps(spans).encode()]
    requests: list[otlp_pb2.ExportLogsServiceRequest | otlp_pb2.ExportTraceServiceRequest] = [
        logs_from_json(in_json[0]),
        traces_from_json(in_json[1]),
    ]
    return [
        bytes([browser + 2 * is_json + is_spans]) + message
        for browser in (0, 4)
        for is_json, messages in ((1, in_json), (0, [request.SerializeToString() for request in requests]))
        for is_spans, message in enumerate(messages)
    ]


if __name__ == "__main__":
    from pathlib import Path

    corpus = Path(sys.argv[1])
    for i, seed in enumerate(seeds()):
        (corpus / f"seed-{i}").write_bytes(seed)
    atheris.Setup(sys.argv, take)
    atheris.Fuzz()
