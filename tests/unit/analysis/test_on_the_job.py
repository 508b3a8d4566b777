"""Learning on the job: whither values move, how far, what teaches nothing, and what a restart must not change."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.engine import Rollout, ServiceEngine
from analysis.errors import StateError
from analysis.on_the_job import RATE, USUAL_WORTH, Learnt, OnTheJob, has_a_choice
from analysis.policy import LearnedPolicy, PolicyView, QValues, load_values
from analysis.policy.learned import DRIFT_MAX, GAMMA, SHARES, TILINGS, WHOLE, discounted, state_of
from analysis.ramp import Ramp
from analysis.session import NS
from analysis.simulation.people import LABELS
from analysis.spec import Mode, ServiceSpec
from analysis.window import BASELINE, CANARY, Window, empty
from tests.simulated import shop
from tests.unit.analysis.rows import small_spec

ARMS = {"power": ("v1", "v2"), "default": ("v1", "v2")}
PEOPLE, USUAL = 40, 0.02
SHIPPED = load_values()
NOTHING = Learnt.nothing(SHIPPED)
VIEW = PolicyView(split=0.1, cap=0.4, suspicion=0.0, worst_excess=0.1, anomaly=0.0, healthy=False)


def _spec(weight: float = 1.0, **rollout: Any) -> ServiceSpec:
    spec = small_spec()
    segments = tuple(replace(segment, weight=weight) for segment in spec.segments)
    return replace(spec, segments=segments, rollout=replace(spec.rollout, max_step_bp=800, policy="learned", **rollout))


def _window(rng: np.random.Generator, splits_bp: list[int], excess: float) -> Window:
    window = empty(2, 5)
    for i, split_bp in enumerate(splits_bp):
        n_c = round(PEOPLE * split_bp / 10_000)
        n = np.array([PEOPLE - n_c, n_c])
        window.n[i], window.bad[i] = n, rng.binomial(n, [USUAL, USUAL + excess], (5, 2))
        window.harm_n[i], window.harm_bad[i], window.exposed[i] = n, window.bad[i, 0], n_c
        window.arrived[i], window.people[i] = PEOPLE, n * 3
        window.newcomers[i, split_bp, CANARY], window.newcomers[i, split_bp, BASELINE] = n_c, PEOPLE - n_c
    return replace(window, entries=200)


class Played:
    """Rollouts of one service, its people, and what they have taught by now."""

    def __init__(self, spec: ServiceSpec, excess: float, seed: int, learnt: Learnt = NOTHING) -> None:
        self.spec, self.excess, self.tick = spec, excess, 0
        self.job = OnTheJob(spec, learnt)
        self.ramp = Ramp(spec, LearnedPolicy(learnt.chosen_by), ARMS, job=self.job)
        self.rng = np.random.default_rng(seed)

    def run(self, ticks: int) -> Played:
        for _ in range(ticks):
            self.tick += 1
            window = _window(self.rng, [state.split_bp for state in self.ramp.segments.values()], self.excess)
            self.ramp.step(window, now_s=float(self.tick), rng=np.random.default_rng(self.tick))
            for name in ARMS:
                self.ramp.confirm(name)
        return self


def _after(rollouts: int, *, weight: float, excess: float) -> Learnt:
    learnt = NOTHING
    for seed in range(rollouts):
        learnt = Played(_spec(weight), excess, seed, learnt).run(55).job.learnt
    return learnt


def test_where_harm_is_dear_whole_steps_are_worth_less_and_where_releases_are_good_they_are_not() -> None:
    dear, cheap, good = (
        _after(3, weight=weight, excess=excess) for weight, excess in ((5.0, 0.10), (0.1, 0.10), (5.0, 0.0))
    )
    moves = [float((each.values.values - SHIPPED.values)[:, WHOLE].sum()) for each in (dear, cheap, good)]
    assert moves[0] < -0.005
    assert moves[0] < moves[1] - 0.005
    assert moves[2] > 0
    assert dear.moved.leaning < 0
    assert 0 < dear.moved.values < dear.moved.of
    assert dear.updates > 20


def test_no_value_moves_further_than_allowed_however_much_is_taught() -> None:
    job = OnTheJob(_spec(), NOTHING)
    for _ in range(400):
        _decide_and_see(job, worth=-1e9)
    moves = job.learnt.values.values - SHIPPED.values
    assert moves.min() == pytest.approx(-DRIFT_MAX)
    assert np.count_nonzero(moves) == len(TILINGS)
    assert job.learnt.moved.farthest == pytest.approx(DRIFT_MAX)
    assert job.learnt.chosen_by.visits is SHIPPED.visits, "nothing becomes trusted that training has not seen"


def _decide_and_see(job: OnTheJob, *, worth: float, ticks: tuple[float, ...] = (1.0,)) -> None:
    """A whole step from 10 % to 20 %, the ticks that follow, and the end."""
    job.see(0, VIEW, rises=True, worth=worth, ticks=1.0)
    for lasted in ticks:
        job.see(0, replace(VIEW, split=0.18, cap=0.18), rises=True, worth=worth, ticks=lasted)
    job.end(0)


@pytest.mark.parametrize("ticks", [(1.0,) * 5, (1.0, 0.25, 0.25, 0.25, 0.25, 1.0, 1.0, 1.0)])
def test_rewards_are_discounted_as_in_training_whatever_a_tick_lasts(ticks: tuple[float, ...]) -> None:
    spec = _spec()
    assert has_a_choice(VIEW, spec)
    assert not has_a_choice(replace(VIEW, split=0.18, cap=0.18), spec)
    job = OnTheJob(spec, NOTHING)
    _decide_and_see(job, worth=0.8, ticks=ticks)
    per_tick = (0.8 - USUAL_WORTH) * (0.18 - 0.1)  # of what came beyond the decision's split
    expected, _ = discounted(np.full(5, per_tick))
    moves = (job.learnt.values.values - SHIPPED.values)[list(state_of(VIEW))]
    assert moves[:, WHOLE] == pytest.approx(RATE * expected / len(TILINGS), rel=0.005)
    assert not moves[:, :WHOLE].any()
    assert discounted(np.array([1.0, 2.0])) == (1.0 + 2.0 * GAMMA, GAMMA**2)


@pytest.mark.parametrize(("split", "share"), [(0.1, 0.0), (0.05, 0.0), (0.121, 0.25), (0.14, 0.5), (0.3, 1.0)])
def test_the_action_is_what_was_done_whoever_decided(split: float, share: float) -> None:
    """In mode observe it may be a person; the whole step is 8 points here, as the specification has it."""
    job = OnTheJob(_spec(mode=Mode.OBSERVE), NOTHING)
    job.see(0, VIEW, rises=True, worth=-1.0, ticks=1.0)
    job.see(0, replace(VIEW, split=split, cap=split), rises=True, worth=-1.0, ticks=1.0)
    job.end(0)
    learnt = job.learnt.values.visits - SHIPPED.visits
    assert SHARES[int(learnt.sum(axis=0).argmax())] == share
    moves = (job.learnt.values.values - SHIPPED.values).sum()
    assert moves < 0 if split > 0.1 else moves == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("worth", "lasted"), [(float("nan"), 1.0), (-1.0, 4.0)])
def test_what_is_not_known_or_was_not_watched_teaches_nothing(worth: float, lasted: float) -> None:
    job = OnTheJob(_spec(), NOTHING)
    _decide_and_see(job, worth=worth, ticks=(lasted,))
    assert job.learnt is NOTHING
    _decide_and_see(job, worth=-1.0)
    assert job.learnt.updates == 1


def test_what_a_tick_is_worth_is_progress_less_harm_that_is_surely_there_and_unknown_before() -> None:
    def worth(excess: float, weight: float, ticks: int) -> np.ndarray:
        played = Played(_spec(weight), excess, 4).run(ticks)
        return played.ramp.reading.worth(0)

    assert np.isnan(worth(0.0, 1.0, 3)).all(), "nobody is on the canary"
    assert worth(0.0, 1.0, 25) == pytest.approx([0.5, 0.5], abs=0.05), "each segment has half of the sessions"
    harmful, dear = worth(0.3, 1.0, 20), worth(0.3, 4.0, 20)
    assert (dear < harmful - 1.0).all()
    assert (harmful < 0.0).all()


def test_nothing_of_a_rollout_without_learning_is_other_than_of_one_with() -> None:
    """What is learnt counts from the next rollout on."""
    taught = Played(_spec(), 0.06, 1)
    plain = Played(_spec(), 0.06, 1)
    plain.ramp.job = None
    for _ in range(40):
        taught.run(1)
        plain.run(1)
        assert [s.split_bp for s in taught.ramp.segments.values()] == [s.split_bp for s in plain.ramp.segments.values()]
    assert taught.job.learnt.updates > 0


def test_a_restart_changes_nothing_of_what_is_learnt() -> None:
    whole = Played(_spec(), 0.03, 2).run(20)
    again = Played(_spec(), 0.03, 2)
    again.ramp.restore(json.loads(json.dumps(whole.ramp.state())), gap_s=0.0)
    kept = json.loads(json.dumps(whole.job.state()))
    assert any(kept["pending"]), "a decision is under way"
    again.job.restore(kept)
    again.rng.bit_generator.state, again.tick = whole.rng.bit_generator.state, whole.tick
    before = whole.job.learnt.updates
    whole.run(15)
    again.run(15)
    assert whole.job.learnt.updates > before > 0
    assert again.job.learnt.updates == whole.job.learnt.updates
    assert np.array_equal(again.job.learnt.values.values, whole.job.learnt.values.values)
    assert again.job.state() == whole.job.state()


def _other() -> QValues:
    return replace(SHIPPED, values=SHIPPED.values + 0.001)


def test_what_was_learnt_is_kept_and_of_other_shipped_values_discarded() -> None:
    learnt = Played(_spec(), 0.06, 1).run(30).job.learnt
    kept = learnt.to_json()
    again = Learnt.from_json(kept, SHIPPED)
    assert again.updates == learnt.updates > 0
    np.testing.assert_allclose(again.values.values, learnt.values.values, atol=1e-6)
    assert np.abs(again.values.values - SHIPPED.values).max() > 1e-5
    assert again.to_json() == kept
    with pytest.raises(StateError, match="of other shipped values"):
        Learnt.from_json(kept, _other())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"origin": {}}, "cannot be read"),
        ({"values": None}, "cannot be read"),
        ({"values": (SHIPPED.values + 0.03).ravel().tolist()}, "out of bounds"),
        ({"visits": (-SHIPPED.visits).ravel().tolist()}, "out of bounds"),
    ],
)
def test_damaged_values_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(StateError, match=said):
        Learnt.from_json(json.dumps(json.loads(NOTHING.to_json()) | change), SHIPPED)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shipped": "other"}, "of other shipped values"),
        ({"pending": [None]}, "of 1 segments, not of 2"),
        ({"pending": [[[10**6] * 6, 0.1, 0.1, 3, 0.0, 1.0], None]}, "cannot be read"),
        ({"pending": [[[0] * 6, 0.1, 0.1, 9, 0.0, 1.0], None]}, "cannot be read"),
        ({"moved": [[10**9], [0.0], [1]]}, "cannot be read"),
        ({"moved": [[0], [float("inf")], [1]]}, "out of bounds"),
        ({"updates": "many"}, "cannot be read"),
    ],
)
def test_a_damaged_state_is_refused_and_nothing_taken_from_it(change: dict[str, Any], said: str) -> None:
    job = OnTheJob(_spec(), NOTHING)
    with pytest.raises(StateError, match=said):
        job.restore(job.state() | change)
    assert job.learnt is NOTHING


# -- in the engine -----------------------------------------------------------------------------------------------------


def _engine_at(until_s: int) -> tuple[ServiceEngine, int]:
    engine = ServiceEngine(_spec(), seed=1)
    people, split, now_ns = shop(_spec(), seed=1), dict[int, int](), 0
    for at_s in range(1, until_s + 1):
        rows = people.advance(at_s, split)
        now_ns = int((at_s + 0.3) * NS)
        if at_s == 2:
            engine.start(Rollout(rollout="r1", canary="v2", started_ns=now_ns, arms=ARMS))
        engine.observe(rows, LABELS)
        for i, decision in enumerate(engine.tick(now_ns)):
            engine.confirm(decision.segment, now_ns)
            split[i] = decision.split_after_bp
    return engine, now_ns


def test_an_engine_goes_on_learning_after_a_restart_and_its_next_rollout_chooses_by_it() -> None:
    engine, now_ns = _engine_at(40)
    assert engine.learning is not None
    assert engine.learning.updates > 0
    assert engine.learnt is not None
    assert engine.learnt.updates == 0, "the rollout is not over"
    data = engine.to_bytes(now_ns)
    again = ServiceEngine(_spec(), seed=1)
    again.from_bytes(data, now_ns)
    assert again.learning is not None
    assert again.learning.updates == engine.learning.updates
    assert again.unlearnt == ""
    assert again.to_bytes(now_ns) == data or json.loads(again.to_bytes(now_ns))["job"] == json.loads(data)["job"]
    body = json.loads(data)
    body["job"]["shipped"] = "others"
    other = ServiceEngine(_spec(), seed=1)
    other.from_bytes(json.dumps(body).encode(), now_ns)
    assert "other shipped values" in other.unlearnt
    assert other.is_running, "that is no reason to hold"
    assert other.learning == other.learnt


def test_other_policies_learn_nothing() -> None:
    engine = ServiceEngine(small_spec(), seed=1)
    engine.start(Rollout(rollout="r1", canary="v2", started_ns=0, arms=ARMS))
    engine.take_learnt("not even read")
    assert engine.learning is None
    assert json.loads(engine.to_bytes(1))["job"] is None
