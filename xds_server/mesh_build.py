"""Builds the frozen `Mesh` from a mesh file whose shape and references have been checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from analysis.spec import (
    DEFAULT_SEGMENT,
    HarmSpec,
    KpiKind,
    KpiSpec,
    Mode,
    Outcome,
    ResourceSpec,
    RolloutSpec,
    SegmentSpec,
    ServiceSpec,
    SessionSpec,
)
from xds_server.mesh import (
    BEARER_HEADER,
    BEARER_PREFIX,
    AccessRule,
    ClaimMatch,
    CookieIdentity,
    EndpointFile,
    EndpointSource,
    ErrorRule,
    Gateway,
    HeaderIdentity,
    HealthCheck,
    HistoryBounds,
    Identity,
    JwtProvider,
    MatchKind,
    Mesh,
    Registered,
    Route,
    SegmentMatch,
    Service,
    Sidecar,
    ValueMatch,
    Version,
)
from xds_server.mesh_checks import KINDS
from xds_server.mesh_model import (
    AbandonmentShape,
    AccessShape,
    ClaimShape,
    HealthShape,
    IdentityShape,
    JwtShape,
    MatchShape,
    MeshShape,
    QueryShape,
    RolloutShape,
    RouteShape,
    SegmentShape,
    ServiceShape,
    TokenShape,
    VersionShape,
)


def build_mesh(shape: MeshShape, path: str, jwks: Mapping[str, str]) -> Mesh:
    """Build the mesh; every mapping in it is read-only. `jwks`: the keys of each issuer of tokens."""
    every_service = tuple(shape.services)
    gateways = {
        name: Gateway(
            node=name,
            listen=gateway.listen,
            services=every_service if gateway.services is None else tuple(gateway.services),
            to=gateway.to,
            strip=tuple(gateway.strip),
            trusted_hops=gateway.trusted_hops,
        )
        for name, gateway in shape.gateways.items()
    }
    return Mesh(
        path=path,
        services=MappingProxyType(
            {name: _service(name, service, path, shape) for name, service in shape.services.items()}
        ),
        gateways=MappingProxyType(gateways),
        sidecars=MappingProxyType({n: Sidecar(node=n, listen=s.listen) for n, s in shape.sidecars.items()}),
        dead_man_s=shape.dead_man,
        history=HistoryBounds(
            keep_s=shape.history.keep, rollouts=shape.history.rollouts, bytes=shape.history.megabytes * 1_000_000
        ),
        traced=None if shape.tracing is None else shape.tracing.sampling,
        browsers=frozenset(shape.browsers or ()),
        access=None if shape.access is None else tuple(_access(rule) for rule in shape.access),
        jwt=MappingProxyType({name: _provider(name, each, jwks[name]) for name, each in shape.jwt.items()}),
        files=tuple(
            str(Path(path).parent / each.jwks.file) for each in shape.jwt.values() if each.jwks.file is not None
        ),
    )


def _access(shape: AccessShape) -> AccessRule:
    return AccessRule(
        san=shape.san,
        may=frozenset(shape.may),
        nodes=("*",) if shape.nodes is None else tuple(shape.nodes),
        services=None if shape.services is None else frozenset(shape.services),
    )


def _service(name: str, shape: ServiceShape, path: str, mesh: MeshShape) -> Service:
    matches = {segment: _match_of(rules, mesh.jwt) for segment, rules in shape.segments.items()}
    return Service(
        name=name,
        domains=tuple(shape.domains),
        port=shape.port,
        identity=tuple(_identity(identity) for identity in shape.identity),
        routes=tuple(_route(route) for route in shape.routes) if shape.routes else (Route(),),
        versions=MappingProxyType(
            {version: _version(version, rules, Path(path).parent) for version, rules in shape.versions.items()}
        ),
        matches=MappingProxyType({**matches, DEFAULT_SEGMENT: None}),
        errors=ErrorRule(
            status=shape.errors.status,
            grpc_failing=shape.errors.grpc_status == "failing",
            flags=frozenset(shape.errors.flags),
            span_status=shape.errors.span_status,
        ),
        spec=service_spec(name, shape),
        dead_man=mesh.dead_man is not None,
        idle_timeout_ms=_ms(shape.idle_timeout),
        learned_timeout_ms=_ms(shape.learned.timeout),
        retrain_s=shape.profile.retrain,
        keep_s=shape.profile.keep,
        holds=shape.session.hold,
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1_000)


def _identity(shape: IdentityShape) -> Identity:
    if shape.cookie is not None:
        return CookieIdentity(cookie=shape.cookie.name, ttl_s=round(shape.cookie.ttl))
    return HeaderIdentity(header=str(shape.header))


def _route(shape: RouteShape) -> Route:
    return Route(prefix=shape.prefix, timeout_ms=_ms(shape.timeout), retries=shape.retries, stream=shape.stream)


def _version(name: str, shape: VersionShape, folder: Path) -> Version:
    health, given = _health(shape.health), shape.endpoints
    if isinstance(given, list):
        return Version(name=name, endpoints=tuple(given), health=health)
    source: EndpointSource | None = None
    if given.file is not None:
        source = EndpointFile(path=str(folder / given.file))
    elif given.registered is not None:
        source = Registered(lease_s=given.registered.lease)
    return Version(name=name, endpoints=(), health=health, source=source)


def _health(shape: HealthShape | None) -> HealthCheck | None:
    if shape is None:
        return None
    return HealthCheck(path=shape.path, interval_ms=_ms(shape.interval), timeout_ms=_ms(shape.timeout))


def _match_of(shape: SegmentShape, providers: Iterable[str]) -> SegmentMatch:
    return SegmentMatch(learned=shape.learned) if shape.match is None else _match(shape.match, providers)


def _match(shape: MatchShape, providers: Iterable[str]) -> SegmentMatch:
    return SegmentMatch(
        headers=tuple(_value_match(rule) for rule in shape.headers or ()),
        query=tuple(_value_match(rule) for rule in shape.query or ()),
        path_prefix=shape.path,
        cookies=tuple(_value_match(rule) for rule in shape.cookies or ()),
        source=tuple(shape.source or ()),
        claims=tuple(_claim_match(rule, providers) for rule in shape.claims or ()),
    )


def _value_match(shape: QueryShape) -> ValueMatch:
    kind, value = _way(shape)
    return ValueMatch(name=shape.name, kind=kind, value=value)


def _claim_match(shape: ClaimShape, providers: Iterable[str]) -> ClaimMatch:
    kind, value = _way(shape)
    provider = next(iter(providers)) if shape.provider is None else shape.provider
    return ClaimMatch(provider=provider, path=shape.name, kind=kind, value=value)


def _way(shape: QueryShape) -> tuple[MatchKind, Any]:
    """The one way to match that is given, and what with."""
    kind = next(kind for kind in KINDS if getattr(shape, kind, None) is not None)
    value = getattr(shape, kind)
    return kind, tuple(value) if kind == "range" else value


def _provider(name: str, shape: JwtShape, jwks: str) -> JwtProvider:
    token = shape.token or TokenShape(header=BEARER_HEADER)
    usual = BEARER_PREFIX if token.header == BEARER_HEADER else ""
    return JwtProvider(
        name=name,
        jwks=jwks,
        issuer=shape.issuer or "",
        audiences=tuple(shape.audiences or ()),
        header=token.header or "",
        prefix=usual if token.prefix is None else token.prefix,
        cookie=token.cookie,
    )


def service_spec(name: str, shape: ServiceShape) -> ServiceSpec:
    """What the core knows of a service."""
    segments = [
        SegmentSpec(
            name=segment,
            weight=rules.weight,
            pin=rules.pin,
            after=tuple(rules.after),
            max_split_bp=rules.max_split,
        )
        for segment, rules in shape.segments.items()
    ]
    goal = shape.session.goal
    return ServiceSpec(
        name=name,
        baseline=shape.baseline,
        versions=tuple(shape.versions),
        segments=(*segments, SegmentSpec(name=DEFAULT_SEGMENT)),
        kpis=_kpis(shape),
        session=SessionSpec(gap_s=shape.session.gap, goal_path=goal.path if goal else None),
        rollout=_rollout(shape.rollout),
        resources=tuple(
            ResourceSpec(name=each.name, metric=each.metric, limit=each.limit) for each in shape.resources or ()
        ),
    )


def _kpis(shape: ServiceShape) -> tuple[KpiSpec, ...]:
    """Errors, slowness and unusual behaviour are always watched; abandonment where a goal says what complete means."""
    kpis, age = shape.kpis, shape.session.judge_after
    specs = [
        KpiSpec(
            kind=KpiKind.ERROR_RATE,
            judge_after_s=age.error_rate,
            tolerance=kpis.error_rate.max_regression,
            limit=kpis.error_rate.limit,
        ),
        KpiSpec(
            kind=KpiKind.LATENCY,
            judge_after_s=age.latency_p95,
            tolerance=kpis.latency_p95.tolerance,
            slow_ms=None if kpis.latency_p95.limit is None else kpis.latency_p95.limit * 1_000,
            regression=kpis.latency_p95.max_regression,
        ),
    ]
    if shape.session.goal is not None:
        abandonment = kpis.abandonment or AbandonmentShape()
        specs.append(
            KpiSpec(
                kind=KpiKind.ABANDONMENT,
                judge_after_s=age.abandonment,
                tolerance=abandonment.max_regression,
                limit=abandonment.limit,
            )
        )
    specs += [
        KpiSpec(kind=KpiKind.FEATURE, judge_after_s=age.feature, tolerance=feature.max_regression, feature=feature_name)
        for feature_name, feature in kpis.features.items()
    ]
    anomaly = KpiSpec(kind=KpiKind.ANOMALY, judge_after_s=age.anomaly, tolerance=kpis.anomaly.max_regression)
    return (*specs, anomaly)


def _rollout(shape: RolloutShape) -> RolloutSpec:
    bad = HarmSpec().bad if shape.harm.bad is None else frozenset(Outcome(word) for word in shape.harm.bad)
    return RolloutSpec(
        mode=Mode(shape.mode),
        harm=HarmSpec(budget=shape.harm.budget, bad=bad, tolerance=shape.harm.tolerance),
        budget_risk=shape.budget_risk,
        false_rollback=shape.false_rollback,
        policy=shape.policy,
        shadow=shape.shadow,
        interval_s=shape.interval,
        warmup_s=shape.warmup,
        max_step_bp=shape.max_step,
        min_dwell_s=shape.min_dwell,
        horizon_s=shape.horizon,
        settle_s=shape.settle,
        bake_s=shape.bake,
        bake_split_bp=shape.bake_split,
    )
