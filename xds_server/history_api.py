"""The history API: a thin gRPC servicer over past deployments."""

# ruff: noqa: N802 (methods are named in the .proto)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import grpc

from analysis.errors import RecordError
from analysis.history import archive
from xds_server import access
from xds_server.answering import answering, bound, require
from xds_server.errors import BadRequestError, HistoryError, RefusedError, UnknownNameError
from xds_server.pb import control_pb2 as pb
from xds_server.pb import control_pb2_grpc as pb_grpc
from xds_server.store.records import EventRow

SERVICE: Final = pb.DESCRIPTOR.services_by_name["History"].full_name
PART_BYTES: Final = 256 * 1024
MOST_IMPORTED_BYTES: Final = 256 * 2**20  # of one call: they are held at once
MOST_IMPORTED: Final = 20_000

_Context: TypeAlias = grpc.aio.ServicerContext


class PastSteering(Protocol):
    """Past deployments, as the history API needs them. What cannot be done raises a SteeringError or HistoryError."""

    async def service_of(self, rollout: str) -> str:
        """Return the service of a deployment."""

    async def label(self, *, rollout: str, verdict: str, who: str, reason: str) -> str:
        """Keep what an operator says, in place of what was said before; return what was done, in one line."""

    async def names(self, service: str | None) -> Mapping[str, str]:
        """Return the deployments that are over, in order, with their services."""

    async def record(self, rollout: str) -> bytes:
        """Return one of them."""

    def tape(self, rollout: str) -> AsyncIterator[Sequence[EventRow]]:
        """Yield what a rollout was given, many events at a time."""

    async def take_in(self, records: Iterable[bytes], *, who: str) -> str:
        """Keep records that others have made, all of them or none; return what was done, in one line."""


def add_history(server: grpc.aio.Server, past: PastSteering) -> None:
    """Serve the history API on `server`."""
    pb_grpc.add_HistoryServicer_to_server(HistoryServicer(past), server)  # type: ignore[no-untyped-call]  # generated


class HistoryServicer(pb_grpc.HistoryServicer):
    """Reads requests, asks `PastSteering`, writes replies."""

    def __init__(self, past: PastSteering) -> None:
        self._past = past

    async def Label(self, request: pb.LabelRequest, context: _Context) -> pb.LabelReply:
        async with answering(context):
            require(rollout=request.rollout, verdict=request.verdict, who=request.who)
            bound(request.rollout, request.verdict, request.who, request.reason)
            await self._check_rollout(request.rollout)
            message = await self._past.label(
                rollout=request.rollout,
                verdict=request.verdict,
                who=access.current().signed(request.who),
                reason=request.reason,
            )
            return pb.LabelReply(message=message)

    async def GetRecords(self, request: pb.GetRecordsRequest, context: _Context) -> AsyncIterator[pb.RecordPart]:
        async with answering(context):
            names = await self._past.names(request.service or None)
            if request.rollout:
                names = {request.rollout: await self._check_rollout(request.rollout)}
            for rollout, service in names.items():
                if access.current().sees(service):
                    async for part in self._parts(rollout):
                        yield part

    async def _check_rollout(self, rollout: str) -> str:
        """The service of a deployment. Whoever may not see all services is not told what others are called."""
        try:
            service = await self._past.service_of(rollout)
        except UnknownNameError as error:
            if access.current().services is None:
                raise
            raise RefusedError(f"no rollout '{rollout[:100]}' of a service that you may see") from error
        access.current().check_service(service)
        return service

    async def _parts(self, rollout: str) -> AsyncIterator[pb.RecordPart]:
        try:
            data = await self._past.record(rollout)
        except HistoryError as error:  # the others can be read all the same
            yield pb.RecordPart(problem=str(error), is_last=True)
            return
        for begin in range(0, len(data), PART_BYTES):
            end = begin + PART_BYTES
            yield pb.RecordPart(data=data[begin:end], is_last=end >= len(data))

    async def GetTape(self, request: pb.GetTapeRequest, context: _Context) -> AsyncIterator[pb.TapeEvent]:
        async with answering(context):
            require(rollout=request.rollout)
            await self._check_rollout(request.rollout)
            try:
                async for rows in self._past.tape(request.rollout):
                    for row in rows:
                        yield pb.TapeEvent(at_unix_ns=row.at_unix_ns, kind=row.kind, payload=row.payload)
            except HistoryError as error:
                raise RefusedError(str(error)) from error

    async def Import(self, requests: AsyncIterator[pb.RecordPart], context: _Context) -> pb.ImportReply:
        async with answering(context):
            records, who = await _whole(requests)
            bound(who)
            require(who=who)
            await asyncio.to_thread(_check_services, records)  # reading them takes a millisecond each, and more
            return pb.ImportReply(message=await self._past.take_in(records, who=access.current().signed(who)))


async def _whole(requests: AsyncIterator[pb.RecordPart]) -> tuple[list[bytes], str]:
    """The records that come in parts, and who sends them."""
    records, parts, size, who = list[bytes](), list[bytes](), 0, ""
    async for part in requests:
        who, size = who or part.who, size + len(part.data)
        if size > MOST_IMPORTED_BYTES or len(records) >= MOST_IMPORTED:
            raise BadRequestError(
                f"more than {MOST_IMPORTED} deployments or {MOST_IMPORTED_BYTES} bytes at once; import them in parts"
            )
        parts.append(part.data)
        if part.is_last:
            records.append(b"".join(parts))
            parts.clear()
    if parts:
        raise BadRequestError("the last record is cut off; nothing is imported")
    return records, who


def _check_services(records: Iterable[bytes]) -> None:
    """Whoever may steer only some services imports deployments of those only."""
    if access.current().services is None:
        return
    try:
        for data in records:
            access.current().check_service(archive.from_bytes(data).service)
    except RecordError as error:
        raise BadRequestError(f"nothing is imported: {error}") from error
