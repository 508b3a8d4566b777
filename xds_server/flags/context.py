"""An evaluation context, read: whom it is about, and what is known of their request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, Final

from xds_server.matching import IpAddress, Traits

KEY: Final = "targetingKey"
MAX_KEY: Final = 256  # bytes; a longer key is no identity to Envoy either

_UNFIT = re.compile(r"[\x00-\x1f\x7f]|^ | $")
_LEGAL_TEXT: Final = "legal: a text"


class ErrorCode(StrEnum):
    """OpenFeature's, as far as they can come from here."""

    PARSE_ERROR = "PARSE_ERROR"
    TARGETING_KEY_MISSING = "TARGETING_KEY_MISSING"
    INVALID_CONTEXT = "INVALID_CONTEXT"
    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    GENERAL = "GENERAL"


class FlagError(Exception):
    """A flag that cannot be evaluated: OpenFeature's code, and one line that says why."""

    def __init__(self, code: ErrorCode, details: str) -> None:
        super().__init__(details)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """`key`: the person's sticky key; None: none is given. `jar`: the Cookie header as it came; None: not known."""

    key: str | None
    traits: Traits
    jar: str | None = None

    def with_jar(self, lines: Iterable[str]) -> Context:
        """The same, with the cookies of these headers."""
        lines = list(lines)
        return replace(self, traits=replace(self.traits, cookies=cookies_in(lines)), jar="; ".join(lines))


def read_context(given: Mapping[str, Any]) -> Context:
    """Read a context. Raises FlagError for what no request could be; attributes that are not known are not looked at.

    Where `headers` are given, but neither `cookies` nor `query`, cookies are those of the header; where a `path` is
    given, the query is the path's.
    """
    path = _text(given, "path")
    headers, cookies, query = _headers(given), _texts(given, "cookies"), _texts(given, "query")
    if path is not None and not path.startswith("/"):
        raise _wrong(f"path: {path[:60]!r}; legal: a path, beginning with /")
    if query is not None and path is not None and "?" in path:
        raise _wrong("query: is in the path already; legal: one of the two")
    if query is None and path is not None:
        query = _query_in(path)
    traits = Traits(
        headers=headers, cookies=cookies, query=query, path=path, source=_address(given), claims=_claims(given)
    )
    if cookies is not None:
        jar = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return Context(key=_key(given), traits=traits, jar=jar)
    context = Context(key=_key(given), traits=traits)
    return context if headers is None else context.with_jar(headers.get("cookie", ()))


def missing_key() -> FlagError:
    """Nobody is asked for."""
    return FlagError(ErrorCode.TARGETING_KEY_MISSING, f"{KEY} is missing; legal: the person's key, as Envoy has it")


def _key(given: Mapping[str, Any]) -> str | None:
    key = _text(given, KEY)
    if not key:
        return None
    if _UNFIT.search(key):
        raise _wrong(f"{KEY}: {key[:60]!r} can be no header or cookie; legal: printable, no space around it")
    if len(key.encode()) > MAX_KEY:
        raise _wrong(f"{KEY}: longer than {MAX_KEY} bytes, which is no identity to Envoy")
    return key


def _headers(given: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """All values of each name, in lower case."""
    value = given.get("headers")
    if value is None:
        return None
    found: dict[str, list[str]] = {}
    for name, said in _mapping(value, "headers").items():
        values = said if isinstance(said, list) else [said]
        if not all(isinstance(each, str) for each in values):
            raise _wrong(f"headers: {name[:60]!r} is a {_kind(said)}; {_LEGAL_TEXT}, or a list of texts")
        _check_encodable(values, "headers")
        found.setdefault(name.lower(), []).extend(values)
    return found


def _texts(given: Mapping[str, Any], kind: str) -> dict[str, str] | None:
    value = given.get(kind)
    if value is None:
        return None
    found = dict(_mapping(value, kind))
    for name, said in found.items():
        if not isinstance(said, str):
            raise _wrong(f"{kind}: {name[:60]!r} is a {_kind(said)}; {_LEGAL_TEXT}")
    _check_encodable(found.values(), kind)
    return found


def _text(given: Mapping[str, Any], kind: str) -> str | None:
    value = given.get(kind)
    if value is None or not isinstance(value, str):
        if value is not None:
            raise _wrong(f"{kind}: is a {_kind(value)}; {_LEGAL_TEXT}")
        return None
    _check_encodable([value], kind)
    return value


def _address(given: Mapping[str, Any]) -> IpAddress | None:
    text = _text(given, "source")
    if text is None:
        return None
    try:
        return ip_address(text)
    except ValueError as error:
        raise _wrong(f"source: {text[:60]!r}; legal: an IP address") from error


def _claims(given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]] | None:
    value = given.get("claims")
    if value is None:
        return None
    return {name: _mapping(each, f"claims.{name[:60]!r}") for name, each in _mapping(value, "claims").items()}


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what}: is a {_kind(value)}; legal: an object")
    return value


def _kind(value: object) -> str:
    """A value's type; the value itself may be long, and deep."""
    return type(value).__name__


def _check_encodable(texts: Iterable[str], what: str) -> None:
    """JSON can say halves of characters, which no request can."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise _wrong(f"{what}: half a character (a lone surrogate); {_LEGAL_TEXT}") from error


def _wrong(details: str) -> FlagError:
    return FlagError(ErrorCode.INVALID_CONTEXT, details)


def cookies_in(lines: Iterable[str]) -> dict[str, str]:
    """Return the cookies of a request as Envoy reads them: the first of each name, without quotes around the value."""
    found: dict[str, str] = {}
    for line in lines:
        for pair in line.split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals and len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            if equals:
                found.setdefault(name, value)
    return found


def _query_in(path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in path.partition("#")[0].partition("?")[2].split("&"):
        name, _, value = pair.partition("=")
        found.setdefault(name, value)
    return found
