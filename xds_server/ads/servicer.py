"""xDS over grpc.aio, all variants: aggregated and by type, state of the world and delta. Bytes in, bytes out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

import grpc
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.protobuf.message import DecodeError

from xds_server import access
from xds_server import node as nodes_of
from xds_server.ads import wire
from xds_server.ads.cache import AdsCache, Stream
from xds_server.ads.lanes import WRITE_ERRORS, Lanes
from xds_server.ads.response import Variant
from xds_server.ads.session import DeltaRequest, Request
from xds_server.ads.turns import Turns
from xds_server.snapshot import ResourceType
from xds_server.snapshot.resource import OTHER_TYPES, TYPES_BY_URL

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"

METHODS: Final[Mapping[str, Mapping[str, ResourceType | None]]] = MappingProxyType(
    {
        SERVICE: {"StreamAggregatedResources": None, "DeltaAggregatedResources": None},
        "envoy.service.cluster.v3.ClusterDiscoveryService": dict.fromkeys(
            ("StreamClusters", "DeltaClusters"), ResourceType.CDS
        ),
        "envoy.service.endpoint.v3.EndpointDiscoveryService": dict.fromkeys(
            ("StreamEndpoints", "DeltaEndpoints"), ResourceType.EDS
        ),
        "envoy.service.listener.v3.ListenerDiscoveryService": dict.fromkeys(
            ("StreamListeners", "DeltaListeners"), ResourceType.LDS
        ),
        "envoy.service.route.v3.ScopedRoutesDiscoveryService": dict.fromkeys(
            ("StreamScopedRoutes", "DeltaScopedRoutes"), ResourceType.SRDS
        ),
        "envoy.service.route.v3.RouteDiscoveryService": dict.fromkeys(
            ("StreamRoutes", "DeltaRoutes"), ResourceType.RDS
        ),
        "envoy.service.runtime.v3.RuntimeDiscoveryService": dict.fromkeys(
            ("StreamRuntime", "DeltaRuntime"), ResourceType.RTDS
        ),
    }
)
"""Every method by service, with the type of its stream; None: any, as each request says."""

FIRST_REQUEST_S = 30.0
"""A client that opens a stream and says nothing is not kept for longer."""

MAX_NAMES = 100_000
"""Of one request, and of one type on one stream. A mesh of ten thousand services has a fifth of it."""

MAX_STREAMS = 50_000
"""At a time. Each costs some 60 kB; who comes later is told to try again."""

READ_A_ROUND = 8
"""Requests, other than plain ACKs, that are taken in one round of the loop; each costs a millisecond or so."""

MAX_MESSAGE_BYTES = 8 << 20
"""gRPC's own 4 MiB is too little for a request that names everything; a larger message than this is an attack."""

MAX_RECEIVED_BYTES = 2 * MAX_MESSAGE_BYTES
"""What is larger still gRPC does not take in; we do not hear of it."""

MAX_SHARED_BYTES = 32 << 20
MAX_SHOWN = 200  # characters of what a client has sent, in a message to it

GONE_S = 1.0
"""A client to which nothing can be written has gone, or is told to come again."""

DRAIN_S = 1.0
"""Over which streams end when the control plane does, so that their clients do not all come back at once."""

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    # gRPC's core allows a ping in 300 s and cuts the stream at the third: Envoy's keepalive would break every stream.
    # The key with `recv` in it, found in many places, is ignored.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Notice an Envoy that is gone without a word.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # it counts, not the one above: without it 60 s
    ("grpc.max_concurrent_streams", 100_000),
    # Everybody comes back at once when the control plane has restarted; beyond 1,000 calls that wait to be taken up
    # gRPC's core would turn some away at random.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 16_384),
    ("grpc.absolute_max_metadata_size", 32_768),
    # Who connects and does not go on with TLS or HTTP/2 is not waited for as long as gRPC's two minutes.
    ("grpc.server_handshake_timeout_ms", 20_000),
    # A second control plane on the same port must fail, not take half of the Envoys.
    ("grpc.so_reuseport", 0),
)

_Context: TypeAlias = grpc.aio.ServicerContext


