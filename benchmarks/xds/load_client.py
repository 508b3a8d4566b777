"""Many Envoys in one process: each a TCP connection of its own with one ADS stream, which starts as Envoy 1.40 does.

`python -m benchmarks.xds.load_client PLAN.json`; then each line on standard input is a command, each line written its
answer. A stream asks for CDS (with its node), EDS by name, LDS, RDS by name, and ACKs each response; whatever comes
after that is a push, and is ACKed.
"""

from __future__ import annotations

import gc
import heapq
import json
import os
import random
import resource
import select
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

from benchmarks.xds import protocol
from benchmarks.xds.http2 import END_BYTES, Connection, data_frames, message_body, request_headers
from benchmarks.xds.protocol import CDS, EDS, LDS, RDS, Variant

AT_ONCE_N = 64
"""Streams that start at the same time, where it is not a storm."""

RETRY_BASE_S, RETRY_MAX_S = 0.5, 30.0  # Envoy's defaults for its stream to the control plane
SMALL_BYTES = 4096
FRONT_BYTES = 64  # hold the version
ACKS_KEPT = 8192

Prepared = tuple[bytes, bytes]
"""A message in DATA frames, and the same without them (see `Connection.send`)."""


class Plan:
    """What the streams of a load ask for. `is_floor`: the server answers nothing before the first push."""

    def __init__(self, read: dict[str, Any]) -> None:
        self.port: int = read["port"]
        self.variant: Variant = read["variant"]
        self.cluster: bytes = read["cluster"].encode()
        self.is_floor: bool = read["is_floor"]
        self.names = {kind: tuple(n.encode() for n in read["names"][protocol.NAMES[kind]]) for kind in (EDS, RDS)}
        self.headers = request_headers(protocol.PATHS[self.variant])
        self._subscriptions: dict[tuple[int, int], Prepared] = {}
        self._acks: dict[tuple[int, bytes, bytes], tuple[protocol.Head, Prepared]] = {}
        self._contents: dict[tuple[int, int | bytes], frozenset[bytes]] = {}
        self.known_lengths: set[int] = set()
        self.ends_tell = True

    def first(self, number: int) -> bytes:
        return message_body(protocol.request(self.variant, CDS, node=protocol.node(number, self.cluster)))

    def subscribe(self, stream: int, kind: int) -> Prepared:
        key = (stream, kind)
        if key not in self._subscriptions:
            names = self.names.get(kind, ())
            self._subscriptions[key] = _prepare(stream, protocol.request(self.variant, kind, names=names))
        return self._subscriptions[key]

    def ack(self, stream: int, message: bytes) -> tuple[protocol.Head, Prepared]:
        """Read what a response is, and make its ACK.

        Both follow from the two ends of the response. All streams are sent the same, so that it is done once a push.
        """
        key = (stream, message[:FRONT_BYTES], message[-protocol.TAIL_BYTES :])
        found = self._acks.get(key)
        if found is None:
            head = protocol.head(message)
            if len(message) >= SMALL_BYTES:
                self.ends_tell &= _ends_tell(message, head)
            version, names = b"", ()
            if self.variant == "sotw":
                version, names = protocol.version(message), self.names.get(head.kind, ())
            made = protocol.request(self.variant, head.kind, names=names, version=version, nonce=head.nonce)
            found = head, _prepare(stream, made)
            if len(self._acks) > ACKS_KEPT:
                self._acks.clear()
            self._acks[key] = found
        return found

    def contents(self, head: protocol.Head, message: bytes, length: int) -> frozenset[bytes]:
        """Names of the resources in a response; every stream is sent the same, so that each is read through once.

        Large ones are told apart by their length alone: they hold all or nearly all there is.
        """
        n = length - len(head.nonce)
        key = (head.kind, message[:n] if n < SMALL_BYTES else n)
        names = self._contents.get(key)
        if names is None:
            names = self._contents[key] = frozenset(protocol.resource_names(self.variant, message))
            if n >= SMALL_BYTES:
                self.known_lengths.add(length)
        return names


def _ends_tell(message: bytes, head: protocol.Head) -> bool:
    """Whether an ACK can be made from the two ends of a message; not if its fields stand in another order."""
    try:
        return protocol.head(message[:END_BYTES] + message[-END_BYTES:]) == head
    except (IndexError, StopIteration, ValueError):
        return False


