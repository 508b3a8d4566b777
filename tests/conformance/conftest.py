"""One `serinus run` for all tests of a process, and clients that end with the test."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conformance.client import Client, Variant
from tests.conformance.server import Server

Connect = Callable[..., Client]


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("serinus"))
    server.start("A")
    try:
        yield server
    finally:
        code = server.end(signal.SIGTERM)
    assert code == 0
    assert "Traceback" not in server.log.read_text(), server.log.read_text()


@pytest.fixture
def server(running: Server) -> Server:
    """The server that all tests share: `set_up` is every test's first word."""
    return running


@pytest.fixture
def own_server(tmp_path: Any) -> Iterator[Server]:
    """A server that a test may kill; not started yet."""
    server = Server(tmp_path)
    yield server
    if server.process is not None and server.process.poll() is None:
        server.end()


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """`connect(variant)`: a client of the shared server."""
    with contextlib.ExitStack() as clients:

        def one(variant: Variant, **options: Any) -> Client:
            return clients.enter_context(Client(server.grpc, variant, **options))

        yield one
