"""What a fixed-threshold rule would have done with the same people: the counterfactual beside every decision.

The rule is the one that the documentation of Argo Rollouts gives as an example: at least 95 % of what the canary served
in the last 5 minutes must have succeeded; it is looked at every 5 minutes, and the fourth failure rolls back. It has no
baseline, no tolerance, and no notion of how few people it has seen. It never acts here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.recent import Floats
from analysis.spec import KpiKind, ServiceSpec
from analysis.window import CANARY

SUCCESS = 0.95
LOOK_S = 300.0
FAILURES = 4


class ReactiveRule:
    """The rule in each segment of B rollouts. `failures` (B, S); `fired_s` (B, S): since exposure, NaN: never."""

    def __init__(self, spec: ServiceSpec, n: int = 1) -> None:
        shape = (n, len(spec.segments))
        self._errors = next((k for k, kpi in enumerate(spec.kpis) if kpi.kind is KpiKind.ERROR_RATE), None)
        self._seen, self._bad = np.zeros(shape), np.zeros(shape)
        self._looks = np.zeros(n)
        self.failures = np.zeros(shape)
        self.fired_s = np.full(shape, np.nan)

    def update(self, n: Floats, bad: Floats, *, since_exposure_s: npt.ArrayLike) -> None:
        """Add one tick's people, (B, S, K, 2), ending `since_exposure_s` (B,) after the first exposure."""
        if self._errors is None:
            return
        self._seen += n[:, :, self._errors, CANARY]
        self._bad += bad[:, :, self._errors, CANARY]
        since = np.broadcast_to(np.asarray(since_exposure_s, float), self._looks.shape)
        due = since >= (self._looks + 1) * LOOK_S
        if not due.any():
            return
        self._looks[due] = np.floor(since[due] / LOOK_S)
        failed = due[:, None] & (self._bad > (1 - SUCCESS) * self._seen)
        self.failures += failed
        fires = failed & (self.failures >= FAILURES) & np.isnan(self.fired_s)
        self.fired_s = np.where(fires, since[:, None], self.fired_s)
        self._seen[due], self._bad[due] = 0.0, 0.0

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists. Of a single rollout."""
        return {
            "counts": [self._seen[0].tolist(), self._bad[0].tolist(), self.failures[0].tolist()],
            "looks": float(self._looks[0]),
            "fired_s": [None if np.isnan(x) else float(x) for x in self.fired_s[0]],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave, of the same specification."""
        shape = self.failures.shape
        self._seen, self._bad, self.failures = np.asarray(state["counts"], float).reshape(3, *shape)
        self._looks = np.array([float(state["looks"])])
        fired = [np.nan if x is None else float(x) for x in state["fired_s"]]
        self.fired_s = np.array(fired).reshape(shape)
