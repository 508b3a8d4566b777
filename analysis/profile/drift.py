"""Whether a profile still fits: how far scores of recent sessions are from those that calibrated it."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import ks_2samp

from analysis.profile.features import Visits
from analysis.profile.profile import Profile

RISK = 0.001  # chance of a drift being seen at one look where there is none
LEAST = 0.1  # distance that matters: a drift that moves p-values by less is left alone, however sure it is
RECENT_MIN = 100  # sessions below which nothing is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Kolmogorov and Smirnov's distance between scores of calibration and of `n` recent sessions, and its p-value."""

    distance: float
    p_value: float
    n: int

    @property
    def calls_for_training(self) -> bool:
        return self.p_value < RISK and self.distance >= LEAST


def drift(profile: Profile, recent: Visits) -> Drift | None:
    """How far usual sessions of late are from those of the training; None below RECENT_MIN of them."""
    if len(recent) < RECENT_MIN:
        return None
    found = ks_2samp(profile.oddity.scores(recent), profile.calibration, method="asymp")
    return Drift(distance=float(found.statistic), p_value=float(found.pvalue), n=len(recent))
