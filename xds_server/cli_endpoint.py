"""The verbs `serinus endpoint …`: instances that register, and what people do about them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer

from xds_server.arguments import (
    DEFAULT_SERVER,
    AnyService,
    AsJson,
    Reason,
    RemoteCommand,
    Server,
    ServiceName,
    Who,
    lease_ms,
    optional_address,
)

WAIT_MS: Final = 10_000  # for Envoys to acknowledge that an endpoint is gone

endpoint_app = typer.Typer(
    help="Register the instances of a version whose endpoints are `registered` in the mesh file.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)

Version = Annotated[str, typer.Argument(metavar="VERSION", show_default=False)]


@endpoint_app.command(cls=RemoteCommand)
def register(
    service: ServiceName,
    version: Version,
    address: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT",
            callback=optional_address,
            help="An IP address, as Envoys reach it.",
            show_default=False,
        ),
    ],
    lease: Annotated[
        int, typer.Option(parser=lease_ms, metavar="DURATION", help="1s up to what the mesh file says.")
    ] = "",  # type: ignore[assignment]  # a text, for the parser
    look: Annotated[
        bool, typer.Option("--look/--no-look", help="Register only while somebody takes connections there.")
    ] = True,
    drain: Annotated[
        float, typer.Option(min=0, max=600, metavar="SECONDS", help="How long to stay after Envoys have let go.")
    ] = 1.0,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Register an instance and keep it registered until Ctrl-C or SIGTERM; then take it out of traffic."""
    import os
    import select
    import signal

    from xds_server.client import connected
    from xds_server.pb.registry_pb2_grpc import RegistryStub
    from xds_server.registrar import Registrar

    ended, end = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(end, b"."))
    host, _, port = address.rpartition(":")
    with connected(server, RegistryStub) as client:
        Registrar(
            client=client,
            service=service,
            version=version,
            address=(host.strip("[]"), int(port)),
            shown=address,
            wait=lambda seconds: bool(select.select([ended], [], [], seconds)[0]),
            say=typer.echo,
            lease_ms=lease,
            looks=look,
            drain_s=drain,
        ).run()


@endpoint_app.command("list", cls=RemoteCommand)
def list_endpoints(service: AnyService = "", as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """List the endpoints that Envoys are sent, and where they come from."""
    from xds_server.client import plain
    from xds_server.console import endpoints_view, show
    from xds_server.pb import registry_pb2 as pb

    reply = _call(server, "List", pb.ListRequest(service=service))
    _print_json(plain(reply)) if as_json else show(endpoints_view(reply))


@endpoint_app.command(cls=RemoteCommand)
def remove(
    service: ServiceName,
    version: Version,
    address: Annotated[
        str | None,
        typer.Argument(metavar="HOST:PORT", callback=optional_address, help="The endpoint.", show_default=False),
    ] = None,
    *,
    stale: Annotated[bool, typer.Option("--stale", help="All that are not renewed any more.")] = False,
    reason: Reason = "",
    who: Who = "",
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Take registered endpoints out whose instances are gone without a word."""
    from xds_server.client import TIMEOUT_S, operator, plain
    from xds_server.pb import registry_pb2 as pb

    if (address is None) != stale:
        raise typer.BadParameter("either HOST:PORT or --stale")
    request = pb.RemoveRequest(
        service=service,
        version=version,
        address=address or "",
        who=who or operator(),
        reason=reason,
        wait_ms=WAIT_MS,
    )
    reply = _call(server, "Remove", request, timeout_s=TIMEOUT_S + WAIT_MS / 1_000)
    if as_json:
        _print_json(plain(reply))
        return
    late = f"; not acknowledged by {', '.join(reply.waiting_for)}" if reply.waiting_for else ""
    typer.echo(f"{reply.message}{late}")


def _call(server: str, method: str, request: object, **options: float) -> Any:
    from xds_server.client import connected
    from xds_server.pb.registry_pb2_grpc import RegistryStub

    with connected(server, RegistryStub) as client:
        return client.call(method, request, **options)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
