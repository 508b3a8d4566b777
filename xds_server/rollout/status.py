"""What is going on, as the control API's messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from analysis.decision import Insufficient, Phase
from analysis.evidence.log_loss import LogCheck, LogLoss
from analysis.forecast.excess import Forecast
from analysis.forecast.exhaustion import Exhaustion
from analysis.latencies import QUANTILES, Latencies
from analysis.on_the_job import Moved
from analysis.policy.learned import DRIFT_MAX
from analysis.ramp import SegmentView
from analysis.shadow import ShadowTally
from analysis.spec import TOTAL_BP
from analysis.wording import RatioView
from xds_server.ads.cache import NodeView
from xds_server.discovery.registry import show_address
from xds_server.discovery.sources import VersionEndpoints
from xds_server.pb import control_pb2 as pb
from xds_server.rollout.steered import SteeredService
from xds_server.store.records import ExcludedNode


def service_status(steered: SteeredService, routed_by: Mapping[str, int]) -> pb.ServiceStatus:
    """The status of one service; segments in matching order. `routed_by`: node to the generation seen in its logs."""
    row, spec = steered.row, steered.service.spec
    status = pb.ServiceStatus(
        service=steered.name,
        state=row.state if row is not None else "idle",
        attributes=row.attribute_texts if row is not None else {},
        mode=str(spec.rollout.mode),
        baseline=row.baseline if row is not None else spec.baseline,
        generation=steered.splits.generation,
        in_force=steered.in_force,
        waiting_for=steered.waiting_for,
        harm_budget=spec.rollout.harm.budget,
        routed_by=routed_by,
    )
    if row is not None:
        status.rollout, status.canary, status.started_unix_ns = row.rollout, row.canary, row.started_unix_ns
    if steered.engine.learning is not None:
        status.policy_learning.CopyFrom(_policy_learning(steered.engine.learning.moved))
    ramp = steered.engine.ramp
    if ramp is None:
        status.segments.extend(_at_rest(steered))
        return status
    harm = ramp.harm_view()
    status.harm_upper, status.harm_reserved = harm.upper, harm.reserved
    status.sample_ratio.CopyFrom(_sample_ratio(ramp.wording.ratio_view(len(spec.segments))))
    status.segments.extend(_segment(steered, ramp.view(segment.name)) for segment in spec.segments)
    if steered.engine.is_running:
        limits = {each.name: each.limit for each in steered.engine.spec.resources}
        needed = steered.engine.exhaustion_log_e_needed
        status.resources.extend(
            _resource(name, limits[name], found, needed) for name, found in steered.engine.exhaustions().items()
        )
    return status


def _policy_learning(moved: Moved) -> pb.PolicyLearning:
    return pb.PolicyLearning(
        updates=moved.updates,
        moved=moved.values,
        values=moved.of,
        farthest=moved.farthest,
        bound=DRIFT_MAX,
        leaning=moved.leaning,
    )


def add_coverage(status: pb.ServiceStatus, steered: SteeredService, now_s: float) -> None:
    """Say who has been seen in each segment lately; its segments are those of the service, in order."""
    seen = steered.coverage.seen(now_s)
    status.seen_s = steered.coverage.watched_s(now_s)
    by_name = {segment.segment: segment for segment in status.segments}
    for place, segment in enumerate(steered.service.spec.segments):
        if seen is not None and place < len(seen.people) and segment.name in by_name:
            by_name[segment.name].seen_requests = int(seen.requests[place])
            by_name[segment.name].seen_people = seen.people_n(place)


def risk(steered: SteeredService, source: str) -> pb.Risk:
    """How likely the release of a running rollout fails; `source`: what the risk of one that began now would be of."""
    ramp = steered.engine.ramp
    assert ramp is not None  # noqa: S101 -- it runs
    if ramp.foresight is None:
        return pb.Risk(risk=ramp.risk, source=source if source.startswith("prior") else "prior: no model when it began")
    return pb.Risk(risk=ramp.risk, told=ramp.foresight.told(), source=ramp.foresight.version)


def _resource(name: str, limit: float, found: Exhaustion | None, log_e_needed: float) -> pb.Exhaustion:
    if found is None:
        return pb.Exhaustion(resource=name, limit=limit)
    told = pb.Exhaustion(
        resource=name, limit=limit, is_known=True, level=found.level, slope_per_h=found.slope * 3_600,
        in_s=_until(found.in_s), lower_s=_until(found.lower_s), upper_s=_until(found.upper_s),
        horizon_s=found.horizon_s, probability=found.p_exhausts, evidence=found.log_e, evidence_needed=log_e_needed,
    )  # fmt: skip
    if math.isfinite(found.baseline_slope):
        told.baseline_slope_per_h = found.baseline_slope * 3_600
    return told


def _until(seconds: float) -> float:
    return seconds if math.isfinite(seconds) else -1.0


def log_check(check: LogCheck, carriers_n: int) -> pb.LogCheck:
    """What the access logs lack. `carriers_n`: Envoys whose logs have named the service lately."""
    return pb.LogCheck(
        nodes=check.nodes,
        carriers=carriers_n,
        total=_log_loss("", check.total),
        versions=[_log_loss(version, loss) for version, loss in check.versions.items()],
    )


def lost_shares(checks: Mapping[str, LogCheck]) -> dict[tuple[str, str], float]:
    """The share that the access logs lack, by service and version, where it is known."""
    return {
        (service, version): loss.ratio
        for service, check in checks.items()
        for version, loss in check.versions.items()
        if isinstance(loss, LogLoss)
    }


def _log_loss(version: str, loss: LogLoss | Insufficient) -> pb.LogLoss:
    if isinstance(loss, Insufficient):
        return pb.LogLoss(version=version, requests=loss.n, needed=loss.needed)
    return pb.LogLoss(
        version=version, requests=loss.n, lost=loss.ratio, lower=loss.lower, upper=loss.upper, node=loss.worst
    )


def _at_rest(steered: SteeredService) -> list[pb.SegmentStatus]:
    outcome = steered.row.outcome if steered.row is not None else {}
    return [
        pb.SegmentStatus(
            segment=name,
            phase=outcome.get(name, ""),
            health="unknown",
            split=split.canary_bp / TOTAL_BP,
            baseline=split.baseline,
            canary=split.canary or "",
        )
        for name, split in steered.splits.segments.items()
    ]


def _segment(steered: SteeredService, view: SegmentView) -> pb.SegmentStatus:
    state, split = view.state, steered.splits.segments[view.segment]
    needed = view.needed if not state.phase.is_final else None
    minutes = 0.0 if needed is None else -1.0 if needed.minutes is None else needed.minutes
    return pb.SegmentStatus(
        segment=view.segment,
        phase=str(state.phase),
        health=str(view.health),
        split=split.canary_bp / TOTAL_BP,
        cap=state.cap_bp / TOTAL_BP,
        verdict=state.verdict,
        reason=steered.held or state.reason,
        leading_kpi=view.leading.kpi or "" if view.leading is not None else "",
        evidence=_finite(view.log_e),
        evidence_needed=view.log_threshold,
        canary_sessions=view.canary_n,
        baseline_sessions=view.baseline_n,
        needed_sessions=needed.needed if needed is not None else 0,
        needed_minutes=minutes,
        excess_sessions=view.excess,
        worst_excess_rate=view.worst_excess,
        anomaly=view.anomaly,
        breach_probability=state.forecast.p_breach if state.forecast is not None else 0.0,
        kpis=[
            pb.KpiStatus(
                kpi=kpi.kpi,
                canary=_finite(kpi.canary),
                baseline=_finite(kpi.baseline),
                tolerance=kpi.tolerance,
                evidence=_finite(kpi.log_e),
                canary_n=kpi.canary_n,
                baseline_n=kpi.baseline_n,
                effect=_finite(kpi.effect),
                effect_lower=_finite(kpi.lower),
                effect_upper=_finite(kpi.upper),
            )
            for kpi in view.kpis
        ],
        baseline=split.baseline,
        canary=split.canary or "",
        largest_split=state.largest_bp / TOTAL_BP,
        exposed_sessions=view.exposed_n if state.phase is not Phase.PINNED else 0,
        sample_ratio=_sample_ratio(view.sample_ratio),
        watched=state.watched,
        latencies=_latencies(view.latencies) if view.latencies is not None else None,
        shadow=_shadow(steered.service.spec.rollout.shadow, view.shadow),
        forecast=_forecast(state.forecast) if state.forecast is not None else None,
    )


def _forecast(forecast: Forecast) -> pb.Forecast:
    return pb.Forecast(
        kpi=forecast.kpi,
        limit=forecast.limit,
        horizon_s=forecast.horizon_s,
        now=_finite(forecast.now),
        mean=forecast.mean,
        lower=forecast.lower,
        upper=forecast.upper,
        probability=forecast.p_breach,
        driver=forecast.driver,
        everywhere=forecast.everywhere,
        crosses_s=-1.0 if forecast.crosses_s is None else forecast.crosses_s,
        width=forecast.width,
        baseline=_finite(forecast.baseline),
    )


def _shadow(policy: str | None, tally: ShadowTally | None) -> pb.Shadow | None:
    if policy is None or tally is None:
        return None
    return pb.Shadow(policy=policy, less=tally.less, same=tally.same, more=tally.more)


def _latencies(view: Latencies) -> pb.Latencies:
    quantiles = [
        pb.LatencyQuantile(quantile=quantile, canary_ms=_finite(canary), baseline_ms=_finite(baseline))
        for quantile, canary, baseline in zip(QUANTILES, view.canary_ms, view.baseline_ms, strict=True)
    ]
    return pb.Latencies(canary_n=view.canary_n, baseline_n=view.baseline_n, quantiles=quantiles)


def _sample_ratio(view: RatioView) -> pb.SampleRatio:
    return pb.SampleRatio(
        people=view.people,
        on_canary=view.on_canary,
        asked=view.asked,
        evidence=_finite(view.log_e),
        evidence_needed=view.log_threshold,
    )


def _finite(value: float) -> float:
    """JSON knows no NaN: what is unknown is 0, and the count beside it says so."""
    return value if math.isfinite(value) else 0.0


def node_statuses(views: Iterable[NodeView], excluded: Mapping[str, ExcludedNode]) -> list[pb.NodeStatus]:
    """All Envoys that are known, and those excluded that have not been seen: they must not be forgotten."""
    known = [_node_status(view, excluded.get(view.node)) for view in views]
    names = {status.node for status in known}
    return known + [pb.NodeStatus(node=name, excluded=_why(e)) for name, e in excluded.items() if name not in names]


def _node_status(view: NodeView, excluded: ExcludedNode | None) -> pb.NodeStatus:
    """What one Envoy has been sent, has ACKed and has rejected."""
    return pb.NodeStatus(
        node=view.node,
        cluster=view.cluster,
        role=view.role,
        connected=view.connected,
        acked=view.acked,
        sent=view.sent,
        rejections=[
            pb.Rejection(
                at_unix_ns=r.at_unix_ns, type=r.type, version=r.version, message=r.message, resources=r.resources
            )
            for r in view.rejections
        ],
        excluded=_why(excluded) if excluded is not None else "",
    )


def _why(excluded: ExcludedNode) -> str:
    return f"by {excluded.who}: {excluded.reason or 'no reason given'}"


def endpoints_status(view: VersionEndpoints) -> pb.VersionEndpoints:
    """How many endpoints a version has that the mesh file does not list, and which of them are doubtful."""
    return pb.VersionEndpoints(
        service=view.service,
        version=view.version,
        source=view.source,
        endpoints=len(view.endpoints),
        stale=[show_address(registration.address) for registration in view.stale],
        refused=view.why_not,
    )
