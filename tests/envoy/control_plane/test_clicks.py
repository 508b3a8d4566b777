"""A version whose button does nothing: no error, no delay, and people who cannot do what they came for."""

from __future__ import annotations

import asyncio
import contextlib
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
    session: {{gap: 5s, judge_after: {{error_rate: 3s, latency_p95: 3s, feature: 3s, anomaly: 3s}}}}
    versions:
      v1: {{endpoints: ["127.0.0.1:{v1}"]}}
      v2: {{endpoints: ["127.0.0.1:{v2}"]}}
    baseline: v1
    kpis: {{features: {{wishlist: {{max_regression: 5pp}}}}}}
    rollout: {{interval: 500ms, warmup: 1s, min_dwell: 1s, max_step: 50pp, policy: fixed, harm: {{budget: 10000}}}}
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
@pytest.mark.skipif(chromium.BINARY is None, reason="no Chromium here (apt-get install chromium)")
def test_a_version_whose_button_is_dead_is_taken_back(place, rig):
    async def scenario() -> None:
        edge, v1, v2 = (place.free_port() for _ in range(3))
        (place.directory / "mesh.yaml").write_text(MESH.format(edge=edge, v1=v1, v2=v2))
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
                await rig.eventually(is_back, "nobody is sent to v2", 60)
                assert await shop_in_browser(await browser.person(), url)  # everybody's button works again
            assert False in done
            last = next(row for row in await serinus.history() if row["verdict"] == "rollback")
            assert "wishlist" in str(last)
            entries = await serinus.metrics("serinus_ingest_entries_total")
            assert entries["accepted", "event"] > 15 * len(done)
            assert ("too_many", "event") not in entries
            assert set(await serinus.metrics("serinus_otlp_http_answers_total")) <= {("200",), ("204",)}

    asyncio.run(scenario())
