"""`make bench-flags`: what an evaluation of a flag over OFREP costs, beside a bare handler that says one word.

Both servers run in a process of their own, on one core; clients keep their connections and wait for each answer. What a
server can answer a second is taken from its own CPU time, so that whatever else the machine does does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from tests.flagging import Shop, serving_flags
from xds_server.flags.context import read_context

CONNECTIONS = 8
BODY = b'{"context":{"targetingKey":"anna","headers":{"x-plan":"pro","cookie":"a=1; b=2"},"path":"/shop"}}'
ALL, ONE = "/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/shop"


def request(path: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    return head.encode() + BODY


async def serve_flags(tell: Callable[[int], None]) -> None:
    async with serving_flags(Shop(), timeout_s=3_600) as client:
        tell(int(client.url.rpartition(":")[2]))
        await asyncio.Event().wait()


async def serve_bare(tell: Callable[[int], None]) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"v1")

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    tell(runner.addresses[0][1])
    await asyncio.Event().wait()


def run_server(which: str, connection: object) -> None:
    server = {"flags": serve_flags, "bare": serve_bare}[which]
    asyncio.run(server(connection.send))  # type: ignore[attr-defined]


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def rate(server: tuple[int, int], path: str, seconds: float) -> float:
    """Answers by second of the server's CPU time."""
    port, pid = server
    line, end, n, before = request(path), time.perf_counter() + seconds, 0, cpu_s(pid)

    async def one() -> None:
        nonlocal n
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(line)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            size = int(next(x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")).split(b":")[1])
            await reader.readexactly(size)
            n += 1
        writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return n / (cpu_s(pid) - before)


def evaluations(seconds: float) -> float:
    """Evaluations by second of CPU time, context read and all, without HTTP."""
    flags, n, end = Shop().flags(), 0, time.process_time() + seconds
    given = {"targetingKey": "anna", "headers": {"x-plan": "pro", "cookie": "a=1; b=2"}, "path": "/shop"}
    while time.process_time() < end:
        for _ in range(100):
            flags.evaluate("shop", read_context(given))
        n += 100
    return n / seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a third of the time")
    rounds, seconds = (2, 1.0) if parser.parse_args().quick else (5, 3.0)
    servers: dict[str, tuple[int, int]] = {}
    for which in ("flags", "bare"):
        here, there = multiprocessing.Pipe()
        process = multiprocessing.Process(target=run_server, args=(which, there), daemon=True)
        process.start()
        servers[which] = (here.recv(), process.pid or 0)
    measured: dict[str, list[float]] = {"bare": [], "one flag": [], "all flags": []}
    for _ in range(rounds):  # in turns, so that whatever else the machine does is shared
        measured["bare"].append(asyncio.run(rate(servers["bare"], ONE, seconds)))
        measured["one flag"].append(asyncio.run(rate(servers["flags"], ONE, seconds)))
        measured["all flags"].append(asyncio.run(rate(servers["flags"], ALL, seconds)))
    bare = measured["bare"]
    for what, found in measured.items():
        ratio = statistics.median(f / b for f, b in zip(found, bare, strict=True))
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        print(f"{what:10} {statistics.median(found):8,.0f}/CPU s  ({spread})  x {ratio:.2f}")
    print(f"evaluation {evaluations(seconds):8,.0f}/CPU s without HTTP")


if __name__ == "__main__":
    main()
