"""Training is reproducible, learns what pays where that is known, and scores fairly; releases are drawn as they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.on_the_job import has_a_choice
from analysis.policy import LearnedPolicy, QValues, WholeCapPolicy
from analysis.policy.learned import N_TILES, SHARES, TILINGS, WHOLE, state_of
from analysis.policy.protocol import PolicyView
from analysis.simulation import training
from analysis.simulation.draws import draw
from analysis.simulation.rollouts import Rollouts
from analysis.simulation.scenario import Must
from analysis.simulation.scoring import Score, compared, is_better
from analysis.simulation.training import Episode, _Decision, learn, train
from xds_server.cli import app

VIEW = PolicyView(split=0.1, cap=0.5, suspicion=0.0, worst_excess=0.1, anomaly=0.0, healthy=False)


def _nothing(_: int) -> None:
    pass


def _empty() -> QValues:
    shape = (N_TILES, len(SHARES))
    return QValues(values=np.zeros(shape), visits=np.zeros(shape, np.int64), origin={})


def test_the_same_seed_gives_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TICKS", 25)
    monkeypatch.setattr(training, "IN_STEP", 4)
    done: list[int] = []
    one, other = (train(seed=3, episodes=2, held_out=0, progress=note) for note in (done.append, _nothing))
    assert one.to_json() == other.to_json()
    assert done == [2]
    assert one.visits.sum() > 0
    assert one.origin["seed"] == 3
    assert train(seed=4, episodes=2, held_out=0, progress=_nothing).to_json() != one.to_json()


def test_the_command_writes_what_training_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "TICKS", 12)
    monkeypatch.setattr(training, "IN_STEP", 2)
    monkeypatch.setattr(training, "scores_of", lambda _, *, seed, n: {"scored": [seed, n]})
    written = tmp_path / "values.json"
    command = ["train", "policy", "--seed", "5", "--episodes", "3", "--output", str(written)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert written.read_text() == train(seed=5, episodes=3, progress=_nothing).to_json()
    assert QValues.from_json(written.read_text()).origin["scored"] == [5, 12]


def test_it_learns_the_action_that_pays() -> None:
    """A release in which a hold gains a tick more than the others' mean, and the whole room a tick less."""
    values, state = _empty(), state_of(VIEW)
    policy = LearnedPolicy(values, explore=0.2, margin=0.0, doubt=0.0, trusted=5)
    traces = [[_Decision(0, state, action, action == WHOLE)] for action in (0, WHOLE)]
    rewards = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    for _ in range(30):
        learn(values, policy, Episode(traces=traces, rollout=[0, 1], rewards=rewards))
    assert values.of(state)[0] - values.of(state)[WHOLE] == pytest.approx(4.0, abs=0.5)
    assert policy.best(state) == 0
    assert values.visits[state[0]].tolist() == [30, 0, 0, 30]


def test_what_a_release_gains_whatever_is_decided_teaches_nothing() -> None:
    values, state = _empty(), state_of(VIEW)
    policy = LearnedPolicy(values, explore=0.2)
    traces = [[_Decision(0, state, action, False)] for action in (0, WHOLE)]
    learn(values, policy, Episode(traces=traces, rollout=[0, 1], rewards=np.full((5, 2), 7.0)))
    assert np.abs(values.values).max() < 1e-12


@pytest.mark.parametrize(
    ("changed", "has"),
    [
        ({}, True),
        ({"cap": 0.1}, False),
        ({"suspicion": 0.5}, False),
        ({"split": 0.5, "cap": 1.0}, False),  # unknown: no further than one half
        ({"split": 0.5, "cap": 1.0, "healthy": True}, True),
        ({"split": 0.95, "cap": 1.0, "healthy": True}, False),
    ],
)
def test_a_choice_is_where_the_guard_would_let_a_split_rise(changed: dict[str, float], has: bool) -> None:
    spec = draw(np.random.default_rng(0)).spec
    assert has_a_choice(replace(VIEW, **changed), spec) is has  # type: ignore[arg-type]


def test_drawn_releases_fail_as_often_as_their_risk_says() -> None:
    releases = [draw(np.random.default_rng((7, i))) for i in range(1_500)]
    for risk in (0.05, 0.2, 0.7):
        bad = [release.is_bad for release in releases if release.risk == risk]
        assert np.mean(bad) == pytest.approx(risk, abs=4 * np.sqrt(risk * (1 - risk) / len(bad)))
    assert all((release.scenario.must is Must.ROLLBACK) == release.is_bad for release in releases)
    assert {len(release.spec.segments) for release in releases} == {1, 2, 3}
    assert all(sum(group.share for group in r.scenario.groups) == pytest.approx(1) for r in releases)


def test_a_good_release_does_no_harm_and_gains_by_progress_alone() -> None:
    release = draw(np.random.default_rng(11), load=20.0, bad=False, segments=2)
    rollouts = Rollouts(release, [WholeCapPolicy()] * 3, (1,))
    for _ in range(40):
        split_bp = rollouts.ramps.split_bp
        rollouts.tick()
        shares = np.array([group.share for group in release.scenario.groups])
        assert rollouts.reward(split_bp) == pytest.approx(split_bp @ shares / 10_000)
    assert rollouts.harm == pytest.approx(0, abs=1e-9)
    assert split_bp.min() > 0


def test_a_bad_release_costs_what_it_spoils() -> None:
    release = draw(np.random.default_rng(12), load=20.0, bad=True, segments=1)
    rollouts = Rollouts(release, [WholeCapPolicy()] * 3, (1,))
    gained, progress = np.zeros(3), np.zeros(3)
    for _ in range(40):
        split_bp = rollouts.ramps.split_bp
        rollouts.tick()
        gained += rollouts.reward(split_bp)
        progress += split_bp[:, 0] / 10_000
    assert (rollouts.harm > 0).all()
    assert (gained < progress).all()


def _score(harm: float, minutes: float, noise: float) -> Score:
    wave = noise * np.array([1.0, -1.0] * 8)
    return Score(harm=harm + wave, minutes=minutes + wave[::-1], promoted_good=1.0, promoted_bad=0.0)


@pytest.mark.parametrize(
    ("harm", "minutes", "word"),
    [(8.0, 10.0, "better"), (10.0, 9.0, "better"), (8.0, 11.0, "worse"), (12.0, 9.0, "worse"), (9.9, 10.0, "level")],
)
def test_better_is_better_in_one_and_worse_in_none(harm: float, minutes: float, word: str) -> None:
    assert compared(_score(harm, minutes, 0.5), _score(10.0, 10.0, 0.0)).startswith(f"{word}: ")


@pytest.mark.parametrize(
    ("findings", "better"),
    [
        (["better: a", "better: b", "level: c"], True),
        (["better: a", "level: b", "level: c"], False),
        (["better: a", "better: b", "worse: c"], False),
    ],
)
def test_a_default_is_better_at_two_loads_and_never_worse(findings: list[str], better: bool) -> None:
    assert is_better(findings) is better


assert len(TILINGS) > 1  # the tests above share what an action is worth among them
