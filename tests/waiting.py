"""Waiting for what tells nobody that it has happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(check: Callable[[], bool], within_s: float = 10.0) -> None:
    """Look until `check` is true; raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not check():  # noqa: ASYNC110 -- what is looked at has no event
            await asyncio.sleep(0.01)
