"""A version whose button does nothing: no error, no delay, and people who cannot do what they came for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests import chromium
from tests.shoppers import crowd, shop_in_browser

MESH = """
services:
  shop:
    domains: ["127.0.0.1"]
    port: 10000
    identity: [{{cookie: {{name: sid}}}}]
    session: {{gap: 5s, judge_after: {{error_rate: 3s, latency_p95: 3s, anomaly: 3s{ages}}}}}
    versions:
      v1: {{endpoints: ["127.0.0.1:{v1}"]}}
      v2: {{endpoints: ["127.0.0.1:{v2}"]}}
    baseline: v1
    kpis: {kpis}
    rollout:
      {{interval: 500ms, warmup: {warmup}, min_dwell: 1s, max_step: 50pp, policy: fixed, harm: {{budget: 10000}}}}
gateways:
  edge: {{listen: "127.0.0.1:{edge}"}}
browsers: ["http://127.0.0.1:{edge}"]
"""


@contextlib.asynccontextmanager
async def shop(version: str, port: int, serinus: Any, *options: str) -> AsyncIterator[None]:
    """One version of the demo's shop, as a process; its pages send to that control plane."""
    where = ("--otlp", f"127.0.0.1:{serinus.otlp}", "--beacon", f"http://127.0.0.1:{serinus.http}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "xds_server.demo.shop", "--version", version, "--port", str(port), *where, *options)
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(chromium.BINARY is None, reason="no Chromium here (apt-get install chromium)")
@pytest.mark.parametrize(
    ("kpis", "ages", "warmup", "why"),
    [
        ("{features: {wishlist: {max_regression: 5pp}}}", ", feature: 3s", "1s", "wishlist"),
        ("{anomaly: {max_regression: 10pp}}", "", "20s", "anomaly"),  # nobody has said that the button matters
    ],
    ids=["guarded", "unguarded"],
)
def test_a_version_whose_button_is_dead_is_taken_back(place, rig, kpis, ages, warmup, why):
    async def scenario() -> None:
        ports = {name: place.free_port() for name in ("edge", "v1", "v2")}
        edge, v1, v2 = ports.values()
        (place.directory / "mesh.yaml").write_text(MESH.format(**ports, kpis=kpis, ages=ages, warmup=warmup))
        url = f"http://127.0.0.1:{edge}"
        async with (
            place.serinus() as serinus,
            shop("v1", v1, serinus),
            shop("v2", v2, serinus, "--dead-button"),
            rig.envoy(place.mesh(), "edge", serinus.grpc),
            chromium.chromium() as browser,
        ):
            async with crowd(url, f"http://127.0.0.1:{serinus.http}", rate=6, think_s=0.2) as done:
                await asyncio.sleep(2)
                await serinus.begin()

                async def is_back() -> bool:
                    segments = (await serinus.shop())["segments"]
                    return all(segment["phase"] == "rolled_back" for segment in segments)

                people = [await browser.person() for _ in range(3)]
                await asyncio.gather(*(shop_in_browser(person, url) for person in people))
                await rig.eventually(is_back, "nobody is sent to v2", 110)
                assert await shop_in_browser(await browser.person(), url)  # everybody's button works again
            if why == "wishlist":  # else nobody may have met it after the warmup
                assert False in done
            last = next(row for row in await serinus.history() if row["verdict"] == "rollback")
            assert why in last["reason"]
            if why == "anomaly":
                differences = json.loads(last["detail_json"])["differences"]
                assert any("wishlist" in difference for difference in differences), differences
                assert "wishlist" in (await serinus.say("explain", "shop")).out
            entries = await serinus.metrics("serinus_ingest_entries_total")
            assert entries["accepted", "event"] > 15 * len(done)
            assert ("too_many", "event") not in entries
            assert set(await serinus.metrics("serinus_otlp_http_answers_total")) <= {("200",), ("204",)}

    asyncio.run(scenario())
