"""The beat without which Envoys take people off canaries by themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from xds_server.ads.cache import AdsCache
from xds_server.rollout.fleet import Fleet
from xds_server.rollout.steered import SteeredService

log = logging.getLogger(__name__)

BEAT_SHARE: Final = 1 / 3  # of the switch's time, from one beat to the next: two may be lost
LATE_BEAT_S: Final = 0.2  # how soon it is looked again whether decisions still stand still
IDLE_BEAT_S: Final = 5.0  # how soon a switch that is set, or set anew, while Serinus runs is looked for
LEAST_S: Final = 0.001  # what is slept, when a beat is due
STILL_TICKS: Final = 5
STILL_S: Final = 5.0  # so long, both, without a decision about a running rollout is standing still


async def beat_forever(fleet: Fleet, cache: AdsCache, *, dead_man_s: Callable[[], float | None]) -> None:
    """Keep canaries alive while there is somebody who decides about them. `dead_man_s`: the switch's time, if set."""
    stands_still, beaten_s = False, float("-inf")
    while True:
        limit_s = dead_man_s()
        if stands_still:  # once somebody decides again, canaries that have ended come back
            await fleet.clock.sleep(LATE_BEAT_S)
        else:
            due_s = beaten_s + limit_s * BEAT_SHARE if limit_s is not None else float("inf")
            await fleet.clock.sleep(min(max(due_s - fleet.clock.monotonic(), LEAST_S), IDLE_BEAT_S))
        limit_s, now_s = dead_man_s(), fleet.clock.monotonic()  # another mesh may have set a shorter time
        if limit_s is None or (not stands_still and now_s < beaten_s + limit_s * BEAT_SHARE):
            continue
        late = [steered.name for steered in fleet.services.values() if _stands_still(steered, now_s)]
        if late and not stands_still:
            log.error("decisions stand still on %s: the dead-man switch is let go", ", ".join(late))
        stands_still = bool(late)
        if not late:
            cache.beat()
            beaten_s = now_s


def _stands_still(steered: SteeredService, now_s: float) -> bool:
    patience_s = max(STILL_TICKS * steered.service.spec.rollout.interval_s, STILL_S)
    return steered.is_running and now_s - steered.ticked_s > patience_s
