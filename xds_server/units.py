"""How the text of one value in a mesh file is read: durations, shares, addresses, names, and what is legal for each.

Every scalar of a mesh file is kept as the text that its author wrote, and the field that it fills reads it. So the
version `1.10` stays `1.10`, and a header that must be `no` is not turned into a boolean.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import re2
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

_NUMBER = r"[+-]?(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(rf"({_NUMBER})\s*(ms|s|m|h|d)")
_SHARE = re.compile(rf"({_NUMBER})\s*(%|pp|)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,254}")  # OpenTelemetry's instrument names
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110, section 5.6.2
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_DOMAIN = re.compile(r"\*|\*[.-][a-z0-9._-]+|[a-z0-9_][a-z0-9._-]*(?:[.-]\*)?")
_PSEUDO_HEADERS = frozenset({":authority", ":method", ":path", ":scheme"})
RESERVED_PREFIX = "x-serinus-"
MAX_REGEX_PROGRAM = 100
"""Envoy's default `re2.max_program_size.error_level`: it rejects a regular expression that compiles to more."""


class WrongValueError(ValueError):
    """A value that cannot be taken: why, and what is legal."""

    def __init__(self, message: str, legal: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.legal = legal
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Text:
    """Reads one scalar. As an annotation it tells pydantic how; `read` raises ValueError with the reason."""

    read: Callable[[str], object]
    legal: str
    schema: Mapping[str, Any]

    def __call__(self, value: object) -> object:
        if not isinstance(value, str):
            raise WrongValueError(f"{kind_of(value)} where a single value belongs", self.legal)
        try:
            return self.read(value)
        except WrongValueError:
            raise
        except ValueError as error:
            raise WrongValueError(str(error), self.legal) from error

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**self.schema, "description": self.legal}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OneOrMore:
    """Reads a scalar, or a list of them, into a tuple."""

    item: Text
    words: Mapping[str, tuple[object, ...]]  # a single word that stands for a whole list
    legal: str

    def __call__(self, value: object) -> object:
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        items = value if isinstance(value, list) else [value]
        read = []
        for item in items:
            try:
                read.append(self.item(item))
            except WrongValueError as wrong:
                shown = f"{show(item)}: " if isinstance(value, list) else ""
                raise WrongValueError(f"{shown}{wrong.message}", self.legal, wrong.hint) from wrong
        return tuple(read)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        whole = [{"enum": list(self.words)}] if self.words else [dict(self.item.schema)]
        return {"anyOf": [*whole, {"type": "array", "items": dict(self.item.schema)}], "description": self.legal}


