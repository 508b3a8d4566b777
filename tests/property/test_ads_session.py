"""An xDS session holds its promises whatever a client says, in whatever order, in both variants of the protocol."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from xds_server.ads.answer import Acked, Answer, Nacked
from xds_server.ads.response import Response, Target, Variant
from xds_server.ads.session import DeltaRequest, Request, StreamSession
from xds_server.ads.standing import Standing
from xds_server.snapshot import Resource, ResourceType, Snapshot

CDS, EDS, LDS, SRDS, RDS, RTDS = ResourceType
CLUSTERS = ("a", "b", "c")
ROUTES = ("r1", "r2")
TYPES = st.sampled_from(list(ResourceType))
CONTENTS = st.sampled_from("123")
NAMES = st.lists(st.sampled_from(("a", "b", "r1", "r2", "s-r1", "serinus", "nobody", "*")), unique=True)


def resource(name: str, content: str, needs: frozenset[str] = frozenset(), exposed: bool = False) -> Resource:
    digest = hashlib.sha256(f"{name}{content}{sorted(needs)}{exposed}".encode()).hexdigest()[:16]
    services = frozenset({"shop"}) if exposed else frozenset()
    return Resource(name=name, version=digest, packed=content.encode(), needs=needs, exposed=services)


OFF = resource("serinus", "off")


def switch(is_on: bool) -> Resource:
    """The dead-man switch."""
    return replace(resource("serinus", "on"), ttl_ms=60_000, at_first=OFF) if is_on else OFF


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Consistent: each route names clusters that exist, each cluster has its endpoints, each listener its routes."""
    clusters = draw(st.sets(st.sampled_from(CLUSTERS), min_size=1))
    routes = draw(st.sets(st.sampled_from(ROUTES)))
    named = st.frozensets(st.sampled_from(sorted(clusters)), min_size=1)
    return Snapshot(
        {
            CDS: {c: resource(c, draw(CONTENTS), frozenset({c})) for c in clusters},
            EDS: {c: resource(c, draw(CONTENTS)) for c in clusters},
            LDS: {r: resource(r, draw(CONTENTS), frozenset({r})) for r in routes},
            SRDS: {f"s-{r}": resource(f"s-{r}", draw(CONTENTS), frozenset({r})) for r in routes},
            RDS: {r: resource(r, draw(CONTENTS), draw(named), draw(st.booleans())) for r in routes},
            RTDS: {"serinus": switch(draw(st.booleans()))},
        }
    )


