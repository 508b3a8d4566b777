"""A policy that only watches: what it would do in the place of the one that acts, tick by tick, and how that adds up.

It sees what the acting policy sees and passes the same guard, from the splits that are really in force; so each of its
choices is one step from where the rollout is, and nobody is ever sent anywhere by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.decision import ShadowChoice, Verdict, verdict_name
from analysis.policy import Policy, PolicyView, Proposal


@dataclass(slots=True, kw_only=True)
class ShadowTally:
    """Decisions of one segment in which the shadow's split was less than, the same as, or more than the acting one."""

    less: int = 0
    same: int = 0
    more: int = 0

    def count(self, acting_bp: int, shadow_bp: int) -> None:
        self.less += shadow_bp < acting_bp
        self.same += shadow_bp == acting_bp
        self.more += shadow_bp > acting_bp


class Shadow:
    """`policy` beside the one that acts, for segments of these names.

    It draws from generators of its own (`numpy.random.Generator.spawn`), so the acting policy draws what it would draw
    without a shadow.
    """

    def __init__(self, policy: Policy, segments: tuple[str, ...]) -> None:
        self.policy = policy
        self.tallies = {name: ShadowTally() for name in segments}

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        """What it would ask for."""
        (own,) = rng.spawn(1)
        return self.policy.propose(view, rng=own)

    def choice(
        self, segment: str, verdict: Verdict, *, acting_bp: int, split_bp: int, propensity: float
    ) -> ShadowChoice:
        """What it would do, counted."""
        self.tallies[segment].count(acting_bp, split_bp)
        return ShadowChoice(
            policy=self.policy.name, verdict=verdict_name(verdict), split_bp=split_bp, propensity=propensity
        )

    def state(self) -> dict[str, list[int]]:
        """What a restart must know, as JSON-able values."""
        return {name: [tally.less, tally.same, tally.more] for name, tally in self.tallies.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave; segments that it does not know begin at nothing. Raises ValueError."""
        for name, tally in self.tallies.items():
            less, same, more = (int(n) for n in state.get(name, (0, 0, 0)))
            if min(less, same, more) < 0:
                raise ValueError(f"a shadow's tally of {name} is {less}, {same}, {more}")
            tally.less, tally.same, tally.more = less, same, more
