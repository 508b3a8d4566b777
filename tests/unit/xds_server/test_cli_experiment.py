"""`serinus experiment analyse`: what it shows and writes, what a page is, and what it says of wrong tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from xds_server.cli import app

HEAD = "experiment,variant,metric,at,n,sum,sum_sq"


def _analyse(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["experiment", "analyse", *map(str, arguments)], env={"COLUMNS": "200"})


def _table(path: Path, *, lift: float = 0.1, head: str = HEAD, name: str = "shop") -> Path:
    """Twenty ticks of two variants: conversions, and revenue as a guardrail."""
    rng, lines = np.random.default_rng(1), [head]
    for at in range(20):
        for variant, rate in (("a", 0.1), ("<b>", 0.1 + lift)):
            n = int(rng.binomial(300, 0.5))
            bought = rng.random(n) < rate
            paid = bought * rng.lognormal(2.0, 0.5, n)
            lines.append(f"{name},{variant},conversion,{at},{n},{bought.sum()},{bought.sum()}")
            lines.append(f"{name},{variant},revenue,{at},{n},{paid.sum():.6f},{(paid**2).sum():.6f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return _table(tmp_path / "table.csv")


def test_it_shows_and_writes_what_came_of_an_experiment(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    result = _analyse(table, "--guardrail", "revenue=0.5", "--json", out)
    assert result.exit_code == 0
    assert "shop against a" in result.stdout
    assert "all: winner, <b> is ahead of all others" in result.stdout
    assert "sample ratio: fine" in result.stdout
    (report,) = json.loads(out.read_text())["experiments"]
    conversion, revenue = report["effects"]
    assert conversion["low"] > 0 < revenue["low"]
    assert report["experiment"]["metrics"][1] == {"name": "revenue", "kind": "mean", "better": "up", "margin": 0.5}
    assert len(report["effects_over_time"]) == 20


def test_control_direction_and_level_are_what_is_asked_for(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    _analyse(table, "--control", "<b>", "--json", out)
    (report,) = json.loads(out.read_text())["experiments"]
    assert (report["effects"][0]["variant"], report["verdicts"]["all"]["winner"]) == ("a", "<b>")
    assert report["effects"][0]["high"] < 0
    _analyse(table, "--lower", "conversion", "--alpha", "0.001", "--json", out)
    (strict,) = json.loads(out.read_text())["experiments"]
    assert strict["verdicts"]["all"]["winner"] == "a"
    width, wider = (each["effects"][0]["high"] - each["effects"][0]["low"] for each in (report, strict))
    assert wider > width
    _analyse(table, "--primary", "revenue", "--json", out)
    assert json.loads(out.read_text())["experiments"][0]["effects"][0]["metric"] == "revenue"


def test_the_page_has_its_plots_within_it_and_trusts_no_name(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert _analyse(_table(tmp_path / "t.csv", name="<i>shop $x$"), "--html", page).exit_code == 0
    text = page.read_text()
    assert text.count("<svg") == 3
    assert "&lt;b&gt;" in text
    assert "&lt;i&gt;shop $x$" in text
    assert text.count("<b>") == text.count("<p><b>") == 1  # ours
    for foreign in ("<i>", 'src="', "<link", "<script"):
        assert foreign not in text


def test_people_with_several_variants_are_counted_once_each_and_too_many_are_flagged(tmp_path: Path) -> None:
    lines = [HEAD + ",exposed,multiple"]
    lines += [f"x,{variant},{metric},0,500,50,50,600,{n}" for variant, n in (("a", 9), ("b", 21)) for metric in "cd"]
    path, out = tmp_path / "t.csv", tmp_path / "out.json"
    path.write_text("\n".join(lines))
    assert "several variants: 30 people (2.44%), TOO MANY" in _analyse(path, "--json", out).stdout
    checks = json.loads(out.read_text())["experiments"][0]["checks"]
    assert checks["multiple_exposure"]["of"] == 1_230
    assert checks["sample_ratio"]["observed"] == [600, 600]


def test_totals_and_parquet_say_the_same_as_ticks(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import Table

    rows = [line.split(",") for line in _table(tmp_path / "t.csv").read_text().splitlines()[1:]]
    so_far: dict[tuple[str, ...], np.ndarray] = {}
    records = []
    for experiment, variant, metric, at, *numbers in rows:
        key = (experiment, variant, metric)
        so_far[key] = so_far.get(key, np.zeros(3)) + np.array(numbers, float)
        n, total, square = so_far[key].tolist()
        records.append(
            {"experiment": experiment, "variant": variant, "metric": metric, "at": float(at), "n": n, "sum": total,
             "sum_sq": square}
        )  # fmt: skip
    parquet.write_table(Table.from_pylist(records), tmp_path / "t.parquet")
    found = []
    for arguments in ((tmp_path / "t.csv",), (tmp_path / "t.parquet", "--totals")):
        out = tmp_path / "out.json"
        assert _analyse(*arguments, "--json", out).exit_code == 0
        found.append(json.loads(out.read_text())["experiments"][0]["effects"][0])
    assert found[0]["n"] == found[1]["n"]
    assert found[0]["effect"] == pytest.approx(found[1]["effect"], abs=0.005)


def test_shares_that_move_are_taken_from_the_table(tmp_path: Path) -> None:
    lines = [HEAD + ",share"]
    for at, share in enumerate([0.9, 0.1] * 5):
        for variant, part in (("a", share), ("b", 1 - share)):
            lines.append(f"x,{variant},c,{at},{round(1000 * part)},{round(100 * part)},{round(100 * part)},{part}")
    path, out = tmp_path / "t.csv", tmp_path / "out.json"
    path.write_text("\n".join(lines))
    assert _analyse(path, "--json", out).exit_code == 0
    (report,) = json.loads(out.read_text())["experiments"]
    assert report["checks"]["sample_ratio"]["p_value"] > 0.9
    assert len(report["allocation_over_time"]) == 10
    assert report["allocation_over_time"][1]["shares"] == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column experiment; legal: experiment, variant,"),
        (HEAD, "no rows"),
        (HEAD + ",colour\n", "column colour; legal:"),
        (HEAD + "\nx,a,c,0,5,1\n", "line 2: not as many values as columns"),
        (HEAD + "\nx,a,c,0,5,many,1\n", "line 2: sum is 'many'; legal: a number"),
        (HEAD + "\nx,a,c,0,5,nan,1\n", "line 2: sum is 'nan'; legal: a number"),
        (HEAD + "\nx,a,c,0,5,,1\n", "line 2: sum is empty; legal: a number, or n = 0"),
        (HEAD + "\nx,a,c,0,2.5,1,1\n", "line 2: n is 2.5; legal: a whole number from 0 on"),
        (HEAD + "\nx,a,c,0,-2,1,1\n", "line 2: n is -2; legal: a whole number from 0 on"),
        (HEAD + "\nx,a,c,0,2,2,1\n", "line 2: sum_sq is 1; legal: from sum²/n = 2 on"),
        (HEAD + "\nx,,c,0,2,2,2\n", "line 2: variant is ''; legal: a name"),
        (HEAD + "\nx,\x1b[31m,c,0,2,2,2\n", "line 2: variant is '\\x1b[31m'; legal: a name"),
        (HEAD + "\nx,a,c,0,2,2,2\n", "experiment x: 1 variants; legal: 2 to 10"),
        (HEAD + "\nx,a,c,0,2,2,2\nx,b,c,0,2,2,2\nx,a,c,0,2,2,2\n", "line 4: the same experiment, segment, variant"),
        (
            HEAD + ",share\nx,a,c,0,2,2,2,.5\nx,b,c,0,2,2,2,.2\n",
            "segment default, at 0: shares add up to 0.7; legal: 1",
        ),
        (HEAD + ",share\nx,a,c,0,2,2,2,.5\nx,b,c,0,2,2,2,\n", "line 3: share is empty"),
        (HEAD + ",share\nx,a,c,0,2,2,2,1.5\n", "line 2: share is 1.5; legal: from 0 to 1"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    result = _analyse(path)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.startswith(f"serinus: {path}: ")
    assert result.stderr.count("\n") == 1
    assert not result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--control", "z"), "no variant 'z'; known: <b>, a"),
        (("--lower", "z"), "no metric 'z'; known: conversion, revenue"),
        (("--alpha", "0.7"), "alpha is 0.7; legal: above 0, below 0.5"),
        (("--guardrail", "revenue"), "'revenue' is not METRIC=MARGIN"),
        (("--guardrail", "revenue=-1"), "margin is -1.0; legal: a number from 0 on"),
        (("--guardrail", "revenue=1", "--guardrail", "conversion=1"), "every metric has a margin"),
    ],
)
def test_what_is_asked_for_has_to_be_there(arguments: tuple[str, ...], says: str, table: Path) -> None:
    result = _analyse(table, *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    assert "is no CSV in UTF-8" in _analyse(binary).stderr
    assert "cannot be read: No such file" in _analyse(tmp_path / "none.csv").stderr
    fake = tmp_path / "fake.parquet"
    fake.write_bytes(b"PAR0")
    pytest.importorskip("pyarrow")
    assert "is no Parquet" in _analyse(fake).stderr


def test_nobody_anywhere_is_no_crash(tmp_path: Path) -> None:
    path, page = tmp_path / "t.csv", tmp_path / "p.html"
    path.write_text(HEAD + "\nx,a,c,0,0,,\nx,b,c,0,0,0,0\n")
    result = _analyse(path, "--html", page)
    assert result.exit_code == 0
    assert "too few yet" in result.stdout
    assert "all: running" in result.stdout
