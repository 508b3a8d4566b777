"""The failure model under a controller: trained beside the loop, served where it is better, put back by one command."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest

from analysis.decision import Action
from analysis.failure.facts import PRIOR_RISK, PastRelease
from analysis.failure.model import LEAST_RELEASES
from analysis.history import archive
from analysis.history.record import Label, RolloutRecord, Verdict
from analysis.simulation.releases import draw_history
from tests.controlling import controlling
from tests.pasts import write_past
from tests.waiting import until
from xds_server.errors import RefusedError, UnknownNameError
from xds_server.pb import training_pb2 as pb
from xds_server.pb import training_pb2_grpc as pb_grpc
from xds_server.rollout.controller import Controller
from xds_server.rollout.explain import explain
from xds_server.rollout.risk import DRIFT, RETRAIN_AFTER, SCHEDULE
from xds_server.store.artefacts import ArtefactRow, ArtefactStore
from xds_server.store.journal import Journal
from xds_server.training import add_training

MESH = """
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{header: x-user-id}]
    versions: {v1: {endpoints: ["127.0.0.1:1"]}, v2: {endpoints: ["127.0.0.1:2"]}}
    baseline: v1
    rollout: {interval: 200ms, warmup: 1h, min_dwell: 1h, harm: {budget: 1000000}}
