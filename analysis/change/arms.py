"""The canary beside the baseline: how far apart, against how far apart instances of the baseline are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from analysis.change.kpis import KpiKind
from analysis.change.looks import FALSE_ALARM, corrected
from analysis.change.series import Floats, mean

WINDOW = 8  # newest ticks that are compared
PAIRS_MIN = 3  # ticks with values of both arms
MOST_FREEDOM = 30.0


class Contrast(NamedTuple):
    """At the first tick at which the difference was beyond tolerance and chance.

    `tick`: index after the beginning; `p`: after all looks, in [0, 1]; `effect`: canary less baseline on the KPI's
    scale; `baseline`, `canary`: means of their values.
    """

    tick: int
    p: float
    effect: float
    baseline: float
    canary: float


def contrast(baseline: Floats, canary: Floats, start: int, kind: KpiKind, *, n_places: int) -> Contrast | None:
    """The first tick at which the canary is worse than `kind.tolerance` allows, or None.

    `baseline`, `canary` : (instances, ticks) values; the release begins at column `start`. NaN: nothing was measured.

    The mean difference of the newest WINDOW ticks, less the tolerance, over its standard error, by Student's t. The
    error is the largest of three: how far single instances of the baseline are from the others over as many ticks,
    now and before (two instances of one version differ too, and go on to); the spread of the difference from tick to
    tick; and the KPI's floor. By as much as the baseline itself has become worse, the canary may be worse still: what
    both share is not the canary's, and two versions seldom suffer alike. Where instances of the canary were there
    before, what they differed in then is taken off (difference in differences).

    Limits: with one instance of the baseline, nothing tells how much instances differ; the floor alone stands for it.
    """
    both = np.concatenate([baseline.ravel(), canary.ravel()])
    is_log = kind.is_log(both)
    old, new = (np.log(values) if is_log else values for values in (baseline, canary))
    floor = kind.floor if kind.is_share or is_log else kind.floor * float(np.nanmedian(np.abs(both)))
    tolerance = kind.tolerance if kind.is_share or is_log else kind.tolerance * float(np.nanmedian(np.abs(both)))
    apart = mean(new) - mean(old)
    before = apart[:start]
    known = before[np.isfinite(before)]
    if len(known) >= PAIRS_MIN:
        apart = apart - known.mean()
    others = _from_others(old)
    level = mean(old)
    for tick in range(start, len(apart)):
        recent = slice(max(tick - WINDOW + 1, start), tick + 1)
        pairs = apart[recent][np.isfinite(apart[recent])]
        if len(pairs) < PAIRS_MIN:
            continue
        error, freedom = _error(pairs, others, start, recent, floor)
        for sign in kind.signs:
            shared = _worsening(sign * level, start, recent)
            score = (sign * float(pairs.mean()) - tolerance - shared) / error
            p = corrected(
                float(student.logsf(score, freedom)), n_places=n_places * len(kind.signs), look=tick - start + 1
            )
            if p <= FALSE_ALARM:
                return Contrast(
                    tick - start, p, float(pairs.mean()),
                    _over(baseline, recent), _over(canary, recent),
                )  # fmt: skip
    return None


def _worsening(level: Floats, start: int, recent: slice) -> float:
    """By how much the baseline is above what it was before the release, at least 0."""
    before, now = (each[np.isfinite(each)] for each in (level[:start], level[recent]))
    return max(float(now.mean() - np.median(before)), 0.0) if len(before) and len(now) else 0.0


def _from_others(values: Floats) -> Floats:
    """(instances, ticks) each instance less the mean of the others; NaN without others."""
    seen = np.isfinite(values)
    filled = np.where(seen, values, 0.0)
    count, total = seen.sum(axis=0), filled.sum(axis=0)
    rest = count[None, :] - seen
    level = np.divide(total[None, :] - filled, rest, out=np.full(values.shape, np.nan), where=rest > 0)
    apart: Floats = np.where(seen, values - level, np.nan)
    return apart


def _error(pairs: Floats, others: Floats, start: int, recent: slice, floor: float) -> tuple[float, float]:
    """Standard error of the mean of the pairs, and the degrees of freedom that it rests on."""
    blocks = [others[:, recent], *_blocks(others[:, :start], len(pairs))]
    means = [row[np.isfinite(row)].mean() for block in blocks for row in block if np.isfinite(row).any()]
    freedom = float(max(len(means), len(pairs)) - 1)
    between = float(np.mean(np.square(means))) if means else 0.0
    seen = max(between, float(pairs.var(ddof=1)) / len(pairs))
    variance = seen + floor**2
    # Welch and Satterthwaite: the floor is not estimated, so it has as many degrees of freedom as there can be
    freedom = min(max(freedom, 1.0) * (variance / seen) ** 2, MOST_FREEDOM) if seen > 0 else MOST_FREEDOM
    return float(np.sqrt(variance)), freedom


def _blocks(values: Floats, width: int) -> Sequence[Floats]:
    """The newest columns cut into pieces as wide as what they are compared with; at most ten."""
    ends = range(values.shape[1], width - 1, -width)
    return [values[:, end - width : end] for end in list(ends)[:10]]


def _over(values: Floats, recent: slice) -> float:
    seen = values[:, recent]
    return float(seen[np.isfinite(seen)].mean())
