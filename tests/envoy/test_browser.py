"""People with a real browser in the demo's shop, behind a real Envoy: what they click are steps of their sessions.

A handful has Chromium; the others send what its pages send, by plain HTTP.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest

from analysis.sample import SampleKind
from tests import chromium
from tests.serving import serving
from tests.shoppers import BUTTON, FEATURE, ONWARD, PAGES_SEEN, shop_by_script, shop_in_browser
from tests.waiting import until
from xds_server.ads.cache import AdsCache
from xds_server.ads.servicer import SERVER_OPTIONS, add_ads
from xds_server.demo.shop import COOKIE, Shop, make_app
from xds_server.demo.shop_telemetry import Telemetry
from xds_server.ingest import Ingest
from xds_server.ingest.als import add_als
from xds_server.ingest.otlp import add_otlp
from xds_server.ingest.otlp_http import OtlpHttp
from xds_server.mesh import SegmentSplit, ServiceSplits
from xds_server.settings import parse_mesh
from xds_server.web.app import create_app
from xds_server.web.server import listen, serve

MESH = """
services:
  shop:
    domains: ["127.0.0.1"]
    port: 10000
    identity: [{{cookie: {{name: sid}}}}]
    session: {{goal: {{path: /checkout/done}}}}
    versions:
      v1: {{endpoints: ["127.0.0.1:{v1}"]}}
      v2: {{endpoints: ["127.0.0.1:{v2}"]}}
    baseline: v1
    kpis: {{features: {{wishlist: {{max_regression: 5pp}}}}}}
gateways:
  edge: {{listen: "127.0.0.1:{edge}"}}
