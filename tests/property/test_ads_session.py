"""An ADS session holds its promises whatever a client says, in whatever order."""

from __future__ import annotations

import hashlib
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from xds_server.ads.session import Acked, Nacked, Request, Response, StreamSession
from xds_server.snapshot import Resource, ResourceType, Snapshot, content_version

CDS, EDS, LDS, RDS = ResourceType
CLUSTERS = ("a", "b", "c")
ROUTES = ("r1", "r2")
TYPES = st.sampled_from(list(ResourceType))
CONTENTS = st.sampled_from("123")


def resource(name: str, content: str, needs: frozenset[str] = frozenset()) -> Resource:
    digest = hashlib.sha256(f"{name}{content}{sorted(needs)}".encode()).hexdigest()
    return Resource(name=name, hash=digest, packed=b"", needs=needs)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Consistent: each route names clusters that exist, each cluster has its endpoints, each listener its routes."""
    clusters = draw(st.sets(st.sampled_from(CLUSTERS), min_size=1))
    routes = draw(st.sets(st.sampled_from(ROUTES)))
    named = st.frozensets(st.sampled_from(sorted(clusters)), min_size=1)
    resources = {
        CDS: {c: resource(c, draw(CONTENTS), frozenset({c})) for c in clusters},
        EDS: {c: resource(c, draw(CONTENTS)) for c in clusters},
        LDS: {r: resource(r, draw(CONTENTS), frozenset({r})) for r in routes},
        RDS: {r: resource(r, draw(CONTENTS), draw(named)) for r in routes},
    }
    return Snapshot(
        resources=resources, versions={t: content_version(named.values()) for t, named in resources.items()}
    )


class AnyClient(RuleBasedStateMachine):
    """A client that subscribes, answers, repeats itself and errs at will."""

    ENVOY: ClassVar = {CDS: [], LDS: [], EDS: [*CLUSTERS], RDS: [*ROUTES]}

    def __init__(self) -> None:
        super().__init__()
        self.session = StreamSession()
        self.now = 0.0
        self.target: Snapshot | None = None
        self.names: dict[ResourceType, tuple[str, ...]] = {}
        self.has_named: set[ResourceType] = set()
        self.unanswered: dict[ResourceType, Response] = {}
        self.nonces: dict[ResourceType, list[str]] = {t: [""] for t in ResourceType}
        self.acked_clusters: set[str] = set()
        self.refused: set[tuple[ResourceType, frozenset[tuple[str, str]]]] = set()

    # --- What the client may do ---

    @rule(snapshot=snapshots())
    def publish(self, snapshot: Snapshot) -> None:
        self.target = snapshot
        self.session.offer(snapshot)
        self.refused.clear()  # content changed

    @rule(kind=TYPES, names=st.lists(st.sampled_from(("a", "b", "r1", "r2", "nobody", "*")), unique=True))
    def subscribe(self, kind: ResourceType, names: list[str]) -> None:
        self._request(kind, tuple(names), self.nonces[kind][-1])
        self.refused = {refusal for refusal in self.refused if refusal[0] is not kind}

    @rule(kind=TYPES)
    def subscribe_like_envoy(self, kind: ResourceType) -> None:
        self.subscribe(kind, self.ENVOY[kind])

    @initialize(is_envoy=st.booleans(), snapshot=snapshots())
    def connect(self, is_envoy: bool, snapshot: Snapshot) -> None:
        """Most clients are Envoys, and most promises matter to a client that has something."""
        self.publish(snapshot)
        if is_envoy:
            for kind in ResourceType:
                self.subscribe_like_envoy(kind)
            self.settle()

    @rule(kind=TYPES)
    def repeat(self, kind: ResourceType) -> None:
        if kind in self.names:
            self._request(kind, self.names[kind], self.nonces[kind][-1])

    @rule(kind=TYPES, data=st.data())
    def answer_what_is_long_overtaken(self, kind: ResourceType, data: st.DataObject) -> None:
        if kind in self.names and len(self.nonces[kind]) > 1:
            nonce = data.draw(st.sampled_from(self.nonces[kind][:-1]))
            assert self._request(kind, self.names[kind], nonce, error="late") is None

    @rule(which=st.integers(0, 3), accepts=st.booleans())
    def answer_one(self, which: int, accepts: bool) -> None:
        self.write()
        waiting = list(self.unanswered)
        if waiting:
            self.answer(waiting[which % len(waiting)], accepts=accepts)
        self.write()

    @rule(snapshot=snapshots(), refuses=st.lists(TYPES, max_size=4))
    def push(self, snapshot: Snapshot, refuses: list[ResourceType]) -> None:
        """A change is pushed to a client that takes some of it and refuses some."""
        self.publish(snapshot)
        self.write()
        for kind in list(self.unanswered):
            self.answer(kind, accepts=kind not in refuses)
        self.write()

    def answer(self, kind: ResourceType, *, accepts: bool) -> None:
        response = self.unanswered[kind]
        said = self._request(kind, self.names[kind], response.nonce, error=None if accepts else "no")
        assert said is not None
        assert said.response == response
        assert isinstance(said, Acked) is accepts
        if isinstance(said, Nacked) and response.resources:
            self.refused.add((kind, _content(response)))

    @rule(seconds=st.sampled_from((0.1, 1.0, 5.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def write(self) -> None:
        while self._write() is not None:
            pass

    @rule()
    def settle(self) -> None:
        """Everything is written and accepted, as with a healthy Envoy."""
        for _ in range(10):
            self.write()
            for kind in list(self.unanswered):
                self.answer(kind, accepts=True)

    def _request(self, kind: ResourceType, names: tuple[str, ...], nonce: str, error: str | None = None):
        self.names[kind] = names
        if names:
            self.has_named.add(kind)
        response = self.unanswered.get(kind)
        if response is not None and nonce == response.nonce:
            del self.unanswered[kind]
            if error is None and kind is CDS:
                self.acked_clusters = {r.name for r in response.resources}
        said = self.session.receive(Request(type=kind, names=names, nonce=nonce, error=error), self.now)
        self.acked_clusters = {name for name in self.acked_clusters if self._covers(CDS, name)}
        return said

    def _covers(self, kind: ResourceType, name: str) -> bool:
        names = self.names.get(kind, ())
        legacy = kind in (CDS, LDS) and kind not in self.has_named
        return name in names or "*" in names or (legacy and kind in self.names)

    # --- What the session promises ---

    def _write(self) -> Response | None:
        response = self.session.next_response(self.now)
        if response is None:
            return None
        kind = response.type
        assert kind not in self.unanswered, "two responses of one type in flight"
        assert kind in self.names, "an answer to nobody"
        assert all(self._covers(kind, r.name) for r in response.resources), "not subscribed"
        assert len({r.name for r in response.resources}) == len(response.resources), "one name twice"
        assert response.nonce not in self.nonces[kind], "a nonce twice"
        assert (kind, _content(response)) not in self.refused, "what was rejected, again"
        if kind is RDS:
            assert len(response.resources) == 1
            if self._covers(CDS, "any cluster"):
                assert response.resources[0].needs <= self.acked_clusters, "a route to a cold cluster"
        self.nonces[kind].append(response.nonce)
        self.unanswered[kind] = response
        return response

    @invariant()
    def no_route_of_the_client_loses_its_cluster(self) -> None:
        clusters = self.unanswered.get(CDS)
        if clusters is None or not self._covers(CDS, "any cluster") or not self.target:
            return
        sent = {r.name for r in clusters.resources}
        acked = self.session.acked(CDS).keys()
        for routes in self.session.acked(RDS).values():
            assert routes.needs & acked <= sent

    def teardown(self) -> None:
        """From any state, a client that accepts everything comes to rest with all that it subscribes to."""
        if self.target is None:
            return
        fresh = {
            kind: {name: resource(name, "fresh", r.needs) for name, r in named.items()}
            for kind, named in self.target.resources.items()
        }
        target = Snapshot(resources=fresh, versions={t: content_version(named.values()) for t, named in fresh.items()})
        self.publish(target)
        for _ in range(100):
            self.now += 1.0
            if self._write() is None and not self.unanswered:
                break
            for kind in list(self.unanswered):
                self.answer(kind, accepts=True)
        else:
            raise AssertionError("it never comes to rest")
        for kind in self.names:
            for name, wanted in target.resources[kind].items():
                if self._covers(kind, name) and (kind is not RDS or self._is_released(wanted)):
                    assert self.session.acked(kind)[name].hash == wanted.hash, (kind, name)

    def _is_released(self, routes: Resource) -> bool:
        return not self._covers(CDS, "any cluster") or routes.needs <= self.acked_clusters


def _content(response: Response) -> frozenset[tuple[str, str]]:
    return frozenset((r.name, r.hash) for r in response.resources)


TestAnyClient = AnyClient.TestCase
TestAnyClient.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
