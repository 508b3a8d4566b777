"""The shape of a mesh file: its keys, what each takes, its defaults. The JSON Schema falls out of it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from analysis.spec import HarmSpec, RolloutSpec
from xds_server.mesh import Address, ErrorRule, HealthCheck, HistoryBounds, Network, Right, Route
from xds_server.units import (
    CLAIM,
    DOMAIN,
    ENDPOINT,
    FILE,
    HEADER,
    JSON,
    LISTEN,
    METRIC,
    NAME,
    NETWORK,
    NODES,
    ORIGIN,
    PATH,
    PLAIN_HEADER,
    PORT,
    REACHABLE,
    REGEX,
    SAN,
    STATUS,
    TOKEN,
    TRUTH,
    WORDS,
    OneOrMore,
    WrongValueError,
    choice,
    duration,
    number,
    points,
    share,
    split,
    whole,
)

# Envoy's short response flags
# fmt: off
FLAGS = (
    "DC", "DF", "DI", "DPE", "DR", "DT", "FI", "IH", "LH", "LR", "NC", "NFCF", "NR", "OM", "RFCF", "RL", "RLSE", "SI",
    "UAEX", "UC", "UDO", "UF", "UH", "UMSDR", "UO", "UPE", "UR", "URX", "UT",
)
# fmt: on
REFUSED_IN_SEGMENTS = {
    "range": "Envoy matches a range in headers and claims only",
}
"""Keys that somebody may well expect. An option must not be taken and then do nothing."""

JUDGED_AFTER_S = 60.0
MOST_RESOURCES = 16
ABANDONED_AFTER_S = 600.0

_FLAG = choice(*FLAGS)
_FLAGS = OneOrMore(
    item=_FLAG,
    words={"transport": tuple(sorted(ErrorRule().flags)), "none": ()},
    legal=f"transport, none, or a list of Envoy's response flags: {', '.join(FLAGS)}",
)
_BAD = choice("error", "slow", "abandoned")
_POLICY = choice("budget", "learned", "thompson", "fixed")
_AGE = duration("1s", "24h")
_EXCESS = points("0pp", "50pp")
_LIMIT = share("0.01%", "99%")


def _given(value: object) -> object:
    """Refuse a key without a value: it is a mistake, not a way to ask for the default."""
    if value is None:
        raise WrongValueError("nothing given", "")
    return value


GIVEN = BeforeValidator(_given)
Name = Annotated[str, NAME]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CookieShape(Shape):
    name: Annotated[str, TOKEN]
    ttl: Annotated[float, duration("1m", "400d")] = 30 * 86_400.0


class IdentityShape(Shape):
    """One of the two."""

    header: Annotated[str | None, PLAIN_HEADER] = None
    cookie: Annotated[CookieShape | None, GIVEN] = None


class GoalShape(Shape):
    path: Annotated[str, PATH]


class JudgeAfterShape(Shape):
    error_rate: Annotated[float, _AGE] = JUDGED_AFTER_S
    latency_p95: Annotated[float, _AGE] = JUDGED_AFTER_S
    abandonment: Annotated[float, _AGE] = ABANDONED_AFTER_S
    feature: Annotated[float, _AGE] = JUDGED_AFTER_S
    anomaly: Annotated[float, _AGE] = JUDGED_AFTER_S


class SessionShape(Shape):
    gap: Annotated[float, duration("1s", "24h")] = 1_800.0
    hold: Annotated[bool, TRUTH] = True
    goal: Annotated[GoalShape | None, GIVEN] = None
    judge_after: JudgeAfterShape = JudgeAfterShape()


class ErrorsShape(Shape):
    status: Annotated[tuple[tuple[int, int], ...], STATUS] = ErrorRule().status
    grpc_status: Annotated[Literal["failing", "ignore"], choice("failing", "ignore")] = "failing"
    flags: Annotated[tuple[str, ...], _FLAGS] = tuple(sorted(ErrorRule().flags))
    span_status: Annotated[bool, TRUTH] = ErrorRule().span_status


class RouteShape(Shape):
    prefix: Annotated[str, PATH]
    timeout: Annotated[float, duration("10ms", "1h")] = Route().timeout_ms / 1_000
    retries: Annotated[int, whole(0, 10)] = Route().retries
    stream: Annotated[bool, TRUTH] = Route().stream


class HealthShape(Shape):
    path: Annotated[str, PATH]
    interval: Annotated[float, duration("100ms", "10m")] = HealthCheck(path="/").interval_ms / 1_000
    timeout: Annotated[float, duration("10ms", "1m")] = HealthCheck(path="/").timeout_ms / 1_000


class RegisteredShape(Shape):
    lease: Annotated[float, duration("1s", "1h")] = 30.0


class SourceShape(Shape):
    """Exactly one of the two."""

    file: Annotated[str | None, FILE] = None
    registered: Annotated[RegisteredShape | None, GIVEN] = None


LISTED, ELSEWHERE = "[listed]", "[elsewhere]"
"""Tags of the two ways to give endpoints; pydantic puts them into the paths of what is wrong."""


def _way(value: object) -> str:
    return ELSEWHERE if isinstance(value, dict) else LISTED


Listed = Annotated[list[Annotated[Address, ENDPOINT]], Field(min_length=1)]


class VersionShape(Shape):
    endpoints: Annotated[Annotated[Listed, Tag(LISTED)] | Annotated[SourceShape, Tag(ELSEWHERE)], Discriminator(_way)]
    health: Annotated[HealthShape | None, GIVEN] = None


class QueryShape(Shape):
    """One query parameter: its name and exactly one way to match it."""

    name: Annotated[str, WORDS]
    exact: Annotated[str | None, WORDS] = None
    prefix: Annotated[str | None, WORDS] = None
    suffix: Annotated[str | None, WORDS] = None
    contains: Annotated[str | None, WORDS] = None
    regex: Annotated[str | None, REGEX] = None
    present: Annotated[bool | None, TRUTH] = None


class HeaderShape(QueryShape):
    """One header: its name and exactly one way to match it. `range: [a, b)`: a whole number, a <= it < b."""

    name: Annotated[str, HEADER]
    range: Annotated[
        list[Annotated[int, whole(-(10**15), 10**15)]] | None, Field(min_length=2, max_length=2), GIVEN
    ] = None


class CookieMatchShape(QueryShape):
    """One cookie: its name and exactly one way to match it."""

    name: Annotated[str, TOKEN]


class ClaimShape(QueryShape):
    """One claim of a verified token; `provider` may be left out where there is only one."""

    name: Annotated[tuple[str, ...], CLAIM]  # type: ignore[assignment]  # where it is: a claim may be in a claim
    provider: Annotated[str | None, NAME] = None
    range: Annotated[
        list[Annotated[int, whole(-(10**15), 10**15)]] | None, Field(min_length=2, max_length=2), GIVEN
    ] = None


class MatchShape(Shape):
    """All of its parts must match; of `source` one network."""

    headers: Annotated[list[HeaderShape] | None, Field(min_length=1), GIVEN] = None
    cookies: Annotated[list[CookieMatchShape] | None, Field(min_length=1), GIVEN] = None
    query: Annotated[list[QueryShape] | None, Field(min_length=1), GIVEN] = None
    path: Annotated[str | None, PATH] = None
    source: Annotated[list[Annotated[Network, NETWORK]] | None, Field(min_length=1), GIVEN] = None
    claims: Annotated[list[ClaimShape] | None, Field(min_length=1), GIVEN] = None


class SegmentShape(Shape):
    """`match` or `learned`."""

    match: Annotated[MatchShape | None, GIVEN] = None
    learned: Annotated[str | None, NAME] = None
    weight: Annotated[float, number(0.01, 100)] = 1.0
    pin: Annotated[str | None, NAME] = None
    after: list[Name] = Field(default_factory=list)
    max_split: Annotated[int, split("0.01%", "100%")] = 10_000


class LearnedShape(Shape):
    timeout: Annotated[float, duration("1ms", "1s")] = 0.02


class ErrorRateShape(Shape):
    limit: Annotated[float | None, _LIMIT] = None
    max_regression: Annotated[float, _EXCESS] = 0.005


class LatencyShape(Shape):
    """`limit`: slower is slow; without it the threshold is the baseline's p95, raised by `max_regression`."""

    limit: Annotated[float | None, duration("1ms", "10m")] = None
    max_regression: Annotated[float, share("0%", "1000%")] = 0.1
    tolerance: Annotated[float, _EXCESS] = 0.02


