"""Gauges that OpenTelemetry's SDK exports reach a running control plane, which takes a leaking canary back."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from xds_server.pb import control_pb2 as pb

RESOURCES = """resources: [{name: memory, metric: process.memory.usage, limit: 700}]
    rollout:
      horizon: 8s
      false_rollback: 40%
      interval: 200ms
"""


@contextlib.asynccontextmanager
async def leaking(port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.leaking", f"127.0.0.1:{port}")
    try:
        yield
    finally:
        process.kill()
        await process.wait()


def test_a_leaking_canary_is_taken_back_before_anybody_notices(place):
    """Three blocks, of a sixth of the horizon each, are proof enough at 40 %: in production it takes hours."""

    async def scenario() -> None:
        async with place.versions("v1", "v2") as shop:
            path, _ = place.write_mesh(shop)
            text = path.read_text()
            path.write_text(text.replace("      interval: 500ms\n", "").replace("rollout:\n", RESOURCES))
            async with place.serinus() as serinus:
                await serinus.begin()
                await serinus.set(500, "default")
                explained, segments = "", {}
                async with leaking(serinus.otlp), asyncio.timeout(30):
                    while segments.get("default", {}).get("phase") != "rolled_back":
                        await asyncio.sleep(0.2)
                        status = await serinus.shop()
                        segments = {each["segment"]: each for each in status["segments"]}
                        if " of 700 on v2" in (told := await said(serinus)):
                            explained = told
                (back,) = [row for row in await serinus.history() if row["verdict"] == "rollback"]
                assert back["tier"] == "predicted"
                assert back["reason"].startswith("memory of the canary is forecast to reach its limit of 700 within")
                assert "Resource memory: " in explained
                assert "; 2.5 to 1 is needed." in explained
                assert (await serinus.metrics("serinus_ingest_entries_total"))["accepted", "metric"] >= 100

    asyncio.run(scenario())


async def said(serinus) -> str:
    text: str = (await serinus.call("Explain", pb.ExplainRequest(service="shop")))["text"]
    return text
