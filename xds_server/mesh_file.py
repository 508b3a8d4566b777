"""A YAML file as a tree of texts whose every part knows its line, and its `Problem`s, one line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from xds_server.units import show

Tree = dict[str, "Tree"] | list["Tree"] | str | None
KeyPath = tuple[str | int, ...]

MAX_BYTES = 8 << 20
MAX_NODES = 200_000  # aliases can blow up a small file into a huge tree
MAX_DEPTH = 32
TOP = "(top level)"
EXPECTED = "a YAML mapping with services (required), gateways, sidecars"
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a mesh file; `str()` of it is one line. `line` None: the file could not be read at all."""

    file: str
    line: int | None
    key: str
    message: str
    legal: str
    value: str = ""
    hint: str = ""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}: {self.key}"
        value = f"{self.value}: " if self.value else ""
        meant = f"; did you mean {self.hint}?" if self.hint else ""
        legal = f"{' ' if self.hint else '; '}legal: {self.legal}" if self.legal else ""
        line = f"{where}: {value}{self.message}{meant}{legal}"
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


class MeshError(Exception):
    """A mesh file that cannot be used; `problems` holds all that was found, in the order of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems), key=lambda problem: (problem.line or 0, problem.key, str(problem))))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(slots=True)
class Source:
    """The tree of one file, with the line of every part, and the problems found so far."""

    file: str
    expected: str = EXPECTED
    tree: Tree = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    spoilt: set[KeyPath] = field(default_factory=set)  # parts that cannot be trusted, because of a problem in them

    def sound(self, path: KeyPath) -> bool:
        """Whether no problem was found at or below `path`, so that it is worth looking closer."""
        return not any(bad[: len(path)] == path for bad in self.spoilt)

    def mapping(self, path: KeyPath) -> dict[str, Tree]:
        """Return the mapping at `path`; empty where there is none."""
        found = self.value(path)
        return found if isinstance(found, dict) else {}

    def items(self, path: KeyPath) -> list[tuple[KeyPath, Tree]]:
        """Return the paths and values of the list at `path`; empty where there is none."""
        found = self.value(path)
        return [((*path, i), item) for i, item in enumerate(found)] if isinstance(found, list) else []

    def texts(self, path: KeyPath) -> list[tuple[KeyPath, str]]:
        """Return the paths and values of the texts in the list at `path`."""
        return [(where, item) for where, item in self.items(path) if isinstance(item, str)]

    def line(self, path: KeyPath) -> int:
        """Return the line of the part at `path`, or of the nearest part above it that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def value(self, path: KeyPath) -> Tree:
        """Return what the author wrote at `path`; None where there is nothing."""
        here = self.tree
        for step in path:
            if isinstance(here, dict) and isinstance(step, str):
                here = here.get(step)
            elif isinstance(here, list) and isinstance(step, int) and step < len(here):
                here = here[step]
            else:
                return None
        return here

    def report(self, path: KeyPath, message: str, legal: str, *, value: str | None = None, hint: str = "") -> None:
        """Record a problem at `path`; `value` is what to show as given (default: the text found there)."""
        self.spoilt.add(path)
        found = self.value(path)
        shown = (show(found) if isinstance(found, str) else "") if value is None else value
        problem = Problem(
            file=self.file, line=self.line(path), key=dotted(path), message=message, legal=legal, value=shown, hint=hint
        )
        if problem not in self.problems:
            self.problems.append(problem)


def dotted(path: KeyPath) -> str:
    """`services.shop.routes[0].prefix`."""
    words = [f"[{step}]" if isinstance(step, int) else f".{show(step)}" for step in path]
    return "".join(words).removeprefix(".") or TOP


def read_source(path: Path, expected: str = EXPECTED) -> str:
    """Read the text of a file; raises MeshError when it cannot be read. `expected`: what it should hold, in words."""

    def unreadable(message: str, line: int | None = None) -> MeshError:
        problem = Problem(file=str(path), line=line, key=TOP, message=message, legal=f"a file with {expected}")
        return MeshError([problem])

    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise unreadable("no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a file name"
        raise unreadable(f"cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise unreadable(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise unreadable("not YAML: not UTF-8 text", line=data[: error.start].count(b"\n") + 1) from None


def parse_source(text: str, file: str, expected: str = EXPECTED) -> Source:
    """Read `text` as a tree; raises MeshError if it is no YAML mapping. Duplicate keys and such are in `problems`."""
    source = Source(file=file, expected=expected)
    root = _compose(text, source)
    if root is None or root.tag == _NULL:
        source.report((), "empty file", source.expected)
    elif not isinstance(root, yaml.MappingNode):
        given = show(root.value) if isinstance(root, yaml.ScalarNode) else "a list"
        source.report((), "not a mapping", source.expected, value=given)
    else:
        source.tree = _Builder(source).build(root, ())
        if not source.tree and not source.problems:
            source.report((), "empty file", source.expected)
    if not source.tree:
        raise MeshError(source.problems)
    return source


def _compose(text: str, source: Source) -> yaml.Node | None:
    def not_yaml(line: int, reason: str) -> MeshError:
        source.lines[()] = line
        source.report((), f"not YAML: {reason}", source.expected, value="")
        return MeshError(source.problems)

    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" ({error.context})" if error.context else ""
        raise not_yaml(mark.line + 1 if mark else 1, f"{error.problem or error}{context}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise not_yaml(line, f"character {text[error.position : error.position + 1]!a} is not allowed") from None
    except RecursionError:
        raise not_yaml(1, "nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        raise not_yaml(1, "an escape such as \\U99999999 that stands for no character") from None


class _Builder:
    """Turns YAML nodes into the tree: scalars stay texts, an empty one is None."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._n_nodes = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Tree:
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES or len(path) > MAX_DEPTH:
            message = "nested too deeply, or too large once aliases are filled in"
            self._source.report(path[:3], message, self._source.expected, value="")
            raise MeshError(self._source.problems)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path)
        if node.tag == _NULL:
            return None
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self._source.report(path, "a tag has no meaning here", "plain YAML", value=show(node.tag))
        return str(node.value)

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> Tree:
        items: list[Tree] = []
        for index, item in enumerate(node.value):
            self._source.lines[*path, index] = item.start_mark.line + 1
            items.append(self.build(item, (*path, index)))
        return items

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> Tree:
        mapping: dict[str, Tree] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._source.lines.setdefault(path, line)
                self._source.report(path, "a key that is not a single word", "words as keys", value="")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in mapping:
                self._duplicate(here, line)
                continue
            self._source.lines[here] = line
            mapping[key] = self.build(value, here)
        return mapping

    def _duplicate(self, path: KeyPath, line: int) -> None:
        first = self._source.lines[path]
        self._source.problems.append(
            Problem(
                file=self._source.file,
                line=line,
                key=dotted(path),
                message=f"duplicate key, first at line {first}",
                legal="each key once",
            )
        )


def first_of(names: Iterable[str]) -> str:
    """Put the names in a row, as a message shows what is legal."""
    return ", ".join(show(name) for name in names) or "none are defined"
