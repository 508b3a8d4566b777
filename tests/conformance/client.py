"""A plain xDS client: gRPC and Envoy's published messages, nothing else. It shares no code with the server.

It does what the protocol asks of a client and no more: one request to subscribe, one ACK for each response, and it
remembers everything that came.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
)
from envoy.service.runtime.v3.rtds_pb2 import Runtime
from google.protobuf.any_pb2 import Any as Packed

URL: Final = "type.googleapis.com/"
ANSWER_S: Final = 5.0
"""In which an answer must be there; a conformant server needs milliseconds, a busy machine more."""

QUIET_S: Final = 0.7
"""Silence that counts as no answer."""

HttpConnectionManager = http_connection_manager_pb2.HttpConnectionManager


@dataclass(frozen=True)
class Kind:
    """One type of resource: its message, and its own service's methods (`Stream…`, `Delta…`)."""

    message: type[Any]
    service: str
    method: str
    name_field: str = "name"

    @property
    def url(self) -> str:
        return URL + self.message.DESCRIPTOR.full_name


_SERVICE = "envoy.service."
KINDS: Final[Mapping[str, Kind]] = {
    "CDS": Kind(Cluster, _SERVICE + "cluster.v3.ClusterDiscoveryService", "Clusters"),
    "EDS": Kind(ClusterLoadAssignment, _SERVICE + "endpoint.v3.EndpointDiscoveryService", "Endpoints", "cluster_name"),
    "LDS": Kind(Listener, _SERVICE + "listener.v3.ListenerDiscoveryService", "Listeners"),
    "SRDS": Kind(ScopedRouteConfiguration, _SERVICE + "route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes"),
    "RDS": Kind(RouteConfiguration, _SERVICE + "route.v3.RouteDiscoveryService", "Routes"),
    "RTDS": Kind(Runtime, _SERVICE + "runtime.v3.RuntimeDiscoveryService", "Runtime"),
}
_BY_URL = {kind.url: short for short, kind in KINDS.items()}
_ADS = _SERVICE + "discovery.v3.AggregatedDiscoveryService"


@dataclass(frozen=True)
class Variant:
    """One of the four: state of the world or delta, all types on one stream or a stream for each type."""

    protocol: str
    aggregated: bool

    def __str__(self) -> str:
        return f"{self.protocol} {'ADS' if self.aggregated else 'by type'}"

    @property
    def is_delta(self) -> bool:
        return self.protocol == "delta"

    def path(self, kind: str) -> str:
        prefix = "Delta" if self.is_delta else "Stream"
        if self.aggregated:
            return f"/{_ADS}/{prefix}AggregatedResources"
        return f"/{KINDS[kind].service}/{prefix}{KINDS[kind].method}"


SOTW_ADS, SOTW_TYPE = Variant("sotw", aggregated=True), Variant("sotw", aggregated=False)
DELTA_ADS, DELTA_TYPE = Variant("delta", aggregated=True), Variant("delta", aggregated=False)
VARIANTS: Final = (SOTW_TYPE, SOTW_ADS, DELTA_TYPE, DELTA_ADS)


@dataclass(frozen=True)
class Item:
    """One resource of a response. `version` is empty in state of the world, `ttl_s` 0 for ever."""

    content: bytes = field(repr=False)
    version: str = ""
    ttl_s: float = 0.0


@dataclass(frozen=True)
class Response:
    """One response as it came. `names`: of its resources in order, doubles included."""

    kind: str
    version: str
    nonce: str
    names: tuple[str, ...]
    items: Mapping[str, Item]
    removed: tuple[str, ...]
    errors: Mapping[str, str]
    size: int
    at: float = field(default_factory=time.monotonic)


