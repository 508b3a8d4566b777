"""A mesh file, read and checked: YAML in, frozen `Mesh` out, and every mistake in it as one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xds_server.jwks import EXPECTED, check_jwks, read_jwks
from xds_server.mesh import Mesh
from xds_server.mesh_build import build_mesh
from xds_server.mesh_checks import check
from xds_server.mesh_file import MeshError, Problem, Source, dotted, parse_source, read_source
from xds_server.mesh_model import MeshShape
from xds_server.overlap import overlaps
from xds_server.shape_reader import read_shape
from xds_server.units import show

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
    shape = read_shape(read, MeshShape)
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
