"""The verbs `serinus profile …`: what is usual in the segments of a service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from xds_server.arguments import DEFAULT_SERVER, AsJson, RemoteCommand, Server, ServiceName, Who

profile_app = typer.Typer(
    help="What is usual in the segments of a service, as it has been learnt.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)

OneSegment = Annotated[
    str, typer.Argument(metavar="[SEGMENT]", help="One segment; all of them without it.", show_default=False)
]


@profile_app.command("show", cls=RemoteCommand)
def show_profile(
    service: ServiceName, segment: OneSegment = "", as_json: AsJson = False, server: Server = DEFAULT_SERVER
) -> None:
    """Show what people usually do: kinds of visits, what is used how often, busy hours."""
    from xds_server.console import profile_view
    from xds_server.pb import control_pb2 as pb

    reply = _call(server, "GetProfile", pb.ProfileRequest(service=service, segment=segment))
    _tell(reply, as_json, profile_view)


@profile_app.command(cls=RemoteCommand)
def evaluate(
    service: ServiceName, segment: OneSegment = "", as_json: AsJson = False, server: Server = DEFAULT_SERVER
) -> None:
    """Show how well it fits the sessions that have come since it was learnt."""
    from xds_server.console import evaluation_view
    from xds_server.pb import control_pb2 as pb

    reply = _call(server, "GetProfileEvaluation", pb.ProfileRequest(service=service, segment=segment))
    _tell(reply, as_json, evaluation_view)


@profile_app.command(cls=RemoteCommand)
def train(service: ServiceName, who: Who = "", as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """Learn it anew from the sessions that have come since; not while a rollout runs."""
    from xds_server.client import operator
    from xds_server.console import training_view
    from xds_server.pb import control_pb2 as pb

    reply = _call(server, "TrainProfile", pb.TrainProfileRequest(service=service, who=who or operator()))
    _tell(reply, as_json, training_view)


def _call(server: str, method: str, request: object) -> Any:
    from xds_server.client import connected

    with connected(server) as client:
        return client.call(method, request)


def _tell(reply: Any, as_json: bool, view: Callable[[Any], Any]) -> None:
    from xds_server.client import plain
    from xds_server.console import show

    if as_json:
        typer.echo(json.dumps(plain(reply), indent=2, ensure_ascii=False))
    else:
        show(view(reply))
