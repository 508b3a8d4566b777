"""A little in each round of the loop."""

from __future__ import annotations

import asyncio
from collections import Counter

from xds_server.ads.turns import Turns


async def rounds(turns: Turns, n: int, *, cancelled: int = 0) -> list[int]:
    """In which round of the loop each of `n` had its turn, in the order in which they came."""
    now = 0
    went: dict[int, int] = {}

    def count() -> None:
        nonlocal now
        now += 1
        ticking[0] = asyncio.get_running_loop().call_soon(count)

    async def come(i: int) -> None:
        await turns.wait()
        went[i] = now

    ticking = [asyncio.get_running_loop().call_soon(count)]
    coming = [asyncio.create_task(come(i)) for i in range(n)]
    await asyncio.sleep(0)
    for task in coming[n - cancelled :]:
        task.cancel()
    await asyncio.gather(*coming, return_exceptions=True)
    ticking[0].cancel()
    assert list(went) == sorted(went)
    return [went[i] for i in sorted(went)]


def test_no_round_has_more_than_its_share_and_everybody_has_a_turn() -> None:
    async def go() -> None:
        turns = Turns(8)
        found = await rounds(turns, 100)
        assert len(found) == 100
        assert max(Counter(found).values()) <= 8
        assert found[-1] - found[0] < 30
        assert turns.depth == 0

    asyncio.run(go())


def test_who_goes_away_while_waiting_takes_nobodys_turn() -> None:
    async def go() -> None:
        assert len(await rounds(Turns(2), 50, cancelled=40)) == 10

    asyncio.run(go())


def test_who_comes_alone_does_not_wait() -> None:
    async def go() -> None:
        turns = Turns(1)
        for _ in range(10):
            waiting = turns.wait()
            try:
                waiting.send(None)
            except StopIteration:
                pass
            else:
                raise AssertionError("it waits")
            await asyncio.sleep(0)

    asyncio.run(go())
