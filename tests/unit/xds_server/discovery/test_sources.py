"""Endpoints from files and registrations, through changes of the mesh file and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from xds_server.discovery.sources import EndpointSources
from xds_server.errors import BadRequestError, JournalError, LostLeaseError, UnknownNameError
from xds_server.mesh import Mesh
from xds_server.settings import MeshError, parse_mesh
from xds_server.store.endpoints import EndpointStore
from xds_server.store.journal import Journal

A, B, C = ("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80)


class HandClock:
    """A clock that is moved by hand. Who sleeps sleeps a moment, whatever was asked for."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def now_unix_ns(self) -> int:
        return 1_700_000_000_000_000_000 + int(self.now_s * 1e9)

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        del seconds
        await asyncio.sleep(0.001)


def mesh(folder: Path, *, v1: str = "[10.0.0.1:80]", v2: str = "{registered: {lease: 10s}}", more: str = "") -> Mesh:
    text = f"""
services:
  shop:
    domains: [shop]
    port: 10000
    identity: [{{header: x-user-id}}]
    versions:
      v1: {{endpoints: {v1}}}
      v2: {{endpoints: {v2}}}
    baseline: v1
{more}
"""
    return parse_mesh(text, str(folder / "mesh.yaml"))


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EndpointStore]:
    with contextlib.closing(Journal(tmp_path / "data")) as journal:
        yield EndpointStore(journal)


def adapt(sources: EndpointSources, mesh: Mesh) -> None:
    sources.adapt(mesh, sources.opened(mesh))


def register(sources: EndpointSources, address: str, version: str = "v2") -> str:
    return sources.register("shop", version, address, lease_s=0.0, who="test").lease


def let_expire(sources: EndpointSources, clock: HandClock, seconds: float = 10.0) -> None:
    """Let time pass as `run` does."""
    for _ in range(round(seconds * 2)):
        clock.now_s += 0.5
        sources._registrations.expire()


def test_endpoints_are_those_of_file_and_registry_and_nothing_of_what_the_mesh_lists(
    tmp_path: Path, clock: HandClock
) -> None:
    (tmp_path / "v1.txt").write_text("10.0.0.2:80\n10.0.0.1:80")
    sources = EndpointSources(mesh(tmp_path, v1="{file: v1.txt}"), clock=clock)
    assert sources.current == {"shop|v1": (A, B), "shop|v2": ()}
    register(sources, "10.0.0.3:80")
    assert sources.current == {"shop|v1": (A, B), "shop|v2": (C,)}
    assert EndpointSources(mesh(tmp_path, v2="[10.0.0.2:80]"), clock=clock).current == {}


def test_they_are_the_same_object_until_they_are_others(tmp_path: Path, clock: HandClock) -> None:
    sources = EndpointSources(mesh(tmp_path), clock=clock)
    first = sources.current
    lease = register(sources, "10.0.0.3:80")
    second = sources.current
    assert first is not second
    assert first == {"shop|v2": ()}, "what was handed out does not change"
    sources.renew(lease)
    register(sources, "10.0.0.3:80")  # anew
    assert sources.current is second
    adapt(sources, mesh(tmp_path))
    assert sources.current is second


def test_the_order_in_which_they_came_does_not_matter(tmp_path: Path, clock: HandClock) -> None:
    sources = EndpointSources(mesh(tmp_path), clock=clock)
    for address in ("10.0.0.3:80", "10.0.0.1:80", "10.0.0.2:80"):
        register(sources, address)
    assert sources.current["shop|v2"] == (A, B, C)


def test_a_restart_keeps_registrations_and_gives_each_a_fresh_lease(
    tmp_path: Path, clock: HandClock, store: EndpointStore
) -> None:
    before = EndpointSources(mesh(tmp_path), clock=clock, store=store)
    lease = register(before, "10.0.0.1:80")
    register(before, "10.0.0.2:80")
    before.deregister(register(before, "10.0.0.3:80"))
    clock.now_s = 5.0  # another boot: this clock begins anew
    after = EndpointSources(mesh(tmp_path), clock=clock, store=store)
    assert after.current == {"shop|v2": (A, B)}
    assert {r.expires_s for r in after._registrations.of(("shop", "v2"))} == {15.0}
    let_expire(after, clock, 9.5)
    after.renew(lease)
    let_expire(after, clock, 0.5)
    assert after.current == {"shop|v2": (A,)}


def test_a_restart_does_not_forget_who_is_stale(tmp_path: Path, clock: HandClock, store: EndpointStore) -> None:
    """Else silence would take half of them with each restart."""
    before = EndpointSources(mesh(tmp_path), clock=clock, store=store)
    leases = [register(before, f"10.0.0.{n}:80") for n in (1, 2, 3)]
    let_expire(before, clock)
    before.renew(leases[0])
    after = EndpointSources(mesh(tmp_path), clock=clock, store=store)
    assert [[r.lease for r in v.stale] for v in after.view()] == [[], leases[1:]]
    let_expire(after, clock, 60)
    assert after.current == {"shop|v2": (A, B, C)}


