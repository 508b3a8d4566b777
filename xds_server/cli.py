"""The command line. Exit codes: 0 done; 1 refused or failed, with a one-line reason; 2 wrong usage or wrong file.

Heavy modules are imported by the verbs that need them: `--help` and completion stay fast.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from analysis.decision import Action
from xds_server.app_options import RunOptions
from xds_server.arguments import (
    DEFAULT_SERVER,
    AnyService,
    AsJson,
    CertificateFile,
    ClientCaFile,
    Fault,
    KeyFile,
    LogLevel,
    MeshFile,
    NodeName,
    Output,
    Reason,
    RemoteCommand,
    Segment,
    Server,
    ServiceName,
    Who,
    address,
    attributes,
    optional_address,
    split_bp,
    together,
    writable,
)
from xds_server.cli_artefact import artefact_app, train_failure
from xds_server.cli_backtest import backtest
from xds_server.cli_endpoint import endpoint_app
from xds_server.cli_experiment import experiment_app
from xds_server.cli_history import history_app
from xds_server.cli_profile import profile_app
from xds_server.cli_segment import segment_app
from xds_server.cli_simulate import simulate
from xds_server.errors import SerinusError

if TYPE_CHECKING:
    from xds_server.bootstrap import UpstreamTls
    from xds_server.mesh import Address, Mesh


class _Verbs(TyperGroup):
    """Turns what a person can do something about into one line and exit code 1, for every verb."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SerinusError as error:
            _fail(str(error), code=1)


_TYPER: Final[dict[str, Any]] = {"pretty_exceptions_enable": False, "no_args_is_help": True, "add_completion": False}
app = typer.Typer(cls=_Verbs, help="Serinus, an Envoy control plane that learns.", **_TYPER)
rollout_app = typer.Typer(help="Start and steer rollouts of a running control plane.", **_TYPER)
node_app = typer.Typer(help="Envoys of a running control plane.", **_TYPER)
train_app = typer.Typer(help="Train what Serinus decides with.", **_TYPER)
app.add_typer(rollout_app, name="rollout")
app.add_typer(node_app, name="node")
app.add_typer(history_app, name="history")
app.add_typer(endpoint_app, name="endpoint")
app.add_typer(segment_app, name="segment")
app.add_typer(profile_app, name="profile")
app.add_typer(experiment_app, name="experiment")
app.add_typer(train_app, name="train")
app.add_typer(artefact_app, name="artefact")
train_app.command("failure", cls=RemoteCommand)(train_failure)
app.command()(simulate)
app.command()(backtest)


def main() -> None:
    """Run the command line."""
    app()


