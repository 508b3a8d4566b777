"""Flags of a shop, served as `serinus run` serves them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from xds_server.flags.asking import Door
from xds_server.flags.evaluation import Flags
from xds_server.flags.growthbook import GrowthBook
from xds_server.flags.ofrep import Ofrep
from xds_server.mesh import Mesh, SegmentSplit, ServiceSplits
from xds_server.settings import parse_mesh
from xds_server.web.app import create_app
from xds_server.web.server import listen, serve

ORIGIN = "https://shop.example"
MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}, {cookie: {name: sid}}]
    session: {hold: false}
    versions:
      v1: {endpoints: ["127.0.0.1:9001"]}
      v2: {endpoints: ["127.0.0.1:9002"]}
    baseline: v1
    segments:
      vip: {match: {headers: [{name: x-plan, exact: vip}]}, pin: v1}
      pro: {match: {headers: [{name: x-plan, exact: pro}]}}
  cart.api:
    domains: [cart]
    port: 10001
    identity: [{header: x-user-id}]
    versions: {a: {endpoints: ["127.0.0.1:9003"]}}
    baseline: a
"""
SPLITS = {
    "shop": ServiceSplits(
        rollout="shop-v2-1",
        generation=7,
        segments={
            "pro": SegmentSplit(baseline="v1", canary="v2", canary_bp=5_000),
            "default": SegmentSplit(baseline="v1", canary="v2", canary_bp=0),
        },
    ),
    "cart.api": ServiceSplits(rollout="", generation=0, segments={"default": SegmentSplit(baseline="a")}),
}


@dataclass(slots=True)
class Shop:
    """`splits` and `people` (of learned segments, by key) may be changed at any time."""

    mesh: Mesh = field(default_factory=lambda: parse_mesh(MESH, "mesh.yaml"))
    splits: dict[str, ServiceSplits] = field(default_factory=lambda: dict(SPLITS))
    people: dict[bytes, str] = field(default_factory=dict)
    origins: frozenset[str] = frozenset()
    asks_certificates: bool = False

    def flags(self) -> Flags:
        def told(name: str) -> Any:
            return (self.mesh.services[name], self.splits[name]) if name in self.splits else None

        return Flags(told=told, names=lambda: self.splits, learned=lambda _, key: self.people.get(key, ""))


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True)
class Client:
    session: aiohttp.ClientSession
    door: Door
    url: str

    async def post(self, path: str, body: object, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send("POST", path, data, **headers)

    async def send(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Answer:
        given = {"content-type": "application/json", **{n.replace("_", "-"): v for n, v in headers.items()}}
        async with self.session.request(method, self.url + path, data=data, headers=given) as response:
            text = await response.text()
            return Answer(response.status, response.headers, json.loads(text) if text.startswith("{") else text)


@asynccontextmanager
async def serving_flags(shop: Shop, *, timeout_s: float = 20.0) -> AsyncIterator[Client]:
    door = Door(flags=shop.flags(), origins=lambda: shop.origins, asks_certificates=shop.asks_certificates)
    routes = [*Ofrep(door).routes(), *GrowthBook(door).routes()]
    app = create_app(not_ready=lambda: None, metrics=bytes, more=routes)
    stop, listener = asyncio.Event(), listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(app, listener, stop))
        try:
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
                yield Client(session, door, url)
        finally:
            stop.set()
