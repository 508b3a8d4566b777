"""When the dead-man switch is beaten. With real Envoys: tests/envoy/test_dead_man.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from xds_server.ads.cache import AdsCache
from xds_server.rollout.dead_man import BEAT_SHARE, IDLE_BEAT_S, beat_forever
from xds_server.rollout.fleet import Fleet
from xds_server.store.journal import Journal
from xds_server.telemetry import Telemetry


class Leaping:
    """A clock that leaps over whatever is slept."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def now_unix_ns(self) -> int:
        return int(self.now_s * 1e9)

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


class Heard(AdsCache):
    """Knows when it was told to beat."""

    def __init__(self, clock: Leaping) -> None:
        super().__init__()
        self.clock = clock
        self.at: list[float] = []

    def beat(self) -> None:
        self.at.append(self.clock.now_s)
        super().beat()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with contextlib.closing(Journal(tmp_path)) as journal, contextlib.closing(Telemetry("test")) as telemetry:
        yield Fleet(journal=journal, telemetry=telemetry, clock=Leaping())


def beats(fleet: Fleet, limits: list[tuple[float, float | None]], until_s: float) -> list[float]:
    """When it was beaten, with the switch set to each limit from the time before it on."""
    clock = fleet.clock
    assert isinstance(clock, Leaping)
    cache, began = Heard(clock), clock.now_s

    def limit() -> float | None:
        return [limit for since, limit in limits if clock.now_s - began >= since][-1]

    async def go() -> None:
        task = asyncio.create_task(beat_forever(fleet, cache, dead_man_s=limit))
        while clock.now_s - began < until_s:  # noqa: ASYNC110 -- the clock tells nobody that it has moved on
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(go())
    return [at - began for at in cache.at if at - began <= until_s]


def test_it_is_beaten_three_times_in_the_time_that_is_set(fleet: Fleet) -> None:
    found = beats(fleet, [(0.0, 60.0)], 200.0)
    assert [b - a for a, b in pairwise(found)] == pytest.approx([60.0 * BEAT_SHARE] * (len(found) - 1), abs=0.01)
    assert len(found) >= 9


@pytest.mark.parametrize("before", [86_400.0, None])
def test_a_shorter_time_holds_at_once(fleet: Fleet, before: float | None) -> None:
    """Else Envoys would take people off canaries until the next beat of the longer one."""
    found = [at for at in beats(fleet, [(0.0, before), (101.0, 10.0)], 200.0) if at > 101.0]
    assert found[0] - 101.0 <= IDLE_BEAT_S
    assert max(b - a for a, b in pairwise(found)) <= 10.0 * BEAT_SHARE + 0.01