@app.command()
def run(
    mesh: MeshFile,
    *,
    grpc_host: Annotated[
        str, typer.Option(help="Where xDS, access logs, OTLP and the control API listen.")
    ] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=0, max=65_535)] = 18_000,
    otlp_port: Annotated[int, typer.Option(min=0, max=65_535, help="A second port for OTLP.")] = 4_317,
    http_host: Annotated[str, typer.Option(help="Where /healthz, /readyz and /metrics listen.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65_535)] = 8_080,
    data_dir: Annotated[Path, typer.Option(help="Where the journal is kept.")] = Path(".serinus"),
    log_level: Annotated[LogLevel, typer.Option()] = LogLevel.INFO,
    tls_certificate: CertificateFile = None,
    tls_key: KeyFile = None,
    tls_client_ca: ClientCaFile = None,
) -> None:
    """Run the control plane until SIGTERM or Ctrl-C."""
    together(tls_certificate, tls_key)
    if tls_certificate is None and tls_client_ca is not None:
        raise typer.BadParameter("--tls-client-ca needs --tls-certificate and --tls-key")
    options = RunOptions(
        mesh_path=mesh,
        grpc_host=grpc_host,
        grpc_port=grpc_port,
        otlp_port=otlp_port,
        http_host=http_host,
        http_port=http_port,
        data_dir=data_dir,
        log_level=str(log_level),
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
    )
    import asyncio

    from xds_server.app import run as run_app

    with _mesh_checked():
        raise typer.Exit(asyncio.run(run_app(options)))


@app.command()
def demo(
    fault: Annotated[Fault, typer.Option(help="What is wrong with version 2.")] = Fault.ALL,
    seed: Annotated[int, typer.Option(help="Of people, chance and the random fault.")] = 0,
    duration: Annotated[float, typer.Option(min=10, help="Seconds, at most.")] = 180.0,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", callback=writable, help="Write the summary as JSON.", show_default=False
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
) -> None:
    """Roll out version 2 of a small shop on real Envoys, on this machine, and watch Serinus judge it."""
    try:
        from xds_server.demo.runner import DemoOptions, run_demo
    except ModuleNotFoundError as error:
        _fail(f"the demo needs {error.name}: install serinus[demo]", code=1)
    options = DemoOptions(fault=str(fault), seed=seed, duration_s=duration, json_path=json_file, plain=plain)
    raise typer.Exit(run_demo(options))


@app.command(cls=RemoteCommand)
def validate(
    mesh: MeshFile,
    *,
    power: Annotated[
        bool, typer.Option("--power", help="Also what each plan can find by when, and whether its budget will do.")
    ] = False,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SERVICE=]N", help="For --power: judged sessions a second, all segments.", show_default=False
        ),
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SERVICE/]SEGMENT=SHARE",
            help="For --power: of the sessions; the others share what is left.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[[SERVICE/]SEGMENT/]KPI=SHARE",
            help="For --power: bad sessions on the baseline.",
            show_default=False,
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            callback=optional_address,
            help="For --power: take traffic and base rates from this control plane.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a mesh file: each error with file, line, key, the value given and what is legal."""
    if not power and (rate or share or base or server):
        raise typer.BadParameter("--rate, --share, --base and --server belong to --power")
    from xds_server.discovery.sources import check_files
    from xds_server.settings import MeshError, load_with_notes

    try:
        loaded, notes = load_with_notes(mesh)
        check_files(loaded)
    except MeshError as error:
        if as_json:
            _print_json({"ok": False, "problems": [asdict(problem) for problem in error.problems], "notes": []})
            raise typer.Exit(2) from None
        _fail(*map(str, error.problems), code=2)
    document: dict[str, Any] = {"ok": True, "problems": [], "notes": [asdict(note) for note in notes]}
    refused: list[str] = []
    if power:
        from xds_server.cli_power import check_plans, plans_json, show_plans

        plans = check_plans(loaded, rates=rate or [], shares=share or [], bases=base or [], server=server)
        refused = [f"{plan.service}: {refusal}" for plan in plans for refusal in plan.refusals]
        document |= {"ok": not refused, "power": plans_json(plans)}
    if as_json:
        _print_json(document)
    else:
        _tell_fine(mesh, loaded, notes)
        if power:
            show_plans(plans)
    if refused:
        _fail(*refused, code=1)


def _tell_fine(mesh: Path, loaded: Mesh, notes: Iterable[object]) -> None:
    typer.echo(f"{mesh}: fine; services: {', '.join(loaded.services)}")
    for note in notes:
        typer.echo(f"note: {note}")
    for service in loaded.services.values():
        for segment, name in service.learned.items():
            typer.echo(
                f"services.{service.name}.segments.{segment}: matches nobody until somebody adopts {name}: "
                f"serinus segment adopt {service.name} CLUSTER {name}"
            )


@app.command()
def schema() -> None:
    """Print the JSON Schema of mesh files, for editors."""
    from xds_server.settings import mesh_schema

    _print_json(mesh_schema())


