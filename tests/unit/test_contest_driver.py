"""The contest's driver and report, in a small world of its own instead of the simulator."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.simulation.scenario import Effect, Group, Kpi, Must, Scenario
from benchmarks.contest import __main__ as contest
from benchmarks.contest import intervals, jobs, plots, report
from benchmarks.contest.contestants import Knob
from benchmarks.contest.heat import Contestant, Record, Splits, Tick, World, play
from benchmarks.contest.intervals import Figure
from benchmarks.contest.jobs import Extent, Result
from benchmarks.contest.kept import Kept
from benchmarks.contest.losses import losses
from benchmarks.contest.metrics import Batch
from benchmarks.contest.oracle import Oracle, divergence
from benchmarks.contest.outcome import Cell, cell_of
from benchmarks.contest.peers.protocol import PROMOTED, State, Step
from benchmarks.contest.tuning import tune

GROUPS = (Group(name="a", share=0.5), Group(name="default", share=0.5))
GOOD = Scenario(name="good", title="", must=Must.PROMOTE, groups=GROUPS, loads=(20.0,), horizon_s=7_200.0)
BAD = Scenario(
    name="bad", title="", must=Must.ROLLBACK, groups=GROUPS, loads=(20.0,), horizon_s=7_200.0,
    effects=(Effect(kpi=Kpi.ERRORS, times=20.0, at_s=600.0),),
)  # fmt: skip


class SmallWorld:
    """Errors only: .2 % of requests, `times` as many on the canary from an onset on."""

    n_segments = 2
    edges_ms = np.array([50.0, 100.0, 500.0])

    def __init__(self, scenario: Scenario, load: float, n_runs: int, rng: np.random.Generator) -> None:
        self.n_runs, self._load, self._rng, self._at_s = n_runs, load, rng, 0.0
        (effect,) = scenario.effects or (None,)
        self._times, self._onset_s = (effect.times, effect.at_s) if effect else (1.0, 0.0)

    def advance(self, split_bp: Splits) -> Tick:
        split = split_bp.mean(axis=1) / 10_000
        sessions = self._rng.poisson(self._load * 10 * np.stack([1 - split, split], axis=1))
        rates = np.array([0.002, 0.002 * (self._times if self._at_s >= self._onset_s else 1.0)])
        failed = self._rng.binomial(sessions * 5, rates)
        durations = np.zeros((self.n_runs, 2, 4), np.int64)
        durations[:, :, 0] = sessions * 5
        self._at_s += 10
        harm = split_bp / 10_000 * self._load / 2 * 10 * (rates[1] - rates[0])
        return Tick(
            batch=Batch(
                requests=sessions * 5, failed=failed, durations=durations, duration_ms=sessions * 100.0, users=sessions,
                users_bad=np.minimum(failed, sessions), sessions=sessions, abandoned=sessions // 3,
            ),
            harm=harm, window=None,
        )  # fmt: skip

    def harm_ahead(self, _split_bp: Splits, _since_s: float, _until_s: float) -> np.ndarray | None:
        return None


class TwoSteps:
    """A contestant of Serinus's: one segment after the other, and no care."""

    name = "serinus"

    def __init__(self, n: int) -> None:
        self.n = n
        self._at_s = 0.0

    def decide(self, at_s: float) -> Splits:
        self._at_s = at_s
        return np.full((self.n, 2), (10_000 * (at_s >= 60), 10_000 * (at_s >= 120)), np.int64)

    def see(self, tick: Tick, rows: slice) -> None: ...

    def rolled_back(self) -> np.ndarray:
        return np.zeros((self.n, 2), dtype=bool)

    def is_over(self) -> bool:
        return self._at_s >= 120


@dataclass(frozen=True)
class SmallArena:
    def scenarios(self) -> Sequence[Scenario]:
        return GOOD, BAD

    def world(
        self, scenario: Scenario, load: float, n_runs: int, rng: np.random.Generator, *, with_durations: bool
    ) -> World:
        assert with_durations in {True, False}
        return SmallWorld(scenario, load, n_runs, rng)

    def own(self) -> Sequence[str]:
        return ("serinus",)

    def contestant(self, _name: str, _scenario: Scenario, _load: float, world: World, _seed: int) -> Contestant:
        return TwoSteps(world.n_runs)


