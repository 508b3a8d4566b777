"""Who may do what."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from xds_server import pb
from xds_server.access import OPEN_TO_ALL, RIGHTS, Access, Denial, DeniedError, Grant, fits
from xds_server.ads.servicer import METHODS
from xds_server.mesh import AccessRule

EDGE = AccessRule(san="spiffe://mesh/ns/edge/*", may=frozenset({"xds", "ingest"}), nodes=("edge-*",))
CART = AccessRule(
    san="spiffe://mesh/ns/cart/**", may=frozenset({"xds", "observe", "control"}), services=frozenset({"cart"})
)
ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("spiffe://mesh/ns/edge/sa/*", "spiffe://mesh/ns/edge/sa/envoy", True),
        ("spiffe://mesh/ns/edge/sa/*", "spiffe://mesh/ns/edge/sa/a/b", False),
        ("spiffe://mesh/ns/edge/**", "spiffe://mesh/ns/edge/sa/a/b", True),
        ("spiffe://mesh/ns/edge/**", "spiffe://mesh/ns/edge", False),
        ("spiffe://mesh/ns/edge", "spiffe://mesh/ns/edge/x", False),
        ("spiffe://mesh/ns/v1.2/*", "spiffe://mesh/ns/v1x2/a", False),
        ("spiffe://*/ns/edge", "spiffe://evil/mesh/ns/edge", False),
        ("spiffe://mesh/ns/edge", "SPIFFE://mesh/ns/edge", False),
        ("*.ops.internal", "ann.ops.internal", True),
        ("*.ops.internal", "Ann.OPS.internal", True),
        ("*.ops.internal", "a.b.ops.internal", False),
        ("**.ops.internal", "a.b.ops.internal", True),
        ("*.ops.internal", "ann.ops.internal.evil.com", False),
        ("*.ops.internal", "ann.ops.internal\n", False),
        ("**", "spiffe://mesh/ns/edge", False),
        ("*://**", "anything", False),
    ],
)
def test_a_star_stands_for_one_part_of_a_name(pattern: str, name: str, expected: bool) -> None:
    assert fits(pattern, name) is expected


def denial(access: Access, method: str, *sans: str) -> Denial | None:
    try:
        access.grant(method, sans)
    except DeniedError as error:
        return error.denial
    return None


def test_without_rules_everybody_may_do_everything() -> None:
    assert Access().grant(ADS, ()) == Grant()
    assert denial(Access(), "some.other.Service/Method") is None


def test_the_first_rule_that_fits_counts() -> None:
    access = Access((AccessRule(san="spiffe://mesh/ns/edge/x", may=frozenset({"observe"})), EDGE))
    assert denial(access, ADS, "spiffe://mesh/ns/edge/x") is Denial.NO_RIGHT
    assert denial(access, ADS, "spiffe://mesh/ns/edge/y") is None


def test_with_rules_nobody_else_may_do_anything() -> None:
    access = Access((EDGE,))
    assert denial(access, ADS) is Denial.NO_RULE
    assert denial(access, ADS, "spiffe://mesh/ns/shop/x", "edge.internal") is Denial.NO_RULE


@pytest.mark.parametrize("method", ["some.other.Service/Method", "serinus.other.v1.Thing/Do", "", "/", ADS[1:]])
def test_a_service_that_no_right_is_for_is_nobodys(method: str) -> None:
    everything = AccessRule(san="a", may=frozenset({"xds", "ingest", "observe", "control", "register"}))
    assert denial(Access((everything,)), method, "a") is Denial.NO_RIGHT


def test_whoever_gets_in_may_ask_whether_the_control_plane_serves() -> None:
    assert denial(Access((EDGE,)), OPEN_TO_ALL + "Check") is None


def test_what_tells_of_every_service_is_not_for_those_who_may_see_some() -> None:
    method = "envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus"
    assert denial(Access((CART,)), method, "spiffe://mesh/ns/cart/x") is Denial.SERVICE


def test_node_ids_are_compared_with_patterns() -> None:
    grant = Access((EDGE,)).grant(ADS, ("spiffe://mesh/ns/edge/x",))
    assert grant.is_node("edge-1")
    assert not grant.is_node("inner-1")
    assert not grant.is_node("edge")
    assert not grant.is_node("edge-" + "x" * 10_000)


def methods() -> Iterator[str]:
    """Every method that this package serves: those of xDS, and those of its own services."""
    yield from (f"{service}/{method}" for service, each in METHODS.items() for method in each)
    for module in pkgutil.iter_modules(pb.__path__):
        if module.name.endswith("_pb2"):
            described = importlib.import_module(f"xds_server.pb.{module.name}").DESCRIPTOR
            for service in described.services_by_name.values():
                yield from (f"{service.full_name}/{method.name}" for method in service.methods)
    for path in Path(pb.__path__[0]).parent.rglob("*.py"):  # those served as bytes
        for name in re.findall(
            r'^[A-Z_]+(?:: Final)? = "([a-z.0-9]+\.v\d+\.[A-Z]\w+Service)"', path.read_text(), re.MULTILINE
        ):
            yield f"{name}/Method"


@pytest.mark.parametrize("method", sorted(set(methods())))
def test_every_method_that_is_served_needs_a_right(method: str) -> None:
    assert any(method.startswith(beginning) for beginning, _ in (*RIGHTS, (OPEN_TO_ALL, "")))


def test_looking_is_not_steering() -> None:
    rights = {m: next(r for b, r in RIGHTS if m.startswith(b)) for m in methods() if m.startswith("serinus.control")}
    assert {method.partition("/")[2] for method, right in rights.items() if right == "observe"} == {
        *("Explain", "GetHistory", "GetProfile", "GetProfileEvaluation", "GetStatus"),
        *("GetRecords", "GetTape", "ListRollouts", "ListSegments", "WatchStatus"),
    }


def test_registering_is_neither_looking_nor_steering() -> None:
    rights = {m: next(r for b, r in RIGHTS if m.startswith(b)) for m in methods() if m.startswith("serinus.registry")}
    assert {method.partition("/")[2]: right for method, right in rights.items()} == {
        **dict.fromkeys(("Register", "Renew", "Deregister"), "register"),
        "List": "observe",
        "Remove": "control",
    }
