"""What is true of each request: the effects of a scenario, looked up for many requests at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.simulation.scenario import TAIL_Z, Effect, Kpi, On, Scenario, changed, strength

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_PEOPLE, _ROUTING = 10**4, 10**8  # digits of a person's hash that say whom an effect hits, apart from the bucket's


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Requests of n sessions. Every array is (n,).

    `at_s`: after the rollout's start; `segment`: index; `on_canary`: which version serves it; `novel`: whether its
    person had never been on the canary before this session; `user`: the person's hash; `split` in [0, 1]: the canary's
    share of the segment now; `exposed_s`: since the segment's first exposure, negative before it.
    """

    at_s: Floats
    segment: npt.NDArray[np.int64]
    on_canary: Flags
    novel: Flags
    user: npt.NDArray[np.uint64]
    split: Floats
    exposed_s: Floats


class Truth:
    """A scenario's effects. Each lookup tells what `world` would be without the canary, and what is `served` now."""

    def __init__(self, scenario: Scenario) -> None:
        self._effects = {kpi: tuple(e for e in scenario.effects if e.kpi is kpi) for kpi in Kpi}
        self._index = {group.name: i for i, group in enumerate(scenario.groups)}
        self._traffic = scenario.traffic

    def has(self, kpi: Kpi) -> bool:
        return bool(self._effects[kpi])

    def shares(self, kpi: Kpi, base: Floats, moment: Moment) -> tuple[Floats, Floats]:
        """(n,) each: the share `base` as the world and as the serving version have made it, in [0, 1]."""
        if kpi is Kpi.ERRORS:
            base = self._traffic.drifted(base, moment.at_s)
        world, served = base, base
        for effect in self._effects[kpi]:
            weight = self._weight(effect, moment)
            if effect.on is On.BOTH:
                world = changed(world, effect, weight)
            else:
                weight = weight * moment.on_canary
            served = changed(served, effect, weight)
        return world, served

    def slowness(self, z: Floats, moment: Moment) -> tuple[Floats, Floats]:
        """(n,) each: by how much requests last longer; `z`: how long they usually last, as a standard normal score."""
        world, served = np.ones(len(z)), np.ones(len(z))
        for effect in self._effects[Kpi.LATENCY]:
            weight = self._weight(effect, moment)
            times = effect.times * np.where(z > TAIL_Z, effect.tail_times, 1.0)
            if effect.on is On.BOTH:
                world = world * (1 + weight * (times - 1))
            else:
                weight = weight * moment.on_canary
            served = served * (1 + weight * (times - 1))
        return world, served

    def misrouted(self, moment: Moment) -> Flags:
        """(n,) whether a person of the canary gets the baseline all the same."""
        if not self.has(Kpi.ROUTING):
            return np.zeros(len(moment.at_s), np.bool_)
        _, routed = self.shares(Kpi.ROUTING, np.ones(len(moment.at_s)), moment)
        return moment.on_canary & (_digits(moment.user, _ROUTING) >= routed)

    def _weight(self, effect: Effect, moment: Moment) -> Floats:
        """(n,) how much of an effect each request meets, in [0, 1], whichever version serves it."""
        weight = strength(effect, at_s=moment.at_s, exposed_s=moment.exposed_s, split=moment.split)
        if effect.segment is not None:
            weight = weight * (moment.segment == self._index[effect.segment])
        if effect.people < 1:
            weight = weight * (_digits(moment.user, _PEOPLE) < effect.people)
        if effect.first_session:
            weight = weight * moment.novel
        return weight


def _digits(user: npt.NDArray[np.uint64], above: int) -> Floats:
    """(n,) a number in [0, 1) that is always the same for a person, whatever the bucket."""
    digits: Floats = (user // np.uint64(above) % np.uint64(10_000)).astype(float) / 10_000
    return digits
