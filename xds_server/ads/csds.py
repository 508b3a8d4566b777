"""Envoy's client status discovery service: which configuration each client has, as its control plane knows it.

One config for each stream, in it one entry for each resource that the client asks for. `version_info` and `xds_config`
are what the client has ACKed. What it has rejected stands in `error_state`, with its own words for why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import grpc
import grpc.aio
from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus, UpdateFailureState
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.status.v3 import csds_pb2 as pb
from google.protobuf.any_pb2 import Any

from xds_server.ads.cache import AdsCache, Rejection, Stream
from xds_server.ads.node_matcher import node_matcher
from xds_server.ads.standing import ResourceView, Standing
from xds_server.answering import answering
from xds_server.ending import until as as_long_as
from xds_server.snapshot import Resource

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"

MAX_ANSWER_BYTES = 3 << 20
"""A gRPC client takes 4 MiB by default. Larger answers are refused: half of one would be taken for all."""

_STATUSES: Mapping[Standing, pb.ConfigStatus] = MappingProxyType(
    {
        Standing.SYNCED: pb.SYNCED,
        Standing.NOT_SENT: pb.NOT_SENT,
        Standing.STALE: pb.STALE,
        Standing.ERROR: pb.ERROR,
    }
)

_Context: TypeAlias = grpc.aio.ServicerContext


class _TooLargeError(Exception):
    pass


class ClientStatuses:
    """Answers one question at a time, and lets streams be served in between."""

    def __init__(self, cache: AdsCache) -> None:
        self._cache = cache
        self._turn = asyncio.Lock()

    async def answer(self, request: pb.ClientStatusRequest, context: _Context) -> pb.ClientStatusResponse:
        """Answer one question, or end its call with the reason why not."""
        try:
            async with answering(context), self._turn:
                return await self._look(request)
        except _TooLargeError:
            advice = "name fewer nodes in node_matchers, or set exclude_resource_contents"
            message = f"the answer would have more than {MAX_ANSWER_BYTES} bytes: {advice}"
            return await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)

    async def _look(self, request: pb.ClientStatusRequest) -> pb.ClientStatusResponse:
        matches = node_matcher(request.node_matchers)
        response, left_bytes = pb.ClientStatusResponse(), MAX_ANSWER_BYTES
        for stream in self._cache.clients():
            if matches(stream.node) and self._cache.is_open(stream):
                config = self._config(stream, left_bytes, contents=not request.exclude_resource_contents)
                response.config.append(config)
                left_bytes -= config.ByteSize()
                await asyncio.sleep(0)
        return response

    def _config(self, stream: Stream, left_bytes: int, *, contents: bool) -> pb.ClientConfig:
        config = pb.ClientConfig(node=Node(id=stream.node, cluster=stream.known.cluster))
        for view in self._cache.standings(stream):
            entry = config.generic_xds_configs.add()
            _fill(entry, view, stream.known.rejections, contents=contents)
            left_bytes -= entry.ByteSize()
            if left_bytes < 0:
                raise _TooLargeError
        return config


def _fill(
    entry: pb.ClientConfig.GenericXdsConfig, view: ResourceView, rejections: Iterable[Rejection], *, contents: bool
) -> None:
    entry.type_url, entry.name = view.type.url, view.name
    entry.config_status, entry.client_status = _STATUSES[view.standing], _client_status(view)
    if view.held is not None:
        entry.version_info = view.held.version
        if contents:
            entry.xds_config.CopyFrom(_unpacked(view.held))
    if view.rejected is not None:
        entry.error_state.CopyFrom(_failure(view, view.rejected, rejections, contents=contents))


def _client_status(view: ResourceView) -> ClientResourceStatus:
    if view.standing is Standing.ERROR:
        return ClientResourceStatus.NACKED
    if view.held is not None:
        return ClientResourceStatus.ACKED
    return ClientResourceStatus.REQUESTED if view.wanted is not None else ClientResourceStatus.DOES_NOT_EXIST


def _failure(
    view: ResourceView, version: str, rejections: Iterable[Rejection], *, contents: bool
) -> UpdateFailureState:
    """The newest rejection that may mean a resource; the text of an old one may have been dropped."""
    failure = UpdateFailureState(version_info=version)
    if contents and view.wanted is not None:
        failure.failed_configuration.CopyFrom(_unpacked(view.wanted))
    for rejection in rejections:
        if rejection.type == view.type and (view.name in rejection.resources or not rejection.resources):
            failure.details = rejection.message
            failure.last_update_attempt.FromNanoseconds(rejection.at_unix_ns)
    return failure


def _unpacked(resource: Resource) -> Any:
    return Any.FromString(resource.packed)


def add_csds(server: grpc.aio.Server, cache: AdsCache, *, until: asyncio.Event) -> None:
    """Serve `StreamClientStatus` and `FetchClientStatus` on `server`; `until` ends every stream."""
    statuses = ClientStatuses(cache)

    async def stream_client_status(
        requests: AsyncIterator[pb.ClientStatusRequest], context: _Context
    ) -> AsyncIterator[pb.ClientStatusResponse]:
        async for request in as_long_as(until, requests):
            yield await statuses.answer(request, context)

    codec = {
        "request_deserializer": pb.ClientStatusRequest.FromString,
        "response_serializer": pb.ClientStatusResponse.SerializeToString,
    }
    methods = {
        "StreamClientStatus": grpc.stream_stream_rpc_method_handler(stream_client_status, **codec),
        "FetchClientStatus": grpc.unary_unary_rpc_method_handler(statuses.answer, **codec),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
