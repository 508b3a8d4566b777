"""What the documentation names is there, and what is there is documented."""

from __future__ import annotations

import json
import re
import shlex
import typing
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from analysis.decision import Hold, Phase, SegmentDecision
from analysis.spec import HarmSpec, Outcome
from xds_server.access import Denial
from xds_server.ads.servicer import Refusal
from xds_server.cli import app
from xds_server.ingest.events import (
    CLICK_EVENTS,
    ELEMENT_ATTRIBUTES,
    EXCEPTION_EVENTS,
    FEATURE_EVENT,
    FLAG_EVENT,
    PAGE_EVENTS,
    PATH_ATTRIBUTES,
    USER_ATTRIBUTES,
)
from xds_server.ingest.rows import Drop
from xds_server.mesh import Right
from xds_server.mesh_model import MeshShape, Shape
from xds_server.scenario_file import parse_scenario
from xds_server.scenario_model import EffectShape, GroupShape, HabitsShape, ScenarioShape, TrafficShape, habits
from xds_server.settings import mesh_schema, parse_mesh
from xds_server.telemetry import Telemetry
from xds_server.units import OneOrMore, Text

ROOT = Path(__file__).parents[2]
PAGES = {
    page.name: page.read_text() for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
}
README = PAGES["README.md"]
MESH_FILE = PAGES["mesh-file.md"]


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced blocks in any of the languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def slug(heading: str) -> str:
    """A heading's anchor, as the usual renderers make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", PAGES)
def test_every_internal_link_leads_somewhere(name: str) -> None:
    folder = ROOT if (ROOT / name).exists() else ROOT / "docs"
    for link in links(PAGES[name]):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else folder / name
        assert target.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in {slug(h) for h in re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)}, (
                f"{name}: {link}"
            )


def test_every_page_of_the_documentation_is_reached_from_the_readme() -> None:
    assert {f"docs/{name}" for name in PAGES if (ROOT / "docs" / name).exists()} <= set(links(README))


# --- the command line


def verbs(command: Any, words: tuple[str, ...] = ("serinus",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb that does something, with its words."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, inner in command.commands.items():
        is_default = name == getattr(command, "default", None)  # what the group does without a verb
        yield from verbs(inner, words if is_default else (*words, name))


VERBS = dict(verbs(get_command(app)))


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """Every `serinus …` shown, in shell blocks and in running text, as its words; with the page's name."""
    for name, page in PAGES.items():
        lines = [line.removeprefix("$ ") for block in blocks(page, "sh", "console") for line in block.splitlines()]
        lines += re.findall(r"`(serinus [^`]+)`", page)
        for line in lines:
            if line.startswith("serinus ") and "|" not in line:  # `start|set|…` is a list of verbs
                yield name, shlex.split(re.split(r"\s[>&#]", line.replace("\\|", "/"))[0], comments=True)


def test_every_verb_is_in_the_readme_with_its_exit_codes() -> None:
    table = README[README.index("## Command line") : README.index("## Reference")]
    for words in VERBS:
        assert re.search(rf"^\| `{' '.join(words)}[ `]", table, re.MULTILINE), " ".join(words)
    for code in ("**0**", "**1**", "**2**"):
        assert code in table


def test_every_option_shown_beside_a_verb_is_one_of_its_options() -> None:
    for row in re.findall(r"^\| `serinus .*$", README, re.MULTILINE):
        words = next(w for w in sorted(VERBS, key=len, reverse=True) if row.startswith(f"| `{' '.join(w)}"))
        known = {option for param in VERBS[words].params for option in (*param.opts, *param.secondary_opts)}
        assert set(re.findall(r"(?<![\w-])--[a-z-]+", row)) <= known, row


PLACEHOLDERS = {
    "MESH": "mesh.yaml",
    "SCENARIO": "scenario.yaml",
    "SERVICE": "checkout",
    "[SERVICE]": "checkout",
    "[SEGMENT]": "eu",
    "ID": "edge",
    "VERSION": "v2",
    "CLUSTER": "2",
    "KIND": "failure",
    "[KIND]": "failure",
    "NUMBER": "3",
    "PERCENT": "10%",
    "HOST:PORT": "10.0.0.1:80",
    "[HOST:PORT]": "10.0.0.1:80",
}
"""Words as somebody would type them."""