browsers: ["http://127.0.0.1:{edge}"]
"""
HALVES = {
    "shop": ServiceSplits(
        rollout="shop-1",
        generation=1,
        segments={"default": SegmentSplit(baseline="v1", canary="v2", canary_bp=5_000)},
    )
}
Steps = dict[int, list[str]]
"""What each person has done, in order of time, by what stands for the person."""

needs_chromium = pytest.mark.skipif(chromium.BINARY is None, reason="no Chromium here (apt-get install chromium)")


@dataclass(frozen=True, slots=True)
class Stage:
    """`url`: the shop, as people see it. `beacon`: where its pages send what is clicked."""

    url: str
    beacon: str
    ingest: Ingest

    def steps(self) -> Steps:
        """All that has been done until now; only once."""
        labels = self.ingest.vocabulary("shop").labels
        rows = self.ingest.drain()["shop"].rows
        steps: Steps = {}
        for row in sorted(rows.tolist()):
            if row[8] in (SampleKind.PAGE, SampleKind.CLICK, SampleKind.FEATURE):
                steps.setdefault(row[3], []).append(labels[row[7]])
            elif row[8] == SampleKind.REQUEST:
                steps.setdefault(row[3], [])
        return steps

    def count(self, reason: str) -> int:
        return self.ingest.counts.get(("event", reason), 0)


@asynccontextmanager
async def staged(
    run_envoy: Callable[..., AbstractAsyncContextManager[Any]], free_port: Callable[[], int], *, dead_button: bool
) -> AsyncIterator[Stage]:
    """The shop in two versions behind an Envoy, half of the people at each; `dead_button`: of v2."""
    edge, listener = free_port(), listen("127.0.0.1", 0)
    beacon = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server, cache, stop = grpc.aio.server(options=SERVER_OPTIONS), AdsCache(), asyncio.Event()
    port = server.add_insecure_port("127.0.0.1:0")
    async with AsyncExitStack() as stack:
        ports = {}
        for version in ("v1", "v2"):
            shop = Shop(
                version=version,
                telemetry=Telemetry(version, f"127.0.0.1:{port}"),
                rng=random.Random(1),
                beacon=beacon,
                button_works=not (dead_button and version == "v2"),
            )
            ports[version] = await stack.enter_async_context(serving(make_app(shop)))
        mesh = parse_mesh(MESH.format(edge=edge, **ports), "mesh.yaml")
        ingest = Ingest(mesh, user_hash_key=b"secret", queue_limit=10_000)
        add_ads(server, cache)
        add_als(server, ingest)
        add_otlp(server, ingest)
        await server.start()
        stack.push_async_callback(server.stop, None)
        app = create_app(not_ready=lambda: None, metrics=lambda: b"", more=OtlpHttp(ingest=ingest).routes())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        tasks.create_task(serve(app, listener, stop))
        stack.callback(stop.set)
        cache.publish(mesh, HALVES)
        await stack.enter_async_context(run_envoy(mesh, "edge", port))
        yield Stage(f"http://127.0.0.1:{edge}", beacon, ingest)


@needs_chromium
@pytest.mark.slow
def test_what_people_see_and_click_in_a_browser_are_steps_of_their_sessions(
    run_envoy: Callable[..., AbstractAsyncContextManager[Any]], free_port: Callable[[], int]
) -> None:
    async def scenario() -> None:
        async with staged(run_envoy, free_port, dead_button=False) as stage, chromium.chromium() as browser:
            person = await browser.person()
            await shop_in_browser(person, stage.url)
            assert person.errors == []
            assert f"{COOKIE}=" not in await person.see("document.cookie")  # no script can read it
            await until(lambda: stage.count("accepted") >= 6 + 6 + 5 + 1)
            await asyncio.sleep(0.5)
            steps = stage.steps()
            assert len(steps) == 1, steps  # log entries, the shop's events and the browser's are of the same person
            (done,) = steps.values()
            assert set(done) == {*PAGES_SEEN, BUTTON, ONWARD, FEATURE}
            assert (done.count(BUTTON), done.count(ONWARD), done.count(FEATURE)) == (1, 5, 1)
            assert done[-1] == "page /checkout/done"
            assert stage.count("no_user") == 1  # the shop itself, on the first request, which brought no cookie

    asyncio.run(scenario())


@needs_chromium
@pytest.mark.slow
def test_a_button_that_stops_working_is_missing_in_the_sessions_of_that_version(
    run_envoy: Callable[..., AbstractAsyncContextManager[Any]], free_port: Callable[[], int]
) -> None:
    async def scenario() -> None:
        async with staged(run_envoy, free_port, dead_button=True) as stage, chromium.chromium() as browser:
            people = [await browser.person() for _ in range(6)]
            works = await asyncio.gather(*(shop_in_browser(person, stage.url) for person in people))
            assert [person.errors for person in people] == [[]] * 6
            works += await asyncio.gather(*(shop_by_script(stage.url, stage.beacon) for _ in range(40)))
            # pages: 6 from the page and 5 from the shop; clicks: 5 and, where it works, the button, and its effect
            await until(lambda: stage.count("accepted") >= 46 * 16 + 2 * works.count(True))
            await asyncio.sleep(0.5)
            steps = stage.steps()
            assert len(steps) == 46
            dead = [done for done in steps.values() if BUTTON not in done]
            assert all(FEATURE not in done and done.count(ONWARD) == 5 for done in dead)
            assert all(FEATURE in done for done in steps.values() if BUTTON in done)
            assert len(dead) == works.count(False)
            assert 5 < len(dead) < 41  # of 46, each with even chances

    asyncio.run(scenario())


def test_what_a_script_sends_is_what_a_browser_sends(
    run_envoy: Callable[..., AbstractAsyncContextManager[Any]], free_port: Callable[[], int]
) -> None:
    async def scenario() -> None:
        async with staged(run_envoy, free_port, dead_button=False) as stage:
            await shop_by_script(stage.url, stage.beacon)
            await until(lambda: stage.count("accepted") >= 6 + 6 + 5 + 1)
            await asyncio.sleep(0.5)
            steps = stage.steps()
            assert len(steps) == 1
            (done,) = steps.values()
            assert set(done) == {*PAGES_SEEN, BUTTON, ONWARD, FEATURE}

    asyncio.run(scenario())
