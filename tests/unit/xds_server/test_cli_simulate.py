"""`serinus simulate` on the command line: what it shows, what it writes, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from xds_server.cli import app

SCENARIO = """
title: A canary that fails most people
must: rollback
horizon: 10m
loads: [20, 30]
segments: {default: {share: 100%}}
effects: [{kpi: errors, plus: 80pp}]
rollout: {harm: {budget: 500, bad: [error]}}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    file = tmp_path / "bad.yaml"
    file.write_text(SCENARIO)
    return file


def _simulate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)], env={"COLUMNS": "160"})


@pytest.mark.parametrize("level", ["counts", "people"])
def test_it_shows_what_comes_of_a_scenario_and_writes_each_run(level: str, scenario: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs.json"
    result = _simulate(scenario, "--runs", 2, "--load", 30, "--level", level, "--json", out)
    assert result.exit_code == 0
    assert "30 sessions/s, policy budget, 2 runs; must: rollback" in result.stdout
    row = next(line for line in result.stdout.splitlines() if "default" in line)
    assert [cell.strip() for cell in row.split("│")[1:5]] == ["default", "bad", "0%", "100%"]
    told = json.loads(out.read_text())
    assert (told["scenario"], told["policy"], told["must"], told["level"]) == ("bad", "budget", "rollback", level)
    (load,) = told["loads"]
    assert [run["seed"] for run in load["runs"]] == [0, 1]
    assert load["runs"][0]["segments"][0]["outcome"] == "rolled_back"
    assert load["summary"][0]["shares"]["rolled_back"] == 1.0
    mean = sum(run["segments"][0]["harm"] for run in load["runs"]) / 2
    assert load["summary"][0]["harm"] == mean > 0


def test_without_a_load_each_of_the_files_is_played(scenario: Path) -> None:
    result = _simulate(scenario, "--runs", 1)
    assert "20 sessions/s" in result.stdout
    assert "30 sessions/s" in result.stdout


def test_policy_and_seed_change_what_is_played(scenario: Path, tmp_path: Path) -> None:
    runs = {}
    for name, options in {"plain": (), "fixed": ("--policy", "fixed"), "seed": ("--seed", 7)}.items():
        out = tmp_path / f"{name}.json"
        assert _simulate(scenario, "--runs", 1, "--load", 5, "--json", out, *options).exit_code == 0
        runs[name] = json.loads(out.read_text())
    assert runs["fixed"]["policy"] == "fixed"
    assert runs["seed"]["loads"][0]["runs"][0]["seed"] == 7
    assert runs["seed"]["loads"][0]["runs"][0] != runs["plain"]["loads"][0]["runs"][0]


def test_mistakes_in_the_file_are_told_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("title: t\nmust: win\nhorizon: 3\n")
    result = _simulate(file)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"serinus: {file}:2: must: win: unknown; legal: promote, rollback, keep, hold",
        f"serinus: {file}:3: horizon: 3: needs a unit; legal: 1m to 400d, such as 500ms, 10s, 30m, 2h or 30d",
    ]


def test_an_unknown_policy_is_refused_with_those_that_there_are(scenario: Path) -> None:
    result = _simulate(scenario, "--policy", "best")
    assert result.exit_code == 2
    assert "'best' is unknown; legal: budget, fixed, learned" in result.stderr
