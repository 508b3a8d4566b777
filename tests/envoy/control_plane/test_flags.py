"""Nobody is told one version by a flag and routed to another by the mesh: real clients beside a real Envoy."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from growthbook import GrowthBook, feature_repo
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

from tests.pipelined import answers, request
from xds_server.assign import bucket
from xds_server.flags.growthbook import attribute
from xds_server.pb import control_pb2 as pb

NAMES = ("person-{}", "jörg.{}@shop.example", "{:032x}", "Ü{} Ä", "{}")
PEOPLE = [NAMES[n % 5].format(n) for n in range(5_000)]
LONGEST_S = 2.0  # that a push may take on a busy machine; on a quiet one it is milliseconds
QUIET_S = 0.3  # before a push and after it


def plan(person: str) -> str:
    return "pro" if PLACE[person] % 3 == 0 else "free"


PLACE = {person: n for n, person in enumerate(PEOPLE)}


class Clients:
    """OpenFeature's SDK with its OFREP provider, and GrowthBook's, as an application has them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._provider = OFREPProvider(url)
        api.set_provider(self._provider)
        self._client = api.get_client()

    def close(self) -> None:
        api.clear_providers()
        self._provider.session.close()
        feature_repo.clear_cache()

    def openfeature(self, people: Iterable[str]) -> dict[str, Any]:
        """What each is told, in full."""
        return {
            person: self._client.get_string_details(
                "shop", "", EvaluationContext(person, {"headers": {"x-plan": plan(person)}})
            )
            for person in people
        }

    def growthbook(self, people: Iterable[str], rollout: str) -> dict[str, str]:
        """By its rules, as they are served now, for people whose bucket is computed where they are evaluated."""
        feature_repo.clear_cache()
        growthbook = GrowthBook(api_host=self._url, client_key="any")
        growthbook.load_features()
        said = {}
        for person in people:
            segment = "power" if plan(person) == "pro" else "default"
            place = {"rollout": rollout, "segment": segment, "bucket": bucket(rollout, person)}
            growthbook.set_attributes({attribute("shop"): place})
            said[person] = growthbook.get_feature_value("shop", "")
        return said

    def remote_growthbook(self, people: Iterable[str]) -> dict[str, str]:
        """As Serinus evaluates for it."""
        said = {}
        for person in people:
            feature_repo.clear_cache()
            who = {"id": person, "headers": {"x-plan": plan(person)}}
            growthbook = GrowthBook(api_host=self._url, client_key="any", remote_eval=True, attributes=who)
            growthbook.load_features()
            said[person] = growthbook.get_feature_value("shop", "")
        return said


@dataclass(slots=True)
class Watcher:
    """Asks for people at Envoy and at the flag at the same time, over and over. `seen`: begun when, routed, told."""

    rig: Any
    client: aiohttp.ClientSession
    port: int
    flag: str
    people: list[str]
    seen: list[tuple[float, str, str]] = field(default_factory=list)

    async def follow(self, over: asyncio.Event) -> None:
        for person in itertools.cycle(self.people):
            if over.is_set():
                return
            began, headers = time.monotonic(), [("x-user-id", person), ("x-plan", plan(person))]
            answer, told = await asyncio.gather(self.rig.ask(self.client, self.port, headers), self.told(person))
            self.seen.append((began, answer.version, told))

    async def told(self, person: str) -> str:
        context = {"targetingKey": person, "headers": {"x-plan": plan(person)}}
        async with self.client.post(self.flag, json={"context": context}) as response:
            return str((await response.json())["value"])


@pytest.mark.slow
def test_openfeature_and_growthbook_agree_with_envoys_routing_for_everybody(place, rig, record_property):
    """In one generation, for 5,000 of 5,000: along a ramp in two segments, after one's rollback, and with a new salt.

    OpenFeature's SDK, which takes a request for each evaluation, asks for another quarter of them each time. Across two
    pushes those whom they move are asked for all the time: who differs does so until the splits are in force, at most.
    """

    async def routed(port: int) -> dict[str, str]:
        """By which version each is served."""
        lines = [request("shop", [("x-user-id", person), ("x-plan", plan(person))]) for person in PEOPLE]
        said = await answers(port, lines)
        assert {status for status, _ in said} == {200}
        return {person: body["version"] for person, (_, body) in zip(PEOPLE, said, strict=True)}

    async def agree(serinus: Any, clients: Clients, port: int, turn: int) -> set[str]:
        """Whom the canary has, as everybody says."""
        await rig.eventually(serinus.in_force, "its splits")
        shop = await serinus.shop()
        envoys = await routed(port)
        assert await asyncio.to_thread(clients.growthbook, PEOPLE, shop["rollout"]) == envoys
        told = await asyncio.to_thread(clients.openfeature, PEOPLE[turn::4])
        assert {person: each.value for person, each in told.items()} == {person: envoys[person] for person in told}
        assert {each.flag_metadata["generation"] for each in told.values()} == {int(shop["generation"])}
        few = PEOPLE[turn::500]
        assert await asyncio.to_thread(clients.remote_growthbook, few) == {person: envoys[person] for person in few}
        return {person for person, version in envoys.items() if version == "v2"}

    async def push(serinus: Any, watcher: Watcher, what: Awaitable[None], before: str, after: str) -> None:
        over = asyncio.Event()
        following = [asyncio.create_task(watcher.follow(over)) for _ in range(4)]
        await asyncio.sleep(QUIET_S)
        began = time.monotonic()
        await what
        await rig.eventually(serinus.in_force, "its splits")
        in_force = time.monotonic()
        await asyncio.sleep(QUIET_S)
        over.set()
        await asyncio.gather(*following)
        differ = [at for at, envoys, told in watcher.seen if envoys != told]
        lasted_s = max(differ, default=began) - began
        record_property(f"{before} to {after}", f"{len(differ)} of {len(watcher.seen)} differ, {lasted_s:.3f} s")
        assert {each[1:] for each in watcher.seen if each[0] > in_force} == {(after, after)}
        assert {each[1:] for each in watcher.seen[:20]} == {(before, before)}
        assert lasted_s < LONGEST_S

    async def scenario() -> None:
        async with (
            rig.backend("v1") as one,
            rig.backend("v2") as two,
            aiohttp.ClientSession() as client,
        ):
            _, port = place.write_mesh([SimpleNamespace(port=one), SimpleNamespace(port=two)])
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc):
                url = f"http://127.0.0.1:{serinus.http}"
                clients = Clients(url)
                try:
                    rollout = await serinus.begin()
                    moved = [p for p in PEOPLE if 1_000 <= bucket(rollout, p) < 6_000 and plan(p) == "free"]
                    watch = partial(Watcher, rig, client, port, f"{url}/ofrep/v1/evaluate/flags/shop", moved)
                    await serinus.set(1_000)
                    await serinus.set(5_000, "power")
                    first = await agree(serinus, clients, port, 0)
                    await push(serinus, watch(), serinus.set(6_000), "v1", "v2")
                    second = await agree(serinus, clients, port, 1)
                    await serinus.act(pb.ACTION_ROLLBACK, "power")
                    third = await agree(serinus, clients, port, 2)
                    await push(serinus, watch(), serinus.act(pb.ACTION_ROLLBACK), "v2", "v1")
                    await serinus.begin()
                    await serinus.set(6_000)
                    fourth = await agree(serinus, clients, port, 3)
                finally:
                    clients.close()
            assert first < second
            assert third == {person for person in second if plan(person) == "free"}
            assert 0 < len(fourth & second) < 0.7 * len(fourth), "the salt has changed nothing"

    asyncio.run(scenario())