class Refusal(StrEnum):
    """Why a stream was ended by us, as counted."""

    SILENT = "silent"
    MALFORMED = "malformed"
    NO_NODE = "no_node"
    TOO_MANY_NAMES = "too_many_names"
    TOO_LARGE = "too_large"
    TOO_MANY_STREAMS = "too_many_streams"
    FORBIDDEN = "forbidden"
    WRONG_TYPE = "wrong_type"
    LOST = "lost"
    ENDING = "ending"


class _RefusedError(Exception):
    def __init__(self, refusal: Refusal, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.code = code


def add_ads(server: grpc.aio.Server, cache: AdsCache) -> XdsService:
    """Serve xDS from `cache`. The server must be made with `SERVER_OPTIONS`."""
    service = XdsService(cache)
    for name, methods in METHODS.items():
        handlers = {
            method: grpc.stream_stream_rpc_method_handler(service.method(method, kind))
            for method, kind in methods.items()
        }
        # Without serializers both directions are bytes: a response is put together from parts that are shared.
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    return service


class XdsService:
    """All xDS streams of one control plane. `refusals`: streams that were ended by us, by reason."""

    def __init__(self, cache: AdsCache) -> None:
        self._cache = cache
        self._streams: set[_XdsStream] = set()
        self._encoded: dict[tuple[str, ...], bytes] = {}
        self._encoded_bytes = 0
        self.lanes = Lanes()
        self.turns = Turns(READ_A_ROUND)
        self._is_ending = False
        self.refusals: Counter[Refusal] = Counter()
        self.unserved: Counter[str] = Counter()

    def method(self, name: str, kind: ResourceType | None) -> Callable[[object, _Context], object]:
        """The handler of one method."""
        variant = Variant.DELTA if name.startswith("Delta") else Variant.SOTW

        async def handle(_requests: object, context: _Context) -> None:
            stream = _XdsStream(self, self._cache, context, variant, kind)
            try:
                await self._run(stream)
            except _RefusedError as refused:
                self.refusals[refused.refusal] += 1
                with contextlib.suppress(grpc.aio.InternalError):  # the client is gone, and cannot be told
                    await context.abort(refused.code, str(refused))
            except access.DeniedError:
                self.refusals[Refusal.FORBIDDEN] += 1
                raise  # to whoever has checked the call

        return handle

    async def _run(self, stream: _XdsStream) -> None:
        if self._is_ending:
            raise _RefusedError(Refusal.ENDING, grpc.StatusCode.UNAVAILABLE, "the control plane is ending")
        if len(self._streams) >= MAX_STREAMS:
            raise _RefusedError(
                Refusal.TOO_MANY_STREAMS, grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_STREAMS} streams already"
            )
        self._streams.add(stream)
        try:
            await stream.run()
        except asyncio.CancelledError:
            if stream.refused is not None:
                raise stream.refused from None
            # A stream that the server has to cancel makes gRPC print a traceback; one that returns, does not.
            if not self._is_ending:
                raise
        finally:
            self._streams.discard(stream)

    def encoded(self, names: tuple[str, ...]) -> bytes:
        """Their one encoding: Envoys of one kind name the same resources, thousands in a large mesh."""
        found = self._encoded.get(names)
        if found is None:
            found = wire.names_field(names)
            self._encoded_bytes += len(found)
            if self._encoded_bytes > MAX_SHARED_BYTES:
                self._encoded.clear()
                self._encoded_bytes = len(found)
            self._encoded[names] = found
        return found

    async def drain(self, over_s: float = DRAIN_S) -> None:
        """Take no new streams and end the others one after the other."""
        self._is_ending = True
        ending = tuple(self._streams)
        pause_s = over_s / len(ending) if ending else 0.0
        for n, stream in enumerate(ending):
            stream.end()
            if n % 16 == 15:
                await asyncio.sleep(16 * pause_s)
        self.lanes.close()


