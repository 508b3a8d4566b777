"""What every HTTP endpoint that takes bodies bounds: how large they are, how long they take, how many come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import ClientDisconnect, Request

FAR_MORE: Final = 8
MAX_BROWSER_RATE: Final = 1_000  # requests a second
READ_S: Final = 10.0  # for a body to arrive
RETRY_S: Final = 1
PREFLIGHT_S: Final = 7_200  # browsers remember a permission at most that long


class RefusedError(Exception):
    """A request that is not taken: its status, and one line for who has sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Pace:
    """Counts requests of anybody."""

    clock: Callable[[], float] = time.monotonic
    _second: int = 0
    _in_second: int = 0

    def is_calm(self) -> bool:
        """Count one; return whether it is one of the first `MAX_BROWSER_RATE` of this second."""
        second = int(self.clock())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        return self._in_second <= MAX_BROWSER_RATE


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body. What is too much is read and thrown away, so that the answer arrives; what is far more is not."""
    body, n_bytes = bytearray(), 0
    try:
        async with asyncio.timeout(READ_S):
            async for chunk in request.stream():
                n_bytes += len(chunk)
                if n_bytes <= limit:
                    body += chunk
                elif n_bytes > FAR_MORE * limit:
                    break
    except TimeoutError as error:
        raise RefusedError(408, f"not all there after {READ_S:g} s") from error
    except ClientDisconnect as error:
        raise RefusedError(400, "cut off") from error
    if n_bytes > limit:
        raise RefusedError(413, f"more than {limit} bytes")
    return bytes(body)