class AbandonmentShape(Shape):
    limit: Annotated[float | None, _LIMIT] = None
    max_regression: Annotated[float, _EXCESS] = 0.02


class FeatureShape(Shape):
    max_regression: Annotated[float, _EXCESS] = 0.02


class AnomalyShape(Shape):
    max_regression: Annotated[float, _EXCESS] = 0.10


class KpisShape(Shape):
    error_rate: ErrorRateShape = ErrorRateShape()
    latency_p95: LatencyShape = LatencyShape()
    abandonment: Annotated[AbandonmentShape | None, GIVEN] = None
    features: dict[Annotated[str, WORDS], FeatureShape] = Field(default_factory=dict)
    anomaly: AnomalyShape = AnomalyShape()


class ResourceShape(Shape):
    """Something that processes of a version use up, as their gauge says."""

    name: Name
    metric: Annotated[str, METRIC]
    limit: Annotated[float, number(0.001, 1_000_000_000_000_000)]


class HarmShape(Shape):
    budget: Annotated[float, number(1, 1_000_000)] = HarmSpec().budget
    bad: Annotated[list[Annotated[str, _BAD]] | None, Field(min_length=1), GIVEN] = None
    tolerance: Annotated[float, points("0.01pp", "50pp")] = HarmSpec().tolerance