"""
DRAWN = draw_history(21, 260).releases
WORST, _ = Counter(release.facts.service for release in DRAWN if release.failed).most_common(1)[0]
RELEASES = [
    replace(release, facts=replace(release.facts, service="shop")) if release.facts.service == WORST else release
    for release in DRAWN
]
controller = partial(controlling, mesh=MESH)


def in_a_loop(test: Callable[[Path], Coroutine[None, None, None]]) -> Callable[[Path], None]:
    @functools.wraps(test)
    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    return run


def _past(data: Path, n: int, first: int = 0) -> None:
    with contextlib.closing(Journal(data)) as journal:
        write_past(journal, RELEASES[first : first + n], name=f"past{first}")


async def _begin(control: Controller) -> str:
    await control.start_rollout(service="shop", canary="v2", who="test", reason="")
    (status,) = control.status("shop").services
    return explain(status, (), segment=None, now_unix_ns=0)


async def _train(control: Controller, kind: str = "failure") -> ArtefactRow:
    told = [each async for each in control.risk.train(kind, who="ann")]
    assert isinstance(told[-1], ArtefactRow)
    return told[-1]


@in_a_loop
async def test_without_enough_releases_there_is_the_prior_and_it_says_so(tmp_path: Path) -> None:
    _past(tmp_path, 12)
    async with controller(tmp_path) as control:
        text = await _begin(control)
        assert "Risk: it fails with a probability of 10 % (prior: no model yet (12 of 30 releases))." in text
        assert control._fleet.services["shop"].engine.ramp.risk == PRIOR_RISK
        assert control.risk._why() == ""
        with pytest.raises(RefusedError, match="cannot be trained yet: 12 of 30 releases"):
            await _train(control)


@in_a_loop
async def test_a_release_gets_the_risk_of_the_model_that_serves_and_keeps_it(tmp_path: Path) -> None:
    _past(tmp_path, 200)
    async with controller(tmp_path) as control:
        assert control.risk._why() == SCHEDULE
        row = await _train(control)
        assert row.is_serving
        assert len(row.fingerprint) == 64
        assert row.scores["after"]["n"] == 60
        assert control.risk._why() == ""
        text = await _begin(control)
        ramp = control._fleet.services["shop"].engine.ramp
        assert ramp.risk == ramp.foresight.risk != PRIOR_RISK
        assert "(failure 1): " in text
        (status,) = control.status("shop").services
        assert status.risk.risk == pytest.approx(ramp.risk)
        assert status.risk.told
        before = ramp.foresight.told(), ramp.risk
    with contextlib.closing(Journal(tmp_path)) as journal, journal.atomically() as connection:
        connection.execute("UPDATE artefacts SET is_serving = 0")
    async with controller(tmp_path) as control:  # whatever serves by now
        ramp = control._fleet.services["shop"].engine.ramp
        assert (ramp.foresight.told(), ramp.risk) == before


@in_a_loop
async def test_it_is_trained_beside_the_loop_as_soon_as_it_can_be(tmp_path: Path) -> None:
    _past(tmp_path, 100)
    async with controller(tmp_path, prepare=lambda control: setattr(control.risk, "look_s", 0.05)) as control:
        await until(lambda: bool(ArtefactStore(control._fleet.journal).rows("failure")))
        (row,) = ArtefactStore(control._fleet.journal).rows("failure")
        assert row.why.startswith("schedule; ")
        await asyncio.sleep(0.3)
        assert len(ArtefactStore(control._fleet.journal).rows("failure")) == 1  # and not again and again


@in_a_loop
async def test_what_a_release_showed_is_kept_when_its_rollout_ends(tmp_path: Path) -> None:
    async with controller(tmp_path) as control:
        await _begin(control)
        steered = control._fleet.services["shop"]
        steered.engine.ramp.first_minutes.seen_s = 120.0
        await control.act(service="shop", segment=None, action=Action.ROLLBACK, split_bp=0, who="test", reason="")
        (past,) = ArtefactStore(control._fleet.journal).past()
        assert past.first is not None
        assert past.first.seen_s == 120.0


@in_a_loop
async def test_a_challenger_waits_for_unseen_releases_and_the_old_one_comes_back(tmp_path: Path) -> None:
    _past(tmp_path, 200)
    async with controller(tmp_path) as control:
        with pytest.raises(RefusedError, match="no failure model has served before"):
            await control.risk.serve("failure", 0, who="ann")
        await _train(control)
        second = await _train(control)
        assert not second.is_serving
        assert "0 of 20 releases that the model in use has not seen" in second.why
        assert control.risk.source == "failure 1"
        assert "failure 2 serves" in await control.risk.serve("failure", 2, who="ann")
        assert control.risk.source == "failure 2"
        assert "failure 1 serves" in await control.risk.serve("failure", 0, who="ann")
        with pytest.raises(UnknownNameError, match="no failure model '9'; known: 1, 2"):
            await control.risk.serve("failure", 9, who="ann")
        with pytest.raises(UnknownNameError, match="no kind of model 'weather'"):
            await control.risk.serve("weather", 1, who="ann")
    async with controller(tmp_path) as control:
        assert control.risk.source == "failure 1"


@in_a_loop
async def test_it_is_trained_again_after_so_many_releases_or_when_it_gets_worse(tmp_path: Path) -> None:
    _past(tmp_path, 200)
    async with controller(tmp_path) as control:
        await _train(control)
        journal, since = control._fleet.journal, control.risk._trained_s
        shift = since - RELEASES[200].began_s + 1
        later = [replace(release, began_s=release.began_s + shift) for release in RELEASES[200:260]]
        write_past(journal, later[: RETRAIN_AFTER - 1], name="few")
        assert control.risk._why() == ""
        write_past(journal, later[RETRAIN_AFTER - 1 : RETRAIN_AFTER], name="enough")
        assert control.risk._why() == SCHEDULE
        write_past(journal, [replace(each, failed=True) for each in later[RETRAIN_AFTER:30]], name="worse")
        assert control.risk._why() == DRIFT


@in_a_loop
async def test_an_artefact_of_another_version_leaves_the_prior(tmp_path: Path) -> None:
    _past(tmp_path, 60)
    with contextlib.closing(Journal(tmp_path)) as journal:
        ArtefactStore(journal).add(ArtefactRow(
            kind="failure", version=0, trained_unix_ns=1, fingerprint="", is_serving=True,
            payload=json.dumps({"kind": "failure", "format": 99}).encode(),
        ))  # fmt: skip
    async with controller(tmp_path) as control:
        text = await _begin(control)
        assert "prior: failure 1 cannot be read: artefact 'failure' of format 99" in text
        assert control._fleet.services["shop"].engine.ramp.risk == PRIOR_RISK
        with pytest.raises(RefusedError, match="failure 1 cannot serve"):
            await control.risk.serve("failure", 1, who="ann")


@contextlib.asynccontextmanager
async def _api(control: Controller) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_training(server, control.risk)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@in_a_loop
async def test_the_command_line_trains_lists_and_goes_back(tmp_path: Path) -> None:
    _past(tmp_path, LEAST_RELEASES + 20)
    async with controller(tmp_path) as control, _api(control) as server:

        async def serinus(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = (sys.executable, "-m", "xds_server", *arguments, "--server", server)
            return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)

        trained = await serinus("train", "failure", "--json")
        assert trained.returncode == 0, trained.stderr
        artefact = json.loads(trained.stdout)
        assert (artefact["kind"], artefact["version"]) == ("failure", 1)
        assert artefact["scores"]["before"]["n"] == 15
        await _train(control)
        await control.risk.serve("failure", 1, who="ann")
        await control.risk.serve("failure", 2, who="ann")
        listed = await serinus("artefact", "list")
        assert [line for line in listed.stdout.splitlines() if "failure 2" in line and "serves; " in line]
        back = await serinus("train", "failure", "--back")
        assert back.stdout.startswith("failure 1 serves")
        refused = await serinus("artefact", "serve", "failure", "9")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "no failure model '9'; known: 1, 2" in refused.stderr


@in_a_loop
async def test_the_api_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    async with controller(tmp_path) as control, _api(control) as server, grpc.aio.insecure_channel(server) as channel:
        stub = pb_grpc.TrainingStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="no kind of model 'forecast'"):
            _ = [each async for each in stub.Train(pb.TrainRequest(kind="forecast", who="ann"))]
        with pytest.raises(grpc.aio.AioRpcError, match="who is missing"):
            await stub.Serve(pb.ServeRequest(kind="failure"))
        with pytest.raises(grpc.aio.AioRpcError, match="0 of 30 releases"):
            _ = [each async for each in stub.Train(pb.TrainRequest(kind="failure", who="ann"))]
        assert not (await stub.ListArtefacts(pb.ListArtefactsRequest())).artefacts


def _imported(release: PastRelease, name: str) -> bytes:
    """What another tool would have recorded of a release: its table has attributes and a label, and no ticks."""
    facts, none = release.facts, np.empty((0, 1))
    told = dict(facts.attributes) | ({"kind": facts.kind} if facts.kind else {})
    told |= {} if facts.size is None else {"size": facts.size}
    verdict = Verdict.BAD if release.failed else Verdict.GOOD
    return archive.to_bytes(
        RolloutRecord(
            rollout=name, service=facts.service, baseline="v1", canary="v2", started_unix_s=release.began_s,
            interval_s=60.0, segments=("default",), kpis=("error_rate",), at_s=np.empty(0),
            n=np.empty((0, 1, 1, 2), np.int64), bad=np.empty((0, 1, 1, 2), np.int64), exposed=none, arrived=none,
            split_bp=none, suspicion=none, log_e=none, attributes=told,
            label=Label(verdict=verdict, who="ci"),
        )
    )  # fmt: skip


@in_a_loop
async def test_labels_of_what_ended_long_ago_are_news(tmp_path: Path) -> None:
    _past(tmp_path, LEAST_RELEASES + RETRAIN_AFTER)
    async with controller(tmp_path) as control:
        await _train(control)
        assert control.risk._why() == ""
        for i in range(RETRAIN_AFTER):
            assert control.risk._why() == ""
            verdict = Verdict.GOOD if RELEASES[i].failed else Verdict.BAD
            await control.past.label(rollout=f"past0-{i}", verdict=verdict, who="bob", reason="")
        assert control.risk._why() in (SCHEDULE, DRIFT)


@in_a_loop
async def test_a_rollout_never_has_the_name_of_an_imported_deployment(tmp_path: Path) -> None:
    async with controller(tmp_path) as control:
        await control.past.take_in([_imported(RELEASES[0], "shop-v2-1")], who="ann")
        name = await control.start_rollout(service="shop", canary="v2", who="ann", reason="")
        assert name == "shop-v2-2"


@in_a_loop
async def test_deployments_of_others_teach_it_and_an_operators_word_outranks_theirs(tmp_path: Path) -> None:
    async with controller(tmp_path) as control:
        assert control.risk._why() == ""
        control.risk._has_news = False
        await control.past.take_in([_imported(release, f"ci-{i}") for i, release in enumerate(RELEASES)], who="ann")
        assert control.risk._has_news
        assert control.risk._why() == SCHEDULE
        before = (await _train(control)).fingerprint
        assert control.risk._known == len(RELEASES)
        assert control.risk._why() == ""
        for i in range(2):
            verdict = Verdict.GOOD if RELEASES[i].failed else Verdict.BAD
            await control.past.label(rollout=f"ci-{i}", verdict=verdict, who="bob", reason="")
        await control.past.label(rollout="ci-2", verdict=Verdict.UNKNOWN, who="bob", reason="")
        row = await _train(control)
        assert row.fingerprint != before
        assert control.risk._known == len(RELEASES) - 1
