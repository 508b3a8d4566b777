"""The demo's mesh file: it says what the issue of the demo asks for, and fits the shop and its people."""

from __future__ import annotations

from pathlib import Path

from xds_server.demo.fault import NEWCOMER_VISITS, SEGMENTS
from xds_server.demo.runner import MESH_TEMPLATE, DemoOptions, Ports, _Demo, pace
from xds_server.demo.summary import BLAMED
from xds_server.mesh import Service
from xds_server.settings import parse_mesh


def the_shop() -> Service:
    demo = _Demo(options=DemoOptions(), console=None, work_dir=Path())  # type: ignore[arg-type]  # nothing is printed
    return parse_mesh(demo._mesh_text(), str(MESH_TEMPLATE)).services["shop"]


def test_the_demos_mesh_is_a_mesh_with_the_shops_segments() -> None:
    shop = the_shop()
    assert tuple(segment.name for segment in shop.spec.segments) == SEGMENTS
    newcomers = shop.matches["newcomers"]
    assert newcomers is not None
    assert newcomers.headers[0].value == (0, NEWCOMER_VISITS)


def test_the_pace_is_the_one_that_was_asked_for_and_the_demo_says_so() -> None:
    rollout = the_shop().spec.rollout
    assert the_shop().spec.session.gap_s == 8
    assert (rollout.harm.budget, rollout.harm.tolerance, rollout.bake_s) == (2_000, 0.02, 10)
    assert rollout.policy == "budget"
    line = pace(the_shop().spec)
    assert "gap 8 s" in line
    assert "budget 2000" in line


def test_each_fault_can_be_blamed_on_a_kpi_that_the_mesh_guards() -> None:
    assert {*BLAMED.values(), "anomaly"} == {kpi.name for kpi in the_shop().spec.kpis}


def test_ports_are_all_different() -> None:
    ports = Ports.free()
    assert len({getattr(ports, name) for name in Ports.__slots__}) == len(Ports.__slots__)