class StreamEndedError(AssertionError):
    """The server has ended the stream."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"the stream ended with {code.name}: {details}")
        self.code = code
        self.details = details


class Stream:
    """One stream. `requests_n`, `responses_n`: messages so far; `sent_at`: when the last request
    went. Requests go out as they are asked for."""

    def __init__(self, channel: grpc.Channel, variant: Variant, kind: str, node: Node, *, reads: bool = True) -> None:
        self.variant = variant
        self.requests_n = self.responses_n = 0
        self.sent_at = 0.0
        self._kind = kind
        self._node: Node | None = node
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._inbox: dict[str, deque[Response]] = {short: deque() for short in KINDS}
        self._changed = threading.Condition()
        self._end: StreamEndedError | None = None
        self._call = channel.stream_stream(variant.path(kind))(iter(self._outbox.get, None))
        self._reading: threading.Thread | None = None
        if reads:
            self.read()

    # --- out

    def send(self, kind: str, **fields: Any) -> None:
        """Send one request; the first one says who we are."""
        message = DeltaDiscoveryRequest if self.variant.is_delta else DiscoveryRequest
        self.send_raw(message(node=self._node, type_url=KINDS[kind].url, **fields).SerializeToString())

    def send_raw(self, message: bytes) -> None:
        self._node = None
        self.requests_n += 1
        self.sent_at = time.monotonic()
        self._outbox.put(message)

    def close(self) -> None:
        self._outbox.put(None)
        self._call.cancel()
        if self._reading is not None:
            self._reading.join(5)

    # --- in

    def read(self) -> None:
        """Begin to read: until then the server writes into a stream that nobody reads."""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        try:
            for raw in self._call:
                response = _delta(raw) if self.variant.is_delta else _sotw(raw)
                with self._changed:
                    self.responses_n += 1
                    self._inbox[response.kind].append(response)
                    self._changed.notify_all()
            code, details = self._call.code(), self._call.details()
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
        with self._changed:
            self._end = StreamEndedError(code, details or "")
            self._changed.notify_all()

    def next(self, kind: str, within_s: float = ANSWER_S) -> Response:
        """The next response of a type."""
        inbox = self._inbox[kind]
        with self._changed:
            self._changed.wait_for(lambda: inbox or self._end, within_s)
            if inbox:
                return inbox.popleft()
            if self._end is not None:
                raise self._end
        raise AssertionError(f"no {kind} response within {within_s} s")

    def waiting(self, kind: str = "") -> list[Response]:
        """What came and has not been asked for, of one type or of all."""
        with self._changed:
            return [r for short, inbox in self._inbox.items() if kind in ("", short) for r in inbox]

    def end(self, within_s: float = ANSWER_S) -> StreamEndedError:
        """How the server ended the stream."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._end, within_s), f"the stream is open after {within_s} s"
            assert self._end is not None
            return self._end

    @property
    def is_open(self) -> bool:
        return self._end is None


def _sotw(raw: bytes) -> Response:
    message = DiscoveryResponse.FromString(raw)
    kind = _BY_URL[message.type_url]
    named: list[tuple[str, Item]] = []
    for packed in message.resources:
        inner, ttl_s = packed, 0.0
        if packed.Is(Resource.DESCRIPTOR):
            wrapped = Resource.FromString(packed.value)
            inner, ttl_s = wrapped.resource, wrapped.ttl.ToMilliseconds() / 1_000
        assert inner.type_url == message.type_url, "a resource of another type"
        named.append((_name_of(kind, inner), Item(content=inner.value, ttl_s=ttl_s)))
    return _response(kind, message.version_info, message, named, (), len(raw))


def _delta(raw: bytes) -> Response:
    message = DeltaDiscoveryResponse.FromString(raw)
    kind = _BY_URL[message.type_url]
    named: list[tuple[str, Item]] = []
    for each in message.resources:
        assert each.name == _name_of(kind, each.resource), "a resource under another name"
        ttl_s = each.ttl.ToMilliseconds() / 1_000
        named.append((each.name, Item(content=each.resource.value, version=each.version, ttl_s=ttl_s)))
    return _response(kind, message.system_version_info, message, named, tuple(message.removed_resources), len(raw))


def _response(
    kind: str, version: str, message: Any, named: list[tuple[str, Item]], removed: tuple[str, ...], size: int
) -> Response:
    errors = {each.resource_name.name: each.error_detail.message for each in message.resource_errors}
    names = tuple(name for name, _ in named)
    return Response(kind, version, message.nonce, names, dict(named), removed, errors, size)


def _name_of(kind: str, packed: Packed) -> str:
    described = KINDS[kind]
    return str(getattr(described.message.FromString(packed.value), described.name_field))


