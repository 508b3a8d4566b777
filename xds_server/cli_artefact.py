"""The verbs `serinus train failure` and `serinus artefact …`: models that learn from past rollouts, by version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from xds_server.arguments import DEFAULT_SERVER, AsJson, RemoteCommand, Server, Who

artefact_app = typer.Typer(
    help="Models that were trained on past rollouts, by version.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)

Kind = Annotated[str, typer.Argument(metavar="KIND", help="What it predicts: failure.", show_default=False)]
AnyKind = Annotated[str, typer.Argument(metavar="[KIND]", help="One kind; all of them without it.", show_default=False)]
Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Its number in `list`.", show_default=False)]


def train_failure(
    back: Annotated[bool, typer.Option("--back", help="Train nothing; let the one before serve again.")] = False,
    who: Who = "",
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Train the failure model on the rollouts that a running control plane knows the end of.

    It serves only if it predicts releases that were held out better than the one in use; it says whether.
    """
    if back:
        _serve("failure", 0, who, as_json, server)
    else:
        _train("failure", who, as_json, server)


@artefact_app.command("list", cls=RemoteCommand)
def list_artefacts(kind: AnyKind = "", as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """Show every version with its scores, and which one serves."""
    from xds_server.console import artefacts_view, show
    from xds_server.pb import training_pb2 as pb

    with _client(server) as client:
        reply = client.call("ListArtefacts", pb.ListArtefactsRequest(kind=kind))
    if as_json:
        typer.echo(json.dumps([_plain(each) for each in reply.artefacts], indent=2, ensure_ascii=False))
    else:
        show(artefacts_view(reply.artefacts))


@artefact_app.command(cls=RemoteCommand)
def serve(kind: Kind, number: Number, who: Who = "", as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """Let a version serve from now on; rollouts that run keep what they began with."""
    _serve(kind, number, who, as_json, server)


def _serve(kind: str, version: int, who: str, as_json: bool, server: str) -> None:
    from xds_server.client import operator, plain
    from xds_server.pb import training_pb2 as pb

    with _client(server) as client:
        reply = client.call("Serve", pb.ServeRequest(kind=kind, version=version, who=who or operator()))
    typer.echo(json.dumps(plain(reply), indent=2, ensure_ascii=False) if as_json else reply.message)


def _train(kind: str, who: str, as_json: bool, server: str) -> None:
    from xds_server.client import operator
    from xds_server.console import artefacts_view, progress, show
    from xds_server.pb import training_pb2 as pb

    artefact = None
    with _client(server) as client, progress(f"{kind} model") as tell:
        for told in client.stream("Train", pb.TrainRequest(kind=kind, who=who or operator())):
            tell(told.share)
            artefact = told.artefact if told.HasField("artefact") else artefact
    if artefact is None:
        typer.echo("serinus: the control plane ended before the training did", err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(_plain(artefact), indent=2, ensure_ascii=False))
    else:
        show(artefacts_view([artefact]))


def _plain(artefact: Any) -> dict[str, Any]:
    """As JSON, with the scores as what they are."""
    from xds_server.client import plain

    values: dict[str, Any] = plain(artefact)
    return {name: value for name, value in values.items() if name != "scores_json"} | {
        "scores": json.loads(artefact.scores_json or "{}")
    }


@contextmanager
def _client(server: str) -> Iterator[Any]:
    from xds_server.client import connected
    from xds_server.pb.training_pb2_grpc import TrainingStub

    with connected(server, TrainingStub) as client:
        yield client
