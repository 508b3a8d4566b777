"""Forty releases in a row, in the mesh file, while people keep asking: not one request may fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import aiohttp
import pytest

from tests.conformance.server import Server, Service
from xds_server.settings import load_mesh

SWAPS = 40
REQUESTS = 10_000
CLIENTS = 8


@pytest.mark.slow
@pytest.mark.shows("matrix", 5)
@pytest.mark.parametrize("variant", ["sotw ADS", "delta ADS"])
def test_forty_swaps_under_load_fail_no_request(rig, tmp_path, variant):
    """Adding the new cluster, moving the routes and removing the old one in one go fails 4 % of requests."""
    server = Server(tmp_path)

    def choose(config) -> None:
        api_type = "DELTA_GRPC" if variant == "delta ADS" else "GRPC"
        config["dynamic_resources"]["ads_config"]["api_type"] = api_type

    async def swap(number: int) -> None:
        server.services["A"].versions = (f"v{number}",)
        await asyncio.to_thread(server.reload)
        if number % 10 == 0:
            await asyncio.sleep(2.5)  # long enough for clusters to be removed

    async def scenario() -> None:
        async with rig.backend("any") as port:
            server.services["A"] = Service("A", endpoint=f"127.0.0.1:{port}", port=rig.free_port())
            server.start()
            outcomes: Counter[int] = Counter()
            over = asyncio.Event()
            listener = server.services["A"].port

            async def keep_asking(client: aiohttp.ClientSession) -> None:
                while not over.is_set():
                    async with client.get(f"http://127.0.0.1:{listener}/", headers={"host": "a.test"}) as response:
                        await response.read()
                        outcomes[response.status] += 1

            async with (
                rig.envoy(load_mesh(server.mesh_path), "side-1", server.grpc, edit=choose) as envoy,
                aiohttp.ClientSession() as client,
                asyncio.TaskGroup() as asking,
            ):
                for _ in range(CLIENTS):
                    asking.create_task(keep_asking(client))
                for number in range(2, SWAPS + 2):
                    await swap(number)

                async def is_the_last() -> bool:
                    clusters = await envoy.get("/clusters")
                    names = {line.partition("::")[0] for line in clusters.splitlines()}
                    return {name for name in names if name.startswith("A|")} == {f"A|v{SWAPS + 1}"}

                await rig.eventually(is_the_last, "one cluster is left, of the last version", 30.0)

                async def are_enough() -> bool:
                    return outcomes.total() >= REQUESTS

                await rig.eventually(are_enough, f"{REQUESTS} requests", 60.0)
                over.set()
            assert set(outcomes) == {200}, outcomes

    with contextlib.ExitStack() as ending:
        ending.callback(lambda: server.process is not None and server.end())
        asyncio.run(scenario())
