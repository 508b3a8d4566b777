"""The control API: a thin gRPC servicer over whoever steers the rollouts."""

# ruff: noqa: N802 (methods are named in the .proto)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import grpc

from analysis.decision import Action
from analysis.history.record import Attribute, attribute
from xds_server import access
from xds_server.answering import answering, bound, require
from xds_server.errors import BadRequestError, UnknownNameError
from xds_server.pb import control_pb2 as pb
from xds_server.pb import control_pb2_grpc as pb_grpc
from xds_server.rollout.explain import explain
from xds_server.store.records import DecisionRow, LabelRow, RolloutRow

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Control"].full_name
MAX_WATCHERS: Final = 64
MIN_WATCH_INTERVAL_S: Final = 0.1  # changes within it are told together
DEFAULT_HISTORY: Final = 200
MAX_HISTORY: Final = 10_000
EXPLAINED_DECISIONS: Final = 20  # in the reply; older ones are for `history`
SEARCHED_DECISIONS: Final = 2_000  # for the turns that `explain` tells of; holds lie between them

ACTIONS: Final = {
    pb.ACTION_PAUSE: Action.PAUSE,
    pb.ACTION_RESUME: Action.RESUME,
    pb.ACTION_SET: Action.SET,
    pb.ACTION_PROMOTE: Action.PROMOTE,
    pb.ACTION_ROLLBACK: Action.ROLLBACK,
    pb.ACTION_FREEZE: Action.FREEZE,
}

_Context: TypeAlias = grpc.aio.ServicerContext


class Steering(Protocol):
    """What steers the rollouts, as the control API needs it. A command it cannot obey raises a SteeringError."""

    async def start_rollout(
        self, *, service: str, canary: str, who: str, reason: str, attributes: Mapping[str, Attribute] | None = None
    ) -> str:
        """Start a rollout and return its name. `attributes`: what is known of the release."""

    async def act(
        self, *, service: str, segment: str | None, action: Action, split_bp: int, who: str, reason: str
    ) -> str:
        """Obey a person's command (`segment` None: every segment) and return what was done, in one line."""

    async def exclude_node(self, *, node: str, excluded: bool, who: str, reason: str) -> str:
        """Let increases go on without an Envoy's ACK, or wait for it again; return what was done, in one line."""

    async def adopt_segment(self, *, service: str, cluster: int, name: str, who: str, reason: str) -> str:
        """Give the people of a proposed cluster a name; return what was done, in one line."""

    async def drop_segment(self, *, service: str, name: str, who: str) -> str:
        """Forget a name and whose it is; return what was done, in one line."""

    def segments(self, service: str) -> pb.ListSegmentsReply:
        """Return the learned segments that are proposed and those that have been adopted."""

    async def profile(self, service: str, segment: str | None) -> pb.ProfileReply:
        """Return what is usual in one segment of a service, or in all."""

    async def evaluate_profile(self, service: str, segment: str | None) -> pb.ProfileEvaluationReply:
        """Return how well that fits the sessions that have come since."""

    async def train_profile(self, *, service: str, who: str) -> pb.TrainProfileReply:
        """Learn it anew from those."""

    def status(self, service: str | None) -> pb.Status:
        """Return the status now, of one service or of all."""

    async def changed(self) -> None:
        """Wait for the next change of any status."""

    async def rollouts(self) -> Sequence[RolloutRow]:
        """Return all rollouts, oldest first."""

    async def labels(self) -> Mapping[str, LabelRow]:
        """Return what operators say of rollouts, by name."""

    async def history(self, *, service: str | None, rollout: str | None, limit: int) -> Sequence[DecisionRow]:
        """Return the newest decisions, oldest first."""


def add_control(server: grpc.aio.Server, steering: Steering, *, until: asyncio.Event | None = None) -> None:
    """Serve the control API on `server`; `until` ends every watch."""
    pb_grpc.add_ControlServicer_to_server(ControlServicer(steering, until or asyncio.Event()), server)  # type: ignore[no-untyped-call]  # generated


