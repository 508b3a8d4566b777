from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FirstLoadStats(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: ReportingNode
    def __init__(self, node: _Optional[_Union[ReportingNode, _Mapping]] = ...) -> None: ...

class ReportingNode(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    def __init__(self, id: _Optional[bytes] = ...) -> None: ...

class LoadStats(_message.Message):
    __slots__ = ("cluster_stats",)
    CLUSTER_STATS_FIELD_NUMBER: _ClassVar[int]
    cluster_stats: _containers.RepeatedCompositeFieldContainer[ClusterStats]
    def __init__(self, cluster_stats: _Optional[_Iterable[_Union[ClusterStats, _Mapping]]] = ...) -> None: ...

class ClusterStats(_message.Message):
    __slots__ = ("cluster_name", "upstream_locality_stats")
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_LOCALITY_STATS_FIELD_NUMBER: _ClassVar[int]
    cluster_name: bytes
    upstream_locality_stats: _containers.RepeatedCompositeFieldContainer[LocalityStats]
    def __init__(self, cluster_name: _Optional[bytes] = ..., upstream_locality_stats: _Optional[_Iterable[_Union[LocalityStats, _Mapping]]] = ...) -> None: ...

class LocalityStats(_message.Message):
    __slots__ = ("total_requests_in_progress", "total_issued_requests")
    TOTAL_REQUESTS_IN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ISSUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    total_requests_in_progress: int
    total_issued_requests: int
    def __init__(self, total_requests_in_progress: _Optional[int] = ..., total_issued_requests: _Optional[int] = ...) -> None: ...

class WantedLoadStats(_message.Message):
    __slots__ = ("clusters", "load_reporting_interval")
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    LOAD_REPORTING_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    clusters: _containers.RepeatedScalarFieldContainer[bytes]
    load_reporting_interval: Interval
    def __init__(self, clusters: _Optional[_Iterable[bytes]] = ..., load_reporting_interval: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("seconds", "nanos")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    NANOS_FIELD_NUMBER: _ClassVar[int]
    seconds: int
    nanos: int
    def __init__(self, seconds: _Optional[int] = ..., nanos: _Optional[int] = ...) -> None: ...
