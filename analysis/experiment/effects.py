"""By how much do the variants differ? Effects with intervals that hold at every look, however the split moves.

Strata. The people of one tick (and segment) form a stratum; within it people are assigned by chance with known shares,
so that differences between its variants are effects and nothing else, whatever the shares and the day are. The effect
is the mean of the strata's differences with weights w = n_a·n_b/(n_a + n_b) (post-stratification with the weights of
Mantel & Haenszel 1959; Greenland & Robins 1985; of strata with one variance they are those of least variance). The
numbers of people depend on past outcomes only, through the shares, so that the weighted sum of differences minus
effects is a martingale, also under adaptive allocation. Where effects differ over time the interval is about their mean
with these weights. A stratum is whole once every variant in play has at least two people; it may then span several
ticks, but never two allocations. What an allocation leaves over is lost, and counted.

Variance reduction. The covariate x from before the exposure is taken off: y - θx (CUPED; Deng, Xu, Kohavi & Walker,
WSDM 2013). θ is the regression coefficient within variants and strata, estimated from *earlier* strata alone. It is
then a constant for the people it is applied to, chance gives all variants the same x on average, and the difference is
unbiased whatever θ is: estimation cannot break the guarantee, only waste part of the reduction. `Effects(...)` with no
covariate in the tallies has θ = 0.

Intervals are those of `sequence.py`, of both variants' own variances (Welch), for each pair of variants by itself.
Nothing is said (NaN) before there are LEAST_N people in both variants and LEAST_EVENTS effective events are to be
expected in the smaller one (or, of a mean, LARGE_N people in both): from there on the asymptotic theory is good enough
(measured: tests and benchmarks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.errors import StateError
from analysis.experiment.design import Experiment, Kind
from analysis.experiment.sequence import half_width, log_e
from analysis.experiment.tally import CROSS, PRIOR, PRIOR_SQ, SUM, SUM_SQ, N, Tally

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LEAST_N = 50
LEAST_EVENTS = 10.0
"""Events of a rate are the rarer of yes and no; of a mean (sum)²/(sum of squares), the same where all that is not 0 is
one size."""
LARGE_N = 10_000
"""So many people in both variants are enough for a mean whatever its events: outcomes on both sides of 0 have none."""
LEAST_IN_STRATUM = 2  # people of a variant, for a variance of its own
LEAST_FOR_THETA = 100.0  # degrees of freedom behind a coefficient, before it is used


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """All pairs of variants: [..., a, b] is a minus b. Rows R = S + 1: the segments, and last all of them together.

    `effect`, `low`, `high` (R, M, V, V) in the metric's unit; `log_e` against no difference; NaN (0 for log_e) where
    nothing can be said yet, and on the diagonal.
    """

    effect: Floats
    low: Floats
    high: Floats
    log_e: Floats


class Effects:
    """Running sums of an experiment: their size does not grow.

    Public arrays, rows as in `Pairs`: `people` (R, V, M) judged, `mean` (R, V, M) plain means of outcomes. `left_out`
    (S, V, M): people lost at the ends of allocations.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        s, v, m = experiment.shape
        self._is_rate = np.array([metric.kind is Kind.RATE for metric in experiment.metrics])
        self._waiting = np.zeros((s, v, m, 6))
        self._shares: Floats | None = None
        self._totals = np.zeros((s, v, m, 6))  # of whole strata
        self._pairs = np.zeros((3, s, m, v, v))  # information, weighted differences, and their variances
        self._squares = np.zeros((s, m, v, 2))  # sums of squares within strata, and degrees of freedom
        self._theta = np.zeros((2, m))  # sums within strata of x·y and x·x
        self._design = np.zeros((s, m, v, v))  # of the regression on variants and strata: see `posterior.py`
        self._score = np.zeros((s, m, v))
        self._noise = np.zeros((s, m, v, v))
        self.left_out = np.zeros((s, v, m))
        self._highest = np.full((s + 1, m, v, v), -np.inf)

    def update(self, tally: Tally, shares: npt.ArrayLike) -> None:
        """Add one tick, oldest first; `shares` (S, V) or (V,): how its newcomers were shared out."""
        asked = np.broadcast_to(np.asarray(shares, float), tally.exposed.shape)
        if self._shares is not None:
            self._close((asked != self._shares).any(axis=1))
        self._shares = asked.copy()
        self._waiting += np.where(np.isfinite(tally.cells).all(axis=-1, keepdims=True), tally.cells, 0.0)
        in_play = (asked > 0)[:, :, None]
        self._close_whole((self._waiting[..., N] >= LEAST_IN_STRATUM) | ~in_play)

    def _close_whole(self, is_enough: Flags) -> None:
        whole: Flags = np.all(is_enough, axis=1)
        self._take(np.where(whole[:, None, :, None], self._waiting, 0.0))
        self._waiting = np.where(whole[:, None, :, None], 0.0, self._waiting)
        self._note_highest()

    def _close(self, ended: Flags) -> None:
        """An allocation ends in some segments, (S,) bool: pairs that are whole count, everybody else is left out."""
        rest = np.where(ended[:, None, None, None], self._waiting, 0.0)
        is_enough = rest[..., N] >= LEAST_IN_STRATUM
        is_pair = is_enough.sum(axis=1, keepdims=True) >= 2
        counted = np.where((is_enough & is_pair)[..., None], rest, 0.0)
        self._take(counted)
        self.left_out += rest[..., N] - counted[..., N]
        self._waiting = self._waiting - rest

    def replace(self, tally: Tally) -> None:
        """Take all that is known by now as one stratum, in place of what was: for sources that tell only totals.

        The highest evidence so far is kept. It is right only while the shares do not move.
        """
        for sums in (self._totals, self._pairs, self._squares, self._theta, self._design, self._score, self._noise):
            sums[:] = 0.0
        self._waiting = tally.cells.copy()
        self._close_whole((self._waiting[..., N] >= LEAST_IN_STRATUM) | (self._waiting[..., N] == 0))

    # -- one stratum -------------------------------------------------------------------------------------------------

    def _take(self, cells: Floats) -> None:
        theta = self.theta
        n = np.moveaxis(cells[..., N], 1, -1)  # (S, M, V) from here on
        safe = np.maximum(n, 1.0)
        y, yy, x, xx, xy = (np.moveaxis(cells[..., i], 1, -1) for i in (SUM, SUM_SQ, PRIOR, PRIOR_SQ, CROSS))
        t = theta[:, None]
        mean = (y - t * x) / safe
        within = np.maximum(yy - 2 * t * xy + t**2 * xx - n * mean**2, 0.0)
        df = np.maximum(n - 1, 0.0)
        variance = np.divide(within, df, out=np.zeros_like(within), where=df > 0)
        self._add_pairs(n, mean, variance)
        self._add_regression(n, mean, variance)
        self._squares += np.stack([within, df], axis=-1)
        self._theta += np.stack([(xy - x * y / safe).sum(axis=(0, 2)), (xx - x**2 / safe).sum(axis=(0, 2))])
        self._totals += cells

    def _add_pairs(self, n: Floats, mean: Floats, variance: Floats) -> None:
        a, b = n[..., :, None], n[..., None, :]
        both = (a >= LEAST_IN_STRATUM) & (b >= LEAST_IN_STRATUM)
        w = np.where(both, a * b / np.maximum(a + b, 1.0), 0.0)
        difference = mean[..., :, None] - mean[..., None, :]
        of_mean = variance / np.maximum(n, 1.0)
        self._pairs += np.stack([w, w * difference, w**2 * (of_mean[..., :, None] + of_mean[..., None, :])])

    def _add_regression(self, n: Floats, mean: Floats, variance: Floats) -> None:
        total = np.maximum(n.sum(axis=-1), 1.0)[..., None]
        eye = np.eye(n.shape[-1])
        self._design += n[..., :, None] * eye - n[..., :, None] * n[..., None, :] / total[..., None]
        centre = (n * mean).sum(axis=-1, keepdims=True) / total
        self._score += n * (mean - centre)
        # the score is M·(sums of outcomes), with M = I - n·1'/N
        m = eye - n[..., :, None] / total[..., None]
        self._noise += (m * (n * variance)[..., None, :]) @ np.swapaxes(m, -1, -2)

    # -- what they say -----------------------------------------------------------------------------------------------

    @property
    def theta(self) -> Floats:
        """(M,) the coefficient that the next stratum's covariate is adjusted by; 0 while too little is known."""
        cross, square = self._theta
        known = (self._squares[..., 1].sum(axis=(0, 2)) >= LEAST_FOR_THETA) & (square > 0)
        found: Floats = np.divide(cross, square, out=np.zeros_like(cross), where=known)
        return found

    @property
    def people(self) -> Floats:
        """(R, V, M) judged people in whole strata."""
        return _with_all(self._totals[..., N])

    @property
    def mean(self) -> Floats:
        """(R, V, M) plain means of outcomes, without strata and covariate; NaN without people."""
        n, total = self.people, _with_all(self._totals[..., SUM])
        return np.divide(total, n, out=np.full_like(n, np.nan), where=n > 0)

    @property
    def variance_left(self) -> Floats:
        """(M,) variance with the covariate as a share of the variance without it, within variants; 1 if none helps."""
        y = np.moveaxis(self._totals[..., SUM], 1, -1)
        n = np.maximum(np.moveaxis(self._totals[..., N], 1, -1), 1.0)
        plain = (np.moveaxis(self._totals[..., SUM_SQ], 1, -1) - y**2 / n).sum(axis=(0, 2))
        cross, square = self._theta
        taken = np.divide(cross**2, square, out=np.zeros_like(cross), where=square > 0)
        left: Floats = 1 - np.divide(taken, plain, out=np.zeros_like(plain), where=plain > 0)
        return left

    def pairs(self, alpha: float | None = None) -> Pairs:
        """All pairs now; with their row's part of alpha, or with the given one in every row."""
        w, total, variance = (_with_all(sums) for sums in self._pairs)
        known = self._is_settled & (w > 0) & (variance > 0)
        rows = np.array([self.experiment.row_alpha(row) if alpha is None else alpha for row in range(len(w))])
        half = half_width(variance, np.where(known, w, 0.0), rows[:, None, None, None])
        effect = np.divide(total, w, out=np.full_like(w, np.nan), where=known)
        with np.errstate(invalid="ignore"):
            low, high = effect - half, effect + half
        least = np.where(self._is_rate, -1.0, -np.inf)[:, None, None]
        return Pairs(
            effect=effect, low=np.maximum(low, least), high=np.minimum(high, -least),
            log_e=np.where(known, log_e(total, variance, w), 0.0),
        )  # fmt: skip

    @property
    def highest_log_e(self) -> Floats:
        """(R, M, V, V) the highest evidence at any update so far; at least 0, as 1 is what every bet begins with.

        Its inverse exponential is the always-valid p-value (Johari, Pekelis & Walsh 2015).
        """
        highest: Floats = np.maximum(self._highest, 0.0)
        return highest

    @property
    def _is_settled(self) -> Flags:
        """(R, M, V, V) whether there are people and events enough."""
        n, y, yy = (np.moveaxis(_with_all(self._totals[..., i]), 1, -1) for i in (N, SUM, SUM_SQ))
        both_n, both_y, both_yy = (x[..., :, None] + x[..., None, :] for x in (n, y, yy))
        smaller = np.minimum(n[..., :, None], n[..., None, :])
        kish = np.divide(both_y**2, both_yy, out=np.zeros_like(both_y), where=both_yy > 0)
        events = np.where(self._is_rate[:, None, None], np.minimum(both_y, both_n - both_y), kish)
        is_large = (smaller >= LARGE_N) & ~self._is_rate[:, None, None]
        settled: Flags = (smaller >= LEAST_N) & (events * smaller >= LEAST_EVENTS * both_n) | is_large
        return settled & ~np.eye(n.shape[-1], dtype=bool)

    def _note_highest(self) -> None:
        self._highest = np.maximum(self._highest, self.pairs().log_e)

    def regression(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Least squares of outcomes on variants, with each stratum's own level, by rows: for `posterior.py`.

        Normal equations (R, M, V, V) and right side (R, M, V); the variance of the right side (R, M, V, V); and the
        variance of one outcome within strata (R, M), 0 while unknown.
        """
        squares = _with_all(self._squares.sum(axis=2))
        one = np.divide(squares[..., 0], squares[..., 1], out=np.zeros_like(squares[..., 0]), where=squares[..., 1] > 0)
        return _with_all(self._design), _with_all(self._score), _with_all(self._noise), one

    # -- over a restart ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Everything needed to go on after a restart, as plain lists."""
        arrays = {name: getattr(self, name) for name in _KEPT}
        arrays["_highest"] = self.highest_log_e
        shares = None if self._shares is None else self._shares.tolist()
        return {"shares": shares, **{name.strip("_"): array.tolist() for name, array in arrays.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave, of the same experiment. Raises StateError."""
        try:
            taken = {name: np.array(state[name.strip("_")], float).reshape(getattr(self, name).shape) for name in _KEPT}
            shares = state["shares"]
            asked = None if shares is None else np.array(shares, float).reshape(self._totals.shape[:2])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"experiment {self.experiment.name}: its sums are damaged ({error})") from None
        if not all(np.isfinite(array).all() for array in taken.values()):
            raise StateError(f"experiment {self.experiment.name}: its sums are damaged (not finite)")
        for name, array in taken.items():
            setattr(self, name, array)
        self._shares = asked


_KEPT = (
    "_waiting", "_totals", "_pairs", "_squares", "_theta", "_design", "_score", "_noise", "left_out", "_highest",
)  # fmt: skip


def _with_all(sums: Floats) -> Floats:
    """(S, …) sums with a last row for all segments together."""
    return np.concatenate([sums, sums.sum(axis=0, keepdims=True)])
