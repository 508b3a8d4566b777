"""All who take part, by name: how to make one, and the knobs that make it stricter.

A peer has its documented plan, and a second entry, tuned to the false-rollback rate that Serinus promises; Serinus's
own contestants and the oracle are in `benchmarks.contest.serinus`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.contest.peers import argo, flagger, growthbook, iter8_v1, iter8_v2, kayenta, pritchard, statsig
from benchmarks.contest.peers.predict_linear import LIMIT, PredictLinear
from benchmarks.contest.peers.protocol import Peer
from benchmarks.contest.peers.ramp_z import ALPHA, RampZ

Rng = np.random.Generator
Values = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One limit, moved on a logarithmic scale from `loosest` (fewest rollbacks) to `strictest`.

    `one_minus`: what is moved is the limit's distance from 1 (a success rate).
    """

    name: str
    documented: float
    strictest: float
    loosest: float
    one_minus: bool = False

    def at(self, share: float) -> float:
        """The limit at a strictness in [0, 1]."""
        loose, strict = (np.log(1 - v if self.one_minus else v) for v in (self.loosest, self.strictest))
        value = float(np.exp(loose + share * (strict - loose)))
        return 1 - value if self.one_minus else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`make`: a peer's rollout, from a generator of its own and the knobs' values.

    `heat`: whom it shares a world with; those that take about as long as each other. `sees_durations`: of requests.
    """

    name: str
    make: Callable[[Rng, Values], Peer]
    knobs: tuple[Knob, ...] = ()
    heat: str = "an hour"
    sees_durations: bool = False


_SUCCESS = Knob(name="success", documented=0.99, strictest=1 - 1e-4, loosest=0.5, one_minus=True)
_P99 = Knob(name="p99_ms", documented=flagger.P99_MS, strictest=50.0, loosest=20_000.0)
_ALPHA = Knob(name="alpha", documented=0.05, strictest=0.5, loosest=1e-7)


def _argo(name: str) -> Knob:
    return Knob(name=name, documented=argo.DOCS_SUCCESS, strictest=1 - 1e-4, loosest=0.3, one_minus=True)


PEERS: tuple[Entry, ...] = (
    Entry(name="argo-docs", make=lambda _, v: argo.argo_docs(**v), knobs=(_argo("success"),)),
    Entry(name="argo-strict", make=lambda _, v: argo.argo_strict(**v), knobs=(_argo("success"),)),
    Entry(
        name="flagger-docs", make=lambda _, v: flagger.flagger_docs(**v), knobs=(_SUCCESS, _P99), sees_durations=True
    ),
    Entry(
        name="flagger-steps", make=lambda _, v: flagger.flagger_steps(**v), knobs=(_SUCCESS, _P99), sees_durations=True
    ),
    Entry(
        name="kayenta-docs",
        make=lambda rng, v: kayenta.kayenta_docs(rng, **v),
        knobs=(Knob(name="tolerance", documented=kayenta.TOLERANCE, strictest=1e-3, loosest=10.0),),
        heat="hours",
        sees_durations=True,
    ),
    Entry(
        name="iter8-v1",
        make=lambda rng, v: iter8_v1.iter8_v1(rng, **v),
        knobs=(
            Knob(name="errors", documented=iter8_v1.ERRORS, strictest=1e-4, loosest=0.9),
            Knob(name="latency_times", documented=iter8_v1.LATENCY_TIMES, strictest=1.0, loosest=100.0),
        ),
        sees_durations=True,
    ),
    Entry(
        name="iter8-v2",
        make=lambda rng, v: iter8_v2.iter8_v2(rng, **v),
        knobs=(
            Knob(name="errors", documented=iter8_v2.ERRORS, strictest=1e-4, loosest=0.9),
            Knob(name="mean_ms", documented=iter8_v2.MEAN_MS, strictest=10.0, loosest=20_000.0),
            Knob(name="p95_ms", documented=iter8_v2.P95_MS, strictest=10.0, loosest=20_000.0),
        ),
        sees_durations=True,
    ),
    Entry(name="growthbook-safe", make=lambda rng, _: growthbook.growthbook_safe(rng), heat="hours"),
    Entry(name="growthbook-1m", make=lambda rng, v: growthbook.growthbook_minute(rng, **v), knobs=(_ALPHA,)),
    Entry(name="statsig-daily", make=lambda _rng, _v: statsig.statsig_daily(), heat="hours"),
    Entry(name="statsig-1m", make=lambda _, v: statsig.statsig_minute(**v), knobs=(_ALPHA,)),
    Entry(
        name="pritchard-q",
        make=lambda _, v: pritchard.Pritchard(**v),
        knobs=(Knob(name="kappa", documented=pritchard.KAPPA, strictest=3_000.0, loosest=0.1),),
        heat="hours",
    ),
    Entry(
        name="ramp-z",
        make=lambda _, v: RampZ(**v),
        knobs=(Knob(name="alpha", documented=ALPHA, strictest=0.5, loosest=1e-9),),
    ),
    Entry(
        name="predict-linear",
        make=lambda _, v: PredictLinear(**v),
        knobs=(Knob(name="limit", documented=LIMIT, strictest=1e-4, loosest=0.9),),
    ),
)

PEERS_BY_NAME: Mapping[str, Entry] = {entry.name: entry for entry in PEERS}
