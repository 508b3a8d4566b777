"""The journal: what a restart finds."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xds_server.errors import JournalDamagedError, JournalError, JournalLockedError, JournalTooNewError
from xds_server.mesh import SegmentSplit, ServiceSplits
from xds_server.store import schema
from xds_server.store.endpoints import EndpointStore
from xds_server.store.journal import Journal
from xds_server.store.learned import LearnedStore
from xds_server.store.policies import KEPT_NS, PolicyStore
from xds_server.store.records import DecisionRow, EngineState, ExcludedNode, RegistrationRow, RolloutRow

SPLITS = ServiceSplits(
    rollout="checkout-1",
    generation=7,
    segments={
        "power": SegmentSplit(baseline="v1", canary="v2", canary_bp=500),
        "eu": SegmentSplit(baseline="v1"),
        "default": SegmentSplit(baseline="v1", canary="v2", canary_bp=0),
    },
)


def decision(segment: str = "power", *, generation: int = 1, after_bp: int = 100, **changes: object) -> DecisionRow:
    values: dict[str, object] = {
        "at_unix_ns": 1_000,
        "service": "checkout",
        "rollout": "checkout-1",
        "segment": segment,
        "verdict": "advance",
        "split_before_bp": 0,
        "split_after_bp": after_bp,
        "generation": generation,
        "reason": "first step",
    }
    return DecisionRow(**{**values, **changes})  # type: ignore[arg-type]  # values come by name


def rollout(name: str = "checkout-1", service: str = "checkout", started: int = 10) -> RolloutRow:
    return RolloutRow(
        rollout=name,
        service=service,
        baseline="v1",
        canary="v2",
        state="running",
        started_unix_ns=started,
        who="ada@ops",
        reason="release 2",
    )


def test_a_restart_finds_exactly_the_splits_that_were_decided(tmp_path: Path) -> None:
    """Segments, their order, versions, rollout and generation come back as they were."""
    journal = Journal(tmp_path)
    journal.commit("checkout", SPLITS, [decision()])
    journal.close()
    again = Journal(tmp_path)
    assert again.load_splits() == {"checkout": SPLITS}
    assert list(again.load_splits()["checkout"].segments) == ["power", "eu", "default"]
    again.close()


def test_history_gives_back_each_field_and_the_newest_decisions_oldest_first(tmp_path: Path) -> None:
    """What was appended is what is read; the limit cuts off the old end."""
    journal = Journal(tmp_path)
    rows = [
        decision(
            after_bp=step,
            generation=step,
            tier="proven",
            detail_json=json.dumps({"evidence": 1.5}),
            who="ada@ops",
            observed_only=True,
            in_force_unix_ns=5,
        )
        for step in range(5)
    ]
    identifiers = [journal.append(row) for row in rows]
    got = journal.history(limit=3)
    assert [row.id for row in got] == identifiers[-3:]
    assert [(row.split_after_bp, row.tier, row.who, row.observed_only) for row in got] == [
        (step, "proven", "ada@ops", True) for step in (2, 3, 4)
    ]
    assert json.loads(got[0].detail_json) == {"evidence": 1.5}
    journal.close()


def test_history_can_be_narrowed_to_service_rollout_and_segment(tmp_path: Path) -> None:
    """A segment's history contains what was decided for the whole service."""
    journal = Journal(tmp_path)
    for row in (
        decision("power"),
        decision("eu"),
        decision("", verdict="pause", who="ada@ops"),
        decision("power", service="search", rollout="search-1"),
    ):
        journal.append(row)
    assert [row.segment for row in journal.history("checkout", segment="power")] == ["power", ""]
    assert [row.service for row in journal.history(rollout="search-1")] == ["search"]
    assert journal.history("nosuch") == ()
    journal.close()


def test_a_decision_is_in_force_once_its_generation_or_a_later_one_that_carries_it_is_acked(tmp_path: Path) -> None:
    """A split that was replaced before any Envoy had it never was in force, nor one that was only observed."""
    journal = Journal(tmp_path)
    journal.append(decision("power", generation=1, after_bp=100))
    journal.append(decision("eu", generation=1, after_bp=100))
    journal.append(decision("eu", generation=2, after_bp=0, verdict="rollback"))
    journal.append(decision("default", generation=2, observed_only=True))
    journal.append(decision("default", generation=3))
    journal.mark_in_force("checkout", 2, 77)
    assert [row.in_force_unix_ns for row in journal.history()] == [77, 0, 77, 0, 0]
    journal.mark_in_force("checkout", 3, 99)
    assert [row.in_force_unix_ns for row in journal.history()] == [77, 0, 77, 0, 99]
    journal.close()


