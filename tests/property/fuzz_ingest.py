"""A target for Atheris: whatever arrives as access log, span or event is counted by reason and never raised.

`python -m tests.property.fuzz_ingest -max_total_time=60 [CORPUS]`; libFuzzer's options. The first byte says as what the
others arrive.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["xds_server.ingest", "xds_server.stamp", "analysis.sample"]):
    from xds_server.ingest import Ingest, Reporter
    from xds_server.ingest.entries import length

from xds_server.settings import parse_mesh

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    session: {goal: {path: /done}}
    versions: {v1: {endpoints: ["127.0.0.1:9001"]}}
    baseline: v1
"""
REPORTER = Reporter(node="edge", role=b"sidecar")
INGEST = Ingest(parse_mesh(MESH, "shop.yaml"), user_hash_key=b"secret", queue_limit=100)


def malformed_n() -> int:
    """What could not be read as a whole counts once."""
    return INGEST.counts.get(("access_log", "malformed"), 0)


def one(data: bytes) -> None:
    kind, message = data[:1], data[1:]
    before, malformed_before = sum(INGEST.counts.values()), malformed_n()
    match ord(kind or b"\0") % 3:
        case 0:
            INGEST.take_access_logs(message, REPORTER)
            counted = sum(INGEST.counts.values()) - before
            if counted < length(message) and not (counted == 1 and malformed_n() > malformed_before):
                raise AssertionError(f"{counted} of {length(message)} entries counted")
        case 1:
            INGEST.take_spans(message)
        case 2:
            INGEST.take_events(message)
    INGEST.drain()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
