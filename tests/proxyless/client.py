"""An application with gRPC's own xDS client, told over stdin what to call. A process: its bootstrap is read once.

A line of JSON in, `{"do": ..., ...}`, a line of JSON out. Times are of CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter

import grpc

METHOD = "/test.Greeter/Greet"


class Application:
    """Keeps a channel for each target, as an application does."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.Channel] = {}
        self._load: Load | None = None

    def channel(self, target: str) -> grpc.Channel:
        if target not in self._channels:
            self._channels[target] = grpc.insecure_channel(f"xds:///{target}")
        return self._channels[target]

    def ask(self, target: str, each: list[list[list[str]]], timeout_s: float, method: str) -> dict[str, object]:
        """One RPC for each metadata, in turn: what answered, or the code; and the last failure's details."""
        call, answers, details = self.channel(target).unary_unary(method), [], ""
        began = time.monotonic()
        for metadata in each:
            try:
                answer = call(b"", metadata=[(name, value) for name, value in metadata], timeout=timeout_s)
                answers.append(answer.decode())
            except grpc.RpcError as error:
                answers.append(error.code().name)
                details = error.details()
        return {"answers": answers, "details": details, "seconds": time.monotonic() - began}

    def close(self, target: str) -> dict[str, object]:
        self._channels.pop(target).close()
        return {}

    def load(self, target: str, workers: int) -> dict[str, object]:
        """Begin to call without a pause."""
        self._load = Load(self.channel(target), workers)
        return {}

    def tally(self, stop: bool) -> dict[str, object]:
        assert self._load is not None
        if stop:
            self._load.stop()
        return self._load.tally()


class Load:
    """Workers that call until they are stopped. `last`: when each answer was last seen, by when its RPC began."""

    def __init__(self, channel: grpc.Channel, workers: int) -> None:
        self._call = channel.unary_unary(METHOD)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._answers: Counter[str] = Counter()
        self._details: Counter[str] = Counter()
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while not self._over.is_set():
            began, details = time.monotonic(), ""
            try:
                answer = self._call(b"", timeout=10).decode()
            except grpc.RpcError as error:
                answer, details = error.code().name, error.details()
            with self._lock:
                self._answers[answer] += 1
                self._first.setdefault(answer, began)
                self._last[answer] = max(began, self._last.get(answer, 0.0))
                if details:
                    self._details[details] += 1

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def tally(self) -> dict[str, object]:
        with self._lock:
            answers, details = dict(self._answers), dict(self._details)
            return {"answers": answers, "details": details, "first": dict(self._first), "last": dict(self._last)}


def main() -> None:
    application = Application()
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(application, order.pop("do"))(**order)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