def cell(contestant: str, must: str = "rollback", load: float = 20.0, **figures: tuple[float, float, float]) -> Cell:
    shown = {name: Figure(value=v, low=low, high=high, n=9) for name, (v, low, high) in figures.items()}
    times = (figures["full_min"][0],) * 9 if "full_min" in figures else ()
    return Cell(
        scenario=must, load=load, contestant=contestant, must=must, held_out=False, n=9, figures=shown, times_min=times
    )


def standing(contestant: str, harm: tuple[float, float, float], time_min: float) -> list[Cell]:
    time = (time_min, time_min, time_min)
    return [
        cell(contestant, harm=harm, missed=(0, 0, 0), exposure=(0, 0, 0), undecided=(0, 0, 0), delay_min=time),
        cell(
            contestant,
            "promote",
            harm=(0, 0, 0),
            full_min=time,
            most_min=time,
            false_rollback=(0, 0, 0),
            undecided=(0, 0, 0),
        ),
    ]


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_wilsons_interval_is_the_textbook_one_and_is_never_empty_at_0_and_1() -> None:
    shown = intervals.rate(np.arange(50) < 5)
    assert (shown.value, shown.low, shown.high) == (
        0.1,
        pytest.approx(0.0435, abs=1e-3),
        pytest.approx(0.2136, abs=1e-3),
    )
    none = intervals.rate(np.zeros(100, bool))
    assert (none.low, none.high) == (0.0, pytest.approx(0.0370, abs=1e-3))
    assert intervals.rate([]).n == 0


def test_a_medians_interval_covers_it_and_survives_runs_that_never_ended() -> None:
    rng = np.random.default_rng(1)
    covered = [
        shown.low <= math.log(2) <= shown.high
        for shown in (intervals.quantile(rng.exponential(size=25)) for _ in range(400))
    ]
    assert np.mean(covered) >= 0.93
    assert intervals.quantile(np.array([1.0, 2.0, math.inf, math.inf, math.inf])).value == math.inf
    assert intervals.mean(np.array([3.0])).high == math.inf


# -- a heat ------------------------------------------------------------------------------------------------------------


def test_a_record_knows_since_when_a_segment_is_full_and_forgets_it_when_it_falls() -> None:
    record = Record.empty("x", 1, 2)
    back = np.zeros((1, 2), bool)
    for at_s, splits in ((0, (0, 0)), (10, (10_000, 500)), (20, (5_000, 10_000)), (30, (10_000, 0))):
        record.note_splits(float(at_s), np.array([splits]), back)
    record.note_splits(40.0, np.array([[10_000, 0]]), np.array([[False, True]]))
    assert record.full_since_s.tolist() == [[30, math.inf]]
    assert record.none_since_s.tolist() == [[math.inf, 30]]
    assert record.first_s.tolist() == [[10, 10]]
    assert record.back_at_s.tolist() == [[math.inf, 40]]


def test_harm_and_delay_count_from_the_onset_and_a_missed_release_goes_on_harming() -> None:
    world = SmallWorld(BAD, 20.0, 3, np.random.default_rng(0))
    (record,) = play(world, [TwoSteps(3)], horizon_s=7_200.0, may_harm=True)
    made = cell_of(BAD, 20.0, record)
    assert made.figures["missed"].value == 1.0
    assert made.figures["delay_min"].value == math.inf
    assert made.figures["harm"].value == pytest.approx((7_200 - 600) * 20 * 0.002 * 19)
    assert "false_rollback" not in made.figures


def test_a_good_release_ends_the_heat_and_shows_when_all_segments_were_there() -> None:
    world = SmallWorld(GOOD, 20.0, 3, np.random.default_rng(0))
    (record,) = play(world, [TwoSteps(3)], horizon_s=7_200.0, may_harm=False)
    made = cell_of(GOOD, 20.0, record)
    assert made.figures["full_min"].value == 2.0
    assert made.figures["undecided"].value == made.figures["false_rollback"].value == 0.0
    assert record.sessions.max() < 20 * 200


# -- the whole ---------------------------------------------------------------------------------------------------------


SMALL = Extent(name="test", n=4, n_tuning=6, horizon_s=3_600.0, peers=("argo-docs", "growthbook-safe", "ramp-z"))


@pytest.fixture(scope="module")
def result() -> Result:
    return jobs.run(SmallArena(), SMALL, processes=1, say=lambda _: None)


