"""What one stream is to be sent of one type now: the body of its next response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from xds_server.ads.gates import Gates
from xds_server.ads.response import MAX_CHUNK_BYTES, Body, Target, Variant
from xds_server.ads.subscription import WILDCARD
from xds_server.ads.type_state import REMOVAL, TypeState, version_of
from xds_server.snapshot import Resource, ResourceType

MANY = 2
"""Names from which on it pays to look for what all streams are sent when they begin."""

MAX_ALONE = 16
"""Changes of route configurations that go out one by one, so that a rejection has one culprit; more go together."""

CHILDREN: Mapping[ResourceType, tuple[ResourceType, ...]] = MappingProxyType(
    {
        ResourceType.CDS: (ResourceType.EDS,),
        ResourceType.LDS: (ResourceType.SRDS, ResourceType.RDS),
        ResourceType.SRDS: (ResourceType.RDS,),
    }
)
CHILD_TYPES = frozenset(child for children in CHILDREN.values() for child in children)


class Composer:
    """Makes bodies for one stream; `states` is the session's own. What a body holds is no longer due or owed."""

    __slots__ = ("_gates", "_states", "_variant")

    def __init__(self, variant: Variant, states: Mapping[ResourceType, TypeState], gates: Gates) -> None:
        self._variant = variant
        self._states = states
        self._gates = gates

    def due(self, kind: ResourceType, target: Target, now: float) -> Body | None:
        """What is to be sent of a type; None: nothing, or nothing that may go out yet."""
        state = self._states[kind]
        if self._variant is Variant.SOTW and kind.is_whole_state:
            return self._whole(kind, state, target, now)
        return self.part(kind, target, state.due | state.owed, now)

    # --- LDS and CDS, state of the world: everything subscribed, or nothing. What is left out the client deletes.

    def _whole(self, kind: ResourceType, state: TypeState, target: Target, now: float) -> Body | None:
        named = target.snapshot.resources[kind]
        # What was rejected while newer content was waiting holds nothing up.
        state.rejected = {n: v for n, v in state.rejected.items() if v == (version_of(named.get(n)) or REMOVAL)}
        kept, changed = self._sort(kind, state, target, now)
        missing = tuple(sorted(state.owed - named.keys() - {WILDCARD}))
        if not (changed or state.owed) or (kept and self._is_all_soon(state)):
            return None
        differing = kept | {name: state.has(name) for name in state.rejected}
        if state.subscription.wildcard and not differing and not missing:
            body = target.whole(kind)
        else:
            names = named if state.subscription.wildcard else named.keys() & state.subscription.names
            resources = {name: named[name] for name in names if name not in differing}
            resources |= {name: r for name, r in differing.items() if r is not None}
            body = target.partly(self._variant, kind, resources, missing)
        self._follow(kind, state, body, changed | (state.owed & body.resources.keys()))
        state.due, state.owed = set(kept), set()
        return body

    def _sort(
        self, kind: ResourceType, state: TypeState, target: Target, now: float
    ) -> tuple[dict[str, Resource | None], set[str]]:
        """What is due: what must stay as the client has it for now, by name, and the names that change."""
        named, is_open = target.snapshot.resources[kind], self._gates.are_open(kind, target.snapshot)
        if is_open and state.held.is_empty and not state.rejected and state.due == named.keys():
            return {}, set(state.due)  # a client that has nothing yet
        kept: dict[str, Resource | None] = {}
        changed: set[str] = set()
        for name in tuple(state.due):
            resource, held = named.get(name), state.has(name)
            version = version_of(resource) or REMOVAL
            if version == (version_of(held) or REMOVAL) or version == state.rejected.get(name):
                state.due.discard(name)
            elif self._must_wait(kind, name, resource, target, is_open=is_open, now=now):
                kept[name] = held
            else:
                changed.add(name)
        return kept, changed

    def _must_wait(
        self, kind: ResourceType, name: str, resource: Resource | None, target: Target, *, is_open: bool, now: float
    ) -> bool:
        if resource is None:
            return not self._gates.may_go(kind, name, now)
        return not (is_open or self._gates.is_released(kind, resource, target.snapshot))

    def _is_all_soon(self, state: TypeState) -> bool:
        """Whether a client that has nothing yet waits rather than take a part for all.

        Envoy asks for listeners before it ACKs clusters that take no time to warm, such as those of names, and goes
        live with whatever it is answered: with none it would be ready and refuse every connection.
        """
        return WILDCARD in state.owed and state.is_fresh and state.held.is_empty and self._gates.may_open()

    # --- EDS and RDS, and all types of delta: only what changed or is owed. Absence means nothing.

    def part(self, kind: ResourceType, target: Target, names: Iterable[str], now: float) -> Body | None:
        """What is to be sent of these names."""
        state = self._states[kind]
        is_open = kind is not ResourceType.RTDS and self._gates.are_open(kind, target.snapshot)
        if is_open and (body := self._shared(kind, state, target)) is not None:
            return body
        named = target.snapshot.resources[kind]
        ready: dict[str, Resource | None] = {}  # None: it does not exist
        for name in sorted(names):
            resource = self._wanted(kind, state, target, name)
            is_early = kind is ResourceType.RTDS and resource is not named.get(name)
            if self._is_ready(kind, state, name, resource, is_early=is_early, now=now) and (
                is_open or resource is None or self._gates.is_released(kind, resource, target.snapshot)
            ):
                ready[name] = resource
            elif resource is not None and name in state.due and not is_open and self._is_all_soon(state):
                return None
        chosen = self._choose(kind, state, ready)
        if not chosen and WILDCARD not in state.owed:
            return None
        body = self._body(kind, state, target, chosen)
        self._follow(kind, state, body, body.resources.keys())
        state.answered(chosen)
        return body

    def _shared(self, kind: ResourceType, state: TypeState, target: Target) -> Body | None:
        """What most clients are sent, and found without looking at each name; None: it takes a closer look.

        The one resource that has changed; all or the next part of all resources, for a client that has none of them.
        """
        if state.rejected or state.suspects:
            return None
        if len(state.due) == 1 and not state.owed:
            (name,) = state.due
            resource = target.snapshot.resources[kind].get(name)
            held = state.has(name)
            if resource is None or held is None or held.version == resource.version:
                return None
            state.due.clear()
            body = target.body(self._variant, kind, (name,))
            if kind in CHILDREN:
                self._follow(kind, state, body, (name,))
            return body
        if len(state.due) + len(state.owed) < MANY:
            return None
        for body in target.chunks(self._variant, kind):
            names = body.resources.keys()
            if names <= state.owed or (names <= state.due | state.owed and state.held.lacks(names)):
                self._follow(kind, state, body, names)
                state.answered(names)
                return body
        return None

    def _wanted(self, kind: ResourceType, state: TypeState, target: Target, name: str) -> Resource | None:
        resource = target.snapshot.resources[kind].get(name)
        if resource is not None and resource.ttl_ms:
            return self._mortal(state, resource, target)
        if resource is not None and state.instead and state.rejected.get(name) == resource.version:
            return state.instead.get(name, resource)
        return resource

    def _mortal(self, state: TypeState, resource: Resource, target: Target) -> Resource:
        """What is to be sent of a resource with a lifetime."""
        if self._variant is Variant.SOTW and len(state.subscription.names) > 1:
            return resource.lasting or resource  # Envoy ends itself when one of two runtime layers runs out
        is_early = state.is_fresh and not self._gates.is_released(ResourceType.RTDS, resource, target.snapshot)
        return resource.at_first or resource if is_early else resource

    def _is_ready(
        self,
        kind: ResourceType,
        state: TypeState,
        name: str,
        resource: Resource | None,
        *,
        is_early: bool,
        now: float,
    ) -> bool:
        """Whether there is something to say of a name now. If there never will be, it is no longer due.

        `is_early`: the resource is in the place of one that is still to come.
        """
        if name == WILDCARD:
            return False
        rejected = state.rejected.get(name)
        if rejected is not None and rejected == (version_of(resource) or REMOVAL):
            if resource is None:
                self._gates.end(kind, state, name, now)
            state.answered((name,))
            return False
        if resource is None:
            return self._is_absence_ready(kind, state, name, now)
        if name not in state.owed and version_of(state.has(name)) == resource.version:
            if not is_early:
                state.due.discard(name)
            return False
        return True

    def _is_absence_ready(self, kind: ResourceType, state: TypeState, name: str, now: float) -> bool:
        if self._variant is Variant.SOTW:
            if name not in state.owed:
                # Its parent no longer refers to it, which says all; the client goes on with it until it gives it up.
                self._gates.end(kind, state, name, now)
                state.due.discard(name)
            return name in state.owed
        if state.has(name) is None and name not in state.unknown:
            if name not in state.owed:
                state.due.discard(name)  # it came and went before the client heard of it
            return name in state.owed
        return self._gates.may_go(kind, name, now)

    def _choose(self, kind: ResourceType, state: TypeState, ready: Mapping[str, Resource | None]) -> list[str]:
        """What goes into one response, of all that could."""
        suspects = [name for name in ready if name in state.suspects]
        if suspects:
            return suspects[:1]
        if kind is ResourceType.RDS:
            changes = [name for name in ready if state.has(name) is not None]
            if 0 < len(changes) <= MAX_ALONE:
                return changes[:1]
        chosen: list[str] = []
        size = 0
        for name, resource in ready.items():
            size += len(resource.packed) if resource is not None else len(name)
            if chosen and size > MAX_CHUNK_BYTES:
                break
            chosen.append(name)
        return chosen

    def _body(self, kind: ResourceType, state: TypeState, target: Target, names: list[str]) -> Body:
        found = {name: self._wanted(kind, state, target, name) for name in names}
        absent = tuple(name for name, resource in found.items() if resource is None)
        there = {name: resource for name, resource in found.items() if resource is not None}
        # What the client asked for and never had, it is told why it does not come.
        missing = tuple(name for name in absent if name in state.owed and state.has(name) is None)
        named = target.snapshot.resources[kind]
        if any(resource is not named[name] for name, resource in there.items()):
            return target.partly(self._variant, kind, there)
        removed = absent if self._variant is Variant.DELTA else ()
        return target.body(self._variant, kind, there, removed=removed, missing=missing)

    def _follow(self, kind: ResourceType, state: TypeState, body: Body, names: Iterable[str]) -> None:
        """Send the client again what refers to something that changes: else it waits for it."""
        for child_kind in CHILDREN.get(kind, ()):
            child = self._states.get(child_kind)
            if child is None:
                continue
            child.parent_sent = True
            sent = (body.resources[name] for name in names if name in body.resources)
            changed = [r for r in sent if version_of(state.has(r.name)) != r.version]
            if kind is ResourceType.CDS:
                child.owed.update(name for r in changed for name in r.needs if child.subscription.covers(name))
            elif child_kind is ResourceType.SRDS and changed and not child.refuses_held:
                # A listener that is new again does not ask for its scopes anew, waits for them 15 s and answers 404.
                child.owed |= child.names() | {WILDCARD}
