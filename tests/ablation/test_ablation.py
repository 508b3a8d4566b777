"""Every stage earns its place: with one replaced by a constant, a named scenario fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis import ramp
from analysis.decision import Advance, Hold, Reason
from analysis.engine import ServiceEngine
from analysis.evidence.regression import RegressionEvidence
from analysis.forecast.excess import ExcessTrends
from analysis.guard import GuardView
from analysis.observer import Observer
from analysis.policy import BudgetPolicy, PolicyView, Proposal
from analysis.sample import SampleKind
from analysis.session import SessionTracker
from tests.sim import scenarios

REASONS = (Reason(code="ablated", text="ablated"),)


def _without(monkeypatch: pytest.MonkeyPatch, *kinds: SampleKind) -> None:
    whole = ServiceEngine.observe
    monkeypatch.setattr(
        ServiceEngine,
        "observe",
        lambda self, rows, labels: whole(self, rows[~np.isin(rows["kind"], [int(k) for k in kinds])], labels),
    )


def test_without_spans_hidden_errors_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, SampleKind.SPAN_ERROR)
    with pytest.raises(AssertionError):
        scenarios.hidden_errors_are_found_in_spans()


def test_without_feature_events_a_broken_feature_is_not_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, SampleKind.FEATURE)
    with pytest.raises(AssertionError):
        scenarios.broken_feature_is_rolled_back_on_its_use()


def test_without_sessions_nothing_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionTracker, "judge", lambda *_: iter(()))
    with pytest.raises(AssertionError):
        scenarios.healthy_release_is_promoted_everywhere()


def test_with_every_session_called_good_no_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionTracker, "_bad", lambda _self, _kpi, slots: np.zeros(len(slots), np.bool_))
    with pytest.raises(AssertionError):
        scenarios.demo_faults_are_told_apart()


def test_without_evidence_no_fault_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegressionEvidence, "_log_e_of_rows", property(lambda self: np.zeros(self._log_r.shape[:3])))
    with pytest.raises(AssertionError):
        scenarios.demo_faults_are_told_apart()


def test_without_the_sample_ratio_a_canary_that_the_logs_do_not_tell_of_is_promoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Observer, "_count_newcomers", lambda *_: None)
    with pytest.raises(AssertionError):
        scenarios.canary_that_half_of_the_logs_do_not_tell_of_is_not_promoted()


def _zero(self: BudgetPolicy, view: PolicyView, *, rng: Any) -> Proposal:
    return Proposal(split=0.0, propensity=1.0)


def _same(self: BudgetPolicy, view: PolicyView, *, rng: Any) -> Proposal:
    return Proposal(split=view.split, propensity=1.0)


@pytest.mark.parametrize("proposes", [_zero, _same])
def test_without_a_policy_no_release_gets_anywhere(monkeypatch: pytest.MonkeyPatch, proposes: object) -> None:
    monkeypatch.setattr(BudgetPolicy, "propose", proposes)
    with pytest.raises(AssertionError):
        scenarios.healthy_release_is_promoted_everywhere()


def test_guard_that_always_holds_lets_no_release_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ramp, "review", lambda _: Hold(reasons=REASONS))
    with pytest.raises(AssertionError):
        scenarios.healthy_release_is_promoted_everywhere()


def test_guard_that_always_advances_stops_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def advance(view: GuardView) -> Advance:
        return Advance(split_bp=max(view.proposal_bp, view.split_bp), reasons=REASONS)

    monkeypatch.setattr(ramp, "review", advance)
    with pytest.raises(AssertionError):
        scenarios.crash_is_taken_back_at_once()


def test_without_a_forecast_a_slow_creep_crosses_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExcessTrends, "forecast", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        scenarios.slow_creep_is_rolled_back_before_it_crosses_the_limit()
