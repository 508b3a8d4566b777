"""One ADS stream as a state machine without I/O: requests and snapshots in, responses out.

Rules, all per stream (xDS protocol = envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol):

- At most one response per type waits for its ACK. What changes meanwhile is merged: a slow Envoy gets the newest state.
- Make before break: CDS, then EDS, then LDS, then RDS. A route configuration is held until the clusters that it names
  are ACKed, which Envoy does once they are warm; a cluster goes only when no route that the client has names it.
- A CDS response that changes an EDS cluster is followed by that cluster's EDS, or Envoy warms it until a timeout.
- What was rejected is not sent again until its content changes; until then the last ACKed content takes its place.

State of the world only, so far. Delta differs in how requests change a `Subscription` and in how a `Response` is
written (per-resource versions, `removed_resources`); phases, barriers and ACKs are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xds_server.ads.subscription import WILDCARD, Subscription
from xds_server.snapshot import Resource, ResourceType, Snapshot, content_version

DRAIN_S = 2.0
"""How long a cluster outlives the last route to it: workers take a route over a little after Envoy's ACK."""

_CHILD: Mapping[ResourceType, ResourceType] = {
    ResourceType.CDS: ResourceType.EDS,
    ResourceType.LDS: ResourceType.RDS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What matters of a DiscoveryRequest. `error`: the message of its error_detail; None: not a NACK."""

    type: ResourceType
    names: tuple[str, ...] = ()
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What is to be written. `version`: of the whole type in the snapshot it was taken from."""

    type: ResourceType
    version: str
    nonce: str
    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    response: Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """`changed`: the resources among which the fault must be; the others had been ACKed as they are."""

    response: Response
    changed: tuple[Resource, ...]
    message: str


Answer = Acked | Nacked


@dataclass(slots=True, kw_only=True)
class _TypeState:
    """What one stream knows of one type; mappings are by name.

    `sent`: the newest content sent. `acked`: the newest content ACKed. `owed`: names to be sent even if unchanged.
    `rejected`: hashes not to be sent again. `suspects`: were rejected together, to be tried one by one.
    `parent_sent`: CDS (LDS) was sent after our newest EDS (RDS).
    """

    subscription: Subscription
    sent: dict[str, Resource] = field(default_factory=dict)
    acked: dict[str, Resource] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)
    rejected: dict[str, str] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    acked_version: str = ""
    in_flight: Response | None = None
    nonce: str = ""
    parent_sent: bool = False


