"""How the command line talks to a running control plane: one call, or one watch; each failure is one line."""

from __future__ import annotations

import getpass
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import grpc

from xds_server.errors import ServerError
from xds_server.pb import control_pb2 as pb
from xds_server.pb import control_pb2_grpc as pb_grpc
from xds_server.tls import channel_credentials

TIMEOUT_S: Final = 10.0
MAX_DETAILS: Final = 200  # of what gRPC says; the cause stands at the end
MAX_REPLY_BYTES: Final = 64 * 2**20  # a full history
_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # who renews a lease must not wait for two minutes
)


class Client:
    """One API of a control plane. Each method raises ServerError if it does not answer, or refuses."""

    def __init__(self, server: str, stub: Any) -> None:
        self._server = server
        self._stub = stub

    def call(self, method: str, request: object, *, timeout_s: float = TIMEOUT_S) -> Any:
        """Return the reply to one call, by the method's name in the .proto."""
        with self._answered():
            return getattr(self._stub, method)(request, timeout=timeout_s)

    def stream(self, method: str, request: object) -> Iterator[Any]:
        """Yield the replies to one call, by the method's name in the .proto, until the last."""
        with self._answered():
            stream = getattr(self._stub, method)(request)
            with _interrupt_calls(stream.cancel):
                yield from stream

    def watch(self, service: str) -> Iterator[pb.Status]:
        """Yield the status now and at each change, for as long as the control plane lives, or until Ctrl-C."""
        with self._answered():
            stream = self._stub.WatchStatus(pb.GetStatusRequest(service=service))
            with _interrupt_calls(stream.cancel):
                try:
                    yield from stream
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.CANCELLED:
                        raise
                finally:
                    stream.cancel()

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            code, details = error.code(), " ".join((error.details() or "").split())
            if code is grpc.StatusCode.UNAVAILABLE:
                message = _no_answer(self._server, details)
            elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
                message = f"the control plane at {self._server} did not answer within {TIMEOUT_S:.0f} s"
            elif code is grpc.StatusCode.UNIMPLEMENTED:
                message = f"what answers at {self._server} is not a control plane of Serinus, or an older one"
            else:
                message = details or code.name
            raise ServerError(message, code=code.name) from error


def _no_answer(server: str, details: str) -> str:
    if _tls.get() is None:
        return f"no control plane answers at {server}; start one (serinus run) or name it with --server"
    return f"no control plane answers at {server} over TLS, or it refuses this certificate: {details[-MAX_DETAILS:]}"


_tls: ContextVar[grpc.ChannelCredentials | None] = ContextVar("tls", default=None)


def use_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Connect over TLS from here on, and show a certificate if there is one. Raises TlsError."""
    _tls.set(channel_credentials(ca, certificate, key))


@contextmanager
def _interrupt_calls(end: Callable[[], object]) -> Iterator[None]:
    """Ctrl-C calls `end`. As an exception it may be raised inside a callback of gRPC, which swallows it."""
    before = signal.signal(signal.SIGINT, lambda *_: threading.Thread(target=end, daemon=True).start())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def connected(server: str, stub: Callable[[grpc.Channel], Any] = pb_grpc.ControlStub) -> Iterator[Client]:
    """Connect to the control plane at HOST:PORT, by default to its control API."""
    credentials = _tls.get()
    with (
        grpc.insecure_channel(server, options=_OPTIONS)
        if credentials is None
        else grpc.secure_channel(server, credentials, options=_OPTIONS)
    ) as channel:
        yield Client(server, stub(channel))


def operator() -> str:
    """Return who gives a command: user@host, as far as this machine knows them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for this user ID, as in many containers
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def plain(value: Any) -> Any:
    """Return a message as what `json` writes: every field, by its name in the .proto; 64-bit integers as numbers.

    `json_format` writes them as strings. Numbers that JSON cannot hold (infinite, NaN) become null.
    """
    if hasattr(value, "DESCRIPTOR"):
        return {field.name: plain(getattr(value, field.name)) for field in value.DESCRIPTOR.fields}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, Sequence):
        return [plain(each) for each in value]
    raise TypeError(f"{type(value).__name__} is no field's type")