class RolloutShape(Shape):
    mode: Annotated[Literal["act", "observe"], choice("act", "observe")] = "act"
    harm: HarmShape = HarmShape()
    budget_risk: Annotated[float, share("0.01%", "50%")] = RolloutSpec().budget_risk
    false_rollback: Annotated[float, share("0.01%", "50%")] = RolloutSpec().false_rollback
    policy: Annotated[str, _POLICY] = RolloutSpec().policy
    shadow: Annotated[str | None, _POLICY] = RolloutSpec().shadow
    interval: Annotated[float, duration("200ms", "1h")] = RolloutSpec().interval_s
    warmup: Annotated[float, duration("0s", "24h")] = RolloutSpec().warmup_s
    max_step: Annotated[int, split("0.01pp", "100pp", unit="pp")] = RolloutSpec().max_step_bp
    min_dwell: Annotated[float, duration("0s", "24h")] = RolloutSpec().min_dwell_s
    horizon: Annotated[float, duration("1s", "24h")] = RolloutSpec().horizon_s
    settle: Annotated[float, duration("0s", "24h")] = RolloutSpec().settle_s
    bake: Annotated[float, duration("0s", "30d")] = RolloutSpec().bake_s
    bake_split: Annotated[int, split("1%", "99.99%")] = RolloutSpec().bake_split_bp


class ProfileShape(Shape):
    """What is learnt of people: how often anew, and for how long it is kept."""

    retrain: Annotated[float, duration("10m", "90d")] = 86_400.0
    keep: Annotated[float, duration("1h", "400d")] = 90 * 86_400.0


class ServiceShape(Shape):
    domains: Annotated[list[Annotated[str, DOMAIN]], Field(min_length=1)]
    port: Annotated[int, PORT]
    identity: Annotated[list[IdentityShape], Field(min_length=1)]
    session: SessionShape = SessionShape()
    errors: ErrorsShape = ErrorsShape()
    routes: Annotated[list[RouteShape] | None, Field(min_length=1), GIVEN] = None
    idle_timeout: Annotated[float, duration("1s", "24h")] = 3_600.0
    versions: Annotated[dict[Name, VersionShape], Field(min_length=1)]
    baseline: Name
    segments: dict[Name, SegmentShape] = Field(default_factory=dict)
    learned: LearnedShape = LearnedShape()
    profile: ProfileShape = ProfileShape()
    kpis: KpisShape = KpisShape()
    resources: Annotated[list[ResourceShape] | None, Field(min_length=1, max_length=MOST_RESOURCES), GIVEN] = None
    rollout: RolloutShape = RolloutShape()


class GatewayShape(Shape):
    listen: Annotated[Address, LISTEN]
    services: Annotated[list[Name] | None, Field(min_length=1), GIVEN] = None
    to: Annotated[str | None, NAME] = None
    strip: list[Annotated[str, PLAIN_HEADER]] = Field(default_factory=list)
    trusted_hops: Annotated[int, whole(0, 16)] = 0


class SidecarShape(Shape):
    listen: Annotated[Address, REACHABLE]


class JwksShape(Shape):
    """Exactly one of the two."""

    file: Annotated[str | None, FILE] = None
    inline: Annotated[str | None, JSON] = None


class TokenShape(Shape):
    """Exactly one of header and cookie."""

    header: Annotated[str | None, PLAIN_HEADER] = None
    prefix: Annotated[str | None, WORDS] = None
    cookie: Annotated[str | None, TOKEN] = None


class JwtShape(Shape):
    issuer: Annotated[str | None, WORDS] = None
    audiences: Annotated[list[Annotated[str, WORDS]] | None, Field(min_length=1), GIVEN] = None
    jwks: JwksShape
    token: Annotated[TokenShape | None, GIVEN] = None


class AccessShape(Shape):
    """What the owners of certificates with such a name may do."""

    san: Annotated[str, SAN]
    may: Annotated[list[Annotated[Right, choice(*get_args(Right))]], Field(min_length=1)]
    nodes: Annotated[list[Annotated[str, NODES]] | None, Field(min_length=1), GIVEN] = None
    services: Annotated[list[Name] | None, Field(min_length=1), GIVEN] = None


class TracingShape(Shape):
    """Envoys' own tracer, OpenTelemetry's."""

    sampling: Annotated[float, share("0%", "100%")] = 0.01


class HistoryShape(Shape):
    """How much is kept of past deployments; whichever bound is reached first, the oldest go."""

    keep: Annotated[float, duration("1h", "4000d")] = HistoryBounds().keep_s
    rollouts: Annotated[int, whole(1, 100_000)] = HistoryBounds().rollouts
    megabytes: Annotated[int, whole(1, 1_000_000)] = HistoryBounds().bytes // 1_000_000


class MeshShape(Shape):
    services: Annotated[dict[Name, ServiceShape], Field(min_length=1)]
    gateways: dict[Name, GatewayShape] = Field(default_factory=dict)
    sidecars: dict[Name, SidecarShape] = Field(default_factory=dict)
    dead_man: Annotated[float | None, duration("10s", "24h"), GIVEN] = None
    access: Annotated[list[AccessShape] | None, Field(min_length=1), GIVEN] = None
    tracing: Annotated[TracingShape | None, GIVEN] = None
    history: HistoryShape = HistoryShape()
    browsers: Annotated[list[Annotated[str, ORIGIN]] | None, Field(min_length=1), GIVEN] = None
    jwt: dict[Name, JwtShape] = Field(default_factory=dict)
