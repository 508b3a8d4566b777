"""What is filled in to splits before they go out."""

from __future__ import annotations

from typing import Any

from xds_server.mesh import NO_WATCH, SegmentSplit, ServiceSplits, Watch
from xds_server.rollout.publisher import Publisher
from xds_server.settings import parse_mesh

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:1"]}, v2: {endpoints: ["127.0.0.1:2"]}}
    baseline: v1
    segments:
      power: {match: {headers: [{name: x-plan, exact: pro}]}}
"""


class Recorded:
    """A cache that remembers what it was given."""

    def __init__(self) -> None:
        self.published: list[ServiceSplits] = []
        self.prepared: list[ServiceSplits] = []

    def publish(self, _mesh: object, splits: dict[str, ServiceSplits], **_: object) -> None:
        self.published.append(splits["shop"])

    def prepare(self, _mesh: object, _service: str, splits: list[ServiceSplits]) -> None:
        self.prepared += splits


def _splits(power_bp: int) -> ServiceSplits:
    segments = {
        name: SegmentSplit(baseline="v1", canary="v2", canary_bp=bp)
        for name, bp in (("power", power_bp), ("default", 0))
    }
    return ServiceSplits(rollout="shop-1", generation=1, segments=segments)


def _publisher(more: str = "") -> tuple[Publisher, Recorded, set[str]]:
    cache, watched = Recorded(), set[str]()
    cast: Any = cache
    publisher = Publisher(parse_mesh(MESH + more, "mesh.yaml"), cast)
    publisher.watched = lambda _: frozenset(watched)
    return publisher, cache, watched


def test_equal_watches_are_the_same_object_since_changes_are_found_by_that() -> None:
    publisher, cache, watched = _publisher()
    splits = {"shop": _splits(100)}
    for names in ((), (), ("power",), ("power",), ()):
        watched.clear()
        watched.update(names)
        publisher.publish(splits)
    one, same, begun, still, over = cache.published
    assert one is same is over is splits["shop"]
    assert begun is still
    assert begun.watch == Watch(segments=frozenset({"power"}))


def test_what_a_rollback_will_need_is_prepared_as_it_will_go_out_without_a_watch_of_nobody() -> None:
    publisher, cache, watched = _publisher("tracing: {sampling: 1%}\n")
    watched.update(("power", "default", "gone"))
    publisher.prepare("shop", [_splits(100), _splits(0)])
    publisher.publish({"shop": _splits(0)})
    now, back = cache.prepared
    assert now.watch == Watch(segments=frozenset({"power"}), traced=True)
    assert back.watch == NO_WATCH
    assert back == cache.published[0]
