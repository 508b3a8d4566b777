"""Checks any message against the rules of protoc-gen-validate in its descriptors, as Envoy does on receipt.

Works on descriptors alone: no type of message is named here. The rules of a type are compiled when the first message of
that type is met, and kept.

PGV's semantics: a message that is not set breaks nothing but `required`; a scalar without presence is checked whether
it was set or not, a member of a oneof only if it is the one chosen; messages of a disabled or ignored type, and in a
skipped field, are not looked into. Envoy looks into a google.protobuf.Any where it uses it, so it is looked into here:
by its type, if the default descriptor pool knows it, which it does once the type's module has been imported. An Any of
any other type is left alone, whatever it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from validate import validate_pb2

from xds_server.validation.constraints import KNOWN as KNOWN_OF_VALUES
from xds_server.validation.constraints import Constraint, compile_rules, show

_ANY = "google.protobuf.Any"
_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)

KNOWN = KNOWN_OF_VALUES | {
    *(f"{kind}.required" for kind in ("message", "any", "duration", "timestamp")),
    "message.skip",
    *(f"repeated.{name}" for name in ("min_items", "max_items", "unique", "items", "ignore_empty")),
    # A map of messages cannot be sparse in Python, as in Go: it holds a message for each key.
    *(f"map.{name}" for name in ("min_pairs", "max_pairs", "no_sparse", "keys", "values", "ignore_empty")),
}
"""Every rule that is checked, such as `string.min_len`."""


def violations(message: Message) -> tuple[str, ...]:
    """Everything in a message that breaks a rule: a line each, `path: value breaks rule`, outer messages first.

    Cost: one to two microseconds for each message in it, most of that for reading which fields it has.
    """
    walk = _Walk()
    walk.ahead.append((message, None))
    for each, place in walk.ahead:  # grows meanwhile
        _rules_of(each.DESCRIPTOR).check(each, place, walk)
    return tuple(walk.found)


_Place = tuple["_Place | None", str, object]
"""Where a value is: the place of the message that has it, the field, the index or key. Becomes text when it matters."""


def _path(place: _Place | None) -> str:
    steps: list[str] = []
    while place is not None:
        place, name, key = place
        steps.append(name if key is None else f"{name}[{show(key)}]")
    return ".".join(reversed(steps))


@dataclass(slots=True)
class _Walk:
    """One check: the messages still to be looked at, and what was found.

    A list instead of recursion: how deep messages nest is up to whoever made them.
    """

    ahead: list[tuple[Any, _Place | None]] = field(default_factory=list)
    found: list[str] = field(default_factory=list)

    def report(self, place: _Place, value: str, rule: str) -> None:
        self.found.append(f"{_path(place)}: {value} breaks {rule}")


class _Field(Protocol):
    """The rules of one field; given only what is set, and a container only if it holds something."""

    def check(self, value: Any, parent: _Place | None, walk: _Walk) -> None: ...


@dataclass(frozen=True, slots=True)
class _Value:
    """The rules of one value. `descends`: it is a message with rules of its own."""

    constraints: tuple[Constraint, ...]
    descends: bool

    def __bool__(self) -> bool:
        return self.descends or bool(self.constraints)

    def check(self, value: Any, place: _Place, walk: _Walk) -> None:
        for constraint in self.constraints:
            if constraint.is_broken(value):
                walk.report(place, show(value), constraint.rule)
        if self.descends:
            walk.ahead.append((value, place))


@dataclass(frozen=True, slots=True)
class _Single:
    name: str
    value: _Value

    def check(self, value: Any, parent: _Place | None, walk: _Walk) -> None:
        self.value.check(value, (parent, self.name, None), walk)


@dataclass(frozen=True, slots=True)
class _Repeated:
    name: str
    sizes: tuple[Constraint, ...]
    unique: bool
    item: _Value

    def check(self, items: Sequence[Any], parent: _Place | None, walk: _Walk) -> None:
        _check_size(items, self.sizes, (parent, self.name, None), walk)
        if self.unique and len(set(items)) < len(items):
            second = next(i for i, item in enumerate(items) if item in items[:i])
            walk.report((parent, self.name, second), show(items[second]), "repeated.unique")
        if self.item:
            for i, item in enumerate(items):
                self.item.check(item, (parent, self.name, i), walk)


@dataclass(frozen=True, slots=True)
class _Map:
    name: str
    sizes: tuple[Constraint, ...]
    key: _Value
    value: _Value

    def check(self, pairs: Mapping[Any, Any], parent: _Place | None, walk: _Walk) -> None:
        _check_size(pairs, self.sizes, (parent, self.name, None), walk)
        if self.key or self.value:
            for key in sorted(pairs):
                place = (parent, self.name, key)
                self.key.check(key, place, walk)
                self.value.check(pairs[key], place, walk)


def _check_size(container: Any, sizes: Sequence[Constraint], place: _Place, walk: _Walk) -> None:
    for size in sizes:
        if size.is_broken(container):
            walk.report(place, f"{len(container)} of them", size.rule)


@dataclass(frozen=True, slots=True)
class _Absence:
    """What it breaks that a field is not set, or empty."""

    name: str
    value: str
    rule: str


@dataclass(frozen=True, slots=True)
class _TypeRules:
    """The rules of one type of message. `fields` and `absences` by number; `oneofs`: those that are required."""

    fields: Mapping[int, _Field]
    absences: Mapping[int, tuple[_Absence, ...]]
    oneofs: tuple[str, ...]

    def check(self, message: Any, place: _Place | None, walk: _Walk) -> None:
        present = message.ListFields()
        for descriptor, value in present:
            rules = self.fields.get(descriptor.number)
            if rules is not None:
                rules.check(value, place, walk)
        if self.absences:
            numbers = {descriptor.number for descriptor, _ in present}
            for number in self.absences:
                if number not in numbers:
                    for absence in self.absences[number]:
                        walk.report((place, absence.name, None), absence.value, absence.rule)
        for oneof in self.oneofs:
            if message.WhichOneof(oneof) is None:
                walk.report((place, oneof, None), "not set", "oneof.required")


class _AnyRules:
    """Looks into what an Any holds."""

    def check(self, message: Any, place: _Place | None, walk: _Walk) -> None:
        name = message.type_url.rpartition("/")[2]
        try:
            held = GetMessageClass(Default().FindMessageTypeByName(name)).FromString(message.value)
        except KeyError:
            return
        except DecodeError:
            walk.report((place, "value", None), f"{len(message.value)} bytes", f"its type: not a {name}")
            return
        walk.ahead.append((held, place))


# --- Compiling --------------------------------------------------------------------------------------------------------


@cache
def _rules_of(descriptor: Descriptor) -> _TypeRules | _AnyRules:
    if descriptor.full_name == _ANY:
        return _AnyRules()
    if _is_exempt(descriptor):
        return _TypeRules({}, {}, ())
    fields = {each.number: _field(each) for each in descriptor.fields}
    absences = {each.number: tuple(_absences(each)) for each in descriptor.fields}
    return _TypeRules(
        fields={number: rules for number, rules in fields.items() if rules is not None},
        absences={number: broken for number, broken in absences.items() if broken},
        oneofs=tuple(oneof.name for oneof in descriptor.oneofs if _is_required(oneof)),
    )


def _is_exempt(descriptor: Descriptor) -> bool:
    options = descriptor.GetOptions()
    return bool(options.Extensions[validate_pb2.disabled] or options.Extensions[validate_pb2.ignored])


def _is_required(oneof: Any) -> bool:
    return bool(oneof.GetOptions().Extensions[validate_pb2.required])


def _rules(descriptor: FieldDescriptor) -> Any:
    return descriptor.GetOptions().Extensions[validate_pb2.rules]


def _field(descriptor: FieldDescriptor) -> _Field | None:
    rules = _rules(descriptor)
    message = descriptor.message_type
    if message is not None and _is_map(descriptor):
        key, value = (message.fields_by_name[name] for name in ("key", "value"))
        pairs = _Map(descriptor.name, _sizes(descriptor), _value(key, rules.map.keys), _value(value, rules.map.values))
        return pairs if pairs.sizes or pairs.key or pairs.value else None
    if descriptor.is_repeated:
        item = _value(descriptor, rules.repeated.items)
        items = _Repeated(descriptor.name, _sizes(descriptor), rules.repeated.unique, item)
        return items if items.sizes or items.unique or items.item else None
    single = _value(descriptor, rules)
    return _Single(descriptor.name, single) if single else None


def _is_map(descriptor: FieldDescriptor) -> bool:
    of = descriptor.message_type
    return of is not None and of.GetOptions().map_entry


def _value(descriptor: FieldDescriptor, rules: Any) -> _Value:
    """Compile the rules of a value of this field's type."""
    kind = rules.WhichOneof("type")
    compiled: tuple[Constraint, ...] = ()
    if kind not in (None, "repeated", "map"):
        compiled = compile_rules(kind, getattr(rules, kind), descriptor.enum_type)
    message = descriptor.message_type
    if message is None:
        return _Value(compiled, descends=False)
    if message.full_name in _WRAPPERS:
        compiled = tuple(Constraint(each.rule, _of_wrapped(each)) for each in compiled)
    return _Value(compiled, descends=not rules.message.skip and _has_rules(message))


