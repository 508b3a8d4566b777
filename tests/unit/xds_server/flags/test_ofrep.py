"""OFREP, as its OpenAPI document says (open-feature/protocol, service/openapi.yaml, 0.2.0), served for real."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tests.flagging import MESH, ORIGIN, Answer, Client, Shop, serving_flags
from xds_server.assign import bucket
from xds_server.flags.asking import MAX_BYTES
from xds_server.http_requests import MAX_BROWSER_RATE, Pace
from xds_server.mesh import SegmentSplit, ServiceSplits
from xds_server.settings import parse_mesh

ONE, ALL = "/ofrep/v1/evaluate/flags/", "/ofrep/v1/evaluate/flags"
ON_V2 = next(name for name in map(str, range(100)) if bucket("shop-v2-1", name) < 5_000)
ON_V1 = next(name for name in map(str, range(100)) if bucket("shop-v2-1", name) >= 5_000)
PRO, NONE = {"x-plan": "pro"}, dict[str, str]()


# --- the document's schemas; nothing that it does not name


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class EvaluationSuccess(Schema):
    key: str
    value: bool | str | int | float | dict[str, Any]
    reason: Literal["STATIC", "DEFAULT", "TARGETING_MATCH", "SPLIT", "DISABLED", "UNKNOWN"]
    variant: str
    metadata: dict[str, bool | str | int | float]


class EvaluationFailure(Schema):
    key: str
    errorCode: Literal["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "GENERAL"]  # noqa: N815
    errorDetails: Annotated[str, Field(min_length=1)]  # noqa: N815


class FlagNotFound(Schema):
    key: str
    errorCode: Literal["FLAG_NOT_FOUND"]  # noqa: N815
    errorDetails: str  # noqa: N815


class BulkFailure(Schema):
    errorCode: str  # noqa: N815
    errorDetails: str  # noqa: N815


class BulkSuccess(Schema):
    flags: list[EvaluationSuccess | EvaluationFailure]


SINGLE: dict[int, Any] = {200: EvaluationSuccess, 400: EvaluationFailure, 404: FlagNotFound}
BULK: dict[int, Any] = {200: BulkSuccess, 400: BulkFailure}


def valid(schemas: dict[int, Any], answer: Answer) -> Any:
    """The body, which fits the schema of its status."""
    assert answer.headers["content-type"] == "application/json"
    TypeAdapter(schemas[answer.status]).validate_python(answer.body)
    return answer.body


def talk(scenario: Callable[[Client], Awaitable[None]], shop: Shop | None = None) -> None:
    async def run() -> None:
        async with serving_flags(shop or Shop()) as client:
            await scenario(client)

    asyncio.run(run())


def about(key: str, headers: dict[str, str], **more: object) -> dict[str, Any]:
    return {"context": {"targetingKey": key, "headers": headers, **more}}


# --- one flag


@pytest.mark.parametrize(
    ("key", "headers", "version", "reason", "more"),
    [
        (ON_V2, PRO, "v2", "SPLIT", {"segment": "pro", "split_bp": 5_000}),
        (ON_V1, PRO, "v1", "SPLIT", {"segment": "pro", "split_bp": 5_000}),
        (ON_V2, {"x-plan": "vip"}, "v1", "TARGETING_MATCH", {"segment": "vip", "split_bp": 0}),
        (ON_V2, NONE, "v1", "DEFAULT", {"segment": "default", "split_bp": 0}),
    ],
)
def test_a_flag_says_the_version_and_why(key, headers, version, reason, more) -> None:
    async def scenario(client: Client) -> None:
        found = valid(SINGLE, await client.post(ONE + "shop", about(key, headers)))
        place = bucket("shop-v2-1", key)
        metadata = {"generation": 7, "rollout": "shop-v2-1", "bucket": place, **more}
        assert found == {"key": "shop", "value": version, "variant": version, "reason": reason, "metadata": metadata}

    talk(scenario)


def test_where_everybody_gets_the_same_nothing_but_the_key_need_be_known() -> None:
    async def scenario(client: Client) -> None:
        found = valid(SINGLE, await client.post(ONE + "cart.api", {"context": {"targetingKey": "anna"}}))
        assert (found["value"], found["reason"], found["metadata"]) == ("a", "STATIC", {"generation": 0})

    talk(scenario)


def test_a_promoted_version_is_what_its_segment_gets() -> None:
    shop = Shop()
    segments = {
        "pro": SegmentSplit(baseline="v1", canary="v2", canary_bp=10_000),
        "default": SegmentSplit(baseline="v1"),
    }
    shop.splits["shop"] = replace(shop.splits["shop"], segments=segments)

    async def scenario(client: Client) -> None:
        found = valid(SINGLE, await client.post(ONE + "shop", about(ON_V1, PRO)))
        assert (found["value"], found["reason"]) == ("v2", "TARGETING_MATCH")

    talk(scenario, shop)


MISTAKES: list[tuple[Any, int, str]] = [
    (b"{", 400, "PARSE_ERROR"),
    (b"", 400, "PARSE_ERROR"),
    (b"\xff\xfe", 400, "PARSE_ERROR"),
    (b"[]", 400, "PARSE_ERROR"),
    (b"[" * 50_000, 400, "PARSE_ERROR"),
    ({}, 400, "TARGETING_KEY_MISSING"),
    ({"context": {}}, 400, "TARGETING_KEY_MISSING"),
    ({"context": {"targetingKey": ""}}, 400, "TARGETING_KEY_MISSING"),
    ({"context": {"targetingKey": None}}, 400, "TARGETING_KEY_MISSING"),
    ({"context": []}, 400, "INVALID_CONTEXT"),
    ({"context": {"targetingKey": 5}}, 400, "INVALID_CONTEXT"),
    ({"context": {"targetingKey": "x" * 257}}, 400, "INVALID_CONTEXT"),
    ({"context": {"targetingKey": "ä" * 129}}, 400, "INVALID_CONTEXT"),
    ({"context": {"targetingKey": "a\nb"}}, 400, "INVALID_CONTEXT"),
    ({"context": {"targetingKey": " anna"}}, 400, "INVALID_CONTEXT"),
    ({"context": {"targetingKey": "\ud800"}}, 400, "INVALID_CONTEXT"),
    ({"context": {"targetingKey": "anna"}}, 400, "INVALID_CONTEXT"),  # headers, by which segments go, are left open
    ({"context": {"targetingKey": "anna", "headers": "x"}}, 400, "INVALID_CONTEXT"),
    (about("anna", {"x-plan": 5}), 400, "INVALID_CONTEXT"),
    (about("anna", {"x-plan": "\ud800"}), 400, "INVALID_CONTEXT"),
    (about("anna", {}, cookies={"a": 1}), 400, "INVALID_CONTEXT"),
    (about("anna", {}, path="shop"), 400, "INVALID_CONTEXT"),
    (about("anna", {}, path="/?a=1", query={"a": "1"}), 400, "INVALID_CONTEXT"),
    (about("anna", {}, source="10.0.0"), 400, "INVALID_CONTEXT"),
    (about("anna", {}, claims={"people": 1}), 400, "INVALID_CONTEXT"),
]


def test_each_mistake_has_its_code_and_a_line_that_says_what_is_wrong() -> None:
    async def scenario(client: Client) -> None:
        for body, status, code in MISTAKES:
            answer = await client.post(ONE + "shop", body)
            found = valid(SINGLE, answer)
            assert (answer.status, found["key"], found["errorCode"]) == (status, "shop", code), body
            assert "\n" not in found["errorDetails"]
            bulk = await client.post(ALL, body)
            left_open = body == {"context": {"targetingKey": "anna"}}  # of one flag; the other is answered
            assert bulk.status == (200 if left_open else status), body
            assert valid(BULK, bulk).get("errorCode", code) == code
        unknown = await client.post(ONE + "nothing%2Fhere", about("anna", {}))
        assert unknown.status == 404
        assert valid(SINGLE, unknown)["key"] == "nothing/here"

    talk(scenario)


def test_what_is_too_large_is_refused_and_other_methods_are() -> None:
    async def scenario(client: Client) -> None:
        large = about("anna", {"x": "y" * MAX_BYTES})
        assert [(await client.post(path, large)).status for path in (ONE + "shop", ALL)] == [413, 413]
        assert (await client.send("GET", ALL)).status == 405

    talk(scenario)


def test_what_goes_wrong_in_serinus_is_said_so() -> None:
    async def scenario(client: Client) -> None:
        client.door.flags.told = {}.__getitem__
        answer = await client.post(ONE + "shop", about("anna", {}))
        assert (answer.status, list(answer.body)) == (500, ["errorDetails"])

    talk(scenario)


# --- all flags


def test_all_flags_have_a_tag_that_changes_with_what_is_said() -> None:
    shop = Shop()

    async def scenario(client: Client) -> None:
        first = await client.post(ALL, about(ON_V2, PRO))
        assert [flag["value"] for flag in valid(BULK, first)["flags"]] == ["v2", "a"]
        tag = first.headers["etag"]
        for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = await client.post(ALL, about(ON_V2, PRO), if_none_match=known)
            assert (again.status, again.body, again.headers["etag"]) == (304, "", tag), known
        assert (await client.post(ALL, about(ON_V1, PRO), if_none_match=tag)).status == 200
        splits = shop.splits["shop"]
        shop.splits["shop"] = replace(
            splits, generation=8, segments={**splits.segments, "pro": splits.segments["default"]}
        )
        after = await client.post(ALL, about(ON_V2, PRO), if_none_match=tag)
        assert (after.status, after.body["flags"][0]["value"]) == (200, "v1")
        assert after.headers["etag"] != tag

    talk(scenario, shop)


def test_a_flag_that_cannot_be_evaluated_takes_none_of_the_others_along() -> None:
    async def scenario(client: Client) -> None:
        found = valid(BULK, await client.post(ALL, {"context": {"targetingKey": "anna"}}))["flags"]
        assert [flag.get("errorCode", flag.get("value")) for flag in found] == ["INVALID_CONTEXT", "a"]
        assert "`headers`" in found[0]["errorDetails"]

    talk(scenario)


# --- browsers, and whoever else may reach the port


def test_pages_of_the_mesh_get_the_permission_that_browsers_ask_for_and_no_others() -> None:
    async def scenario(client: Client) -> None:
        asked = {"access_control_request_method": "POST", "access_control_request_headers": "content-type"}
        allowed = await client.send("OPTIONS", ALL, origin=ORIGIN, **asked)
        assert (allowed.status, allowed.headers["access-control-allow-methods"]) == (204, "POST")
        assert "if-none-match" in allowed.headers["access-control-allow-headers"]
        answer = await client.post(ALL, about("anna", PRO), origin=ORIGIN)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "etag" in answer.headers["access-control-expose-headers"]
        other = await client.post(ALL, about("anna", PRO), origin="https://evil.example")
        assert (other.status, "access-control-allow-origin" in other.headers) == (403, False)

    talk(scenario, Shop(origins=frozenset({ORIGIN})))


def test_a_browser_is_known_by_its_cookie_and_told_no_segment() -> None:
    async def scenario(client: Client) -> None:
        body = {"context": {"headers": PRO}}
        found = valid(SINGLE, await client.post(ONE + "shop", body, cookie=f"a=1; sid={ON_V2}"))
        metadata = {"generation": 7, "rollout": "shop-v2-1", "bucket": bucket("shop-v2-1", ON_V2)}
        assert (found["value"], found["metadata"]) == ("v2", metadata)
        claimed = valid(SINGLE, await client.post(ONE + "shop", about(ON_V1, PRO), cookie=f"sid={ON_V2}"))
        assert claimed["value"] == "v1"
        assert valid(SINGLE, await client.post(ONE + "shop", body))["errorCode"] == "TARGETING_KEY_MISSING"

    talk(scenario, Shop(origins=frozenset({ORIGIN})))


@pytest.mark.parametrize("shop", [Shop(origins=frozenset({ORIGIN})), Shop(asks_certificates=True)])
def test_who_is_in_a_learned_segment_is_told_to_the_persons_cookie_alone(shop: Shop) -> None:
    learned = MESH.replace("pro: {match: {headers: [{name: x-plan, exact: pro}]}}", "pro: {learned: keen}")
    shop.mesh, shop.people = parse_mesh(learned, "mesh.yaml"), {ON_V2.encode(): "keen"}

    async def scenario(client: Client) -> None:
        for key in (ON_V2, ON_V1):
            found = valid(SINGLE, await client.post(ONE + "shop", about(key, NONE)))
            assert found["errorCode"] == "GENERAL"
            other = valid(SINGLE, await client.post(ONE + "shop", about(key, NONE), cookie="sid=somebody"))
            assert other == found
        own = valid(SINGLE, await client.post(ONE + "shop", about(ON_V2, NONE), cookie=f"sid={ON_V2}"))
        assert own["value"] == "v2"

    talk(scenario, shop)


def test_servers_of_a_network_of_ones_own_are_told_of_learned_segments() -> None:
    learned = MESH.replace("pro: {match: {headers: [{name: x-plan, exact: pro}]}}", "pro: {learned: keen}")
    shop = Shop(mesh=parse_mesh(learned, "mesh.yaml"), people={ON_V2.encode(): "keen"})

    async def scenario(client: Client) -> None:
        found = valid(SINGLE, await client.post(ONE + "shop", about(ON_V2, NONE)))
        assert (found["value"], found["metadata"]["segment"]) == ("v2", "pro")

    talk(scenario, shop)


def test_anybody_may_ask_so_often_and_no_oftener() -> None:
    async def scenario(client: Client) -> None:
        client.door.pace = Pace(clock=lambda: now[0])
        for _ in range(MAX_BROWSER_RATE):
            assert client.door.pace.is_calm()
        answer = await client.post(ALL, about("anna", PRO))
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        now[0] = 2.0
        assert (await client.post(ALL, about("anna", PRO))).status == 200

    now = [1.0]
    talk(scenario, Shop(origins=frozenset({ORIGIN})))


def test_evaluations_are_counted_by_reason_and_error() -> None:
    async def scenario(client: Client) -> None:
        await client.post(ALL, about(ON_V2, PRO))
        await client.post(ONE + "nothing", about(ON_V2, PRO))
        assert {str(k): n for k, n in client.door.flags.answers.items()} == {
            "SPLIT": 1,
            "STATIC": 1,
            "FLAG_NOT_FOUND": 1,
        }

    talk(scenario)


def test_a_pinned_segment_goes_by_its_pin_whatever_a_split_says() -> None:
    shop = Shop()
    splits = shop.splits["shop"]
    shop.splits["shop"] = ServiceSplits(
        rollout=splits.rollout,
        generation=8,
        segments={**splits.segments, "vip": SegmentSplit(baseline="v1", canary="v2", canary_bp=9_999)},
    )

    async def scenario(client: Client) -> None:
        assert (await client.post(ONE + "shop", about(ON_V2, {"x-plan": "vip"}))).body["value"] == "v1"

    talk(scenario, shop)
