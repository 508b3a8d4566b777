"""What a YAML file holds, read by the shape that says what is legal in it; what is wrong goes to `Source.problems`."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from xds_server.mesh_file import KeyPath, Source, first_of
from xds_server.mesh_model import ELSEWHERE, LISTED, REFUSED_IN_SEGMENTS, Shape
from xds_server.units import OneOrMore, Text, WrongValueError, kind_of, nearest, show

Root = TypeVar("Root", bound=Shape)


def read_shape(source: Source, root: type[Root]) -> Root | None:
    """Read the whole tree as `root`; None where anything in it is wrong, each mistake then is among the problems."""
    try:
        return root.model_validate(source.tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    for detail in unknown:
        _report_unknown_key(source, root, _path(detail))
    for detail in details:
        if detail not in unknown:
            _report(source, root, detail)
    return None


def _path(detail: ErrorDetails) -> KeyPath:
    """Where something is wrong, without pydantic's own words for the way that was taken."""
    path = detail["loc"]
    return tuple(s for i, s in enumerate(path) if not (s in (LISTED, ELSEWHERE) and path[i - 1] == "endpoints"))


def _report_unknown_key(source: Source, root: type[Shape], path: KeyPath) -> None:
    legal = _keys(root, path[:-1])
    word = str(path[-1])
    if word in REFUSED_IN_SEGMENTS and "segments" in path:
        source.spoilt.update((*path[:-1], key) for key in legal)  # it stands for one of them
        source.report(path, REFUSED_IN_SEGMENTS[word], first_of(legal), value="")
        return
    hint = nearest(word, [key for key in legal if key not in source.mapping(path[:-1])])
    if hint:
        source.spoilt.add((*path[:-1], hint))
    source.report(path, "unknown key", first_of(legal), value="", hint=hint)


def _report(source: Source, root: type[Shape], detail: ErrorDetails) -> None:
    path, given = _path(detail), detail["input"]
    wrong = detail.get("ctx", {}).get("error")
    if path and path[-1] == "[key]":
        path = path[:-1]
        given = path[-1]
    shown = show(given) if isinstance(given, str) else ""
    match detail["type"]:
        case "missing":
            if path not in source.spoilt:  # else a misspelt key says it already
                source.report(path, "missing", _takes(root, path), value="")
        case "model_type" | "dict_type":
            source.report(path, _instead(given, "a mapping"), _takes(root, path), value=shown)
        case "list_type":
            source.report(path, _instead(given, "a list"), _takes(root, path), value=shown)
        case "too_short" | "too_long":
            source.report(path, *_wrong_length(root, path))
        case _ if isinstance(wrong, WrongValueError):
            source.report(path, wrong.message, wrong.legal or _takes(root, path), value=shown, hint=wrong.hint)
        case _:
            source.report(path, detail["msg"], "")


def _instead(given: object, wanted: str) -> str:
    return "nothing given" if given is None else f"{kind_of(given)} where {wanted} belongs"


def _wrong_length(root: type[Shape], path: KeyPath) -> tuple[str, str]:
    if path[-1] == "range":
        return "not two numbers", "[a, b] with a < b: a <= value < b"
    return "empty", f"one or more: {_takes(root, path)}"


def _keys(root: type[Shape], path: KeyPath) -> list[str]:
    """Return the legal keys of the mapping at `path`; empty where any name is legal."""
    shape = _shape_in(_annotation(root, path))
    return list(shape.model_fields) if shape is not None else []


def _takes(root: type[Shape], path: KeyPath) -> str:
    """Say what is legal at `path`, in words."""
    return _in_words(_annotation(root, path))


def _in_words(annotation: Any) -> str:
    ways = [_in_words_of_one(way) for way in _ways(annotation)]
    return ", or ".join(ways)


def _in_words_of_one(annotation: Any) -> str:
    if isinstance(annotation, Text | OneOrMore):
        return annotation.legal
    if _is_shape(annotation):
        return f"a mapping with {first_of(annotation.model_fields)}"
    inner = _in_words(typing.get_args(annotation)[-1])
    if typing.get_origin(annotation) is list:
        return f"a list, each item {inner}"
    return f"a mapping of names, each to {inner}"


def _is_shape(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Shape)


def _annotation(root: type[Shape], path: KeyPath) -> Any:
    """Return what the shape says of `path`: a shape, a list or mapping of something, or the reader of a text."""
    here: Any = root
    for step in path:
        shape = _shape_in(here)
        if shape is not None and isinstance(step, str):
            field = shape.model_fields[step]
            here = _reader(field.metadata) or field.annotation
        else:
            here = typing.get_args(next(way for way in _ways(here) if typing.get_origin(way) is not None))[-1]
    return here


def _shape_in(annotation: Any) -> Any:
    """Return the shape that an annotation allows, if any."""
    return next((way for way in _ways(annotation) if _is_shape(way)), None)


def _reader(notes: Iterable[Any]) -> Text | OneOrMore | None:
    return next((note for note in notes if isinstance(note, Text | OneOrMore)), None)


def _ways(annotation: Any) -> Iterator[Any]:
    """Each way that an annotation allows, but for None: shapes, lists, mappings; the reader of an annotated text."""
    if annotation is type(None):
        return
    if typing.get_origin(annotation) not in (typing.Annotated, types.UnionType, typing.Union):
        yield annotation
        return
    reader = _reader(getattr(annotation, "__metadata__", ()))
    if reader is not None:
        yield reader
        return
    is_union = typing.get_origin(annotation) is not typing.Annotated
    for inner in typing.get_args(annotation) if is_union else typing.get_args(annotation)[:1]:
        yield from _ways(inner)
