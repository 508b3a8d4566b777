"""A segment that is suspected, seen by a real Envoy. The suspicion is the test's; what follows from it is real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from analysis.decision import Action
from tests.controlling import controlling
from tests.waiting import until
from xds_server.resources.parts import WATCHED_HEADER
from xds_server.rollout.controller import Controller
from xds_server.rollout.explain import explain
from xds_server.settings import parse_mesh

log = logging.getLogger(__name__)

MESH = """
services:
  shop:
    domains: [shop]
    port: {port}
    identity: [{{header: x-user-id}}]
    versions: {{v1: {{endpoints: ["127.0.0.1:{v1}"]}}, v2: {{endpoints: ["127.0.0.1:{v2}"]}}}}
    baseline: v1
    segments:
      power: {{match: {{headers: [{{name: x-plan, exact: pro}}]}}}}
    rollout: {{interval: 2s, warmup: 1h, min_dwell: 1h, harm: {{budget: 1000000}}}}
tracing: {{sampling: 0%}}
"""
CHANGES = "listener_manager.listener_(added|modified|removed)$"


class Look:
    """What can be seen of the two segments from outside."""

    def __init__(self, rig: Any, envoy: Any, client: aiohttp.ClientSession, port: int) -> None:
        self._rig, self._envoy, self._client, self._port = rig, envoy, client, port

    async def sampled(self, plan: str) -> set[str]:
        """The flags of the traces of ten people, as the application sees them."""
        asked = [{"x-user-id": f"p{n}", "x-plan": plan} for n in range(10)]
        answers = [await self._rig.ask(self._client, self._port, headers) for headers in asked]
        assert {answer.version for answer in answers} == {"v1", "v2"}
        return {answer.headers["traceparent"][-2:] for answer in answers}

    async def log_delay_s(self, control: Controller, plan: str) -> float:
        """From an answer until its access log has been taken in, which happens once: the median of some."""
        found = []
        await asyncio.sleep(LOGGED_S)  # whatever came before
        for n in range(7):
            before_n = control._ingest.accepted()["shop"]
            await self._rig.ask(self._client, self._port, {"x-user-id": f"d{n}", "x-plan": plan})
            began = time.monotonic()
            await until(lambda before_n=before_n: control._ingest.accepted()["shop"] > before_n)
            found.append(time.monotonic() - began)
            assert control._ingest.accepted()["shop"] == before_n + 1
        await asyncio.sleep(LOGGED_S)  # in which the other logger would have had its say
        assert control._ingest.accepted()["shop"] == before_n + 1
        return statistics.median(found)

    async def routes(self) -> dict[str, bool]:
        """Each segment's routes in Envoy, and whether they mark and trace all of their requests."""
        dump = json.loads(await self._envoy.get("/config_dump?resource=dynamic_route_configs"))
        (config,) = (each["route_config"] for each in dump["configs"])
        found = {}
        for route in config["virtual_hosts"][0]["routes"]:
            marks = WATCHED_HEADER in json.dumps(route.get("request_headers_to_add", []))
            traces = route.get("tracing", {}).get("random_sampling", {}).get("numerator") == 100
            assert marks == traces
            found.setdefault(route["name"].split("|")[1], set()).add(marks)
        return {segment: watched for segment, (watched,) in found.items()}

    async def changes(self) -> dict[str, int]:
        return await self._envoy.stats(CHANGES)


@contextlib.asynccontextmanager
async def ticks(control: Controller) -> AsyncIterator[list[float]]:
    """When the service has ticked, while this goes on."""
    steered, seen = control._fleet.services["shop"], []

    async def follow() -> None:
        while True:
            if steered.ticked_s not in seen[-1:]:
                seen.append(steered.ticked_s)
            await asyncio.sleep(0.02)

    following = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        following.cancel()


async def interval_s(control: Controller) -> float:
    """From one tick to the next."""
    async with ticks(control) as seen:
        await until(lambda: len(seen) >= 3)
        return seen[2] - seen[1]


def suspect(control: Controller, share: float) -> None:
    """The evidence against power is that share of the proof; nobody suspects the others."""
    ramp = control._fleet.services["shop"].engine.ramp
    assert ramp is not None
    reading, whole = ramp.reading, type(ramp.reading).conclude
    suspicion = np.where(np.arange(len(ramp.segments)) == 0, share, 0.0)[None]
    reading.conclude = lambda standing: replace(whole(reading, standing), suspicion=suspicion)  # type: ignore[method-assign]


