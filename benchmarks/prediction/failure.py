"""The failure model beside the best possible prediction, on simulated histories that it was not tuned on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from analysis.failure.facts import PRIOR_RISK
from analysis.failure.fitting import MOST_RELEASES, fit_model
from analysis.failure.training import Champion, auc, log_loss, slope, train
from analysis.simulation.releases import History, draw_history
from benchmarks.goal_table import Row

Floats = npt.NDArray[np.float64]

FIRST_SEED = 1  # what was tuned, was tuned on seeds from 5,000 on
FLEETS = 100
TESTED = 300  # releases after the training
GAPS: Mapping[int, float | None] = {30: None, 50: 0.1, 300: 0.05}  # of releases known, how much less AUC than Bayes
SLOPES = (0.8, 1.2)
MOST_AUC = 0.95
TRAIN_S, PREDICT_MS = 120.0, 1.0
STAGES = ("before", "after")
SAID = {"before": "before traffic", "after": "with first minutes"}
RESAMPLED = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fleet:
    """One fleet's releases after the training. By stage (2, N): risks, and the Bayes probabilities."""

    failed: Floats
    risks: Floats
    bayes: Floats

    def gap(self, stage: int) -> float:
        return auc(self.failed, self.bayes[stage]).value - auc(self.failed, self.risks[stage]).value


def _fleet(seed: int, n: int) -> _Fleet | None:
    """None where one class is missing among what is predicted."""
    history = draw_history(seed, n + TESTED)
    later = history.releases[n:]
    failed = history.failed[n:].astype(float)
    try:
        model = fit_model(history.releases[:n])
        risks = np.array([
            [model.predict(each.facts).risk for each in later],
            [model.predict(each.facts, each.first).risk for each in later],
        ])  # fmt: skip
    except ValueError:  # one class only: the prior
        risks = np.full((2, len(later)), PRIOR_RISK)
    if not 0 < failed.sum() < len(failed):
        return None
    return _Fleet(failed=failed, risks=risks, bayes=np.stack([history.before[n:], history.after[n:]]))


def _known(n: int, goal: float | None, fleets: int) -> list[Row]:
    """How well the releases after the first n are predicted."""
    found = [fleet for i in range(fleets) if (fleet := _fleet(FIRST_SEED + i, n)) is not None]
    rows = []
    for stage, name in enumerate(STAGES):
        setting = f"{n} releases known; {SAID[name]}"
        gaps = np.array([fleet.gap(stage) for fleet in found])
        mean, error = float(gaps.mean()), float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
        best = np.mean([auc(fleet.failed, fleet.bayes[stage]).value for fleet in found])
        rows.append(Row(
            measure="AUC below that of Bayes", setting=setting, n=len(found),
            measured=f"{mean:.3f} ± {1.96 * error:.3f} (AUC {best - mean:.3f}, Bayes {best:.3f})",
            goal="" if goal is None else f"≤ {goal:g}", met=None if goal is None else mean <= goal,
        ))  # fmt: skip
        failed, risks = (np.stack([getattr(f, k) for f in found]) for k in ("failed", "risks"))
        value, low, high = _slope(failed, risks[:, stage])
        rows.append(Row(
            measure="calibration slope", setting=setting, n=failed.size,
            measured=f"{value:.2f} [{low:.2f}, {high:.2f}]",
            goal="" if goal is None else f"{SLOPES[0]:g} to {SLOPES[1]:g}",
            met=None if goal is None else SLOPES[0] <= value <= SLOPES[1],
        ))  # fmt: skip
        losses = [
            float(log_loss(failed, p).mean())
            for p in (risks[:, stage], np.stack([f.bayes[stage] for f in found]), np.full_like(failed, PRIOR_RISK))
        ]
        rows.append(Row(
            measure="log loss", setting=setting, n=failed.size, goal="", met=None,
            measured=f"{losses[0]:.3f} (Bayes {losses[1]:.3f}, prior {losses[2]:.3f})",
        ))  # fmt: skip
    return rows


def _slope(failed: Floats, risks: Floats) -> tuple[float, float, float]:
    """Slope over all fleets, and the 95 % interval by drawing fleets again."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLED):
        which = rng.integers(len(failed), size=len(failed))
        drawn.append(slope(failed[which].ravel(), risks[which].ravel()).value)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return slope(failed.ravel(), risks.ravel()).value, float(low), float(high)


def _generator(fleets: int) -> list[Row]:
    histories = [draw_history(FIRST_SEED + i, TESTED) for i in range(fleets)]
    return [
        Row(
            measure="Bayes AUC of the generator", setting=SAID[stage], n=len(histories), goal=f"≤ {MOST_AUC:g}",
            measured=f"{(best := np.mean([_best(h, stage) for h in histories])):.3f}", met=bool(best <= MOST_AUC),
        )
        for stage in STAGES
    ]  # fmt: skip


def _best(history: History, stage: str) -> float:
    return auc(history.failed.astype(float), getattr(history, stage)).value


def _cost(share: float) -> list[Row]:
    n = max(round(MOST_RELEASES * share), 200)
    releases = draw_history(FIRST_SEED, n).releases
    champion = Champion(model=fit_model(releases[: n // 2]), until_s=releases[n // 2 - 1].began_s)
    begin = time.perf_counter()
    trained = train(releases, champion)
    took_s = time.perf_counter() - begin
    first = next(each.first for each in releases if each.first is not None)
    first = replace(first, effects={f"k{i}": 1.0 for i in range(10)})
    standpoint = trained.model.standpoint(releases[0].facts)
    each_s = []
    for _ in range(1_000):
        begin = time.perf_counter()
        standpoint.predict(first, trained.model.first)
        each_s.append(time.perf_counter() - begin)
    ms = 1e3 * float(np.median(each_s))
    return [
        Row(measure="one training, compared and scored", setting=f"{n} releases", measured=f"{took_s:.1f} s", n=1,
            goal=f"≤ {TRAIN_S:g} s", met=took_s <= TRAIN_S),
        Row(measure="one prediction", setting="10 KPIs; median", measured=f"{ms:.2f} ms", n=1_000,
            goal=f"≤ {PREDICT_MS:g} ms", met=ms <= PREDICT_MS),
    ]  # fmt: skip


def jobs(share: float) -> list[Callable[[], list[Row]]]:
    fleets = max(round(FLEETS * share), 4)
    each = [partial(_known, n, goal, fleets) for n, goal in GAPS.items()]
    return [partial(_generator, fleets), *each, partial(_cost, share)]


MEASURES: Mapping[str, Callable[[float], list[Callable[[], list[Row]]]]] = {"failure": jobs}
