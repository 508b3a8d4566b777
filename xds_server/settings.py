"""A mesh file, read and checked: YAML in, frozen `Mesh` out, and every mistake in it as one line."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from xds_server.jwks import EXPECTED, check_jwks, read_jwks
from xds_server.mesh import Mesh
from xds_server.mesh_build import build_mesh
from xds_server.mesh_checks import check
from xds_server.mesh_file import KeyPath, MeshError, Problem, Source, dotted, first_of, parse_source, read_source
from xds_server.mesh_model import ELSEWHERE, LISTED, REFUSED_IN_SEGMENTS, MeshShape, Shape
from xds_server.overlap import overlaps
from xds_server.units import OneOrMore, Text, WrongValueError, kind_of, nearest, show

__all__ = ["MeshError", "Problem", "load_mesh", "load_with_notes", "mesh_schema", "parse_mesh"]


def load_mesh(path: Path) -> Mesh:
    """Read the mesh in the file at `path`.

    Raises
    ------
    MeshError
        The file cannot be read, or anything in it is wrong; it holds one line for each problem.
    """
    return parse_mesh(read_source(path), str(path))


def parse_mesh(text: str, source: str) -> Mesh:
    """Read the mesh in `text`; `source` is the file's name in messages.

    Raises
    ------
    MeshError
        Anything in it is wrong; it holds one line for each problem.
    """
    return _parsed(text, source)[0]


def load_with_notes(path: Path) -> tuple[Mesh, tuple[Problem, ...]]:
    """Read a mesh as `load_mesh` does; also what is right in it and worth knowing."""
    mesh, found = _parsed(read_source(path), str(path))
    notes = []
    for service in mesh.services.values():
        for segment, others in overlaps(service).after.items():
            key = ("services", service.name, "segments", segment)
            before = " or ".join((", ".join(others[:-1]), others[-1]) if len(others) > 1 else others)
            message = f"whoever also matches {before} is there and not here: the first match decides"
            notes.append(Problem(file=found.file, line=found.line(key), key=dotted(key), message=message, legal=""))
    return mesh, tuple(notes)


def _parsed(text: str, source: str) -> tuple[Mesh, Source]:
    read = parse_source(text, source)
    shape = _shape(read)
    check(read)
    keys = _keys_of_issuers(read)
    if read.problems or shape is None:
        raise MeshError(read.problems)
    mesh = build_mesh(shape, source, keys)
    for service in mesh.services.values():
        for segment, why in overlaps(service).unreachable.items():
            path = ("services", service.name, "segments", segment, "match")
            read.report(path, why, "a match of its own, or a place before")
    if read.problems:
        raise MeshError(read.problems)
    return mesh, read


def _keys_of_issuers(source: Source) -> dict[str, str]:
    """The public keys of each issuer of tokens: those in the mesh file, those in a file beside it."""
    found = {}
    for name in source.mapping(("jwt",)):
        jwks = ("jwt", name, "jwks")
        given = source.mapping(jwks)
        for way in given.keys() & {"file", "inline"} if source.sound(jwks) else ():
            text = str(given[way])
            try:
                found[name] = read_jwks(Path(source.file).parent / text) if way == "file" else text
                check_jwks(found[name])
            except ValueError as error:
                source.report((*jwks, way), str(error), EXPECTED, value=show(text) if way == "file" else "")
    return found


def mesh_schema() -> dict[str, Any]:
    """Return the JSON Schema of mesh files, for editors."""
    schema = MeshShape.model_json_schema()
    for definition in [schema, *schema["$defs"].values()]:
        for field in definition.get("properties", {}).values():
            field.pop("title", None)
            field.pop("default", None)  # in Serinus's units, not as an author would write it
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Serinus mesh"}
    return {**head, **{key: value for key, value in schema.items() if key != "title"}}


def _shape(source: Source) -> MeshShape | None:
    try:
        return MeshShape.model_validate(source.tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    for detail in unknown:
        _report_unknown_key(source, _path(detail))
    for detail in details:
        if detail not in unknown:
            _report(source, detail)
    return None


def _path(detail: ErrorDetails) -> KeyPath:
    """Where something is wrong, without pydantic's own words for the way that was taken."""
    path = detail["loc"]
    return tuple(s for i, s in enumerate(path) if not (s in (LISTED, ELSEWHERE) and path[i - 1] == "endpoints"))


def _report_unknown_key(source: Source, path: KeyPath) -> None:
    legal = _keys(path[:-1])
    word = str(path[-1])
    if word in REFUSED_IN_SEGMENTS and "segments" in path:
        source.spoilt.update((*path[:-1], key) for key in legal)  # it stands for one of them
        source.report(path, REFUSED_IN_SEGMENTS[word], first_of(legal), value="")
        return
    hint = nearest(word, [key for key in legal if key not in source.mapping(path[:-1])])
    if hint:
        source.spoilt.add((*path[:-1], hint))
    source.report(path, "unknown key", first_of(legal), value="", hint=hint)


def _report(source: Source, detail: ErrorDetails) -> None:
    path, given = _path(detail), detail["input"]
    wrong = detail.get("ctx", {}).get("error")
    if path and path[-1] == "[key]":
        path = path[:-1]
        given = path[-1]
    shown = show(given) if isinstance(given, str) else ""
    match detail["type"]:
        case "missing":
            if path not in source.spoilt:  # else a misspelt key says it already
                source.report(path, "missing", _takes(path), value="")
        case "model_type" | "dict_type":
            source.report(path, _instead(given, "a mapping"), _takes(path), value=shown)
        case "list_type":
            source.report(path, _instead(given, "a list"), _takes(path), value=shown)
        case "too_short" | "too_long":
            source.report(path, *_wrong_length(path))
        case _ if isinstance(wrong, WrongValueError):
            source.report(path, wrong.message, wrong.legal or _takes(path), value=shown, hint=wrong.hint)
        case _:
            source.report(path, detail["msg"], "")


def _instead(given: object, wanted: str) -> str:
    return "nothing given" if given is None else f"{kind_of(given)} where {wanted} belongs"


def _wrong_length(path: KeyPath) -> tuple[str, str]:
    if path[-1] == "range":
        return "not two numbers", "[a, b] with a < b: a <= value < b"
    return "empty", f"one or more: {_takes(path)}"


def _keys(path: KeyPath) -> list[str]:
    """Return the legal keys of the mapping at `path`; empty where any name is legal."""
    shape = _shape_in(_annotation(path))
    return list(shape.model_fields) if shape is not None else []


def _takes(path: KeyPath) -> str:
    """Say what is legal at `path`, in words."""
    return _in_words(_annotation(path))


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


def _annotation(path: KeyPath) -> Any:
    """Return what the shape says of `path`: a shape, a list or mapping of something, or the reader of a text."""
    here: Any = MeshShape
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
