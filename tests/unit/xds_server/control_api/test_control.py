"""The control API over a real gRPC server and channel in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from xds_server import control
from xds_server.pb import control_pb2 as pb
from xds_server.pb import control_pb2_grpc as pb_grpc


@asynccontextmanager
async def served(steering: Any) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    control.add_control(server, steering)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield pb_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]  # generated
    await server.stop(None)


def run(steering: Any, body: Callable[[Any], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20), served(steering) as stub:
            await body(stub)

    asyncio.run(bounded())


def test_a_person_starts_and_moves_a_rollout_and_finds_it_in_the_history(steering: Any) -> None:
    """Who and why go all the way through."""

    async def body(stub: Any) -> None:
        reply = await stub.StartRollout(
            pb.StartRolloutRequest(service="checkout", canary="v2", who="ada@ops", reason="release 2")
        )
        assert (reply.rollout, reply.service.state) == ("checkout-1", "running")
        reply = await stub.Act(
            pb.ActRequest(
                service="checkout",
                segment="power",
                action=pb.ACTION_SET,
                split_bp=2_500,
                who="ada@ops",
                reason="a look",
            )
        )
        assert reply.message == "set power"
        assert [segment.split for segment in reply.service.segments] == [0.25, 0]
        (record,) = (await stub.GetHistory(pb.GetHistoryRequest(service="checkout"))).decisions
        assert (record.verdict, record.split_after_bp, record.who, record.reason) == ("set", 2_500, "ada@ops", "a look")
        (rollout,) = (await stub.ListRollouts(pb.ListRolloutsRequest())).rollouts
        assert (rollout.canary, rollout.finished_unix_ns) == ("v2", 0)
        text = (await stub.Explain(pb.ExplainRequest(service="checkout", segment="power"))).text
        assert "25 % of its people get v2" in text
        assert "by ada@ops" in text

    run(steering, body)


@pytest.mark.parametrize(
    ("call", "request_", "code", "says"),
    [
        ("GetStatus", pb.GetStatusRequest(service="chekout"), "NOT_FOUND", "no service 'chekout'; known: checkout"),
        (
            "StartRollout",
            pb.StartRolloutRequest(service="checkout", canary="v3", who="a"),
            "NOT_FOUND",
            "no version of checkout 'v3'; known: v1, v2",
        ),
        ("StartRollout", pb.StartRolloutRequest(service="checkout", who="a"), "INVALID_ARGUMENT", "canary is missing"),
        (
            "Act",
            pb.ActRequest(service="checkout", action=pb.ACTION_PAUSE, who="a"),
            "FAILED_PRECONDITION",
            "no rollout is running; start one first",
        ),
        ("Act", pb.ActRequest(service="checkout", action=pb.ACTION_PAUSE), "INVALID_ARGUMENT", "who is missing"),
        ("Act", pb.ActRequest(service="checkout", who="a"), "INVALID_ARGUMENT", "unknown action 0"),
        (
            "Act",
            pb.ActRequest(service="checkout", action=pb.ACTION_SET, split_bp=10_001, who="a"),
            "INVALID_ARGUMENT",
            "split_bp 10001 is out of range; legal: 0 to 10000",
        ),
        (
            "Act",
            pb.ActRequest(service="checkout", action=pb.ACTION_PAUSE, who="a", reason="x" * 1_001),
            "INVALID_ARGUMENT",
            "legal: up to 1000",
        ),
        ("ListSegments", pb.ListSegmentsRequest(), "INVALID_ARGUMENT", "service is missing"),
        ("AdoptSegment", pb.AdoptSegmentRequest(service="checkout", name="x"), "INVALID_ARGUMENT", "who is missing"),
        (
            "AdoptSegment",
            pb.AdoptSegmentRequest(service="checkout", cluster=7, name="x", who="a"),
            "NOT_FOUND",
            "no cluster of checkout '7'; known: 2",
        ),
        ("DropSegment", pb.DropSegmentRequest(service="checkout", who="a"), "INVALID_ARGUMENT", "name is missing"),
        ("GetHistory", pb.GetHistoryRequest(limit=10_001), "INVALID_ARGUMENT", "legal: 1 to 10000"),
        ("Explain", pb.ExplainRequest(), "INVALID_ARGUMENT", "service is missing"),
        (
            "Explain",
            pb.ExplainRequest(service="checkout", segment="powr"),
            "NOT_FOUND",
            "no segment of checkout 'powr'; known: default, power",
        ),
    ],
)
def test_what_cannot_be_obeyed_is_refused_in_one_line(
    call: str, request_: Any, code: str, says: str, steering: Any
) -> None:
    """The status code tells programs, the line tells people what is legal."""

    async def body(stub: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, call)(request_)
        assert caught.value.code().name == code
        assert says in (caught.value.details() or "")

    run(steering, body)


def test_a_watcher_sees_the_status_at_once_and_again_at_each_change(steering: Any) -> None:
    """A change that comes between two statuses is not lost."""

    async def body(stub: Any) -> None:
        watch = stub.WatchStatus(pb.GetStatusRequest())
        assert (await watch.read()).services[0].state == "idle"
        await stub.StartRollout(pb.StartRolloutRequest(service="checkout", canary="v2", who="a"))
        assert (await watch.read()).services[0].state == "running"
        await stub.Act(pb.ActRequest(service="checkout", action=pb.ACTION_FREEZE, who="a"))
        assert (await watch.read()).services[0].state == "frozen"
        watch.cancel()

    run(steering, body)


def test_watching_an_unknown_service_is_refused(steering: Any) -> None:
    """The stream ends with the names that there are."""

    async def body(stub: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="known: checkout"):
            async for _ in stub.WatchStatus(pb.GetStatusRequest(service="nosuch")):
                pass

    run(steering, body)


@pytest.fixture
def two_watchers_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_WATCHERS", 2)


@pytest.mark.usefixtures("two_watchers_at_most")
def test_watchers_are_bounded_and_one_that_leaves_makes_room(steering: Any) -> None:
    """A script that watches and never reads cannot pile up streams."""

    async def body(stub: Any) -> None:
        watchers = [stub.WatchStatus(pb.GetStatusRequest()) for _ in range(2)]
        for watch in watchers:
            await watch.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.WatchStatus(pb.GetStatusRequest()).read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        watchers[0].cancel()
        statuses: list[pb.Status] = []
        while not statuses:  # until the server has noticed; the test as a whole is bounded
            with suppress(grpc.aio.AioRpcError):
                statuses.append(await stub.WatchStatus(pb.GetStatusRequest()).read())
            await asyncio.sleep(0.05)

    run(steering, body)
