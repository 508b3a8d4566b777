"""Simulated histories of a fleet's releases, for which the best possible prediction is known.

Fixed before the failure model was tuned; its goals are measured on it. Services differ in how often their releases
fail, how much a large change hurts, what kinds and sizes of change they get and when, what is recorded of them, how
noisy their KPIs are, and how early their failures show. New services join as time goes on.

A release fails with probability p = expit(a_s + b_s·(log10 size - 2) + kind + time + overlap + pause + reviewers). Its
first minutes hang on whether it fails. `before` and `after` are the exact posterior probabilities given all that is
recorded and all that is true of the service (Bayes): where the size is not recorded it is integrated out, and what the
first minutes show multiplies the odds by its likelihood ratio. No prediction from the same facts can rank better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import norm

from analysis.failure.facts import FIRST_MINUTES_S, FirstMinutes, PastRelease, ReleaseFacts

Floats = npt.NDArray[np.float64]

HOUR_S, DAY_S = 3_600.0, 86_400.0
BEGAN_S = 1_600_041_600.0  # a Monday, 00:00 UTC

SERVICES, JOINS_EVERY = 12, 150  # at the beginning; releases after which one more service joins
RELEASES_A_DAY = 8.0
OPEN = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 0.3])  # releases by weekday

BASE, BASE_SPREAD = -2.3, 0.8  # log-odds that a release fails, over services
SIZE, SIZE_SPREAD = 0.8, 0.3  # … for a change ten times as large
KINDS = {"feature": 0.4, "fix": -0.3, "config": 0.2, "dependency": 0.6}
NIGHT, FRIDAY, WEEKEND = 0.5, 0.3, 0.2
OVERLAP = 0.3  # times the log of one more than the releases of the last hour
HASTE, HASTE_H = 0.6, 2.0  # the service's last release was so recently
REVIEWER = -0.25  # for each

EFFECT, EFFECT_SD = 3.0, 1.5  # standard errors of the KPI that a failure shows on
SLOPE = 1.2
ANOMALY, ANOMALY_SD = 0.03, 0.02
SILENT_BAD, SILENT_GOOD = 0.06, 0.002
UNRECORDED = 0.1  # releases of whose first minutes nothing is left
KPIS = ("error_rate", "latency", "abandonment")

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Releases in the order in which they began. `before`, `after` (n,): the Bayes probabilities that each fails."""

    releases: tuple[PastRelease, ...]
    before: Floats
    after: Floats

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        return np.array([release.failed for release in self.releases])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    """What is true of one service."""

    name: str
    often: float
    base: float
    size: float
    median: float  # log10 of its changes' size
    kinds: Floats
    tells_size: bool
    hour: float
    kpis: tuple[str, ...]
    tells_anomaly: bool
    noise: float  # standard deviation of its KPIs' effects where there is none
    early: float  # share of its failures that show in the first minutes


