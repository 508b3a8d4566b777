"""Recorded people split anew: what is drawn of them, and what a policy makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.backtest.backtest import backtest
from analysis.backtest.cases import cases
from analysis.backtest.outcome import figures, parts
from analysis.backtest.parts import Split
from analysis.backtest.people import People, Recorded, age_ticks
from analysis.backtest.plan import plan
from analysis.backtest.replay import replay
from analysis.change import Verdict as Said
from analysis.errors import RecordError
from analysis.history.record import Label, RecordedDecision, RolloutRecord, Verdict
from analysis.spec import KpiKind, Outcome
from analysis.window import BASELINE, CANARY
from tests.deployments import deployment

TICKS, PER_TICK, SHARE = 240, 200, 0.2
BASE = 0.01


def recorded(name: str, *, excess: float, seed: int = 1, **changes: object) -> RolloutRecord:
    """Forty minutes at a fifth on the canary, of 200 people a tick."""
    rng = np.random.default_rng(seed)
    n = np.zeros((TICKS, 1, 1, 2), np.int64)
    n[..., CANARY] = round(PER_TICK * SHARE)
    n[..., BASELINE] = PER_TICK - n[..., CANARY]
    bad = rng.binomial(n, np.array([BASE, BASE + excess]))
    nothing = np.full((TICKS, 1), np.nan)
    about = {
        "rollout": name, "service": name, "segments": ("default",), "kpis": ("error_rate",), "n": n, "bad": bad,
        "at_s": (np.arange(TICKS) + 1) * 10.0, "exposed": nothing, "arrived": nothing, "split_bp": nothing,
        "suspicion": nothing, "log_e": nothing, "gauges": (), "decisions": (), "outcome": {},
        "label": Label(verdict=Verdict.BAD if excess else Verdict.GOOD), "attributes": {},
    }  # fmt: skip
    return deployment(**{**about, **changes})


def people(record: RolloutRecord) -> tuple[People, Recorded]:
    spec = plan(record, None)
    found = Recorded.of([record], spec)
    return People(found, spec, np.random.default_rng(0)), found


@pytest.mark.parametrize("split", [0.0, 0.05, SHARE, 0.6, 1.0])
def test_each_arm_keeps_its_own_rate_at_every_split(split: float) -> None:
    anew, _ = people(recorded("a", excess=0.1))
    n, bad, exposed = np.zeros(2), np.zeros(2), 0
    for _ in range(TICKS):
        window, _ = anew.advance([[split * 10_000]])
        n += window.n[0, 0, 0] + [window.unexposed_n[0, 0, 0], 0]
        bad += window.bad[0, 0, 0] + [window.unexposed_bad[0, 0, 0], 0]
        exposed += int(window.exposed[0, 0])
    assert n[CANARY] / n.sum() == pytest.approx(split * (1 - 8 / TICKS), abs=0.02)
    assert exposed == pytest.approx(split * TICKS * PER_TICK, rel=0.05)
    for arm, share in ((BASELINE, BASE), (CANARY, BASE + 0.1)):
        if n[arm]:
            assert bad[arm] / n[arm] == pytest.approx(share, abs=4 * np.sqrt(share / n[arm]))
    assert anew.harm[0, 0] == pytest.approx(0.1 * exposed, rel=0.2)


def test_the_recorded_split_gives_the_recorded_people_and_never_more_bad_ones() -> None:
    """A smaller arm is a part of the recorded one."""
    record = recorded("a", excess=0.1)
    anew, found = people(record)
    for tick in range(TICKS):
        window, _ = anew.advance([[500]])
        small = window.n[0, 0, 0, CANARY] <= found.n[tick, 0, 0, 0, CANARY]
        assert not small or window.bad[0, 0, 0, CANARY] <= found.bad[tick, 0, 0, 0, CANARY]


def test_nobody_is_judged_before_their_age() -> None:
    record = recorded("a", excess=0.1)
    spec = plan(record, None)
    anew, _ = people(record)
    judged = [int(anew.advance([[10_000]])[0].n[0, 0, 0, CANARY]) for _ in range(20)]
    assert judged.index(next(filter(None, judged))) == age_ticks(spec, 0) == 7


def test_people_from_before_the_change_tell_the_base_rate_and_nothing_else() -> None:
    record = recorded("a", excess=0.0, at_s=(np.arange(TICKS) - 9.0) * 10)
    anew, found = people(record)
    assert found.ticks[0] == TICKS - 10 + 360
    window, _ = anew.advance([[0]])
    assert window.unexposed_n[0, 0, 0] >= record.n[:10, 0, 0, BASELINE].sum()


@pytest.mark.parametrize("policy", ["budget", "fixed", "learned", "thompson"])
def test_a_bad_one_is_rolled_back_and_a_good_one_promoted_under_any_policy(policy: str) -> None:
    bad, good = replay(
        [recorded("bad", excess=0.2), recorded("good", excess=0.0, seed=2)], policy=policy, specs={}, seed=0
    )
    assert bad.outcome == "rolled_back"
    assert bad.taken_back_s is not None
    assert 0 < bad.harm < 100
    assert "error_rate" in bad.reason
    assert good.taken_back_s is None
    assert good.outcome in ("promoted", "undecided")
    assert good.exposed > bad.exposed


def test_the_same_seed_replays_the_same_whatever_goes_beside_it_in_the_list() -> None:
    one = [recorded("bad", excess=0.2), recorded("good", excess=0.0, seed=2)]
    assert replay(one, policy="thompson", specs={}, seed=3) == replay(one, policy="thompson", specs={}, seed=3)
    assert replay(one, policy="thompson", specs={}, seed=3) != replay(one, policy="thompson", specs={}, seed=4)


@pytest.mark.parametrize("changes", [{"at_s": 1.7e9 + (np.arange(TICKS) + 1) * 10.0}, {"interval_s": 1e-300}])
def test_times_of_another_unit_are_refused_before_memory_runs_out(changes: dict[str, object]) -> None:
    with pytest.raises(RecordError, match=r"rollout 'a' ends .* legal: 200000 at most"):
        backtest([recorded("a", excess=0.0, **changes)], policy="budget")


def test_long_records_go_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [recorded(f"a{i}", excess=0.0, seed=i) for i in range(3)]
    of, held = Recorded.of, list[int]()
    monkeypatch.setattr("analysis.backtest.replay.MOST_CELLS", 2 * (TICKS + 361))
    monkeypatch.setattr(Recorded, "of", lambda batch, spec: (held.append(len(batch)), of(batch, spec))[1])
    assert len(replay(records, policy="budget", specs={}, seed=0)) == len(records)
    assert held == [2, 1]


def test_a_plan_counts_as_harm_what_a_record_has() -> None:
    spec = plan(recorded("a", excess=0.0, kpis=("checkout_failures",)), None)
    assert [kpi.kind for kpi in spec.kpis] == [KpiKind.ERROR_RATE]
    assert spec.rollout.harm.bad == {Outcome.ERROR}
    two = plan(deployment(kpis=("error_rate",)), None)
    assert [segment.name for segment in two.segments] == ["power", "default"]


# -- all together ------------------------------------------------------------------------------------------------------


def test_a_backtest_counts_what_it_was_right_in_and_names_what_it_was_not() -> None:
    earlier = RecordedDecision(
        at_s=2_000.0, segment="default", verdict="rollback", tier="proven", split_before_bp=2_000, split_after_bp=0,
        reason="",
    )  # fmt: skip
    records = [
        recorded("bad", excess=0.2, decisions=(earlier,)), recorded("good", excess=0.0, seed=2),
        recorded("hopeless", excess=0.0, seed=3, label=Label(verdict=Verdict.BAD, reason="nobody saw it")),
        recorded("unknown", excess=0.0, seed=4, label=None),
    ]  # fmt: skip
    outcomes = backtest(records, policy="budget")
    assert [each.rollout for each in outcomes if each.is_error] == ["hopeless"]
    found = figures(outcomes)
    assert (found.table.true_positive, found.table.false_negative, found.table.true_negative) == (1, 1, 1)
    assert found.unlabelled == 1
    assert (
        found.verdict_min.median < found.lead_min.median == pytest.approx(2_000 / 60 - found.verdict_min.median)
    )  # what was recorded came later
    assert found.harm_bad.n == 2
    assert set(parts(outcomes, Split.HASH)) <= {"train", "test"}
    assert set(parts(outcomes, Split.DAY)) == {"2001-09-09"}


def test_without_control_shares_are_compared_with_those_before() -> None:
    """Counts of the old version alone, then of the new one alone."""
    record = recorded("a", excess=0.3, at_s=(np.arange(TICKS) - TICKS + 20.0) * 10)
    n, bad = record.n.copy(), record.bad.copy()
    after = record.at_s > 0
    n[after, ..., BASELINE] = bad[after, ..., BASELINE] = 0
    n[~after, ..., CANARY] = bad[~after, ..., CANARY] = 0
    (found,) = backtest([recorded("a", excess=0.3, at_s=record.at_s, n=n, bad=bad)], policy="budget")
    assert found.replay is None
    assert found.verdict is Said.ROLLBACK
    assert found.judgement is not None
    assert found.judgement.findings[0].effect == pytest.approx(0.3, abs=0.1)


def test_records_of_one_case_and_those_that_overlap_are_judged_together() -> None:
    def at(service: str, started_unix_s: float, **attributes: str) -> RolloutRecord:
        return recorded(service, excess=0.0, started_unix_s=started_unix_s, attributes=attributes)

    records = [at("a", 1e9), at("b", 1e9 + 60), at("a", 1e9 + 120), at("c", 1.1e9), at("d", 2e9, case="x"),
               at("e", 1.5e9, case="x")]  # fmt: skip
    assert sorted(map(sorted, cases(records))) == [[0, 1], [2], [3], [4, 5]]


def test_nothing_recorded_is_held() -> None:
    nobody, nothing = np.zeros((0, 1, 1, 2), np.int64), np.zeros((0, 1))
    unknown = dict.fromkeys(("exposed", "arrived", "split_bp", "suspicion", "log_e"), nothing)
    empty = recorded("a", excess=0.0, at_s=np.zeros(0), n=nobody, bad=nobody, **unknown)
    (found,) = backtest([empty], policy="budget")
    assert (found.verdict, found.reason) == (Said.HOLD, "nothing was recorded of it after it began")
    assert backtest([], policy="budget") == []


def test_a_record_goes_on_as_it_ended() -> None:
    """A policy that is slower than the recorded one still comes to an end."""
    n = np.zeros((12, 1, 1, 2), np.int64)
    n[:] = 100
    short = {name: np.full((12, 1), np.nan) for name in ("exposed", "arrived", "split_bp", "suspicion", "log_e")}
    bad = n * np.array([0, 0.3])
    record = recorded("a", excess=0.3, at_s=(np.arange(12) + 1) * 10.0, n=n, bad=bad.astype(np.int64), **short)
    found = Recorded.of([record], plan(record, None))
    assert found.ticks[0] == 12 + 360
    assert (found.n[12:372] == 100).all()
    (ended,) = replay([record], policy="budget", specs={}, seed=0)
    assert ended.outcome == "rolled_back"
