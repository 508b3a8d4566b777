"""Learned segments end to end: the installed `serinus run`, which is stopped and killed under its Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time

import aiohttp

from xds_server.ingest.rows import user_hash
from xds_server.learnt.memberships import Adopted, Table
from xds_server.pb import control_pb2 as pb
from xds_server.store.journal import Journal
from xds_server.store.learned import LearnedStore

NEWCOMERS = "newcomers: {learned: newcomers}"
PATIENT = NEWCOMERS + "\n    learned: {timeout: 1s}"  # this machine may be busy
PEOPLE = tuple(f"n{i}" for i in range(200))


def adopt(place) -> None:
    """As somebody has done before `serinus run`."""
    with contextlib.closing(Journal(place.directory / "data")) as journal:
        people = [user_hash(journal.secret(), person.encode()) for person in PEOPLE]
        adopted = Adopted(name="newcomers", description="few visits", at_unix_ns=1, who="test")
        table = Table().adopting(adopted, people)
        LearnedStore(journal).save("shop", table, is_waiting=False, at_unix_ns=1, who="test", what="adopted")


async def timed(place, port: int, prefix: str, n: int) -> list[float]:
    """Milliseconds that `n` people's first requests took, one after the other; none failed, all were served by v1."""
    took = []
    async with aiohttp.ClientSession() as client:
        for i in range(n):
            began = time.perf_counter()
            assert await place.visit(client, port, f"{prefix}{i}") == (200, "v1")
            took.append((time.perf_counter() - began) * 1_000)
    return sorted(took)


def test_a_rollout_in_a_learned_segment_exposes_its_people_and_nobody_else_and_survives_a_restart(place, rig):
    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop, segments=PATIENT)
            adopt(place)
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc):
                await serinus.begin()
                await serinus.set(10_000, "newcomers")
                await rig.eventually(serinus.in_force, "the split is in force")

                async def versions_of(*people: str) -> set[str]:
                    async with aiohttp.ClientSession() as client:
                        return {(await place.visit(client, port, person))[1] for person in people}

                assert await versions_of(*PEOPLE[:50]) == {"v2"}
                assert await versions_of(*(f"s{i}" for i in range(50))) == {"v1"}
                answers = await serinus.metrics("serinus_learned_answers_total")
                assert 100 <= sum(answers.values()) <= 200  # once a worker at most

                said = await serinus.say("segment", "drop", "shop", "newcomers")
                assert "waits until the rollout has ended" in said.out, said
                listed = await serinus.say("segment", "list", "shop")
                assert "table 1" in listed.out
                assert "200 → 0" in listed.out, listed
                await serinus.end(signal.SIGKILL)
                await serinus.start()
                assert await versions_of(*PEOPLE[50:100]) == {"v2"}
                await serinus.act(pb.ACTION_ROLLBACK)
                assert await versions_of(*PEOPLE[100:150]) == {"v1"}
                assert "nobody has adopted newcomers" in (await serinus.shop())["notes"][0]

    asyncio.run(scenario())


def test_with_serinus_stopped_or_dead_no_request_fails_and_few_wait(place, rig):
    """Stopped, it takes connections and never answers; dead, there is nobody to ask. People change all the time."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop, segments=NEWCOMERS)
            adopt(place)
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc) as envoy:
                await serinus.begin()
                await serinus.set(10_000, "newcomers")
                await rig.eventually(serinus.in_force, "the split is in force")

                async def is_asked() -> bool:
                    async with aiohttp.ClientSession() as client:
                        return (await place.visit(client, port, PEOPLE[next(numbers)]))[1] == "v2"

                async def unanswered_n() -> int:
                    return sum((await envoy.stats("^http.*ext_authz.failure_mode_allowed")).values())

                numbers = itertools.count()
                await rig.eventually(is_asked, "people are asked for")
                before, began = await unanswered_n(), time.monotonic()
                assert serinus.process is not None
                serinus.process.send_signal(signal.SIGSTOP)
                took = await timed(place, port, "t", 500)
                serinus.process.send_signal(signal.SIGCONT)
                # Each of two workers asks three times, then ever more rarely, and in the end once a second.
                asked_n = await unanswered_n() - before
                assert 3 <= asked_n <= 2 * (3 + 5 + time.monotonic() - began), asked_n
                assert took[-1] < 1_000  # 20 ms, and a busy machine
                await serinus.end(signal.SIGKILL)
                assert (await timed(place, port, "d", 500))[-1] < 1_000
                await serinus.start()
                await rig.eventually(is_asked, "people are asked for again")

    asyncio.run(scenario())
