"""`python -m benchmarks.xds`: what a push and a storm cost Serinus, a bare grpc.aio server and go-control-plane.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.xds import pushes, report, storm
from benchmarks.xds.children import ROOT
from benchmarks.xds.columns import GCP, GCP_FOLDER, Key, Place, build_gcp
from benchmarks.xds.protocol import VARIANTS, Variant
from benchmarks.xds.pushes import Cell
from benchmarks.xds.storm import Storm
from benchmarks.xds.workload import Workload

ONE, MANY, GATEWAY = Workload(1, "sidecar"), Workload(500, "sidecar"), Workload(500, "gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured. `gateways`: streams where one listener has all services, whose pushes are large."""

    workloads: tuple[Workload, ...] = (ONE, MANY, GATEWAY)
    streams: tuple[int, ...]
    gateways: tuple[int, ...]
    repetitions: int
    storm_streams: int
    storms: int


FULL = Extent(streams=(100, 1_000, 4_000), gateways=(100,), repetitions=5, storm_streams=2_000, storms=2)
QUICK = Extent(streams=(100, 400), gateways=(), repetitions=3, storm_streams=400, storms=1)


def main() -> None:
    asked = _arguments()
    extent = _extent(asked)
    before, busy_before = time.monotonic(), _others_s()
    print("building go-control-plane's server", file=sys.stderr, flush=True)
    gcp = "not asked for" if asked.no_gcp else build_gcp()
    servers, clients = _cores(asked.server_cores)
    cells: list[Cell] = []
    storms: list[Storm] = []
    with tempfile.TemporaryDirectory(prefix="bench-xds-") as folder:
        place = Place(folder=Path(folder), server_cores=servers, client_cores=clients, gcp=gcp)
        for variant in asked.variants:
            _measure(variant, extent, place, (cells, storms))
    for line in (*report.push_table(cells), *report.storm_table(storms), "", *_legend()):
        print(line)
    for goal in report.goals(cells, storms):
        print(goal)
    seconds = time.monotonic() - before
    others = (_others_s() - busy_before) / seconds
    data = {
        "machine": _machine(place),
        "others_cores": others,
        "extent": dataclasses.asdict(extent),
        "seconds": seconds,
        **report.as_data(cells, storms),
    }
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(data, indent=1) + "\n")
    cores = len(os.sched_getaffinity(0))
    print(f"\n{seconds / 60:.1f} minutes, while others kept {others:.1f} of {cores} cores busy; all is in {asked.json}")


def _measure(variant: Variant, extent: Extent, place: Place, into: tuple[list[Cell], list[Storm]]) -> None:
    cells, storms = into
    for workload in extent.workloads:
        streams = extent.gateways if workload is GATEWAY else extent.streams
        here: list[Cell] = []
        if extent.repetitions and streams:
            here = list(pushes.run(variant, workload, streams, extent.repetitions, place))
            cells += here
        if extent.storms and workload is not GATEWAY:
            keys: tuple[Key, ...] = ("serinus", _faster_cache(here))
            storms += storm.run(variant, workload, keys, extent.storm_streams, extent.storms, place)


def _faster_cache(cells: Sequence[Cell]) -> Key:
    shown = [(cell.streams, -cell.seen_ms, cell.key) for cell in cells if cell.key in GCP and cell.pushes]
    return max(shown)[2] if shown else "gcp-linear"


def _extent(asked: argparse.Namespace) -> Extent:
    extent = QUICK if asked.quick else FULL
    changes: dict[str, Any] = {}
    if asked.streams:
        changes |= {"streams": tuple(asked.streams)}
    if asked.repetitions:
        changes |= {"repetitions": asked.repetitions}
    if asked.storm_streams:
        changes |= {"storm_streams": asked.storm_streams}
    if asked.services:
        changes |= {"workloads": tuple(w for w in extent.workloads if w.services in asked.services)}
    if "push" not in asked.only:
        changes |= {"repetitions": 0}
    if "storm" not in asked.only:
        changes |= {"storms": 0}
    return dataclasses.replace(extent, **changes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.xds", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer streams and repetitions: 1 to 2 minutes, not 10")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="of ADS (default: both)")
    parser.add_argument("--only", nargs="+", choices=("push", "storm"), default=("push", "storm"))
    parser.add_argument("--services", type=int, nargs="+", choices=(1, 500), help="in the snapshot (default: both)")
    parser.add_argument("--streams", type=int, nargs="+", metavar="N", help="numbers of streams to push to, rising")
    parser.add_argument("--repetitions", type=int, metavar="N", help="pushes of each column")
    parser.add_argument("--storm-streams", type=int, metavar="N", help="streams that connect at once")
    parser.add_argument("--no-gcp", action="store_true", help="leave go-control-plane out")
    parser.add_argument("--server-cores", type=int, default=2, metavar="N", help="cores of a server (default: 2)")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench-xds.json", metavar="FILE")
    return parser.parse_args()


def _cores(servers_n: int) -> tuple[list[int], list[int]]:
    """Give servers the first cores and each client the last one; where there are only two, they share that one.

    One core for a server would hurt Python most: grpc.aio polls in a thread of its own.
    """
    cores = sorted(os.sched_getaffinity(0))
    return cores[: max(servers_n, 1)], cores[-1:]


def _machine(place: Place) -> dict[str, Any]:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    modules = dict(re.findall(r"^\t(\S+) (v\S+)$", (GCP_FOLDER / "go.mod").read_text(), re.MULTILINE))
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "server_cores": list(place.server_cores),
        "client_cores": list(place.client_cores),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "gcp": place.gcp or modules,
    }


def _others_s() -> float:
    """Time that all cores have been busy, without this process and its children that have ended."""
    user, nice, system, _, _, irq, soft_irq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    own = os.times()
    return (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK") - sum(own[:4])


def _legend() -> list[str]:
    return [
        "last ACK: from the server's call that publishes until the server has seen the last ACK; median of the pushes.",
        "call: how long that call itself takes. µs: CPU time by stream. kB/stream: growth of resident memory.",
        f"*: the client was at work for more than {report.CLIENT_BOUND:.0%} of the time, and may hold the server back.",
        "",
    ]


if __name__ == "__main__":
    main()
