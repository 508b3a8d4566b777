"""Collections of garbage are bounded steps."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, time
from xds_server.garbage import settle

there = [{"a": [n]} for n in range(500_000)]  # as many as thousands of streams have
settle()
longest = began = 0.0
def watch(phase, info):
    global longest, began
    if phase == "start":
        began = time.thread_time()
    else:
        longest = max(longest, time.thread_time() - began)
gc.callbacks.append(watch)
more = [{"a": [n]} for n in range(500_000)]
print(longest)
"""


def test_no_collection_stops_the_loop_for_long() -> None:
    """What was there at the start is not looked at again; Python's own thresholds give a step of a tenth of a second.

    The time is the thread's own: how busy the machine is does not matter.
    """
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert float(ran.stdout) < 0.05
