"""Whatever rows come, the engine neither raises nor raises a split wrongly; windows merge."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.decision import Advance, Phase, Promote
from analysis.engine import Rollout, ServiceEngine
from analysis.sample import NO_BUCKET, SAMPLE_DTYPE, UNKNOWN
from analysis.session import NS
from analysis.spec import TOTAL_BP
from analysis.window import Window, empty
from tests.unit.analysis.rows import LABELS, small_spec
from tests.unit.analysis.test_window import traffic

AGES_S = st.floats(-100, 100) | st.sampled_from([0.0, -1e9, 1e9])
ROW = st.tuples(
    AGES_S,  # of the row against the tick's time
    st.sampled_from([0.0, 5.0, 1e12, -1.0, float("nan"), float("inf")]),
    st.sampled_from([0.0, 5.0, 1e12, -1.0, float("nan"), float("inf")]),
    st.integers(0, 12) | st.sampled_from([2**64 - 1]),  # few users: duplicates
    st.integers(0, 9_999) | st.sampled_from([NO_BUCKET, 10_000]),
    st.sampled_from([0, 1, UNKNOWN]),
    st.sampled_from([0, 1, 2, 77, UNKNOWN]),
    st.sampled_from([0, 1, 40, 65_535]),
    st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 200]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
TICK = st.tuples(st.lists(ROW, max_size=25), st.floats(0.1, 5) | st.sampled_from([-50.0, 0.0, 3_600.0]))


def _rows(rows: list[tuple[object, ...]], now_ns: int) -> npt.NDArray[np.void]:
    return np.array([(now_ns + int(float(age_s) * NS), *rest) for age_s, *rest in rows], dtype=SAMPLE_DTYPE)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(ticks=st.lists(TICK, min_size=1, max_size=25), seed=st.integers(0, 3))
def test_no_rows_raise_in_the_engine_or_a_split_beyond_its_bounds(
    ticks: list[tuple[list[tuple[object, ...]], float]], seed: int
) -> None:
    spec = small_spec()
    engine = ServiceEngine(spec, seed=seed)
    now_ns = 1_000_000 * NS
    engine.start(
        Rollout(rollout="r", canary="v2", started_ns=now_ns, arms={"power": ("v1", "v2"), "default": ("v1", "v2")})
    )
    for rows, step_s in ticks:
        now_ns += int(step_s * NS)
        engine.observe(_rows(rows, now_ns), LABELS)
        before = {s.name: engine.ramp.segments[s.name].split_bp for s in spec.segments} if engine.ramp else {}
        for decision in engine.tick(now_ns):
            assert 0 <= decision.split_after_bp <= TOTAL_BP
            assert decision.split_before_bp == before[decision.segment]
            if decision.split_after_bp > decision.split_before_bp:
                assert isinstance(decision.verdict, Advance | Promote)
            if isinstance(decision.verdict, Advance):
                assert decision.split_after_bp <= decision.split_before_bp + spec.rollout.max_step_bp
            assert decision.phase is not Phase.PROMOTED or decision.split_before_bp >= spec.rollout.bake_split_bp
            assert all(np.isfinite(value) for value in decision.numbers.values())
            engine.confirm(decision.segment, now_ns)
    again = ServiceEngine(spec, seed=seed)
    again.from_bytes(engine.to_bytes(now_ns), now_ns)
    assert again.ramp is not None
    assert engine.ramp is not None
    for name, state in engine.ramp.segments.items():
        assert again.ramp.segments[name].split_bp == state.split_bp


@settings(max_examples=20)
@given(rows=st.lists(ROW, max_size=40))
def test_rows_before_any_rollout_decide_nothing(rows: list[tuple[object, ...]]) -> None:
    engine = ServiceEngine(small_spec(), seed=1)
    engine.observe(_rows(rows, 1_000 * NS))
    assert engine.tick(1_000 * NS) == ()
    assert engine.tick(500 * NS) == ()


@st.composite
def windows(draw: st.DrawFn) -> Window:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = empty(2, 3)
    arrays = {f.name: getattr(shape, f.name) for f in fields(shape)}
    counts: dict[str, Any] = {
        name: rng.integers(0, 1_000, a.shape) for name, a in arrays.items() if isinstance(a, np.ndarray)
    }
    counts["traffic"] = {(0, 1): traffic(rng), (1, draw(st.integers(0, 2))): traffic(rng)}
    newcomers = Counter({(0, 500, 1): draw(st.integers(1, 9)), (1, draw(st.integers(0, 3)), 0): 7})
    return Window(**counts, newcomers=newcomers, entries=draw(st.integers(0, 10**6)))


@settings(max_examples=50)
@given(a=windows(), b=windows(), c=windows())
def test_windows_merge_in_any_order(a: Window, b: Window, c: Window) -> None:
    for f in fields(a):
        one, other = getattr((a + b) + c, f.name), getattr(c + (b + a), f.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other
