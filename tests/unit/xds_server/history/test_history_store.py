"""The history in the journal's file: bounded, whole or not at all, and never a crash for what is damaged."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.errors import RecordError
from analysis.evidence.log_loss import NO_CHECK
from analysis.forecast.exhaustion import Exhaustion
from analysis.history import archive
from analysis.history.record import Verdict, label_of
from analysis.replay import replay
from analysis.tape import Lost, Started, Ticked
from analysis.window import empty
from tests.deployments import deployment
from tests.unit.analysis.rows import small_spec
from tests.unit.xds_server.test_journal import rollout
from xds_server.errors import HistoryError
from xds_server.mesh import HistoryBounds
from xds_server.store import schema
from xds_server.store.assembling import Deployments, decoded
from xds_server.store.history import HistoryStore
from xds_server.store.journal import Journal
from xds_server.store.records import EventRow, ImportedRow, LabelRow
from xds_server.tape_form import decode, encode, kind_of

DAY_NS = 86_400 * 10**9


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path)) as opened:
        yield opened


def event(size: int = 10, at_ns: int = 0) -> EventRow:
    return EventRow(at_unix_ns=at_ns, kind="lost", payload=b"x" * size)


def imported(name: str) -> ImportedRow:
    payload = archive.to_bytes(deployment(rollout=name))
    return ImportedRow(
        rollout=name, service="shop", at_unix_ns=5, who="ann", payload=payload
    )  # fmt: skip


def tape_of_one_tick(at_ns: int = 10**10) -> list[EventRow]:
    spec = small_spec()
    started = Started(at_ns=0, started_ns=0, arms={"default": ("v1", "v2")}, spec=spec, seed=1, artefacts={})
    leak = Exhaustion(
        resource="memory", limit=1_000.0, level=800.0, slope=0.1, baseline_slope=-0.1, lower_s=900.0, in_s=2_000.0,
        upper_s=math.inf, horizon_s=7_200.0, p_exhausts=0.4, log_e=-0.2,
    )  # fmt: skip
    tick = Ticked(
        at_ns=at_ns, window=replace(empty(2, 5), entries=3), logs=NO_CHECK, risk=0.1, ahead=1.0, said=(), suspicion=(),
        log_e=(), exhaustion=leak, exhausted_ticks=2, digest=b"",
    )  # fmt: skip
    return [EventRow(at_unix_ns=e.at_ns, kind=kind_of(e), payload=encode(e, spec)) for e in (started, tick)]


def test_what_a_tick_foresees_of_resources_comes_back() -> None:
    tick = list(decoded(tape_of_one_tick()))[1]
    assert isinstance(tick, Ticked)
    assert tick.exhaustion is not None
    assert (tick.exhaustion.resource, tick.exhaustion.upper_s, tick.exhausted_ticks) == ("memory", math.inf, 2)


def test_events_come_back_in_order(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds_server.store.history.EVENTS_AT_ONCE", 3)
    store, rows = HistoryStore(journal), [event(at_ns=i) for i in range(7)]
    store.append("a", 0, rows[:4])
    store.append("b", 0, [event(at_ns=99)])
    store.append("a", 0, rows[4:])
    store.append("a", 0, [])
    assert list(store.tape("a")) == rows
    assert list(store.tape("c")) == []
    assert store.kept().bytes == 80


def test_a_tape_that_takes_more_than_its_part_ends(journal: Journal) -> None:
    store = HistoryStore(journal, HistoryBounds(bytes=400))
    store.append("a", 0, [event(60)])
    store.append("a", 0, [event(60)])  # 100 bytes are its part
    store.append("a", 0, [event(1)])
    kept = list(store.tape("a"))
    assert len(kept) == 2
    (_, end) = kept
    told = decode(end.kind, end.payload, None)
    assert isinstance(told, Lost)
    assert told.reason.startswith("it takes a quarter of all")


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        (HistoryBounds(rollouts=2), ["r3", "r4"]),
        (HistoryBounds(keep_s=2.5 * 86_400), ["r2", "r3", "r4"]),
        (HistoryBounds(bytes=45), ["r1", "r2", "r3", "r4"]),
        (HistoryBounds(bytes=25), ["r3", "r4"]),
        (HistoryBounds(), ["r0", "r1", "r2", "r3", "r4"]),
    ],
)
def test_the_oldest_go_first(
    journal: Journal, bounds: HistoryBounds, kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xds_server.store.history.EVENTS_AT_ONCE", 2)
    monkeypatch.setattr("xds_server.store.history.ONE_PART", 1)
    store = HistoryStore(journal, HistoryBounds())
    for i in range(5):
        store.append(f"r{i}", i * DAY_NS, [event(2)] * 5)
        store.put_label(LabelRow(rollout=f"r{i}", at_unix_ns=0, verdict="bad", who="ann", reason=""))
    store.bounds = bounds
    gone = store.prune(4 * DAY_NS)
    assert sorted({f"r{i}" for i in range(5)} - set(gone)) == kept
    assert [name for name in (f"r{i}" for i in range(5)) if list(store.tape(name))] == kept
    assert sorted(store.labels()) == kept
    assert store.kept().rollouts == len(kept)


def test_a_running_rollout_is_not_forgotten(journal: Journal) -> None:
    store = HistoryStore(journal, HistoryBounds(keep_s=1))
    journal.start_rollout(rollout("a", started=0))
    store.append("a", 0, [event()])
    assert store.prune(DAY_NS) == ()
    journal.finish_rollout("a", 5, {}, "finished")
    assert store.prune(DAY_NS) == ("a",)


def test_an_import_is_kept_whole_or_not_at_all(journal: Journal) -> None:
    store = HistoryStore(journal)
    journal.start_rollout(rollout("live"))
    store.put_imported([imported("a")])
    for known in ("a", "live"):
        with pytest.raises(ValueError, match=known):
            store.put_imported([imported("b"), imported(known)])
    assert store.imported() == {"a": "shop"}
    assert Deployments(journal, store).record("a") == deployment(rollout="a")


def test_a_record_is_read_without_all_others(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export reads thousands of records, one after the other."""
    store = HistoryStore(journal)
    journal.start_rollout(rollout("live"))
    store.put_imported([imported("a")])
    store.put_label(LabelRow(rollout="live", at_unix_ns=0, verdict="bad", who="ben", reason=""))
    monkeypatch.delattr(Journal, "rollouts")
    monkeypatch.delattr(HistoryStore, "labels")
    deployments = Deployments(journal, store)
    assert [label_of(deployments.record(name)).bad for name in ("live", "a")] == [True, True]