def watched(control: Controller) -> dict[str, bool]:
    return {each.segment: each.watched for each in control.status("shop").services[0].segments}


LOGGED_S = 0.5  # within which every request has been logged
WATCHED = {"power": True, "default": False}
UNWATCHED = dict.fromkeys(WATCHED, False)


def test_a_suspected_segment_is_watched_more_closely_until_the_evidence_clears(rig: Any, tmp_path: Path) -> None:
    """Over a restart as well; of the other segment and of the listeners nothing changes."""

    async def scenario() -> None:
        async with rig.backend("v1") as v1, rig.backend("v2") as v2, aiohttp.ClientSession() as client:
            port, xds_port = rig.free_port(), rig.free_port()
            text = MESH.format(port=port, v1=v1, v2=v2)
            async with contextlib.AsyncExitStack() as envoys:
                async with controlling(tmp_path / "data", text, xds_port=xds_port) as control:
                    envoy = await envoys.enter_async_context(rig.envoy(parse_mesh(text, "m"), "side-1", xds_port))
                    look = Look(rig, envoy, client, port)
                    await before_and_during(rig, control, look)
                    changes = await look.changes()
                async with controlling(tmp_path / "data", text, xds_port=xds_port) as control:
                    suspect(control, 0.3)  # which alone would begin no watch
                    await after_a_restart(rig, control, look)
                    assert await look.changes() == changes, "listeners are what they were"

    asyncio.run(scenario())


async def before_and_during(rig: Any, control: Controller, look: Look) -> None:
    await control.start_rollout(service="shop", canary="v2", who="test", reason="")
    await control.act(service="shop", segment=None, action=Action.SET, split_bp=4_000, who="test", reason="")
    suspect(control, 0.4)
    usual_s, usual_delay_s = await asyncio.gather(interval_s(control), look.log_delay_s(control, "pro"))
    assert (await look.routes(), watched(control)) == (UNWATCHED, UNWATCHED)
    assert (await look.sampled("pro"), await look.sampled("free")) == ({"00"}, {"00"})

    suspect(control, 0.8)

    async def is_watched() -> bool:
        return await look.routes() == WATCHED

    await rig.eventually(is_watched, "Envoy has the routes of a watched segment")
    assert watched(control) == WATCHED
    power = control.status("shop").services[0].segments[0]
    assert (power.verdict, power.split) == ("reduce", 0.2)
    assert (await look.sampled("pro"), await look.sampled("free")) == ({"01"}, {"00"})
    delay_s, other_delay_s = await look.log_delay_s(control, "pro"), await look.log_delay_s(control, "free")
    watched_s = await interval_s(control)
    log.info("logs: %.3f s, watched %.3f s, the others then %.3f s", usual_delay_s, delay_s, other_delay_s)
    log.info("ticks: %.2f s, watched %.2f s", usual_s, watched_s)
    assert delay_s < 0.6 * min(usual_delay_s, other_delay_s)
    assert watched_s < 0.75 * usual_s
    rows = await control.history(service="shop", rollout=None, limit=99)
    (reduced,) = (row for row in rows if row.verdict == "reduce")
    assert json.loads(reduced.detail_json)["watched"]
    status = control.status("shop").services[0]
    told = explain(status, [], segment="power", now_unix_ns=time.time_ns())
    assert "Closer watch" in told
    assert "latencies of " in told
    assert "Closer watch" not in explain(status, [], segment="default", now_unix_ns=time.time_ns())


async def after_a_restart(rig: Any, control: Controller, look: Look) -> None:
    assert (watched(control), await look.routes()) == (WATCHED, WATCHED)
    assert control._fleet.services["shop"].watched == {"power"}

    async def is_connected() -> bool:
        return any(node.connected for node in control.status("shop").nodes)

    await rig.eventually(is_connected, "Envoy is back", 45)
    assert (await look.sampled("pro"), await look.sampled("free")) == ({"01"}, {"00"})
    suspect(control, 0.2)

    async def is_over() -> bool:
        return await look.routes() == UNWATCHED

    await rig.eventually(is_over, "Envoy has the usual routes")
    assert watched(control) == UNWATCHED
    assert await look.sampled("pro") == {"00"}
