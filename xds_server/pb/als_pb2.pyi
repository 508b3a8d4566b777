from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamAccessLogsMessage(_message.Message):
    __slots__ = ("http_logs", "tcp_logs")
    HTTP_LOGS_FIELD_NUMBER: _ClassVar[int]
    TCP_LOGS_FIELD_NUMBER: _ClassVar[int]
    http_logs: HttpEntries
    tcp_logs: TcpEntries
    def __init__(self, http_logs: _Optional[_Union[HttpEntries, _Mapping]] = ..., tcp_logs: _Optional[_Union[TcpEntries, _Mapping]] = ...) -> None: ...

class StreamOpening(_message.Message):
    __slots__ = ("identifier",)
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    identifier: Identifier
    def __init__(self, identifier: _Optional[_Union[Identifier, _Mapping]] = ...) -> None: ...

class StreamLength(_message.Message):
    __slots__ = ("http_logs", "tcp_logs")
    HTTP_LOGS_FIELD_NUMBER: _ClassVar[int]
    TCP_LOGS_FIELD_NUMBER: _ClassVar[int]
    http_logs: UnreadEntries
    tcp_logs: TcpEntries
    def __init__(self, http_logs: _Optional[_Union[UnreadEntries, _Mapping]] = ..., tcp_logs: _Optional[_Union[TcpEntries, _Mapping]] = ...) -> None: ...

class Identifier(_message.Message):
    __slots__ = ("node", "log_name")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LOG_NAME_FIELD_NUMBER: _ClassVar[int]
    node: Node
    log_name: bytes
    def __init__(self, node: _Optional[_Union[Node, _Mapping]] = ..., log_name: _Optional[bytes] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("id", "cluster")
    ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    cluster: bytes
    def __init__(self, id: _Optional[bytes] = ..., cluster: _Optional[bytes] = ...) -> None: ...

class HttpEntries(_message.Message):
    __slots__ = ("log_entry",)
    LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    log_entry: _containers.RepeatedCompositeFieldContainer[HttpEntry]
    def __init__(self, log_entry: _Optional[_Iterable[_Union[HttpEntry, _Mapping]]] = ...) -> None: ...

class UnreadEntries(_message.Message):
    __slots__ = ("log_entry",)
    LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    log_entry: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, log_entry: _Optional[_Iterable[bytes]] = ...) -> None: ...

class TcpEntries(_message.Message):
    __slots__ = ("log_entry",)
    LOG_ENTRY_FIELD_NUMBER: _ClassVar[int]
    log_entry: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, log_entry: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HttpEntry(_message.Message):
    __slots__ = ("common_properties", "request")
    COMMON_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    common_properties: Common
    request: Request
    def __init__(self, common_properties: _Optional[_Union[Common, _Mapping]] = ..., request: _Optional[_Union[Request, _Mapping]] = ...) -> None: ...

class Common(_message.Message):
    __slots__ = ("start_time", "time_to_first_upstream_rx_byte", "time_to_last_downstream_tx_byte", "custom_tags", "duration", "upstream_request_attempt_count")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_UPSTREAM_RX_BYTE_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_LAST_DOWNSTREAM_TX_BYTE_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_TAGS_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_REQUEST_ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    start_time: bytes
    time_to_first_upstream_rx_byte: bytes
    time_to_last_downstream_tx_byte: bytes
    custom_tags: bytes
    duration: bytes
    upstream_request_attempt_count: int
    def __init__(self, start_time: _Optional[bytes] = ..., time_to_first_upstream_rx_byte: _Optional[bytes] = ..., time_to_last_downstream_tx_byte: _Optional[bytes] = ..., custom_tags: _Optional[bytes] = ..., duration: _Optional[bytes] = ..., upstream_request_attempt_count: _Optional[int] = ...) -> None: ...

class Instant(_message.Message):
    __slots__ = ("seconds", "nanos")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    NANOS_FIELD_NUMBER: _ClassVar[int]
    seconds: int
    nanos: int
    def __init__(self, seconds: _Optional[int] = ..., nanos: _Optional[int] = ...) -> None: ...

class Text(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("path", "user_agent", "original_path")
    PATH_FIELD_NUMBER: _ClassVar[int]
    USER_AGENT_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_PATH_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    user_agent: bytes
    original_path: bytes
    def __init__(self, path: _Optional[bytes] = ..., user_agent: _Optional[bytes] = ..., original_path: _Optional[bytes] = ...) -> None: ...
