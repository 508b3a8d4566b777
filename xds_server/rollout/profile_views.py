"""What has been learnt of a service's people, as the control API tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from analysis.profile.summary import summary
from xds_server.pb import control_pb2 as pb
from xds_server.rollout.steered import SteeredService
from xds_server.store.profiles import ProfileRow

THURSDAY_H: Final = 3 * 24
"""The Unix epoch, where hours of the week begin in a profile, was a Thursday; here they begin on Monday."""

WEEK_H: Final = 7 * 24


def profile_reply(steered: SteeredService, rows: Mapping[str, ProfileRow], segments: Sequence[str]) -> pb.ProfileReply:
    """Return what is usual in these segments; the service's lock is held."""
    return pb.ProfileReply(
        segments=[_segment(steered, rows.get(segment), segment) for segment in segments],
        people=len(steered.engine.people),
    )


def _segment(steered: SteeredService, row: ProfileRow | None, segment: str) -> pb.SegmentProfile:
    behaviour, index = steered.engine.observer.behaviour, steered.service.spec.segment_index[segment]
    profile = behaviour.profile(index)
    reply = pb.SegmentProfile(segment=segment, waiting=behaviour.waiting_n(index))
    if profile is None:
        return reply
    if row is not None and row.trained_unix_ns == profile.trained_unix_ns:
        reply.version, reply.why = row.version, row.why
    reply.trained_unix_ns, reply.sessions = profile.trained_unix_ns, profile.n_sessions
    told = summary(profile)
    reply.kinds.extend(pb.SessionKind(share=kind.share, way=kind.way) for kind in told.kinds)
    reply.uses.extend(pb.Use(label=label, share=share) for label, share in told.uses)
    reply.busiest.extend(
        pb.BusyHour(hour_of_week=(hour + THURSDAY_H) % WEEK_H, sessions=sessions) for hour, sessions in told.busiest
    )
    return reply


def profile_evaluation(
    steered: SteeredService, rows: Mapping[str, ProfileRow], segments: Sequence[str]
) -> pb.ProfileEvaluationReply:
    """Return how well the profiles of these segments fit what has come since; the service's lock is held."""
    return pb.ProfileEvaluationReply(
        segments=[_evaluation(steered, rows.get(segment), segment) for segment in segments]
    )


def _evaluation(steered: SteeredService, row: ProfileRow | None, segment: str) -> pb.ProfileEvaluation:
    behaviour, index = steered.engine.observer.behaviour, steered.service.spec.segment_index[segment]
    n, unusual = behaviour.false_alarms(index)
    drift = behaviour.drift(index)
    reply = pb.ProfileEvaluation(
        segment=segment, version=0 if row is None else row.version, sessions=n, unusual=unusual, drift_p_value=1.0
    )
    if drift is not None:
        reply.drift_distance, reply.drift_p_value = drift.distance, drift.p_value
        reply.calls_for_training = drift.calls_for_training
    return reply
