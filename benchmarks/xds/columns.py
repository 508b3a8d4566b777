"""The servers that are compared, each with a load client of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from google.protobuf.any_pb2 import Any as PackedAny

from benchmarks.xds import protocol
from benchmarks.xds.children import ROOT, Child, ChildError
from benchmarks.xds.protocol import Variant
from benchmarks.xds.workload import Workload

Key = Literal["floor", "serinus", "gcp-linear", "gcp-snapshot"]
GCP: tuple[Key, ...] = ("gcp-linear", "gcp-snapshot")
TITLES: dict[Key, str] = {
    "floor": "floor",
    "serinus": "Serinus",
    "gcp-linear": "go-control-plane (linear)",
    "gcp-snapshot": "go-control-plane (snapshot)",
}

GCP_FOLDER = ROOT / "benchmarks" / "xds" / "gcp"
GCP_BINARY = GCP_FOLDER / "build" / "gcp"
BUILD_S = 480.0

START_S = 30.0
PUSH_S = 60.0
SETTLE_S = 1.0
PROBE_S = 3.0


class SkippedError(Exception):
    """A column cannot show this; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where children run. `gcp`: None, or why there is no go-control-plane here."""

    folder: Path
    server_cores: Sequence[int]
    client_cores: Sequence[int]
    gcp: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One push to all streams.

    `seen_ms`: from the call that publishes until the server has seen the last ACK. `sent_ms`: until the client had sent
    it. `publish_ms`: how long the call itself took. By stream: the server's and the client's CPU time, and the bytes of
    the response. `server_busy`, `client_busy`: cores at work, on average until the server has seen the last ACK.
    """

    seen_ms: float
    sent_ms: float
    publish_ms: float
    server_us: float
    client_us: float
    bytes: float
    server_busy: float
    client_busy: float


@dataclass(slots=True, kw_only=True)
class Column:
    """A running server and its client. `streams`: how many are open."""

    key: Key
    variant: Variant
    workload: Workload
    server: Child
    client: Child
    idle_rss_bytes: int
    streams: int = 0
    sample: bytes = b""

    def open(self, streams: int) -> None:
        """Raise the number of streams, all of them fully subscribed.

        Raises
        ------
        SkippedError
            It takes too long, or they are refused.
        """
        within_s = 10.0 + 0.05 * (streams - self.streams)
        opened = self._open(streams, within_s)
        if opened["ready"] < streams:
            raise SkippedError(_unready(opened, streams, within_s))
        self.streams = streams
        time.sleep(SETTLE_S)

    def storm(self, streams: int, within_s: float) -> dict[str, Any]:
        """Open all streams at once, and return what became of them, with the server's longest stall."""
        self.server.ask("probe")
        before = self.server.ask("usage")
        opened = self._open(streams, within_s, is_storm=True)
        usage = self.server.ask("usage")
        return {
            "streams": streams,
            "served": opened["ready"],
            "refused": sum(opened["refusals"].values()),
            "refused_streams": opened["refused_streams"],
            "refusals": opened["refusals"],
            "ready_s": opened["ready_s"],
            "seconds": opened["seconds"],
            "server_us": (usage["cpu_us"] - before["cpu_us"]) / streams,
            "client_us": opened["cpu_us"] / streams,
            "stall_ms": self.server.ask("stall")["stall_ms"],
        }

    def _open(self, streams: int, within_s: float, *, is_storm: bool = False) -> dict[str, Any]:
        return self.client.ask(
            "open", streams=streams, deadline_s=within_s, is_storm=is_storm, within_s=within_s + START_S
        )

    def kb_per_stream(self) -> float:
        """Growth of the server's resident memory since nobody was connected."""
        return (int(self.server.ask("usage")["rss_bytes"]) - self.idle_rss_bytes) / self.streams / 1000

    def push(self, message: bytes) -> Push:
        """Publish the next change to all streams; `message` is what a floor sends.

        Raises
        ------
        SkippedError
            Not all have ACKed in time.
        """
        self.client.ask("arm")
        more = {"message": message.hex()} if self.key == "floor" else {}
        server = self.server.ask("publish", acks=self.streams, deadline_s=PUSH_S, within_s=2 * PUSH_S, **more)
        client = self.client.ask("pushed", with_sample=self.key == "serinus")
        if not server["acked_ns"] or client["acks"] < self.streams:
            raise SkippedError(f"{client['acks']} of {self.streams} streams had ACKed within {PUSH_S:.0f} s")
        if self.key == "serinus":
            self.sample = bytes.fromhex(client["sample"])
        started = server["started_ns"]
        seen_ms = (server["acked_ns"] - started) / 1e6
        return Push(
            seen_ms=seen_ms,
            sent_ms=(client["last_ack_ns"] - started) / 1e6,
            publish_ms=(server["published_ns"] - started) / 1e6,
            server_us=server["cpu_us"] / self.streams,
            client_us=client["cpu_us"] / self.streams,
            bytes=client["bytes"] / self.streams,
            server_busy=server["cpu_us"] / 1e3 / seen_ms,
            client_busy=client["cpu_us"] / 1e3 / seen_ms,
        )


