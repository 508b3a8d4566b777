"""Click paths of a real site: what the profile says of sessions that it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.profile.clusters import fit_clusters
from analysis.profile.paths import Paths
from benchmarks.behaviour import msnbc
from tests.real_data import real_data

PLANTED = Path(__file__).parents[1] / "data" / "planted"


@pytest.fixture(scope="module")
def split() -> msnbc.Split:
    return msnbc.read(real_data("msnbc_first_200000.seq.xz"))


def test_bits_an_event(split: msnbc.Split) -> None:
    train, test = (Paths(steps=paths.steps - 1, lengths=paths.lengths) for paths in (split.train, split.test))
    rng = np.random.default_rng(1)
    mixture, stability = fit_clusters(train, msnbc.CATEGORIES, rng, exits=False)
    assert mixture.n_clusters <= 10
    assert stability.agreement[mixture.n_clusters] >= 0.8
    assert mixture.bits_an_event(test) <= 2.10


def test_false_alarms_and_planted_visits(split: msnbc.Split) -> None:
    profile = msnbc.train(split, seed=1)
    result = msnbc.alarms(profile, split, msnbc.read_planted(PLANTED))
    assert 0.04 <= result["false_alarm_rate"] <= 0.06, result
    assert all(share >= 0.6 for share in result["found"].values()), result
