"""Make before break: what must wait for what on one stream.

CDS with its EDS, then its ACK (Envoy gives it once the clusters are warm), then LDS and RDS, then their ACK, and only
then what is no longer wanted goes, a little later. A client that asks for clusters by name (proxyless gRPC) learns from
the route which ones to ask for, so its routes wait for nothing; so do those of a stream that carries no clusters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from xds_server.ads.type_state import TypeState
from xds_server.snapshot import Resource, ResourceType, Snapshot

DRAIN_S = 2.0
"""How long a cluster outlives the last route to it: workers take a route over a little after Envoy's ACK."""

GHOST_S = 600.0
"""How long a client may go on with routes that are gone: Envoy's default `--drain-time-s` of a removed listener."""

UNGATED = frozenset({ResourceType.CDS, ResourceType.EDS})
"""What waits for nothing else to come."""


class Gates:
    """Looks at the types of one stream; `states` is the session's own. `may_have_routes`: whether RDS may be one."""

    __slots__ = ("_drains", "_ghosts", "_may_have_routes", "_states")

    def __init__(self, states: Mapping[ResourceType, TypeState], *, may_have_routes: bool = True) -> None:
        self._states = states
        self._may_have_routes = may_have_routes
        self._drains: dict[str, float] = {}  # clusters without routes, and until when they stay
        self._ghosts: dict[str, tuple[Resource, float]] = {}  # routes told to be gone that the client may still use

    def are_open(self, kind: ResourceType, snapshot: Snapshot) -> bool:
        """Whether it is known at a glance that every resource of a type, but RTDS, may go out now."""
        if kind in UNGATED:
            return True
        state = self._states.get(ResourceType.CDS)
        if state is None or not state.subscription.wildcard:
            return True
        return state.is_at_rest() and state.held.is_exactly(snapshot.resources[ResourceType.CDS])

    def may_open(self) -> bool:
        """Whether a client has yet to answer to clusters, so that what waits for them may go out soon."""
        state = self._states.get(ResourceType.CDS)
        return state is not None and state.subscription.wildcard and not state.is_at_rest()

    def is_released(self, kind: ResourceType, resource: Resource, snapshot: Snapshot) -> bool:
        """Whether a resource of a snapshot may go out now.

        Envoy ACKs a route to a cluster that it does not know, and answers 503. And a listener whose routes, or those of
        any of its scopes, do not come opens without them after a time-out, and answers 404.
        """
        if kind is ResourceType.RDS:
            return self._are_warm(resource.needs)
        if kind is ResourceType.SRDS or (kind is ResourceType.LDS and self._states[kind].has(resource.name) is None):
            routes = snapshot.resources[ResourceType.RDS]
            return all(self._are_warm(routes[name].needs) for name in resource.needs if name in routes)
        if kind is ResourceType.RTDS and resource.ttl_ms:
            if not self._may_have_routes:
                return True
            held = self._states.get(ResourceType.RDS)
            return held is not None and held.is_at_rest()  # else canaries would come back with the routes of old
        return True

    def _are_warm(self, clusters: frozenset[str]) -> bool:
        """Whether these clusters are ACKed, hence warm, and not being removed just now."""
        state = self._states.get(ResourceType.CDS)
        if state is None or not state.subscription.wildcard:
            return True
        coming = state.in_flight.body if state.in_flight is not None else None
        return all(state.held.get(name) is not None and (coming is None or coming.keeps(name)) for name in clusters)

    def may_go(self, kind: ResourceType, name: str, now: float) -> bool:
        """Whether the client may be told that a resource, which the target no longer has, is gone."""
        if kind is ResourceType.CDS:
            return self._is_drained(name, now)
        if kind is ResourceType.EDS:
            clusters = self._states.get(ResourceType.CDS)
            return clusters is None or not any(name in cluster.needs for cluster in clusters.may_have(name))
        if kind is ResourceType.RDS:
            parents = (self._states.get(ResourceType.LDS), self._states.get(ResourceType.SRDS))
            return all(parent is None or parent.is_at_rest() for parent in parents)
        return True

    def _is_drained(self, cluster: str, now: float) -> bool:
        routes = self._states.get(ResourceType.RDS)
        if routes is None:
            return now >= self._drains.get(cluster, now)
        if routes.unknown or self._is_named(cluster, routes, now):
            self._drains.pop(cluster, None)
            return False
        return now >= self._drains.setdefault(cluster, now + DRAIN_S)

    def _is_named(self, cluster: str, routes: TypeState, now: float) -> bool:
        """Whether any route configuration that the client has, or may have, names a cluster."""
        if any(now < until and cluster in ghost.needs for ghost, until in self._ghosts.values()):
            return True
        return any(cluster in each.needs for name in routes.names() for each in routes.may_have(name))

    # --- what happens

    def claimed(self, cluster: str, now: float) -> None:
        """The client says that it has a cluster from before this stream; its routes have yet to be heard of."""
        self._drains[cluster] = now + DRAIN_S

    def end(self, kind: ResourceType, state: TypeState, name: str, now: float) -> None:
        """The client has been told, or has no need to be told, that a resource is gone.

        It goes on with routes while it subscribes to them.
        """
        if kind is ResourceType.RDS and (had := state.has(name)) is not None:
            self._ghosts[name] = (had, now + GHOST_S)
        state.held.put(name, None)
        state.unknown.discard(name)

    def laid(self, name: str) -> None:
        """The client has given up a route configuration, or has new content in its place."""
        self._ghosts.pop(name, None)

    def gone(self, clusters: Iterable[str]) -> None:
        """These clusters are no longer to be removed: they are gone, or wanted again."""
        for name in clusters:
            self._drains.pop(name, None)

    def next_drain(self) -> float | None:
        """When a cluster may go, if it is only time that it waits for."""
        state = self._states.get(ResourceType.CDS)
        if state is None or state.in_flight is not None or not self._drains:
            return None
        # What is gone, or was refused, waits for nothing: its time is past, and would be now for ever.
        self._drains = {name: at for name, at in self._drains.items() if name in state.due or name in state.owed}
        return min(self._drains.values(), default=None)
