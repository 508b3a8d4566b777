"""Simulated people for tests at the demo's pace: a session is over in seconds, and everybody comes once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.simulation.people import People
from analysis.simulation.scenario import Effect, Group, Habits, Must, Scenario
from analysis.spec import ServiceSpec

SHOPPERS = Habits(
    requests=6, abandoned=0.10, errors=0.005, errors_in_a_row=1, feature=0.33, latency_ms=20, latency_sigma=0.4,
    visits=1, think_s=0.7,
)  # fmt: skip
SESSIONS_PER_S = 15.0  # of each segment


def shop(
    spec: ServiceSpec,
    effects: tuple[Effect, ...] = (),
    *,
    rates: Sequence[float] | None = None,
    habits: Habits = SHOPPERS,
    seed: int,
) -> People:
    """People of each of the service's segments; `rates`: sessions a second of each."""
    rates = rates or [SESSIONS_PER_S] * len(spec.segments)
    groups = tuple(
        Group(name=segment.name, share=rate / sum(rates), habits=habits)
        for segment, rate in zip(spec.segments, rates, strict=True)
    )
    scenario = Scenario(name="shop", title="a small shop", must=Must.KEEP, groups=groups, effects=effects)
    return People(scenario, spec, load=sum(rates), rng=np.random.default_rng(seed))
