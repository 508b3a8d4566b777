"""Serves the HTTP side inside the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

_GRACE_S = 2  # for requests still being answered when the end is near


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # SIGTERM and Ctrl-C are the composition root's: it ends everything in order


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host`:`port` (0: a free one).

    Raises
    ------
    OSError
        The port is taken, or the address is not this machine's.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # asyncio switches Nagle's algorithm off only where TCP is named: else an answer's body waits 40 ms for its headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # now, not later: two sockets may be bound to one port until one of them listens
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


async def serve(app: ASGIApp, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve `app` on a listening socket until `stop` is set; requests being answered get two seconds to finish.

    The socket is closed in the end, whatever happens.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config)

    async def end_on_stop() -> None:
        await stop.wait()
        server.should_exit = True

    with contextlib.closing(listener):
        async with asyncio.TaskGroup() as tasks:
            ending = tasks.create_task(end_on_stop())
            await server.serve(sockets=[listener])
            ending.cancel()
