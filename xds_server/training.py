"""The models over gRPC: a thin servicer over whoever trains and keeps them."""

# ruff: noqa: N802 (methods are named in the .proto)

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol, TypeAlias

import grpc

from xds_server import access
from xds_server.answering import answering, bound, require
from xds_server.pb import training_pb2 as pb
from xds_server.pb import training_pb2_grpc as pb_grpc
from xds_server.store.artefacts import ArtefactRow

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Training"].full_name

_Context: TypeAlias = grpc.aio.ServicerContext


class Trainer(Protocol):
    """Who trains, as this API needs it. What it cannot do raises a SteeringError."""

    def train(self, kind: str, *, who: str) -> AsyncIterator[float | ArtefactRow]:
        """Train now; tell which share is done, in [0, 1], and in the end what has come of it."""

    async def artefacts(self, kind: str) -> Sequence[ArtefactRow]:
        """Return all versions of a kind, oldest first; of all kinds where it is empty."""

    async def serve(self, kind: str, version: int, *, who: str) -> str:
        """Let a version serve, 0: the one that served before; return what was done, in one line."""


def add_training(server: grpc.aio.Server, trainer: Trainer) -> None:
    """Serve this API on `server`."""
    pb_grpc.add_TrainingServicer_to_server(TrainingServicer(trainer), server)  # type: ignore[no-untyped-call]  # generated


class TrainingServicer(pb_grpc.TrainingServicer):
    """Reads requests, asks `Trainer`, writes replies."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    async def Train(self, request: pb.TrainRequest, context: _Context) -> AsyncIterator[pb.TrainProgress]:
        async with answering(context):
            require(kind=request.kind, who=request.who)
            bound(request.kind, request.who)
            async for told in self._trainer.train(request.kind, who=access.current().signed(request.who)):
                if isinstance(told, ArtefactRow):
                    yield pb.TrainProgress(share=1.0, artefact=_artefact(told))
                else:
                    yield pb.TrainProgress(share=told)

    async def ListArtefacts(self, request: pb.ListArtefactsRequest, context: _Context) -> pb.ListArtefactsReply:
        async with answering(context):
            bound(request.kind)
            rows = await self._trainer.artefacts(request.kind)
            return pb.ListArtefactsReply(artefacts=map(_artefact, rows))

    async def Serve(self, request: pb.ServeRequest, context: _Context) -> pb.ServeReply:
        async with answering(context):
            require(kind=request.kind, who=request.who)
            bound(request.kind, request.who)
            who = access.current().signed(request.who)
            return pb.ServeReply(message=await self._trainer.serve(request.kind, request.version, who=who))


def _artefact(row: ArtefactRow) -> pb.Artefact:
    return pb.Artefact(
        kind=row.kind,
        version=row.version,
        trained_unix_ns=row.trained_unix_ns,
        fingerprint=row.fingerprint,
        scores_json=json.dumps(dict(row.scores)),
        is_serving=row.is_serving,
        is_kept=bool(row.payload),
        why=row.why,
    )
