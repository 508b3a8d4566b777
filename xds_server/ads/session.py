"""One stream as a state machine without I/O, for both variants of xDS: requests and snapshots in, responses out.

Rules, all per stream (xDS protocol = envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol):

- At most one response per type waits for its ACK. What changes meanwhile is merged: a slow Envoy gets the newest state.
- Make before break: see `gates`. A canary taken back goes out before anything else.
- A CDS response that changes an EDS cluster is followed by that cluster's EDS, or Envoy warms it until a timeout.
- What was rejected is not sent again until its content changes. Where a client may have applied a rejected response in
  part, the last ACKed content is sent in the culprits' place. A rejected rollback gives way to the newest content
  that the client has ACKed and that sends nobody of that service to a canary.

The cost of a change is that of the resources that it touches, whatever else the snapshot holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from xds_server.ads.answer import Acked, Answer, Answers
from xds_server.ads.compose import CHILD_TYPES, CHILDREN, Composer
from xds_server.ads.gates import Gates
from xds_server.ads.response import Body, Response, Target, Variant
from xds_server.ads.standing import ResourceView, standings
from xds_server.ads.subscription import WILDCARD, Subscription
from xds_server.ads.type_state import TypeState, version_of
from xds_server.snapshot import Resource, ResourceType, Snapshot

_MARKS: Mapping[ResourceType, int] = MappingProxyType({kind: 1 << n for n, kind in enumerate(ResourceType)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What matters of a DiscoveryRequest. `error`: the message of its error_detail; None: not a NACK."""

    type: ResourceType
    names: Iterable[str] = ()
    nonce: str = ""
    error: str | None = None
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRequest:
    """What matters of a DeltaDiscoveryRequest. `versions`: its initial_resource_versions."""

    type: ResourceType
    subscribe: Iterable[str] = ()
    unsubscribe: Iterable[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


class StreamSession:
    """State of one stream. Not thread-safe; times are seconds of any monotonic clock.

    `may_be_legacy`: whether a first LDS or CDS request without names means everything. For gRPC it means nothing (gRFC
    A28). `only`: the one type that the stream can carry; None: any.
    """

    __slots__ = (
        *("_answers", "_composer", "_gates", "_marks", "_may_be_legacy", "_nonces"),
        *("_states", "_target", "_urgent", "_variant", "stale_n"),
    )

    def __init__(
        self, variant: Variant = Variant.SOTW, *, may_be_legacy: bool = True, only: ResourceType | None = None
    ) -> None:
        self._variant = variant
        self._may_be_legacy = may_be_legacy
        self._states: dict[ResourceType, TypeState] = {}
        self._marks = 0  # a bit for each type with something to say
        self._gates = Gates(self._states, may_have_routes=only in (None, ResourceType.RDS))
        self._composer = Composer(variant, self._states, self._gates)
        self._target: Target | None = None
        self._urgent: set[str] = set()
        self._answers = Answers(self._gates, self._urgent)
        self._nonces = 0
        self.stale_n = 0

    # --- What the client should have

    def offer(self, target: Target) -> None:
        """Set what the client should have; replaces what was offered before, sent or not."""
        before, self._target = self._target, target
        if before is target:
            return
        if before is None:
            for kind, each in self._states.items():
                self._begin(kind, each)
                self._mark(kind)
            return
        step = target.step(before.snapshot)
        for kind, names in step.changes.items():
            state = self._states.get(kind)
            if state is None:
                continue
            self._changed(kind, state, names)
            self._mark(kind)
            if state.is_at_rest() and not state.rejected:
                state.held.become(target.snapshot.resources[kind])
        if step.urgent:
            self._urgent |= step.urgent

    def advance(self, target: Target) -> Response | None:
        """Offer a target and return the response to it, in the plainest case; None: ask `next_response`.

        That is a client which has all it should have, and for which one route configuration, or the endpoints of one
        cluster, have changed: what happens to most clients at most times.
        """
        before = self._target
        if before is target:
            return None
        only = target.step(before.snapshot).only if before is not None and not self._marks else None
        if only is not None and only[0] not in CHILDREN:
            kind, resource = only
            state = self._states.get(kind)
            if (
                state is not None
                and state.has(resource.name) is resource
                and state.is_at_rest()
                and not state.rejected
                and self._gates.are_open(kind, target.snapshot)
            ):
                self._target = target
                return self._send(state, target.body(self._variant, kind, (resource.name,)))
        self.offer(target)
        return None

    def _mark(self, kind: ResourceType) -> None:
        """Note whether there may be something to say of a type, and no answer to wait for before."""
        state = self._states[kind]
        if (state.due or state.owed) and state.in_flight is None:
            self._marks |= _MARKS[kind]
        else:
            self._marks &= ~_MARKS[kind]

    def _begin(self, kind: ResourceType, state: TypeState) -> None:
        state.must_look(self._named(kind) if state.subscription.wildcard else state.subscription.names)

    def _changed(self, kind: ResourceType, state: TypeState, names: frozenset[str]) -> None:
        state.must_look(names)
        if kind is ResourceType.CDS:
            self._gates.gone(names & self._named(kind).keys())
        if state.rejected and not state.rejected.keys().isdisjoint(names):
            # One of the culprits has changed. In a response that had to hold all of them the others may be innocent.
            if self._variant is Variant.SOTW and kind.is_whole_state:
                state.due |= state.rejected.keys()
                state.rejected.clear()
            for name in names:
                state.instead.pop(name, None)

    def _named(self, kind: ResourceType) -> Mapping[str, Resource]:
        return self._target.snapshot.resources[kind] if self._target is not None else MappingProxyType({})

    def beat(self) -> None:
        """Send again what would run out: all of it, since Envoy takes no shorter word for it in state of the world."""
        state = self._states.get(ResourceType.RTDS)
        if state is None or state.in_flight is not None:
            return
        # By version: a node that has become one of another kind is fed from another snapshot that says the same.
        named = self._named(ResourceType.RTDS)
        state.owed.update(n for n, r in named.items() if r.ttl_ms and version_of(state.has(n)) == r.version)
        self._mark(ResourceType.RTDS)

    # --- Looking

    def acked(self, kind: ResourceType) -> Mapping[str, Resource]:
        """Content that the client has ACKed and still subscribes to, by name. O(resources); `acked_resource` is not."""
        state = self._states.get(kind)
        if state is None:
            return {}
        return {name: r for name in sorted(state.held.names()) if (r := state.has(name)) is not None}

    def acked_resource(self, kind: ResourceType, name: str) -> Resource | None:
        """Content of one resource that the client has ACKed and still subscribes to."""
        state = self._states.get(kind)
        return state.has(name) if state is not None else None

    def is_settled(self, kind: ResourceType, name: str, version: str | None) -> bool:
        """Whether the client, where it subscribes to a resource, has ACKed this version and may have no other one."""
        state = self._states.get(kind)
        if state is None or not state.subscription.covers(name):
            return True
        in_flight = state.in_flight is not None and name in state.in_flight.body.resources
        held = state.has(name)
        return not in_flight and (held.version if held is not None else None) == version

    def acked_version(self, kind: ResourceType) -> str:
        """Version of the last response of this type that was ACKed; empty: none yet."""
        state = self._states.get(kind)
        return state.acked_version if state is not None else ""

    def versions(self) -> tuple[dict[str, str], dict[str, str]]:
        """Versions that were sent and ACKed last, by type."""
        sent = {str(kind): state.sent_version for kind, state in self._states.items() if state.sent_version}
        acked = {str(kind): state.acked_version for kind, state in self._states.items() if state.acked_version}
        return sent, acked

    def has_rejected(self, kind: ResourceType, resource: Resource) -> bool:
        """Whether the client has said no to this very content, so that it will not be sent again."""
        state = self._states.get(kind)
        return state is not None and state.rejected.get(resource.name) == resource.version

    def standings(self, snapshot: Snapshot) -> Iterator[ResourceView]:
        """How the client stands to all that it asks for, if by now it should have this snapshot. O(resources)."""
        for kind, state in self._states.items():
            yield from standings(kind, state, snapshot.resources[kind])

    def subscribes(self, kind: ResourceType, name: str) -> bool:
        """Whether the client asks for a resource."""
        state = self._states.get(kind)
        return state is not None and state.subscription.covers(name)

    def names_n(self, kind: ResourceType) -> int:
        """Names that the client subscribes to."""
        state = self._states.get(kind)
        return len(state.subscription.names) if state is not None else 0

    # --- Requests

    def receive(self, request: Request | DeltaRequest, now: float) -> Answer | None:
        """Take one request and return what it says about our newest response, if anything."""
        is_first = request.type not in self._states
        if is_first:
            legacy = self._may_be_legacy and request.type.is_whole_state
            self._states[request.type] = TypeState(subscription=Subscription(may_be_legacy=legacy))
        state = self._states[request.type]
        if isinstance(request, Request):
            answer = self._sotw(request, state, now, is_first=is_first)
        else:
            answer = self._delta(request, state, now, is_first=is_first)
        self._mark(request.type)
        return answer

    def ack(self, kind: ResourceType, now: float) -> Answer | None:
        """Take what `receive` would take as an ACK of the response in flight that changes nothing."""
        answer = self._settle(self._states[kind], None, now)
        self._mark(kind)
        return answer

    def _sotw(self, request: Request, state: TypeState, now: float, *, is_first: bool) -> Answer | None:
        if is_first:
            # A nonce here is from an earlier stream, and says nothing on this one.
            self._adopt(request, state)
            if request.version:
                self._resume(request, state)
            return None
        if request.nonce != state.nonce:
            # The answer to an older response; the newest one's is still to come. The names are honoured all the same:
            # a client that always finds its nonce overtaken would never get what it asks for (envoy#10363).
            self.stale_n += 1
            self._adopt(request, state)
            return None
        answer = self._settle(state, request.error, now)
        is_repeated = not self._adopt(request, state)
        if answer is None and is_repeated and state.parent_sent and request.type in CHILD_TYPES:
            # Looks like a second ACK, but Envoy asks for what a changed cluster (listener) needs to become warm.
            state.owed |= {name for name in state.names() if name in self._named(request.type)}
        return answer

    def _adopt(self, request: Request, state: TypeState) -> bool:
        """Take over the names; return whether they changed.

        What is no longer subscribed is forgotten, so that it can be sent again: "The server must send newly requested
        resources even if it had sent them before and they did not change."
        """
        subscription = state.subscription
        before, had_wildcard = subscription.names, subscription.wildcard
        new = subscription.replace(request.names)
        if subscription.names is before and subscription.wildcard == had_wildcard:
            return False
        self._want(request.type, state, new, before, had_wildcard=had_wildcard)
        self._drop(request.type, state, before, had_wildcard=had_wildcard)
        return True

    def _resume(self, request: Request, state: TypeState) -> None:
        """A client comes back with what an earlier stream gave it. To skip what it has is safe for a pure wildcard."""
        kind, subscription = request.type, state.subscription
        state.is_fresh = False
        if kind is ResourceType.RDS:
            state.unknown |= subscription.names
        if self._target is None or not kind.is_whole_state or subscription.names or not subscription.wildcard:
            return
        if request.version == self._target.snapshot.versions[kind]:
            state.due.clear()
            state.owed.clear()
            state.held.become(self._named(kind))
            state.acked_version = request.version

    def _delta(self, request: DeltaRequest, state: TypeState, now: float, *, is_first: bool) -> Answer | None:
        answer = None
        if request.nonce and not is_first:
            if state.in_flight is not None and request.nonce == state.nonce:
                answer = self._settle(state, request.error, now)
            else:
                self.stale_n += 1  # what it subscribes to counts nevertheless
        subscription = state.subscription
        before, had_wildcard = subscription.names, subscription.wildcard
        new, again = subscription.change(request.subscribe, request.unsubscribe)
        self._want(request.type, state, new, before, had_wildcard=had_wildcard)
        self._repeat(request.type, state, again)
        self._drop(request.type, state, before, had_wildcard=had_wildcard)
        if is_first:
            self._claim(request.type, state, request.versions, now)
        return answer

    def _claim(self, kind: ResourceType, state: TypeState, versions: Mapping[str, str], now: float) -> None:
        """Believe a client what it says that it has from an earlier stream: versions are hashes of the content."""
        named = self._named(kind)
        state.is_fresh = not versions
        for name, version in versions.items():
            if not state.subscription.covers(name):
                continue
            resource = named.get(name)
            if resource is not None and resource.version == version and not resource.ttl_ms:
                state.held.put(name, resource)
                state.due.discard(name)
                state.owed.discard(name)
                continue
            state.due.add(name)
            state.unknown.add(name)
            if kind is ResourceType.CDS and resource is None:
                self._gates.claimed(name, now)
        if self._target is not None and not state.due and state.owed <= {WILDCARD}:
            state.held.become(named)
            state.acked_version = self._target.snapshot.versions[kind]

    def _want(
        self,
        kind: ResourceType,
        state: TypeState,
        new: frozenset[str],
        before: frozenset[str],
        *,
        had_wildcard: bool,
    ) -> None:
        """Owe the client what it has newly subscribed to; until now nothing of it was known to be there."""
        state.owed |= new
        if WILDCARD in new:
            named = self._named(kind)
            state.due |= named.keys()
            new = (new | named.keys() | state.held.names()) - before
        if not had_wildcard and not state.held.is_empty:
            for name in new:
                state.held.put(name, None)

    def _repeat(self, kind: ResourceType, state: TypeState, again: frozenset[str]) -> None:
        state.owed |= again
        if WILDCARD in again:
            state.owed |= self._named(kind).keys()

    def _drop(self, kind: ResourceType, state: TypeState, before: frozenset[str], *, had_wildcard: bool) -> None:
        """Forget what is no longer subscribed; `before`: the names that were."""
        subscription = state.subscription
        if subscription.wildcard:
            return
        left = before - subscription.names
        if had_wildcard:
            left = (left | state.held.names() | state.due | state.owed) - subscription.names
        for name in left:
            state.forget(name)
            if kind is ResourceType.RDS:
                self._gates.laid(name)

    # --- Answers

    def _settle(self, state: TypeState, error: str | None, now: float) -> Answer | None:
        """Count a request as ACK or NACK of the response in flight (xDS protocol, "ACK/NACK and versioning")."""
        response, state.in_flight = state.in_flight, None
        if response is None:
            return None
        if error is None:
            self._answers.accept(response.body, state, self._named(response.type), now)
            return Acked(response=response)
        return self._answers.reject(response, state, error, now)

    # --- Responses

    def next_response(self, now: float) -> Response | None:
        """Return the response to write next, which from then on waits for its ACK; None: nothing to say."""
        target = self._target
        if target is None:
            return None
        if self._urgent and (response := self._rollback(target, now)) is not None:
            return response
        marks = self._marks
        if marks:
            for kind, mark in _MARKS.items():  # in the order of make before break
                if marks & mark:
                    body = self._composer.due(kind, target, now)
                    if body is not None:
                        return self._send(self._states[kind], body)
                    self._mark(kind)
        return None

    def is_due(self) -> bool:
        """Whether `next_response` may have something; it looks closer."""
        return self._marks != 0 and self._target is not None

    def next_drain(self) -> float | None:
        """Return when `next_response` has a cluster to remove, if it is only time that it waits for."""
        return self._gates.next_drain()

    def _rollback(self, target: Target, now: float) -> Response | None:
        """The routes of a canary taken back: they name clusters that the client has, so they wait for none."""
        state = self._states.get(ResourceType.RDS)
        if state is None:
            self._urgent.clear()
            return None
        self._urgent &= state.due | state.owed
        if state.in_flight is not None:
            return None
        for name in sorted(self._urgent):
            body = self._composer.part(ResourceType.RDS, target, (name,), now)
            if body is not None:
                return self._send(state, body)
        return None

    def _send(self, state: TypeState, body: Body) -> Response:
        self._nonces += 1
        response = Response(body, str(self._nonces))
        state.in_flight, state.nonce, state.parent_sent = response, response.nonce, False
        state.sent_version = body.version
        if self._marks:
            self._mark(body.type)
        for child in CHILDREN.get(body.type, ()):
            if child in self._states:
                self._mark(child)
        return response
