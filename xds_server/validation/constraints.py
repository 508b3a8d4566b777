"""The rules of protoc-gen-validate for one value, compiled: how each is called, and what breaks it.

Source: its README and validate.proto (github.com/bufbuild/protoc-gen-validate). Where its languages differ, the C++
that Envoy is built with decides: a pattern has to match the whole text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import re2
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from validate import validate_pb2

from xds_server.validation import formats

Broken = Callable[[Any], bool]
Rule = Callable[[Any], Broken]
"""Takes the rule's parameter, returns what says that a value breaks it."""

_NS = 1_000_000_000
_LONGEST_DURATION_S = 315_576_000_000  # duration.proto: about 10,000 years
_FIRST_TIMESTAMP_S, _LAST_TIMESTAMP_S = -62_135_596_800, 253_402_300_799  # timestamp.proto: the years 1 to 9999
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Constraint:
    """`rule`: as a message would write it, such as `string.min_len = 1`."""

    rule: str
    is_broken: Broken


def compile_rules(kind: str, rules: Message, enum: EnumDescriptor | None = None) -> tuple[Constraint, ...]:
    """Compile the rules for values of one kind: a name in the oneof of FieldRules, other than `repeated` and `map`.

    `enum`: the values' type, if they are enums. Durations, timestamps and Any are given as messages.
    """
    found = [*_ranges(kind, rules), *_others(kind, rules, enum)]
    if kind in _MEASURES:
        found = [Constraint(each.rule, _after(_MEASURES[kind], each.is_broken)) for each in found]
    if found and kind in _VALIDITY:
        found.insert(0, Constraint(f"{kind}: a valid one", _VALIDITY[kind]))
    if getattr(rules, "ignore_empty", False):
        found = [Constraint(each.rule, _unless_empty(each.is_broken)) for each in found]
    return tuple(found)


def show(value: object) -> str:
    """Return a value on one line, cut where it is long."""
    match value:
        case str():
            shown = ascii(value)
        case Message():
            shown = _show_message(value)
        case _ if isinstance(value, Iterable) and not isinstance(value, bytes):
            shown = ", ".join(map(show, value))
        case _:
            shown = str(value)
    return shown if len(shown) <= _LONGEST_SHOWN else shown[: _LONGEST_SHOWN - 3] + "..."


def _show_message(value: Any) -> str:
    fields = value.DESCRIPTOR.fields_by_name
    if "nanos" in fields:
        return f"{_nanoseconds(value) / _NS:g}s"
    if "type_url" in fields:
        return show(value.type_url)
    return show(value.value) if "value" in fields else str(value.DESCRIPTOR.name)


# --- Every kind -------------------------------------------------------------------------------------------------------


def _others(kind: str, rules: Any, enum: EnumDescriptor | None) -> Iterator[Constraint]:
    for field, parameter in rules.ListFields():
        name = field.name
        rule = _RULES.get(kind, {}).get(name)
        if rule is None or (not parameter and (name in _SWITCHES or name == "well_known_regex")):
            continue
        if name in _SWITCHES:
            numbers = [value.number for value in enum.values] if enum is not None else []
            yield Constraint(f"{kind}.{name}", rule(numbers))
        elif name == "well_known_regex":
            yield Constraint(f"{kind}.{name} = {_known_regex(rules)[0]}", rule(_known_regex(rules)[1]))
        else:
            yield Constraint(f"{kind}.{name} = {show(parameter)}", rule(_measured(parameter)))


def _measured(parameter: Any) -> Any:
    """Parameters of rules for times become numbers, as the times themselves do."""
    if isinstance(parameter, Message):
        return _nanoseconds(parameter)
    if isinstance(parameter, str | bytes) or not isinstance(parameter, Iterable):
        return parameter
    return [_measured(each) for each in parameter]


def _nanoseconds(value: Any) -> int:
    return int(value.seconds) * _NS + int(value.nanos)


def _type_url(value: Any) -> str:
    return str(value.type_url)


def _after(measure: Callable[[Any], Any], is_broken: Broken) -> Broken:
    return lambda value: is_broken(measure(value))


def _unless_empty(is_broken: Broken) -> Broken:
    return lambda value: bool(value) and is_broken(value)


def _only(wanted: Any) -> Broken:
    return lambda value: value != wanted


def _one_of(wanted: Iterable[Any]) -> Broken:
    allowed = frozenset(wanted)
    return lambda value: value not in allowed


def _none_of(unwanted: Iterable[Any]) -> Broken:
    forbidden = frozenset(unwanted)
    return lambda value: value in forbidden


# --- Numbers and times ------------------------------------------------------------------------------------------------

# Written as what is broken, so that NaN, which is neither above nor below, breaks no bound, as in Envoy.
_UPPER: Mapping[str, Rule] = {
    "lt": lambda bound: lambda value: value >= bound,
    "lte": lambda bound: lambda value: value > bound,
}
_LOWER: Mapping[str, Rule] = {
    "gt": lambda bound: lambda value: value <= bound,
    "gte": lambda bound: lambda value: value < bound,
}


def _ranges(kind: str, rules: Message) -> Iterator[Constraint]:
    """Bounds; a lower one that is not below the upper one means that what is between them is forbidden."""
    upper = lower = None
    for field, parameter in rules.ListFields():
        if field.name in _UPPER:
            upper = (_measured(parameter), _bound(kind, field.name, parameter, _UPPER))
        elif field.name in _LOWER:
            lower = (_measured(parameter), _bound(kind, field.name, parameter, _LOWER))
    if upper and lower and upper[0] <= lower[0]:
        above, below = upper[1], lower[1]
        yield Constraint(
            f"{above.rule} or {below.rule}", lambda value: above.is_broken(value) and below.is_broken(value)
        )
        return
    yield from (bound for _, bound in filter(None, (lower, upper)))