def kind_of(value: object) -> str:
    """Name the kind of a YAML value, in words."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return "a single value"


def show(value: object) -> str:
    """Return a value as its author wrote it, on one line, quoted where that helps."""
    if not isinstance(value, str):
        return kind_of(value)
    text = value if len(value) <= 60 else value[:57] + "..."
    return text if re.fullmatch(r"[!-~]+", text) else ascii(text)


def _within(value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError("out of range")
    return value


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError("needs a unit" if re.fullmatch(_NUMBER, text) else "not a duration")
    return round(float(found[1]) * _SECONDS[found[2]], 9)


def _ratio(text: str, units: str) -> float:
    found = _SHARE.fullmatch(text)
    if not found:
        raise ValueError(f"not a number or {units}")
    if found[2] not in ("", units):
        meaning = {"pp": "a difference of two shares is written in pp (percentage points)", "%": "written in %"}
        raise ValueError(f"wrong unit: {meaning[units]}")
    return round(float(found[1]) / (100 if found[2] else 1), 12)


def duration(low: str, high: str) -> Text:
    """Seconds, from texts such as `500ms`, `10s`, `30m`, `2h`, `30d`."""
    first, last = _seconds(low), _seconds(high)
    return Text(
        read=lambda text: _within(_seconds(text), first, last),
        legal=f"{low} to {high}, such as 500ms, 10s, 30m, 2h or 30d",
        schema={"type": "string", "pattern": rf"^{_NUMBER}\s*(ms|s|m|h|d)$"},
    )


def _shares(low: str, high: str, *, unit: str, other: str = "") -> Text:
    first, last = _ratio(low, unit), _ratio(high, unit)

    def read(text: str) -> float:
        if other and text.endswith(other):
            text = text.removesuffix(other) + unit
        return _within(_ratio(text, unit), first, last)

    return Text(
        read=read,
        legal=f"{low} to {high}, or the same as a number, {first:g} to {last:g}",
        schema={"type": ["string", "number"], "pattern": rf"^{_NUMBER}\s*({unit})?$"},
    )


def share(low: str, high: str) -> Text:
    """Read a ratio, from texts such as `5%` or `0.05`."""
    return _shares(low, high, unit="%")


def points(low: str, high: str) -> Text:
    """Read a difference of two shares, from `0.5pp` or `0.005`.

    `5%` is refused: it might mean 5 % of the baseline's share, and the difference between the two is an outage.
    """
    return _shares(low, high, unit="pp")


def _basis_points(ratio: object) -> int:
    value = float(str(ratio)) * 10_000
    if abs(value - round(value)) > 1e-6:
        raise ValueError("finer than 0.01%, one hash bucket of 10,000")
    return round(value)


def split(low: str, high: str, *, unit: str = "%") -> Text:
    """Read a part of the traffic in basis points, from `50%`, `50pp` or `0.5`."""
    inner = _shares(low, high, unit=unit, other="pp" if unit == "%" else "%")
    return Text(read=lambda text: _basis_points(inner.read(text)), legal=inner.legal, schema=inner.schema)


def whole(low: int, high: int) -> Text:
    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise ValueError("not a whole number")
        return int(_within(int(text), low, high))

    return Text(
        read=read,
        legal=f"a whole number, {low} to {high}",
        schema={"type": "integer", "minimum": low, "maximum": high},
    )


def number(low: float, high: float) -> Text:
    def read(text: str) -> float:
        if not re.fullmatch(_NUMBER, text):
            raise ValueError("not a number")
        return _within(float(text), low, high)

    return Text(read=read, legal=f"{low:,} to {high:,}", schema={"type": "number", "minimum": low, "maximum": high})


def choice(*legal: str) -> Text:
    """One of the words."""

    def read(text: str) -> str:
        if text not in legal:
            raise WrongValueError("unknown", ", ".join(legal), hint=nearest(text, legal))
        return text

    return Text(read=read, legal=", ".join(legal), schema={"enum": list(legal)})


def nearest(text: str, legal: Sequence[str]) -> str:
    """Return the legal word that `text` probably meant, or ''."""
    return next(iter(difflib.get_close_matches(text, legal, n=1, cutoff=0.6)), "")


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("neither true nor false")
    return text == "true"


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not text:
            raise ValueError("empty")
        if not pattern.fullmatch(text):
            raise ValueError(f"not {what}")
        return text

    return read


def _header(text: str) -> str:
    name = text.lower()
    if not name:
        raise ValueError("empty")
    if name.startswith(RESERVED_PREFIX):
        raise ValueError("reserved: Serinus sets these headers itself")
    if not _TOKEN.fullmatch(name) and name not in _PSEUDO_HEADERS:
        raise ValueError("not a header name")
    return name


def _plain_header(text: str) -> str:
    if text.startswith(":"):
        raise ValueError("not a header that a client can leave out")
    return _header(text)


def _domain(text: str) -> str:
    if re.search(r":[0-9]+$", text):
        raise ValueError("a port does not belong to it: every port of the domain matches")
    if not _DOMAIN.fullmatch(text.lower()):
        raise ValueError("not a domain" if text else "empty")
    return text.lower()


def _path(text: str) -> str:
    if not re.fullmatch(r"/[!-~]*", text) or "?" in text or "#" in text:
        raise ValueError("not an absolute path")
    return text


def _words(text: str) -> str:
    if not text or not text.isprintable() or len(text) > 1_024:
        raise ValueError("longer than 1,024 characters" if text.isprintable() and text else "empty or not printable")
    return text


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    return text


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("not host:port")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets")
    elif re.fullmatch(r"[0-9.]+", host):
        host = str(ipaddress.IPv4Address(host))
    elif not _HOST.fullmatch(host):
        raise ValueError("not host:port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise ValueError("port out of range")
    return host, int(port)


def _ip_endpoint(text: str) -> tuple[str, int]:
    host, port = _address(text)
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("a host name: Envoy resolves those that the mesh file lists, and no others") from None
    if ip.is_unspecified or ip.is_multicast or "%" in host:
        raise ValueError("not the address of one server")
    return host, port


def _listen(text: str) -> tuple[str, int]:
    host, port = _address(text)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("Envoy listens on an IP address, not on a host name") from None
    return host, port


def _origin(text: str) -> str:
    """As browsers write it: in lower case, without a port that is the scheme's own."""
    found = re.fullmatch(r"(https?)://([^/?#@:]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", text.lower())
    if found is None or not (found[2].startswith("[") or _HOST.fullmatch(found[2])):
        raise ValueError("not an origin")
    scheme, host, port = found.groups()
    own = port is None or int(port) == (443 if scheme == "https" else 80)
    return f"{scheme}://{host}" if own else f"{scheme}://{host}:{int(port)}"


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("not a network" if text else "empty") from None
    if "%" in text:
        raise ValueError("a zone means something on one machine only")
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise WrongValueError("has bits set behind its prefix", NETWORK.legal, hint=str(network))
    return network


def _claim(text: str) -> tuple[str, ...]:
    name = _words(text)
    if "/" in name:  # such claims are named by a URL (RFC 7519, section 4.2), and URLs have dots
        return (name,)
    parts = tuple(name.split("."))
    if "" in parts:
        raise ValueError("empty between two dots")
    return parts