def _prepare(stream: int, message: bytes) -> Prepared:
    body = message_body(message)
    return data_frames(stream, body), body


class Stream:
    """One Envoy."""

    __slots__ = ("_load", "_missing", "_plan", "connection", "is_ready", "number", "started_at", "tries")

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._plan = load.plan
        self._missing: dict[int, set[bytes]] = {}  # names subscribed to and not seen yet, until it is ready
        self.number = number
        self.tries = 0
        self.is_ready = False
        self.started_at = time.monotonic()
        self.connection: Connection | None = None

    def start(self) -> None:
        """Open a stream, on the old connection if there is one."""
        self.tries += 1
        self._missing.clear()
        if self.connection is None or not self.connection.is_alive or self.connection.is_going_away:
            if self.connection is not None:
                self._load.forget(self.connection)
            self.connection = self._load.connect(self)
        self.connection.open_stream(self._plan.headers, self._plan.first(self.number))

    def _send(self, prepared: Prepared) -> None:
        assert self.connection is not None
        self.connection.send(*prepared)

    # --- What the connection tells ---

    def on_headers(self) -> None:
        if self._plan.is_floor:
            self._ready()

    def is_known(self, length: int) -> bool:
        if self.number == 0 or not self._plan.ends_tell:
            return False  # the first stream has the samples
        return length in self._plan.known_lengths or (self.is_ready and length >= SMALL_BYTES)

    def on_message(self, message: bytes, length: int) -> None:
        assert self.connection is not None
        head, ack = self._plan.ack(self.connection.stream, message)
        if self.is_ready:
            self._send(ack)
            self._load.pushed(message, length)
            return
        names = self._plan.contents(head, message, length)
        match head.kind:
            case protocol.CDS if EDS not in self._missing:
                self._subscribe(EDS)
            case protocol.LDS if RDS not in self._missing:
                self._subscribe(RDS)
        self._send(ack)
        if head.kind in (EDS, RDS):
            self._missing[head.kind] -= names
        if head.kind == EDS and not self._missing[EDS] and LDS not in self._missing:
            self._missing[LDS] = set()
            self._send(self._plan.subscribe(self.connection.stream, LDS))
        if head.kind == RDS and not self._missing[RDS]:
            self._ready()

    def _subscribe(self, kind: int) -> None:
        assert self.connection is not None
        self._missing[kind] = set(self._plan.names[kind])
        self._send(self._plan.subscribe(self.connection.stream, kind))

    def _ready(self) -> None:
        self.is_ready = True
        self._missing.clear()
        self._load.ready(self)

    def on_end(self, reason: str) -> None:
        if self.is_ready:
            self.is_ready = False
            self._load.lost[reason] += 1
        else:
            self._load.refused(self, reason)