class StreamSession:
    """State of one stream. Not thread-safe; times are seconds of any monotonic clock."""

    def __init__(self) -> None:
        self._types: dict[ResourceType, _TypeState] = {}
        self._target: Snapshot | None = None
        self._drains: dict[str, float] = {}  # clusters without routes, and until when they stay
        self._nonces = 0
        self.stale_n = 0

    def offer(self, snapshot: Snapshot) -> None:
        """Set what the client should have; replaces what was offered before, sent or not."""
        self._target = snapshot

    def acked(self, kind: ResourceType) -> Mapping[str, Resource]:
        """Content that the client has ACKed and still subscribes to, by name."""
        state = self._types.get(kind)
        return state.acked if state else {}

    def acked_version(self, kind: ResourceType) -> str:
        """Version of the last response of this type that was ACKed; empty: none yet."""
        state = self._types.get(kind)
        return state.acked_version if state else ""

    def has_rejected(self, kind: ResourceType, resource: Resource) -> bool:
        """Whether the client has said no to this very content, so that it will not be sent again."""
        state = self._types.get(kind)
        return state is not None and state.rejected.get(resource.name) == resource.hash

    # --- Requests ---

    def receive(self, request: Request, now: float) -> Answer | None:
        """Take one request and return what it says about our newest response, if anything."""
        state = self._types.get(request.type)
        if state is None:
            state = _TypeState(subscription=Subscription(may_be_legacy=request.type.is_whole_state))
            self._types[request.type] = state
            self._subscribe(request, state, now)
            return None  # a nonce here is from an earlier stream, and says nothing on this one
        if request.nonce != state.nonce:
            # The answer to an older response; the newest one's is still to come. The names are honoured all the same:
            # a client that always finds its nonce overtaken would never get what it asks for (envoy#10363).
            self.stale_n += 1
            self._subscribe(request, state, now)
            return None
        answer = self._settle(request, state, now)
        is_repeated = not self._subscribe(request, state, now)
        if answer is None and is_repeated and state.parent_sent:
            # Looks like a second ACK, but Envoy asks for what a changed cluster (listener) needs to become warm.
            state.owed |= {name for name in state.sent if state.subscription.covers(name)}
        return answer

    def _subscribe(self, request: Request, state: _TypeState, now: float) -> bool:
        """Adopt the names; whether they changed. What is no longer subscribed is forgotten, so it can be sent again."""
        before = (state.subscription.names, state.subscription.wildcard)
        # "The server must send newly requested resources even if it had sent them before and they did not change."
        state.owed |= state.subscription.replace(request.names)
        covers = state.subscription.covers
        state.owed = {name for name in state.owed if name == WILDCARD or covers(name)}
        dropped = [name for name in state.sent.keys() | state.acked.keys() | state.rejected.keys() if not covers(name)]
        forgotten = []
        for name in dropped:
            forgotten += [held for held in (state.sent.pop(name, None), state.acked.pop(name, None)) if held]
            state.rejected.pop(name, None)
            state.suspects.discard(name)
        if request.type is ResourceType.RDS:
            self._drain(forgotten, now)
        return before != (state.subscription.names, state.subscription.wildcard)

    def _settle(self, request: Request, state: _TypeState, now: float) -> Answer | None:
        """Count the request as ACK or NACK of the response in flight (xDS protocol, "ACK/NACK and versioning")."""
        response, state.in_flight = state.in_flight, None
        if response is None:
            return None
        if request.error is None:
            self._accept(response, state, now)
            return Acked(response=response)
        return self._reject(response, state, request.error)

    def _accept(self, response: Response, state: _TypeState, now: float) -> None:
        before = state.acked
        taken = {r.name: r for r in response.resources if r.name in state.sent}  # not what it unsubscribed meanwhile
        state.acked = taken if response.type.is_whole_state else {**before, **taken}
        if not response.type.is_whole_state:
            state.rejected = {name: hash_ for name, hash_ in state.rejected.items() if name not in taken}
        state.acked_version = response.version
        state.suspects -= taken.keys()
        if response.type is ResourceType.RDS:
            self._drain(before.values(), now)

    def _reject(self, response: Response, state: _TypeState, message: str) -> Nacked:
        changed = tuple(r for r in response.resources if _hash(state.acked.get(r.name)) != r.hash)
        names = {resource.name for resource in response.resources}
        if response.type.is_whole_state:
            # If nothing changed, it refuses what it had ACKed: there is nothing better left to send.
            state.rejected |= {resource.name: resource.hash for resource in changed}
        else:
            # A lone culprit was rejected whole: the client has what it had. Of several, any may be to blame, and some
            # may have been applied: each is sent once more, alone.
            state.sent = {name: r for name, r in state.sent.items() if name not in names}
            state.sent |= {name: r for name, r in state.acked.items() if name in names}
            if len(names) == 1:
                state.rejected |= {resource.name: resource.hash for resource in response.resources}
                state.suspects -= names
            else:
                state.suspects |= names
                state.owed |= names
        return Nacked(response=response, changed=changed, message=message)

    def _drain(self, left: Iterable[Resource], now: float) -> None:
        """Start the clock of clusters to be removed that no route configuration of the client names any longer."""
        wanted = self._target.resources[ResourceType.CDS] if self._target else {}
        idle = {cluster for routes in left for cluster in routes.needs} - self._named_by_routes() - wanted.keys()
        for cluster in idle:
            self._drains.setdefault(cluster, now + DRAIN_S)

    # --- Responses ---

    def next_response(self, now: float) -> Response | None:
        """Return the response to write next, which from then on waits for its ACK; None: nothing to say."""
        if self._target is None:
            return None
        for kind in ResourceType:  # in the order of make before break
            state = self._types.get(kind)
            if state is None or state.in_flight is not None:
                continue
            due = self._due(kind, state, self._target, now)
            if due is not None:
                return self._send(kind, state, due, self._target)
        return None

    def next_drain(self) -> float | None:
        """Return when `next_response` has a cluster to remove, if it is only time that it waits for."""
        clusters = self._types.get(ResourceType.CDS)
        if clusters is None or clusters.in_flight is not None:
            return None
        return min(self._drains.values(), default=None)

    def _due(
        self, kind: ResourceType, state: _TypeState, target: Snapshot, now: float
    ) -> Mapping[str, Resource] | None:
        wanted = {name: r for name, r in self._wanted(kind, target, now).items() if state.subscription.covers(name)}
        if kind.is_whole_state:
            return _whole_due(state, wanted)
        return _partial_due(state, wanted, alone=kind is ResourceType.RDS)

    def _wanted(self, kind: ResourceType, target: Snapshot, now: float) -> Mapping[str, Resource]:
        resources = target.resources[kind]
        if kind is ResourceType.CDS:
            return {**self._retained(target, now), **resources}
        if kind is ResourceType.RDS:
            return {name: resource for name, resource in resources.items() if self._is_released(resource)}
        return resources

    def _retained(self, target: Snapshot, now: float) -> Mapping[str, Resource]:
        """Clusters that are gone from the target but not yet from the client's routes, or only just."""
        self._drains = {
            name: until
            for name, until in self._drains.items()
            if until > now and name not in target.resources[ResourceType.CDS]
        }
        keep = self._named_by_routes() | self._drains.keys()
        return {name: resource for name, resource in self._types[ResourceType.CDS].sent.items() if name in keep}

    def _named_by_routes(self) -> set[str]:
        """Clusters named by any route configuration that the client has, or may have."""
        state = self._types.get(ResourceType.RDS)
        if state is None:
            return set()
        return {cluster for held in (state.sent, state.acked) for r in held.values() for cluster in r.needs}

    def _is_released(self, routes: Resource) -> bool:
        """Whether every cluster that these routes name is ACKed, hence warm, and not being removed just now.

        Envoy ACKs a route to a cluster that it does not know, and answers 503. Only a client that subscribes to all
        clusters can be waited for: proxyless gRPC asks for a cluster after it has seen the route.
        """
        clusters = self._types.get(ResourceType.CDS)
        if clusters is None or not clusters.subscription.wildcard:
            return True
        return routes.needs <= clusters.acked.keys() & clusters.sent.keys()

    def _send(self, kind: ResourceType, state: _TypeState, due: Mapping[str, Resource], target: Snapshot) -> Response:
        self._nonces += 1
        resources = tuple(due[name] for name in sorted(due))
        is_substituted = kind.is_whole_state and due != target.resources[kind]
        version = content_version(resources) if is_substituted else target.versions[kind]
        response = Response(type=kind, version=version, nonce=str(self._nonces), resources=resources)
        child = self._types.get(_CHILD[kind]) if kind in _CHILD else None
        if child is not None:
            child.parent_sent = True
            if kind is ResourceType.CDS:
                child.owed |= {name for name in _changed_needs(state, resources) if child.subscription.covers(name)}
        if kind.is_whole_state:
            state.sent.clear()
            state.owed.clear()
        state.sent.update(due)
        state.owed -= {WILDCARD, *due}
        state.in_flight, state.nonce, state.parent_sent = response, response.nonce, False
        return response


