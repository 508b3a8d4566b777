"""More access logs than can be decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2

from xds_server.clock import Clock
from xds_server.ingest import Ingest, Reporter
from xds_server.ingest.als import AccessLogs
from xds_server.ingest.entries import Arrived
from xds_server.mesh import Mesh

REPORTER = Reporter(node="edge", role=b"gateway")
MakeEntry = Callable[..., accesslog_pb2.HTTPAccessLogEntry]
MakeMessage = Callable[..., bytes]


@pytest.fixture
def ingest(mesh: Mesh, clock: Clock) -> Ingest:
    return Ingest(mesh, user_hash_key=b"secret", queue_limit=1000, clock=clock)


def test_what_is_too_much_goes_the_oldest_first_and_is_counted(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    old, new = stream_message(make_entry(status=500), make_entry(status=500)), stream_message(make_entry())

    async def scenario() -> None:
        logs = AccessLogs(ingest, limit_messages=2)
        for message in (old, old, new, b"\xff", new):
            logs.put(Arrived(message, REPORTER))
        assert logs.waiting_n == 2
        await logs.settled()
        assert (logs.waiting_n, logs.waiting_bytes) == (0, 0)

    asyncio.run(scenario())
    rows = ingest.drain()["shop"].rows
    assert len(rows) == 1
    assert not rows["error"].any()
    counts = {reason: n for (_, reason), n in ingest.counts.items()}
    assert counts == {"overload": 2 + 2 + 1, "malformed": 1, "accepted": 1}


def test_the_bytes_that_wait_are_bounded(ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage) -> None:
    message = stream_message(make_entry())

    async def scenario() -> None:
        logs = AccessLogs(ingest, limit_bytes=2 * len(message))
        for _ in range(5):
            logs.put(Arrived(message, REPORTER))
            assert logs.waiting_bytes <= 2 * len(message)
        await logs.settled()

    asyncio.run(scenario())
    assert ingest.counts["access_log", "overload"] == 3
    assert ingest.accepted() == {"shop": 2}


def test_one_message_above_all_bounds_is_given_up_as_well(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    async def scenario() -> None:
        logs = AccessLogs(ingest, limit_bytes=10)
        logs.put(Arrived(stream_message(make_entry(), make_entry()), REPORTER))
        await asyncio.wait_for(logs.settled(), 5)

    asyncio.run(scenario())
    assert ingest.counts["access_log", "overload"] == 2


def test_many_small_messages_are_taken_in_order(
    ingest: Ingest, make_entry: MakeEntry, stream_message: MakeMessage
) -> None:
    statuses = [200, 500] * 100

    async def scenario() -> None:
        logs = AccessLogs(ingest)
        for status in statuses:
            logs.put(Arrived(stream_message(make_entry(status=status)), REPORTER))
            if status == 500:
                await asyncio.sleep(0)
        await logs.settled()

    asyncio.run(scenario())
    assert ingest.drain()["shop"].rows["error"].tolist() == [status == 500 for status in statuses]
