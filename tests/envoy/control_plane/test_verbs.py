"""People steer a running control plane from the command line, and a control plane that cannot run says why."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
from contextlib import closing

import pytest

from xds_server.pb import control_pb2 as pb

ANNA = ("--who", "anna", "--reason", "ticket 4711")
FREE = ("--grpc-port", "0", "--otlp-port", "0", "--http-port", "0")


def test_every_verb_steers_a_running_control_plane_and_is_journalled_with_who_and_why(rig, place):
    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            place.write_mesh(shop, segments="vip: {match: {headers: [{name: x-plan, exact: vip}]}, pin: v1}")
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc):

                async def rollout(verb: str, *arguments: str) -> dict:
                    said = await serinus.say("rollout", verb, "shop", *arguments, *ANNA, "--json")
                    assert (said.code, said.err) == (0, ""), said
                    return json.loads(said.out)["service"]

                async def refused(*arguments: str) -> str:
                    said = await serinus.say(*arguments)
                    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), said
                    assert said.err.startswith("serinus: ")
                    return said.err

                assert "no rollout" in await refused("rollout", "pause", "shop")
                assert "known: v1, v2" in await refused("rollout", "start", "shop", "--canary", "v3")
                started = await rollout("start", "--canary", "v2")
                assert (started["rollout"], started["state"]) == ("shop-v2-1", "running")
                assert {s["segment"]: s["phase"] for s in started["segments"]}["vip"] == "pinned"
                assert "is running" in await refused("rollout", "start", "shop", "--canary", "v2")
                assert "known: shop" in await refused("rollout", "pause", "shp")
                assert "known: default, power" in await refused(
                    "rollout", "set", "shop", "--split", "9%", "--segment", "vip"
                )
                assert (await rollout("pause"))["state"] == "paused"
                assert splits(await rollout("set", "--split", "12.5%")) == {"power": 0.125, "vip": 0, "default": 0.125}
                await asyncio.sleep(1.2)  # two ticks
                assert {s["reason"] for s in (await serinus.shop())["segments"] if s["phase"] != "pinned"} == {
                    "paused by an operator"
                }
                assert (await rollout("freeze"))["state"] == "frozen"
                assert (await rollout("resume"))["state"] == "running"
                promoted = await rollout("promote", "--segment", "power")
                assert splits(promoted) == {"power": 1, "vip": 0, "default": 0.125}
                back = await rollout("rollback", "--segment", "default")
                assert (splits(back)["default"], back["state"]) == (0, "finished")
                assert "is finished" in await refused("rollout", "set", "shop", "--split", "50%")
                # What turned out badly only afterwards can still be taken back.
                assert splits(await rollout("rollback")) == {"power": 0, "vip": 0, "default": 0}
                await check_what_is_told(serinus)

    asyncio.run(scenario())


async def check_what_is_told(serinus) -> None:
    """The same story in history, list, status, explain and the journal itself."""
    history = json.loads((await serinus.say("history", "shop", "--json")).out)["decisions"]
    people = [(row["verdict"], row["segment"]) for row in history if row["who"] == "anna"]
    for verb in ("pause", "set", "freeze", "resume"):
        assert {segment for name, segment in people if name == verb} == {"power", "default"}, verb
    assert ("promote", "power") in people
    assert people.count(("rollback", "default")) == 2
    assert all("anna: ticket 4711" in row["reason"] for row in history if row["who"] == "anna")
    assert [row["id"] for row in history] == sorted(row["id"] for row in history)
    listed = await serinus.say("rollout", "list", "--json")
    (row,) = json.loads(listed.out)["rollouts"]
    assert (row["rollout"], row["state"]) == ("shop-v2-1", "finished")
    assert row["outcome"] == {"power": "rolled_back", "vip": "pinned", "default": "rolled_back"}
    status = json.loads((await serinus.say("status", "--json")).out)
    assert status["nodes"][0]["acked"].keys() >= {"CDS", "EDS", "LDS", "RDS"}
    assert status["nacks"] == 0
    explained = await serinus.say("explain", "shop", "power")
    assert (explained.code, explained.err) == (0, "")
    assert "anna: ticket 4711" in explained.out
    plain = await asyncio.gather(*(serinus.say(*verb) for verb in (("status",), ("history",), ("rollout", "list"))))
    assert [said.code for said in plain] == [0, 0, 0]
    assert all("shop-v2-1" in said.out for said in plain[:1] + plain[2:])
    with closing(sqlite3.connect(f"file:{serinus.data_dir / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
        assert journal.execute("SELECT who, reason FROM rollouts").fetchall() == [("anna", "ticket 4711")]


def splits(service) -> dict[str, float]:
    return {each["segment"]: each["split"] for each in service["segments"]}


def test_mode_observe_says_what_it_would_do_and_changes_nothing(rig, place):
    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop, mode="observe", warmup="0s", min_dwell="0s")
            async with place.serinus() as serinus, rig.envoy(place.mesh(), "side-1", serinus.grpc) as envoy:
                await serinus.begin()
                await rig.eventually(serinus.in_force, "the rollout's first routes")
                reloads = await envoy.stats("rds.*config_reload$")
                async with place.crowd(port) as crowd:

                    async def says_so() -> bool:
                        return any(row["verdict"] == "advance" for row in await serinus.history())

                    await rig.eventually(says_so, "it would advance", 20.0)
                    await asyncio.sleep(1.0)
                assert set().union(*crowd.versions.values()) == {"v1"}
                assert crowd.failed_n == 0
                history = await serinus.history()
                assert all(row["observed_only"] for row in history)
                assert any(row["split_after_bp"] > 0 for row in history)
                assert set(splits(await serinus.shop()).values()) == {0}
                assert await envoy.stats("rds.*config_reload$") == reloads
                # A person is obeyed in this mode too.
                await serinus.set(5_000)
                await rig.eventually(serinus.in_force, "a person's split")
                assert (await envoy.stats("rds.*config_reload$")) != reloads
                assert set(splits(await serinus.shop()).values()) == {0.5}

    asyncio.run(scenario())


def test_a_port_in_use_is_one_line_and_exit_code_one(place):
    """Each of the three ports, taken by somebody else."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            path, _ = place.write_mesh(shop)
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                number = str(taken.getsockname()[1])
                for option in ("--grpc-port", "--otlp-port", "--http-port"):
                    ports = {"--grpc-port": "0", "--otlp-port": "0", "--http-port": "0", option: number}
                    flat = [word for pair in ports.items() for word in pair]
                    said = await place.cli("run", path, "--data-dir", place.directory / "data", *flat)
                    assert (said.code, said.out) == (1, ""), (option, said)
                    assert said.err.startswith(f"serinus: cannot listen on 127.0.0.1:{number}"), (option, said.err)
                    assert said.err.count("\n") == 1, (option, said.err)

    asyncio.run(scenario())