def test_what_has_expired_is_forgotten(tmp_path: Path, clock: HandClock, store: EndpointStore) -> None:
    before = EndpointSources(mesh(tmp_path), clock=clock, store=store)
    lost, kept = register(before, "10.0.0.1:80"), register(before, "10.0.0.2:80")
    let_expire(before, clock, 9.5)
    before.renew(kept)
    let_expire(before, clock, 0.5)
    after = EndpointSources(mesh(tmp_path), clock=clock, store=store)
    assert after.current == {"shop|v2": (B,)}
    with pytest.raises(LostLeaseError):
        after.renew(lost)


def test_a_registration_that_cannot_be_stored_is_refused(tmp_path: Path, clock: HandClock) -> None:
    """It would be lost with a restart, and nobody would know."""
    journal = Journal(tmp_path / "data")
    sources = EndpointSources(mesh(tmp_path), clock=clock, store=EndpointStore(journal))
    lease = register(sources, "10.0.0.1:80")
    journal._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(JournalError):
        register(sources, "10.0.0.2:80")
    assert sources.current == {"shop|v2": (A,)}
    sources.renew(lease)
    sources.deregister(lease)
    assert sources.current == {"shop|v2": ()}, "who leaves is taken out all the same"
    journal.close()


@pytest.mark.parametrize(
    ("version", "address", "lease_s", "says"),
    [
        ("v2", "shop.internal:80", 0.0, "shop.internal:80: a host name: Envoy resolves those that the mesh file lists"),
        ("v2", "10.0.0.1", 0.0, "10.0.0.1: not host:port; legal: IP:port, such as 10.0.0.1:8080 or [::1]:8080"),
        ("v2", "10.0.0.9:80", 0.0, "10.0.0.9:80: gateway edge itself listens there: a loop"),
        ("v2", "10.0.0.1:80", 11.0, "a lease of 11 s is out of range; legal: 1 s to 10 s, the lease in the mesh file"),
        ("v1", "10.0.0.1:80", 0.0, "no version of shop with registered endpoints 'v1'; known: v2"),
    ],
)
def test_who_cannot_register_is_told_why(
    tmp_path: Path, clock: HandClock, version: str, address: str, lease_s: float, says: str
) -> None:
    sources = EndpointSources(mesh(tmp_path, more="gateways: {edge: {listen: 10.0.0.9:80}}"), clock=clock)
    with pytest.raises((BadRequestError, UnknownNameError)) as raised:
        sources.register("shop", version, address, lease_s=lease_s, who="test")
    assert str(raised.value).startswith(says)
    assert sources.events() == {("registered", "refused"): 1}


def test_a_version_without_endpoints_is_named(tmp_path: Path, clock: HandClock) -> None:
    sources = EndpointSources(mesh(tmp_path), clock=clock)
    assert [sources.lacking("shop", v) for v in ("v1", "v2")] == ["", "no endpoints of v2 are registered"]
    register(sources, "10.0.0.1:80")
    assert sources.lacking("shop", "v2") == ""


