"""What a million people cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PEOPLE = 1_000_000
MOST_BYTES_A_PERSON = 450  # 700 MB for a million people, less what a control plane without any takes

PROGRAM = f"""
import numpy as np
from analysis.engine import Rollout, ServiceEngine
from analysis.sample import SAMPLE_DTYPE
from analysis.session import NS
from tests.unit.analysis.rows import LABELS, small_spec
from analysis.spec import SessionSpec

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

engine = ServiceEngine(small_spec(session=SessionSpec(gap_s=1_800, goal_path="/done")), seed=1)
now_ns, n = 1_000_000 * NS, 20_000
arms = {{"power": ("v1", "v2"), "default": ("v1", "v2")}}
engine.start(Rollout(rollout="r", canary="v2", started_ns=now_ns, arms=arms))
for segment in arms:
    engine.observer.set_split(segment, 2_000, now_ns)
rng = np.random.default_rng(1)
rows = np.zeros(n, SAMPLE_DTYPE)
rows["duration_ms"], rows["first_byte_ms"] = rng.lognormal(3, 0.5, (2, n))
before = rss()
for batch in range({PEOPLE} // n):
    now_ns += NS // 10
    for again in range(3):  # each comes, and goes on
        rows["user"] = np.arange(batch * n + 1, (batch + 1) * n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        rows["start_unix_ns"] = now_ns + again
        rows["bucket"] = rows["user"] % np.uint64(10_000)
        rows["version"] = rows["bucket"] < 2_000
        rows["label"] = rng.integers(1, 40, n)
        engine.observe(rows, LABELS)
    engine.observer.window(now_ns)
print(engine.observer.tracker.open_n, (rss() - before) // {PEOPLE})
"""


def test_a_million_people_fit_into_what_is_promised() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    people, bytes_a_person = map(int, done.stdout.split())
    assert people > 0.99 * PEOPLE
    assert bytes_a_person <= MOST_BYTES_A_PERSON