@app.command()
def bootstrap(
    mesh: MeshFile,
    node: Annotated[str, typer.Option(help="The node ID.", show_default=False)],
    xds: Annotated[
        str, typer.Option(metavar="HOST:PORT", callback=address, help="The control plane.")
    ] = DEFAULT_SERVER,
    admin: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", callback=optional_address, help="Envoy's admin interface; none.")
    ] = None,
    *,
    output: Annotated[Output, typer.Option()] = Output.YAML,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="On the Envoy's machine: who signs the control plane's certificate.",
            show_default=False,
        ),
    ] = None,
    tls_certificate: CertificateFile = None,
    tls_key: KeyFile = None,
    tls_san: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What the control plane's certificate must say; the host of --xds.", show_default=False
        ),
    ] = None,
    grpc: Annotated[
        bool, typer.Option("--grpc", help="For a gRPC client, as JSON; what it does not get is said on stderr.")
    ] = False,
) -> None:
    """Print the bootstrap with which an Envoy, or a gRPC client, joins."""
    from xds_server.settings import load_mesh

    if grpc and admin:
        raise typer.BadParameter("a gRPC client has no admin interface", param_hint="--admin")
    with _mesh_checked():
        loaded = load_mesh(mesh)
    if grpc:
        from xds_server.grpc_bootstrap import grpc_bootstrap
        from xds_server.resources.grpc import limits

        for line in limits(loaded):
            typer.echo(f"serinus: gRPC: {line}", err=True)
        _print_json(grpc_bootstrap(node, xds=_parts(xds)))
        return
    from xds_server.bootstrap import bootstrap as build

    tls = _upstream_tls(tls_ca, tls_certificate, tls_key, tls_san)
    built = build(loaded, node, xds=_parts(xds), admin=_parts(admin) if admin else None, tls=tls)
    if output is Output.JSON:
        _print_json(built)
    else:
        import yaml

        typer.echo(yaml.safe_dump(built, sort_keys=False), nl=False)