def test_a_service_has_one_running_rollout(tmp_path: Path) -> None:
    """The next one may start when the first is finished; both are listed."""
    journal = Journal(tmp_path)
    journal.start_rollout(rollout())
    with pytest.raises(ValueError, match="running rollout"):
        journal.start_rollout(rollout("checkout-2", started=20))
    journal.set_state("checkout-1", "frozen")
    assert journal.running()["checkout"].state == "frozen"
    journal.finish_rollout("checkout-1", 99, {"power": "rolled_back"}, "finished")
    assert journal.running() == {}
    journal.start_rollout(rollout("checkout-2", started=20))
    first, second = journal.rollouts()
    assert (first.outcome, first.finished_unix_ns, first.state) == ({"power": "rolled_back"}, 99, "finished")
    assert second == journal.running()["checkout"] == rollout("checkout-2", started=20)
    with pytest.raises(ValueError, match="no such rollout"):
        journal.finish_rollout("checkout-9", 99, {}, "finished")
    journal.close()


def test_what_is_written_in_one_step_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    """A fault between two writes undoes the first."""
    journal = Journal(tmp_path)

    def write_and_fail() -> None:
        with journal.atomically():
            journal.commit("checkout", SPLITS, [decision()])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert journal.load_splits() == {}
    assert journal.history() == ()
    journal.close()


def test_the_engines_state_is_replaced_and_dropped_with_the_next_rollout(tmp_path: Path) -> None:
    """Only the newest state of the newest rollout takes room."""
    journal = Journal(tmp_path)
    journal.start_rollout(rollout())
    assert journal.load_state("checkout-1") is None
    journal.save_state("checkout-1", b"one", 1)
    state = EngineState(rollout="checkout-1", payload=b"\x00two", at_unix_ns=2)
    journal.commit("checkout", SPLITS, [decision()], state=state)
    assert journal.load_state("checkout-1") == state
    journal.finish_rollout("checkout-1", 3, {}, "finished")
    journal.start_rollout(rollout("checkout-2", started=20))
    assert journal.load_state("checkout-1") is None
    journal.close()


def test_decisions_beyond_the_bound_are_pruned_oldest_first(tmp_path: Path) -> None:
    """However long it runs, the file stays bounded."""
    journal = Journal(tmp_path, kept_decisions=50)
    with journal.atomically():
        for step in range(1_501):
            journal.append(decision(generation=step))
    kept = journal.history(limit=10_000)
    assert kept[-1].generation == 1_500
    assert 50 <= len(kept) < 550
    journal.close()


def test_rejections_are_kept(tmp_path: Path) -> None:
    """An Envoy's NACK outlives the process."""
    journal = Journal(tmp_path)
    journal.append_rejection("edge-1", "RDS", "abc", "no such cluster", 5)
    journal.close()
    journal = Journal(tmp_path)
    (rejection,) = journal.rejections()
    assert (rejection.node, rejection.type, rejection.message, rejection.at_unix_ns) == (
        "edge-1",
        "RDS",
        "no such cluster",
        5,
    )
    journal.close()


def test_who_excluded_an_envoy_outlives_the_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.exclude_node("edge-1", at_unix_ns=5, who="ada", reason="hangs")
    journal.exclude_node("edge-2", at_unix_ns=6, who="ada", reason="")
    journal.exclude_node("edge-1", at_unix_ns=7, who="bob", reason="hangs still")
    journal.include_node("edge-2")
    journal.include_node("edge-3")
    journal.close()
    journal = Journal(tmp_path)
    (found,) = journal.excluded_nodes().items()
    assert found == ("edge-1", ExcludedNode(at_unix_ns=7, who="bob", reason="hangs still"))
    journal.close()


def test_the_secret_is_made_once_and_the_files_are_for_the_owner_only(tmp_path: Path) -> None:
    """A person's hash is the same after a restart, and another data directory gives another."""
    journal = Journal(tmp_path / "one")
    secret = journal.secret()
    assert len(secret) == 32
    assert journal.secret() == secret
    assert journal.path.stat().st_mode & 0o077 == 0
    journal.close()
    journal = Journal(tmp_path / "one")
    assert journal.secret() == secret
    journal.close()
    other = Journal(tmp_path / "two")
    assert other.secret() != secret
    other.close()