def _of_wrapped(constraint: Constraint) -> Any:
    return lambda wrapper: constraint.is_broken(wrapper.value)


def _sizes(descriptor: FieldDescriptor) -> tuple[Constraint, ...]:
    """The rules about how much a repeated field or a map holds."""
    kind = "map" if _is_map(descriptor) else "repeated"
    rules = getattr(_rules(descriptor), kind)
    return tuple(
        Constraint(
            f"{kind}.{field.name} = {limit}", _too_few(limit) if field.name.startswith("min_") else _too_many(limit)
        )
        for field, limit in rules.ListFields()
        if field.name.startswith(("min_", "max_"))
    )


def _too_few(limit: int) -> Any:
    return lambda container: len(container) < limit


def _too_many(limit: int) -> Any:
    return lambda container: len(container) > limit


def _absences(descriptor: FieldDescriptor) -> Iterator[_Absence]:
    rules = _rules(descriptor)
    if descriptor.is_repeated:
        kind = rules.map if _is_map(descriptor) else rules.repeated
        if not kind.ignore_empty:
            empty = (size.rule for size in _sizes(descriptor) if size.is_broken(()))
            yield from (_Absence(descriptor.name, "0 of them", rule) for rule in empty)
        return
    if descriptor.containing_oneof is not None:
        return
    if descriptor.message_type is not None:
        kinds = [kind for kind in ("message", "any", "duration", "timestamp") if rules.HasField(kind)]
        required = (kind for kind in kinds if getattr(rules, kind).required)
        yield from (_Absence(descriptor.name, "not set", f"{kind}.required") for kind in required)
    elif not descriptor.has_presence:
        default = descriptor.default_value
        broken = (each.rule for each in _value(descriptor, rules).constraints if each.is_broken(default))
        yield from (_Absence(descriptor.name, show(default), rule) for rule in broken)


@cache
def _has_rules(descriptor: Descriptor) -> bool:
    """Whether a message of this type, or one that it can hold, can break a rule."""
    seen = {descriptor}
    ahead = [descriptor]
    for each in ahead:  # grows meanwhile
        if _is_exempt(each):
            continue
        if each.full_name == _ANY or any(map(_is_required, each.oneofs)):
            return True
        if any(field.GetOptions().HasExtension(validate_pb2.rules) for field in each.fields):
            return True
        held = {field.message_type for field in each.fields if field.message_type is not None}
        ahead += held - seen
        seen |= held
    return False
