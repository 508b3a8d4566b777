"""A server process as the benchmark drives it: commands on standard input, answers on standard output, in JSON."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

STALL_PROBE_S = 0.005
LOOK_S = 0.001
AFTER_PUSH_S = 0.05
"""What follows the last ACK, such as window updates, belongs to the push as well."""

LINE_BYTES = 64 << 20


class Served(Protocol):
    """What differs from server to server."""

    def publish(self, asked: dict[str, Any]) -> None:
        """Publish the next change; returns when the server's own call does."""

    def acks(self) -> int:
        """ACKs seen since the start."""


class _StallProbe:
    """Sleeps a little, again and again, and notes by how much it is late: for so long the loop served nobody."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.longest_s = 0.0
        self._task = asyncio.create_task(self._run())

    def stop(self) -> float:
        if self._task is not None:
            self._task.cancel()
        return self.longest_s

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(STALL_PROBE_S)
            self.longest_s = max(self.longest_s, loop.time() - before - STALL_PROBE_S)


async def serve(served: Served, port: int, *, tell: Callable[[], dict[str, Any]] = dict) -> None:
    """Answer commands until standard input ends. `tell`: what else there is to know."""
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say({"port": port})
    probe = _StallProbe()
    while line := await reader.readline():
        asked = json.loads(line)
        match asked["do"]:
            case "publish":
                _say(await _publish(served, asked))
            case "usage":
                _say({"cpu_us": cpu_us(), "rss_bytes": _rss_bytes()})
            case "tell":
                _say(tell())
            case "probe":
                probe.start()
                _say({})
            case "stall":
                _say({"stall_ms": probe.stop() * 1e3})


async def _publish(served: Served, asked: dict[str, Any]) -> dict[str, Any]:
    before, cpu_before = served.acks(), cpu_us()
    started = time.monotonic_ns()
    served.publish(asked)
    published = time.monotonic_ns()
    acked = await _wait_for(lambda: served.acks() - before >= asked["acks"], asked["deadline_s"])
    await asyncio.sleep(AFTER_PUSH_S)
    return {
        "started_ns": started,
        "published_ns": published,
        "acked_ns": acked,
        "acks": served.acks() - before,
        "cpu_us": cpu_us() - cpu_before,
    }


async def _wait_for(is_done: Callable[[], bool], within_s: float) -> int:
    """Look every millisecond, which costs a percent or two of the server's time; 0: it did not happen."""
    deadline = time.monotonic() + within_s
    while not is_done():
        if time.monotonic() > deadline:
            return 0
        await asyncio.sleep(LOOK_S)
    return time.monotonic_ns()


def cpu_us() -> int:
    """User and system time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return round((used.ru_utime + used.ru_stime) * 1e6)


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def raise_file_limit() -> None:
    """Each stream is a socket."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
