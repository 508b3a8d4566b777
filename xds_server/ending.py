"""Streams that end when the control plane does: one that the server has to cancel logs a traceback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

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
