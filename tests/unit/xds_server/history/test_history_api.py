"""The verbs `serinus history …` against a control plane: real journal, real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from analysis.history import archive
from analysis.history.record import RolloutRecord, Verdict
from tests.deployments import deployment
from tests.unit.xds_server.history.test_history_store import event, tape_of_one_tick
from tests.unit.xds_server.history.test_replay import live
from tests.unit.xds_server.test_journal import rollout
from xds_server import access
from xds_server.cli import app
from xds_server.clock import SystemClock
from xds_server.errors import RefusedError
from xds_server.history_api import HistoryServicer, add_history
from xds_server.history_table import read_tables, write_tables
from xds_server.mesh import AccessRule, HistoryBounds
from xds_server.pb import control_pb2 as pb
from xds_server.rollout.fleet import Fleet
from xds_server.rollout.past import PastDeployments
from xds_server.store.history import HistoryStore
from xds_server.store.journal import Journal
from xds_server.store.records import EventRow
from xds_server.telemetry import Telemetry


class ControlPlane:
    """The history of a journal, served from a thread of its own."""

    def __init__(self, directory: Path) -> None:
        self.journal = Journal(directory)
        self.store = HistoryStore(self.journal)
        self.address = ""
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))

    async def _serve(self) -> None:
        with contextlib.closing(Telemetry("test")) as telemetry:
            self._loop = asyncio.get_running_loop()
            fleet = Fleet(journal=self.journal, telemetry=telemetry, clock=SystemClock())
            server = grpc.aio.server()
            self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            add_history(server, PastDeployments(fleet, self.store))
            await server.start()
            self._ready.set()
            await self._end.wait()
            await server.stop(None)

    def __enter__(self) -> ControlPlane:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self.journal.close()

    def say(self, *words: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of `serinus history …`."""
        result = CliRunner().invoke(app, ["history", *map(str, words), "--server", self.address])
        return result.exit_code, result.stdout, result.stderr

    def ended(self, name: str = "shop-1") -> None:
        """A rollout that has ended, of which nothing is kept but that."""
        self.journal.start_rollout(rollout(name))
        self.journal.finish_rollout(name, 20, {"default": "withdrawn"}, "finished")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path / "data") as plane:
        yield plane


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_what_is_imported_is_exported_again(plane: ControlPlane, tmp_path: Path, ending: str) -> None:
    records = [deployment(rollout="a"), deployment(rollout="b", service="cart", label=None)]
    write_tables(records, tmp_path / "in", "csv")
    assert plane.say("import", tmp_path / "in") == (0, "2 deployments imported\n", "")
    code, out, err = plane.say("export", tmp_path / "out", "--format", ending)
    assert (code, out, err) == (0, f"{tmp_path / 'out'}: 2 deployments\n", "")
    assert read_tables([tmp_path / "out"]) == records
    assert plane.say("export", tmp_path / "cart", "--service", "cart", "--format", "csv")[0] == 0
    assert read_tables([tmp_path / "cart"]) == records[1:]


def test_the_same_rollout_twice_changes_nothing(plane: ControlPlane, tmp_path: Path) -> None:
    plane.ended("b")
    write_tables([deployment(rollout="a")], tmp_path / "a", "csv")
    write_tables([deployment(rollout="c"), deployment(rollout="b")], tmp_path / "b", "csv")
    assert plane.say("import", tmp_path / "a")[0] == 0
    for directory, name in (("a", "a"), ("b", "b")):
        code, out, err = plane.say("import", tmp_path / directory)
        assert (code, out, err) == (1, "", f"serinus: rollout {name} is known already; nothing is imported\n")
    assert plane.store.imported() == {"a": "shop"}


def test_what_does_not_fit_is_refused_with_the_numbers(plane: ControlPlane, tmp_path: Path) -> None:
    plane.store.bounds = HistoryBounds(rollouts=1)
    write_tables([deployment(rollout="a"), deployment(rollout="b")], tmp_path, "csv")
    code, _, err = plane.say("import", *tmp_path.glob("*.csv"))
    assert code == 1
    assert "2 more deployments do not fit: 0 of 1 are kept" in err
    assert plane.store.imported() == {}


