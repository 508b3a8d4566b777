"""What the failure model predicts, from how many releases on, and how it says why."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from analysis.failure.facts import FIRST_MINUTES_S, PRIOR_RISK, FirstMinutes, PastRelease, ReleaseFacts
from analysis.failure.fitting import fit_model
from analysis.failure.model import LEAST_RELEASES, SURE_RELEASES, FailureModel, weight_of
from analysis.simulation.releases import draw_history

HISTORY = draw_history(77, 700)
TRAINED, LATER = HISTORY.releases[:300], HISTORY.releases[300:]
NOTHING = ReleaseFacts(service="elsewhere")
CALM = FirstMinutes(seen_s=FIRST_MINUTES_S, effects={"error_rate": -0.3, "latency": 0.2}, slopes={"error_rate": 0.0})


@pytest.fixture(scope="module")
def model() -> FailureModel:
    return fit_model(TRAINED)


def test_it_ranks_later_releases_nearly_as_well_as_can_be_and_better_once_they_have_been_seen() -> None:
    gaps, gained = [], []
    for seed in (77, 78, 79):
        history = draw_history(seed, 600)
        model, later, failed = fit_model(history.releases[:300]), history.releases[300:], history.failed[300:]
        before = roc_auc_score(failed, [model.predict(release.facts).risk for release in later])
        after = roc_auc_score(failed, [model.predict(release.facts, release.first).risk for release in later])
        bayes = (roc_auc_score(failed, history.before[300:]), roc_auc_score(failed, history.after[300:]))
        gaps.append((bayes[0] - before, bayes[1] - after))
        gained.append(after - before)
    assert (np.mean(gaps, axis=0) < (0.12, 0.08)).all()
    assert min(gained) > 0.03


def test_as_many_fail_as_it_says(model: FailureModel) -> None:
    risks = np.array([model.predict(release.facts, release.first).risk for release in LATER])
    failures = sum(release.failed for release in LATER)
    assert abs(failures - risks.sum()) < 4 * np.sqrt((risks * (1 - risks)).sum())


def test_contributions_add_up_to_the_log_odds(model: FailureModel) -> None:
    for release in LATER[:50]:
        prediction = model.predict(release.facts, release.first)
        log_odds = sum(each.log_odds for each in prediction.contributions)
        assert prediction.risk == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-12)
        assert len({each.about for each in prediction.contributions}) == len(prediction.contributions)


def test_nothing_has_been_shown_at_the_first_exposure(model: FailureModel) -> None:
    facts = LATER[0].facts
    at_once = FirstMinutes(seen_s=0.0, effects={"error_rate": 5.0}, slopes={"error_rate": 5.0}, silence=1.0)
    assert model.predict(facts, at_once).risk == pytest.approx(model.predict(facts).risk, rel=1e-12)


@pytest.mark.parametrize(
    "worse",
    [
        lambda calm: replace(calm, effects={"error_rate": 5.0, "latency": 0.2}),
        lambda calm: replace(calm, effects={"error_rate": 2.5, "latency": 0.2}, slopes={"error_rate": 2.0}),
        lambda calm: replace(calm, silence=1.0),
    ],
)
def test_what_looks_like_harm_raises_the_risk(
    model: FailureModel, worse: Callable[[FirstMinutes], FirstMinutes]
) -> None:
    calm = replace(CALM, silence=0.0)
    assert model.predict(NOTHING, worse(calm)).risk > 1.3 * model.predict(NOTHING, calm).risk


def test_calm_reassures_the_more_the_longer_it_lasts(model: FailureModel) -> None:
    risks = [model.predict(NOTHING, replace(CALM, seen_s=seen_s)).risk for seen_s in (0.0, 100.0, 200.0, 300.0)]
    assert risks == sorted(risks, reverse=True)


def test_a_bad_record_counts_for_a_service_that_came_after_the_training(model: FailureModel) -> None:
    good, bad = (ReleaseFacts(service="new", releases=20, failures=n) for n in (0, 10))
    assert model.predict(bad).risk > 1.5 * model.predict(good).risk


def test_what_is_missing_is_not_zero(model: FailureModel) -> None:
    typical = next(release.facts for release in TRAINED if release.facts.size is not None)
    none, zero = (model.predict(replace(typical, size=size)).risk for size in (None, 0.0))
    assert none > 1.2 * zero  # nobody knows how large it is; a change of nothing would be harmless


def test_unknown_names_and_wild_numbers_stay_within_reach(model: FailureModel) -> None:
    wild = ReleaseFacts(
        service="?", kind="?", size=1e300, overlapping=10**9, since_last_h=1e12, attributes={"reviewers": -1e200}
    )
    assert 0.001 < model.predict(wild).risk < 0.999


def test_the_prior_is_handed_over_step_by_step() -> None:
    assert weight_of(LEAST_RELEASES - 1) == 0.0
    assert weight_of(LEAST_RELEASES) == 0.5
    assert 0.5 < weight_of(SURE_RELEASES - 1) < 1.0
    assert weight_of(SURE_RELEASES) == 1.0
    young = fit_model(TRAINED[: LEAST_RELEASES - 1])
    assert young.predict(LATER[0].facts, LATER[0].first).risk == pytest.approx(PRIOR_RISK, rel=1e-12)


@pytest.mark.parametrize("failed", [True, False])
def test_one_class_alone_is_refused(failed: bool) -> None:
    releases = [replace(release, failed=failed) for release in TRAINED[:60]]
    with pytest.raises(ValueError, match="of 60 releases"):
        fit_model(releases)


def test_releases_of_which_nearly_nothing_is_known_are_enough_to_fit() -> None:
    releases = [
        PastRelease(facts=ReleaseFacts(service=f"s{i % 2}"), failed=i % 7 == 0, began_s=float(i)) for i in range(40)
    ]
    model = fit_model(releases)
    assert 0.05 < model.predict(ReleaseFacts(service="s0")).risk < 0.3
    assert model.first.columns == ()
    assert model.predict(ReleaseFacts(service="s0"), CALM).risk == model.predict(ReleaseFacts(service="s0")).risk


def test_a_prediction_takes_less_than_a_millisecond(model: FailureModel) -> None:
    standpoint = model.standpoint(LATER[0].facts)
    begin = time.perf_counter()
    for _ in range(100):
        standpoint.predict(CALM, model.first)
    assert (time.perf_counter() - begin) / 100 < 1e-3


def test_facts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="2 failures of 1"):
        ReleaseFacts(service="a", releases=1, failures=2)
    with pytest.raises(ValueError, match="hour 24"):
        ReleaseFacts(service="a", hour=24.0)
    with pytest.raises(ValueError, match="no finite number"):
        ReleaseFacts(service="a", attributes={"x": math.nan})
    with pytest.raises(ValueError, match="no NaN"):
        FirstMinutes(seen_s=1.0, effects={"error_rate": math.nan})


def test_that_nothing_was_told_is_a_fact_of_its_own() -> None:
    """Half of all releases say how large they are, and only those that say nothing fail."""
    releases = [
        PastRelease(
            facts=ReleaseFacts(service="s", size=100.0 + i % 7 if i % 2 else None), failed=i % 6 == 0, began_s=float(i)
        )
        for i in range(120)
    ]
    model = fit_model(releases)
    silent, usual = (model.predict(ReleaseFacts(service="s", size=size)) for size in (None, 103.0))
    assert silent.risk > 1.1 * usual.risk
    assert {each.about: each.log_odds for each in silent.contributions}["size"] > 0.05
