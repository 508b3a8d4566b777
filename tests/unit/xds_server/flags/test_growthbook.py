"""What GrowthBook's own SDK makes of what it is served is what Envoy does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from growthbook import GrowthBook

from tests.flagging import ORIGIN, SPLITS, Client, Shop, serving_flags
from xds_server.assign import shares, version_for
from xds_server.flags.context import read_context
from xds_server.flags.growthbook import attribute, feature
from xds_server.mesh import SegmentSplit, ServiceSplits

FALLBACK = "the application's own"


def talk(scenario: Callable[[Client], Awaitable[None]], shop: Shop | None = None) -> None:
    async def run() -> None:
        async with serving_flags(shop or Shop()) as client:
            await scenario(client)

    asyncio.run(run())


def evaluated(payload: object, attributes: dict[str, object], flag: str = "shop") -> str:
    """What the SDK says."""
    return str(GrowthBook(attributes=attributes, features=payload).get_feature_value(flag, FALLBACK))


def test_whoever_says_where_envoy_has_them_gets_envoys_version() -> None:
    """Every bucket beside an edge, in every segment, and 500 people by their evaluations."""
    shop = Shop()
    payload = {name: feature(shop.mesh.services[name], splits) for name, splits in SPLITS.items()}
    for segment in ("vip", "pro", "default"):
        split = SPLITS["shop"].segments.get(segment, SegmentSplit(baseline="v1"))
        edges = {b for _, first, end in shares(split) for b in (first - 1, first, end - 1, end) if 0 <= b < 10_000}
        for place in edges:
            said = {attribute("shop"): {"rollout": "shop-v2-1", "segment": segment, "bucket": place}}
            assert evaluated(payload, said) == version_for(split, place), (segment, place)
    flags, seen = shop.flags(), set()
    for n in range(500):
        context = read_context({"targetingKey": f"p{n}", "headers": {"x-plan": ("pro", "vip", "")[n % 3]}})
        found = flags.evaluate("shop", context)
        assert evaluated(payload, {attribute("shop"): dict(found.metadata)}) == found.version
        seen.add((found.reason, found.version))
    assert len(seen) == 4  # both sides of a split, a pin, and the rest


@pytest.mark.parametrize("said", [None, {}, {"rollout": "shop-v2-0", "segment": "pro", "bucket": 1}, {"bucket": 1}])
def test_whoever_does_not_gets_no_guess(said: object) -> None:
    """Nobody's bucket, or one of a rollout before."""
    payload = {"shop": feature(Shop().mesh.services["shop"], SPLITS["shop"])}
    assert evaluated(payload, {} if said is None else {attribute("shop"): said}) == FALLBACK


def test_where_everybody_gets_the_same_nothing_need_be_said() -> None:
    payload = {"cart.api": feature(Shop().mesh.services["cart.api"], SPLITS["cart.api"])}
    assert evaluated(payload, {}, "cart.api") == "a"


def test_a_service_with_dots_in_its_name_has_an_attribute_that_is_found() -> None:
    mesh = Shop().mesh
    service = replace(mesh.services["cart.api"], spec=replace(mesh.services["cart.api"].spec, versions=("a", "b")))
    split = {"default": SegmentSplit(baseline="a", canary="b", canary_bp=100)}
    payload = {"cart.api": feature(service, ServiceSplits(rollout="r", generation=1, segments=split))}
    said = {attribute("cart.api"): {"rollout": "r", "segment": "default", "bucket": 99}}
    assert evaluated(payload, said, "cart.api") == "b"


def test_the_payload_is_served_with_a_tag_and_rules_are_not_told_to_anybody() -> None:
    async def private(client: Client) -> None:
        first = await client.send("GET", "/api/features/sdk-1")
        assert set(first.body["features"]) == {"shop", "cart.api"}
        again = await client.send("GET", "/api/features/sdk-1", if_none_match=first.headers["etag"])
        assert (again.status, again.body) == (304, "")

    async def public(client: Client) -> None:
        assert (await client.send("GET", "/api/features/sdk-1", origin=ORIGIN)).status == 403

    talk(private)
    talk(public, Shop(origins=frozenset({ORIGIN})))


def test_remote_evaluation_says_one_persons_versions_and_leaves_out_what_it_cannot() -> None:
    async def scenario(client: Client) -> None:
        asked = {"attributes": {"id": "anna", "headers": {"x-plan": "vip"}}, "forcedVariations": {}, "url": ""}
        answer = await client.post("/api/eval/sdk-1", asked)
        assert answer.body == {"features": {"shop": {"defaultValue": "v1"}, "cart.api": {"defaultValue": "a"}}}
        little = await client.post("/api/eval/sdk-1", {"attributes": {"id": "anna"}})
        assert little.body == {"features": {"cart.api": {"defaultValue": "a"}}}
        for wrong in ({}, {"attributes": {}}, {"attributes": 1}, b"{", {"attributes": {"id": 5}}):
            assert (await client.post("/api/eval/sdk-1", wrong)).status == 400

    talk(scenario)
