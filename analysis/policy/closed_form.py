"""Policies that need no learning."""

from __future__ import annotations

import numpy as np

from analysis.policy.protocol import PolicyView, Proposal


class BudgetPolicy:
    """Uses all that the harm budget allows, as soon as it is allowed."""

    name = "budget"

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:  # noqa: ARG002 -- the seam's signature
        """The cap itself."""
        return Proposal(split=max(view.split, view.cap), propensity=1.0)


class FixedPolicy:
    """Goes up in equal steps, whatever the evidence says, as far as it is allowed."""

    name = "fixed"
    step = 0.10

    def propose(self, view: PolicyView, *, rng: np.random.Generator) -> Proposal:  # noqa: ARG002 -- the seam's signature
        """One step more, clamped to the cap."""
        return Proposal(split=max(view.split, min(view.split + self.step, view.cap)), propensity=1.0)