def test_a_data_directory_in_use_is_one_line_and_a_wrong_mesh_is_exit_code_two(place):
    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            path, _ = place.write_mesh(shop)
            async with place.serinus() as serinus:
                said = await place.cli("run", path, "--data-dir", serinus.data_dir, *FREE)
                assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), said
                assert "is in use by another control plane" in said.err
                assert serinus.process is not None
                assert str(serinus.process.pid) in said.err
            wrong = place.directory / "wrong.yaml"
            wrong.write_text(path.read_text().replace("baseline: v1", "baseline: v7"))
            said = await place.cli("run", wrong, "--data-dir", place.directory / "other", *FREE)
            assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
            assert "v7" in said.err
            assert not (place.directory / "other").exists()

    asyncio.run(scenario())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_data_directory_that_cannot_be_written_is_one_line(place):
    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            path, _ = place.write_mesh(shop)
            (place.directory / "locked").mkdir(mode=0o500)
            data = place.directory / "locked" / "data"
            said = await place.cli(
                "run", path, "--data-dir", data, "--grpc-port", "0", "--otlp-port", "0", "--http-port", "0"
            )
            assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), said

    asyncio.run(scenario())


def test_a_rollout_that_serinus_holds_rises_again_only_after_a_person_resumes_it(rig, place):
    """Here the journal cannot be written for a while: what falls has fallen, nothing rises, and nothing dies."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            _, port = place.write_mesh(shop)
            async with (
                place.serinus() as serinus,
                rig.envoy(place.mesh(), "side-1", serinus.grpc),
                place.crowd(port) as crowd,
            ):
                await serinus.begin()
                await serinus.set(4_000)
                await rig.eventually(serinus.in_force, "40 %")
                with closing(sqlite3.connect(serinus.data_dir / "journal.sqlite", isolation_level=None)) as intruder:
                    intruder.execute("BEGIN IMMEDIATE")  # nobody else can write now
                    up = await serinus.say("rollout", "set", "shop", "--split", "80%")
                    assert (up.code, up.err.count("\n")) == (1, 1), up
                    assert "journal" in up.err
                    assert set(splits(await serinus.shop()).values()) == {0.4}
                    down = await serinus.say("rollout", "rollback", "shop", "--segment", "power")
                    assert (down.code, down.err.count("\n")) == (1, 1), down
                    status = await serinus.shop()
                    assert splits(status) == {"power": 0, "default": 0.4}
                    assert status["segments"][1]["reason"].startswith("held: journal")
                    intruder.execute("ROLLBACK")

                async def written() -> bool:
                    return any(row["verdict"] == "rollback" for row in await serinus.history())

                await rig.eventually(written, "the rollback is journalled when the journal works again")
                assert (await serinus.shop())["state"] == "paused"
                await serinus.act(pb.ACTION_RESUME)
                await serinus.set(6_000, "default")
                await rig.eventually(serinus.in_force, "60 %")
                assert splits(await serinus.shop()) == {"power": 0, "default": 0.6}
            assert crowd.failed_n == 0

    asyncio.run(scenario())
