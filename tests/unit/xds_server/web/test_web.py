"""The HTTP side, served for real on loopback."""

from __future__ import annotations

import asyncio
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from xds_server.web.app import create_app
from xds_server.web.server import listen, serve

TIMEOUT_S = 10
Answer = tuple[int, str, str]


def get(port: int, path: str) -> Answer:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=TIMEOUT_S) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers["content-type"], refused.read().decode()


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[int]:
    stop = asyncio.Event()
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(app, listener, stop))
        try:
            yield port
        finally:
            stop.set()


def ask(path: str, *, not_ready: Callable[[], str | None] = lambda: None) -> Answer:
    async def scenario() -> Answer:
        async with serving(create_app(not_ready=not_ready, metrics=lambda: b"serinus_up 1\n")) as port:
            return await asyncio.to_thread(get, port, path)

    return asyncio.run(scenario())


def test_the_process_is_alive_even_while_it_is_not_ready() -> None:
    assert ask("/healthz", not_ready=lambda: "starting")[0] == 200


def test_not_being_ready_has_a_reason() -> None:
    status, _, text = ask("/readyz", not_ready=lambda: "no configuration has been published yet")
    assert status == 503
    assert text == "no configuration has been published yet\n"


def test_being_ready_is_said() -> None:
    assert ask("/readyz")[:1] == (200,)


def test_metrics_are_in_the_prometheus_format() -> None:
    status, content_type, text = ask("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert text == "serinus_up 1\n"


def test_there_is_nothing_else() -> None:
    assert ask("/")[0] == 404


def test_a_port_in_use_is_an_error_at_once() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_the_port_is_free_again_after_the_end() -> None:
    async def scenario() -> int:
        async with serving(create_app(not_ready=lambda: None, metrics=lambda: b"")) as port:
            return port

    port = asyncio.run(scenario())
    listen("127.0.0.1", port).close()


def test_signals_stay_with_the_composition_root() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async def scenario() -> None:
        async with serving(create_app(not_ready=lambda: None, metrics=lambda: b"")) as port:
            await asyncio.to_thread(get, port, "/healthz")
            assert signal.getsignal(signal.SIGTERM) == before[0]

    asyncio.run(scenario())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_end_waits_for_an_answer_that_is_under_way() -> None:
    async def scenario() -> Answer:
        stop, asked = asyncio.Event(), asyncio.Event()

        async def slow(_request: Request) -> PlainTextResponse:
            asked.set()
            await asyncio.sleep(0.3)
            return PlainTextResponse("done")

        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(Starlette(routes=[Route("/", slow)]), listener, stop))
            answer = tasks.create_task(asyncio.to_thread(get, port, "/"))
            await asked.wait()
            stop.set()
        return answer.result()

    assert asyncio.run(scenario())[2] == "done"


def test_an_ending_task_closes_the_socket() -> None:
    async def scenario() -> socket.socket:
        listener = listen("127.0.0.1", 0)
        task = asyncio.create_task(
            serve(create_app(not_ready=lambda: None, metrics=lambda: b""), listener, asyncio.Event())
        )
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return listener

    assert asyncio.run(scenario()).fileno() == -1
