"""The risk of a running release: what moves it, what it moves, and that a restart or a new model changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from analysis.decision import Action
from analysis.errors import StateError
from analysis.failure.facts import PRIOR_RISK, ReleaseFacts
from analysis.failure.fitting import fit_model
from analysis.failure.foresight import Foresight
from analysis.failure.model import FailureModel
from analysis.ramp import Ramp
from analysis.simulation.releases import draw_history
from tests.unit.analysis.test_ramp import Driver

RISKY = ReleaseFacts(service="cart", releases=20, failures=9, size=90_000.0, kind="dependency", hour=2.0, weekday=4)
SAFE = ReleaseFacts(service="cart", releases=60, failures=0, size=2.0, kind="fix", hour=12.0, weekday=1)


@pytest.fixture(scope="module")
def model() -> FailureModel:
    return fit_model(draw_history(12, 300).releases)


@pytest.fixture
def foresee(model: FailureModel) -> Callable[[ReleaseFacts], Foresight]:
    return lambda facts: Foresight.of(model, facts, version="failure 3")


def _driven(foresight: Foresight | None, ticks: int, **how: float) -> Driver:
    driver = Driver()
    if foresight is not None:
        driver.ramp.foresee(foresight)
    return driver.run(ticks, **how)


def _course(driver: Driver, ticks: int) -> list[int]:
    """The largest split after each tick."""
    splits = []
    for _ in range(ticks):
        driver.run(1)
        splits.append(max(state.split_bp for state in driver.ramp.segments.values()))
    return splits


def test_a_risky_release_begins_lower_and_rises_slower_and_arrives_all_the_same(
    foresee: Callable[[ReleaseFacts], Foresight],
) -> None:
    risky, safe, unknown = (
        _course(_driven(foresight, 0), 110) for foresight in (foresee(RISKY), foresee(SAFE), None)
    )  # fmt: skip
    firsts = [next(split for split in course if split) for course in (risky, unknown)]
    assert firsts[0] < firsts[1]
    assert safe == unknown  # a low risk buys nothing: the cap is what the budget bears
    assert all(low <= usual for low, usual in zip(risky[:60], unknown[:60], strict=True))
    assert risky[-1] == unknown[-1]


def test_first_minutes_move_the_risk_from_the_next_tick_on(foresee: Callable[[ReleaseFacts], Foresight]) -> None:
    calm, bad = (_driven(foresee(SAFE), 40, excess=excess).ramp for excess in (0.0, 0.3))
    assert calm.foresight is not None
    assert calm.risk == calm.foresight.risk < foresee(SAFE).risk
    assert bad.risk > 4 * foresee(SAFE).risk


def test_risk_is_no_evidence(foresee: Callable[[ReleaseFacts], Foresight]) -> None:
    """The same people at the same splits prove as much, whatever the risk."""
    proofs, risks = [], []
    for foresight in (None, foresee(RISKY)):
        driver = _driven(foresight, 3)
        driver.order(Action.SET, split_bp=2_000)
        driver.order(Action.PAUSE)
        reading = driver.run(15, excess=0.03).ramp.reading
        proofs.append(
            (reading.evidence.log_e_values.tolist(), reading.harm.upper.tolist(), reading.now.caps_bp.tolist())
        )
        risks.append(driver.ramp.risk)
    assert proofs[0] == proofs[1]
    assert risks[0] < risks[1]


def test_a_restart_and_a_new_model_change_nothing(foresee: Callable[[ReleaseFacts], Foresight]) -> None:
    for ticks in (0, 5, 13, 25):
        whole = _driven(foresee(RISKY), ticks)
        state = json.loads(json.dumps(whole.ramp.state(), allow_nan=False))
        again = Driver()
        again.ramp.restore(state, gap_s=0.0)
        again.now_s, again.rng.bit_generator.state = whole.now_s, whole.rng.bit_generator.state
        assert again.ramp.risk == whole.ramp.risk
        assert again.ramp.foresight is not None
        assert whole.ramp.foresight is not None
        assert again.ramp.foresight.told() == whole.ramp.foresight.told()
        for _ in range(20):
            whole.run(1)
            again.run(1)
            assert again.ramp.risk == whole.ramp.risk
            assert again.split() == whole.split()


def test_states_from_before_there_was_a_risk_are_taken_up_at_the_prior(
    foresee: Callable[[ReleaseFacts], Foresight],
) -> None:
    state = _driven(foresee(RISKY), 5).ramp.state()
    del state["foresight"], state["first_minutes"]
    driver = Driver()
    driver.ramp.restore(json.loads(json.dumps(state)), gap_s=0.0)
    assert driver.ramp.risk == PRIOR_RISK


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.pop("parts"),
        lambda kept: kept.update(parts=[]),
        lambda kept: kept.update(variance=-1.0),
        lambda kept: kept.update(weight=2.0),
        lambda kept: kept["first"].update(coef=[1.0]),
    ],
)
def test_damaged_states_are_refused(
    foresee: Callable[[ReleaseFacts], Foresight], damage: Callable[[dict], object]
) -> None:
    kept = json.loads(json.dumps(_driven(foresee(RISKY), 12).ramp.state()))["foresight"]
    damage(kept)
    with pytest.raises(StateError, match="the stored risk of a release"):
        Foresight.from_state(kept)


def test_words_name_what_drove_it(foresee: Callable[[ReleaseFacts], Foresight]) -> None:
    told = " ".join(foresee(RISKY).told(10))
    assert "9 of 20 earlier releases of cart failed (+" in told
    assert "change of 90,000 (+" in told
    driver = _driven(foresee(SAFE), 40, excess=0.3)
    assert isinstance(driver.ramp, Ramp)
    assert driver.ramp.foresight is not None
    assert "standard errors worse on the canary (+" in driver.ramp.foresight.told(1)[0]
