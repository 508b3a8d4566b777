from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_UNSPECIFIED: _ClassVar[Action]
    ACTION_PAUSE: _ClassVar[Action]
    ACTION_RESUME: _ClassVar[Action]
    ACTION_SET: _ClassVar[Action]
    ACTION_PROMOTE: _ClassVar[Action]
    ACTION_ROLLBACK: _ClassVar[Action]
    ACTION_FREEZE: _ClassVar[Action]
ACTION_UNSPECIFIED: Action
ACTION_PAUSE: Action
ACTION_RESUME: Action
ACTION_SET: Action
ACTION_PROMOTE: Action
ACTION_ROLLBACK: Action
ACTION_FREEZE: Action

class LabelRequest(_message.Message):
    __slots__ = ("rollout", "verdict", "who", "reason")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    verdict: str
    who: str
    reason: str
    def __init__(self, rollout: _Optional[str] = ..., verdict: _Optional[str] = ..., who: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class LabelReply(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class GetRecordsRequest(_message.Message):
    __slots__ = ("service", "rollout")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    service: str
    rollout: str
    def __init__(self, service: _Optional[str] = ..., rollout: _Optional[str] = ...) -> None: ...

class RecordPart(_message.Message):
    __slots__ = ("data", "is_last", "problem", "who")
    DATA_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    is_last: bool
    problem: str
    who: str
    def __init__(self, data: _Optional[bytes] = ..., is_last: _Optional[bool] = ..., problem: _Optional[str] = ..., who: _Optional[str] = ...) -> None: ...

class GetTapeRequest(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    def __init__(self, rollout: _Optional[str] = ...) -> None: ...

class TapeEvent(_message.Message):
    __slots__ = ("at_unix_ns", "kind", "payload")
    AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    at_unix_ns: int
    kind: str
    payload: bytes
    def __init__(self, at_unix_ns: _Optional[int] = ..., kind: _Optional[str] = ..., payload: _Optional[bytes] = ...) -> None: ...

class ImportReply(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class ProfileRequest(_message.Message):
    __slots__ = ("service", "segment")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    service: str
    segment: str
    def __init__(self, service: _Optional[str] = ..., segment: _Optional[str] = ...) -> None: ...

class ProfileReply(_message.Message):
    __slots__ = ("segments", "people")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[SegmentProfile]
    people: int
    def __init__(self, segments: _Optional[_Iterable[_Union[SegmentProfile, _Mapping]]] = ..., people: _Optional[int] = ...) -> None: ...

class SegmentProfile(_message.Message):
    __slots__ = ("segment", "version", "trained_unix_ns", "sessions", "why", "waiting", "kinds", "uses", "busiest")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TRAINED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    USES_FIELD_NUMBER: _ClassVar[int]
    BUSIEST_FIELD_NUMBER: _ClassVar[int]
    segment: str
    version: int
    trained_unix_ns: int
    sessions: int
    why: str
    waiting: int
    kinds: _containers.RepeatedCompositeFieldContainer[SessionKind]
    uses: _containers.RepeatedCompositeFieldContainer[Use]
    busiest: _containers.RepeatedCompositeFieldContainer[BusyHour]
    def __init__(self, segment: _Optional[str] = ..., version: _Optional[int] = ..., trained_unix_ns: _Optional[int] = ..., sessions: _Optional[int] = ..., why: _Optional[str] = ..., waiting: _Optional[int] = ..., kinds: _Optional[_Iterable[_Union[SessionKind, _Mapping]]] = ..., uses: _Optional[_Iterable[_Union[Use, _Mapping]]] = ..., busiest: _Optional[_Iterable[_Union[BusyHour, _Mapping]]] = ...) -> None: ...

class SessionKind(_message.Message):
    __slots__ = ("share", "way")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    share: float
    way: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, share: _Optional[float] = ..., way: _Optional[_Iterable[str]] = ...) -> None: ...

class Use(_message.Message):
    __slots__ = ("label", "share")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    label: str
    share: float
    def __init__(self, label: _Optional[str] = ..., share: _Optional[float] = ...) -> None: ...

class BusyHour(_message.Message):
    __slots__ = ("hour_of_week", "sessions")
    HOUR_OF_WEEK_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    hour_of_week: int
    sessions: float
    def __init__(self, hour_of_week: _Optional[int] = ..., sessions: _Optional[float] = ...) -> None: ...

class ProfileEvaluationReply(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[ProfileEvaluation]
    def __init__(self, segments: _Optional[_Iterable[_Union[ProfileEvaluation, _Mapping]]] = ...) -> None: ...

class ProfileEvaluation(_message.Message):
    __slots__ = ("segment", "version", "sessions", "unusual", "drift_distance", "drift_p_value", "calls_for_training")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    UNUSUAL_FIELD_NUMBER: _ClassVar[int]
    DRIFT_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    CALLS_FOR_TRAINING_FIELD_NUMBER: _ClassVar[int]
    segment: str
    version: int
    sessions: int
    unusual: int
    drift_distance: float
    drift_p_value: float
    calls_for_training: bool
    def __init__(self, segment: _Optional[str] = ..., version: _Optional[int] = ..., sessions: _Optional[int] = ..., unusual: _Optional[int] = ..., drift_distance: _Optional[float] = ..., drift_p_value: _Optional[float] = ..., calls_for_training: _Optional[bool] = ...) -> None: ...

class TrainProfileRequest(_message.Message):
    __slots__ = ("service", "who")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    service: str
    who: str
    def __init__(self, service: _Optional[str] = ..., who: _Optional[str] = ...) -> None: ...

class TrainProfileReply(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[SegmentProfile]
    def __init__(self, segments: _Optional[_Iterable[_Union[SegmentProfile, _Mapping]]] = ...) -> None: ...

class ListSegmentsRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class ListSegmentsReply(_message.Message):
    __slots__ = ("proposals", "adopted", "table", "waiting")
    PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    proposals: _containers.RepeatedCompositeFieldContainer[SegmentProposal]
    adopted: _containers.RepeatedCompositeFieldContainer[AdoptedSegment]
    table: int
    waiting: int
    def __init__(self, proposals: _Optional[_Iterable[_Union[SegmentProposal, _Mapping]]] = ..., adopted: _Optional[_Iterable[_Union[AdoptedSegment, _Mapping]]] = ..., table: _Optional[int] = ..., waiting: _Optional[int] = ...) -> None: ...

class SegmentProposal(_message.Message):
    __slots__ = ("cluster", "people", "description")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    cluster: int
    people: int
    description: str
    def __init__(self, cluster: _Optional[int] = ..., people: _Optional[int] = ..., description: _Optional[str] = ...) -> None: ...

class AdoptedSegment(_message.Message):
    __slots__ = ("name", "people", "people_later", "description", "segment", "adopted_unix_ns", "who")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    PEOPLE_LATER_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    name: str
    people: int
    people_later: int
    description: str
    segment: str
    adopted_unix_ns: int
    who: str
    def __init__(self, name: _Optional[str] = ..., people: _Optional[int] = ..., people_later: _Optional[int] = ..., description: _Optional[str] = ..., segment: _Optional[str] = ..., adopted_unix_ns: _Optional[int] = ..., who: _Optional[str] = ...) -> None: ...

class AdoptSegmentRequest(_message.Message):
    __slots__ = ("service", "cluster", "name", "who", "reason")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    service: str
    cluster: int
    name: str
    who: str
    reason: str
    def __init__(self, service: _Optional[str] = ..., cluster: _Optional[int] = ..., name: _Optional[str] = ..., who: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DropSegmentRequest(_message.Message):
    __slots__ = ("service", "name", "who")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    service: str
    name: str
    who: str
    def __init__(self, service: _Optional[str] = ..., name: _Optional[str] = ..., who: _Optional[str] = ...) -> None: ...

class SegmentReply(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class ExcludeNodeRequest(_message.Message):
    __slots__ = ("node", "excluded", "who", "reason")
    NODE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node: str
    excluded: bool
    who: str
    reason: str
    def __init__(self, node: _Optional[str] = ..., excluded: _Optional[bool] = ..., who: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ExcludeNodeReply(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class StartRolloutRequest(_message.Message):
    __slots__ = ("service", "canary", "who", "reason", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    service: str
    canary: str
    who: str
    reason: str
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, service: _Optional[str] = ..., canary: _Optional[str] = ..., who: _Optional[str] = ..., reason: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ActRequest(_message.Message):
    __slots__ = ("service", "segment", "action", "split_bp", "who", "reason")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SPLIT_BP_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    service: str
    segment: str
    action: Action
    split_bp: int
    who: str
    reason: str
    def __init__(self, service: _Optional[str] = ..., segment: _Optional[str] = ..., action: _Optional[_Union[Action, str]] = ..., split_bp: _Optional[int] = ..., who: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RolloutReply(_message.Message):
    __slots__ = ("rollout", "message", "service")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    message: str
    service: ServiceStatus
    def __init__(self, rollout: _Optional[str] = ..., message: _Optional[str] = ..., service: _Optional[_Union[ServiceStatus, _Mapping]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("at_unix_ns", "services", "nodes", "pushes", "acks", "nacks", "version", "mesh", "endpoints")
    AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    PUSHES_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    NACKS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MESH_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    at_unix_ns: int
    services: _containers.RepeatedCompositeFieldContainer[ServiceStatus]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatus]
    pushes: int
    acks: int
    nacks: int
    version: str
    mesh: MeshStatus
    endpoints: _containers.RepeatedCompositeFieldContainer[VersionEndpoints]
    def __init__(self, at_unix_ns: _Optional[int] = ..., services: _Optional[_Iterable[_Union[ServiceStatus, _Mapping]]] = ..., nodes: _Optional[_Iterable[_Union[NodeStatus, _Mapping]]] = ..., pushes: _Optional[int] = ..., acks: _Optional[int] = ..., nacks: _Optional[int] = ..., version: _Optional[str] = ..., mesh: _Optional[_Union[MeshStatus, _Mapping]] = ..., endpoints: _Optional[_Iterable[_Union[VersionEndpoints, _Mapping]]] = ...) -> None: ...

class VersionEndpoints(_message.Message):
    __slots__ = ("service", "version", "source", "endpoints", "stale", "refused")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    service: str
    version: str
    source: str
    endpoints: int
    stale: _containers.RepeatedScalarFieldContainer[str]
    refused: str
    def __init__(self, service: _Optional[str] = ..., version: _Optional[str] = ..., source: _Optional[str] = ..., endpoints: _Optional[int] = ..., stale: _Optional[_Iterable[str]] = ..., refused: _Optional[str] = ...) -> None: ...

class MeshStatus(_message.Message):
    __slots__ = ("path", "read_unix_ns", "refused", "waiting")
    PATH_FIELD_NUMBER: _ClassVar[int]
    READ_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    path: str
    read_unix_ns: int
    refused: str
    waiting: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, path: _Optional[str] = ..., read_unix_ns: _Optional[int] = ..., refused: _Optional[str] = ..., waiting: _Optional[_Iterable[str]] = ...) -> None: ...

class ServiceStatus(_message.Message):
    __slots__ = ("service", "rollout", "state", "mode", "baseline", "canary", "generation", "in_force", "waiting_for", "harm_budget", "harm_upper", "harm_reserved", "started_unix_ns", "segments", "routed_by", "sample_ratio", "log_check", "notes", "seen_s", "policy_learning", "attributes", "risk", "resources")
    class RoutedByEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    IN_FORCE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    HARM_BUDGET_FIELD_NUMBER: _ClassVar[int]
    HARM_UPPER_FIELD_NUMBER: _ClassVar[int]
    HARM_RESERVED_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    ROUTED_BY_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATIO_FIELD_NUMBER: _ClassVar[int]
    LOG_CHECK_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    SEEN_S_FIELD_NUMBER: _ClassVar[int]
    POLICY_LEARNING_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    RISK_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    service: str
    rollout: str
    state: str
    mode: str
    baseline: str
    canary: str
    generation: int
    in_force: bool
    waiting_for: _containers.RepeatedScalarFieldContainer[str]
    harm_budget: float
    harm_upper: float
    harm_reserved: float
    started_unix_ns: int
    segments: _containers.RepeatedCompositeFieldContainer[SegmentStatus]
    routed_by: _containers.ScalarMap[str, int]
    sample_ratio: SampleRatio
    log_check: LogCheck
    notes: _containers.RepeatedScalarFieldContainer[str]
    seen_s: float
    policy_learning: PolicyLearning
    attributes: _containers.ScalarMap[str, str]
    risk: Risk
    resources: _containers.RepeatedCompositeFieldContainer[Exhaustion]
    def __init__(self, service: _Optional[str] = ..., rollout: _Optional[str] = ..., state: _Optional[str] = ..., mode: _Optional[str] = ..., baseline: _Optional[str] = ..., canary: _Optional[str] = ..., generation: _Optional[int] = ..., in_force: _Optional[bool] = ..., waiting_for: _Optional[_Iterable[str]] = ..., harm_budget: _Optional[float] = ..., harm_upper: _Optional[float] = ..., harm_reserved: _Optional[float] = ..., started_unix_ns: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[SegmentStatus, _Mapping]]] = ..., routed_by: _Optional[_Mapping[str, int]] = ..., sample_ratio: _Optional[_Union[SampleRatio, _Mapping]] = ..., log_check: _Optional[_Union[LogCheck, _Mapping]] = ..., notes: _Optional[_Iterable[str]] = ..., seen_s: _Optional[float] = ..., policy_learning: _Optional[_Union[PolicyLearning, _Mapping]] = ..., attributes: _Optional[_Mapping[str, str]] = ..., risk: _Optional[_Union[Risk, _Mapping]] = ..., resources: _Optional[_Iterable[_Union[Exhaustion, _Mapping]]] = ...) -> None: ...

class PolicyLearning(_message.Message):
    __slots__ = ("updates", "moved", "values", "farthest", "bound", "leaning")
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FARTHEST_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    LEANING_FIELD_NUMBER: _ClassVar[int]
    updates: int
    moved: int
    values: int
    farthest: float
    bound: float
    leaning: float
    def __init__(self, updates: _Optional[int] = ..., moved: _Optional[int] = ..., values: _Optional[int] = ..., farthest: _Optional[float] = ..., bound: _Optional[float] = ..., leaning: _Optional[float] = ...) -> None: ...

class Exhaustion(_message.Message):
    __slots__ = ("resource", "limit", "is_known", "level", "slope_per_h", "baseline_slope_per_h", "in_s", "lower_s", "upper_s", "horizon_s", "probability", "evidence", "evidence_needed")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    IS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SLOPE_PER_H_FIELD_NUMBER: _ClassVar[int]
    BASELINE_SLOPE_PER_H_FIELD_NUMBER: _ClassVar[int]
    IN_S_FIELD_NUMBER: _ClassVar[int]
    LOWER_S_FIELD_NUMBER: _ClassVar[int]
    UPPER_S_FIELD_NUMBER: _ClassVar[int]
    HORIZON_S_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_NEEDED_FIELD_NUMBER: _ClassVar[int]
    resource: str
    limit: float
    is_known: bool
    level: float
    slope_per_h: float
    baseline_slope_per_h: float
    in_s: float
    lower_s: float
    upper_s: float
    horizon_s: float
    probability: float
    evidence: float
    evidence_needed: float
    def __init__(self, resource: _Optional[str] = ..., limit: _Optional[float] = ..., is_known: _Optional[bool] = ..., level: _Optional[float] = ..., slope_per_h: _Optional[float] = ..., baseline_slope_per_h: _Optional[float] = ..., in_s: _Optional[float] = ..., lower_s: _Optional[float] = ..., upper_s: _Optional[float] = ..., horizon_s: _Optional[float] = ..., probability: _Optional[float] = ..., evidence: _Optional[float] = ..., evidence_needed: _Optional[float] = ...) -> None: ...

class Risk(_message.Message):
    __slots__ = ("risk", "told", "source")
    RISK_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    risk: float
    told: _containers.RepeatedScalarFieldContainer[str]
    source: str
    def __init__(self, risk: _Optional[float] = ..., told: _Optional[_Iterable[str]] = ..., source: _Optional[str] = ...) -> None: ...

class LogCheck(_message.Message):
    __slots__ = ("nodes", "carriers", "total", "versions")
    NODES_FIELD_NUMBER: _ClassVar[int]
    CARRIERS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    nodes: int
    carriers: int
    total: LogLoss
    versions: _containers.RepeatedCompositeFieldContainer[LogLoss]
    def __init__(self, nodes: _Optional[int] = ..., carriers: _Optional[int] = ..., total: _Optional[_Union[LogLoss, _Mapping]] = ..., versions: _Optional[_Iterable[_Union[LogLoss, _Mapping]]] = ...) -> None: ...

class LogLoss(_message.Message):
    __slots__ = ("version", "requests", "needed", "lost", "lower", "upper", "node")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    version: str
    requests: int
    needed: int
    lost: float
    lower: float
    upper: float
    node: str
    def __init__(self, version: _Optional[str] = ..., requests: _Optional[int] = ..., needed: _Optional[int] = ..., lost: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., node: _Optional[str] = ...) -> None: ...

class SampleRatio(_message.Message):
    __slots__ = ("people", "on_canary", "asked", "evidence", "evidence_needed")
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    ON_CANARY_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_NEEDED_FIELD_NUMBER: _ClassVar[int]
    people: int
    on_canary: int
    asked: float
    evidence: float
    evidence_needed: float
    def __init__(self, people: _Optional[int] = ..., on_canary: _Optional[int] = ..., asked: _Optional[float] = ..., evidence: _Optional[float] = ..., evidence_needed: _Optional[float] = ...) -> None: ...

class SegmentStatus(_message.Message):
    __slots__ = ("segment", "phase", "health", "split", "cap", "verdict", "reason", "leading_kpi", "evidence", "evidence_needed", "canary_sessions", "baseline_sessions", "needed_sessions", "needed_minutes", "excess_sessions", "worst_excess_rate", "anomaly", "breach_probability", "kpis", "baseline", "canary", "largest_split", "exposed_sessions", "sample_ratio", "watched", "latencies", "forecast", "shadow", "seen_requests", "seen_people")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LEADING_KPI_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_NEEDED_FIELD_NUMBER: _ClassVar[int]
    CANARY_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_MINUTES_FIELD_NUMBER: _ClassVar[int]
    EXCESS_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    WORST_EXCESS_RATE_FIELD_NUMBER: _ClassVar[int]
    ANOMALY_FIELD_NUMBER: _ClassVar[int]
    BREACH_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    KPIS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    LARGEST_SPLIT_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATIO_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FIELD_NUMBER: _ClassVar[int]
    LATENCIES_FIELD_NUMBER: _ClassVar[int]
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    SEEN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    SEEN_PEOPLE_FIELD_NUMBER: _ClassVar[int]
    segment: str
    phase: str
    health: str
    split: float
    cap: float
    verdict: str
    reason: str
    leading_kpi: str
    evidence: float
    evidence_needed: float
    canary_sessions: int
    baseline_sessions: int
    needed_sessions: int
    needed_minutes: float
    excess_sessions: float
    worst_excess_rate: float
    anomaly: float
    breach_probability: float
    kpis: _containers.RepeatedCompositeFieldContainer[KpiStatus]
    baseline: str
    canary: str
    largest_split: float
    exposed_sessions: int
    sample_ratio: SampleRatio
    watched: bool
    latencies: Latencies
    forecast: Forecast
    shadow: Shadow
    seen_requests: int
    seen_people: int
    def __init__(self, segment: _Optional[str] = ..., phase: _Optional[str] = ..., health: _Optional[str] = ..., split: _Optional[float] = ..., cap: _Optional[float] = ..., verdict: _Optional[str] = ..., reason: _Optional[str] = ..., leading_kpi: _Optional[str] = ..., evidence: _Optional[float] = ..., evidence_needed: _Optional[float] = ..., canary_sessions: _Optional[int] = ..., baseline_sessions: _Optional[int] = ..., needed_sessions: _Optional[int] = ..., needed_minutes: _Optional[float] = ..., excess_sessions: _Optional[float] = ..., worst_excess_rate: _Optional[float] = ..., anomaly: _Optional[float] = ..., breach_probability: _Optional[float] = ..., kpis: _Optional[_Iterable[_Union[KpiStatus, _Mapping]]] = ..., baseline: _Optional[str] = ..., canary: _Optional[str] = ..., largest_split: _Optional[float] = ..., exposed_sessions: _Optional[int] = ..., sample_ratio: _Optional[_Union[SampleRatio, _Mapping]] = ..., watched: _Optional[bool] = ..., latencies: _Optional[_Union[Latencies, _Mapping]] = ..., forecast: _Optional[_Union[Forecast, _Mapping]] = ..., shadow: _Optional[_Union[Shadow, _Mapping]] = ..., seen_requests: _Optional[int] = ..., seen_people: _Optional[int] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("policy", "less", "same", "more")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LESS_FIELD_NUMBER: _ClassVar[int]
    SAME_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    policy: str
    less: int
    same: int
    more: int
    def __init__(self, policy: _Optional[str] = ..., less: _Optional[int] = ..., same: _Optional[int] = ..., more: _Optional[int] = ...) -> None: ...

class Forecast(_message.Message):
    __slots__ = ("kpi", "limit", "horizon_s", "now", "mean", "lower", "upper", "probability", "driver", "everywhere", "crosses_s", "width", "baseline")
    KPI_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    HORIZON_S_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    EVERYWHERE_FIELD_NUMBER: _ClassVar[int]
    CROSSES_S_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    kpi: str
    limit: float
    horizon_s: float
    now: float
    mean: float
    lower: float
    upper: float
    probability: float
    driver: str
    everywhere: bool
    crosses_s: float
    width: float
    baseline: float
    def __init__(self, kpi: _Optional[str] = ..., limit: _Optional[float] = ..., horizon_s: _Optional[float] = ..., now: _Optional[float] = ..., mean: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., probability: _Optional[float] = ..., driver: _Optional[str] = ..., everywhere: _Optional[bool] = ..., crosses_s: _Optional[float] = ..., width: _Optional[float] = ..., baseline: _Optional[float] = ...) -> None: ...

class Latencies(_message.Message):
    __slots__ = ("canary_n", "baseline_n", "quantiles")
    CANARY_N_FIELD_NUMBER: _ClassVar[int]
    BASELINE_N_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    canary_n: int
    baseline_n: int
    quantiles: _containers.RepeatedCompositeFieldContainer[LatencyQuantile]
    def __init__(self, canary_n: _Optional[int] = ..., baseline_n: _Optional[int] = ..., quantiles: _Optional[_Iterable[_Union[LatencyQuantile, _Mapping]]] = ...) -> None: ...

class LatencyQuantile(_message.Message):
    __slots__ = ("quantile", "canary_ms", "baseline_ms")
    QUANTILE_FIELD_NUMBER: _ClassVar[int]
    CANARY_MS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_MS_FIELD_NUMBER: _ClassVar[int]
    quantile: float
    canary_ms: float
    baseline_ms: float
    def __init__(self, quantile: _Optional[float] = ..., canary_ms: _Optional[float] = ..., baseline_ms: _Optional[float] = ...) -> None: ...

class KpiStatus(_message.Message):
    __slots__ = ("kpi", "canary", "baseline", "tolerance", "evidence", "canary_n", "baseline_n", "effect", "effect_lower", "effect_upper")
    KPI_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    CANARY_N_FIELD_NUMBER: _ClassVar[int]
    BASELINE_N_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    EFFECT_LOWER_FIELD_NUMBER: _ClassVar[int]
    EFFECT_UPPER_FIELD_NUMBER: _ClassVar[int]
    kpi: str
    canary: float
    baseline: float
    tolerance: float
    evidence: float
    canary_n: int
    baseline_n: int
    effect: float
    effect_lower: float
    effect_upper: float
    def __init__(self, kpi: _Optional[str] = ..., canary: _Optional[float] = ..., baseline: _Optional[float] = ..., tolerance: _Optional[float] = ..., evidence: _Optional[float] = ..., canary_n: _Optional[int] = ..., baseline_n: _Optional[int] = ..., effect: _Optional[float] = ..., effect_lower: _Optional[float] = ..., effect_upper: _Optional[float] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("node", "cluster", "role", "connected", "acked", "sent", "rejections", "excluded")
    class AckedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    node: str
    cluster: str
    role: str
    connected: bool
    acked: _containers.ScalarMap[str, str]
    sent: _containers.ScalarMap[str, str]
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    excluded: str
    def __init__(self, node: _Optional[str] = ..., cluster: _Optional[str] = ..., role: _Optional[str] = ..., connected: _Optional[bool] = ..., acked: _Optional[_Mapping[str, str]] = ..., sent: _Optional[_Mapping[str, str]] = ..., rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ..., excluded: _Optional[str] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("at_unix_ns", "type", "version", "message", "resources")
    AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    at_unix_ns: int
    type: str
    version: str
    message: str
    resources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, at_unix_ns: _Optional[int] = ..., type: _Optional[str] = ..., version: _Optional[str] = ..., message: _Optional[str] = ..., resources: _Optional[_Iterable[str]] = ...) -> None: ...

class ListRolloutsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRolloutsReply(_message.Message):
    __slots__ = ("rollouts",)
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[RolloutSummary]
    def __init__(self, rollouts: _Optional[_Iterable[_Union[RolloutSummary, _Mapping]]] = ...) -> None: ...

class RolloutSummary(_message.Message):
    __slots__ = ("rollout", "service", "baseline", "canary", "state", "started_unix_ns", "finished_unix_ns", "outcome", "attributes", "label", "labelled_by", "label_reason")
    class OutcomeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABELLED_BY_FIELD_NUMBER: _ClassVar[int]
    LABEL_REASON_FIELD_NUMBER: _ClassVar[int]
    rollout: str
    service: str
    baseline: str
    canary: str
    state: str
    started_unix_ns: int
    finished_unix_ns: int
    outcome: _containers.ScalarMap[str, str]
    attributes: _containers.ScalarMap[str, str]
    label: str
    labelled_by: str
    label_reason: str
    def __init__(self, rollout: _Optional[str] = ..., service: _Optional[str] = ..., baseline: _Optional[str] = ..., canary: _Optional[str] = ..., state: _Optional[str] = ..., started_unix_ns: _Optional[int] = ..., finished_unix_ns: _Optional[int] = ..., outcome: _Optional[_Mapping[str, str]] = ..., attributes: _Optional[_Mapping[str, str]] = ..., label: _Optional[str] = ..., labelled_by: _Optional[str] = ..., label_reason: _Optional[str] = ...) -> None: ...

class GetHistoryRequest(_message.Message):
    __slots__ = ("service", "rollout", "limit")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    service: str
    rollout: str
    limit: int
    def __init__(self, service: _Optional[str] = ..., rollout: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class HistoryReply(_message.Message):
    __slots__ = ("decisions", "rollouts")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[DecisionRecord]
    rollouts: _containers.RepeatedCompositeFieldContainer[RolloutSummary]
    def __init__(self, decisions: _Optional[_Iterable[_Union[DecisionRecord, _Mapping]]] = ..., rollouts: _Optional[_Iterable[_Union[RolloutSummary, _Mapping]]] = ...) -> None: ...

class DecisionRecord(_message.Message):
    __slots__ = ("id", "at_unix_ns", "service", "rollout", "segment", "verdict", "tier", "split_before_bp", "split_after_bp", "generation", "reason", "detail_json", "who", "in_force_unix_ns", "observed_only")
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    SPLIT_BEFORE_BP_FIELD_NUMBER: _ClassVar[int]
    SPLIT_AFTER_BP_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_JSON_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    IN_FORCE_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_ONLY_FIELD_NUMBER: _ClassVar[int]
    id: int
    at_unix_ns: int
    service: str
    rollout: str
    segment: str
    verdict: str
    tier: str
    split_before_bp: int
    split_after_bp: int
    generation: int
    reason: str
    detail_json: str
    who: str
    in_force_unix_ns: int
    observed_only: bool
    def __init__(self, id: _Optional[int] = ..., at_unix_ns: _Optional[int] = ..., service: _Optional[str] = ..., rollout: _Optional[str] = ..., segment: _Optional[str] = ..., verdict: _Optional[str] = ..., tier: _Optional[str] = ..., split_before_bp: _Optional[int] = ..., split_after_bp: _Optional[int] = ..., generation: _Optional[int] = ..., reason: _Optional[str] = ..., detail_json: _Optional[str] = ..., who: _Optional[str] = ..., in_force_unix_ns: _Optional[int] = ..., observed_only: _Optional[bool] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("service", "segment")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    service: str
    segment: str
    def __init__(self, service: _Optional[str] = ..., segment: _Optional[str] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("text", "service", "decisions")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    text: str
    service: ServiceStatus
    decisions: _containers.RepeatedCompositeFieldContainer[DecisionRecord]
    def __init__(self, text: _Optional[str] = ..., service: _Optional[_Union[ServiceStatus, _Mapping]] = ..., decisions: _Optional[_Iterable[_Union[DecisionRecord, _Mapping]]] = ...) -> None: ...
