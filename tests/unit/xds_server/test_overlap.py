"""Who can be in which segment, as far as it can be proven."""

from __future__ import annotations

import time

import pytest

from xds_server.overlap import overlaps
from xds_server.settings import MeshError, parse_mesh

MESH = """
jwt: {people: {jwks: {inline: '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}'}}}
services:
  shop:
    domains: [shop]
    port: 1
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:2"]}}
    baseline: v1
    segments:
      one: {match: ONE}
      two: {match: TWO}
"""
NEVER = "never reached: segment one matches everybody who matches this"

COVERED = [
    ("{path: /a}", "{path: /a/b}"),
    ("{headers: [{name: x, present: true}]}", "{headers: [{name: X, range: [1, 2]}]}"),
    ("{headers: [{name: x, prefix: pr}]}", "{headers: [{name: x, exact: pro}], path: /a}"),
    ("{headers: [{name: x, contains: r}]}", "{headers: [{name: x, suffix: ro}]}"),
    ("{headers: [{name: x, regex: 'p.*'}]}", "{headers: [{name: x, exact: pro}]}"),
    ("{headers: [{name: x, range: [0, 9]}]}", "{headers: [{name: x, exact: 8}]}"),
    ("{headers: [{name: x, present: false}]}", "{headers: [{name: x, present: false}, {name: y, exact: a}]}"),
    ("{cookies: [{name: c, prefix: a}]}", "{cookies: [{name: c, prefix: ab}]}"),
    ("{query: [{name: q, present: true}]}", "{query: [{name: q, exact: '1'}]}"),
    ("{source: [10.0.0.0/8, '2001:db8::/32']}", "{source: ['2001:db8:1::/48', 10.1.0.0/16]}"),
    ("{source: [10.0.0.0/9, 10.128.0.0/9]}", "{source: [10.64.0.0/10, 10.128.0.0/10]}"),
    ("{source: [10.0.0.0/9, 10.0.0.0/8, 10.4.0.0/16]}", "{source: [10.200.0.0/16]}"),
    ("{claims: [{name: plan, prefix: p}]}", "{claims: [{name: plan, exact: pro}]}"),
    ("{claims: [{name: n, range: [0, 9]}]}", "{claims: [{name: n, range: [3, 4]}]}"),
]
APART = [
    ("{path: /a}", "{path: /b}"),
    ("{headers: [{name: x, exact: a}]}", "{headers: [{name: x, exact: b}]}"),
    ("{headers: [{name: x, exact: a}]}", "{headers: [{name: x, present: false}]}"),
    ("{headers: [{name: x, prefix: a}]}", "{headers: [{name: x, prefix: b}]}"),
    ("{headers: [{name: x, range: [0, 3]}]}", "{headers: [{name: x, range: [3, 5]}]}"),
    ("{cookies: [{name: c, regex: 'a+'}]}", "{cookies: [{name: c, exact: ab}]}"),
    ("{source: [10.0.0.0/8]}", "{source: [11.0.0.0/8, '::/0']}"),
    ("{source: [10.0.0.0, 10.0.0.2]}", "{source: [10.0.0.1, 10.0.0.3, '::a00:0']}"),
    ("{claims: [{name: plan, present: false}]}", "{claims: [{name: plan, exact: pro}]}"),
]
OVERLAPPING = [
    ("{path: /a/b}", "{path: /a}"),
    ("{headers: [{name: x, exact: a}]}", "{cookies: [{name: x, exact: b}]}"),
    ("{headers: [{name: x, prefix: a}]}", "{headers: [{name: x, suffix: b}]}"),
    ("{source: [10.1.0.0/16]}", "{source: [10.0.0.0/8]}"),
    ("{source: [10.0.0.0/9, 10.192.0.0/10]}", "{source: [10.0.0.0/8]}"),
    # A claim may be a list, of which one item is this and another one that.
    ("{claims: [{name: roles, exact: a}]}", "{claims: [{name: roles, exact: b}]}"),
    # The number 3 matches the second one alone.
    ("{claims: [{name: n, prefix: '3'}]}", "{claims: [{name: n, exact: '3'}]}"),
    ("{claims: [{name: n, range: [0, 9]}]}", "{claims: [{name: n, exact: '3'}]}"),
]


def mesh(one: str, two: str) -> str:
    return MESH.replace("ONE", one).replace("TWO", two)


@pytest.mark.parametrize(("one", "two"), COVERED)
def test_a_segment_that_an_earlier_one_covers_is_an_error_and_the_other_way_round_is_none(one: str, two: str) -> None:
    with pytest.raises(MeshError) as caught:
        parse_mesh(mesh(one, two), "mesh.yaml")
    (problem,) = caught.value.problems
    legal = "a match of its own, or a place before"
    assert str(problem) == f"mesh.yaml:12: services.shop.segments.two.match: {NEVER}; legal: {legal}"
    assert overlaps(parse_mesh(mesh(two, one), "mesh.yaml").services["shop"]).after == {"two": ("one",)}


@pytest.mark.parametrize(("one", "two"), APART)
def test_segments_that_exclude_each_other_are_not_spoken_of(one: str, two: str) -> None:
    for text in (mesh(one, two), mesh(two, one)):
        assert not overlaps(parse_mesh(text, "mesh.yaml").services["shop"]).after


@pytest.mark.parametrize(("one", "two"), OVERLAPPING)
def test_segments_that_may_share_people_overlap(one: str, two: str) -> None:
    assert overlaps(parse_mesh(mesh(one, two), "mesh.yaml").services["shop"]).after == {"two": ("one",)}


def test_a_match_that_excludes_itself_is_an_error() -> None:
    with pytest.raises(MeshError) as caught:
        parse_mesh(mesh("{cookies: [{name: c, exact: a}, {name: c, suffix: b}]}", "{path: /b}"), "mesh.yaml")
    (problem,) = caught.value.problems
    assert "segments.one.match: matches nobody: no cookie c can be all of that" in str(problem)


def test_thousands_of_networks_take_no_time() -> None:
    """Each pair of theirs would be tens of millions of comparisons."""
    some = ", ".join(f"10.{n >> 8}.{n & 255}.0/25" for n in range(5_000))
    others = ", ".join(f"10.{n >> 8}.{n & 255}.128/25" for n in range(5_000))
    found = parse_mesh(mesh(f"{{source: [{some}]}}", f"{{source: [{others}]}}"), "mesh.yaml").services["shop"]
    began = time.process_time()
    assert not overlaps(found).after
    assert time.process_time() - began < 1.0
