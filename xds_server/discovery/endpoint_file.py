"""A file of endpoints: what is in it, or what is wrong with it, a line a problem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, cast

import yaml

from xds_server.mesh import Address
from xds_server.mesh_file import TOP, MeshError, Problem, dotted
from xds_server.units import IP_ENDPOINT, WrongValueError, show

MAX_BYTES: Final = 1 << 20
MAX_ENDPOINTS: Final = 10_000
EXPECTED: Final = f"one or more endpoints, in lines or as a YAML or JSON list; each {IP_ENDPOINT.legal}"

NO_LISTENERS: Final[Mapping[Address, str]] = MappingProxyType({})

_IPV6_LINE: Final = re.compile(r"\[[0-9A-Fa-f:.]+(?:%[^\]]*)?\]:")
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten thousand lines take Python's own over a second
_PREAMBLE: Final = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)

_Items: TypeAlias = Iterable[tuple[int, str]]
"""Line number and text of each endpoint."""


def parse_endpoints(text: str, file: str, listeners: Mapping[Address, str] = NO_LISTENERS) -> tuple[Address, ...]:
    """Return the endpoints in a text, sorted; `file` is its name in messages.

    Either every line is an endpoint, or the text is a YAML list (of which JSON is a kind) of them. `listeners`: where
    Envoys listen, each in words.

    Raises
    ------
    MeshError
        Anything in it is wrong, or there are none.
    """
    items = list(_lines(text))
    if not items or not (items[0][1][0] in "-[{?&!|>%\"'" and not _IPV6_LINE.match(items[0][1])):
        return _endpoints(items, file, listeners)
    return _endpoints(_listed(text, file), file, listeners)


def problem(
    file: str, message: str, *, line: int | None = None, key: str = TOP, value: str = "", legal: str = EXPECTED
) -> Problem:
    """One thing that is wrong with a file of endpoints."""
    return Problem(file=file, line=line, key=key, message=message, legal=legal, value=value)


def read_text(path: Path) -> str:
    """Return the text of a file of endpoints; raises MeshError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise MeshError([problem(str(path), unreadable(error))]) from None
    if len(data) > MAX_BYTES:
        raise MeshError([problem(str(path), f"larger than {MAX_BYTES >> 20} MiB")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise MeshError([problem(str(path), "not UTF-8 text", line=line)]) from None


def unreadable(error: OSError | ValueError) -> str:
    """Say why a file cannot be looked at."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) and error.strerror else "not a file name"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if found := line.partition("#")[0].strip():
            yield number, found


def _listed(text: str, file: str) -> _Items:
    """The items of a YAML list. Taken from events: libyaml's composer is recursive, and dies of deep nesting."""
    items: list[tuple[int, str]] = []
    try:
        events = (e for e in yaml.parse(text, Loader=_LOADER) if not isinstance(e, _PREAMBLE))
        if not isinstance(next(events, None), yaml.SequenceStartEvent):
            raise MeshError([problem(file, "not a list", line=1)])
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            line = event.start_mark.line + 1 if event.start_mark else 1
            if not isinstance(event, yaml.ScalarEvent):
                raise MeshError([problem(file, "not a single value", line=line, key=dotted((len(items),)))])
            items.append((line, str(event.value)))
        if next(events, None) is not None:
            raise MeshError([problem(file, "more than one document")])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise MeshError([problem(file, f"not YAML: {error.problem or error}", line=line)]) from None
    except (yaml.YAMLError, ValueError, OverflowError):
        raise MeshError([problem(file, "not YAML", line=1)]) from None
    return items


def _endpoints(items: _Items, file: str, listeners: Mapping[Address, str]) -> tuple[Address, ...]:
    found: dict[Address, int] = {}
    problems: list[Problem] = []
    for index, (line, text) in enumerate(items):
        wrong = _read_into(found, text, line, listeners)
        if wrong is not None:
            at = dotted((index,))
            problems.append(problem(file, wrong.message, line=line, key=at, value=show(text), legal=wrong.legal))
    if not found and not problems:
        problems.append(problem(file, "no endpoints"))
    if len(found) > MAX_ENDPOINTS:
        problems = [problem(file, f"{len(found):,} endpoints, more than {MAX_ENDPOINTS:,}")]
    if problems:
        raise MeshError(problems)
    return ordered(found)


def _read_into(
    found: dict[Address, int], text: str, line: int, listeners: Mapping[Address, str]
) -> WrongValueError | None:
    """Add an endpoint with its line; return what is wrong with it."""
    try:
        address = read_address(text, listeners)
    except WrongValueError as wrong:
        return wrong
    if address in found:
        return WrongValueError(f"given twice, first at line {found[address]}", "each endpoint once")
    found[address] = line
    return None


def read_address(text: str, listeners: Mapping[Address, str]) -> Address:
    """Return the address of an endpoint; raises WrongValueError."""
    address = cast("Address", IP_ENDPOINT(text))
    if address in listeners:
        legal = "where the version's own servers listen"
        raise WrongValueError(f"{listeners[address]} itself listens there: a loop", legal)
    return address


def ordered(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Put addresses in the one order that they are published in: where they stand must not matter to any Envoy."""
    return tuple(sorted(addresses))


def one_line(problems: Sequence[Problem]) -> str:
    """The first problem, and how many more there are."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{problems[0]}{more}"