@pytest.mark.parametrize(("page", "command"), sorted({(page, shlex.join(words)) for page, words in shown_commands()}))
def test_every_command_shown_is_understood(page: str, command: str) -> None:
    given = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
    verb = next((words for words in sorted(VERBS, key=len, reverse=True) if given[: len(words)] == list(words)), None)
    if verb is None:  # a group of verbs, named
        assert any(list(words[: len(given)]) == given for words in VERBS), f"{page}: {command}"
    elif rest := given[len(verb) :]:
        with suppress(typer.Exit):  # --help
            VERBS[verb].make_context(verb[-1], rest).close()


# --- mesh files


def keys(shape: type[Shape], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the mesh file, dotted, names of the author's own as NAME; with its field."""
    for name, field in shape.model_fields.items():
        where = f"{path}{name}"
        inner = first(field.annotation, is_shape)
        named = first(field.annotation, lambda a: typing.get_origin(a) is dict) is not None
        yield where, field
        if inner is not None:
            yield from keys(inner, f"{where}.NAME." if named else f"{where}.")


def is_shape(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Shape)


def is_reader(part: Any) -> bool:
    return isinstance(part, Text | OneOrMore)


def first(annotation: Any, wanted: Any) -> Any:
    """The first part of an annotation that is wanted, depth first."""
    if wanted(annotation):
        return annotation
    parts = (*getattr(annotation, "__metadata__", ()), *typing.get_args(annotation))
    return next((found for part in parts if (found := first(part, wanted)) is not None), None)


def rows() -> dict[str, tuple[str, str]]:
    """Legal values and default of every documented key."""
    lines = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) \|", MESH_FILE, re.MULTILINE)
    return {key: (legal, default) for key, legal, default in lines}


KEYS = {key.removeprefix("services.NAME."): field for key, field in keys(MeshShape)}
ROWS = rows()


def test_every_key_of_a_mesh_file_is_documented_and_no_other() -> None:
    assert set(ROWS) == set(KEYS)
    words = {name for definition in mesh_schema()["$defs"].values() for name in definition["properties"]}
    at_the_top = {"access", "browsers", "dead_man", "gateways", "history", "jwt", "sidecars", "tracing"}
    assert words == {key.rpartition(".")[2] for key in KEYS} - at_the_top


@pytest.mark.parametrize("key", sorted(KEYS))
def test_the_documented_range_and_default_are_those_of_the_code(key: str) -> None:
    legal, default = ROWS[key]
    field = KEYS[key]
    reader = first(typing.Annotated[field.annotation, *field.metadata, None], is_reader)
    is_mapping = first(field.annotation, is_shape) is not None
    assert (default == "required") == field.is_required()
    if reader is None or is_mapping:
        return
    limits = re.match(r"(?:a whole number, )?(-?[\d.,]+\S*) to (-?[\d.,]*\d[a-z%]*)", reader.legal)
    if limits and "range" not in key:
        assert f"{limits[1]} to {limits[2]}" in legal
    if "enum" in getattr(reader, "schema", {}):
        assert all(f"`{word}`" in legal for word in reader.schema["enum"])
    if words := re.fullmatch(r"`\[(.*)\]`", default):
        assert {Outcome(reader(word)) for word in words[1].split(", ")} == HarmSpec().bad, (
            "the only list with a default"
        )
    elif re.fullmatch(r"`[^`]+`", default):
        read = reader(default.strip("`"))
        assert read == (pytest.approx(field.default) if isinstance(field.default, float) else field.default)


def scenario_rows() -> dict[str, tuple[str, str]]:
    """Legal values and default of every documented key of a scenario file."""
    lines = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (.*?) \| (.*?) \|", PAGES["simulation.md"], re.MULTILINE)
    return {key: (legal, default) for names, legal, default in lines for key in re.findall(r"\w+", names)}


