"""Training: scores on what was held out, who serves, when to train again, and artefacts that come back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from analysis.errors import StateError
from analysis.failure.artefact import from_json, to_json
from analysis.failure.fitting import fit_model
from analysis.failure.training import (
    LEAST_HELD_OUT,
    Champion,
    Trained,
    auc,
    drift,
    fingerprint,
    lacking,
    score,
    slope,
    train,
)
from analysis.simulation.releases import draw_history

HISTORY = draw_history(31, 400)
RELEASES = HISTORY.releases
OLD = RELEASES[:200]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(RELEASES, None)


@pytest.fixture(scope="module")
def champion() -> Champion:
    return Champion(model=fit_model(OLD), until_s=OLD[-1].began_s)


# -- scores


def test_the_auc_is_scikit_learns_and_its_interval_holds_it() -> None:
    risks = np.round(HISTORY.after, 2)  # with ties
    found = auc(HISTORY.failed.astype(float), risks)
    assert found.value == pytest.approx(roc_auc_score(HISTORY.failed, risks))
    assert found.lower < found.value < found.upper
    assert found.upper - found.lower < 0.2


def test_the_slope_tells_too_sure_from_not_sure_enough() -> None:
    histories = [draw_history(seed, 500) for seed in (1, 2)]
    p = np.concatenate([history.after for history in histories])
    failed = np.concatenate([history.failed for history in histories]).astype(float)
    calibrated, too_sure, unsure = (slope(failed, expit(factor * logit(p))) for factor in (1.0, 2.0, 0.5))
    assert calibrated.lower < 1 < calibrated.upper
    assert too_sure.upper < 1 < unsure.lower


def test_scores_are_of_what_was_held_out(trained: Trained) -> None:
    assert trained.before.n == trained.after.n == 120
    assert trained.after.auc is not None
    assert trained.before.auc is not None
    assert trained.after.auc.value > trained.before.auc.value
    assert trained.after.brier.value < trained.before.brier.value
    older = replace(fit_model(RELEASES[:-120]), releases=len(RELEASES))
    risks = np.array([older.predict(release.facts, release.first).risk for release in RELEASES[-120:]])
    assert trained.after == score(HISTORY.failed[-120:].astype(float), risks)


def test_held_out_releases_of_one_class_have_no_auc_and_do_no_harm() -> None:
    releases = [*OLD, *(replace(release, failed=False) for release in RELEASES[200:300])]
    found = train(releases, None)
    assert found.after.auc is None is found.after.slope
    assert found.after.failures == 0


# -- serving


def test_the_first_model_serves_when_it_beats_the_prior(trained: Trained) -> None:
    assert trained.comparison.serves
    assert trained.comparison.gain > 0


def test_a_model_of_nothing_does_not_serve() -> None:
    """Failures that hang on nothing at all: nobody can beat the prior where it is their share."""
    rng = np.random.default_rng(4)
    served = []
    for _ in range(8):
        failed = rng.permutation(np.arange(100) % 10 == 0)
        releases = [replace(release, failed=bool(f), first=None) for release, f in zip(OLD[:100], failed, strict=True)]
        served.append(train(releases, None).comparison.serves)
    assert sum(served) <= 5  # a coin's toss at worst, and drawn to the prior then


def test_a_challenger_must_be_better_than_noise_on_releases_that_neither_has_seen(champion: Champion) -> None:
    same = train(RELEASES, champion).comparison
    assert same.n == 100
    assert same.serves == (same.gain > same.noise)
    backwards = replace(champion.model, before=replace(champion.model.before, coef=-champion.model.before.coef))
    beaten = train(RELEASES, replace(champion, model=backwards)).comparison
    assert beaten.serves
    assert beaten.gain > 5 * beaten.noise


def test_a_worse_challenger_does_not_serve(champion: Champion) -> None:
    """What was learnt since the champion is upside down, but for the newest releases."""
    turned = [replace(release, failed=not release.failed) for release in RELEASES[200:300]]
    comparison = train([*OLD, *turned, *RELEASES[300:]], champion).comparison
    assert comparison.gain < 0
    assert not comparison.serves


def test_too_few_unseen_releases_are_no_comparison(champion: Champion) -> None:
    comparison = train(RELEASES[: 200 + 2 * LEAST_HELD_OUT - 1], champion).comparison
    assert not comparison.serves
    assert comparison.why.startswith("19 of 20 releases")


@pytest.mark.parametrize(
    ("releases", "said"),
    [
        ((), "0 of 30 releases"),
        (RELEASES[:12], "12 of 30 releases"),
        ([replace(release, failed=False) for release in RELEASES[:50]], "none of 50 releases has failed"),
        ([replace(release, failed=True) for release in RELEASES[:50]], "all 50 releases have failed"),
    ],
)
def test_what_is_missing_is_said(releases: list, said: str) -> None:
    assert lacking(releases).startswith(said)
    with pytest.raises(ValueError, match=said):
        train(releases, None)


def test_progress_rises_to_the_end() -> None:
    told: list[float] = []
    train(RELEASES[:60], None, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


# -- drift


def test_drift_is_of_what_came_since_and_calls_only_where_it_got_worse(champion: Champion) -> None:
    usual = drift(champion, RELEASES)
    assert usual.n == 200
    assert not usual.calls_for_training
    broken = [replace(release, failed=i % 2 == 0) for i, release in enumerate(RELEASES)]
    assert drift(champion, broken).calls_for_training
    spotless = [replace(release, failed=False) for release in RELEASES]
    assert drift(champion, spotless).z < 0
    assert drift(champion, OLD).n == 0


# -- artefacts


def test_an_artefact_comes_back_as_it_was(trained: Trained) -> None:
    back = from_json(to_json(trained))
    assert back.until_s == RELEASES[-1].began_s
    for release in RELEASES[:20]:
        assert back.model.predict(release.facts, release.first) == trained.model.predict(release.facts, release.first)


def test_the_fingerprint_is_of_the_data() -> None:
    assert fingerprint(RELEASES) == fingerprint(draw_history(31, 400).releases)
    assert fingerprint(RELEASES) != fingerprint(RELEASES[:-1])
    assert fingerprint(RELEASES) != fingerprint([*RELEASES[:-1], replace(RELEASES[-1], failed=not RELEASES[-1].failed)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body | {"format": 2}, "format 2; this version reads 'failure' of format 1"),
        (lambda body: body | {"kind": "forecast"}, "artefact 'forecast'"),
        (lambda body: {key: body[key] for key in body if key != "before"}, "cannot be read"),
        (lambda body: body | {"columns": body["columns"][1:]}, "cannot be read"),
        (lambda body: body | {"columns": body["columns"] * 50}, "cannot be read"),
        (lambda body: body | {"rate": 1.5}, "cannot be read"),
        (lambda body: body | {"until_s": float("nan")}, "cannot be read"),
        (lambda body: body | {"first": {"coef": ["x"], "covariance": []}}, "cannot be read"),
        (lambda body: [body], "cannot be read"),
    ],
)
def test_an_artefact_of_another_version_or_a_damaged_one_is_refused(trained: Trained, change, said: str) -> None:
    with pytest.raises(StateError, match=said):
        from_json(json.dumps(change(json.loads(to_json(trained)))))
    with pytest.raises(StateError, match="cannot be read"):
        from_json(to_json(trained)[:-20])