class Load:
    """All streams, and the loop that serves them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lost: Counter[str] = Counter()
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._streams: list[Stream] = []
        self._retries: list[tuple[float, int, Stream]] = []
        self._waiting: deque[Stream] = deque()
        self._started_n = self._ready_n = 0
        self._at_once_n = AT_ONCE_N
        self._refusals: Counter[str] = Counter()
        self._refused_streams: set[int] = set()
        self._ready_s: list[float] = []
        self._rng = random.Random(1)
        self._acks = self._bytes = self._first_ack_ns = self._last_ack_ns = 0
        self._sample = b""
        self._cpu_us = 0

    # --- What streams tell ---

    def connect(self, stream: Stream) -> Connection:
        connection = Connection(self._poll, stream, self.plan.port)
        self._connections[connection.fd] = connection
        return connection

    def forget(self, connection: Connection) -> None:
        connection.close()
        if self._connections.get(connection.fd) is connection:  # the number may be another's by now
            del self._connections[connection.fd]

    def ready(self, stream: Stream) -> None:
        self._ready_n += 1
        self._ready_s.append(time.monotonic() - stream.started_at)

    def refused(self, stream: Stream, reason: str) -> None:
        """Try again as Envoy does: full jitter below an interval that doubles."""
        self._refusals[reason] += 1
        self._refused_streams.add(stream.number)
        interval = min(RETRY_MAX_S, RETRY_BASE_S * 2.0 ** min(stream.tries - 1, 10))
        heapq.heappush(self._retries, (time.monotonic() + self._rng.random() * interval, stream.number, stream))

    def pushed(self, message: bytes, length: int) -> None:
        self._last_ack_ns = time.monotonic_ns()
        self._acks += 1
        self._bytes += length
        if not self._first_ack_ns:
            self._first_ack_ns = self._last_ack_ns
        if len(message) == length:
            self._sample = message

    # --- Commands ---

    def open(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Open streams until there are so many; all at once if it is a storm."""
        self._at_once_n = 1_000_000 if asked["is_storm"] else AT_ONCE_N
        self._refusals.clear()
        self._refused_streams.clear()
        self._ready_s.clear()
        before = time.monotonic()
        cpu_before = _cpu_us()
        self._waiting.extend(Stream(self, number) for number in range(len(self._streams), asked["streams"]))
        self._run_until(before + asked["deadline_s"], asked["streams"])
        times = sorted(self._ready_s)
        gc.collect()
        gc.freeze()
        return {
            "ready": self._ready_n,
            "seconds": time.monotonic() - before,
            "cpu_us": _cpu_us() - cpu_before,
            "refusals": dict(self._refusals),
            "refused_streams": len(self._refused_streams),
            "ready_s": {q: times[min(len(times) - 1, int(len(times) * p))] for q, p in _QUANTILES} if times else {},
        }

    def _run_until(self, deadline: float, wanted: int) -> None:
        while self._ready_n < wanted and (now := time.monotonic()) < deadline:
            while self._waiting and self._started_n - self._ready_n < self._at_once_n:
                self._start(self._waiting.popleft())
            while self._retries and self._retries[0][0] <= now:
                heapq.heappop(self._retries)[2].start()
            due = min(deadline, self._retries[0][0]) if self._retries else deadline
            self.serve(max(due - now, 0.0))

    def _start(self, stream: Stream) -> None:
        self._streams.append(stream)
        self._started_n += 1
        stream.started_at = time.monotonic()
        stream.start()

    def arm(self, _: dict[str, Any]) -> dict[str, Any]:
        """Begin to count a push."""
        self._acks = self._bytes = self._first_ack_ns = self._last_ack_ns = 0
        self.lost.clear()
        self._cpu_us = _cpu_us()
        return {}

    def pushed_so_far(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "acks": self._acks,
            "bytes": self._bytes,
            "first_ack_ns": self._first_ack_ns,
            "last_ack_ns": self._last_ack_ns,
            "cpu_us": _cpu_us() - self._cpu_us,
            "lost": dict(self.lost),
            "sample": self._sample.hex() if asked.get("with_sample") else "",
        }

    def close(self, _: dict[str, Any]) -> dict[str, Any]:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._streams.clear()
        self._waiting.clear()
        self._retries.clear()
        self._started_n = self._ready_n = 0
        return {}

    # --- The loop ---

    def serve(self, timeout_s: float) -> bool:
        """Handle what has come within the time; whether there is something to read on standard input."""
        connections = self._connections
        is_asked = False
        for fd, events in self._poll.poll(timeout_s, 256):
            connection = connections.get(fd)
            if connection is None:
                is_asked |= fd == 0
            elif connection.is_alive:
                connection.on_event(events)
        return is_asked

    def run(self) -> None:
        """Serve the streams until standard input ends."""
        commands = {"open": self.open, "arm": self.arm, "pushed": self.pushed_so_far, "close": self.close}
        self._poll.register(0, select.EPOLLIN)
        lines = b""
        while True:
            if not self.serve(1.0):
                continue
            read = os.read(0, 1 << 16)
            if not read:
                return
            *complete, lines = (lines + read).split(b"\n")
            for line in complete:
                asked = json.loads(line)
                _say(commands[asked["do"]](asked))


_QUANTILES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))


def _cpu_us() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return round((used.ru_utime + used.ru_stime) * 1e6)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    load = Load(Plan(json.loads(Path(sys.argv[1]).read_text())))
    _say({"pid": os.getpid()})
    load.run()


if __name__ == "__main__":
    main()
