"""What an entry costs on one core: parsed only, looked at, made rows of, and taken into sessions and windows."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from analysis.engine import Rollout, ServiceEngine
from benchmarks.ingest import plain
from benchmarks.ingest.workload import MESH, NODE, SEGMENTS, messages
from xds_server.garbage import settle
from xds_server.ingest import Ingest
from xds_server.ingest.entries import Reporter
from xds_server.pb import als_pb2
from xds_server.settings import parse_mesh

START_S = 1_700_000_000
NS = 1_000_000_000
ENVOYS = 4
PER_ENVOY_S = 7_500
PER_MESSAGE = 1_500  # what an Envoy sends at once: of 200 ms
TICK_S = 2

FLOOR, TOUCHED, ROWS, WHOLE = "parse only", "parse, 8 fields", "bytes to rows", "bytes to windows"
OWN = "own message, parse only"
MEANING = {
    OWN: "what Serinus parses: times and tag left as bytes",
    FLOOR: "(a) a plain lean message",
    TOUCHED: "(b) and eight of its fields read from Python",
    ROWS: "ingest: what a tick takes",
    WHOLE: "(c) and sessions, judgements, a window each tick",
}


@dataclass(slots=True)
class Cost:
    """Of one way. CPU time in microseconds an entry, of each repetition."""

    name: str
    us: list[float] = field(default_factory=list)

    @property
    def best_us(self) -> float:
        return min(self.us)

    @property
    def per_s(self) -> float:
        return 1e6 / self.best_us


class SteppedClock:
    """Says what time it is in the log."""

    unix_ns = START_S * NS

    def now_unix_ns(self) -> int:
        return self.unix_ns

    def monotonic(self) -> float:
        return self.unix_ns / NS

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def measure(*, seconds: int, repetitions: int) -> list[Cost]:
    """`seconds`: of the log. The ways take turns, so that what else the machine does hits all."""
    envoys = [
        messages(
            seconds * PER_ENVOY_S // PER_MESSAGE,
            per_message=PER_MESSAGE,
            requests_per_s=PER_ENVOY_S,
            start_s=START_S,
            seed=seed,
            warm_up=5 * PER_ENVOY_S,
        )
        for seed in range(ENVOYS)
    ]
    sent = [message for at_once in zip(*envoys, strict=True) for message in at_once]
    n = len(sent) * PER_MESSAGE
    floor = plain.message_class()
    clock = SteppedClock()
    ingest = Ingest(parse_mesh(MESH, "mesh.yaml"), user_hash_key=b"k" * 32, queue_limit=1_000_000, clock=clock)
    own = als_pb2.StreamAccessLogsMessage
    ways: dict[str, Callable[[], int]] = {
        OWN: lambda: sum(len(own.FromString(each).http_logs.log_entry) for each in sent),
        FLOOR: lambda: sum(len(floor.FromString(each).http_logs.log_entry) for each in sent),
        TOUCHED: lambda: sum(plain.touch(floor.FromString(each)) for each in sent),
        ROWS: lambda: _to_rows(sent, ingest, clock),
        WHOLE: lambda: _to_windows(sent, ingest, clock),
    }
    costs = {name: Cost(name) for name in ways}
    settle()
    for _ in range(repetitions):
        for name, way in ways.items():
            before = time.process_time()
            taken = way()
            costs[name].us.append((time.process_time() - before) / n * 1e6)
            if taken != n:
                raise AssertionError(f"{name}: {taken} of {n} entries")
            gc.collect()
    return list(costs.values())


def _ticks(ingest: Ingest, clock: SteppedClock, sent: Sequence[bytes]) -> Iterator[None]:
    """Take the messages as they come, and say when a tick is due."""
    reporter = Reporter(node=NODE, role=b"gateway")
    per_tick = TICK_S * ENVOYS * PER_ENVOY_S // PER_MESSAGE
    clock.unix_ns = (START_S + 10) * NS
    for i, message in enumerate(sent, 1):
        ingest.take_access_logs(message, reporter)
        if i % per_tick == 0 or i == len(sent):
            clock.unix_ns += TICK_S * NS
            yield


def _to_rows(sent: Sequence[bytes], ingest: Ingest, clock: SteppedClock) -> int:
    return sum(len(ingest.drain()["shop"].rows) for _ in _ticks(ingest, clock, sent))


def _to_windows(sent: Sequence[bytes], ingest: Ingest, clock: SteppedClock) -> int:
    engine = ServiceEngine(parse_mesh(MESH, "mesh.yaml").services["shop"].spec, seed=1)
    arms = dict.fromkeys(SEGMENTS, ("v1", "v2"))
    engine.start(Rollout(rollout="shop-v2-1", canary="v2", started_ns=START_S * NS, arms=arms))
    n = 0
    for _ in _ticks(ingest, clock, sent):
        rows = ingest.drain()["shop"].rows
        engine.observe(rows, ingest.vocabulary("shop").labels)
        engine.tick(clock.unix_ns)
        n += len(rows)
    return n
