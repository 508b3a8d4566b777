from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WindowReport(_message.Message):
    __slots__ = ("service", "start_unix_ns", "end_unix_ns", "segments", "versions", "kpis", "n", "bad", "harm_n", "harm_bad", "exposed", "arrived", "unexposed_n", "unexposed_bad", "unexposed_harm_n", "unexposed_harm_bad", "people", "failing", "bots", "newcomers", "traffic", "entries")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    START_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    END_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    KPIS_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    BAD_FIELD_NUMBER: _ClassVar[int]
    HARM_N_FIELD_NUMBER: _ClassVar[int]
    HARM_BAD_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    UNEXPOSED_N_FIELD_NUMBER: _ClassVar[int]
    UNEXPOSED_BAD_FIELD_NUMBER: _ClassVar[int]
    UNEXPOSED_HARM_N_FIELD_NUMBER: _ClassVar[int]
    UNEXPOSED_HARM_BAD_FIELD_NUMBER: _ClassVar[int]
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    FAILING_FIELD_NUMBER: _ClassVar[int]
    BOTS_FIELD_NUMBER: _ClassVar[int]
    NEWCOMERS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    service: str
    start_unix_ns: int
    end_unix_ns: int
    segments: _containers.RepeatedScalarFieldContainer[str]
    versions: _containers.RepeatedScalarFieldContainer[str]
    kpis: _containers.RepeatedScalarFieldContainer[str]
    n: _containers.RepeatedScalarFieldContainer[int]
    bad: _containers.RepeatedScalarFieldContainer[int]
    harm_n: _containers.RepeatedScalarFieldContainer[int]
    harm_bad: _containers.RepeatedScalarFieldContainer[int]
    exposed: _containers.RepeatedScalarFieldContainer[int]
    arrived: _containers.RepeatedScalarFieldContainer[int]
    unexposed_n: _containers.RepeatedScalarFieldContainer[int]
    unexposed_bad: _containers.RepeatedScalarFieldContainer[int]
    unexposed_harm_n: _containers.RepeatedScalarFieldContainer[int]
    unexposed_harm_bad: _containers.RepeatedScalarFieldContainer[int]
    people: _containers.RepeatedScalarFieldContainer[int]
    failing: _containers.RepeatedScalarFieldContainer[int]
    bots: _containers.RepeatedScalarFieldContainer[int]
    newcomers: _containers.RepeatedCompositeFieldContainer[Newcomers]
    traffic: _containers.RepeatedCompositeFieldContainer[Traffic]
    entries: int
    def __init__(self, service: _Optional[str] = ..., start_unix_ns: _Optional[int] = ..., end_unix_ns: _Optional[int] = ..., segments: _Optional[_Iterable[str]] = ..., versions: _Optional[_Iterable[str]] = ..., kpis: _Optional[_Iterable[str]] = ..., n: _Optional[_Iterable[int]] = ..., bad: _Optional[_Iterable[int]] = ..., harm_n: _Optional[_Iterable[int]] = ..., harm_bad: _Optional[_Iterable[int]] = ..., exposed: _Optional[_Iterable[int]] = ..., arrived: _Optional[_Iterable[int]] = ..., unexposed_n: _Optional[_Iterable[int]] = ..., unexposed_bad: _Optional[_Iterable[int]] = ..., unexposed_harm_n: _Optional[_Iterable[int]] = ..., unexposed_harm_bad: _Optional[_Iterable[int]] = ..., people: _Optional[_Iterable[int]] = ..., failing: _Optional[_Iterable[int]] = ..., bots: _Optional[_Iterable[int]] = ..., newcomers: _Optional[_Iterable[_Union[Newcomers, _Mapping]]] = ..., traffic: _Optional[_Iterable[_Union[Traffic, _Mapping]]] = ..., entries: _Optional[int] = ...) -> None: ...

class Newcomers(_message.Message):
    __slots__ = ("segment", "asked_bp", "on_canary", "n")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    ASKED_BP_FIELD_NUMBER: _ClassVar[int]
    ON_CANARY_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    segment: str
    asked_bp: int
    on_canary: bool
    n: int
    def __init__(self, segment: _Optional[str] = ..., asked_bp: _Optional[int] = ..., on_canary: _Optional[bool] = ..., n: _Optional[int] = ...) -> None: ...

class Traffic(_message.Message):
    __slots__ = ("segment", "version", "requests", "errors", "slow", "duration", "first_byte")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_BYTE_FIELD_NUMBER: _ClassVar[int]
    segment: str
    version: str
    requests: int
    errors: int
    slow: int
    duration: Sketch
    first_byte: Sketch
    def __init__(self, segment: _Optional[str] = ..., version: _Optional[str] = ..., requests: _Optional[int] = ..., errors: _Optional[int] = ..., slow: _Optional[int] = ..., duration: _Optional[_Union[Sketch, _Mapping]] = ..., first_byte: _Optional[_Union[Sketch, _Mapping]] = ...) -> None: ...

class Sketch(_message.Message):
    __slots__ = ("first_key", "counts")
    FIRST_KEY_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    first_key: int
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, first_key: _Optional[int] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...
