"""Thompson sampling (Thompson 1933; Russo et al. 2018) under the cap: as much of the room as a draw allows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysis.policy.protocol import FLOOR, Arm, PolicyView, Proposal

Floats = npt.NDArray[np.float64]

SHARES = np.array([0.0, 0.25, 0.5, 1.0])
"""Of the room between split and cap; what a draw allows is rounded down to one of them."""
DRAWS = 64  # of which one is acted upon, and all say how probable its share was


class ThompsonPolicy:
    """Draws both versions' rates of bad sessions from their Beta posteriors, of late and with Jeffreys' prior.

    The cap allows for the worst excess U that is not excluded. A drawn excess d leaves (U - d) / (U - tolerance) of the
    room, within [0, 1]: all of it if d is tolerated, nothing if d is as bad as can be. Every share keeps a probability
    of FLOOR; the propensity is exact, given the draws.
    """

    name = "thompson"

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:
        """One draw's share of the room."""
        chances = self.chances(view, rng=rng)
        chosen = min(int(np.searchsorted(np.cumsum(chances), rng.random(), side="right")), len(SHARES) - 1)
        return Proposal(split=view.using(float(SHARES[chosen])), propensity=float(chances[chosen]))

    @staticmethod
    def chances(view: PolicyView, *, rng: np.random.Generator) -> Floats:
        """Probability of each of SHARES, each at least FLOOR; they sum to one."""
        excess = _draws(view.canary, rng) - _draws(view.baseline, rng)
        span = max(view.worst_excess - view.tolerance, 1e-9)
        allowed = np.clip((view.worst_excess - excess) / span, 0.0, 1.0)
        counts = np.bincount(np.searchsorted(SHARES, allowed, side="right") - 1, minlength=len(SHARES))
        chances: Floats = FLOOR + (1 - FLOOR * len(SHARES)) * counts / DRAWS
        return chances


def _draws(arm: Arm, rng: np.random.Generator) -> Floats:
    return rng.beta(arm.bad + 0.5, max(arm.n - arm.bad, 0.0) + 0.5, size=DRAWS)
