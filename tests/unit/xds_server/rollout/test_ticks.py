"""What a tick does in its thread, so that the event loop need not."""

from __future__ import annotations

from analysis.engine import Rollout, ServiceEngine
from analysis.evidence.log_loss import NO_CHECK
from analysis.session import NS
from tests.unit.analysis.rows import LABELS, row, small_spec, table
from xds_server.rollout.ticks import _advance


def test_what_is_stored_of_behaviour_is_made_where_the_engine_ticks() -> None:
    engine = ServiceEngine(small_spec(), seed=1)
    engine.start(Rollout(rollout="r", canary="v2", started_ns=0, arms={"default": ("v1", "v2")}))
    _advance(engine, table(row(1, 7), row(1, 8, segment=1)), 2 * NS, LABELS, NO_CHECK)
    _advance(engine, table(row(19, 9)), 20 * NS, LABELS, NO_CHECK)
    behaviour = engine.observer.behaviour
    assert [behaviour.waiting_n(segment) for segment in (0, 1)] == [1, 1]
    assert all(segment.kept is not None for segment in behaviour._segments)
