from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RouteMatch(_message.Message):
    __slots__ = ("cookies",)
    COOKIES_FIELD_NUMBER: _ClassVar[int]
    cookies: _containers.RepeatedCompositeFieldContainer[CookieMatcher]
    def __init__(self, cookies: _Optional[_Iterable[_Union[CookieMatcher, _Mapping]]] = ...) -> None: ...

class CookieMatcher(_message.Message):
    __slots__ = ("name", "string_match", "invert_match")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STRING_MATCH_FIELD_NUMBER: _ClassVar[int]
    INVERT_MATCH_FIELD_NUMBER: _ClassVar[int]
    name: str
    string_match: bytes
    invert_match: bool
    def __init__(self, name: _Optional[str] = ..., string_match: _Optional[bytes] = ..., invert_match: _Optional[bool] = ...) -> None: ...