def _bound(kind: str, name: str, parameter: Any, table: Mapping[str, Rule]) -> Constraint:
    return Constraint(f"{kind}.{name} = {show(parameter)}", table[name](_measured(parameter)))


def _is_no_duration(value: Any) -> bool:
    seconds, nanos = value.seconds, value.nanos
    return bool(abs(seconds) > _LONGEST_DURATION_S or abs(nanos) >= _NS or seconds * nanos < 0)


def _is_no_timestamp(value: Any) -> bool:
    return not (_FIRST_TIMESTAMP_S <= value.seconds <= _LAST_TIMESTAMP_S and 0 <= value.nanos < _NS)


# --- Text -------------------------------------------------------------------------------------------------------------


def _known_regex(rules: Any) -> tuple[str, re.Pattern[str]]:
    name = validate_pb2.KnownRegex.Name(rules.well_known_regex)
    if rules.HasField("strict") and not rules.strict:
        return f"{name}, not strict", formats.HEADER_TEXT
    return name, formats.HEADER_NAME if name == "HTTP_HEADER_NAME" else formats.HEADER_VALUE


def _whole(pattern: Any) -> Broken:
    return lambda value: pattern.fullmatch(value) is None


def _unless(is_format: Callable[[Any], bool]) -> Rule:
    """A rule that is only switched on or off."""
    return lambda _: lambda value: not is_format(value)


_ANY_KIND: Mapping[str, Rule] = {"const": _only, "in": _one_of, "not_in": _none_of}
_LENGTH: Mapping[str, Rule] = {
    "len": lambda length: lambda value: len(value) != length,
    "min_len": lambda length: lambda value: len(value) < length,
    "max_len": lambda length: lambda value: len(value) > length,
    "prefix": lambda part: lambda value: not value.startswith(part),
    "suffix": lambda part: lambda value: not value.endswith(part),
    "contains": lambda part: lambda value: part not in value,
}
_STRING: Mapping[str, Rule] = {
    **_ANY_KIND,
    **_LENGTH,  # of code points
    "len_bytes": lambda length: lambda value: len(value.encode()) != length,
    "min_bytes": lambda length: lambda value: len(value.encode()) < length,
    "max_bytes": lambda length: lambda value: len(value.encode()) > length,
    "not_contains": lambda part: lambda value: part in value,
    "pattern": lambda pattern: _whole(re2.compile(pattern)),
    "well_known_regex": _whole,
    "email": _unless(formats.is_email),
    "hostname": _unless(formats.is_hostname),
    "ip": _unless(formats.is_ip),
    "ipv4": _unless(lambda value: formats.is_ip(value, 4)),
    "ipv6": _unless(lambda value: formats.is_ip(value, 6)),
    "address": _unless(lambda value: formats.is_ip(value) or formats.is_hostname(value)),
    "uri": _unless(formats.is_uri),
    "uri_ref": _unless(formats.is_uri_reference),
    "uuid": _unless(formats.is_uuid),
}
_BYTES: Mapping[str, Rule] = {
    **_ANY_KIND,
    **_LENGTH,
    "pattern": lambda pattern: _whole(re2.compile(pattern.encode())),
    "ip": _unless(lambda value: len(value) in (4, 16)),
    "ipv4": _unless(lambda value: len(value) == 4),
    "ipv6": _unless(lambda value: len(value) == 16),
}
_TIMESTAMP: Mapping[str, Rule] = {
    "const": _only,
    "lt_now": lambda _: lambda value: value >= time.time_ns(),
    "gt_now": lambda _: lambda value: value <= time.time_ns(),
    "within": lambda span: lambda value: abs(value - time.time_ns()) > span,
}
_NUMBERS = ("float", "double", *(f"{sign}int{bits}" for sign in ("", "u", "s") for bits in (32, 64)))
_FIXED = tuple(f"{sign}fixed{bits}" for sign in ("", "s") for bits in (32, 64))
_RULES: Mapping[str, Mapping[str, Rule]] = {
    **dict.fromkeys((*_NUMBERS, *_FIXED), _ANY_KIND),
    "bool": {"const": _only},
    "string": _STRING,
    "bytes": _BYTES,
    "enum": {**_ANY_KIND, "defined_only": _one_of},
    "any": {"in": _one_of, "not_in": _none_of},
    "duration": _ANY_KIND,
    "timestamp": _TIMESTAMP,
}
_SWITCHES = frozenset(
    ["email", "hostname", "ip", "ipv4", "ipv6", "address", "uri", "uri_ref", "uuid", "defined_only", "lt_now", "gt_now"]
)
_MEASURES: Mapping[str, Callable[[Any], Any]] = {
    "any": _type_url,
    "duration": _nanoseconds,
    "timestamp": _nanoseconds,
}
_VALIDITY: Mapping[str, Broken] = {"duration": _is_no_duration, "timestamp": _is_no_timestamp}

KNOWN = frozenset(
    [f"{kind}.{name}" for kind, rules in _RULES.items() for name in rules]
    + [f"{kind}.{name}" for kind in (*_NUMBERS, *_FIXED, "duration", "timestamp") for name in (*_UPPER, *_LOWER)]
    + [f"{kind}.ignore_empty" for kind in (*_NUMBERS, *_FIXED, "string", "bytes")]
    + ["string.strict"]
)
"""Every rule that `compile_rules` knows, such as `string.min_len`."""