class Subscriber:
    """One type on a stream. Holds what a client would: the resources, their versions, and what it subscribes to."""

    def __init__(self, stream: Stream, kind: str) -> None:
        self.stream, self.kind = stream, kind
        self.names: tuple[str, ...] = ()
        self.held: dict[str, Item] = {}
        self.version = self.nonce = ""
        self.history: list[Response] = []
        self.removed: list[str] = []

    # --- out

    def wildcard(self, **fields: Any) -> None:
        """Ask for everything, as Envoy does: name nothing."""
        self.stream.send(self.kind, **fields)

    def subscribe(self, *names: str, **fields: Any) -> None:
        """Ask for these as well."""
        self._ask((*self.names, *(n for n in names if n not in self.names)), added=names, **fields)

    def unsubscribe(self, *names: str, **fields: Any) -> None:
        self._ask(tuple(n for n in self.names if n not in names), removed=names, **fields)

    def name_only(self, *names: str, **fields: Any) -> None:
        """State of the world: exactly these from now on."""
        self._ask(names, **fields)

    def _ask(
        self, names: tuple[str, ...], added: Iterable[str] = (), removed: Iterable[str] = (), **fields: Any
    ) -> None:
        self.names = names
        if self.stream.variant.is_delta:
            self.stream.send(self.kind, resource_names_subscribe=added, resource_names_unsubscribe=removed, **fields)
        else:
            known = {"version_info": self.version, "response_nonce": self.nonce}
            self.stream.send(self.kind, resource_names=names, **{**known, **fields})

    def ack(self, response: Response, **fields: Any) -> None:
        """Take a response."""
        self.version, self.nonce = response.version, response.nonce
        if not self.stream.variant.is_delta and self.kind in ("CDS", "LDS", "SRDS"):
            self.held = {}
        self.held.update(response.items)
        for name in response.removed:
            self.held.pop(name, None)
        self.removed += response.removed
        self._answer(response.nonce, **fields)

    def nack(self, response: Response, message: str, **fields: Any) -> None:
        """Refuse a response: the version stays what it was."""
        self.nonce = response.nonce
        self._answer(response.nonce, error_detail={"code": 3, "message": message}, **fields)

    def _answer(self, nonce: str, **fields: Any) -> None:
        if self.stream.variant.is_delta:
            self.stream.send(self.kind, response_nonce=nonce, **fields)
        else:
            known = {"version_info": self.version, "response_nonce": nonce, "resource_names": self.names}
            self.stream.send(self.kind, **{**known, **fields})

    # --- in

    def receive(self, within_s: float = ANSWER_S) -> Response:
        """The next response, not answered yet."""
        response = self.stream.next(self.kind, within_s)
        assert response.nonce not in {each.nonce for each in self.history}, "a nonce given twice"
        assert len(set(response.names)) == len(response.names), f"doubles: {response.names}"
        self.history.append(response)
        return response

    def take(self, within_s: float = ANSWER_S) -> Response:
        """The next response, ACKed."""
        response = self.receive(within_s)
        self.ack(response)
        return response

    def drain(self, for_s: float = 0.4) -> list[Response]:
        """What comes within a while, ACKed."""
        came, deadline = [], time.monotonic() + for_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self.stream.waiting(self.kind):
                came.append(self.take())
            time.sleep(min(left_s, 0.02))
        return came

    def take_all(self, names: Iterable[str], within_s: float = ANSWER_S) -> list[Response]:
        """Take responses until every name has been in one of them, and no other name."""
        wanted, taken = set(names), []
        while wanted - {name for each in taken for name in each.items}:
            taken.append(self.take(within_s))
        came = {name for each in taken for name in each.items}
        assert came == wanted, f"{came - wanted} came unasked"
        return taken


class Client:
    """One client over a connection of its own: on one stream in ADS, else on a stream for each type."""

    def __init__(
        self, port: int, variant: Variant, node: str = "test-id", options: Mapping[str, int] | None = None
    ) -> None:
        self.variant, self.node = variant, Node(id=node, cluster="conformance")
        # A connection of its own: gRPC would share one among channels to the same place with the same options.
        own = {"grpc.use_local_subchannel_pool": 1, "grpc.max_receive_message_length": -1, **(options or {})}
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=list(own.items()))
        self._streams: dict[str, Stream] = {}
        self._all: list[Stream] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._all:
            stream.close()
        self._channel.close()

    def stream(self, kind: str, *, reads: bool = True) -> Stream:
        """The stream that carries a type; a new one if there is none yet."""
        key = "" if self.variant.aggregated else kind
        if key not in self._streams:
            self._streams[key] = self.open(kind, reads=reads)
        return self._streams[key]

    def open(self, kind: str, *, reads: bool = True) -> Stream:
        """One more stream."""
        self._all.append(Stream(self._channel, self.variant, kind, self.node, reads=reads))
        return self._all[-1]

    def subscriber(self, kind: str) -> Subscriber:
        return Subscriber(self.stream(kind), kind)

    def ask(self, method: str, request: Any, answer: type[Any]) -> Any:
        """Call another service of the control plane, once; of a stream: the first answer."""
        is_stream = method.rpartition("/")[2].startswith("Stream")
        if not is_stream:
            return self._channel.unary_unary(method, type(request).SerializeToString, answer.FromString)(request)
        call = self._channel.stream_stream(method, type(request).SerializeToString, answer.FromString)
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        requests.put(request)
        answers = call(iter(requests.get, None), timeout=ANSWER_S)
        try:
            return next(answers)
        finally:
            answers.cancel()
            requests.put(None)

    def streams(self) -> Iterator[Stream]:
        yield from self._all

    def is_left_alone(self, for_s: float = QUIET_S) -> None:
        """Nothing comes for a while: the service has not responded more than necessary."""
        deadline = time.monotonic() + for_s
        while (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.05))
            for stream in self._all:
                assert not stream.waiting(), f"came unasked: {stream.waiting()}"
                assert stream.is_open, stream.end()
        for stream in self._all:
            assert stream.requests_n > stream.responses_n, "more responses than requests"
