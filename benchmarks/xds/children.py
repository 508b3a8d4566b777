"""Child processes that answer one JSON line with another, each within a time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class ChildError(Exception):
    """A child said nothing in time, or died; the message holds the end of what it printed."""


class Child:
    """A process on some of the cores. It ends at the end of its input, or is killed."""

    def __init__(self, name: str, command: Sequence[str], *, cores: Sequence[int], folder: Path) -> None:
        self.name = name
        self._errors = folder / f"{name}.{time.monotonic_ns()}.log"
        self._lines = b""
        with self._errors.open("wb") as errors, _on(cores):
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def ask(self, do: str, *, within_s: float = 10.0, **more: Any) -> dict[str, Any]:
        """Send a command, wait for its answer.

        Raises
        ------
        ChildError
            None came.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ChildError(f"{self.name} is gone: {self._last_words()}") from error
        return self.answer(within_s)

    def answer(self, within_s: float) -> dict[str, Any]:
        """Wait for the next line."""
        assert self._process.stdout is not None
        out = self._process.stdout.fileno()
        deadline = time.monotonic() + within_s
        while b"\n" not in self._lines:
            ready, _, _ = select.select([out], [], [], max(deadline - time.monotonic(), 0.0))
            if not ready:
                raise ChildError(f"{self.name} did not answer within {within_s:.0f} s")
            read = os.read(out, 1 << 20)
            if not read:
                raise ChildError(f"{self.name} is gone: {self._last_words()}")
            self._lines += read
        line, self._lines = self._lines.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        return self._errors.read_text(errors="replace").strip()[-400:] or "it printed nothing"


@contextlib.contextmanager
def _on(cores: Sequence[int]) -> Iterator[None]:
    """What is started inside runs on these cores only (Go then starts as many threads as it has cores)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
