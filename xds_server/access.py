"""What each peer may do, by its certificate: one check before every call, whatever service it is for.

A peer is what a URI (SPIFFE ID) or DNS name in the certificate that it has proven to own says; the first rule of the
mesh's `access` that fits is its own. A service that no right is for is nobody's. Without rules everybody may do
everything, as without TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

import grpc

from xds_server.mesh import AccessRule, Right

log = logging.getLogger(__name__)

RIGHTS: Final[tuple[tuple[str, Right], ...]] = (
    ("envoy.service.discovery.v3.AggregatedDiscoveryService/", "xds"),
    ("envoy.service.cluster.v3.ClusterDiscoveryService/", "xds"),
    ("envoy.service.endpoint.v3.EndpointDiscoveryService/", "xds"),
    ("envoy.service.listener.v3.ListenerDiscoveryService/", "xds"),
    ("envoy.service.route.v3.", "xds"),
    ("envoy.service.runtime.v3.RuntimeDiscoveryService/", "xds"),
    ("envoy.service.auth.v3.Authorization/", "xds"),
    ("envoy.service.accesslog.v3.AccessLogService/", "ingest"),
    ("envoy.service.load_stats.v3.LoadReportingService/", "ingest"),
    ("opentelemetry.proto.collector.", "ingest"),
    ("envoy.service.status.v3.ClientStatusDiscoveryService/", "observe"),
    ("grpc.reflection.", "observe"),
    ("serinus.control.v1.Control/Get", "observe"),
    ("serinus.control.v1.Control/List", "observe"),
    ("serinus.control.v1.Control/Watch", "observe"),
    ("serinus.control.v1.Control/Explain", "observe"),
    ("serinus.control.v1.Control/", "control"),
    ("serinus.control.v1.History/Get", "observe"),
    ("serinus.control.v1.History/", "control"),
    ("serinus.training.v1.Training/List", "observe"),
    ("serinus.training.v1.Training/", "control"),
    ("serinus.registry.v1.Registry/List", "observe"),
    ("serinus.registry.v1.Registry/Remove", "control"),
    ("serinus.registry.v1.", "register"),
)
"""The right that each method takes, by the beginning of its full name; the first that fits."""

OPEN_TO_ALL: Final = "grpc.health.v1.Health/"
"""Says only whether the control plane serves."""

ALL_OR_NOTHING: Final = ("envoy.service.status.v3.ClientStatusDiscoveryService/", "serinus.training.v1.Training/")
"""Tells of every service: not for those who may see only some."""

SAID_KEPT: Final = 1_000
PEERS_KEPT: Final = 10_000
MAX_NODE: Final = 1_000  # characters of a node ID that is compared with patterns

_Behaviour: TypeAlias = Callable[[Any, grpc.aio.ServicerContext], Any]


class Denial(StrEnum):
    """Why a peer was refused, as counted."""

    NO_RULE = "no_rule"
    NO_RIGHT = "no_right"
    NODE = "node"
    SERVICE = "service"
    CHANGED = "changed"


class DeniedError(Exception):
    """The peer's certificate does not let it do this; `str()` is one line for it."""

    def __init__(self, denial: Denial, message: str) -> None:
        super().__init__(message)
        self.denial = denial


@dataclass(frozen=True, slots=True)
class Grant:
    """What one peer may do. `rule` None: everything. `peer`: its names, for people."""

    rule: AccessRule | None = None
    peer: str = ""

    @property
    def services(self) -> frozenset[str] | None:
        """The services that it may see and report of; None: all."""
        return self.rule.services if self.rule is not None else None

    def sees(self, service: str) -> bool:
        """Whether it may know of a service."""
        return self.services is None or service in self.services

    def check_service(self, service: str) -> None:
        """Raise DeniedError for a service that it may not see."""
        if not self.sees(service):
            raise DeniedError(Denial.SERVICE, f"{self.peer} may not see service '{service[:100]}'")

    def check_all(self) -> None:
        """Raise DeniedError for who may not see every service: gRPC clients are sent the same, all of them."""
        if self.services is not None:
            raise DeniedError(Denial.SERVICE, f"{self.peer} may not see every service, and a gRPC client does")

    def signed(self, who: str) -> str:
        """Who gives a command: as they say, and as their certificate does where it counts."""
        return f"{who} ({self.peer})" if self.peer else who

    def is_node(self, name: str) -> bool:
        """Whether it may be the Envoy of this ID."""
        if self.rule is None:
            return True
        return len(name) <= MAX_NODE and any(_matches(pattern, name, "") for pattern in self.rule.nodes)

    def check_node(self, name: str) -> None:
        """Raise DeniedError for a node ID, or the name of a gateway or sidecar, that it may not have."""
        if not self.is_node(name):
            raise DeniedError(Denial.NODE, f"{self.peer} may not be node '{name[:100]}'")


_EVERYTHING: Final = Grant()
_GRANT: ContextVar[Grant] = ContextVar("grant")


def current() -> Grant:
    """What the peer of the call that is being answered may do."""
    return _GRANT.get(_EVERYTHING)


@dataclass(slots=True, kw_only=True, eq=False)
class _Call:
    """A call that is being answered. `denied`: what it may do has changed."""

    method: str
    sans: tuple[str, ...]
    grant: Grant
    task: asyncio.Task[Any] | None
    denied: bool = False