@contextlib.contextmanager
def column(key: Key, variant: Variant, workload: Workload, place: Place) -> Iterator[Column]:
    """Start a server and its client.

    Raises
    ------
    SkippedError
        It cannot be had here.
    """
    if key in GCP and place.gcp is not None:
        raise SkippedError(place.gcp)
    dump = place.folder / f"resources-{workload.services}-{workload.shape}.json"
    names = workload.dump(dump)
    with contextlib.ExitStack() as children:
        server = Child(key, _command(key, workload, dump), cores=place.server_cores, folder=place.folder)
        children.enter_context(server)
        hello = server.answer(START_S)
        plan = {
            "port": hello["port"],
            "variant": variant,
            "cluster": workload.cluster,
            "is_floor": key == "floor",
            "names": {kind: names[kind] for kind in ("EDS", "RDS")},
        }
        plan_file = place.folder / f"plan-{key}.json"
        plan_file.write_text(json.dumps(plan))
        command = [sys.executable, "-m", "benchmarks.xds.load_client", str(plan_file)]
        client = children.enter_context(Child("client", command, cores=place.client_cores, folder=place.folder))
        client.answer(START_S)
        yield Column(
            key=key,
            variant=variant,
            workload=workload,
            server=server,
            client=client,
            idle_rss_bytes=server.ask("usage")["rss_bytes"],
        )


def check(key: Key, variant: Variant, workload: Workload, place: Place) -> None:
    """Try one stream, so that a server without this variant costs seconds and not minutes.

    Raises
    ------
    SkippedError
        It is not served.
    """
    with column(key, variant, workload, place) as tried:
        opened = tried._open(1, PROBE_S)  # noqa: SLF001
    if not opened["ready"]:
        raise SkippedError(_unready(opened, 1, PROBE_S))


def floor_message(variant: Variant, workload: Workload) -> bytes:
    """Write what Serinus would push, for a floor beside which Serinus has pushed nothing."""
    before, after = workload.messages(0)["RDS"], workload.messages(1)["RDS"]
    changed = []
    for name, message in after.items():
        if message != before[name]:
            packed = PackedAny()
            packed.Pack(message, deterministic=True)
            changed.append((name.encode(), b"0" * 16, packed.SerializeToString(deterministic=True)))
    return protocol.response(variant, protocol.RDS, version=b"0" * 16, nonce=b"5", resources=changed)


def _command(key: Key, workload: Workload, dump: Path) -> list[str]:
    if key == "floor":
        return [sys.executable, "-m", "benchmarks.xds.floor_server"]
    if key == "serinus":
        return [sys.executable, "-m", "benchmarks.xds.serinus_server", str(workload.services), workload.shape]
    return [str(GCP_BINARY), "-resources", str(dump), "-cache", key.removeprefix("gcp-")]


def _unready(opened: dict[str, Any], streams: int, within_s: float) -> str:
    refusals = ", ".join(f"{reason} ×{n}" for reason, n in opened["refusals"].items())
    reason = f"; refused: {refusals}" if refusals else ""
    return f"{opened['ready']} of {streams} streams were ready within {within_s:.0f} s{reason}"


def build_gcp() -> str | None:
    """Build go-control-plane's server; None, or why that cannot be done."""
    go = shutil.which("go")
    if go is None:
        return "Go is not installed"
    # What is here is used: no other toolchain is fetched.
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    command = [go, "build", "-o", str(GCP_BINARY), "."]
    try:
        built = subprocess.run(
            command, cwd=GCP_FOLDER, env=environment, capture_output=True, text=True, timeout=BUILD_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"go build took more than {BUILD_S:.0f} s"
    if built.returncode:
        return f"go build: {built.stderr.strip().splitlines()[-1][:200] if built.stderr.strip() else 'failed'}"
    return None


__all__ = ["ChildError", "Column", "Place", "Push", "SkippedError", "build_gcp", "check", "column", "floor_message"]
