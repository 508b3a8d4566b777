"""Three times the load that can be carried: what happens to pushes, to memory, and to what is too much."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.ingest.server import XDS
from benchmarks.xds.children import Child

LOG_STREAMS = 8
XDS_STREAMS = 20
PUSH_EVERY_S = 0.1
FIRST_PER_S, RAISE, LADDER_S = 20_000.0, 1.5, 3.0


@dataclass(slots=True)
class Phase:
    name: str
    seconds: float = 0.0
    offered_n: int = 0
    decoded_n: int = 0
    given_up_n: int = 0
    waiting_n: int = 0
    pushes_ms: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)

    def push_ms(self, quantile: float) -> float:
        ordered = sorted(self.pushes_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * quantile))]

    @property
    def offered_per_s(self) -> float:
        return self.offered_n / self.seconds

    @property
    def decoded_per_s(self) -> float:
        return self.decoded_n / self.seconds

    @property
    def given_up_per_s(self) -> float:
        return self.given_up_n / self.seconds


@dataclass(slots=True)
class Overload:
    """`carried_per_s`: the most that was decoded a second with nothing given up, or what was when it first was."""

    carried_per_s: float
    phases: list[Phase]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def overload(folder: Path, *, seconds: float) -> Overload:
    cores = sorted(os.sched_getaffinity(0))
    python = sys.executable
    with Child("server", [python, "-m", "benchmarks.ingest.server"], cores=cores, folder=folder) as server:
        port = server.answer(30.0)["port"]
        names = {kind: list(served) for kind, served in XDS.messages(0).items()}
        plan = folder / "plan.json"
        plan.write_text(
            json.dumps({"port": port, "variant": "sotw", "cluster": XDS.cluster, "is_floor": False, "names": names})
        )
        envoys = [python, "-m", "benchmarks.xds.load_client", str(plan)]
        logs = [python, "-m", "benchmarks.ingest.load", str(port), str(LOG_STREAMS)]
        with (
            Child("envoys", envoys, cores=cores, folder=folder) as xds,
            Child("logs", logs, cores=cores, folder=folder) as load,
        ):
            xds.answer(10.0)
            opened = xds.ask("open", streams=XDS_STREAMS, is_storm=False, deadline_s=20.0, within_s=30.0)
            if opened["ready"] != XDS_STREAMS:
                raise AssertionError(f"{opened['ready']} of {XDS_STREAMS} xDS streams are ready")
            load.answer(120.0)
            rig = _Rig(server=server, load=load)
            carried = rig.climb()
            phases = [
                rig.run("none", 0.0, seconds / 3),
                rig.run("half", carried / 2, seconds / 3),
                rig.run("three times", carried * 3, seconds),
            ]
    return Overload(carried_per_s=carried, phases=phases)


@dataclass(slots=True)
class _Rig:
    server: Child
    load: Child

    def climb(self) -> float:
        """Offer more and more until something is given up, or not even sent."""
        per_s = FIRST_PER_S
        while True:
            phase = self.run("ladder", per_s, LADDER_S)
            if phase.given_up_n or phase.offered_per_s < 0.8 * per_s:
                return phase.decoded_per_s
            per_s *= RAISE

    def run(self, name: str, per_s: float, seconds: float) -> Phase:
        """Offer so much for so long, and push all the while; then wait until all that was sent is accounted for."""
        phase = Phase(name)
        before = self._counts()
        sent_before = self.load.ask("rate", per_s=per_s)["sent_n"]
        started_s = time.monotonic()
        next_rss_s = started_s
        while (now_s := time.monotonic()) < started_s + seconds:
            pushed = self.server.ask("publish", acks=XDS_STREAMS, deadline_s=10.0, within_s=20.0)
            phase.pushes_ms.append((pushed["acked_ns"] - pushed["started_ns"]) / 1e6 if pushed["acked_ns"] else 1e4)
            if now_s >= next_rss_s:
                phase.rss_mb.append(self.server.ask("usage")["rss_bytes"] / 1e6)
                next_rss_s += 0.5
            time.sleep(PUSH_EVERY_S)
        phase.seconds = time.monotonic() - started_s
        phase.offered_n = self.load.ask("rate", per_s=0.0, within_s=20.0)["sent_n"] - sent_before
        after = self._settled(before, phase.offered_n)
        phase.given_up_n = after.get("overload", 0) - before.get("overload", 0)
        phase.decoded_n = after.get("accepted", 0) - before.get("accepted", 0)
        return phase

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = self.server.ask("tell", within_s=20.0)["counts"]
        return counts

    def _settled(self, before: dict[str, int], offered_n: int) -> dict[str, int]:
        deadline_s = time.monotonic() + 20.0
        while True:
            after = self._counts()
            known_n = sum(after.get(what, 0) - before.get(what, 0) for what in ("accepted", "overload"))
            if known_n >= offered_n or time.monotonic() > deadline_s:
                return after
            time.sleep(0.2)
