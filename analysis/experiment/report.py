"""An experiment's course and state as plain data: effects over time with their intervals, allocation over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.experiment.allocation import regret
from analysis.experiment.checks import MultipleExposure, SampleRatio, Stage, sample_ratio
from analysis.experiment.design import Experiment
from analysis.experiment.effects import Effects
from analysis.experiment.multiplicity import closed, e_bh
from analysis.experiment.posterior import Posterior, posterior
from analysis.experiment.tally import N, Tally
from analysis.experiment.verdict import Verdict, judge

Floats = npt.NDArray[np.float64]

ALL = "all"
"""The row of all segments together."""
MAX_LOOKS = 400  # that are kept for plots; of more, every other one goes
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRow:
    """One variant against the control, by one metric in one segment (or ALL), at one look. Units: the metric's.

    `low`, `high`: the confidence sequence at the row's part of alpha. `p`: always-valid p-value of this row alone;
    `p_adjusted`: the same after closed testing over goals and variants (FWER), None for a guardrail; `discovery`:
    whether e-BH keeps it (FDR of alpha) among them, never a guardrail. None elsewhere: nothing can be said yet.
    """

    segment: str
    metric: str
    variant: str
    n: int
    n_control: int
    mean: float | None
    mean_control: float | None
    effect: float | None
    low: float | None
    high: float | None
    log_e: float
    p: float
    p_adjusted: float | None
    discovery: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    at_s: float
    rows: tuple[EffectRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """How a segment's newcomers were shared out from `at_s` on, by variant in [0, 1]."""

    at_s: float
    segment: str
    shares: tuple[float, ...]


class Course:
    """What is remembered of the looks at one experiment, bounded by MAX_LOOKS and as many allocations a segment."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.looks: list[Look] = []
        self.shared: dict[str, list[Shared]] = {name: [] for name in experiment.segments}
        s, v, m = experiment.shape
        self._highest_closed = np.zeros((s + 1, m, v))
        self._goals = [i for i, metric in enumerate(experiment.metrics) if not metric.is_guardrail]

    def allot(self, at_s: float, shares: npt.ArrayLike) -> None:
        """Note the shares (S, V) in force from now on."""
        _, n, _ = self.experiment.shape
        asked = np.broadcast_to(np.asarray(shares, float), (len(self.experiment.segments), n))
        for name, row in zip(self.experiment.segments, asked, strict=True):
            kept = self.shared[name]
            new = Shared(at_s=at_s, segment=name, shares=tuple(row.tolist()))
            if not kept or kept[-1].shares != new.shares:
                kept.append(new)
            if len(kept) > MAX_LOOKS:
                del kept[1:-1:2]

    def note(self, effects: Effects, at_s: float) -> Look:
        """Look, and remember it."""
        pairs = effects.pairs()
        evidence = pairs.log_e[..., 0]
        discoveries = np.zeros(evidence.shape, bool)
        self._correct(evidence, discoveries)
        look = Look(at_s=at_s, rows=tuple(self._rows(effects, discoveries)))
        self.looks.append(look)
        if len(self.looks) > MAX_LOOKS:
            del self.looks[1:-1:2]
        return look

    def _correct(self, evidence: Floats, discoveries: npt.NDArray[np.bool_]) -> None:
        """All segments together are one family; the segments by themselves are another."""
        n = len(self.experiment.segments)
        for rows in ([n], list(range(n))) if n > 1 else ([n],):
            place = np.ix_(rows, self._goals, range(1, evidence.shape[-1]))
            family = evidence[place]
            discoveries[place] = e_bh(family, self.experiment.alpha).reshape(family.shape)
            adjusted = closed(family).reshape(family.shape)
            self._highest_closed[place] = np.maximum(self._highest_closed[place], adjusted)

    def _rows(self, effects: Effects, discoveries: npt.NDArray[np.bool_]) -> Iterable[EffectRow]:
        pairs, people, mean, highest = effects.pairs(), effects.people, effects.mean, effects.highest_log_e
        for row, segment in _named_rows(self.experiment):
            for m, metric in enumerate(self.experiment.metrics):
                for v, variant in enumerate(self.experiment.variants[1:], 1):
                    yield EffectRow(
                        segment=segment, metric=metric.name, variant=variant.name,
                        n=int(people[row, v, m]), n_control=int(people[row, 0, m]),
                        mean=_number(mean[row, v, m]), mean_control=_number(mean[row, 0, m]),
                        effect=_number(pairs.effect[row, m, v, 0]), low=_number(pairs.low[row, m, v, 0]),
                        high=_number(pairs.high[row, m, v, 0]), log_e=float(pairs.log_e[row, m, v, 0]),
                        p=math.exp(-float(highest[row, m, v, 0])),
                        p_adjusted=None if metric.is_guardrail else math.exp(-float(self._highest_closed[row, m, v])),
                        discovery=bool(discoveries[row, m, v]),
                    )  # fmt: skip


def _named_rows(experiment: Experiment) -> list[tuple[int, str]]:
    """A single segment is all of them, and has one row."""
    n = len(experiment.segments)
    return [(n, ALL), *(enumerate(experiment.segments) if n > 1 else ())]


def analyse(
    experiment: Experiment,
    ticks: Mapping[float, Tally],
    *,
    shares: Mapping[float, npt.ArrayLike],
    totals: bool,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """The report of a finished or running experiment from its tallies by time, as `as_data` gives it.

    `shares` (S, V) by the same times: what newcomers were shared out by. `totals`: each tally is all that is known by
    then and no tick of its own; then nothing can be stratified by tick, and what it does not tell is as it was before.
    """
    effects, course = Effects(experiment), Course(experiment)
    ticks = _carried(ticks) if totals else ticks
    for at_s in sorted(ticks):
        course.allot(at_s, shares[at_s])
        if totals:
            effects.replace(ticks[at_s])
        else:
            effects.update(ticks[at_s], shares[at_s])
        course.note(effects, at_s)
    last = max(ticks, default=0.0)
    counted = {last: ticks[last]} if totals and ticks else ticks
    stages = [stage for at_s, tally in counted.items() for stage in _stages(tally, shares[at_s])]
    multiple = sum((int(tally.multiple.sum()) for tally in counted.values()), 0)
    exposed = sum((int(tally.exposed.sum()) for tally in counted.values()), 0)
    ratio, met_several = sample_ratio(stages), MultipleExposure(people=multiple, of=exposed + multiple)
    trusted = not (ratio.is_mismatch or ratio.is_proven or met_several.is_too_many)
    return as_data(course, effects, judge(effects, now_s=last, trusted=trusted), ratio, met_several, rng)


def _carried(totals: Mapping[float, Tally]) -> dict[float, Tally]:
    """Totals in which cells without people have those of the time before: metrics are not always told together."""
    carried: dict[float, Tally] = {}
    before: Tally | None = None
    for at_s in sorted(totals):
        now = totals[at_s]
        if before is not None:
            cells = np.where(now.cells[..., N, None] > 0, now.cells, before.cells)
            now = Tally(cells, np.maximum(now.exposed, before.exposed), np.maximum(now.multiple, before.multiple))
        carried[at_s] = before = now
    return carried


def _stages(tally: Tally, shares: npt.ArrayLike) -> Iterable[Stage]:
    asked = np.broadcast_to(np.asarray(shares, float), tally.exposed.shape)
    for row, seen in zip(asked.tolist(), tally.exposed.tolist(), strict=True):
        yield Stage(shares=tuple(row), exposed=tuple(seen))


def as_data(
    course: Course,
    effects: Effects,
    verdicts: tuple[Verdict, ...],
    ratio: SampleRatio,
    multiple: MultipleExposure,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Everything of one experiment, of types that JSON has; what is not known is None."""
    experiment, belief = course.experiment, posterior(effects)
    return {
        "format": FORMAT,
        "experiment": _of_design(experiment),
        "effects": [asdict(row) for row in course.looks[-1].rows] if course.looks else [],
        "bayesian": _of_belief(experiment, belief, rng),
        "verdicts": {name: asdict(verdicts[row]) for row, name in _named_rows(experiment)},
        "checks": {
            "sample_ratio": {**asdict(ratio), "mismatch": ratio.is_mismatch, "proven": ratio.is_proven},
            "multiple_exposure": {**asdict(multiple), "share": multiple.share, "too_many": multiple.is_too_many},
        },
        "left_out": int(effects.left_out.max(axis=-1).sum()),
        "covariate": {
            metric.name: {"theta": float(theta), "variance_left": float(left)}
            for metric, theta, left in zip(experiment.metrics, effects.theta, effects.variance_left, strict=True)
        },
        "regret": _of_regret(experiment, effects, belief),
        "effects_over_time": [asdict(look) for look in course.looks],
        "allocation_over_time": [asdict(each) for rows in course.shared.values() for each in rows],
    }