def _san(text: str) -> str:
    if not text:
        raise ValueError("empty")
    if "://" in text:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[!-~]+", text):
            raise ValueError("not a URI")
        return text
    if not re.fullmatch(r"[A-Za-z0-9_*.-]{1,253}", text):
        raise ValueError("neither a URI nor a DNS name")
    return text.lower()


def _reachable(text: str) -> tuple[str, int]:
    host, port = _address(text)
    if host.lower() == "localhost":
        raise ValueError("ambiguous: a host name makes it listen on every address")
    return host, port


def _regex(text: str) -> str:
    if not text:
        raise ValueError("empty")
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "bad"
        reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"bad regular expression: {reason}") from error
    if compiled.programsize > MAX_REGEX_PROGRAM:
        size = compiled.programsize
        raise ValueError(f"regular expression too large for Envoy: size {size}, at most {MAX_REGEX_PROGRAM}")
    return text


def _status(text: str) -> tuple[int, int]:
    if re.fullmatch(r"[1-5]xx", text):
        first = int(text[0]) * 100
        return first, first + 99
    found = re.fullmatch(r"([0-9]{3})(?:-([0-9]{3}))?", text)
    if not found:
        raise ValueError("not a status")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 100 <= first <= last <= 599:
        raise ValueError("out of range")
    return first, last


_STRING: Mapping[str, Any] = {"type": "string", "minLength": 1}

NAME = Text(
    read=_matching(_NAME, "a name"),
    legal="letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 63",
    schema={"type": "string", "pattern": f"^{_NAME.pattern}$"},
)
HEADER = Text(read=_header, legal="a header name such as x-plan, not x-serinus-*", schema=_STRING)
PLAIN_HEADER = Text(read=_plain_header, legal="a header name such as x-user-id, not x-serinus-*", schema=_STRING)
TOKEN = Text(read=_matching(_TOKEN, "a token"), legal="a name such as sid", schema=_STRING)
WORDS = Text(read=_words, legal="1 to 1,024 printable characters", schema=_STRING)
FILE = Text(read=_words, legal="the name of a file, seen from the mesh file's folder", schema=_STRING)
JSON = Text(read=_filled, legal="JSON, in a text", schema=_STRING)
PATH = Text(read=_path, legal="a path that begins with /, without query", schema={"type": "string", "pattern": "^/"})
DOMAIN = Text(
    read=_domain,
    legal="a host name, *.suffix, prefix.* or *",
    schema=_STRING,
)
REGEX = Text(read=_regex, legal="a regular expression in RE2 syntax that matches the whole value", schema=_STRING)
ENDPOINT = Text(
    read=_address,
    legal="host:port, such as 10.0.0.1:8080, [::1]:8080 or shop.internal:8080",
    schema=_STRING,
)
IP_ENDPOINT = Text(read=_ip_endpoint, legal="IP:port, such as 10.0.0.1:8080 or [::1]:8080", schema=_STRING)
LISTEN = Text(read=_listen, legal="IP:port, such as 127.0.0.1:10000, 0.0.0.0:10000 or [::]:10000", schema=_STRING)
REACHABLE = Text(
    read=_reachable,
    legal="IP:port, or name:port where it listens on every address and gateways reach it by that name",
    schema=_STRING,
)
NETWORK = Text(
    read=_network,
    legal="an IP network such as 10.1.0.0/16 or 2001:db8::/32, or an IP address",
    schema=_STRING,
)
METRIC = Text(
    read=_matching(_METRIC, "the name of a metric"),
    legal="a metric's name in OpenTelemetry such as process.memory.usage",
    schema={"type": "string", "pattern": f"^{_METRIC.pattern}$"},
)
CLAIM = Text(
    read=_claim,
    legal="the name of a claim, such as plan, realm_access.roles (a claim in a claim) or https://shop.example/plan",
    schema=_STRING,
)
SAN = Text(
    read=_san,
    legal="a URI such as spiffe://mesh/ns/shop/sa/*, or a DNS name such as *.shop.internal",
    schema=_STRING,
)
ORIGIN = Text(read=_origin, legal="an origin such as https://shop.example, without a path", schema=_STRING)
NODES = Text(
    read=_matching(re.compile(r"[!-~]{1,253}"), "a node ID"),
    legal="a node ID, in which * stands for anything",
    schema=_STRING,
)
PORT = whole(1, 65_535)
TRUTH = Text(read=_truth, legal="true, false", schema={"type": "boolean"})
STATUS = OneOrMore(
    item=Text(
        read=_status, legal="", schema={"type": ["string", "integer"], "pattern": r"^([1-5]xx|[0-9]{3}(-[0-9]{3})?)$"}
    ),
    words={},
    legal="a status from 100 to 599, a range such as 500-504, a class such as 5xx, or a list of these",
)
