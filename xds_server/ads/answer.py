"""What a client's ACK or NACK says, and what follows from it for its stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from xds_server.ads.gates import Gates
from xds_server.ads.nack import blamed
from xds_server.ads.response import Body, Response
from xds_server.ads.subscription import WILDCARD
from xds_server.ads.type_state import REMOVAL, TypeState, version_of
from xds_server.snapshot import Resource, ResourceType


@dataclass(slots=True, kw_only=True)
class Acked:
    response: Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """`culprits`: the resources among which the fault must be.

    Those that the client's message names, else all but those that it had ACKed as they are. `rolled_back`: services
    whose canary the response would have taken back. `fallback`: what is sent in its place; None with `rolled_back`:
    this client has never ACKed anything that would do.
    """

    response: Response
    culprits: tuple[Resource, ...]
    message: str
    rolled_back: frozenset[str] = frozenset()
    fallback: Resource | None = None


Answer = Acked | Nacked


class Answers:
    """Takes the answers of one stream.

    `urgent`: the session's own set of route configurations that go out first.
    """

    __slots__ = ("_gates", "_safe", "_urgent")

    def __init__(self, gates: Gates, urgent: set[str]) -> None:
        self._gates = gates
        self._urgent = urgent
        self._safe: dict[tuple[str, str], Resource] = {}  # by route configuration and service: the newest unexposed

    def accept(self, body: Body, state: TypeState, target: Mapping[str, Resource], now: float) -> None:
        """The client has all of a body. `target`: what it should have of the type by now."""
        state.acked_version, state.refuses_held = body.version, False
        if body.source is target and self._accept_only(body, state, target):
            return
        if body.is_whole:
            state.held.become(body.resources)
        else:
            self._accept_part(body, state, now)
        if body.source is not target:
            # It may have been wanted, and subscribed, otherwise in the meantime.
            state.must_look(n for n, r in body.resources.items() if version_of(target.get(n)) != r.version)
        if body.removed and body.type is ResourceType.CDS:
            self._gates.gone(body.removed)
        state.held.become(target, except_for=state.unsettled())

    def _accept_only(self, body: Body, state: TypeState, target: Mapping[str, Resource]) -> bool:
        """Take one resource, after which the client has all that it should have; whether it was so plain."""
        if len(body.resources) != 1 or body.removed or body.is_whole or state.unsettled() or state.unknown:
            return False
        (resource,) = body.resources.values()
        if not state.subscription.covers(resource.name):
            return False
        if body.type is ResourceType.RDS:
            self._routes_taken(state.held.get(resource.name), resource)
        state.held.become(target)
        return True

    def _accept_part(self, body: Body, state: TypeState, now: float) -> None:
        taken = body.resources
        if not state.subscription.covers_all(taken.keys()):  # unsubscribed while it was under way
            taken = {name: resource for name, resource in taken.items() if state.subscription.covers(name)}
        if body.type is ResourceType.RDS:
            for name, resource in taken.items():
                self._routes_taken(state.held.get(name), resource)
        state.held.take(taken)
        if state.rejected:
            for name in taken.keys() & state.rejected.keys() - state.instead.keys():
                del state.rejected[name]
        state.suspects.difference_update(taken)
        state.unknown.difference_update(taken)
        for name in body.removed:
            self._gates.end(body.type, state, name, now)
            state.suspects.discard(name)

    def _routes_taken(self, before: Resource | None, after: Resource) -> None:
        """Remember what to go back to, should a rollback be rejected."""
        self._gates.laid(after.name)
        if before is None or before.exposed == after.exposed:
            return
        for segment in after.exposed - before.exposed:
            self._safe[after.name, segment] = before
        for segment in before.exposed - after.exposed:
            self._safe.pop((after.name, segment), None)

    def reject(self, response: Response, state: TypeState, message: str, now: float) -> Nacked:
        """The client has refused a response, and kept some or all of what it had before."""
        body, covers = response.body, state.subscription.covers
        changed = [
            r for r in body.resources.values() if covers(r.name) and version_of(state.held.get(r.name)) != r.version
        ]
        if body.is_whole:
            return self._reject_whole(response, state, changed, message)
        culprits = _blamed(changed or body.resources.values(), message, body)
        nacked = Nacked(response=response, culprits=culprits, message=message)
        self._reject_part(body, state, {resource.name for resource in culprits}, now)
        if body.type is ResourceType.RDS and len(body.resources) == 1:
            return self._fall_back(nacked, state)
        return nacked

    def _reject_whole(self, response: Response, state: TypeState, changed: list[Resource], message: str) -> Nacked:
        """The client may have applied a part, so all is sent anew, with what it had ACKed in the culprits' place.

        If nothing had changed, it refuses what it had ACKed: there is nothing better left to send.
        """
        lost = state.names() - response.body.resources.keys()
        culprits = _blamed(changed, message, response.body)
        named = len(culprits) < len(changed)
        state.rejected |= {resource.name: resource.version for resource in culprits}
        state.due |= {resource.name for resource in changed}
        if named:
            state.due |= lost
        else:
            state.rejected |= dict.fromkeys(lost, REMOVAL)
        # Unknown what a client from before our restart still has: better nothing than a response that deletes it.
        if not (changed or lost):
            state.refuses_held = True
            state.owed.clear()
        if (changed or lost) and not state.refuses_held and (state.acked_version or (state.is_fresh and named)):
            state.owed.add(WILDCARD)
        return Nacked(response=response, culprits=culprits, message=message)

    def _reject_part(self, body: Body, state: TypeState, culprits: set[str], now: float) -> None:
        names = {name for name in (*body.resources, *body.removed) if state.subscription.covers(name)}
        culprits = names if len(names) == 1 else culprits & names
        if len(names) > 1 and (not culprits or culprits == names):
            state.suspects |= names  # any of several may be to blame: each is sent once more, alone
            culprits = set()
        for name in culprits:
            if state.instead.pop(name, None) is not None:
                continue  # what took the place of rejected content is rejected as well
            state.rejected[name] = version_of(body.resources.get(name)) or REMOVAL
            if name in body.removed:
                self._gates.end(body.type, state, name, now)  # it may keep it: what it needs will not be kept for ever
        state.suspects -= culprits
        innocent = names - culprits  # they may have been applied or not
        state.owed |= innocent
        state.unknown |= innocent

    def _fall_back(self, nacked: Nacked, state: TypeState) -> Nacked:
        """If a rollback was refused: go back to the newest content that the client has ACKed and that is one too."""
        (resource,) = nacked.response.body.resources.values()
        held = state.has(resource.name)
        rolled_back = held.exposed - resource.exposed if held is not None else frozenset()
        if not rolled_back:
            return nacked
        choices = (self._safe.get((resource.name, segment)) for segment in sorted(rolled_back))
        safe = (r for r in choices if r is not None and r.exposed.isdisjoint(rolled_back))
        fallback = next((r for r in safe if r.version != resource.version), None)
        if fallback is not None:
            state.instead[resource.name] = fallback
            state.owed.add(resource.name)
            self._urgent.add(resource.name)
        return replace(nacked, rolled_back=rolled_back, fallback=fallback)


def _blamed(changed: Iterable[Resource], message: str, body: Body) -> tuple[Resource, ...]:
    """Those that the client's own message is about, or all if it does not say."""
    changed, names = tuple(changed), blamed(message, tuple(body.resources))
    return tuple(resource for resource in changed if resource.name in names) or changed
