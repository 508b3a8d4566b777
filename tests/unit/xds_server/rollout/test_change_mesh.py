"""Another mesh, while people give orders, rollouts end and the journal fails. Real parts, no Envoy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from analysis.decision import Action
from tests.unit.xds_server.rollout.test_controller import MESH, act, begin, controller, splits
from tests.waiting import until
from xds_server.errors import JournalError
from xds_server.mesh import Mesh
from xds_server.rollout.controller import Controller
from xds_server.settings import parse_mesh


def mesh(*more: str, service: str = "shop") -> Mesh:
    """The mesh, with more versions of a service."""
    v2 = 'v2: {endpoints: ["127.0.0.1:2"]}'
    before, after = MESH.split(f"  {service}:\n")
    added = "".join(f', {version}: {{endpoints: ["127.0.0.1:3"]}}' for version in more)
    return parse_mesh(f"{before}  {service}:\n{after.replace(v2, v2 + added, 1)}", "mesh.yaml")


def versions(control: Controller, service: str = "shop") -> set[str]:
    return set(control._publisher.mesh.services[service].versions)


@contextlib.asynccontextmanager
async def while_the_mesh_changes(control: Controller) -> AsyncIterator[None]:
    """What is begun in it waits for the lock of a service that another one is about to replace."""
    old = control._fleet.services["shop"]
    async with old.lock:
        change = asyncio.create_task(control.change_mesh(mesh("v3")))
        await until(lambda: change._fut_waiter in (old.lock._waiters or ()))
        yield
    await change
    assert control._fleet.services["shop"] is not old


def test_a_rollout_that_is_started_while_the_mesh_changes_is_one_of_the_new_mesh(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            async with while_the_mesh_changes(control):
                starting = asyncio.create_task(
                    control.start_rollout(service="shop", canary="v3", who="test", reason="")
                )
                await asyncio.sleep(0.05)
            await starting
            assert control.rolling() == ["shop"]

    asyncio.run(scenario())


def test_a_rollback_that_is_ordered_while_the_mesh_changes_is_carried_out(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            await act(control, Action.PROMOTE)
            async with while_the_mesh_changes(control):
                ordering = asyncio.create_task(act(control, Action.ROLLBACK))
                await asyncio.sleep(0.05)
            await ordering
            assert splits(control, "shop") == {0.0}

    asyncio.run(scenario())


def test_what_waited_for_a_rollout_that_ends_while_the_mesh_changes_is_adopted(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            change = asyncio.create_task(control.change_mesh(mesh("v3")))
            await until(control._mesh_lock.locked)
            await act(control, Action.ROLLBACK)
            assert not change.done(), "else nothing is shown here"
            await change
            await until(lambda: versions(control) == {"v1", "v2", "v3"})
            assert not control.status("shop").mesh.waiting

    asyncio.run(scenario())


def test_what_waited_is_not_adopted_over_what_is_read_meanwhile(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "shop")
            await control.change_mesh(mesh("v3"))
            assert control.status("shop").mesh.waiting == ["shop"]
            change = asyncio.create_task(control.change_mesh(mesh("v4")))
            await until(control._mesh_lock.locked)
            await act(control, Action.ROLLBACK)
            assert not change.done(), "else nothing is shown here"
            await change
            await until(lambda: not control._mesh_lock.locked() and not control.status("shop").mesh.waiting)
            assert versions(control) == {"v1", "v2", "v4"}

    asyncio.run(scenario())


def test_a_journal_that_fails_while_the_mesh_changes_leaves_all_as_it_was(tmp_path):
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            await begin(control, "cart")
            services = dict(control._fleet.services)
            journal = control._fleet.journal
            rollouts, journal.rollouts = journal.rollouts, _no_disk
            with pytest.raises(JournalError):
                await control.change_mesh(mesh("v3"))
            assert control._fleet.services == services
            assert versions(control) == {"v1", "v2"}
            journal.rollouts = rollouts
            await control.change_mesh(mesh("v3"))
            assert versions(control) == {"v1", "v2", "v3"}
            assert control.rolling() == ["cart"]

    asyncio.run(scenario())


def _no_disk() -> list[object]:
    raise JournalError("no disk")