def _of_design(experiment: Experiment) -> dict[str, Any]:
    data = asdict(experiment)
    data["start_s"], data["end_s"] = _number(experiment.start_s), _number(experiment.end_s)
    return data


def _of_belief(experiment: Experiment, belief: Posterior, rng: np.random.Generator) -> list[dict[str, Any]]:
    effect, deviation = belief.against_control()
    low, high = belief.credible()
    beats, loss = belief.chance_to_beat(), belief.expected_loss()
    everybody = np.ones((len(experiment.segments) + 1, len(experiment.variants)), bool)
    best = np.stack([belief.chance_best(m, everybody, rng) for m in range(len(experiment.metrics))], axis=1)
    return [
        {
            "segment": segment, "metric": metric.name, "variant": variant.name, "known": bool(belief.known[row, m]),
            "effect": float(effect[row, m, v]), "deviation": float(deviation[row, m, v]),
            "low": float(low[row, m, v]), "high": float(high[row, m, v]),
            "chance_to_beat_control": float(beats[row, m, v]), "chance_best": float(best[row, m, v]),
            "expected_loss": float(loss[row, m, v]),
        }
        for row, segment in _named_rows(experiment)
        for m, metric in enumerate(experiment.metrics)
        for v, variant in enumerate(experiment.variants)
    ]  # fmt: skip


def _of_regret(experiment: Experiment, effects: Effects, belief: Posterior) -> dict[str, float]:
    """Of the deciding metric, by the posterior means; what equal shares would have cost beside it."""
    m = experiment.primary
    n = len(experiment.segments)
    own, equal = regret(effects.people[:n, :, m], belief.mean[:n, m], float(experiment.metrics[m].better.sign))
    return {"estimate": float(own.sum()), "of_equal_shares": float(equal.sum())}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
