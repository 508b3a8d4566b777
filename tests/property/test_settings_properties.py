"""Whatever a mesh file holds, it becomes a mesh or a list of one-line problems."""

from __future__ import annotations

from pathlib import Path

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from xds_server.mesh import Mesh
from xds_server.settings import MeshError, parse_mesh

EXAMPLE = (Path(__file__).parents[2] / "envoy-configs" / "meshes" / "shop.yaml").read_text()
TREE = yaml.safe_load(EXAMPLE)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        [
            "5%",
            "0.5pp",
            "10s",
            "v1",
            "10.0.0.1:80",
            "[::1]:80",
            "0.0.0.0:1",
            "10.0.0.0/8",
            "::/0",
            "{}",
            "(",
            "*",
            "",
            "2001-01-01",
        ]
    ),
)
KEYS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "services",
            "gateways",
            "sidecars",
            "domains",
            "match",
            "headers",
            "name",
            "exact",
            "range",
            "after",
            "pin",
            "to",
            "file",
            "registered",
            "cookies",
            "source",
            "claims",
            "jwt",
            "jwks",
            "endpoints",
            "[listed]",
        ]
    ),
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def paths(tree: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    steps = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    below = [found for step in steps for found in paths(tree[step], (*path, step))]  # type: ignore[index]  # a container
    return [path, *below] if path else below


PATHS = paths(TREE)


def changed(tree: object, path: tuple[object, ...], value: object) -> object:
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)  # type: ignore[call-overload]  # a container
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


def becomes_a_mesh_or_lines(text: str) -> None:
    try:
        assert isinstance(parse_mesh(text, "mesh.yaml"), Mesh)
    except MeshError as error:
        problems = error.problems
    else:
        return
    lines = [str(problem) for problem in problems]
    assert lines
    assert all(len(line.splitlines()) == 1 and line.startswith("mesh.yaml:") for line in lines)
    assert len(set(lines)) == len(lines)
    numbers = [problem.line or 0 for problem in problems]
    assert numbers == sorted(numbers)
    assert numbers[0] >= 1
    assert numbers[-1] <= len(text.splitlines()) + 1
    "\n".join(lines).encode()  # can be printed


@given(st.text())
@example("\ufeff")
@example('"\\ud800": 1')
@example("? ? a\n")
@example("{a, b: {<<: *x}}")
def test_any_text_becomes_a_mesh_or_lines(text: str) -> None:
    becomes_a_mesh_or_lines(text)


@given(ANYTHING)
def test_any_yaml_becomes_a_mesh_or_lines(tree: object) -> None:
    becomes_a_mesh_or_lines(yaml.safe_dump(tree, allow_unicode=True))


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PATHS), ANYTHING)
def test_any_change_to_a_right_mesh_leaves_a_mesh_or_lines(path: tuple[object, ...], value: object) -> None:
    becomes_a_mesh_or_lines(yaml.safe_dump(changed(TREE, path, value), allow_unicode=True, sort_keys=False))


@given(st.integers(0, len(EXAMPLE)), st.integers(0, 40), st.text(max_size=3))
def test_any_damage_to_a_right_file_leaves_a_mesh_or_lines(start: int, length: int, instead: str) -> None:
    becomes_a_mesh_or_lines(EXAMPLE[:start] + instead + EXAMPLE[start + length :])