def test_every_key_of_a_scenario_file_is_documented_with_what_is_legal_and_no_other() -> None:
    documented = scenario_rows()
    fields = {
        name: field
        for shape in (ScenarioShape, GroupShape, TrafficShape, EffectShape)
        for name, field in shape.model_fields.items()
    }
    assert set(documented) == set(fields)
    for name, field in fields.items():
        reader = first(typing.Annotated[field.annotation, *field.metadata, None], is_reader)
        if reader is None or name in ("session", "kpis", "rollout", "people"):
            continue
        legal, default = documented[name]
        assert (default == "required") == field.is_required(), name
        limits = re.match(r"(-?[\d.,]+\S*) to (-?[\d.,]*\d[a-z%]*)", reader.legal)
        if limits:
            assert f"{limits[1]} to {limits[2]}" in legal, name
        for word in reader.schema.get("enum", ()):
            assert f"`{word}`" in legal, name


def test_the_documented_habits_of_people_are_those_of_the_code() -> None:
    documented = {key: default for key, (_, default) in scenario_rows().items() if key in HabitsShape.model_fields}
    shape = HabitsShape.model_validate(documented)
    assert habits(shape) == habits()


SCENARIOS = [block for block in blocks(PAGES["simulation.md"], "yaml") if "must:" in block]


@pytest.mark.parametrize("text", SCENARIOS)
def test_every_scenario_shown_is_valid(text: str) -> None:
    assert parse_scenario(text, "shown.yaml").scenario.effects


def test_every_response_flag_is_documented() -> None:
    flags = mesh_schema()["$defs"]["ErrorsShape"]["properties"]["flags"]["anyOf"][1]["items"]["enum"]
    row = next(line for line in MESH_FILE.splitlines() if line.startswith("| `errors.flags`"))
    assert set(flags) <= set(re.findall(r"\b[A-Z]+\b", row))


MESHES = [
    (name, block)
    for name, page in PAGES.items()
    for block in blocks(page, "yaml")
    if isinstance(tree := yaml.safe_load(block), dict) and "services" in tree
]


@pytest.mark.parametrize(("page", "text"), MESHES)
def test_every_mesh_shown_is_valid(page: str, text: str) -> None:
    assert parse_mesh(text, page).services


def test_the_readme_shows_a_mesh_and_a_snippet_that_attaches_an_envoy() -> None:
    section = README[README.index("### Attach my running Envoy") : README.index("### Start a rollout")]
    assert len(blocks(section, "yaml")) == 1
    assert len(blocks(section, "sh")) == 1


def test_the_mistake_shown_is_reported_in_these_words() -> None:
    mesh = next(text for page, text in MESHES if page == "README.md")
    shown = next(line for block in blocks(MESH_FILE, "console") for line in block.splitlines() if line[0] != "$")
    with pytest.raises(Exception, match="unknown version") as raised:
        parse_mesh(mesh.replace("baseline: v1", "baseline: v9"), "mesh.yaml")
    assert shown == f"serinus: {raised.value}"


# --- metrics and telemetry


