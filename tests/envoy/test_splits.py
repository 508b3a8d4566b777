"""Splits take effect, people stay where they are, and Python knows where that is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp
import pytest
from scipy.stats import chi2_contingency

from xds_server.assign import bucket, version_for
from xds_server.mesh import Mesh

PEOPLE = [f"person-{n}" for n in range(2_000)]


def _are_independent(one: set[str], other: set[str]) -> bool:
    """Pearson's test of people in both, in one or in none, at 0.1 %."""
    table = [[0, 0], [0, 0]]
    for person in PEOPLE:
        table[person in one][person in other] += 1
    return bool(chi2_contingency(table, correction=False).pvalue > 0.001)


@pytest.mark.shows("matrix", 12)
def test_nobody_leaves_the_canary_while_its_split_grows_and_python_names_everybody(rig):
    """0 -> 5 -> 20 -> 50 -> 95 %: each step only adds people, and `assign` agrees with Envoy for every person.

    The next rollout deals them out anew: at 20 % and 50 % the two have no more people in common than chance would give.
    """

    async def versions(client: aiohttp.ClientSession, port: int) -> list[str]:
        async def of(people: Iterable[str]) -> list[str]:
            return [(await rig.ask(client, port, {"x-user-id": person})).version for person in people]

        parts = await asyncio.gather(*(of(PEOPLE[i : i + 125]) for i in range(0, len(PEOPLE), 125)))
        return [version for part in parts for version in part]

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, rig.control_plane() as plane:
            port = rig.free_port()
            mesh = Mesh(path="mesh.yaml", services={"shop": rig.service({"v1": v1, "v2": v2}, port=port)})
            plane.cache.publish(mesh, rig.split(0))
            async with rig.envoy(mesh, "side-1", plane.port), aiohttp.ClientSession() as client:
                canaries: set[str] = set()
                by_split: dict[int, set[str]] = {}
                for generation, canary_bp in enumerate((0, 500, 2_000, 5_000, 9_500), start=1):
                    splits = rig.split(canary_bp, generation=generation)
                    plane.cache.publish(mesh, splits)
                    assert await plane.cache.in_force("shop", generation, {"side-1"}, 5.0) == ()
                    seen = await versions(client, port)
                    default = splits["shop"].segments["default"]
                    assert seen == [version_for(default, bucket("shop-1", person)) for person in PEOPLE]
                    now = {person for person, version in zip(PEOPLE, seen, strict=True) if version == "v2"}
                    assert canaries <= now, f"left the canary at {canary_bp}: {canaries - now}"
                    assert abs(len(now) - len(PEOPLE) * canary_bp / 10_000) < 100
                    canaries = now
                    by_split[canary_bp] = now
                plane.cache.publish(mesh, rig.split(2_000, generation=6, rollout="shop-2"))
                assert await plane.cache.in_force("shop", 6, {"side-1"}, 5.0) == ()
                seen = await versions(client, port)
                others = {person for person, version in zip(PEOPLE, seen, strict=True) if version == "v2"}
                assert all(_are_independent(others, by_split[canary_bp]) for canary_bp in (2_000, 5_000))

    asyncio.run(scenario())
