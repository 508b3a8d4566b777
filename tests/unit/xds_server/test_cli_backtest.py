"""`serinus backtest`: what it prints, as JSON too, and when it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit.analysis.backtest.test_replay import recorded
from xds_server.cli import app
from xds_server.history_table import write_tables

ROLLOUTS = "rollout,service,baseline,canary,started_unix_s,interval_s,label\n"
SERIES = "rollout,at_s,segment,arm,kpi,n,bad,value,source\n"


def backtest(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["backtest", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bad and a good deployment with counts, and a bad one that nobody can find."""
    folder = tmp_path_factory.mktemp("tables")
    records = [recorded("bad", excess=0.2), recorded("good", excess=0.0, seed=2)]
    write_tables([*records, recorded("odd", excess=0.0, seed=3, label=recorded("x", excess=1e-9).label)], folder, "csv")
    return folder


def test_figures_come_with_intervals_and_errors_with_reasons(tables: Path) -> None:
    done = backtest(tables)
    assert done.exit_code == 0, done.output
    for word in ("precision", "1.000 [0.025, 1.000]", "recall", "0.500 [0.013, 0.987]", "minutes to verdict", "odd",
                 "1 errors", "Harm of bad ones"):  # fmt: skip
        assert word in done.output, word


def test_json_has_every_deployment_and_each_half(tables: Path) -> None:
    said = json.loads(backtest(tables / "rollouts.csv", tables / "series.csv", "--json", "--split", "hash").output)
    assert [each["verdict"] for each in said["deployments"]] == ["rollback", "keep", "keep"]
    assert said["deployments"][0]["replay"]["outcome"] == "rolled_back"
    assert {each["part"] for each in said["deployments"]} == said["figures"].keys() - {"all"}
    assert sum(said["figures"][part]["records"] for part in said["figures"] if part != "all") == 3


def test_another_policy_exposes_others(tables: Path) -> None:
    budget, fixed = (
        [each["replay"]["exposed"] for each in json.loads(said.output)["deployments"]]
        for said in (backtest(tables, "--json", "--policy", name) for name in ("budget", "fixed"))
    )
    assert budget != fixed


def test_one_class_alone_is_said_to_say_nothing(tmp_path: Path) -> None:
    write_tables([recorded("good", excess=0.0)], tmp_path, "csv")
    done = backtest(tmp_path)
    assert done.exit_code == 0, done.output
    assert "No deployment is known to be bad" in done.output


@pytest.mark.parametrize(
    ("rollouts", "series", "message"),
    [
        (ROLLOUTS, SERIES, "hold no deployment"),
        (ROLLOUTS + "a,s,v1,v2,1e9,60,bad\n", SERIES + "a,60,default,canary,error_rate,10\n", "cells"),  # cut off
        (ROLLOUTS + "a,s,v1,v2,1e9,60,bad\n", SERIES + "b,60,default,canary,x,,,1,\n", "'b' is in no table"),
        (
            ROLLOUTS + "a,s,v1,v2,1e9,1,bad\n",  # times since 1970
            SERIES + "".join(f"a,1.7e9,default,{arm},error_rate,10,0,,\n" for arm in ("canary", "baseline")),
            "legal: 200000 at most",
        ),
        ("schema,rollout\n9,a\n", SERIES, "none of the tables"),  # another version's
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, rollouts: str, series: str, message: str) -> None:
    (tmp_path / "rollouts.csv").write_text(rollouts)
    (tmp_path / "series.csv").write_text(series)
    done = backtest(tmp_path)
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.count("\n") == 1


def test_unknown_policies_and_missing_files_are_refused(tmp_path: Path, tables: Path) -> None:
    assert backtest(tables, "--policy", "nobody").exit_code == 2
    assert "legal: budget, fixed" in backtest(tables, "--policy", "nobody").output.replace("\n", " ")
    assert backtest(tmp_path / "none.csv").exit_code == 2
    assert backtest(tables, "--mesh", tmp_path / "none.yaml").exit_code == 2


def test_a_deployment_without_series_is_held(tmp_path: Path) -> None:
    (tmp_path / "rollouts.csv").write_text(ROLLOUTS + "a,s,v1,v2,1e9,60,bad\n")
    said = json.loads(backtest(tmp_path, "--json").output)
    assert said["deployments"][0]["verdict"] == "hold"
    assert said["figures"]["all"]["held"] == 1