def metric_names() -> Iterator[str]:
    """Every metric as Prometheus sees it."""
    telemetry = Telemetry("0")
    telemetry.watch_ready(lambda: True)
    telemetry.watch_ingest(
        entries=lambda: {("span", "accepted"): 1},
        depth=lambda: {"s": 1},
        dropped=lambda: {"s": 1},
        samples=lambda: {"s": 1},
    )
    telemetry.watch_labels(labels=lambda: {"s": 1}, overflow=lambda: {"s": 1})
    telemetry.watch_otlp_http(lambda: {"200": 1})
    telemetry.watch_flags(lambda: {"SPLIT": 1})
    telemetry.watch_xds(responses=lambda: {("push", "RDS"): 1}, nodes=lambda: 1)
    telemetry.watch_access_logs(waiting_bytes=lambda: 1, waiting=lambda: 1)
    telemetry.watch_loads(lost=lambda: {("s", "v"): 0.1}, streams=lambda: 1, nodes=lambda: 1)
    telemetry.watch_refusals(lambda: {"silent": 1})
    telemetry.watch_access(lambda: {"node": 1})
    telemetry.watch_tls(handshakes=lambda: {"hello": 1}, not_after_unix_s=lambda: 1.0)
    telemetry.certificate_read("adopted")
    telemetry.watch_endpoints(
        published=lambda: {("s", "v"): 1}, stale=lambda: {("s", "v"): 0}, events=lambda: {("file", "refused"): 1}
    )
    telemetry.watch_profiles(sessions=lambda: {("s", "default"): 1}, people=lambda: {"s": 1})
    telemetry.watch_history(rollouts=lambda: 1, stored_bytes=lambda: 1)
    telemetry.watch_learned(lambda: {"learned": 1})
    telemetry.watch_sessions(
        begun=lambda: {"s": 1}, bots=lambda: {"s": 1}, followed=lambda: {"s": 1}, evicted=lambda: {"s": 1}
    )
    hold = Hold(reasons=())
    telemetry.decided(
        "s", SegmentDecision(segment="a", verdict=hold, phase=Phase.RAMPING, split_before_bp=0, split_after_bp=0)
    )
    telemetry.evidence("s", "a", "k", 1.0)
    telemetry.harm("s", 1.0)
    telemetry.watched("s", "a", watched=True)
    telemetry.sample_ratio("s", 1.0)
    telemetry.in_force("s", 1.0)
    telemetry.ticked("s", 1.0)
    telemetry.journal_written("state")
    telemetry.mesh_read("adopted")
    telemetry.rollback_rejected("s", fell_back=True)
    for family in text_string_to_metric_families(telemetry.render().decode()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        suffix = "_total" if family.type == "counter" else ""
        yield f"| `{family.name}{suffix}` | {family.type} | {', '.join(sorted(labels))} |"
    telemetry.close()


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other() -> None:
    table = {
        f"| {name} | {kind} | {', '.join(sorted(labels.split(', ')))} |"
        for name, kind, labels in re.findall(
            r"^\| (`serinus_\w+`) \| (\w+) \| ([\w, ]*?) ?\|", PAGES["metrics.md"], re.MULTILINE
        )
    }
    assert table == set(metric_names())


def test_every_metric_named_anywhere_exists() -> None:
    known = {re.findall(r"serinus_\w+", line)[0] for line in metric_names()}
    for name, page in PAGES.items():
        for metric in re.findall(r"\bserinus_[a-z_]+", page):
            assert re.sub(r"_(bucket|sum|count)$", "", metric) in known, f"{name}: {metric}"


def test_every_reason_why_an_entry_is_dropped_is_documented() -> None:
    assert {f"`{drop}`" for drop in Drop} <= set(re.findall(r"`\w+`", PAGES["metrics.md"]))


def test_every_reason_why_somebody_is_refused_is_documented() -> None:
    told = set(re.findall(r"`\w+`", PAGES["security.md"]))
    assert {f"`{reason}`" for reason in (*Refusal, *Denial)} <= told


def test_every_right_is_documented() -> None:
    assert all(f"| `{right}` |" in PAGES["security.md"] for right in typing.get_args(Right))


def test_every_event_and_attribute_that_is_read_is_documented() -> None:
    events = (FEATURE_EVENT, FLAG_EVENT, *PAGE_EVENTS, *CLICK_EVENTS, *EXCEPTION_EVENTS)
    for name in (*events, *USER_ATTRIBUTES, *ELEMENT_ATTRIBUTES, *PATH_ATTRIBUTES):
        assert f"`{name.decode()}`" in PAGES["otel.md"]


def test_the_collector_shown_is_the_one_in_the_repository() -> None:
    shown = next(tree for text in blocks(PAGES["otel.md"], "yaml") if "exporters" in (tree := yaml.safe_load(text)))
    whole = yaml.safe_load((ROOT / "envoy-configs" / "otel-collector.yaml").read_text())
    assert json.loads(json.dumps(whole)) | shown == whole


# --- decisions


def test_every_phase_and_reason_is_documented() -> None:
    page = PAGES["operations.md"]
    for phase in Phase:
        assert f"| {phase} |" in page
    source = (ROOT / "analysis" / "guard.py").read_text() + "".join(
        (ROOT / "analysis" / name).read_text() for name in ("ramp.py", "reading.py")
    )
    codes = set(re.findall(r'_reason\(\s*"(\w+)"', source)) | set(re.findall(r'code="(\w+)"', source))
    assert codes
    for code in codes - {"suspicion"}:  # a reason of last resort, which the tests' own reasons stand before
        assert f"`{code}`" in page, code


def test_every_number_given_is_that_of_the_code() -> None:
    given = re.findall(r"^\| `(analysis[\w.]*)\.(\w+)` \| ([\d.]+) \|", PAGES["statistics.md"], re.MULTILINE)
    assert given
    for module, name, value in given:
        assert getattr(import_module(module), name) == float(value), name