def draw_history(seed: int, n: int) -> History:
    """Draw `n` releases of one fleet; the same for the same seed and `n`."""
    rng = np.random.default_rng([seed, 20_261_125])
    services = [_service(rng, i) for i in range(SERVICES + n // JOINS_EVERY)]
    releases: list[PastRelease] = []
    bayes: list[tuple[float, float]] = []
    known: dict[str, tuple[int, int, float]] = {}  # releases, failures, when the last one began
    began: list[float] = []
    for at_s, service in _timetable(rng, services, n):
        recent = sum(at_s - other < HOUR_S for other in began[-50:])
        facts, log_size, base = _facts(rng, service, at_s, known.get(service.name), recent)
        chances = expit(base + service.size * (np.array(log_size) - 2.0))
        truly = float(chances[0])
        before = float(_WEIGHTS @ chances[1:]) if facts.size is None else truly
        failed = bool(rng.random() < truly)
        first, log_ratio = _first_minutes(rng, service, failed=failed)
        releases.append(PastRelease(facts=facts, failed=failed, began_s=at_s, first=first))
        bayes.append((before, float(expit(logit(before) + log_ratio))))
        n_before, n_failed, _ = known.get(service.name, (0, 0, 0.0))
        known[service.name] = (n_before + 1, n_failed + failed, at_s)
        began.append(at_s)
    probabilities = np.array(bayes).reshape(-1, 2)
    return History(releases=tuple(releases), before=probabilities[:, 0], after=probabilities[:, 1])


def _service(rng: np.random.Generator, index: int) -> _Service:
    return _Service(
        name=f"service-{index}",
        often=0.1 + rng.gamma(1.0),
        base=BASE + BASE_SPREAD * rng.standard_normal(),
        size=SIZE + SIZE_SPREAD * rng.standard_normal(),
        median=2.0 + 0.4 * rng.standard_normal(),
        kinds=rng.dirichlet([4.0, 3.0, 2.0, 1.0]),
        tells_size=bool(rng.random() < 0.75),
        hour=14.0 + 3.0 * rng.standard_normal(),
        kpis=KPIS if rng.random() < 0.6 else KPIS[:2],
        tells_anomaly=bool(rng.random() < 0.5),
        noise=float(np.exp(rng.uniform(0.0, 0.4))),
        early=float(rng.beta(6.0, 4.0)),
    )


def _timetable(rng: np.random.Generator, services: list[_Service], n: int) -> list[tuple[float, _Service]]:
    """When each release begins, rising, and whose it is; only services that are there by then."""
    found: list[tuple[float, _Service]] = []
    day = 0.0
    while len(found) < n:
        day += rng.exponential(1 / RELEASES_A_DAY)
        if rng.random() >= OPEN[int(day) % 7]:
            continue
        there = services[: SERVICES + len(found) // JOINS_EVERY]
        often = np.array([service.often for service in there])
        service = there[int(rng.choice(len(there), p=often / often.sum()))]
        hour = (service.hour + 4.0 * rng.standard_normal()) % 24
        found.append((BEGAN_S + int(day) * DAY_S + hour * HOUR_S, service))
    return sorted(found, key=lambda each: each[0])


def _facts(
    rng: np.random.Generator, service: _Service, at_s: float, known: tuple[int, int, float] | None, recent: int
) -> tuple[ReleaseFacts, list[float], float]:
    """Facts; log10 of the true size and then of those that are integrated over; log-odds of a change of 100 lines."""
    size_log = service.median + 0.5 * rng.standard_normal()
    kind = str(rng.choice(list(KINDS), p=service.kinds))
    reviewers = int(rng.integers(0, 4))
    hour, weekday = (at_s % DAY_S) / HOUR_S, int((at_s - BEGAN_S) // DAY_S) % 7
    since_h = None if known is None else (at_s - known[2]) / HOUR_S
    odds = service.base + KINDS[kind] + OVERLAP * np.log1p(recent) + REVIEWER * reviewers
    odds += NIGHT * (hour < 6 or hour >= 22) + FRIDAY * (weekday == 4) + WEEKEND * (weekday > 4)
    odds += HASTE * (since_h is not None and since_h < HASTE_H)
    facts = ReleaseFacts(
        service=service.name,
        releases=0 if known is None else known[0],
        failures=0 if known is None else known[1],
        size=float(10**size_log) if service.tells_size else None,
        kind=kind,
        hour=hour,
        weekday=weekday,
        overlapping=recent,
        since_last_h=since_h,
        attributes={"reviewers": float(reviewers), "region": str(rng.choice(["eu", "us", "apac"]))},
    )
    return facts, [size_log, *(service.median + 0.5 * _NODES)], float(odds)


def _first_minutes(rng: np.random.Generator, service: _Service, *, failed: bool) -> tuple[FirstMinutes | None, float]:
    """What is recorded, and the log of its likelihood under a failure over that under none."""
    shows = failed and bool(rng.random() < service.early)
    hit = int(rng.integers(len(service.kpis)))
    effects = service.noise * rng.standard_normal(len(service.kpis))
    slopes = service.noise * rng.standard_normal(len(service.kpis))
    anomaly = ANOMALY_SD * rng.standard_normal()
    if shows:
        effects[hit] = EFFECT + EFFECT_SD * rng.standard_normal()
        slopes[hit] = SLOPE + service.noise * rng.standard_normal()
        anomaly += ANOMALY
    silent = bool(rng.random() < (SILENT_BAD if failed else SILENT_GOOD))
    silence = rng.uniform(0.8, 1.0) if silent else rng.uniform(0.0, 0.1)
    if rng.random() < UNRECORDED:
        return None, 0.0
    on_kpi = (
        norm.logpdf(effects, EFFECT, EFFECT_SD) - norm.logpdf(effects, 0, service.noise)
        + norm.logpdf(slopes, SLOPE, service.noise) - norm.logpdf(slopes, 0, service.noise)
    )  # fmt: skip
    ratio = float(np.mean(np.exp(on_kpi)))
    if service.tells_anomaly:
        ratio *= float(np.exp(norm.logpdf(anomaly, ANOMALY, ANOMALY_SD) - norm.logpdf(anomaly, 0, ANOMALY_SD)))
    spoken = SILENT_BAD / SILENT_GOOD if silent else (1 - SILENT_BAD) / (1 - SILENT_GOOD)
    first = FirstMinutes(
        seen_s=FIRST_MINUTES_S,
        effects=dict(zip(service.kpis, effects.tolist(), strict=True)),
        slopes=dict(zip(service.kpis, slopes.tolist(), strict=True)),
        anomaly=float(np.clip(anomaly, -1, 1)) if service.tells_anomaly else None,
        silence=float(silence),
    )
    return first, float(np.log(spoken) + np.log(1 - service.early + service.early * ratio))
