"""Policies that need no learning and no chance."""

from __future__ import annotations

import numpy as np

from analysis.failure.facts import PRIOR_RISK
from analysis.policy.protocol import PolicyView, Proposal

DAMPED_AT = 0.5
"""Share of the proof at which no room is used any more: where the guard stops rising too (`guard.SUSPICIOUS`)."""


def risked_step(view: PolicyView, step: float) -> float:
    """What of a step is taken by a release of the view's risk: as much as costs no more than at the prior's.

    A step's expected harm grows with the release's risk and with the people whom it exposes: at twice the prior's risk
    half the step costs as much. A risk below the prior buys nothing, since the cap is what the budget bears; nor does
    any risk slow down what is known to be healthy, or stop a step that is just worth a push.
    """
    if view.risk <= PRIOR_RISK or view.healthy:
        return step
    return min(step, max(step * PRIOR_RISK / view.risk, view.smallest_step))


def budgeted_share(view: PolicyView) -> float:
    """Share in [0, 1] of the room between split and cap that `budget` uses."""
    return 1.0 - min(max(view.suspicion, 0.0) / DAMPED_AT, 1.0)


class BudgetPolicy:
    """Uses what the harm budget allows as soon as it allows it, less of it the more the evidence leans to harm.

    The cap is the largest split whose harm the budget could still bear if all that is not excluded were true (the
    ramp-up of Li, Mao & Bojinov, NeurIPS 2023, arXiv 2305.09626, where the budget is on the expected harm of the next
    step). Under it, with suspicion s as a share of the proof, w' = w + (cap - w) * (1 - min(max(s, 0) / DAMPED_AT, 1)):
    the session exposed next buys as much evidence as the last, at a price that has risen with s. Of that step a release
    that is more likely to fail than others takes the part that costs no more: `risked_step`.
    """

    name = "budget"

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:  # noqa: ARG002 -- the seam's signature
        """The cap, or what suspicion and risk leave of the way to it."""
        split = view.using(budgeted_share(view))
        if (step := risked_step(view, split - view.split)) < split - view.split:
            split = view.split + step
        return Proposal(split=split, propensity=1.0)


class WholeCapPolicy:
    """Always uses all that is allowed: what every other policy is held against, and none that is offered."""

    name = "whole-cap"

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:  # noqa: ARG002 -- the seam's signature
        """The cap itself."""
        return Proposal(split=view.using(1.0), propensity=1.0)


class FixedPolicy:
    """Goes up in equal steps, whatever the evidence says, as far as it is allowed."""

    name = "fixed"
    step = 0.10

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:  # noqa: ARG002 -- the seam's signature
        """One step more, clamped to the cap."""
        return Proposal(split=max(view.split, min(view.split + self.step, view.cap)), propensity=1.0)