class _XdsStream:
    """One stream: reads in the handler's own task, and writes when it is its turn.

    `_expected`: by type, the ends of the message that ACKs the response in flight and changes nothing. It is known by
    its bytes: between the ends there are, in state of the world, the names that were subscribed to before.
    """

    __slots__ = (
        *(
            "_cache",
            "_context",
            "_expected",
            "_grant",
            "_kind",
            "_names",
            "_service",
            "_stream",
            "_task",
            "_timer",
            "_variant",
        ),
        *("is_queued", "refused"),
    )

    def __init__(
        self, service: XdsService, cache: AdsCache, context: _Context, variant: Variant, kind: ResourceType | None
    ) -> None:
        self._service = service
        self._cache = cache
        self._context = context
        self._variant = variant
        self._kind = kind
        self._grant = access.current()
        self._task = asyncio.current_task()
        self._stream: Stream | None = None
        self._expected: dict[ResourceType, tuple[bytes, bytes]] = {}
        self._names: dict[ResourceType, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.is_queued = False
        self.refused: _RefusedError | None = None

    def end(self, refused: _RefusedError | None = None) -> None:
        """End the stream, whatever it waits for. `refused`: why, if it is not the control plane that ends."""
        self.refused = self.refused or refused
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Run until either side ends it."""
        stream = await self._begin()
        try:
            while (raw := await self._context.read()) is not grpc.aio.EOF:
                if not self._is_ack(stream, raw):
                    await self._service.turns.wait()
                    # Later requests need not name the node ("The client only sends the node in the first message").
                    self._take(stream, self._parse(raw))
                raw = None  # else it would be kept until the next one comes
        finally:
            # When a client cancels, grpc.aio ends the reading or cancels us: either way this runs, and nothing else.
            self._stream = None
            self._cache.close(stream)
            if self._timer is not None:
                self._timer.cancel()

    async def _begin(self) -> Stream:
        """Take the first request, and keep nothing of it: Envoy's has 60 kB."""
        first = await self._first()
        # Sent with the first response they would count as unsent until that is written, and no status could be sent.
        with contextlib.suppress(*WRITE_ERRORS):  # the client is gone, and there is nothing more to read
            await self._context.send_initial_metadata(())
        await self._service.turns.wait()
        return self._open(first)

    def _open(self, raw: bytes) -> Stream:
        """Register the stream. Nothing of its first request is kept: an Envoy's node alone is 60 kB."""
        message = self._parse(raw)
        if not message.node.id:
            raise _RefusedError(
                Refusal.NO_NODE, grpc.StatusCode.INVALID_ARGUMENT, "the first request must carry node.id"
            )
        node, grant = message.node, self._grant
        grant.check_node(node.id)
        if nodes_of.is_grpc(node.user_agent_name):
            grant.check_all()
        self._stream = stream = self._cache.open(
            node.id,
            node.cluster,
            self._variant,
            self._wake,
            user_agent=node.user_agent_name,
            services=grant.services,
            only=self._kind,
        )
        try:
            self._check_kind(stream)
            self._take(stream, message)
        except (_RefusedError, access.DeniedError):
            self._stream = None
            self._cache.close(stream)
            raise
        return stream

    def _check_kind(self, stream: Stream) -> None:
        """Raise DeniedError for a gateway or sidecar of the mesh, found by the cluster that the client claims."""
        if stream.kind.name:
            self._grant.check_node(stream.kind.name)

    async def _first(self) -> bytes:
        raw: object = grpc.aio.EOF
        try:
            async with asyncio.timeout(FIRST_REQUEST_S):
                raw = await self._context.read()
        except TimeoutError:
            pass
        if not isinstance(raw, bytes):
            raise _RefusedError(Refusal.SILENT, grpc.StatusCode.INVALID_ARGUMENT, "no request came")
        return raw

    # --- Reading

    def _is_ack(self, stream: Stream, raw: bytes) -> bool:
        """Whether it was an ACK that changes nothing; then it has been taken."""
        for kind, (head, tail) in self._expected.items():
            if raw.endswith(tail) and raw.startswith(head):
                names = self._names.get(kind, b"")
                if len(raw) == len(head) + len(names) + len(tail) and raw.startswith(names, len(head)):
                    del self._expected[kind]
                    self._cache.acked(stream, kind)
                    return True
        return False

    def _parse(self, raw: bytes) -> DiscoveryRequest | DeltaDiscoveryRequest:
        if len(raw) > MAX_MESSAGE_BYTES:
            raise _RefusedError(Refusal.TOO_LARGE, grpc.StatusCode.RESOURCE_EXHAUSTED, f"a request of {len(raw)} bytes")
        message = DiscoveryRequest if self._variant is Variant.SOTW else DeltaDiscoveryRequest
        try:
            return message.FromString(raw)
        except DecodeError:
            raise _RefusedError(
                Refusal.MALFORMED, grpc.StatusCode.INVALID_ARGUMENT, f"not a {message.DESCRIPTOR.name}"
            ) from None

    def _take(self, stream: Stream, message: DiscoveryRequest | DeltaDiscoveryRequest) -> None:
        kind = self._type_of(message.type_url)
        if kind is None:
            return
        self._expected.pop(kind, None)
        # Its presence makes a NACK; comparing versions would misread every change of subscription.
        error = message.error_detail.message if message.HasField("error_detail") else None
        if isinstance(message, DiscoveryRequest):
            names = _bounded(message.resource_names)
            self._names[kind] = self._service.encoded(names) if names else b""
            request: Request | DeltaRequest = Request(
                type=kind, names=names, nonce=message.response_nonce, error=error, version=message.version_info
            )
        else:
            request = DeltaRequest(
                type=kind,
                subscribe=_bounded(message.resource_names_subscribe),
                unsubscribe=_bounded(message.resource_names_unsubscribe),
                versions=_bounded_map(message.initial_resource_versions),
                nonce=message.response_nonce,
                error=error,
            )
        self._cache.receive(stream, request)
        if stream.session.names_n(kind) > MAX_NAMES:
            raise _too_many()

    def _type_of(self, url: str) -> ResourceType | None:
        """The type that a request is for; None: one that Envoy has and Serinus does not serve."""
        if self._kind is not None and url in ("", self._kind.url):
            return self._kind
        found = TYPES_BY_URL.get(url) if self._kind is None else None
        if found is None and (self._kind is not None or url not in OTHER_TYPES):
            legal = self._kind.url if self._kind is not None else "the type URL of an xDS resource, v3"
            shown = url if len(url) <= MAX_SHOWN else url[:MAX_SHOWN] + "…"
            raise _RefusedError(
                Refusal.WRONG_TYPE, grpc.StatusCode.INVALID_ARGUMENT, f"type_url '{shown}' is not {legal}"
            )
        if found is None:
            self._service.unserved[url] += 1  # met with silence, which is the protocol's way to say so
        return found

    # --- Writing

    def _wake(self, urgent: bool) -> None:
        """Write what is due when it is our turn."""
        self._service.lanes.put(self, urgent=urgent)

    def begin(self) -> Awaitable[None] | None:
        """Begin to write the next response; see `Writer`."""
        stream = self._stream
        if stream is None:
            return None
        try:
            self._check_kind(stream)  # in another mesh its cluster may name a gateway
        except access.DeniedError as denied:
            self.end(_RefusedError(Refusal.FORBIDDEN, grpc.StatusCode.PERMISSION_DENIED, str(denied)))
            return None
        response = self._cache.next_response(stream)
        if response is None:
            self._set_timer(stream)
            return None
        kind = response.body.type
        if self._variant is Variant.DELTA:
            self._expected[kind] = (b"", wire.delta_ack(kind, response.nonce))
        elif kind in self._names:
            self._expected[kind] = wire.sotw_ack(kind, response.version, response.nonce)
        writing: Awaitable[None] = self._context.write(response.encode())
        return writing

    def is_due(self) -> bool:
        """Whether there is more to write; see `Writer`."""
        return self._stream is not None and self._stream.session.is_due()

    def fail(self) -> None:
        """Write no more. The client is gone, which the reading side is about to notice; if not, end the stream."""
        if self._stream is not None:
            self._stream = None
            lost = _RefusedError(Refusal.LOST, grpc.StatusCode.UNAVAILABLE, "a response could not be sent")
            asyncio.get_running_loop().call_later(GONE_S, self.end, lost)

    def _set_timer(self, stream: Stream) -> None:
        """Look again when it is only time that a cluster's removal waits for."""
        drain = stream.session.next_drain()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if drain is not None:
            delay_s = max(drain - time.monotonic(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake, False)


def _bounded(names: Iterable[str]) -> tuple[str, ...]:
    bounded = tuple(names) if len(names) <= MAX_NAMES else None  # type: ignore[arg-type]  # a repeated field has a length
    if bounded is None:
        raise _too_many()
    return bounded


def _bounded_map(versions: Mapping[str, str]) -> dict[str, str]:
    if len(versions) > MAX_NAMES:
        raise _too_many()
    return dict(versions)


def _too_many() -> _RefusedError:
    return _RefusedError(
        Refusal.TOO_MANY_NAMES, grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_NAMES} names of one type"
    )
