"""Streams that end when the control plane does: one that the server has to cancel logs a traceback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

Item = TypeVar("Item")


async def until(end: asyncio.Event, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
    """The items, as long as `end` is not set."""
    ending = asyncio.ensure_future(end.wait())
    try:
        while not ending.done():
            coming = asyncio.ensure_future(anext(items, None))
            await asyncio.wait((coming, ending), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                return
            item = coming.result()
            if item is None:
                return
            yield item
    finally:
        ending.cancel()


async def unless(end: asyncio.Event, work: Coroutine[Any, Any, Item], *, grace_s: float = 0.0) -> Item | None:
    """What `work` comes to; None if it is not done `grace_s` after `end` is set, and is cancelled."""
    working, ending = asyncio.create_task(work), asyncio.create_task(end.wait())
    try:
        await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
        done, _ = await asyncio.wait((working,), timeout=grace_s)
        return working.result() if done else None
    finally:
        working.cancel()
        ending.cancel()
