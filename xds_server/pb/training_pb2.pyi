from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainRequest(_message.Message):
    __slots__ = ("kind", "who")
    KIND_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    kind: str
    who: str
    def __init__(self, kind: _Optional[str] = ..., who: _Optional[str] = ...) -> None: ...

class TrainProgress(_message.Message):
    __slots__ = ("share", "artefact")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    ARTEFACT_FIELD_NUMBER: _ClassVar[int]
    share: float
    artefact: Artefact
    def __init__(self, share: _Optional[float] = ..., artefact: _Optional[_Union[Artefact, _Mapping]] = ...) -> None: ...

class ListArtefactsRequest(_message.Message):
    __slots__ = ("kind",)
    KIND_FIELD_NUMBER: _ClassVar[int]
    kind: str
    def __init__(self, kind: _Optional[str] = ...) -> None: ...

class ListArtefactsReply(_message.Message):
    __slots__ = ("artefacts",)
    ARTEFACTS_FIELD_NUMBER: _ClassVar[int]
    artefacts: _containers.RepeatedCompositeFieldContainer[Artefact]
    def __init__(self, artefacts: _Optional[_Iterable[_Union[Artefact, _Mapping]]] = ...) -> None: ...

class Artefact(_message.Message):
    __slots__ = ("kind", "version", "trained_unix_ns", "fingerprint", "scores_json", "is_serving", "is_kept", "why")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TRAINED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SCORES_JSON_FIELD_NUMBER: _ClassVar[int]
    IS_SERVING_FIELD_NUMBER: _ClassVar[int]
    IS_KEPT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    kind: str
    version: int
    trained_unix_ns: int
    fingerprint: str
    scores_json: str
    is_serving: bool
    is_kept: bool
    why: str
    def __init__(self, kind: _Optional[str] = ..., version: _Optional[int] = ..., trained_unix_ns: _Optional[int] = ..., fingerprint: _Optional[str] = ..., scores_json: _Optional[str] = ..., is_serving: _Optional[bool] = ..., is_kept: _Optional[bool] = ..., why: _Optional[str] = ...) -> None: ...

class ServeRequest(_message.Message):
    __slots__ = ("kind", "version", "who")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    kind: str
    version: int
    who: str
    def __init__(self, kind: _Optional[str] = ..., version: _Optional[int] = ..., who: _Optional[str] = ...) -> None: ...

class ServeReply(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...
