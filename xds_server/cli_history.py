"""The verbs `serinus history …`: what was decided, and past deployments as tables, with what people say of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from xds_server.arguments import DEFAULT_SERVER, AnyService, AsJson, Reason, RemoteCommand, Server, Who
from xds_server.errors import HistoryTableError

if TYPE_CHECKING:
    from analysis.history.record import RolloutRecord
    from analysis.replay import Replayed
    from xds_server.pb import control_pb2 as pb

IMPORT_TIMEOUT_S: Final = 300.0
SHOWN: Final = 10  # differences of a replay


class _History(TyperGroup):
    """Without another verb, `show`: as it was before there were others."""

    default = "show"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


class Said(StrEnum):
    BAD = "bad"
    GOOD = "good"
    UNKNOWN = "unknown"


class Format(StrEnum):
    PARQUET = "parquet"
    CSV = "csv"


history_app = typer.Typer(
    cls=_History,
    help="What was decided; past deployments, in and out, and what people say of them.",
    pretty_exceptions_enable=False,
    add_completion=False,
)

RolloutName = Annotated[str, typer.Argument(metavar="ROLLOUT", help="As `rollout list` has it.", show_default=False)]


@history_app.command(cls=RemoteCommand)
def show(
    service: AnyService = "",
    rollout: Annotated[str, typer.Option(help="Only this rollout.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 200,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """List what was decided, by the engine and by people, oldest first."""
    from xds_server.client import connected, plain
    from xds_server.console import history_view
    from xds_server.console import show as show_on_console
    from xds_server.pb import control_pb2 as pb

    with connected(server) as client:
        reply = client.call("GetHistory", pb.GetHistoryRequest(service=service, rollout=rollout, limit=limit))
    if as_json:
        typer.echo(json.dumps(plain(reply), indent=2, ensure_ascii=False))
    else:
        show_on_console(history_view(reply))


@history_app.command(cls=RemoteCommand)
def label(
    rollout: RolloutName,
    verdict: Annotated[Said, typer.Argument(metavar="bad|good|unknown", show_default=False)],
    reason: Reason = "",
    who: Who = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """Say whether a deployment was bad, whatever was decided; what was said before is replaced."""
    from xds_server.client import operator
    from xds_server.pb import control_pb2 as pb

    request = pb.LabelRequest(rollout=rollout, verdict=verdict, who=who or operator(), reason=reason)
    with _connected(server) as client:
        typer.echo(client.call("Label", request).message)


@history_app.command(cls=RemoteCommand)
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", file_okay=False, show_default=False)],
    service: Annotated[str, typer.Option(metavar="SERVICE", help="Only this service.", show_default=False)] = "",
    rollout: Annotated[str, typer.Option(help="Only this rollout.", show_default=False)] = "",
    format: Annotated[Format, typer.Option(help="Parquet needs serinus[history].")] = Format.PARQUET,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Write the deployments that are over as tables into a directory."""
    from xds_server.history_table import write_tables
    from xds_server.pb import control_pb2 as pb

    with _connected(server) as client:
        parts = client.stream("GetRecords", pb.GetRecordsRequest(service=service, rollout=rollout))
        records = list(_records(parts))
    write_tables(records, directory, str(format))
    typer.echo(f"{directory}: {len(records)} deployments")


@history_app.command("import", cls=RemoteCommand)
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Tables, CSV or Parquet, or directories of them.", show_default=False),
    ],
    who: Who = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """Take in deployments that other tools have recorded: all in these files, or none."""
    from analysis.history import archive
    from xds_server.client import operator
    from xds_server.history_table import read_tables

    try:
        records = read_tables(files)
    except HistoryTableError as error:
        typer.echo(f"serinus: {error}", err=True)
        raise typer.Exit(2) from error
    with _connected(server) as client:
        parts = _parts(map(archive.to_bytes, records), who or operator())
        typer.echo(client.call("Import", parts, timeout_s=IMPORT_TIMEOUT_S).message)


@history_app.command(cls=RemoteCommand)
def replay(rollout: RolloutName, server: Server = DEFAULT_SERVER) -> None:
    """Decide a rollout again from what it was given, here, and compare every bit."""
    from analysis.errors import ReplayError
    from analysis.replay import replay as decide_again
    from xds_server.errors import HistoryError
    from xds_server.pb import control_pb2 as pb
    from xds_server.store.assembling import decoded
    from xds_server.store.records import EventRow

    with _connected(server) as client:
        rows = (
            EventRow(at_unix_ns=each.at_unix_ns, kind=each.kind, payload=each.payload)
            for each in client.stream("GetTape", pb.GetTapeRequest(rollout=rollout))
        )
        try:
            replayed = decide_again(decoded(rows))
        except ReplayError as error:
            raise HistoryError(f"{rollout}: {error}") from error
    _tell(rollout, replayed)


def _tell(rollout: str, replayed: Replayed) -> None:
    for reason in replayed.unknown:
        typer.echo(f"not decided again {reason}")
    counted = f"{rollout}: {replayed.ticks} ticks and {replayed.orders} orders decided again"
    if not replayed.differences:
        typer.echo(f"{counted}, the same in every bit")
        return
    for difference in replayed.differences[:SHOWN]:
        typer.echo(f"at {difference.at_s:.1f} s: then {difference.then}; now {difference.now}")
    typer.echo(f"serinus: {counted}, {len(replayed.differences)} of them otherwise", err=True)
    raise typer.Exit(1)


def _connected(server: str) -> Any:
    from xds_server.client import connected
    from xds_server.pb import control_pb2_grpc as pb_grpc

    return connected(server, pb_grpc.HistoryStub)


def _records(parts: Iterable[pb.RecordPart]) -> Iterator[RolloutRecord]:
    """The records that come in parts; one that cannot be read is told of, and left out."""
    from analysis.errors import RecordError
    from analysis.history import archive

    waiting: list[bytes] = []
    for part in parts:
        waiting.append(part.data)
        if not part.is_last:
            continue
        data = b"".join(waiting)
        waiting.clear()
        problem = part.problem
        if not problem:
            try:
                yield archive.from_bytes(data)
            except RecordError as error:
                problem = str(error)
        if problem:
            typer.echo(f"serinus: left out: {problem}", err=True)


def _parts(records: Iterable[bytes], who: str) -> Iterator[pb.RecordPart]:
    from xds_server.history_api import PART_BYTES
    from xds_server.pb import control_pb2 as pb

    for data in records:
        for begin in range(0, len(data), PART_BYTES):
            end = begin + PART_BYTES
            yield pb.RecordPart(data=data[begin:end], is_last=end >= len(data), who=who)