def test_every_contestant_plays_every_cell_as_documented_and_tuned(result: Result) -> None:
    names = {made.contestant for made in result.cells}
    assert names == {"serinus", "argo-docs", "argo-docs (tuned)", "growthbook-safe", "ramp-z", "ramp-z (tuned)"}
    assert len(result.cells) == 2 * len(names)
    assert all(figure.n == 4 for made in result.cells for figure in made.figures.values())


def test_the_same_names_give_the_same_runs(result: Result) -> None:
    tuned = {made.contestant: made.values for made in result.tuned}
    job = (SmallArena(), SMALL, BAD, 20.0, "an hour", tuned)
    again = {made.contestant: made.harms for made in jobs._play_one(job)}
    assert len(again) == 4
    before = {made.contestant: made.harms for made in result.cells if made.scenario == "bad"}
    assert again.items() <= before.items()
    assert jobs.seed_of(1, "a", 2.0) == jobs.seed_of(1, "a", 2.0) != jobs.seed_of(1, "a", 20.0)


def test_a_contest_goes_on_where_it_was_interrupted(result: Result, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Interrupted(SmallArena):
        left: list[int]

        def world(self, *about: Any, **also: Any) -> SmallWorld:
            if not self.left:
                raise KeyboardInterrupt
            self.left.pop()
            return SmallArena.world(self, *about, **also)

    kept = Kept(tmp_path, "this commit")

    def go_on(worlds: int, kept: Kept) -> Result:
        return jobs.run(Interrupted([0] * worlds), SMALL, processes=1, say=lambda _: None, kept=kept)

    for worlds in (5, 6):
        with pytest.raises(KeyboardInterrupt):
            go_on(worlds, kept)
    assert list(tmp_path.glob("*.json"))
    assert repr(go_on(99, kept)) == repr(go_on(0, kept)) == repr(result)
    next(tmp_path.glob("*.json")).write_text("[{")  # half of it
    with pytest.raises(KeyboardInterrupt):
        go_on(0, kept)
    with pytest.raises(KeyboardInterrupt):
        go_on(0, Kept(tmp_path, "another commit"))


def test_the_report_begins_with_losses_and_shows_every_cell(result: Result, tmp_path: Path) -> None:
    text = report.markdown(result.cells, result.tuned, title="T")
    assert text.index("Where Serinus loses") < text.index("Goals") < text.index("By load") < text.index("Every cell")
    assert text.count("| bad | rollback | 20 |") == len(result.cells) // 2
    data = contest.as_data(result, contest.QUICK)
    assert json.loads(json.dumps(data, allow_nan=False))["cells"]
    assert data["seeds"] == {"contest": jobs.SEED, "tuning": jobs.TUNING_SEED}
    drawn = plots.draw(result.cells, tmp_path)
    assert all(path.read_text().lstrip().startswith("<?xml") for path in drawn)


def test_who_harms_less_in_no_more_time_is_a_loss_and_who_takes_longer_is_none() -> None:
    own = standing("serinus", (10.0, 9.0, 11.0), 15.0)
    better, later, sooner = (
        standing("better", (5.0, 4.0, 6.0), 15.0),
        standing("later", (5.0, 4.0, 6.0), 16.0),
        standing("sooner", (10.5, 9.5, 11.5), 5.0),
    )
    found = losses([*own, *better, *later, *sooner])
    assert [(loss.peer, loss.axis, loss.sure) for loss in found] == [
        ("better", "harm at equal or shorter time", True),
        ("sooner", "time at equal harm", True),
    ]
    goals = report.goals([*own, *better, *later])
    assert goals[0].startswith("MISS 20/s: harm 10.0 is 2.00 of the best documented plan's")
    assert goals[-1] == "PASS 20/s: better on both axes: nobody"


def test_a_surely_higher_rate_is_a_loss_of_its_own() -> None:
    """And Serinus's other policies and the oracle are no peers."""
    own = cell("serinus", "keep", harm=(0, 0, 0), false_rollback=(0.5, 0.4, 0.6))
    others = [cell(name, "keep", harm=(0, 0, 0), false_rollback=(0, 0, 0)) for name in ("oracle", "serinus-cap")]
    peer = cell("peer", "keep", harm=(0, 0, 0), false_rollback=(0.01, 0.0, 0.05))
    assert [(loss.axis, loss.sure) for loss in losses([own, peer, *others])] == [("false_rollback", True)]
    assert losses([cell("serinus", "keep", harm=(0, 0, 0), false_rollback=(0.1, 0.0, 0.3)), peer]) == []


# -- tuning ------------------------------------------------------------------------------------------------------------


def test_tuning_finds_the_strictest_value_that_is_still_allowed() -> None:
    from benchmarks.contest.contestants import Entry

    first = Knob(name="a", documented=0.1, strictest=0.001, loosest=1.0)
    second = Knob(name="b", documented=0.1, strictest=0.001, loosest=1.0)
    entry = Entry(name="x", make=lambda _rng, _v: Never(), knobs=(first, second))

    def rolled_back(settings: Sequence[dict[str, float]]) -> list[list[bool]]:
        """Two of 100 runs for every limit that is below .01."""
        counts = [sum(2 * (value < 0.01) for value in values.values()) for values in settings]
        return [[run < count for run in range(100)] for count in counts]

    tuned = tune(entry, 20.0, 0.02, rolled_back)  # type: ignore[arg-type]
    assert 0.01 <= tuned.values["a"] < 0.0115
    assert tuned.values["b"] < 0.0012
    assert tuned.false_rollback.value <= 0.02


def test_a_peer_that_is_too_strict_as_documented_is_loosened() -> None:
    from benchmarks.contest.contestants import Entry

    knob = Knob(name="a", documented=0.01, strictest=0.001, loosest=1.0)
    entry = Entry(name="x", make=lambda _rng, _v: Never(), knobs=(knob,))
    tuned = tune(entry, 20.0, 0.01, lambda settings: [[each["a"] < 0.5] * 10 for each in settings])
    assert 0.5 <= tuned.values["a"] < 0.57


class Never:
    name, interval_s = "never", 60.0

    def decide(self, _seen: object, at_s: float) -> Step:
        return PROMOTED if at_s else Step(0.0, State.RUNNING)


# -- the oracle --------------------------------------------------------------------------------------------------------


def test_the_oracle_takes_good_releases_back_in_no_more_than_alpha_and_finds_bad_ones_as_fast_as_wald() -> None:
    rng, n = np.random.default_rng(4), 400
    p_0, p_1 = np.full((1, 1), 0.005), np.full((1, 1), 0.02)

    def rounds(p: float) -> tuple[float, float]:
        oracle, away = Oracle(n, budget=50.0), np.full(n, np.inf)
        for tick in range(400):
            bad = np.stack([np.zeros((n, 1, 1)), rng.binomial(20, p, (n, 1, 1))], axis=-1).astype(float)
            oracle.see(np.full((n, 1, 1, 2), 20.0), bad, p_0, p_1)
            away[oracle.rolled_back & np.isinf(away)] = tick + 1
        return float(oracle.rolled_back.mean()), float(np.median(away))

    assert rounds(0.005)[0] <= 0.02
    caught, ticks = rounds(0.02)
    expected = math.log(100) / float(divergence(p_0, p_1)[0, 0]) / 20
    assert caught == 1.0
    assert 0.6 * expected < ticks < 1.6 * expected


def test_the_oracle_is_not_misled_by_what_both_arms_suffer() -> None:
    many = np.full((1, 1, 1, 2), 200.0)  # of 2,000, where 10 would be usual: but in both arms
    oracle = Oracle(1, budget=50.0)
    oracle.see(np.full((1, 1, 1, 2), 2_000.0), many, np.full((1, 1), 0.005), np.full((1, 1), 0.02), noisy=True)
    assert not oracle.rolled_back.any()
    many[..., 1] = 400.0
    oracle = Oracle(1, budget=50.0)
    oracle.see(np.full((1, 1, 1, 2), 2_000.0), many, np.full((1, 1), 0.005), np.full((1, 1), 0.02), noisy=True)
    assert oracle.rolled_back.all()


def test_the_oracle_puts_no_more_than_a_tenth_of_the_budget_at_stake_and_goes_on_with_evidence() -> None:
    oracle = Oracle(1, budget=50.0)
    (split,) = oracle.split(np.array(100.0))
    assert split * 100.0 * 0.5 == pytest.approx(5.0)
    n, bad = np.full((1, 1, 1, 2), 2_000.0), np.full((1, 1, 1, 2), 10.0)
    oracle.see(n, bad, np.full((1, 1), 0.005), np.full((1, 1), 0.02))
    assert oracle.split(np.array(100.0))[0] == 1.0
    assert oracle.split(np.array(0.0))[0] == 1.0
