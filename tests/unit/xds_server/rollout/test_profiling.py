"""Profiles and clusters under the controller: trained, kept, taken up again, standing still while a rollout runs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from analysis.columns import NEVER
from analysis.decision import Action
from analysis.profile.persons import Clustering, PersonTable
from analysis.profile.profile import Profile
from analysis.session import SESSION_DTYPE
from tests.controlling import controlling
from xds_server.errors import RefusedError, UnknownNameError
from xds_server.rollout.controller import Controller
from xds_server.rollout.profiling import FIRST_N, Why
from xds_server.settings import parse_mesh
from xds_server.store.journal import Journal
from xds_server.store.profiles import ProfileStore

NS = 1_000_000_000
LABELS = ("other", "page /", "page /search", "page /cart", "click buy")
MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:9001"]}, v2: {endpoints: ["127.0.0.1:9002"]}}
    baseline: v1
    segments:
      loyal: {learned: regulars}
    profile: {retrain: 1h, keep: 30d}
"""
DEFAULT = 1  # index of the segment


controller = partial(controlling, mesh=MESH)


def sessions(
    users: npt.ArrayLike, now_ns: int, *, days: float, pages: int, rng: np.random.Generator
) -> npt.NDArray[np.void]:
    """One session of each of these people, at some time of the last `days`."""
    user = np.asarray(users, np.uint64)
    rows = np.zeros(len(user), SESSION_DTYPE)
    rows["user"], rows["segment"] = user, DEFAULT
    rows["start_unix_ns"] = now_ns - (rng.random(len(user)) * days * 86_400 * NS).astype(np.int64)
    rows["last_unix_ns"] = rows["start_unix_ns"] + pages * 10 * NS
    rows["n_pages"] = rows["n_path"] = pages
    rows["path"][:, :pages] = 1 + np.arange(pages) % 4
    rows["path_ds"][:, :pages] = np.arange(pages) * 50
    for name in ("first_error_ms", "first_slow_ms", "goal_ms"):
        rows[name] = NEVER
    return rows


def teach(control: Controller, seed: int = 1, *, regulars_from: int = 1_000) -> None:
    """Two hundred people who come once and look around, and as many who come each second day and buy."""
    rng = np.random.default_rng(seed)
    engine = control._fleet.services["shop"].engine
    now_ns = control._fleet.clock.now_unix_ns()
    visits = [sessions(np.arange(1, 201), now_ns, days=2, pages=int(rng.integers(1, 3)), rng=rng)]
    regulars = np.arange(regulars_from, regulars_from + 200)
    visits += [sessions(regulars, now_ns, days=28, pages=8, rng=rng) for _ in range(14)]
    for each in visits:
        engine.observer.behaviour.learn(DEFAULT, each, LABELS)
        engine.people.update(each, LABELS)


def test_what_is_learnt_is_shown_kept_and_taken_up_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            assert (await control.profile("shop", "default")).segments[0].sessions == 0
            teach(control)
            (trained,) = (await control.train_profile(service="shop", who="ann")).segments
            assert (trained.segment, trained.version, trained.why) == ("default", 1, "ann")
            assert trained.sessions > FIRST_N
            assert {use.label for use in trained.uses} >= {"page /", "page /search"}
            assert sum(kind.share for kind in trained.kinds) == pytest.approx(1)
        async with controller(tmp_path) as control:
            again = (await control.profile("shop", None)).segments
            assert [each.segment for each in again] == ["loyal", "default"]
            assert (again[1].version, again[1].sessions, again[1].trained_unix_ns) == (
                *(1, trained.sessions), trained.trained_unix_ns,
            )  # fmt: skip
            assert again[1].uses == trained.uses
            assert (await control.profile("shop", None)).people == 400
            teach(control, seed=2)
            assert (await control.train_profile(service="shop", who="ann")).segments[0].version == 2

    asyncio.run(scenario())


