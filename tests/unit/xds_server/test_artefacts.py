"""Artefacts by version, and what of past rollouts the failure model sees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.failure.facts import FirstMinutes
from analysis.failure.history import releases_of
from analysis.history.record import label_of
from analysis.simulation.releases import draw_history
from tests.pasts import S, write_past
from xds_server.store.artefacts import KEPT_PAYLOADS, ArtefactRow, ArtefactStore
from xds_server.store.assembling import Deployments
from xds_server.store.history import HistoryStore
from xds_server.store.journal import Journal
from xds_server.store.records import DecisionRow, LabelRow, RolloutRow

FIRST = FirstMinutes(seen_s=290.0, effects={"error_rate": 1.5}, slopes={"error_rate": -0.5}, anomaly=0.01, silence=None)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path)) as journal:
        yield journal


def _artefact(n: int, *, serves: bool = False) -> ArtefactRow:
    return ArtefactRow(
        kind="failure", version=0, trained_unix_ns=n * S, fingerprint=f"{n:064x}", scores={"after": {"n": n}},
        payload=b"{}", is_serving=serves, why=f"because {n}",
    )  # fmt: skip


def test_versions_count_up_and_one_of_a_kind_serves(journal: Journal) -> None:
    store = ArtefactStore(journal)
    assert store.add(_artefact(1, serves=True)).version == 1
    assert store.add(_artefact(2)).version == 2
    assert [row.is_serving for row in store.rows("failure")] == [True, False]
    store.serve("failure", 2, at_unix_ns=5 * S)
    rows = store.rows("failure")
    assert [(row.is_serving, row.served_unix_ns) for row in rows] == [(False, S), (True, 5 * S)]
    assert rows[1].scores == {"after": {"n": 2}}
    assert store.rows("forecast") == ()


def test_what_is_not_kept_cannot_serve_and_the_one_in_use_goes_on(journal: Journal) -> None:
    store = ArtefactStore(journal)
    store.add(_artefact(1, serves=True))
    with pytest.raises(ValueError, match="failure 7"):
        store.serve("failure", 7, at_unix_ns=S)
    assert [row.is_serving for row in store.rows("failure")] == [True]


def test_old_payloads_go_but_for_the_one_that_serves(journal: Journal) -> None:
    store = ArtefactStore(journal)
    store.add(_artefact(1, serves=True))
    for n in range(2, KEPT_PAYLOADS + 5):
        store.add(_artefact(n))
    kept = [row.version for row in store.rows("failure") if row.payload]
    assert kept == [1, *range(5, KEPT_PAYLOADS + 5)]
    with pytest.raises(ValueError, match="failure 3"):
        store.serve("failure", 3, at_unix_ns=S)


def test_a_written_history_is_read_as_it_was(journal: Journal) -> None:
    releases = draw_history(3, 60).releases
    write_past(journal, releases)
    found = releases_of(ArtefactStore(journal).past())
    assert [release.failed for release in found] == [release.failed for release in releases]
    for ours, theirs in zip(found, releases, strict=True):
        assert ours.first == theirs.first
        assert (ours.facts.service, ours.facts.size, ours.facts.kind, ours.facts.attributes) == (
            theirs.facts.service, theirs.facts.size, theirs.facts.kind, theirs.facts.attributes
        )  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "tier", "who", "phase", "failed"),
    [
        ("rollback", "hard", "", "rolled_back", True),
        ("rollback", "predicted", "", "rolled_back", None),
        ("rollback", "operator", "ann", "rolled_back", None),
        ("promote", "", "", "promoted", False),
        ("promote", "", "ann", "promoted", None),
        ("withdraw", "", "", "withdrawn", None),
    ],
)
def test_how_it_ended_says_whether_it_failed(
    journal: Journal, verdict: str, tier: str, who: str, phase: str, failed: bool | None
) -> None:
    _rollout(journal, "r", {"default": phase})
    journal.append(DecisionRow(
        at_unix_ns=2, service="shop", rollout="r", segment="default", verdict=verdict, tier=tier, split_before_bp=1,
        split_after_bp=0, generation=1, reason="", who=who,
    ))  # fmt: skip
    assert [each.failed for each in ArtefactStore(journal).past()] == [failed]
    assert label_of(Deployments(journal, HistoryStore(journal)).record("r")).bad is failed


def test_what_was_only_said_ended_nothing(journal: Journal) -> None:
    _rollout(journal, "r", {"default": "promoted"})
    journal.append(DecisionRow(
        at_unix_ns=2, service="shop", rollout="r", segment="default", verdict="rollback", tier="proven",
        split_before_bp=0, split_after_bp=0, generation=1, reason="", observed_only=True,
    ))  # fmt: skip
    assert [each.failed for each in ArtefactStore(journal).past()] == [False]
    record = Deployments(journal, HistoryStore(journal)).record("r")
    assert (record.decisions, label_of(record).bad) == ((), False)


def _rollout(journal: Journal, name: str, outcome: dict[str, str]) -> None:
    journal.start_rollout(RolloutRow(
        rollout=name, service="shop", baseline="v1", canary="v2", state="running", started_unix_ns=S,
        attributes={"size": 3.0},
    ))  # fmt: skip
    journal.finish_rollout(name, 2 * S, outcome, "finished")


def test_half_written_records_are_read_as_far_as_they_go(journal: Journal) -> None:
    store = ArtefactStore(journal)
    for name in ("whole", "no-record", "cut", "odd", "damaged"):
        _rollout(journal, name, {"default": "promoted"})
        if name != "no-record":
            store.end(name, FIRST)
    with journal.atomically() as connection:
        for table, column, value, rollout in (
            ("releases", "first", '{"seen_s": 1', "cut"),
            ("rollouts", "attributes", "[", "cut"),
            ("releases", "first", '{"seen_s": 1}', "odd"),
            ("rollouts", "attributes", '{"a": [1]}', "odd"),
            ("rollouts", "outcome", '{"default": "nosuch"}', "damaged"),
        ):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rollout = ?", (value, rollout))  # noqa: S608
    past = store.past()
    assert [each.first for each in past] == [FIRST, None, None, None, FIRST]
    assert [dict(each.attributes) for each in past] == [{"size": 3.0}, {"size": 3.0}, {}, {}, {"size": 3.0}]
    assert [each.failed for each in past] == [False, False, False, False, None]


@pytest.mark.parametrize(("verdict", "failed"), [("bad", True), ("good", False), ("unknown", None)])
def test_what_an_operator_says_outranks_how_it_ended(journal: Journal, verdict: str, failed: bool | None) -> None:
    _rollout(journal, "r", {"default": "promoted"})
    HistoryStore(journal).put_label(LabelRow(rollout="r", at_unix_ns=3, verdict=verdict, who="ann", reason=""))
    assert [each.failed for each in ArtefactStore(journal).past()] == [failed]