class ControlServicer(pb_grpc.ControlServicer):
    """Reads requests, asks `Steering`, writes replies."""

    def __init__(self, steering: Steering, until: asyncio.Event) -> None:
        self._steering = steering
        self._until = until
        self._n_watchers = 0

    async def StartRollout(self, request: pb.StartRolloutRequest, context: _Context) -> pb.RolloutReply:
        async with answering(context):
            require(service=request.service, canary=request.canary, who=request.who)
            bound(request.service, request.canary, request.who, request.reason)
            rollout = await self._steering.start_rollout(
                service=request.service,
                canary=request.canary,
                who=access.current().signed(request.who),
                reason=request.reason,
                attributes={name: attribute(text) for name, text in request.attributes.items()},
            )
            status = self._service(request.service)
            message = f"rollout {rollout} of {request.canary} started"
            return pb.RolloutReply(rollout=rollout, message=message, service=status)

    async def Act(self, request: pb.ActRequest, context: _Context) -> pb.RolloutReply:
        async with answering(context):
            require(service=request.service, who=request.who)
            bound(request.service, request.segment, request.who, request.reason)
            action = ACTIONS.get(request.action)
            if action is None:
                raise BadRequestError(f"unknown action {request.action}; known: {', '.join(Action)}")
            if request.split_bp > 10_000:
                raise BadRequestError(f"split_bp {request.split_bp} is out of range; legal: 0 to 10000")
            message = await self._steering.act(
                service=request.service,
                segment=request.segment or None,
                action=action,
                split_bp=request.split_bp,
                who=access.current().signed(request.who),
                reason=request.reason,
            )
            status = self._service(request.service)
            return pb.RolloutReply(rollout=status.rollout, message=message, service=status)

    async def GetStatus(self, request: pb.GetStatusRequest, context: _Context) -> pb.Status:
        async with answering(context):
            return _seen(self._steering.status(request.service or None))

    async def WatchStatus(self, request: pb.GetStatusRequest, context: _Context) -> AsyncIterator[pb.Status]:
        if self._n_watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} watch already; try again later")
        self._n_watchers += 1
        change: asyncio.Task[None] | None = None
        end = asyncio.create_task(self._until.wait())
        try:
            async with answering(context):
                while not end.done():
                    # Waiting begins before the status is taken, so that no change falls between the two.
                    change = asyncio.create_task(self._steering.changed())
                    await asyncio.sleep(0)
                    yield _seen(self._steering.status(request.service or None))
                    await asyncio.sleep(MIN_WATCH_INTERVAL_S)
                    await asyncio.wait((change, end), return_when=asyncio.FIRST_COMPLETED)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the control plane is ending")
        finally:
            self._n_watchers -= 1
            end.cancel()
            if change is not None:
                change.cancel()

    async def ListRollouts(self, request: pb.ListRolloutsRequest, context: _Context) -> pb.ListRolloutsReply:
        del request
        async with answering(context):
            return pb.ListRolloutsReply(rollouts=await self._summaries())

    async def _summaries(self) -> list[pb.RolloutSummary]:
        """The rollouts that the peer may see, oldest first."""
        rows, labels = await self._steering.rollouts(), await self._steering.labels()
        return [_summary(row, labels.get(row.rollout)) for row in rows if access.current().sees(row.service)]

    async def GetHistory(self, request: pb.GetHistoryRequest, context: _Context) -> pb.HistoryReply:
        async with answering(context):
            if request.limit > MAX_HISTORY:
                raise BadRequestError(f"limit {request.limit} is out of range; legal: 1 to {MAX_HISTORY}")
            rows = await self._steering.history(
                service=request.service or None, rollout=request.rollout or None, limit=request.limit or DEFAULT_HISTORY
            )
            seen = [row for row in rows if access.current().sees(row.service)]
            names = {row.rollout for row in seen}
            return pb.HistoryReply(
                decisions=map(_record, seen), rollouts=[s for s in await self._summaries() if s.rollout in names]
            )

    async def Explain(self, request: pb.ExplainRequest, context: _Context) -> pb.Explanation:
        async with answering(context):
            require(service=request.service)
            status = self._steering.status(request.service)
            service = _only(status, request.service)
            segment = request.segment or None
            known = [each.segment for each in service.segments]
            if segment is not None and segment not in known:
                raise UnknownNameError(f"segment of {request.service}", segment, known)
            rows = await self._steering.history(
                service=request.service, rollout=service.rollout or None, limit=SEARCHED_DECISIONS
            )
            told = [row for row in rows if segment is None or row.segment in {segment, ""}]
            text = explain(service, told, segment=segment, now_unix_ns=status.at_unix_ns)
            return pb.Explanation(text=text, service=service, decisions=map(_record, told[-EXPLAINED_DECISIONS:]))

    async def ExcludeNode(self, request: pb.ExcludeNodeRequest, context: _Context) -> pb.ExcludeNodeReply:
        async with answering(context):
            require(node=request.node, who=request.who)
            bound(request.node, request.who, request.reason)
            access.current().check_node(request.node)
            message = await self._steering.exclude_node(
                node=request.node,
                excluded=request.excluded,
                who=access.current().signed(request.who),
                reason=request.reason,
            )
            return pb.ExcludeNodeReply(message=message)

    async def GetProfile(self, request: pb.ProfileRequest, context: _Context) -> pb.ProfileReply:
        async with answering(context):
            require(service=request.service)
            return await self._steering.profile(request.service, request.segment or None)

    async def GetProfileEvaluation(self, request: pb.ProfileRequest, context: _Context) -> pb.ProfileEvaluationReply:
        async with answering(context):
            require(service=request.service)
            return await self._steering.evaluate_profile(request.service, request.segment or None)

    async def TrainProfile(self, request: pb.TrainProfileRequest, context: _Context) -> pb.TrainProfileReply:
        async with answering(context):
            require(service=request.service, who=request.who)
            bound(request.service, request.who)
            who = access.current().signed(request.who)
            return await self._steering.train_profile(service=request.service, who=who)

    async def ListSegments(self, request: pb.ListSegmentsRequest, context: _Context) -> pb.ListSegmentsReply:
        async with answering(context):
            require(service=request.service)
            return self._steering.segments(request.service)

    async def AdoptSegment(self, request: pb.AdoptSegmentRequest, context: _Context) -> pb.SegmentReply:
        async with answering(context):
            require(service=request.service, name=request.name, who=request.who)
            bound(request.service, request.name, request.who, request.reason)
            message = await self._steering.adopt_segment(
                service=request.service,
                cluster=request.cluster,
                name=request.name,
                who=access.current().signed(request.who),
                reason=request.reason,
            )
            return pb.SegmentReply(message=message)

    async def DropSegment(self, request: pb.DropSegmentRequest, context: _Context) -> pb.SegmentReply:
        async with answering(context):
            require(service=request.service, name=request.name, who=request.who)
            bound(request.service, request.name, request.who)
            who = access.current().signed(request.who)
            return pb.SegmentReply(
                message=await self._steering.drop_segment(service=request.service, name=request.name, who=who)
            )

    def _service(self, name: str) -> pb.ServiceStatus:
        return _only(self._steering.status(name), name)