def _changed_needs(state: _TypeState, resources: Iterable[Resource]) -> set[str]:
    """Names that the client must be sent again because what refers to them has changed."""
    return {name for r in resources if _hash(state.sent.get(r.name)) != r.hash for name in r.needs}


def _whole_due(state: _TypeState, wanted: Mapping[str, Resource]) -> Mapping[str, Resource] | None:
    """LDS and CDS: everything subscribed, or nothing. What such a response does not hold the client deletes."""
    if not state.rejected.items() <= _hashes(wanted).items():
        state.rejected = {}  # one of the culprits has changed: the others may have been innocent
    if state.rejected and not state.acked_version:
        # Unknown what a client from before our restart still has: better nothing than a response that deletes it.
        return None
    # A rejected CDS response is applied in part. What was ACKed last is put back in the culprits' place.
    usable = {n: state.acked.get(n) if state.rejected.get(n) == r.hash else r for n, r in wanted.items()}
    due = {name: resource for name, resource in usable.items() if resource is not None}
    return due if state.owed or _hashes(due) != _hashes(state.sent) else None


def _partial_due(state: _TypeState, wanted: Mapping[str, Resource], *, alone: bool) -> Mapping[str, Resource] | None:
    """EDS and RDS: only what changed or is owed; absence means nothing here.

    `alone`: one resource a response, so that a rejection has one culprit and delays nobody else's rollback.
    """
    due = {
        name: resource
        for name, resource in wanted.items()
        if state.rejected.get(name) != resource.hash
        and (name in state.owed or _hash(state.sent.get(name)) != resource.hash)
    }
    suspects = sorted(due.keys() & state.suspects)
    if suspects or (alone and due):
        first = suspects[0] if suspects else min(due)
        return {first: due[first]}
    return due or None


def _hash(resource: Resource | None) -> str | None:
    return resource.hash if resource is not None else None


def _hashes(resources: Mapping[str, Resource]) -> dict[str, str]:
    return {name: resource.hash for name, resource in resources.items()}