@pytest.mark.parametrize("service", ["shop", "cart"])
def test_whose_records_they_are_is_read_beside_the_loop(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    """Twenty thousand of them take half a minute, in which no Envoy would be answered."""
    readers = set[threading.Thread]()

    def noted(data: bytes) -> RolloutRecord:
        readers.add(threading.current_thread())
        return from_bytes(data)

    from_bytes = archive.from_bytes
    monkeypatch.setattr(archive, "from_bytes", noted)
    rule = AccessRule(san="spiffe://x", may=frozenset(), services=frozenset({"shop"}))
    record = archive.to_bytes(deployment(service=service))

    async def sent() -> AsyncIterator[pb.RecordPart]:
        yield pb.RecordPart(data=record, is_last=True, who="ann")

    async def scenario() -> None:
        access._GRANT.set(access.Grant(rule=rule))
        past = PastDeployments(Fleet(journal=plane.journal, telemetry=Telemetry("x"), clock=SystemClock()), plane.store)
        with pytest.raises(access.DeniedError) if service == "cart" else contextlib.nullcontext():
            await HistoryServicer(past).Import(sent(), grpc.aio.ServicerContext)

    asyncio.run(scenario())
    assert readers
    assert threading.current_thread() not in readers
    assert plane.store.imported() == ({} if service == "cart" else {"shop-v2-1": "shop"})


def test_who_may_see_one_service_is_not_told_of_others(plane: ControlPlane) -> None:
    plane.ended("checkout-v7-1")
    past = PastDeployments(Fleet(journal=plane.journal, telemetry=Telemetry("x"), clock=SystemClock()), plane.store)
    servicer = HistoryServicer(past)

    async def asked(rollout: str) -> str:
        rule = AccessRule(san="spiffe://x", may=frozenset(), services=frozenset({"cart"}))
        access._GRANT.set(access.Grant(rule=rule))
        return await servicer._check_rollout(rollout)

    with pytest.raises(RefusedError, match="no rollout 'x' of a service that you may see"):
        asyncio.run(asked("x"))
    with pytest.raises(access.DeniedError):
        asyncio.run(asked("checkout-v7-1"))


def test_what_is_to_come_is_not_imported(plane: ControlPlane, tmp_path: Path) -> None:
    write_tables([deployment(rollout="a"), deployment(rollout="b", started_unix_s=4e9)], tmp_path, "csv")
    code, _, err = plane.say("import", *tmp_path.glob("*.csv"))
    assert code == 1
    assert "nothing is imported: rollout 'b' starts at 4000000000, which is to come" in err
    assert plane.store.imported() == {}


def test_a_wrong_file_is_a_line_and_exit_code_2(plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("rollout,started_unix_s\n")
    code, out, err = plane.say("import", tmp_path / "x.csv")
    assert (code, out) == (2, "")
    assert err == f"serinus: {tmp_path / 'x.csv'}: a table of rollouts needs column 'service' as well\n"


def test_an_operator_has_the_last_word(plane: ControlPlane, tmp_path: Path) -> None:
    plane.ended()
    assert plane.say("label", "shop-1", "bad", "--reason", "wrong prices", "--who", "ann") == (0, "shop-1 is bad\n", "")
    assert plane.say("label", "shop-1", "good")[0] == 0
    assert plane.say("label", "shop-1", "bad", "--reason", "wrong prices", "--who", "ann")[0] == 0
    plane.say("export", tmp_path, "--format", "csv")
    (record,) = read_tables([tmp_path])
    assert record.label is not None
    assert (record.label.verdict, record.label.who, record.label.reason) == (Verdict.BAD, "ann", "wrong prices")
    code, _, err = plane.say("label", "shop-2", "bad")
    assert (code, err) == (1, "serinus: no rollout 'shop-2'; known: shop-1\n")
    assert plane.say("label", "shop-1", "evil")[0] == 2


def test_a_deployment_that_cannot_be_read_leaves_the_others(plane: ControlPlane, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plane.ended(name)
    started, tick = tape_of_one_tick()
    plane.store.append("a", 10, [started, replace(tick, payload=tick.payload[:-3])])
    code, out, err = plane.say("export", tmp_path, "--format", "csv")
    assert (code, out) == (0, f"{tmp_path}: 1 deployments\n")
    assert err.startswith("serinus: left out: deployment a: event ticked is damaged")
    assert [record.rollout for record in read_tables([tmp_path])] == ["b"]


def test_no_history_at_all_is_an_empty_export(plane: ControlPlane, tmp_path: Path) -> None:
    assert plane.say("export", tmp_path, "--format", "parquet")[:2] == (0, f"{tmp_path}: 0 deployments\n")
    assert read_tables([tmp_path]) == []


def test_a_rollout_is_decided_again_or_says_why_not(plane: ControlPlane) -> None:
    played = live("thompson")
    rows = [EventRow(at_unix_ns=1, kind=kind, payload=payload) for kind, payload in played.kinds]
    plane.ended("same")
    plane.store.append("same", 10, rows)
    ticks = sum(row.kind == "ticked" for row in rows)
    code, out, err = plane.say("replay", "same")
    assert (code, out, err) == (0, f"same: {ticks} ticks and 1 orders decided again, the same in every bit\n", "")

    plane.ended("without its first half")
    plane.store.append("without its first half", 10, [rows[0], *rows[20:]])
    code, out, err = plane.say("replay", "without its first half")
    assert code == 1
    assert "then power" in out
    assert err.startswith("serinus: without its first half: ")

    plane.ended("not kept")
    assert plane.say("replay", "not kept") == (1, "", "serinus: what not kept was given is not kept\n")
    plane.ended("damaged")
    plane.store.append("damaged", 10, [event()])
    code, _, err = plane.say("replay", "damaged")
    assert code == 1
    assert err.startswith("serinus: event lost has format 120; this version reads 2")
    assert err.count("\n") == 1