@app.command(cls=RemoteCommand)
def status(
    service: AnyService = "",
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it at each change, until Ctrl-C.")] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Show what is happening: splits, evidence, phases, and which Envoys have what."""
    from xds_server.client import connected, plain
    from xds_server.console import show, show_live, status_view
    from xds_server.pb import control_pb2 as pb

    with connected(server) as client:
        if not watch:
            reply = client.call("GetStatus", pb.GetStatusRequest(service=service))
            _print_json(plain(reply)) if as_json else show(status_view(reply))
            return
        with suppress(KeyboardInterrupt):
            if as_json:
                for each in client.watch(service):
                    typer.echo(json.dumps(plain(each)))
            else:
                show_live(status_view(each) for each in client.watch(service))


@app.command(cls=RemoteCommand)
def explain(
    service: ServiceName,
    segment: Annotated[str, typer.Argument(metavar="SEGMENT", help="Only this one, in full.", show_default=False)] = "",
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Tell in words what happened, to whom, why, and what you can do."""
    from xds_server.client import connected, plain
    from xds_server.pb import control_pb2 as pb

    with connected(server) as client:
        reply = client.call("Explain", pb.ExplainRequest(service=service, segment=segment))
    _print_json(plain(reply)) if as_json else typer.echo(reply.text)


@rollout_app.command("start", cls=RemoteCommand)
def rollout_start(
    service: ServiceName,
    canary: Annotated[str, typer.Option(metavar="VERSION", help="The version to roll out.", show_default=False)],
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="What is known of the release, such as lines_changed=120.", show_default=False
        ),
    ] = None,
    reason: Reason = "",
    who: Who = "",
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Start the rollout of a version."""
    from xds_server.client import operator
    from xds_server.pb import control_pb2 as pb

    request = pb.StartRolloutRequest(
        service=service, canary=canary, who=who or operator(), reason=reason, attributes=attributes(attribute or [])
    )
    _steer(server, "StartRollout", request, as_json=as_json)


@rollout_app.command("set", cls=RemoteCommand)
def rollout_set(
    service: ServiceName,
    split: Annotated[int, typer.Option(parser=split_bp, metavar="PERCENT", help="0% to 100%.", show_default=False)],
    segment: Segment = "",
    reason: Reason = "",
    who: Who = "",
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Set the split; the engine goes on from there."""
    _act(Action.SET, service, segment, split, reason=reason, who=who, as_json=as_json, server=server)


def _add_action(action: Action, sentence: str) -> None:
    def command(
        service: ServiceName,
        segment: Segment = "",
        reason: Reason = "",
        who: Who = "",
        as_json: AsJson = False,
        server: Server = DEFAULT_SERVER,
    ) -> None:
        _act(action, service, segment, 0, reason=reason, who=who, as_json=as_json, server=server)

    rollout_app.command(str(action), help=sentence, cls=RemoteCommand)(command)


_add_action(Action.PAUSE, "Raise no split; the engine may still lower it and roll back.")
_add_action(Action.RESUME, "Let the engine go on after pause or freeze.")
_add_action(Action.PROMOTE, "Give everybody the canary, now.")
_add_action(Action.ROLLBACK, "Give everybody the baseline, now.")
_add_action(Action.FREEZE, "Move nothing, not even down, until resume.")


@rollout_app.command("list", cls=RemoteCommand)
def rollout_list(as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """List all rollouts, oldest first."""
    from xds_server.client import connected, plain
    from xds_server.console import rollouts_view, show
    from xds_server.pb import control_pb2 as pb

    with connected(server) as client:
        reply = client.call("ListRollouts", pb.ListRolloutsRequest())
    _print_json(plain(reply)) if as_json else show(rollouts_view(reply.rollouts))


@node_app.command("exclude", cls=RemoteCommand)
def node_exclude(
    node: NodeName, reason: Reason = "", who: Who = "", as_json: AsJson = False, server: Server = DEFAULT_SERVER
) -> None:
    """Let increases go on without this Envoy's acknowledgement: it is stuck, and known to be."""
    _exclude(node, excluded=True, reason=reason, who=who, as_json=as_json, server=server)


@node_app.command("include", cls=RemoteCommand)
def node_include(
    node: NodeName, reason: Reason = "", who: Who = "", as_json: AsJson = False, server: Server = DEFAULT_SERVER
) -> None:
    """Let increases wait for this Envoy again."""
    _exclude(node, excluded=False, reason=reason, who=who, as_json=as_json, server=server)


@train_app.command("policy")
def train_policy(
    seed: Annotated[int, typer.Option(min=0, help="The same seed and episodes give the same values.")] = 2,
    episodes: Annotated[int, typer.Option(min=1, help="Rollouts to play in the simulator.")] = 3_600,
    output: Annotated[Path, typer.Option(metavar="FILE", callback=writable)] = Path("q_values.json"),
) -> None:
    """Train the reinforcement-learning policy in the simulator; write its values with seed, episodes and scores.

    With nothing given, what this version ships comes out again.
    """
    from rich.console import Console
    from rich.progress import Progress

    from analysis.simulation.training import train

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("episodes", total=episodes)
        values = train(seed=seed, episodes=episodes, progress=lambda done: progress.update(task, completed=done))
    output.write_text(values.to_json())
    typer.echo(f"{output}: {json.dumps(dict(values.origin))}")


@app.command()
def version() -> None:
    """Print the version."""
    from xds_server import __version__

    typer.echo(__version__)


def _act(
    action: Action, service: str, segment: str, split: int, *, reason: str, who: str, as_json: bool, server: str
) -> None:
    from xds_server.client import operator
    from xds_server.pb import control_pb2 as pb

    request = pb.ActRequest(
        service=service,
        segment=segment,
        action=getattr(pb, f"ACTION_{action.name}"),
        split_bp=split,
        who=who or operator(),
        reason=reason,
    )
    _steer(server, "Act", request, as_json=as_json)


def _exclude(node: str, *, excluded: bool, reason: str, who: str, as_json: bool, server: str) -> None:
    from xds_server.client import operator
    from xds_server.pb import control_pb2 as pb

    request = pb.ExcludeNodeRequest(node=node, excluded=excluded, who=who or operator(), reason=reason)
    _steer(server, "ExcludeNode", request, as_json=as_json)


def _steer(server: str, method: str, request: object, *, as_json: bool) -> None:
    from xds_server.client import connected, plain

    with connected(server) as client:
        reply = client.call(method, request)
    _print_json(plain(reply)) if as_json else typer.echo(reply.message)


@contextmanager
def _mesh_checked() -> Iterator[None]:
    """Print what is wrong with a mesh file, a line a problem, and exit with 2."""
    from xds_server.settings import MeshError

    try:
        yield
    except MeshError as error:
        _fail(*map(str, error.problems), code=2)


def _fail(*lines: str, code: int) -> NoReturn:
    for line in lines:
        typer.echo(f"serinus: {line}", err=True)
    raise typer.Exit(code)


def _upstream_tls(ca: Path | None, certificate: Path | None, key: Path | None, san: str | None) -> UpstreamTls | None:
    from xds_server.bootstrap import UpstreamTls

    together(certificate, key)
    if ca is None:
        if certificate is not None or san is not None:
            raise typer.BadParameter("--tls-ca is missing: an Envoy must know its control plane")
        return None
    paths = {"certificate": str(certificate), "key": str(key)} if certificate is not None else {}
    return UpstreamTls(ca=str(ca), san=san, **paths)


def _parts(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
