"""The simulated world of a plan's traffic: a canary that is as good as the baseline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysis.power.detection import Traffic
from analysis.simulation.counts import CountSimulator, SegmentWorld
from analysis.spec import ServiceSpec


def good_world(traffic: Traffic) -> list[SegmentWorld]:
    """The segments' people, in matching order."""
    return [
        SegmentWorld(sessions_per_s=rate, base=base, excess=(0.0,) * len(base))
        for rate, base in zip(traffic.sessions_per_s, traffic.base, strict=True)
    ]


def harm_rates(spec: ServiceSpec, traffic: Traffic) -> npt.NDArray[np.float64]:
    """(S,) the baseline's shares of sessions that count as harm: bad in any way, the ways being independent."""
    unused = np.random.default_rng(0)  # the rates are no matter of chance
    return CountSimulator(spec, good_world(traffic), rng=unused).harm_rates(0.0)[:, 0]
