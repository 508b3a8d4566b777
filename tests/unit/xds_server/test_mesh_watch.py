"""A file that is edited: read once when it has come to rest, and at once when asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.tokens import Issuer
from tests.waiting import until
from xds_server.errors import JournalError, RefusedError
from xds_server.mesh import Mesh
from xds_server.mesh_watch import LOOK_EVERY_S, MeshWatch

MESH = """
services:
  shop:
    domains: [shop]
    port: {port}
    identity: [{{header: x-user-id}}]
    versions: {{v1: {{endpoints: ["127.0.0.1:1"]}}}}
    baseline: v1
"""


class Served:
    """Takes what it is given; `refusal` says why not."""

    def __init__(self, path: Path) -> None:
        self.ports: list[int] = []
        self.refused: list[str] = []
        self.refusal = ""
        self.error: type[Exception] = RefusedError
        self.keys: list[str] = []
        self.watch = MeshWatch(path, adopt=self.adopt, refuse=self.refused.append)

    async def adopt(self, mesh: Mesh) -> None:
        if self.refusal:
            raise self.error(self.refusal)
        self.ports.append(mesh.services["shop"].port)
        self.keys += [provider.jwks for provider in mesh.jwt.values()]


@contextlib.asynccontextmanager
async def served(path: Path) -> AsyncIterator[Served]:
    path.write_text(MESH.format(port=1000))  # noqa: ASYNC240 -- nothing else goes on here
    result = Served(path)
    running = asyncio.create_task(result.watch.run())
    try:
        yield result
        assert not running.done()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def test_a_change_is_read_once_and_a_file_that_stays_is_not_read(tmp_path):
    async def scenario() -> None:
        path = tmp_path / "mesh.yaml"
        async with served(path) as it:
            await asyncio.sleep(3 * LOOK_EVERY_S)
            assert it.ports == []
            path.write_text(MESH.format(port=1001))
            await until(lambda: it.ports)
            await asyncio.sleep(3 * LOOK_EVERY_S)
            assert it.ports == [1001]

    asyncio.run(scenario())


def test_a_link_that_is_swapped_is_a_change(tmp_path):
    """As Kubernetes updates a mounted ConfigMap."""

    async def scenario() -> None:
        for n in range(2):
            (tmp_path / f"..{n}").mkdir()
            (tmp_path / f"..{n}" / "mesh.yaml").write_text(MESH.format(port=2000 + n))
        data, link = tmp_path / "..data", tmp_path / "mesh.yaml"
        data.symlink_to("..0")
        link.symlink_to("..data/mesh.yaml")
        it = Served(link)
        running = asyncio.create_task(it.watch.run())
        fresh = tmp_path / "..fresh"
        fresh.symlink_to("..1")
        fresh.replace(data)
        await until(lambda: it.ports == [2001])
        running.cancel()

    asyncio.run(scenario())


def test_asked_it_reads_at_once_though_nothing_has_changed(tmp_path):
    async def scenario() -> None:
        async with served(tmp_path / "mesh.yaml") as it:
            it.watch.ask()
            async with asyncio.timeout(LOOK_EVERY_S * 0.9):
                await until(lambda: it.ports == [1000])

    asyncio.run(scenario())


def test_what_is_wrong_is_told_once_in_one_line_and_a_refusal_as_it_is(tmp_path):
    async def scenario() -> None:
        path = tmp_path / "mesh.yaml"
        async with served(path) as it:
            path.write_text(MESH.format(port=70_000).replace("baseline: v1", "baseline: v9"))
            await until(lambda: it.refused)
            await asyncio.sleep(3 * LOOK_EVERY_S)
            (told,) = it.refused
            assert told.startswith(f"{path}:5: services.shop.port")
            assert told.endswith("(and 1 more; see `serinus validate`)")
            it.refusal = "Envoy would reject it: x"
            path.write_text(MESH.format(port=1002))
            await until(lambda: len(it.refused) == 2)
            assert it.refused[1] == "Envoy would reject it: x"
            it.refusal = ""
            it.watch.ask()
            await until(lambda: it.ports == [1002])

    asyncio.run(scenario())


def test_a_file_that_is_away_for_a_moment_is_waited_for(tmp_path):
    """Editors that write a new file and move it there."""

    async def scenario() -> None:
        path = tmp_path / "mesh.yaml"
        async with served(path) as it:
            path.unlink()
            await asyncio.sleep(3 * LOOK_EVERY_S)
            assert it.refused == []
            path.write_text(MESH.format(port=1003))
            await until(lambda: it.ports == [1003])

    asyncio.run(scenario())


def test_a_journal_that_fails_does_not_end_the_watch(tmp_path):
    async def scenario() -> None:
        path = tmp_path / "mesh.yaml"
        async with served(path) as it:
            it.refusal, it.error = "the disk is gone", JournalError
            it.watch.ask()
            await until(lambda: it.refused == ["the disk is gone"])
            it.refusal = ""
            it.watch.ask()
            await until(lambda: it.ports == [1000])

    asyncio.run(scenario())


def test_a_fault_of_ours_that_a_file_finds_does_not_end_the_watch(tmp_path):
    """It would end the control plane, and with it the steering of rollouts, for as long as the file is as it is."""

    async def scenario() -> None:
        path = tmp_path / "mesh.yaml"
        async with served(path) as it:
            it.refusal, it.error = "people", KeyError
            path.write_text(MESH.format(port=1001))
            await until(lambda: it.refused)
            assert it.refused == ["it cannot be served (KeyError: 'people')"]
            it.refusal = ""
            path.write_text(MESH.format(port=1002))
            await until(lambda: it.ports == [1002])

    asyncio.run(scenario())


def test_keys_in_a_file_beside_it_are_part_of_it(tmp_path):
    """From when the mesh names the file; what is no key set is refused, and the keys before it stay."""

    async def scenario() -> None:
        path, keys = tmp_path / "mesh.yaml", tmp_path / "keys.json"
        first, second = Issuer().jwks, Issuer().jwks
        keys.write_text(first)
        async with served(path) as it:
            path.write_text(MESH.format(port=1001) + "jwt: {people: {jwks: {file: keys.json}}}\n")
            await until(lambda: it.keys == [first])
            keys.write_text("{}")
            await until(lambda: len(it.refused) == 1)
            assert "jwt.people.jwks.file: keys.json: no list of keys in it" in it.refused[0]
            keys.write_text(second)
            await until(lambda: it.keys == [first, second])

    asyncio.run(scenario())
