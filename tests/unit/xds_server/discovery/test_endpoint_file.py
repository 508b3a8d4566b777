"""Files of endpoints: what they say, and the one line that each mistake gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xds_server.discovery import endpoint_file
from xds_server.discovery.endpoint_file import one_line, parse_endpoints, read_text
from xds_server.mesh_file import MeshError

IP = "IP:port, such as 10.0.0.1:8080 or [::1]:8080"
EXPECTED = f"one or more endpoints, in lines or as a YAML or JSON list; each {IP}"
TWICE = "given twice, first at line 1; legal: each endpoint once"
LISTENERS = {("10.0.0.9", 80): "gateway edge"}


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1:80\n[::1]:80\n",
        "[::1]:80\r\n10.0.0.1:80",
        "# the new ones\n\n  10.0.0.1:80  # a\n[::1]:80 # b\n",
        "- 10.0.0.1:80\n- '[::1]:80'\n",
        "---\n- 10.0.0.1:80\n- '[0::1]:80'\n",
        '["10.0.0.1:80", "[::1]:80"]',
        '[\n  "[::1]:80",\n  "10.0.0.1:80"\n]\n',
    ],
)
def test_lines_yaml_and_json_say_the_same_in_whatever_order(text: str) -> None:
    assert parse_endpoints(text, "v1.txt") == (("10.0.0.1", 80), ("::1", 80))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", f"v1.txt: no endpoints; legal: {EXPECTED}"),
        ("# none\n", f"v1.txt: no endpoints; legal: {EXPECTED}"),
        ("[]", f"v1.txt: no endpoints; legal: {EXPECTED}"),
        ("10.0.0.1:80\n10.0.", f"v1.txt:2: [1]: 10.0.: not host:port; legal: {IP}"),
        ("10.0.0.1:80 10.0.0.2", f"v1.txt:1: [0]: '10.0.0.1:80 10.0.0.2': port out of range; legal: {IP}"),
        ("- 10.0.0.1:80\n- 10.0.0.1:99999", f"v1.txt:2: [1]: 10.0.0.1:99999: port out of range; legal: {IP}"),
        (
            "shop.internal:80",
            "v1.txt:1: [0]: shop.internal:80: a host name: Envoy resolves those that the mesh file lists, and no "
            f"others; legal: {IP}",
        ),
        ("0.0.0.0:80", f"v1.txt:1: [0]: 0.0.0.0:80: not the address of one server; legal: {IP}"),
        ("[fe80::1%eth0]:80", f"v1.txt:1: [0]: [fe80::1%eth0]:80: not the address of one server; legal: {IP}"),
        ("10.0.0.1:80\n\n10.0.0.1:80", f"v1.txt:3: [1]: 10.0.0.1:80: {TWICE}"),
        ('["10.0.0.1:80", "10.0.0.1:80"]', f"v1.txt:1: [1]: 10.0.0.1:80: {TWICE}"),
        (
            "10.0.0.9:80",
            "v1.txt:1: [0]: 10.0.0.9:80: gateway edge itself listens there: a loop; "
            "legal: where the version's own servers listen",
        ),
        ("{endpoints: [10.0.0.1:80]}", f"v1.txt:1: (top level): not a list; legal: {EXPECTED}"),
        ("- 10.0.0.1:80\n- {host: 10.0.0.2}", f"v1.txt:2: [1]: not a single value; legal: {EXPECTED}"),
        ("- 10.0.0.1:80\n- [", f"v1.txt:2: [1]: not a single value; legal: {EXPECTED}"),
        ("- 10.0.0.1:80\n---\n- 10.0.0.2:80", f"v1.txt: more than one document; legal: {EXPECTED}"),
        ("- '10.0.0.1:80\n", f"v1.txt:2: (top level): not YAML: found unexpected end of stream; legal: {EXPECTED}"),
    ],
)  # fmt: skip
def test_each_mistake_gives_one_line(text: str, line: str) -> None:
    with pytest.raises(MeshError) as raised:
        parse_endpoints(text, "v1.txt", LISTENERS)
    assert str(raised.value) == line


def test_the_example_is_right() -> None:
    path = Path(__file__).parents[4] / "envoy-configs" / "endpoints" / "search-v8.yaml"
    assert parse_endpoints(read_text(path), str(path)) == (("10.0.8.1", 8080), ("10.0.8.2", 8080))


def test_every_mistake_is_named_and_the_first_line_says_how_many_more() -> None:
    with pytest.raises(MeshError) as raised:
        parse_endpoints("a\n10.0.0.1:80\nb\nc\n", "v1.txt")
    assert [problem.line for problem in raised.value.problems] == [1, 3, 4]
    assert one_line(raised.value.problems) == f"v1.txt:1: [0]: a: not host:port; legal: {IP} (and 2 more)"


def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_file, "MAX_ENDPOINTS", 2)
    with pytest.raises(MeshError, match=r"v1\.txt: 3 endpoints, more than 2"):
        parse_endpoints("10.0.0.1:80\n10.0.0.2:80\n10.0.0.3:80", "v1.txt")


@given(st.text() | st.text(alphabet="[]{}-: \n#&*!.10,'\"", max_size=60))
@example("[" * 200_000)
@example("- " * 100_000)
@example("- &a [*a]")
@example("\x00")
@example("- \ud800")
def test_any_text_is_endpoints_or_lines(text: str) -> None:
    try:
        assert parse_endpoints(text, "v1.txt")
        lines = []
    except MeshError as error:
        lines = list(map(str, error.problems))
    assert all(line.startswith("v1.txt:") and len(line.splitlines()) == 1 for line in lines)
