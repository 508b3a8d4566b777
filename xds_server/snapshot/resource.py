"""One resource, ready to be sent, and the types that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

_ANY = "type.googleapis.com/"


class ResourceType(StrEnum):
    """The types that Serinus serves, in the order that keeps traffic whole: what is referenced goes out first.

    xDS protocol, "Eventual consistency considerations": CDS, EDS, LDS, RDS. A scope (SRDS) comes between its listener
    and the route configuration that it names. RTDS is on its own: it arms the dead-man switch.
    """

    CDS = "CDS"
    EDS = "EDS"
    LDS = "LDS"
    SRDS = "SRDS"
    RDS = "RDS"
    RTDS = "RTDS"

    @property
    def url(self) -> str:
        return TYPE_URLS[self]

    @property
    def is_whole_state(self) -> bool:
        """Whether a state-of-the-world response must hold every subscribed resource: what it lacks is deleted.

        These are also the types of which Envoy asks for everything by naming nothing.
        """
        return self in _WHOLE

    @property
    def referred(self) -> ResourceType | None:
        """The type of the resources that one of this type refers to; a snapshot holds all of them."""
        return _REFERRED.get(self)


TYPE_URLS = MappingProxyType(
    {
        ResourceType.CDS: _ANY + "envoy.config.cluster.v3.Cluster",
        ResourceType.EDS: _ANY + "envoy.config.endpoint.v3.ClusterLoadAssignment",
        ResourceType.LDS: _ANY + "envoy.config.listener.v3.Listener",
        ResourceType.SRDS: _ANY + "envoy.config.route.v3.ScopedRouteConfiguration",
        ResourceType.RDS: _ANY + "envoy.config.route.v3.RouteConfiguration",
        ResourceType.RTDS: _ANY + "envoy.service.runtime.v3.Runtime",
    }
)
TYPES_BY_URL = MappingProxyType({url: t for t, url in TYPE_URLS.items()})
_WHOLE = frozenset({ResourceType.CDS, ResourceType.LDS, ResourceType.SRDS})

OTHER_TYPES = frozenset(
    _ANY + name
    for name in (
        "envoy.config.core.v3.TypedExtensionConfig",
        "envoy.config.route.v3.VirtualHost",
        "envoy.extensions.transport_sockets.tls.v3.Secret",
    )
)
"""Types that an Envoy may ask for and that are not served here."""

_REFERRED: Mapping[ResourceType, ResourceType] = MappingProxyType(
    {
        ResourceType.CDS: ResourceType.EDS,
        ResourceType.LDS: ResourceType.RDS,
        ResourceType.SRDS: ResourceType.RDS,
        ResourceType.RDS: ResourceType.CDS,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource.

    `version`: what tells its content from any other, in every replica and after every restart: a hash, never a counter.
    That of an EDS resource also covers its cluster, since a changed cluster is only warm once its EDS has come again.
    `packed`: the message in a serialised Any. `needs`: names of what it leads to (LDS and SRDS: RDS, RDS: CDS, CDS:
    EDS). `services`: whom it serves. RDS only: `generations` of each service's splits, and `exposed`: the segments, as
    `<service>|<segment>`, of which it sends somebody to a canary. RTDS only: `ttl_ms`, after which the client drops it
    unless it is sent again; `at_first`: what takes its place until the client has its routes; `lasting`: itself, for
    clients that must not be given a lifetime.
    """

    name: str
    version: str
    packed: bytes = field(repr=False)
    needs: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    generations: Mapping[str, int] = field(default_factory=dict)
    exposed: frozenset[str] = frozenset()
    ttl_ms: int = 0
    at_first: Resource | None = None
    lasting: Resource | None = None


def content_version(resources: Iterable[Resource]) -> str:
    """Version of a set of resources, whatever their order: the sum of their versions, each of them a hash."""
    total = sum(int(resource.version, 16) for resource in resources)
    return f"{total & 0xFFFF_FFFF_FFFF_FFFF:016x}"