def test_taking_out_the_last_one_is_obeyed_and_warned_of(
    tmp_path: Path, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    sources = EndpointSources(mesh(tmp_path), clock=clock)
    lease = register(sources, "10.0.0.1:80")
    with caplog.at_level(logging.WARNING):
        sources.deregister(lease)
    assert "shop v2 has no endpoint left: Envoys answer 503 for it" in caplog.text
    assert sources.current == {"shop|v2": ()}


def test_people_take_out_what_is_stale(tmp_path: Path, clock: HandClock) -> None:
    sources = EndpointSources(mesh(tmp_path), clock=clock)
    for n in (1, 2, 3):
        register(sources, f"10.0.0.{n}:80")
    let_expire(sources, clock)
    assert len(sources.remove("shop", "v2", "10.0.0.3:80", who="ada", reason="gone")) == 1
    assert len(sources.remove("shop", "v2", None, who="ada", reason="")) == 2
    assert sources.current == {"shop|v2": ()}
    happened = {event: n for (_, event), n in sources.events().items() if n}
    assert happened == {"registered": 3, "kept": 3, "removed": 3}


# --- another mesh


def test_a_version_that_becomes_registered_keeps_what_it_had_for_one_lease(tmp_path: Path, clock: HandClock) -> None:
    """A change of the mesh file must not empty it; and its instances can register only after the change."""
    sources = EndpointSources(mesh(tmp_path, v2="[10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80]"), clock=clock)
    adapt(sources, mesh(tmp_path))
    assert sources.current == {"shop|v2": (A, B, C)}
    let_expire(sources, clock, 4)
    assert [register(sources, f"10.0.0.{n}:80") for n in (1, 2)]
    let_expire(sources, clock, 6)
    assert sources.current == {"shop|v2": (A, B)}


def test_that_holds_when_the_change_comes_with_a_restart(
    tmp_path: Path, clock: HandClock, store: EndpointStore
) -> None:
    EndpointSources(mesh(tmp_path, v2="[10.0.0.1:80, 10.0.0.2:80]"), clock=clock, store=store)
    (tmp_path / "v1.txt").write_text("10.0.0.3:80")
    changed = EndpointSources(mesh(tmp_path, v1="{file: v1.txt}"), clock=clock, store=store)
    assert changed.current == {"shop|v1": (C,), "shop|v2": (A, B)}
    for registration in changed._registrations.of(("shop", "v2")):
        changed.deregister(registration.lease)
    again = EndpointSources(mesh(tmp_path, v1="{registered: {}}"), clock=clock, store=store)
    assert again.current == {"shop|v1": (C,), "shop|v2": ()}, "it is not given back what has left"


def test_host_names_cannot_be_kept_so(tmp_path: Path, clock: HandClock) -> None:
    sources = EndpointSources(mesh(tmp_path, v2="[shop.internal:80]"), clock=clock)
    adapt(sources, mesh(tmp_path))
    assert sources.current == {"shop|v2": ()}


def test_a_version_that_is_listed_again_is_no_longer_in_it(tmp_path: Path, clock: HandClock) -> None:
    sources = EndpointSources(mesh(tmp_path), clock=clock)
    register(sources, "10.0.0.1:80")
    adapt(sources, mesh(tmp_path, v2="[10.0.0.2:80]"))
    assert sources.current == {}
    adapt(sources, mesh(tmp_path))
    assert sources.current == {"shop|v2": (A,)}, "what has registered is still there, for as long as its lease"


def test_a_mesh_with_a_broken_file_is_refused_and_changes_nothing(tmp_path: Path, clock: HandClock) -> None:
    sources = EndpointSources(mesh(tmp_path), clock=clock)
    register(sources, "10.0.0.1:80")
    before = sources.current
    with pytest.raises(MeshError, match="no such file"):
        adapt(sources, mesh(tmp_path, v2="{file: v2.txt}", v1="{registered: {}}"))
    assert sources.current is before
    register(sources, "10.0.0.2:80")
    assert sources.current == {"shop|v2": (A, B)}


def test_a_file_that_is_broken_at_a_restart_says_what_it_said_before(
    tmp_path: Path, clock: HandClock, store: EndpointStore
) -> None:
    broken = tmp_path / "v1.txt"
    with pytest.raises(MeshError, match="no such file"):
        EndpointSources(mesh(tmp_path, v1="{file: v1.txt}"), clock=clock, store=store)
    broken.write_text("10.0.0.1:80")
    EndpointSources(mesh(tmp_path, v1="{file: v1.txt}"), clock=clock, store=store)
    broken.write_text("")
    after = EndpointSources(mesh(tmp_path, v1="{file: v1.txt}"), clock=clock, store=store)
    assert after.current == {"shop|v1": (A,), "shop|v2": ()}
    assert "no endpoints" in next(after.view()).why_not
    assert after.events() == {("file", "refused"): 1}


# --- running


def test_changes_are_told_together_and_only_if_something_is_different(tmp_path: Path, clock: HandClock) -> None:
    async def scenario() -> None:
        (tmp_path / "v1.txt").write_text("10.0.0.1:80")
        sources = EndpointSources(mesh(tmp_path, v1="{file: v1.txt}"), clock=clock)
        told: list[object] = []
        sources.on_change = lambda: told.append(sources.current)
        running = asyncio.create_task(sources.run())
        await asyncio.sleep(0.02)
        assert told == []
        leases = [register(sources, f"10.0.0.{n}:80") for n in (1, 2, 3)]
        await sources.told()
        assert told == [{"shop|v1": (A,), "shop|v2": (A, B, C)}]
        register(sources, "10.0.0.3:80")
        await sources.told()
        assert len(told) == 1
        sources.deregister(leases[0])
        await sources.told()
        (tmp_path / "v1.txt").write_text("10.0.0.2:80")
        async with asyncio.timeout(5):
            while len(told) < 3:  # noqa: ASYNC110 -- a file tells nobody
                await asyncio.sleep(0.01)
        assert told[1:] == [{"shop|v1": (A,), "shop|v2": (B, C)}, {"shop|v1": (B,), "shop|v2": (B, C)}]
        assert sources.events()["file", "accepted"] == 1
        running.cancel()

    asyncio.run(scenario())


def test_a_fault_in_who_is_told_ends_nothing(tmp_path: Path, clock: HandClock) -> None:
    async def scenario() -> None:
        sources = EndpointSources(mesh(tmp_path), clock=clock)
        told: list[int] = []

        def on_change() -> None:
            told.append(1)
            raise ValueError("no")

        sources.on_change = on_change
        running = asyncio.create_task(sources.run())
        for n in (1, 2):
            register(sources, f"10.0.0.{n}:80")
            await sources.told()
        assert told == [1, 1]
        assert not running.done()
        running.cancel()

    asyncio.run(scenario())