def test_a_label_replaces_the_one_before_and_goes_into_the_record(journal: Journal) -> None:
    store = HistoryStore(journal)
    store.put_imported([imported("a")])
    for verdict in ("bad", "good"):
        store.put_label(LabelRow(rollout="a", at_unix_ns=0, verdict=verdict, who="ben", reason="looked again"))
    record = Deployments(journal, store).record("a")
    assert record.label is not None
    assert (record.label.verdict, record.label.who) == (Verdict.GOOD, "ben")
    assert label_of(record).bad is False


def test_a_rollout_of_which_nothing_was_seen_is_a_record_all_the_same(journal: Journal) -> None:
    journal.start_rollout(replace(rollout("a"), attributes={"lines": 3.0, "team": "x"}))
    journal.finish_rollout("a", 20, {"default": "rolled_back"}, "finished")
    deployments = Deployments(journal, HistoryStore(journal))
    assert deployments.names() == {"a": "checkout"}
    assert deployments.names("another") == {}
    record = deployments.record("a")
    assert (len(record.at_s), record.segments, record.attributes) == (0, ("default",), {"lines": 3.0, "team": "x"})
    assert label_of(record).bad is None


@pytest.mark.parametrize(
    "wrong",
    [b"", b"\x01", b"\x02", b"\x02garbage", tape_of_one_tick()[1].payload[:-5], tape_of_one_tick()[0].payload],
    ids=["empty", "other version", "nothing", "garbage", "half-written", "of another kind"],
)
def test_damaged_events_are_a_line_and_never_a_crash(journal: Journal, wrong: bytes) -> None:
    store, rows = HistoryStore(journal), tape_of_one_tick()
    journal.start_rollout(rollout("a"))
    store.append("a", 10, [rows[0], replace(rows[1], payload=wrong)])
    journal.finish_rollout("a", 20, {}, "finished")
    with pytest.raises(HistoryError, match=r"deployment a: (event ticked|ticked was recorded by another)") as caught:
        Deployments(journal, store).record("a")
    assert "\n" not in str(caught.value)
    with pytest.raises(HistoryError):
        replay(decoded(store.tape("a")))


@pytest.mark.parametrize("cut", [0, 1, 40, -30, -1])
def test_a_half_written_record_is_a_line_and_never_a_crash(cut: int) -> None:
    whole = archive.to_bytes(deployment())
    with pytest.raises(RecordError) as caught:
        archive.from_bytes(whole[:cut])
    assert "\n" not in str(caught.value)


def test_a_record_of_another_version_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FORMAT", 2)
    newer = archive.to_bytes(deployment())
    monkeypatch.undo()
    with pytest.raises(RecordError, match="rollout record has format 2; this version reads 1"):
        archive.from_bytes(newer)


def test_a_journal_of_before_gets_the_new_tables(tmp_path: Path) -> None:
    with contextlib.closing(Journal(tmp_path)) as journal:
        journal.start_rollout(rollout("old"))
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as raw:
        for table in ("tapes", "tape_events", "imported_rollouts", "labels", "artefacts", "releases"):
            raw.execute(f"DROP TABLE {table}")
        raw.execute("ALTER TABLE rollouts DROP COLUMN attributes")
        raw.execute("PRAGMA user_version = 6")
        raw.commit()
    with contextlib.closing(Journal(tmp_path)) as journal:
        assert journal.rollouts() == (rollout("old"),)
        HistoryStore(journal).append("old", 0, [event()])
        assert schema.VERSION == 8
