"""Training of the failure model: its scores on releases that it has not seen, and whether it may serve.

The newest releases are held out and predicted by a model of the older ones. What serves is fitted to all of them: the
same recipe with more data. A challenger serves only where it predicted better than the champion on releases that
neither had seen, by more than noise; the first one has only the prior to beat, and need not be sure: it is drawn to the
prior while it is young.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import logit
from scipy.stats import rankdata

from analysis.failure.facts import PRIOR_RISK, PastRelease
from analysis.failure.fitting import MOST_RELEASES, Progress, fit_model
from analysis.failure.logit import fit
from analysis.failure.model import LEAST_RELEASES, FailureModel

Floats = npt.NDArray[np.float64]

HELD_OUT_SHARE, LEAST_HELD_OUT = 0.3, 10
SURE = 1.0  # standard errors by which a challenger must be better: one in six lucky ones passes, and can be put back
SURE_95 = 1.96
DRIFTED, DRIFT_RELEASES = 3.0, 10  # standard errors of miscalibration that call for a training, on so many at least
CLIPPED = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Of `n` held-out releases, of which so many failed. `auc`, `slope`: None where one class is missing.

    `brier`, `log_loss`: mean, the lower the better. `slope`: of the outcome's log-odds on the predicted ones; 1 is
    calibrated, less is too sure.
    """

    n: int
    failures: int
    brier: Interval
    log_loss: Interval
    auc: Interval | None = None
    slope: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A challenger beside the champion on `n` releases that neither had seen.

    `gain`: by how much its mean log loss is less; `noise`: the standard error of that; `serves`: whether it may.
    """

    serves: bool
    why: str
    n: int = 0
    gain: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A challenger, fitted to all releases. `fingerprint`: of these; `until_s`: when the newest of them began.

    `before`, `after`: scores before the traffic, and with the first minutes where they are recorded.
    """

    model: FailureModel
    fingerprint: str
    until_s: float
    before: Scores
    after: Scores
    comparison: Comparison


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Champion:
    """The model that serves, and when the newest release began that it was fitted to."""

    model: FailureModel
    until_s: float


def train(
    releases: Sequence[PastRelease], champion: Champion | None, *, progress: Progress = lambda _: None
) -> Trained:
    """Fit, score and compare; `releases` in the order in which they began.

    Raises ValueError, with what is missing, where there is nothing to learn from yet.
    """
    releases = releases[-MOST_RELEASES:]
    if lack := lacking(releases):
        raise ValueError(lack)
    held_out = max(round(HELD_OUT_SHARE * len(releases)), LEAST_HELD_OUT)
    older = _fit_older(releases, held_out, lambda done: progress(0.4 * done))
    newest = releases[-held_out:]
    comparison = _compare(releases, older, newest, champion, lambda done: progress(0.4 + 0.3 * done))
    model = fit_model(releases, progress=lambda done: progress(0.7 + 0.3 * done))
    return Trained(
        model=model,
        fingerprint=fingerprint(releases),
        until_s=releases[-1].began_s,
        before=score(_failed(newest), _risks(older, newest, seen=False)),
        after=score(_failed(newest), _risks(older, newest, seen=True)),
        comparison=comparison,
    )


def lacking(releases: Sequence[PastRelease]) -> str:
    """What is missing before anything can be learnt, in words; empty: nothing."""
    n, failures = len(releases), sum(release.failed for release in releases)
    if n < LEAST_RELEASES:
        return f"{n} of {LEAST_RELEASES} releases"
    if failures == 0:
        return f"none of {n} releases has failed; nothing tells the two apart"
    if failures == n:
        return f"all {n} releases have failed; nothing tells the two apart"
    return ""


