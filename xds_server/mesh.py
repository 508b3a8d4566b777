"""The mesh as the shell sees it: what to route where. Frozen values, built and checked by `settings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import Literal

from analysis.spec import ServiceSpec

MatchKind = Literal["exact", "prefix", "suffix", "contains", "regex", "present", "range"]
Address = tuple[str, int]
"""Host (IP address or DNS name) and port."""
Network = IPv4Network | IPv6Network
BEARER_HEADER, BEARER_PREFIX = "authorization", "Bearer "
"""Where tokens are, unless something else is said (RFC 6750, section 2.1)."""

SIDECAR_CLUSTER = "sidecar"
"""Node cluster in the bootstrap of every Envoy that is no gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueMatch:
    """Matches one header, cookie or query parameter.

    `value`: str, bool for `present`, (first, last+1) for `range`.
    """

    name: str
    kind: MatchKind
    value: str | bool | tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimMatch:
    """Matches what a verified token of `provider` says. `path`: where in it, `value` as in `ValueMatch`."""

    provider: str
    path: tuple[str, ...]
    kind: MatchKind
    value: str | bool | tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentMatch:
    """All of its parts must match. `path_prefix` None: any path. `source`: any one of these networks.

    `learned`: those people who have been adopted under this name; None: anybody.
    """

    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()
    path_prefix: str | None = None
    learned: str | None = None
    cookies: tuple[ValueMatch, ...] = ()
    source: tuple[Network, ...] = ()
    claims: tuple[ClaimMatch, ...] = ()

    @property
    def is_of_requests(self) -> bool:
        """Whether it asks for what differs from one request of a person to the next, by its nature."""
        return self.path_prefix is not None or any(header.name.startswith(":") for header in self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderIdentity:
    header: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieIdentity:
    """A cookie that Serinus mints, before routing, for visitors who carry no identity."""

    cookie: str
    ttl_s: int


Identity = HeaderIdentity | CookieIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtProvider:
    """Who issues the tokens in whose claims segments match.

    `issuer` and `audiences` empty: any. `jwks`: its public keys, as JSON. The token is in `cookie` or, after `prefix`,
    in `header`.
    """

    name: str
    jwks: str
    issuer: str = ""
    audiences: tuple[str, ...] = ()
    header: str = BEARER_HEADER
    prefix: str = BEARER_PREFIX
    cookie: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One path prefix of a service. Times in milliseconds; `retries` on connect failures and 5xx.

    `stream`: its requests last as long as somebody is there (WebSocket, SSE, gRPC streams): no time-out, and how long
    they take is not judged.
    """

    prefix: str = "/"
    timeout_ms: int = 15_000
    retries: int = 0
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    path: str
    interval_ms: int = 2_000
    timeout_ms: int = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFile:
    """The endpoints are those in a file, which is watched. `path`: as seen from where Serinus runs."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The endpoints are those that instances register. `lease_s`: how long that holds without a renewal, at most."""

    lease_s: float


EndpointSource = EndpointFile | Registered


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """`source`: where endpoints come from that the mesh file does not list; `endpoints` is empty then."""

    name: str
    endpoints: tuple[Address, ...]
    health: HealthCheck | None = None
    source: EndpointSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRule:
    """What counts as a failed request. `status` are inclusive ranges; `flags` are Envoy's short response flags."""

    status: tuple[tuple[int, int], ...] = ((500, 599),)
    grpc_failing: bool = True
    flags: frozenset[str] = frozenset({"UH", "UF", "UO", "UT", "LR", "UR", "UC", "URX", "NC", "UPE", "DT", "OM"})
    span_status: bool = True  # a server span with status ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service: its routing here, its rollout in `spec`. `matches` follows `spec.segments` (default: None).

    `dead_man`: people are sent to a canary only while a control plane says so (see `Mesh.dead_man_s`).
    `idle_timeout_ms`: how long a client's connection may be without requests. `learned_timeout_ms`: how long a request
    waits for who is in a learned segment. `holds`: people stay in the segment in which their session began;
    `hold_secret` signs which one that is, and without it nobody is held. `retrain_s`: how old a profile becomes;
    `keep_s`: how long somebody who stays away is remembered.
    """

    name: str
    domains: tuple[str, ...]
    port: int
    identity: tuple[Identity, ...]
    routes: tuple[Route, ...]
    versions: Mapping[str, Version]
    matches: Mapping[str, SegmentMatch | None]
    errors: ErrorRule
    spec: ServiceSpec
    dead_man: bool = False
    idle_timeout_ms: int = 3_600_000
    learned_timeout_ms: int = 20
    retrain_s: float = 86_400.0
    keep_s: float = 90 * 86_400.0
    holds: bool = True
    hold_secret: bytes = field(default=b"", repr=False)

    @property
    def learned(self) -> dict[str, str]:
        """The names that people are adopted under, by the segments that they are then in."""
        matches = self.matches.items()
        return {name: match.learned for name, match in matches if match is not None and match.learned is not None}

    @property
    def held_segments(self) -> tuple[str, ...]:
        """The segments that a session stays in; none where there are not two of them.

        A pin is a promise, and a path is of a request: they count at once, and hold nobody.
        """
        if not (self.holds and self.hold_secret):
            return ()
        names = tuple(
            segment.name
            for segment in self.spec.segments
            if segment.pin is None and not ((match := self.matches.get(segment.name)) and match.is_of_requests)
        )
        return names if len(names) > 1 else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """An edge Envoy, known by its node ID or node cluster.

    `listen`: where it listens, for all its services, told apart by domain. `to`: hand requests over to this sidecar,
    which splits; None: the gateway itself splits. `strip`: headers removed from what clients send, besides
    `x-serinus-*`. `trusted_hops`: proxies before it whose word on the client's address, in x-forwarded-for, is taken.
    """

    node: str
    listen: Address
    services: tuple[str, ...]
    to: str | None = None
    strip: tuple[str, ...] = ()
    trusted_hops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """An Envoy beside a client, by node ID or cluster; `listen` overrides 0.0.0.0:<the service's port>.

    A host name there: it listens on every address, and gateways reach it by that name.
    """

    node: str
    listen: Address


Right = Literal["xds", "ingest", "observe", "control", "register"]
"""What a certificate may let its owner do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """What the owners of some certificates may do.

    `san`: pattern of a URI (SPIFFE ID) or DNS name in the certificate. `nodes`: patterns of the node IDs under which
    they may come. `services`: those that they see and report of; None: all.
    """

    san: str
    may: frozenset[Right]
    nodes: tuple[str, ...] = ("*",)
    services: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryBounds:
    """How much is kept of past deployments: for how long, of how many, and in how many bytes; the oldest go first."""

    keep_s: float = 365 * 86_400.0
    rollouts: int = 2_000
    bytes: int = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """`dead_man_s`: how long Envoys go on with canaries when the control plane is gone; None: for ever.

    `access`: the first rule that fits a peer's certificate says what it may; None: every peer may do everything.
    `browsers`: origins of the pages whose browsers may send events over HTTP.
    `traced`: share of the requests that Envoys trace, 0 to 1; None: they have no tracer.
    `history`: how much is kept of past deployments.
    `files`: what was read beside the mesh file, and is part of it.
    """

    path: str
    services: Mapping[str, Service]
    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    sidecars: Mapping[str, Sidecar] = field(default_factory=dict)
    dead_man_s: float | None = None
    access: tuple[AccessRule, ...] | None = None
    browsers: frozenset[str] = frozenset()
    traced: float | None = None
    jwt: Mapping[str, JwtProvider] = field(default_factory=dict)
    history: HistoryBounds = field(default_factory=HistoryBounds)
    files: tuple[str, ...] = ()


def with_hold_secret(mesh: Mesh, secret: bytes) -> Mesh:
    """The mesh, with people held in their segments by cookies that this signs."""
    services = {name: replace(service, hold_secret=secret) for name, service in mesh.services.items()}
    return replace(mesh, services=MappingProxyType(services))


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSplit:
    """What one segment's route says: `canary_bp` of 10,000 hash buckets go to `canary`, the rest to `baseline`."""

    baseline: str
    canary: str | None = None
    canary_bp: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedTable:
    """What Envoys must know to believe what is said of who is in which learned segment.

    `version`: what was said by an older table counts no more. `public_key`: of whoever signs, as hex of its DER form.
    """

    version: int
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Segments that are watched more closely. `traced`: there is a tracer, which traces every request there."""

    segments: frozenset[str] = frozenset()
    traced: bool = False


NO_WATCH = Watch()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSplits:
    """The decisions in force for one service. `rollout` salts the hash; `generation` stamps the routes.

    Filled in when they are published: `learned`; None: nobody is asked for, so nobody is in a learned segment. `watch`.
    """

    rollout: str  # "" while there has never been a rollout
    generation: int
    segments: Mapping[str, SegmentSplit]
    learned: LearnedTable | None = None
    watch: Watch = NO_WATCH
