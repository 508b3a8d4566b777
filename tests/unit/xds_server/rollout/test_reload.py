"""What of an edited mesh is served while a rollout runs, and what waits."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from xds_server.mesh import Mesh
from xds_server.node import NodeKind
from xds_server.rollout.reload import effective, only
from xds_server.settings import parse_mesh
from xds_server.snapshot import ResourceType
from xds_server.snapshot.builder import SnapshotBuilder

SIDECARS = NodeKind(role="sidecar")
MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]  # shop's
    versions: {v1: {endpoints: ["127.0.0.1:1"]}, v2: {endpoints: ["127.0.0.1:2"]}}
    baseline: v1
    segments: {power: {match: {headers: [{name: x-plan, exact: pro}]}}}
  cart:
    domains: [cart]
    port: 10001
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:3"]}}
    baseline: v1
gateways:
  edge: {listen: "127.0.0.1:8080", services: [shop, cart]}
"""


def mesh(*edits: tuple[str, str]) -> Mesh:
    text = MESH
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return parse_mesh(text, "mesh.yaml")


@pytest.mark.parametrize("running", [(), ("shop",), ("shop", "cart")])
def test_where_requests_go_changes_at_once(running: Collection[str]) -> None:
    wanted = mesh(("127.0.0.1:1", "127.0.0.1:9"), ("port: 10000", "port: 10009"), ("domains: [shop]", "domains: [s]"))
    served, waiting = effective(mesh(), wanted, running)
    assert (served, waiting) == (wanted, ())


@pytest.mark.parametrize(
    "edit",
    [
        ("exact: pro", "exact: gold"),
        ("[{header: x-user-id}]  # shop's", "[{header: x-id}]"),
        ("127.0.0.1:2\"]}}", "127.0.0.1:2\"]}, v3: {endpoints: [\"127.0.0.1:4\"]}}"),
        ("2\"]}}\n    baseline: v1", "2\"]}}\n    baseline: v2"),
    ],
)  # fmt: skip
def test_what_a_rollout_is_about_waits_and_the_rest_does_not(edit: tuple[str, str]) -> None:
    wanted = mesh(edit, ("127.0.0.1:1", "127.0.0.1:9"), ("127.0.0.1:3", "127.0.0.1:8"))
    served, waiting = effective(mesh(), wanted, {"shop"})
    assert waiting == ("shop",)
    assert served.services["cart"] == wanted.services["cart"]
    old = mesh().services["shop"]
    new = served.services["shop"]
    assert (new.spec, new.identity, new.matches) == (old.spec, old.identity, old.matches)
    assert new.versions["v1"] == wanted.services["shop"].versions["v1"], "its endpoints have moved all the same"
    assert effective(served, wanted, ()) == (wanted, ()), "it has ended"


def test_a_service_that_is_removed_goes_once_its_rollout_has_ended() -> None:
    cart = MESH[MESH.index("  cart:") : MESH.index("gateways:")]
    wanted = mesh((cart, ""), ("services: [shop, cart]", "services: [shop]"))
    served, waiting = effective(mesh(), wanted, {"cart"})
    assert waiting == ("cart",)
    assert set(served.services) == {"shop", "cart"}
    assert served.gateways["edge"].services == ("shop", "cart")
    assert effective(served, wanted, ()) == (wanted, ())


def test_a_service_that_leaves_a_gateway_leaves_it_at_once() -> None:
    """Though it is in the mesh still, and whether or not it is rolled out."""
    wanted = mesh(("services: [shop, cart]", "services: [shop]"))
    assert effective(mesh(), wanted, ()) == (wanted, ())
    assert effective(mesh(), wanted, {"cart"}) == (wanted, ())


ISSUER = """
jwt: {people: {jwks: {inline: '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}'}}}
"""
BY_HEADER, BY_CLAIM = "{headers: [{name: x-plan, exact: pro}]}", "{claims: [{name: plan, exact: pro}]}"


def test_an_issuer_goes_once_no_rollout_asks_for_its_claims_any_more() -> None:
    """Or the segments that are kept would ask for what nobody verifies."""
    current = parse_mesh(ISSUER + MESH.replace(BY_HEADER, BY_CLAIM), "mesh.yaml")
    without_shop = MESH.replace(MESH[MESH.index("  shop:") : MESH.index("  cart:")], "").replace(
        "[shop, cart]", "[cart]"
    )
    for wanted in (mesh(), parse_mesh(without_shop, "mesh.yaml")):
        served, waiting = effective(current, wanted, {"shop"})
        assert (waiting, served.jwt) == (("shop",), current.jwt)
        assert SnapshotBuilder().build(served, {}, SIDECARS).resources[ResourceType.LDS]
        assert effective(served, wanted, ()) == (wanted, ())


def test_an_issuers_new_keys_count_at_once() -> None:
    current = parse_mesh(ISSUER + MESH.replace(BY_HEADER, BY_CLAIM), "mesh.yaml")
    wanted = parse_mesh(ISSUER.replace("AA", "BB") + MESH, "mesh.yaml")
    served, waiting = effective(current, wanted, {"shop"})
    assert (waiting, served.jwt) == (("shop",), wanted.jwt)


def test_nobody_is_let_go_in_mid_session_while_a_rollout_runs() -> None:
    wanted = mesh(("segments: {power", "session: {hold: false}\n    segments: {power"))
    served, waiting = effective(mesh(), wanted, {"shop"})
    assert (waiting, served.services["shop"].holds) == (("shop",), True)
    assert effective(served, wanted, ()) == (wanted, ())


def test_only_one_service() -> None:
    found = only(mesh(), mesh().services["cart"])
    assert set(found.services) == {"cart"}
    assert found.gateways["edge"].services == ("cart",)