def fingerprint(releases: Sequence[PastRelease]) -> str:
    """The same for the same releases: SHA-256 of all that is known of them, 64 hexadecimal digits."""
    text = json.dumps([asdict(release) for release in releases], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _fit_older(releases: Sequence[PastRelease], held_out: int, progress: Progress) -> FailureModel | None:
    """The model of all but the newest, with the weight that one of all of them has; None: one class only."""
    try:
        model = fit_model(releases[:-held_out], progress=progress)
    except ValueError:
        return None
    return replace(model, releases=len(releases))


def _compare(
    releases: Sequence[PastRelease],
    older: FailureModel | None,
    newest: Sequence[PastRelease],
    champion: Champion | None,
    progress: Progress,
) -> Comparison:
    if champion is None:
        gains = _losses(None, newest) - _losses(older, newest)
        gain, noise = _mean(gains)
        why = f"beside the prior of {PRIOR_RISK:.0%}, on {len(gains)} releases that it had not seen"
        return Comparison(serves=gain > 0, why=why, n=len(gains), gain=gain, noise=noise)
    unseen = [release for release in releases if release.began_s > champion.until_s]
    if len(unseen) < 2 * LEAST_HELD_OUT:
        why = f"{len(unseen)} of {2 * LEAST_HELD_OUT} releases that the model in use has not seen"
        return Comparison(serves=False, why=why)
    test = unseen[-max(len(unseen) // 2, LEAST_HELD_OUT) :]
    challenger = _fit_older(releases, len(test), progress)
    gains = _losses(champion.model, test) - _losses(challenger, test)
    gain, noise = _mean(gains)
    why = f"beside the model in use, on {len(gains)} releases that neither had seen"
    return Comparison(serves=gain > SURE * noise and gain > 0, why=why, n=len(gains), gain=gain, noise=noise)


def _failed(releases: Sequence[PastRelease]) -> Floats:
    return np.array([release.failed for release in releases], float)


def _risks(model: FailureModel | None, releases: Sequence[PastRelease], *, seen: bool) -> Floats:
    """(N,) what a model says of each, the prior without one."""
    if model is None:
        return np.full(len(releases), PRIOR_RISK)
    return np.array([model.predict(each.facts, each.first if seen else None).risk for each in releases])


def _losses(model: FailureModel | None, releases: Sequence[PastRelease]) -> Floats:
    """(N,) log loss of each release, the mean of both stages."""
    failed = _failed(releases)
    both: Floats = np.mean([log_loss(failed, _risks(model, releases, seen=seen)) for seen in (False, True)], axis=0)
    return both


def _mean(values: Floats) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


# -- scores ------------------------------------------------------------------------------------------------------------


def score(failed: Floats, risks: Floats) -> Scores:
    """Scores of predictions (N,) in (0, 1), N >= 2, of what came true (N,) of 0 and 1."""
    both = 0 < failed.sum() < len(failed)
    return Scores(
        n=len(failed),
        failures=int(failed.sum()),
        brier=_interval(*_mean(np.square(failed - risks))),
        log_loss=_interval(*_mean(log_loss(failed, risks))),
        auc=auc(failed, risks) if both else None,
        slope=slope(failed, risks) if both and risks.std() > CLIPPED else None,
    )


def _interval(value: float, error: float) -> Interval:
    return Interval(value=value, lower=value - SURE_95 * error, upper=value + SURE_95 * error)


def log_loss(failed: Floats, risks: Floats) -> Floats:
    """(N,) minus the log of the probability that was given to what came true."""
    risks = np.clip(risks, CLIPPED, 1 - CLIPPED)
    losses: Floats = -np.where(failed > 0, np.log(risks), np.log1p(-risks))
    return losses


def auc(failed: Floats, risks: Floats) -> Interval:
    """Probability that a release that failed had the higher risk, ties by half; interval of DeLong et al. 1988.

    Both classes must be there.
    """
    bad, good = risks[failed > 0], risks[failed == 0]
    ranks = rankdata(np.concatenate([bad, good]))
    above = (ranks[: len(bad)] - rankdata(bad)) / len(good)  # of each bad one: share of good ones below it
    below = 1 - (ranks[len(bad) :] - rankdata(good)) / len(bad)
    value = float(above.mean())
    variance = sum(float(part.var(ddof=1)) / len(part) if len(part) > 1 else 0.25 for part in (above, below))
    error = SURE_95 * math.sqrt(variance)
    return Interval(value=value, lower=max(value - error, 0.0), upper=min(value + error, 1.0))


def slope(failed: Floats, risks: Floats) -> Interval:
    """The calibration's slope (Cox 1958): of a logistic regression of what came true on the predicted log-odds."""
    x = np.column_stack([np.ones(len(risks)), logit(np.clip(risks, CLIPPED, 1 - CLIPPED))])
    found = fit(x, failed, mean=np.zeros(2), sd=np.full(2, 100.0))  # so wide a prior is none
    return _interval(float(found.coef[1]), math.sqrt(float(found.covariance[1, 1])))


# -- drift -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How a model has done on the `n` releases since it was trained. `z`: its miscalibration in standard errors.

    Of calibrated predictions, Σ (failed - p)(1 - 2p) has the mean 0 and the variance Σ p(1 - p)(1 - 2p)² (Spiegelhalter
    1986): z is standard normal. Above 0: its predictions have been worse than they promise.
    """

    n: int
    z: float

    @property
    def calls_for_training(self) -> bool:
        return self.n >= DRIFT_RELEASES and self.z > DRIFTED


def drift(champion: Champion, releases: Sequence[PastRelease]) -> Drift:
    """The drift by what has come since; every prediction is the one that was made then."""
    since = [release for release in releases if release.began_s > champion.until_s]
    risks, failed = _risks(champion.model, since, seen=True), _failed(since)
    spread = math.sqrt(float(np.sum(risks * (1 - risks) * np.square(1 - 2 * risks))))
    z = float(np.sum((failed - risks) * (1 - 2 * risks))) / spread if spread > 0 else 0.0
    return Drift(n=len(since), z=z)
