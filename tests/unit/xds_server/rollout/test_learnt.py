"""People adopt clusters while the loop runs: what counts at once, what waits, and what everybody is told."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from analysis.decision import Action
from tests.controlling import controlling
from xds_server.errors import BadRequestError, UnknownNameError
from xds_server.ingest.rows import user_hash
from xds_server.learnt.memberships import Proposal, Proposals
from xds_server.pb import control_pb2 as pb
from xds_server.rollout.controller import Controller
from xds_server.settings import parse_mesh

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:1"]}, v2: {endpoints: ["127.0.0.1:2"]}}
    baseline: v1
    segments:
      fresh: {learned: newcomers}
    rollout: {interval: 200ms, warmup: 1h, min_dwell: 1h, harm: {budget: 1000000}}
"""


def propose(control: Controller) -> None:
    people = {name: user_hash(control._fleet.journal.secret(), name.encode()) for name in ("anna", "bob", "carol")}
    control.learnt.proposals["shop"] = Proposals(
        clusters=(
            Proposal(cluster=0, size=2, description="three visits or fewer"),
            Proposal(cluster=1, size=1, description="buys each week"),
        ),
        users=np.array(list(people.values()), np.uint64),
        cluster_of=np.array([0, 0, 1], np.uint8),
    )


controller = partial(controlling, mesh=MESH, prepare=propose)


async def adopt(control: Controller, cluster: int, name: str) -> str:
    return await control.adopt_segment(service="shop", cluster=cluster, name=name, who="ada", reason="")


def where(control: Controller, person: str) -> str:
    answer = control.resolver.answer("shop", person.encode())
    assert answer is not None
    return answer.name


def notes(control: Controller) -> list[str]:
    return list(control.status("shop").services[0].notes)


def test_what_is_adopted_without_a_rollout_counts_at_once_and_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            assert control.learnt.table("shop") is None  # nobody need be asked for
            assert notes(control) == ["segment fresh: nobody has adopted newcomers, so it matches nobody"]
            assert await adopt(control, 0, "newcomers") == "adopted cluster 0 as newcomers, 2 people"
            assert [where(control, person) for person in ("anna", "carol", "dan")] == ["newcomers", "", ""]
            table = control.learnt.table("shop")
            assert table is not None
            assert (table.version, notes(control)) == (1, [])
        async with controller(tmp_path) as control:
            assert where(control, "bob") == "newcomers"
            assert control.learnt.table("shop") == table

    asyncio.run(scenario())


def test_a_name_that_is_adopted_while_a_rollout_runs_is_not_said_to_be_nobodys(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await control.start_rollout(service="shop", canary="v2", who="test", reason="")
            await adopt(control, 0, "newcomers")
            assert notes(control) == [
                "segment fresh: newcomers has been adopted while the rollout runs, so it matches nobody yet",
                "learned segments change when the rollout has ended",
            ]
            await control.drop_segment(service="shop", name="newcomers", who="ada")
            assert notes(control)[0] == "segment fresh: nobody has adopted newcomers, so it matches nobody"

    asyncio.run(scenario())


def test_while_a_rollout_runs_nobody_changes_segment(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await adopt(control, 0, "newcomers")
            await control.start_rollout(service="shop", canary="v2", who="test", reason="")
            waits = "; waits until the rollout has ended: nobody changes segment while it runs"
            said = await control.drop_segment(service="shop", name="newcomers", who="ada")
            assert waits in said
            assert "a segment of the mesh file is theirs, and matches nobody then" in said
            assert f"adopted cluster 1 as newcomers, 1 people{waits}" == await adopt(control, 1, "newcomers")
            assert (where(control, "anna"), where(control, "carol")) == ("newcomers", "")
            assert notes(control) == ["learned segments change when the rollout has ended"]
            listed = control.segments("shop")
            (adopted,) = listed.adopted
            assert (listed.table, listed.waiting) == (1, 3)
            assert (adopted.people, adopted.people_later, adopted.segment) == (2, 1, "fresh")
        async with controller(tmp_path) as control:  # a restart changes nothing
            assert where(control, "anna") == "newcomers"
            await control.act(
                service="shop", segment=None, action=Action.ROLLBACK, split_bp=0, who="ada", reason=""
            )  # fmt: skip
            assert (where(control, "anna"), where(control, "carol")) == ("", "newcomers")
            assert (control.segments("shop").table, control.segments("shop").waiting) == (3, 0)
        async with controller(tmp_path) as control:
            assert where(control, "carol") == "newcomers"

    asyncio.run(scenario())


def test_a_name_before_its_segment_is_legal_and_said_and_what_is_not_there_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            said = await adopt(control, 1, "power")
            assert "no segment of the mesh file is theirs yet (segments: {NAME: {learned: power}})" in said
            again = await adopt(control, 0, "power")
            assert "2 people" in again
            with pytest.raises(UnknownNameError, match="no cluster of shop '7'; known: 0, 1"):
                await adopt(control, 7, "power")
            with pytest.raises(UnknownNameError, match="no service 'blog'; known: shop"):
                await control.adopt_segment(service="blog", cluster=0, name="x", who="ada", reason="")
            with pytest.raises(UnknownNameError, match="no adopted segment of shop 'staff'; known: power"):
                await control.drop_segment(service="shop", name="staff", who="ada")
            for name in ("a b", "", "-x", "x" * 64, "a\nb"):
                with pytest.raises(BadRequestError, match="legal: letters"):
                    await adopt(control, 0, name)
            listed = control.segments("shop")
            assert [(p.cluster, p.people, p.description) for p in listed.proposals] == [
                (0, 2, "three visits or fewer"),
                (1, 1, "buys each week"),
            ]
            assert [(a.name, a.people, a.segment, a.who) for a in listed.adopted] == [
                ("power", 2, "", "ada"),
                ("newcomers", 0, "fresh", ""),
            ]
            assert isinstance(listed, pb.ListSegmentsReply)

    asyncio.run(scenario())


def test_whoever_leaves_another_name_for_this_one_is_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await adopt(control, 0, "newcomers")
            await adopt(control, 1, "power")
            said = await adopt(control, 0, "power")
            assert "2 of them were in newcomers before" in said

    asyncio.run(scenario())


def test_a_mesh_file_that_drops_the_segment_ends_the_questions_and_keeps_the_people(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await adopt(control, 0, "newcomers")
            without = MESH.replace("fresh: {learned: newcomers}", "fresh: {match: {path: /new}}")
            await control.change_mesh(parse_mesh(without, "mesh.yaml"))
            assert control.learnt.table("shop") is None
            assert control.resolver.answer("shop", b"anna") is None
            await control.change_mesh(parse_mesh(MESH, "mesh.yaml"))
            assert where(control, "anna") == "newcomers"

    asyncio.run(scenario())


def test_a_new_clustering_changes_people_between_rollouts_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await adopt(control, 0, "newcomers")
            carol = control.learnt.proposals["shop"].people(1).tolist()
            said = await control.renew_segments(service="shop", people={"newcomers": carol}, who="serinus")
            assert said == "renewed newcomers: 1 people"
            assert (where(control, "anna"), where(control, "carol")) == ("", "newcomers")
            again = await control.renew_segments(service="shop", people={"newcomers": carol}, who="serinus")
            assert (again, control.segments("shop").table) == ("nobody has changed segment", 2)
            await control.start_rollout(service="shop", canary="v2", who="test", reason="")
            said = await control.renew_segments(service="shop", people={"newcomers": []}, who="serinus")
            assert "waits until the rollout has ended" in said
            assert where(control, "carol") == "newcomers"

    asyncio.run(scenario())
