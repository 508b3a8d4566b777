"""`serinus validate --power`: what it is told, what it prints and when it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from analysis.power import plan as plans
from analysis.power.good_release import GoodReleases, rounded_up
from xds_server.cli import app
from xds_server.cli_power import Told, _take_shares, take_status, traffic_of
from xds_server.pb import control_pb2 as pb
from xds_server.settings import parse_mesh

MESH = """
services:
  checkout:
    domains: [checkout]
    port: 10000
    identity: [{header: x-user-id}]
    versions:
      v1: {endpoints: [127.0.0.1:9001]}
      v2: {endpoints: [127.0.0.1:9002]}
    baseline: v1
    segments:
      vip: {match: {headers: [{name: x-plan, exact: pro}]}}
    rollout: {harm: {budget: 100}}
"""
ENOUGH = ("--rate", "20", "--share", "vip=10%")


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    file = tmp_path / "mesh.yaml"
    file.write_text(MESH)
    return file


@pytest.fixture(autouse=True)
def _unplayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated releases take seconds and have a test of their own."""
    monkeypatch.setattr(
        plans, "good_releases", lambda *_, **__: GoodReleases(runs=60, lost=0, played_s=60.0, segments=())
    )
    monkeypatch.setattr(plans, "budget_that_does", lambda *_, least, **__: rounded_up(least))


def validate(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["validate", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"})


def test_table_names_every_segment_and_kpi_and_what_is_assumed(mesh: Path) -> None:
    done = validate(mesh, "--power", *ENOUGH)
    assert done.exit_code == 0, done.output
    for word in ("vip", "default", "all together", "error_rate", "latency_p95", "x4", "24 h", "at most 1.00%"):
        assert word in done.stdout
    assert "base rates assumed: error_rate 0.005, latency_p95 0.05, anomaly 0.05" in done.stderr


def test_budget_too_small_for_its_base_rate_is_refused_with_the_number_that_would_do(mesh: Path) -> None:
    done = validate(mesh, "--power", *ENOUGH, "--base", "error_rate=40%")
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if "too small" in line]
    assert line.startswith("serinus: checkout: harm.budget 100 is too small")
    needed = line.split("a budget of ")[1].split()[0]
    mesh.write_text(MESH.replace("budget: 100", f"budget: {needed}"))
    assert validate(mesh, "--power", *ENOUGH, "--base", "error_rate=40%").exit_code == 0


def test_small_segment_is_a_warning_and_no_failure(mesh: Path) -> None:
    done = validate(mesh, "--power", "--rate", "20", "--share", "vip=0.05%")
    assert done.exit_code == 0
    assert "warning: segment vip: error_rate of four times the base rate" in done.stdout
    assert "merge it with another" in done.stdout


def test_json_holds_what_the_table_shows(mesh: Path) -> None:
    done = validate(mesh, "--power", "--json", *ENOUGH, "--base", "vip/error_rate=2%", "--base", "latency_p95=4%")
    assert done.exit_code == 0
    (plan,) = json.loads(done.stdout)["power"]
    assert plan["traffic"]["sessions_per_s"] == pytest.approx([2.0, 18.0])
    assert plan["traffic"]["base"] == [[0.02, 0.04, 0.05], [0.005, 0.04, 0.05]]
    assert {row["segment"] for row in plan["detections"]} == {"vip", "default", "all together"}
    assert (plan["refusals"], plan["false_rollback"]) == ([], 0.01)


def test_json_of_a_refused_plan_says_so(mesh: Path) -> None:
    done = validate(mesh, "--power", "--json", *ENOUGH, "--base", "checkout/vip/error_rate=90%", "--base",
                    "error_rate=30%")  # fmt: skip
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert not document["ok"]
    assert document["power"][0]["refusals"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--rate", "20"), "belong to --power"),
        (("--power",), "needs the traffic"),
        (("--power", "--rate", "much"), "legal: above 0"),
        (("--power", "--rate", "0"), "legal: above 0"),
        (("--power", "--rate", "nan"), "legal: above 0"),
        (("--power", "--rate", "shop=3"), "legal: checkout"),
        (("--power", "--rate", "20", "--share", "vip"), "SEGMENT=SHARE"),
        (("--power", "--rate", "20", "--share", "eu=5%"), "legal: vip, default"),
        (("--power", "--rate", "20", "--share", "vip=5pp"), "wrong unit"),
        (("--power", "--rate", "20", "--share", "vip=60%", "--share", "default=60%"), "add up to 1.2"),
        (("--power", "--rate", "20", "--share", "vip=20%", "--share", "default=60%"), "add up to 0.8"),
        (("--power", "--rate", "20", "--base", "errors=5%"), "legal: error_rate"),
        (("--power", "--rate", "20", "--base", "eu/error_rate=5%"), "legal: vip, default"),
        (("--power", "--rate", "20", "--base", "a/b/c/error_rate=5%"), "KPI=SHARE"),
    ],
)
def test_wrong_usage_is_one_line_with_what_is_legal(mesh: Path, arguments: tuple[str, ...], word: str) -> None:
    done = validate(mesh, *arguments)
    assert done.exit_code == 2
    assert word in " ".join(done.stderr.replace("│", " ").split())


def _spec() -> Any:
    return parse_mesh(MESH, "mesh.yaml").services["checkout"].spec


def test_running_control_plane_tells_people_and_base_rates() -> None:
    """300 people in 60 s are 5 a second; base rates of enough judged sessions only."""
    told = Told()
    status = pb.ServiceStatus(
        service="checkout",
        seen_s=60,
        segments=[
            pb.SegmentStatus(
                segment="vip", seen_people=60, kpis=[pb.KpiStatus(kpi="error_rate", baseline=0.03, baseline_n=900)]
            ),
            pb.SegmentStatus(
                segment="default", seen_people=240, kpis=[pb.KpiStatus(kpi="error_rate", baseline=0.5, baseline_n=4)]
            ),
        ],
    )
    take_status(status, _spec(), told)
    traffic = traffic_of(_spec(), told)
    assert traffic.sessions_per_s == pytest.approx((1.0, 4.0))
    assert [base[0] for base in traffic.base] == [0.03, 0.005]


def test_control_plane_that_has_only_just_begun_to_look_tells_no_rate() -> None:
    told = Told()
    take_status(
        pb.ServiceStatus(service="checkout", seen_s=9, segments=[pb.SegmentStatus(segment="vip", seen_people=60)]),
        _spec(),
        told,
    )
    assert told.sessions_per_s is None


def test_a_base_rate_of_nothing_is_kept_off_zero() -> None:
    """Nobody has failed yet: not that nobody ever will."""
    told = Told(sessions_per_s=1.0, bases={("", "error_rate"): 0.0})
    assert all(0 < base[0] < 0.001 for base in traffic_of(_spec(), told).base)


def test_shares_of_more_than_all_are_refused() -> None:
    with pytest.raises(typer.BadParameter, match=r"checkout: shares add up to 1\.5"):
        traffic_of(_spec(), Told(sessions_per_s=1.0, shares={"vip": 1.5}))


def test_shares_on_the_command_line_replace_those_that_were_seen() -> None:
    told = {"checkout": Told(sessions_per_s=10.0, shares={"vip": 0.4, "default": 0.6})}
    _take_shares(["vip=10%"], {"checkout": _spec()}, told)
    assert traffic_of(_spec(), told["checkout"]).sessions_per_s == pytest.approx((1.0, 9.0))
