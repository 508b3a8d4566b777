"""Envoys' access log streams at a given rate: `… PORT STREAMS`; commands on standard input, answers on its output."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time

import grpc.aio

from benchmarks.ingest.workload import messages
from xds_server.ingest.als import SERVICE

PER_MESSAGE = 500
KEPT = 40  # messages that are sent again and again


class Load:
    """All streams. `per_s`: entries a second of all together; 0: none."""

    def __init__(self, streams: int) -> None:
        sent = messages(KEPT, per_message=PER_MESSAGE, requests_per_s=25_000, start_s=time.time() - 5, warm_up=50_000)
        self._first, self._more = sent[0], sent[1:]
        self._streams = streams
        self.per_s = 0.0
        self.sent_n = 0

    async def send(self, channel: grpc.aio.Channel, number: int) -> None:
        call = channel.stream_unary(f"/{SERVICE}/StreamAccessLogs")()
        await call.write(self._first)
        self.sent_n += PER_MESSAGE
        more = itertools.cycle(self._more[number:] + self._more[:number])
        due_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            if not self.per_s or now_s < due_s:
                await asyncio.sleep(0.005 if not self.per_s else due_s - now_s)
                due_s = max(due_s, time.monotonic() - 0.5)
                continue
            due_s = max(due_s, now_s - 0.5) + PER_MESSAGE * self._streams / self.per_s
            await call.write(next(more))
            self.sent_n += PER_MESSAGE


async def _main() -> None:
    port, streams = sys.argv[1], int(sys.argv[2])
    load = Load(streams)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection each
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(streams)]
    sending = [asyncio.create_task(load.send(channel, i)) for i, channel in enumerate(channels)]
    _say({})
    while line := await reader.readline():
        load.per_s = json.loads(line)["per_s"]
        if not load.per_s:
            await asyncio.sleep(0.5)  # what is being written goes out
        _say({"sent_n": load.sent_n})
    for each in sending:
        each.cancel()


def _say(answer: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main())
