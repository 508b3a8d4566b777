"""From mesh and splits to what Envoys are sent: checked, prepared ahead, and kept alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace

from xds_server import node as nodes_of
from xds_server import resources
from xds_server.ads.cache import AdsCache
from xds_server.mesh import NO_WATCH, LearnedTable, Mesh, ServiceSplits, Watch
from xds_server.resources.clusters import cluster_name
from xds_server.snapshot import InconsistentSnapshotError
from xds_server.snapshot.builder import NO_ENDPOINTS, Endpoints, SnapshotBuilder
from xds_server.validation import dry_run

log = logging.getLogger(__name__)

DRY_RUN_S = 10.0


class Publisher:
    """Publishes one mesh at a time. `endpoints`: those that are not in the mesh file, at present.

    By service, at present: `learned`, what Envoys must know of its learned segments; `watched`, the segments that they
    are to look at more closely, where anybody is on a canary.
    """

    def __init__(self, mesh: Mesh, cache: AdsCache, endpoints: Callable[[], Endpoints] = lambda: NO_ENDPOINTS) -> None:
        self.mesh = mesh
        self._cache = cache
        self._endpoints = endpoints
        self.learned: Callable[[str], LearnedTable | None] = lambda _: None
        self.watched: Callable[[str], frozenset[str]] = lambda _: frozenset()
        self._stamped: dict[str, tuple[ServiceSplits, ServiceSplits]] = {}

    def publish(self, splits: Mapping[str, ServiceSplits], *, urgent: bool = False) -> None:
        """Make these splits the configuration of every node. Raises InconsistentSnapshotError; then nothing changes."""
        self._cache.publish(self.mesh, self._stamp_all(splits), endpoints=self._endpoints(), urgent=urgent)

    def prepare(self, service: str, splits: Iterable[ServiceSplits]) -> None:
        """Serialise and check ahead of time what may have to go out at once."""
        self._cache.prepare(self.mesh, service, [self._filled_in(service, each) for each in splits])

    def _stamp_all(self, splits: Mapping[str, ServiceSplits]) -> dict[str, ServiceSplits]:
        """The splits as they go out. What has not changed stays the same object: changes are found by that."""
        stamped = {name: self._stamp(name, each) for name, each in splits.items()}
        self._stamped = {name: (splits[name], each) for name, each in stamped.items()}
        return stamped

    def _told(self, mesh: Mesh, service: str, splits: ServiceSplits) -> ServiceSplits:
        """Splits to be tried with a mesh that may not be the one that is served: any table will do.

        Every segment is watched: to a watch that comes later nobody may say no.
        """
        is_learned = service in mesh.services and bool(mesh.services[service].learned)
        table = self.learned(service) or LearnedTable(version=0, public_key="00")
        watch = _watch(mesh, splits, splits.segments.keys())
        return replace(splits, learned=table if is_learned else None, watch=watch)

    def _stamp(self, service: str, splits: ServiceSplits) -> ServiceSplits:
        filled_in = self._filled_in(service, splits)
        known = self._stamped.get(service)
        return known[1] if known is not None and known[0] is splits and known[1] == filled_in else filled_in

    def _filled_in(self, service: str, splits: ServiceSplits) -> ServiceSplits:
        table, watch = self.learned(service), _watch(self.mesh, splits, self.watched(service))
        is_new = (table, watch) != (splits.learned, splits.watch)
        return replace(splits, learned=table, watch=watch) if is_new else splits

    async def refusal(self, mesh: Mesh, splits: Mapping[str, ServiceSplits]) -> str | None:
        """Say why this configuration could not be published; None: it could.

        Beside our own checks a real Envoy is asked, where there is one. That it does not answer is no refusal.
        """
        splits = {name: self._told(mesh, name, each) for name, each in splits.items()}
        try:
            await asyncio.to_thread(_check, mesh, splits, self._endpoints())
        except InconsistentSnapshotError as error:
            return str(error)
        for kind in nodes_of.kinds(mesh):
            built = await asyncio.to_thread(resources.build, mesh, splits, kind)
            try:
                refusal = await dry_run.refusal(built, timeout_s=DRY_RUN_S)
            except (OSError, TimeoutError) as error:
                log.warning("the configuration was not checked by Envoy: %s", str(error) or "no answer in time")
                return None
            if refusal is not None:
                return f"Envoy would reject it: {refusal}"
        return None


def _watch(mesh: Mesh, splits: ServiceSplits, watched: Set[str]) -> Watch:
    """What is left of a watch with these splits: without anybody on a canary there is nothing to look at."""
    segments = frozenset(n for n in watched if (s := splits.segments.get(n)) and s.canary is not None and s.canary_bp)
    return Watch(segments=segments, traced=mesh.traced is not None) if segments else NO_WATCH


def _check(mesh: Mesh, splits: Mapping[str, ServiceSplits], endpoints: Endpoints) -> None:
    builder = SnapshotBuilder()
    endpoints = _of(mesh, endpoints)
    for kind in nodes_of.kinds(mesh):
        builder.build(mesh, splits, kind, endpoints).check()


def _of(mesh: Mesh, endpoints: Endpoints) -> Endpoints:
    """Those of versions that do not list theirs in this mesh; it may not be the one that is served."""
    names = {
        cluster_name(service.name, version.name)
        for service in mesh.services.values()
        for version in service.versions.values()
        if version.source is not None
    }
    return {name: found for name, found in endpoints.items() if name in names}
