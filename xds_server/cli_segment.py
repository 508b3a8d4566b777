"""The verbs `serinus segment …`: clusters of people that were learnt, and the names that operators give them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from xds_server.arguments import DEFAULT_SERVER, AsJson, Reason, RemoteCommand, Server, ServiceName, Who

segment_app = typer.Typer(
    help="Learned segments: what is proposed, and what has been adopted.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)

Cluster = Annotated[
    int, typer.Argument(metavar="CLUSTER", min=0, help="Its number in `segment list`.", show_default=False)
]
LearnedName = Annotated[
    str, typer.Argument(metavar="NAME", help="As `learned` in the mesh file has it.", show_default=False)
]


@segment_app.command("list", cls=RemoteCommand)
def list_segments(service: ServiceName, as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """List the clusters that the profiler proposes, and the learned segments that have been adopted."""
    from xds_server.client import plain
    from xds_server.console import segments_view, show
    from xds_server.pb import control_pb2 as pb

    reply = _call(server, "ListSegments", pb.ListSegmentsRequest(service=service))
    if as_json:
        typer.echo(json.dumps(plain(reply), indent=2, ensure_ascii=False))
    else:
        show(segments_view(reply))


@segment_app.command(cls=RemoteCommand)
def adopt(
    service: ServiceName,
    cluster: Cluster,
    name: LearnedName,
    reason: Reason = "",
    who: Who = "",
    server: Server = DEFAULT_SERVER,
) -> None:
    """Give a cluster's people a name; while a rollout runs it waits for the end."""
    from xds_server.client import operator
    from xds_server.pb import control_pb2 as pb

    request = pb.AdoptSegmentRequest(service=service, cluster=cluster, name=name, who=who or operator(), reason=reason)
    typer.echo(_call(server, "AdoptSegment", request).message)


@segment_app.command(cls=RemoteCommand)
def drop(service: ServiceName, name: LearnedName, who: Who = "", server: Server = DEFAULT_SERVER) -> None:
    """Forget an adopted name and whose it is; while a rollout runs it waits for the end."""
    from xds_server.client import operator
    from xds_server.pb import control_pb2 as pb

    request = pb.DropSegmentRequest(service=service, name=name, who=who or operator())
    typer.echo(_call(server, "DropSegment", request).message)


def _call(server: str, method: str, request: object) -> Any:
    from xds_server.client import connected

    with connected(server) as client:
        return client.call(method, request)
