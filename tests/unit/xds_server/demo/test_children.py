"""The demo's processes: whatever happens, none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xds_server.demo.children import Children, DemoError, free_ports

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(60)",
)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_leaving_the_context_ends_every_process(tmp_path: Path) -> None:
    async def play() -> list[int]:
        async with Children(log_dir=tmp_path) as children:
            return [(await children.start(f"sleeper{i}", *SLEEP)).process.pid for i in range(2)]

    assert not any(map(is_alive, asyncio.run(play())))


def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    async def play() -> int:
        async with Children(log_dir=tmp_path) as children:
            child = await children.start("stubborn", *STUBBORN)
            while not child.log.read_text():  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(0.02)
            return await child.end(within_s=0.2)

    assert asyncio.run(play()) == -signal.SIGKILL


def test_a_process_that_ended_by_itself_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def play() -> None:
        async with Children(log_dir=tmp_path) as children:
            child = await children.start("unlucky", sys.executable, "-c", "print('no such port'); raise SystemExit(3)")
            await child.process.wait()
            children.check()

    with pytest.raises(DemoError, match="unlucky ended with 3: no such port"):
        asyncio.run(play())


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED: the kernel ties processes together on Linux only")
def test_killing_the_demo_outright_leaves_no_orphan(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from xds_server.demo.children import Children
async def play():
    async with Children(log_dir=Path({str(tmp_path)!r})) as children:
        child = await children.start("sleeper", *{STUBBORN!r})
        while not child.log.read_text():
            await asyncio.sleep(0.02)
        print(child.process.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(play())
"""
    demo = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        pid = int(demo.stdout.readline())
        assert is_alive(pid)
    finally:
        os.kill(demo.pid, signal.SIGKILL)
        demo.communicate()
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)


def test_free_ports_are_different_ones() -> None:
    assert len(set(free_ports(8))) == 8