def test_how_well_it_fits_is_told_by_what_has_come_since(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            teach(control)
            await control.train_profile(service="shop", who="ann")
            teach(control, seed=2)
            (fits,) = (await control.evaluate_profile("shop", "default")).segments
            assert fits.sessions > FIRST_N
            assert not fits.calls_for_training
            rng, now_ns = np.random.default_rng(3), control._fleet.clock.now_unix_ns()
            behaviour = control._fleet.services["shop"].engine.observer.behaviour
            for pages in (1, 2, 1, 2):  # nobody does anything odd, but it is others who come
                fresh = sessions(np.arange(5_000, 7_000), now_ns, days=1, pages=pages, rng=rng)
                behaviour.learn(DEFAULT, fresh, LABELS)
            (drifted,) = (await control.evaluate_profile("shop", "default")).segments
            assert drifted.calls_for_training
            with pytest.raises(UnknownNameError):
                await control.evaluate_profile("shop", "nobody")

    asyncio.run(scenario())


def test_profiles_are_due_at_first_on_drift_on_growth_and_when_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            steered = control._fleet.services["shop"]
            assert await control.profiling.train(steered) == []
            teach(control)
            assert [row.why for row in await control.profiling.train(steered)] == [Why.FIRST]
            assert await control.profiling.train(steered) == []
            teach(control, seed=2)
            assert await control.profiling.train(steered) == [], "nothing new, and it still fits"
            now_ns = control._fleet.clock.now_unix_ns
            monkeypatch.setattr(control._fleet.clock, "now_unix_ns", lambda: now_ns() + 3_601 * NS)
            assert [row.why for row in await control.profiling.train(steered)] == [Why.SCHEDULE]

    asyncio.run(scenario())


def test_while_a_rollout_runs_nothing_is_trained(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            teach(control)
            await control.start_rollout(service="shop", canary="v2", who="ann", reason="")
            with pytest.raises(RefusedError, match="running rollout"):
                await control.train_profile(service="shop", who="ann")

    asyncio.run(scenario())


def test_clusters_are_proposed_and_an_adopted_name_follows_its_people(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            teach(control)
            await control.train_profile(service="shop", who="ann")
            proposals = control.segments("shop").proposals
            assert [each.people for each in proposals] == [200, 200]
            regulars = next(each for each in proposals if "more sessions a week" in each.description)
            await control.adopt_segment(service="shop", cluster=regulars.cluster, name="regulars", who="ann", reason="")
            adopted = control.learnt.adopted("shop")["regulars"]
            assert set(adopted.tolist()) == set(range(1_000, 1_200))
            teach(control, seed=2, regulars_from=1_020)  # twenty more have come to be regulars
            await control.train_profile(service="shop", who="ann")
            assert len(control.learnt.adopted("shop")["regulars"]) > 200
        async with controller(tmp_path) as control:
            assert control.segments("shop").proposals, "as they were before the restart"

    asyncio.run(scenario())


def test_who_stays_away_is_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path, mesh=MESH.replace("keep: 30d", "keep: 1h")) as control:
            rng, now_ns = np.random.default_rng(1), control._fleet.clock.now_unix_ns()
            people = control._fleet.services["shop"].engine.people
            people.update(sessions([1, 2, 3], now_ns - 86_400 * NS, days=1, pages=2, rng=rng), LABELS)
            people.update(sessions([3, 4], now_ns, days=0, pages=2, rng=rng), LABELS)
            await control.train_profile(service="shop", who="ann")
            assert sorted(people.persons["user"].tolist()) == [3, 4]

    asyncio.run(scenario())


def test_damaged_profiles_and_people_are_learnt_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            teach(control)
            await control.train_profile(service="shop", who="ann")
        with contextlib.closing(Journal(tmp_path)) as journal, journal.atomically() as connection:
            connection.execute("UPDATE profiles SET payload = x'00'")
            connection.execute("UPDATE people SET payload = x'00'")
        async with controller(tmp_path) as control:
            reply = await control.profile("shop", "default")
            assert (reply.people, reply.segments[0].sessions) == (0, 0)
            teach(control)
            (trained,) = (await control.train_profile(service="shop", who="ann")).segments
            assert trained.version == 2, "no version is given twice"

    asyncio.run(scenario())


def test_what_is_known_of_people_survives_another_specification(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            teach(control)
            await control.train_profile(service="shop", who="ann")
            teach(control, seed=2, regulars_from=5_000)  # two hundred more, who are not stored yet
            before = control._fleet.services["shop"]
            other = MESH.replace("baseline: v1", "baseline: v1\n    session: {gap: 20m}")
            await control.change_mesh(parse_mesh(other, "mesh.yaml"))
            assert control._fleet.services["shop"] is not before
            assert (await control.profile("shop", None)).people == 600
            assert control.segments("shop").proposals

    asyncio.run(scenario())


def test_people_are_kept_and_forgotten_while_a_rollout_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            steered = control._fleet.services["shop"]
            rng, now_ns = np.random.default_rng(1), control._fleet.clock.now_unix_ns()
            long_ago = now_ns - 31 * 86_400 * NS
            steered.engine.people.update(sessions([1, 2], long_ago, days=0, pages=2, rng=rng), LABELS)
            steered.engine.people.update(sessions([3], now_ns, days=0, pages=2, rng=rng), LABELS)
            await control.start_rollout(service="shop", canary="v2", who="ann", reason="")
            monkeypatch.setattr("xds_server.rollout.profiling.SAVE_S", 0.0)
            await control.profiling._look(steered)
            stored = control.profiling._store.people("shop")
            assert stored is not None
            assert PersonTable.from_bytes(stored.payload).persons["user"].tolist() == [3]

    asyncio.run(scenario())


def test_when_everybody_is_forgotten_nobody_is_stored_any_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            steered = control._fleet.services["shop"]
            rng, long_ago = np.random.default_rng(1), control._fleet.clock.now_unix_ns() - 31 * 86_400 * NS
            steered.engine.people.update(sessions([1, 2], long_ago, days=0, pages=2, rng=rng), LABELS)
            control.profiling._save_people("shop", steered.engine.people.persons)
            await control.profiling._save_people_now(steered)
            stored = control.profiling._store.people("shop")
            assert stored is not None
            assert len(PersonTable.from_bytes(stored.payload)) == 0

    asyncio.run(scenario())


def test_what_takes_long_with_many_people_is_done_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            here, threads = threading.get_ident(), []

            def noted(work: Callable[..., Any]) -> Callable[..., Any]:
                def run(*args: Any, **kwargs: Any) -> Any:
                    threads.append((work.__name__, threading.get_ident()))
                    return work(*args, **kwargs)

                return run

            slow: list[tuple[Any, str]] = [(PersonTable, "forget_before"), (Clustering, "assign")]
            slow += [(ProfileStore, "save_people"), (ProfileStore, "save"), (Profile, "to_bytes")]
            for owner, name in slow:
                monkeypatch.setattr(owner, name, noted(getattr(owner, name)))
            teach(control)
            await control.train_profile(service="shop", who="ann")
            assert {name for name, _ in threads} == {name for _, name in slow}
            assert here not in {thread for _, thread in threads}

    asyncio.run(scenario())


def test_after_a_crash_the_newest_profile_is_taken_up_whatever_the_last_rollout_had(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            teach(control)
            await control.train_profile(service="shop", who="ann")
            await control.start_rollout(service="shop", canary="v2", who="ann", reason="")
            name = (await control.rollouts())[0].rollout
            await control.act(
                service="shop", segment=None, action=Action.ROLLBACK, split_bp=0, who="ann", reason=""
            )  # fmt: skip
            state = control._fleet.journal.load_state(name)
            assert state is not None
            assert not control._fleet.services["shop"].is_running
            teach(control, seed=2)
            assert (await control.train_profile(service="shop", who="ann")).segments[0].version == 2
        with contextlib.closing(Journal(tmp_path)) as journal:  # as if nothing had been stored at the end
            journal.save_state(name, state.payload, state.at_unix_ns)
        async with controller(tmp_path) as control:
            assert (await control.profile("shop", "default")).segments[0].version == 2

    asyncio.run(scenario())


def test_another_mesh_file_forgets_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            teach(control)
            await control.change_mesh(parse_mesh(MESH.replace("baseline: v1", "baseline: v2"), "mesh.yaml"))
            assert control.profiling.people() == {"shop": 400}

    asyncio.run(scenario())


def test_people_of_a_service_that_goes_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path) as control:
            teach(control)
            other = MESH.replace("  shop:", "  cart:").replace("[shop]", "[cart]")
            await control.change_mesh(parse_mesh(other, "mesh.yaml"))
            for _ in range(100):
                stored = control.profiling._store.people("shop")
                if stored is not None:
                    break
                await asyncio.sleep(0.05)
            assert stored is not None
            assert len(PersonTable.from_bytes(stored.payload)) == 400

    asyncio.run(scenario())


def test_of_services_that_are_gone_nothing_is_remembered_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> list[str]:
        with contextlib.closing(Journal(tmp_path)) as journal, journal.atomically() as connection:
            rows = connection.execute("SELECT service FROM people UNION SELECT service FROM profiles").fetchall()
            return sorted(service for (service,) in rows)

    async def scenario() -> None:
        async with controller(tmp_path) as control:
            teach(control)
            await control.train_profile(service="shop", who="ann")
        other = MESH.replace("shop", "cart")
        async with controller(tmp_path, mesh=other):
            pass
        assert "shop" in kept(), "it may come back"
        monkeypatch.setattr("xds_server.rollout.profiling.GONE_KEPT_S", 0.0)
        async with controller(tmp_path, mesh=other):
            pass
        assert kept() == ["cart"]

    asyncio.run(scenario())