def test_two_control_planes_cannot_share_a_data_directory(tmp_path: Path) -> None:
    """The second is told who has it; when the first is gone it is free."""
    journal = Journal(tmp_path)
    with pytest.raises(JournalLockedError, match=r"in use by another control plane \(process \d+\)"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_a_newer_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    """An older Serinus does not touch what it cannot read."""
    Journal(tmp_path).close()
    file = tmp_path / "journal.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalTooNewError, match="format 99"):
        Journal(tmp_path)


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_a_journal_of_before_gets_the_tables_that_have_come_since(tmp_path: Path, version: int) -> None:
    """And loses nothing; the second start finds it up to date."""
    connection = sqlite3.connect(tmp_path / "journal.sqlite")
    for step in (schema.TABLES, *(schema.MIGRATIONS[before] for before in range(1, version))):
        connection.executescript(step)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("INSERT INTO splits VALUES ('checkout', 'checkout-1', 7, '{\"eu\": [\"v1\", \"v2\", 500]}')")
    if version >= 2:
        connection.execute("INSERT INTO excluded_nodes VALUES ('edge', 5, 'ada', 'wedged')")
    connection.commit()
    connection.close()
    excluded = {"edge": ExcludedNode(at_unix_ns=5, who="ada", reason="wedged")} if version >= 2 else {}
    for _ in range(2):
        journal = Journal(tmp_path)
        assert journal.load_splits()["checkout"].segments["eu"].canary_bp == 500
        assert journal.excluded_nodes() == excluded
        assert EndpointStore(journal).registrations() == ()
        assert LearnedStore(journal).load() == {}
        assert PolicyStore(journal).load("checkout") is None
        journal.close()
    connection = sqlite3.connect(tmp_path / "journal.sqlite")
    assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    connection.close()


def test_every_version_before_has_a_way_to_this_one() -> None:
    assert set(schema.MIGRATIONS) == set(range(1, schema.VERSION))


def registration(lease: str, host: str = "10.0.0.1", **changes: object) -> RegistrationRow:
    values: dict[str, object] = {
        "lease": lease, "service": "shop", "version": "v1", "host": host, "port": 80, "asked_s": 2.5,
        "since_unix_ns": 7,
    }  # fmt: skip
    return RegistrationRow(**{**values, **changes})  # type: ignore[arg-type]  # values come by name


def test_registrations_come_back_as_they_were_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    store = EndpointStore(journal)
    rows = [registration("b"), registration("a", "10.0.0.2", is_stale=True), registration("c", "::1", since_unix_ns=6)]
    store.change(put=rows)
    journal.close()
    journal = Journal(tmp_path)
    store = EndpointStore(journal)
    assert store.registrations() == (rows[2], rows[0], rows[1])
    store.change(gone=["b"], put=[registration("c", "::1", since_unix_ns=6, is_stale=True)])
    assert [(row.lease, row.is_stale) for row in store.registrations()] == [("c", True), ("a", True)]
    journal.close()


def test_an_address_is_registered_once_in_a_service(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    store = EndpointStore(journal)
    store.change(put=[registration("a")])
    store.change(put=[registration("b", version="v2"), registration("c", service="cart")])
    assert [row.lease for row in store.registrations()] == ["b", "c"]
    journal.close()


def test_what_a_version_said_last_is_kept_and_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    store = EndpointStore(journal)
    store.learn({("shop", "v1"): (("10.0.0.1", 80), ("::1", 81)), ("shop", "v2"): (("10.0.0.2", 80),)})
    store.learn({("shop", "v2"): None, ("shop", "v3"): None})
    assert store.known() == {("shop", "v1"): (("10.0.0.1", 80), ("::1", 81))}
    with journal.atomically() as connection:
        connection.execute("UPDATE known_endpoints SET endpoints = '[1'")
    with pytest.raises(JournalDamagedError, match="unreadable record"):
        store.known()
    journal.close()


def test_another_applications_database_is_refused(tmp_path: Path) -> None:
    """A file of that name that is not ours is not written to."""
    connection = sqlite3.connect(tmp_path / "journal.sqlite")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(JournalDamagedError, match="another application"):
        Journal(tmp_path)


@pytest.mark.parametrize("harm", ["cut in half", "not a database", "holes"])
def test_a_damaged_journal_gives_one_line_that_says_what_to_do(tmp_path: Path, harm: str) -> None:
    """No traceback, no half-read state, and the lock is given free."""
    journal = Journal(tmp_path)
    with journal.atomically():
        for step in range(2_000):
            journal.append(decision(generation=step, reason="because " * 5))
    journal.close()
    file = tmp_path / "journal.sqlite"
    content = bytearray(file.read_bytes())
    assert len(content) > 100_000
    match harm:
        case "cut in half":
            del content[len(content) // 2 :]
        case "not a database":
            content[:100] = b"\x13" * 100
        case _:
            for page in range(2, len(content) // 4096, 5):
                content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    file.write_bytes(content)
    for _ in range(2):
        with pytest.raises(JournalDamagedError, match="damaged") as caught:
            Journal(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_damaged_record_is_not_served(tmp_path: Path) -> None:
    """Splits that cannot be read are an error, never an empty answer."""
    journal = Journal(tmp_path)
    journal.save_splits("checkout", SPLITS)
    journal.close()
    connection = sqlite3.connect(tmp_path / "journal.sqlite")
    connection.execute("UPDATE splits SET segments = substr(segments, 1, 20)")
    connection.commit()
    connection.close()
    journal = Journal(tmp_path)
    with pytest.raises(JournalDamagedError, match="unreadable record"):
        journal.load_splits()
    journal.close()


def test_a_data_directory_that_cannot_be_made_gives_one_line(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be used"):
        Journal(tmp_path / "file" / "data")


WRITER = """
import sys
from pathlib import Path
from xds_server.mesh import SegmentSplit, ServiceSplits
from xds_server.store.journal import Journal
from xds_server.store.records import DecisionRow, EngineState

journal = Journal(Path(sys.argv[1]))
start = max((splits.generation for splits in journal.load_splits().values()), default=0)
segments = ("power", "eu", "newcomers", "default")
for generation in range(start + 1, start + 1_000_000):
    bp = generation % 10_000
    splits = ServiceSplits(rollout="r", generation=generation, segments={
        name: SegmentSplit(baseline="v1", canary="v2", canary_bp=bp) for name in segments})
    decisions = [DecisionRow(at_unix_ns=generation, service="s", rollout="r", segment=name, verdict="advance",
        split_before_bp=0, split_after_bp=bp, generation=generation, reason="x" * 200) for name in segments]
    state = EngineState(rollout="r", payload=generation.to_bytes(8, "big") * 500, at_unix_ns=generation)
    journal.commit("s", splits, decisions, state=state)
    print(generation, flush=True)
"""


def test_kill_9_in_the_middle_of_writing_leaves_a_consistent_journal(tmp_path: Path) -> None:
    """Decisions, splits and engine state agree, and nothing that was reported as written is lost."""
    rng = random.Random(2)
    reached = 0
    for _ in range(6):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        first = int(child.stdout.readline())
        assert first == reached + 1
        time.sleep(rng.uniform(0.01, 0.2))
        child.send_signal(signal.SIGKILL)
        whole_lines = child.stdout.read().rpartition(b"\n")[0].split()
        printed = [first, *map(int, whole_lines)]
        child.stdout.close()
        child.wait(10)

        journal = Journal(tmp_path)
        splits = journal.load_splits()["s"]
        reached = splits.generation
        assert printed[-1] <= reached <= printed[-1] + 1
        decided = [row.generation for row in journal.history("s", limit=100_000)]
        assert decided == sorted([*range(1, reached + 1)] * 4)
        assert {split.canary_bp for split in splits.segments.values()} == {reached % 10_000}
        state = journal.load_state("r")
        assert state is not None
        assert state.payload == reached.to_bytes(8, "big") * 500
        journal.close()


def test_what_a_policy_has_learnt_is_kept_by_service_and_not_for_ever(tmp_path: Path) -> None:
    with contextlib.closing(Journal(tmp_path)) as journal:
        store = PolicyStore(journal)
        store.save("shop", "{1}", at_unix_ns=5)
        store.save("cart", "{2}", at_unix_ns=6)
        store.save("shop", "{3}", at_unix_ns=7)
        assert [store.load(name) for name in ("shop", "cart", "other")] == ["{3}", "{2}", None]
        store.forget("cart")
        assert store.load("cart") is None
    with contextlib.closing(Journal(tmp_path)) as journal:
        store = PolicyStore(journal)
        assert store.load("shop") == "{3}"
        store.save("cart", "{4}", at_unix_ns=8 + KEPT_NS)
        assert store.load("shop") is None
