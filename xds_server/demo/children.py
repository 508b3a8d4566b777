"""The demo's processes: started in order, watched, and ended in the opposite order, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

END_S = 5.0
"""How long a process may take to end by itself before it is killed."""


class DemoError(Exception):
    """The demo cannot go on; the message is one line for people."""


def free_ports(n: int) -> list[int]:
    """Return `n` different loopback ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One process; `log` holds all that it printed."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def last_words(self) -> str:
        """Return the last line that it printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(it printed nothing)"

    async def end(self, *, within_s: float = END_S) -> int:
        """Ask it to end, and kill it if it does not; return its exit code."""
        if self.process.returncode is None:
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), within_s)
            except TimeoutError:
                self._signal(signal.SIGKILL)
        return await self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)  # each child leads a process group of its own


@dataclass(slots=True)
class Children:
    """All processes of a run. Used as a context: when it is left, none of them is alive any more."""

    log_dir: Path
    _children: list[Child] = field(default_factory=list)

    async def start(self, name: str, *command: str | Path) -> Child:
        """Start a process in a group of its own, tied to this one's life, with its output in `<name>.log`."""
        log = self.log_dir / f"{name}.log"
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "xds_server.demo.tether",
                str(os.getpid()),
                *map(str, command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        child = Child(name=name, process=process, log=log)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raise DemoError when one of them has ended that should not have."""
        for child in self._children:
            if child.process.returncode is not None:
                raise DemoError(f"{child.name} ended with {child.process.returncode}: {child.last_words()}")

    async def end(self, child: Child) -> int:
        """End one of them, which is then no longer expected to be alive."""
        self._children.remove(child)
        return await child.end()

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._children:
            child = self._children.pop()
            try:
                await child.end()
            except asyncio.CancelledError:  # a second Ctrl-C: no more patience, but no orphan either
                await child.end(within_s=0)
