from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterRequest(_message.Message):
    __slots__ = ("service", "version", "address", "lease_ms")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    service: str
    version: str
    address: str
    lease_ms: int
    def __init__(self, service: _Optional[str] = ..., version: _Optional[str] = ..., address: _Optional[str] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: str
    def __init__(self, lease: _Optional[str] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("lease", "lease_ms")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    lease: str
    lease_ms: int
    def __init__(self, lease: _Optional[str] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class DeregisterRequest(_message.Message):
    __slots__ = ("lease", "wait_ms")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    lease: str
    wait_ms: int
    def __init__(self, lease: _Optional[str] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("service", "version", "address", "who", "reason", "wait_ms")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    service: str
    version: str
    address: str
    who: str
    reason: str
    wait_ms: int
    def __init__(self, service: _Optional[str] = ..., version: _Optional[str] = ..., address: _Optional[str] = ..., who: _Optional[str] = ..., reason: _Optional[str] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class Removal(_message.Message):
    __slots__ = ("message", "waiting_for")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    message: str
    waiting_for: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, message: _Optional[str] = ..., waiting_for: _Optional[_Iterable[str]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("at_unix_ns", "versions")
    AT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    at_unix_ns: int
    versions: _containers.RepeatedCompositeFieldContainer[Endpoints]
    def __init__(self, at_unix_ns: _Optional[int] = ..., versions: _Optional[_Iterable[_Union[Endpoints, _Mapping]]] = ...) -> None: ...

class Endpoints(_message.Message):
    __slots__ = ("service", "version", "source", "endpoints", "refused")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    service: str
    version: str
    source: str
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    refused: str
    def __init__(self, service: _Optional[str] = ..., version: _Optional[str] = ..., source: _Optional[str] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., refused: _Optional[str] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("address", "stale", "since_unix_ns", "lease_ms", "left_ms")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    address: str
    stale: bool
    since_unix_ns: int
    lease_ms: int
    left_ms: int
    def __init__(self, address: _Optional[str] = ..., stale: _Optional[bool] = ..., since_unix_ns: _Optional[int] = ..., lease_ms: _Optional[int] = ..., left_ms: _Optional[int] = ...) -> None: ...