class AnyClient(RuleBasedStateMachine):
    """A client that subscribes, answers, repeats itself and errs at will."""

    variant: ClassVar[Variant]
    MAY_BE_LEGACY: ClassVar[bool] = True
    ENVOY: ClassVar = {RTDS: ["serinus"], CDS: ["*"], LDS: ["*"], SRDS: ["*"], EDS: [*CLUSTERS], RDS: [*ROUTES]}

    def __init__(self) -> None:
        super().__init__()
        self.session = StreamSession(self.variant, may_be_legacy=self.MAY_BE_LEGACY)
        self.now = 0.0
        self.target: Snapshot | None = None
        self.names: dict[ResourceType, set[str]] = {}
        self.unanswered: dict[ResourceType, Response] = {}
        self.nonces: dict[ResourceType, list[str]] = {t: [""] for t in ResourceType}
        self.has: dict[ResourceType, dict[str, str]] = {t: {} for t in ResourceType}  # versions, as ACKed
        self.refused: set[tuple[ResourceType, frozenset[tuple[str, str]]]] = set()

        self.has_refused: set[tuple[ResourceType, str, str]] = set()  # name, version, of all times
        self.refused_to_lose: set[str] = set()
        self.refused_switch = False

    # --- What the client may do

    @rule(snapshot=snapshots(), at_once=st.booleans())
    def publish(self, snapshot: Snapshot, at_once: bool = False) -> None:
        """What takes a canary back goes out first."""
        self.target = snapshot
        target = Target(snapshot)
        response = self.session.advance(target) if at_once else self.session.offer(target)
        self.refused.clear()  # content changed
        if response is not None:
            self._promises(response)

    @rule(kind=st.sampled_from((EDS, RDS)), content=CONTENTS)
    def change_one(self, kind: ResourceType, content: str) -> None:
        """What happens most: one split, or one service's endpoints."""
        if self.target is not None and self.target.resources[kind]:
            name, was = next(iter(self.target.resources[kind].items()))
            now = resource(name, content, was.needs, content == "1" and kind is RDS)
            self.publish(self.target.but({kind: {**self.target.resources[kind], name: now}}), at_once=True)

    @rule(kind=TYPES, names=NAMES)
    def subscribe(self, kind: ResourceType, names: list[str]) -> None:
        """State of the world names everything anew; delta adds."""
        self._request(kind, names=names, nonce=self._newest(kind))
        self.refused = {refusal for refusal in self.refused if refusal[0] is not kind}

    @rule(kind=TYPES, names=NAMES)
    def unsubscribe(self, kind: ResourceType, names: list[str]) -> None:
        if kind in self.names:
            if self.variant is Variant.SOTW:
                names = sorted(self.names[kind] - set(names))
            self._request(kind, names=names, nonce=self._newest(kind), leave=True)
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
            self._request(kind, names=None, nonce=self._newest(kind))

    @rule(kind=TYPES, data=st.data())
    def answer_what_is_long_overtaken(self, kind: ResourceType, data: st.DataObject) -> None:
        if kind in self.names and len(self.nonces[kind]) > 1:
            nonce = data.draw(st.sampled_from(self.nonces[kind][:-1]))
            assert self._request(kind, names=None, nonce=nonce, error="late") is None

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
        said = self._request(kind, names=None, nonce=response.nonce, error=None if accepts else "no")
        assert said is not None
        assert said.response == response
        assert isinstance(said, Acked) is accepts
        if isinstance(said, Nacked):
            lost = self.has[kind].keys() - {r.name for r in response.resources} if response.body.is_whole else ()
            content = {*_content(response), *((name, "") for name in lost)}
            self.has_refused.update((kind, name, version) for name, version in content)
        if isinstance(said, Nacked) and (response.resources or response.removed):
            self.refused.add((kind, _content(response)))
            self.refused_to_lose.update(response.removed)
            self.refused_switch |= kind is RTDS

    @rule(seconds=st.sampled_from((0.1, 1.0, 5.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def write(self) -> None:
        while self._write() is not None:
            pass

    @rule()
    def beat(self) -> None:
        self.session.beat()

    @rule()
    def settle(self) -> None:
        """Everything is written and accepted, as with a healthy Envoy."""
        for _ in range(20):
            self.write()
            for kind in list(self.unanswered):
                self.answer(kind, accepts=True)

    # --- The client

    def _request(
        self,
        kind: ResourceType,
        *,
        names: list[str] | None,
        nonce: str,
        error: str | None = None,
        leave: bool = False,
    ) -> Answer | None:
        """`names` None: nothing changes."""
        is_first = kind not in self.names
        response = self.unanswered.get(kind)
        if not is_first and response is not None and nonce == response.nonce:
            del self.unanswered[kind]
            if error is None:
                self._apply(response)
        request: Request | DeltaRequest
        if self.variant is Variant.SOTW:
            self.names[kind] = self.names.get(kind, set()) if names is None else set(names)
            request = Request(type=kind, names=tuple(self.names[kind]), nonce=nonce, error=error)
        else:
            add = [] if names is None or leave else names
            drop = names if names is not None and leave else []
            self.names[kind] = (self.names.get(kind, set()) | set(add)) - set(drop)
            if is_first and not add and kind.is_whole_state and self.MAY_BE_LEGACY:
                self.names[kind] = {"*"}
            request = DeltaRequest(type=kind, subscribe=add, unsubscribe=drop, nonce=nonce, error=error)
        self.legacy = getattr(self, "legacy", set())
        may_be_legacy = self.MAY_BE_LEGACY and self.variant is Variant.SOTW
        if may_be_legacy and is_first and not self.names[kind] and kind.is_whole_state:
            self.legacy.add(kind)
        if self.names[kind] and self.variant is Variant.SOTW:
            self.legacy.discard(kind)
        said = self.session.receive(request, self.now)
        self.has[kind] = {name: v for name, v in self.has[kind].items() if self._covers(kind, name)}
        return said

    def _apply(self, response: Response) -> None:
        has = {r.name: r.version for r in response.resources}
        if not response.body.is_whole:
            has = {n: v for n, v in self.has[response.type].items() if n not in response.removed} | has
        self.has[response.type] = has
        # What was refused together and has been taken one by one since is no longer refused.
        self.refused = {r for r in self.refused if r[0] is not response.type or not r[1] <= has.items()}

    def _newest(self, kind: ResourceType) -> str:
        """An empty nonce is what a spontaneous request of delta carries."""
        return self.nonces[kind][-1] if self.variant is Variant.SOTW else ""

    def _covers(self, kind: ResourceType, name: str) -> bool:
        if kind not in self.names:
            return False
        names = self.names[kind]
        return name in names or "*" in names or kind in getattr(self, "legacy", set())

    # --- What the session promises

    def _write(self) -> Response | None:
        was_due = self.session.is_due()
        response = self.session.next_response(self.now)
        if response is None:
            return None
        assert was_due, "nobody would have asked"
        self._promises(response)
        return response

    def _promises(self, response: Response) -> None:
        kind = response.type
        assert kind not in self.unanswered, "two responses of one type in flight"
        assert kind in self.names, "an answer to nobody"
        assert all(self._covers(kind, r.name) for r in response.resources), "not subscribed"
        assert all(self._covers(kind, name) for name in response.removed), "removal of what is not subscribed"
        assert not set(response.removed) & {r.name for r in response.resources}
        assert response.nonce not in self.nonces[kind], "a nonce twice"
        if response.resources or response.removed:
            assert (kind, _content(response)) not in self.refused, "what was rejected, again"
        if kind is RTDS and any(r.ttl_ms for r in response.resources):
            assert RDS in self.names, "canaries would come back before their routes"
            assert RDS not in self.unanswered
        if kind is RDS and self._covers(CDS, "any cluster"):
            for routes in response.resources:
                assert routes.needs <= self.has[CDS].keys(), "a route to a cold cluster"
        if kind is LDS and self.nonces[LDS] == [""] and CDS in self.unanswered and self._covers(LDS, "any listener"):
            wanted = self.target.resources[LDS] if self.target is not None else {}
            assert response.body.resources.keys() >= wanted.keys(), "a part for all: Envoy goes live with it"
        self.nonces[kind].append(response.nonce)
        self.unanswered[kind] = response

    @invariant()
    def what_is_taken_for_acked_is_what_the_client_has(self) -> None:
        for kind in self.names:
            acked = {name: r.version for name, r in self.session.acked(kind).items()}
            # State of the world does not say that routes or endpoints are gone: the client may have more than is known.
            assert acked.items() <= self.has[kind].items(), kind
            if self.variant is Variant.DELTA or kind.is_whole_state:
                assert self.has[kind].keys() - self.refused_to_lose <= acked.keys(), kind

    @invariant()
    def what_is_told_of_each_resource_is_so(self) -> None:
        if self.target is None:
            return
        views = list(self.session.standings(self.target))
        told = {(view.type, view.name) for view in views}
        assert len(told) == len(views)
        for kind in self.names:
            assert all((kind, name) in told for name in self.target.resources[kind] if self._covers(kind, name))
        for view in views:
            has = self.has[view.type].get(view.name)
            assert view.held is None or view.held.version == has
            match view.standing:
                case Standing.SYNCED:
                    assert view.wanted is not None
                    assert view.wanted.version == has
                case Standing.STALE:
                    sent = self.unanswered[view.type].body
                    assert view.name in sent.resources or not sent.keeps(view.name)
                case Standing.ERROR:
                    assert (view.type, view.name, view.rejected) in self.has_refused
            assert (view.rejected is not None) is (view.standing is Standing.ERROR)

    @invariant()
    def no_route_of_the_client_loses_its_cluster(self) -> None:
        clusters = self.unanswered.get(CDS)
        if clusters is None or not self._covers(CDS, "any cluster"):
            return
        for routes in self.session.acked(RDS).values():
            for cluster in routes.needs & self.session.acked(CDS).keys():
                assert clusters.body.keeps(cluster)

    def teardown(self) -> None:
        """From any state, a client that accepts everything comes to rest with all that it subscribes to."""
        if self.target is None:
            return
        fresh = {
            kind: {name: resource(name, "fresh", r.needs) if kind is not RTDS else r for name, r in named.items()}
            for kind, named in self.target.resources.items()
        }
        target = Snapshot(fresh)
        self.publish(target)
        for _ in range(200):
            self.now += 5.0
            if self._write() is None and not self.unanswered:
                break
            for kind in list(self.unanswered):
                self.answer(kind, accepts=True)
        else:
            raise AssertionError("it never comes to rest")
        self.now += 1_000.0
        for _ in range(10):
            self.settle()
            self.now += 5.0
        if self._covers(RTDS, "serinus") and RDS in self.names and not self.refused_switch:
            assert self.has[RTDS]["serinus"] == target.resources[RTDS]["serinus"].version, "the switch is not armed"
        standing = {(view.type, view.name): view.standing for view in self.session.standings(target)}
        for kind in self.names:
            for name, wanted in target.resources[kind].items():
                if self._covers(kind, name) and self._is_released(kind, wanted):
                    assert self.has[kind].get(name) == wanted.version, (kind, name)
                    assert standing[kind, name] is Standing.SYNCED
            if self.variant is Variant.DELTA:
                stale = self.has[kind].keys() - target.resources[kind].keys() - self.refused_to_lose
                assert not stale, f"it was never told that these {kind} are gone"

    def _is_released(self, kind: ResourceType, wanted: Resource) -> bool:
        assert self.target is not None
        if kind is RTDS:
            return not (wanted.ttl_ms or self.refused_switch)
        if not self._covers(CDS, "any cluster"):
            return True
        if kind in (LDS, SRDS):
            return all(self.target.resources[RDS][name].needs <= self.has[CDS].keys() for name in wanted.needs)
        return kind is not RDS or wanted.needs <= self.has[CDS].keys()


def _content(response: Response) -> frozenset[tuple[str, str]]:
    return frozenset([*((r.name, r.version) for r in response.resources), *((name, "") for name in response.removed)])


class AnySotwClient(AnyClient):
    variant = Variant.SOTW


class AnyDeltaClient(AnyClient):
    variant = Variant.DELTA


class AnyGrpcClient(AnyClient):
    """It names all that it wants; to name nothing is to want nothing (gRFC A28)."""

    variant = Variant.SOTW
    MAY_BE_LEGACY = False
    ENVOY: ClassVar = {RTDS: [], CDS: [*CLUSTERS], LDS: [*ROUTES], SRDS: [], EDS: [*CLUSTERS], RDS: [*ROUTES]}


TestAnySotwClient = AnySotwClient.TestCase
TestAnySotwClient.settings = settings(max_examples=100, stateful_step_count=20)
TestAnyDeltaClient = AnyDeltaClient.TestCase
TestAnyDeltaClient.settings = settings(max_examples=100, stateful_step_count=20)
TestAnyGrpcClient = AnyGrpcClient.TestCase
TestAnyGrpcClient.settings = settings(max_examples=100, stateful_step_count=20)