def _seen(status: pb.Status) -> pb.Status:
    """What the peer's certificate lets it see."""
    grant = access.current()
    if grant.services is None:
        return status
    seen = pb.Status()
    seen.CopyFrom(status)
    del seen.services[:], seen.nodes[:]
    seen.ClearField("mesh")  # it names services
    seen.services.extend(service for service in status.services if grant.sees(service.service))
    seen.nodes.extend(node for node in status.nodes if grant.is_node(node.node))
    return seen


def _only(status: pb.Status, name: str) -> pb.ServiceStatus:
    for service in status.services:
        if service.service == name:
            return service
    raise UnknownNameError("service", name, [service.service for service in status.services])


def _summary(row: RolloutRow, label: LabelRow | None) -> pb.RolloutSummary:
    return pb.RolloutSummary(
        rollout=row.rollout,
        service=row.service,
        baseline=row.baseline,
        canary=row.canary,
        state=row.state,
        started_unix_ns=row.started_unix_ns,
        finished_unix_ns=row.finished_unix_ns or 0,
        outcome=dict(row.outcome),
        attributes=row.attribute_texts,
        label=label.verdict if label is not None else "",
        labelled_by=label.who if label is not None else "",
        label_reason=label.reason if label is not None else "",
    )


def _record(row: DecisionRow) -> pb.DecisionRecord:
    return pb.DecisionRecord(**{name: getattr(row, name) for name in pb.DecisionRecord.DESCRIPTOR.fields_by_name})
