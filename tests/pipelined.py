"""Requests as bytes, many on a connection at once: what is asked is exactly what is written, and fast."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

AT_ONCE = 50  # on their way on one connection


def request(host: str, headers: Iterable[tuple[str, str]] = (), path: str = "/", method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode()


async def answers(port: int, requests: Sequence[bytes], connections: int = 4) -> list[tuple[int, Any]]:
    """Status and JSON body of each answer (None: no JSON), in the order of the requests."""
    share = -(-len(requests) // connections)
    parts = (requests[i : i + share] for i in range(0, len(requests), share))
    return [each for part in await asyncio.gather(*(_on_one(port, part) for part in parts)) for each in part]


async def _on_one(port: int, requests: Sequence[bytes]) -> list[tuple[int, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = []
    try:
        for i in range(0, len(requests), AT_ONCE):
            batch = requests[i : i + AT_ONCE]
            writer.write(b"".join(batch))
            said += [await _answer(reader) for _ in batch]
    finally:
        writer.close()
    return said


async def _answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    size = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
    body = await reader.readexactly(size)
    is_json = body.startswith(b"{")
    return int(status.split()[1]), json.loads(body) if is_json else None
