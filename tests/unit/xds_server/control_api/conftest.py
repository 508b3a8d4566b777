"""A small real steering, one service whose rollout people move by hand, and a gRPC server over it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import grpc
import pytest

from analysis.decision import Action
from analysis.history.record import Attribute
from xds_server.control import add_control
from xds_server.errors import BadRequestError, RefusedError, UnknownNameError
from xds_server.pb import control_pb2 as pb
from xds_server.store.records import DecisionRow, LabelRow, RolloutRow

NOW = 1_700_000_000_000_000_000
SEGMENTS = ("power", "default")


class HandSteering:
    """Does what people say at once; the engine is asleep."""

    def __init__(self) -> None:
        self.row: RolloutRow | None = None
        self.decisions: list[DecisionRow] = []
        self.splits = dict.fromkeys(SEGMENTS, 0)
        self.adopted: dict[str, str] = {}
        self.said: dict[str, LabelRow] = {}
        self._changed = asyncio.Event()

    async def start_rollout(
        self, *, service: str, canary: str, who: str, reason: str, attributes: Mapping[str, Attribute] | None = None
    ) -> str:
        self._known(service)
        if canary not in {"v1", "v2"}:
            raise UnknownNameError("version of checkout", canary, ("v1", "v2"))
        if self.row is not None:
            raise RefusedError(f"{self.row.rollout} is running; roll it back or promote it first")
        self.row = RolloutRow(
            rollout="checkout-1",
            service=service,
            baseline="v1",
            canary=canary,
            state="running",
            started_unix_ns=NOW,
            who=who,
            reason=reason,
            attributes=dict(attributes or {}),
        )
        self._tell()
        return self.row.rollout

    async def act(
        self, *, service: str, segment: str | None, action: Action, split_bp: int, who: str, reason: str
    ) -> str:
        self._known(service)
        if self.row is None:
            raise RefusedError("no rollout is running; start one first")
        if action is Action.SET and split_bp > 9_000:
            raise BadRequestError("split is out of range; legal: up to 90 %")
        for name in [segment] if segment else SEGMENTS:
            before, after = self.splits[name], {Action.SET: split_bp, Action.PROMOTE: 10_000}.get(action, 0)
            self.splits[name] = after
            self.decisions.append(
                DecisionRow(
                    id=len(self.decisions) + 1,
                    at_unix_ns=NOW + 10**9,
                    service=service,
                    rollout=self.row.rollout,
                    segment=name,
                    verdict=str(action),
                    split_before_bp=before,
                    split_after_bp=after,
                    generation=len(self.decisions) + 1,
                    reason=reason,
                    who=who,
                )
            )
        if action is Action.FREEZE:
            self.row = replace(self.row, state="frozen")
        self._tell()
        return f"{action} {segment or 'all segments'}"

    async def adopt_segment(self, *, service: str, cluster: int, name: str, who: str, reason: str) -> str:
        self._known(service)
        if cluster != 2:
            raise UnknownNameError("cluster of checkout", str(cluster), ("2",))
        self.adopted[name] = who
        return f"adopted cluster {cluster} as {name}, 12 people" + (f" ({reason})" if reason else "")

    async def drop_segment(self, *, service: str, name: str, who: str) -> str:
        self._known(service)
        if self.adopted.pop(name, None) is None:
            raise UnknownNameError("adopted segment of checkout", name, self.adopted)
        return f"dropped {name}, 12 people ({who})"

    def segments(self, service: str) -> pb.ListSegmentsReply:
        self._known(service)
        proposal = pb.SegmentProposal(cluster=2, people=12, description="three visits [or fewer]")
        adopted = [
            pb.AdoptedSegment(name=name, people=12, people_later=0, adopted_unix_ns=NOW, who=who, segment="fresh")
            for name, who in self.adopted.items()
        ]
        return pb.ListSegmentsReply(proposals=[proposal], adopted=adopted, table=3, waiting=4 if adopted else 0)

    def status(self, service: str | None) -> pb.Status:
        if service:
            self._known(service)
        row = self.row
        segments = [
            pb.SegmentStatus(segment=name, phase="ramping", health="unknown", split=bp / 10_000, needed_sessions=120)
            for name, bp in self.splits.items()
        ]
        checkout = pb.ServiceStatus(
            service="checkout",
            rollout=row.rollout if row else "",
            state=row.state if row else "idle",
            mode="act",
            baseline="v1",
            canary=row.canary if row else "",
            generation=2**60,
            in_force=True,
            started_unix_ns=NOW,
            segments=segments,
            harm_budget=50,
            notes=["segment fresh: nobody has adopted newcomers, so it matches nobody"],
        )
        node = pb.NodeStatus(node="edge-1", role="gateway", connected=True, acked={"RDS": "abc"})
        return pb.Status(at_unix_ns=NOW + 2 * 10**9, services=[checkout], nodes=[node], pushes=3, version="0.1.0")

    async def changed(self) -> None:
        await self._changed.wait()

    async def rollouts(self) -> Sequence[RolloutRow]:
        return [self.row] if self.row else []

    async def labels(self) -> Mapping[str, LabelRow]:
        return self.said

    async def history(self, *, service: str | None, rollout: str | None, limit: int) -> Sequence[DecisionRow]:
        if service:
            self._known(service)
        return [row for row in self.decisions if rollout in {None, row.rollout}][-limit:]

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @staticmethod
    def _known(service: str) -> None:
        if service != "checkout":
            raise UnknownNameError("service", service, ("checkout",))


@pytest.fixture
def steering() -> HandSteering:
    return HandSteering()


@pytest.fixture
def address(steering: HandSteering) -> Iterator[str]:
    """Where a control plane answers, served from a thread of its own."""
    ready = threading.Event()
    state: dict[str, object] = {}

    async def serve() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        add_control(server, steering)
        await server.start()
        end = asyncio.Event()
        state.update(address=f"127.0.0.1:{port}", end=end, loop=asyncio.get_running_loop())
        ready.set()
        await end.wait()
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield str(state["address"])
    loop, end = state["loop"], state["end"]
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(end, asyncio.Event)
    loop.call_soon_threadsafe(end.set)
    thread.join(10)
    assert not thread.is_alive()