@dataclass(slots=True, eq=False)
class Access:
    """The rules in force. `denials`: refused calls by reason. `connections_n`: those on which a call has come.

    It goes by addresses: a client's port that is used again soon is not counted again.
    """

    rules: tuple[AccessRule, ...] | None = None
    denials: Counter[Denial] = field(default_factory=Counter)
    _calls: set[_Call] = field(default_factory=set)
    connections_n: int = 0
    _said: set[str] = field(default_factory=set)
    _peers: dict[str, None] = field(default_factory=dict)

    def change(self, rules: tuple[AccessRule, ...] | None) -> None:
        """Go by other rules. Calls to whose peers they say something else are ended, to be made anew."""
        self.rules = rules
        self._said.clear()
        for call in tuple(self._calls):
            try:
                is_same = self.grant(call.method, call.sans) == call.grant
            except DeniedError:
                is_same = False
            if not is_same and call.task is not None:
                call.denied = True
                call.task.cancel()

    def grant(self, method: str, sans: Iterable[str]) -> Grant:
        """What a peer with these names in its certificate may do, if it may call `method` (package.Service/Method).

        Raises
        ------
        DeniedError
            It may not.
        """
        if self.rules is None or method.startswith(OPEN_TO_ALL):
            return _EVERYTHING
        names = tuple(sans)
        peer = ", ".join(names)[:200] or "a certificate without URI or DNS name"
        rule = next((rule for rule in self.rules if any(fits(rule.san, name) for name in names)), None)
        if rule is None:
            raise DeniedError(Denial.NO_RULE, f"no entry of access fits {peer}")
        right = next((right for beginning, right in RIGHTS if method.startswith(beginning)), None)
        if right is None or right not in rule.may:
            needed = f"it needs {right}" if right is not None else "nobody may"
            raise DeniedError(Denial.NO_RIGHT, f"{peer} may not call {method[:100]}: {needed}")
        if rule.services is not None and method.startswith(ALL_OR_NOTHING):
            raise DeniedError(Denial.SERVICE, f"{peer} may not see every service, and {method[:100]} tells of all")
        return Grant(rule, peer)

    def refused(self, denied: DeniedError) -> None:
        """Count a refusal, and say it once."""
        self.denials[denied.denial] += 1
        if str(denied) not in self._said and len(self._said) < SAID_KEPT:
            self._said.add(str(denied))
            log.warning("refused: %s", denied)

    def _came(self, peer: str) -> None:
        if peer not in self._peers:
            self.connections_n += 1
            self._peers[peer] = None
            if len(self._peers) > PEERS_KEPT:
                del self._peers[next(iter(self._peers))]

    def interceptor(self) -> grpc.aio.ServerInterceptor:
        """Checks every call to the server that is made with it."""
        return _Interceptor(self)

    @contextlib.asynccontextmanager
    async def checked(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        """Answer a call if its peer may make it, for as long as it may; else end it with PERMISSION_DENIED."""
        self._came(context.peer())
        sans = _names(context)
        try:
            grant = self.grant(method, sans)
        except DeniedError as denied:
            self.refused(denied)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(denied))
        call = _Call(method=method, sans=sans, grant=grant, task=asyncio.current_task())
        self._calls.add(call)
        token = _GRANT.set(grant)
        try:
            yield
        except DeniedError as denied:
            self.refused(denied)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(denied))
        except asyncio.CancelledError:
            if not call.denied:
                raise
            self.denials[Denial.CHANGED] += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "what this certificate may do has changed; come again")
        finally:
            with contextlib.suppress(ValueError):  # a generator may be closed from elsewhere
                _GRANT.reset(token)
            self._calls.discard(call)


class _Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(handler_call_details)
        if handler is None:  # not implemented here
            return handler
        return _guarded(self._access, handler_call_details.method.removeprefix("/"), handler)


_MAKERS: Final = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def _guarded(access: Access, method: str, handler: Any) -> grpc.RpcMethodHandler:
    """The handler, behind the check. A request that names a service is for those who may see it."""
    name, make = _MAKERS[handler.request_streaming, handler.response_streaming]
    behaviour: _Behaviour = getattr(handler, name)

    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        async with access.checked(method, context):
            _check_request(request)
            return await behaviour(request, context)

    async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async with access.checked(method, context):
            _check_request(request)
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    guard = stream if inspect.isasyncgenfunction(behaviour) else answer
    return make(
        guard, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )


def _check_request(request: Any) -> None:
    service = getattr(request, "service", "")
    if isinstance(service, str) and service:
        current().check_service(service)


def _names(context: grpc.aio.ServicerContext) -> tuple[str, ...]:
    """The URIs and DNS names in the peer's certificate; none without TLS."""
    found = context.auth_context()
    uris, dns = ([name.decode("utf-8", "replace") for name in found.get(key, ())] for key in ("peer_uri", "peer_dns"))
    return (*uris, *(name for name in dns if "://" not in name))  # one that poses as a URI is none


def fits(pattern: str, name: str) -> bool:
    """Whether a name in a certificate fits a pattern.

    `*` stands for anything within one part of a URI's path or of a DNS name, `**` for anything. A pattern of URIs
    fits no DNS name, nor the other way round.
    """
    is_uri = "://" in pattern
    if is_uri != ("://" in name):
        return False
    return _matches(pattern, name, "/") if is_uri else _matches(pattern, name.lower(), ".")


def _matches(pattern: str, text: str, separator: str) -> bool:
    one = f"[^{separator}]*" if separator else ".*"
    compiled = ".*".join(one.join(map(re.escape, part.split("*"))) for part in pattern.split("**"))
    return re.fullmatch(compiled, text, re.DOTALL) is not None
