"""Records of deployments to test with: one that is whole, and whatever Hypothesis thinks of."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from analysis.decision import Phase
from analysis.history.record import LATEST_UNIX_S, Gauge, Label, RecordedDecision, RolloutRecord, Verdict, attribute

NAN = float("nan")


def deployment(**changes: Any) -> RolloutRecord:
    """A canary that was rolled back in one of two segments after three ticks."""
    shape = (3, 2, 1, 2)
    n = np.arange(12).reshape(shape)
    about: dict[str, Any] = {
        "rollout": "shop-v2-1", "service": "shop", "baseline": "v1", "canary": "v2", "started_unix_s": 1e9,
        "interval_s": 10.0, "segments": ("power", "default"), "kpis": ("error_rate",),
        "at_s": np.array([10.0, 20.0, 30.0]), "n": n, "bad": n // 2, "exposed": np.array([[0.0, 0], [1, 2], [NAN, 3]]),
        "arrived": np.array([[4.0, 5], [6, 7], [NAN, 8]]), "split_bp": np.array([[0.0, 0], [500, 100], [500, NAN]]),
        "suspicion": np.array([[0.0, 0], [0.5, 0.1], [1.0, NAN]]), "log_e": np.full((3, 2), NAN),
        "attributes": {"lines_changed": 120.0, "language": "go"},
        "gauges": (
            Gauge(kpi="latency_ms", segment="power", arm=1, at_s=np.array([-10.0, 5]), value=np.array([3.5, 4]),
                  source="pod-1"),
        ),
        "decisions": (
            RecordedDecision(at_s=10.0, segment="power", verdict="advance", tier="", split_before_bp=0,
                             split_after_bp=500, reason="nothing speaks against it"),
            RecordedDecision(at_s=30.0, segment="power", verdict="rollback", tier="proven", split_before_bp=500,
                             split_after_bp=0, reason="error_rate is 5 % higher"),
        ),
        "outcome": {"power": str(Phase.ROLLED_BACK), "default": str(Phase.WITHDRAWN)},
        "label": Label(verdict=Verdict.BAD, who="ann", reason="wrong cache key"),
    }  # fmt: skip
    return RolloutRecord(**{**about, **changes})


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda name: not name.startswith("serinus.")
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
STARTS = st.floats(0, LATEST_UNIX_S, exclude_max=True)
VALUES = FINITE | st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=8).filter(
    lambda text: isinstance(attribute(text), str)
)


@st.composite
def deployments(draw: st.DrawFn, rollout: str) -> RolloutRecord:
    """Any record there can be, of few ticks."""
    segments = draw(st.lists(NAMES, max_size=3, unique=True))
    kpis = draw(st.lists(NAMES, max_size=2, unique=True))
    at_s = sorted(draw(st.lists(FINITE, max_size=4, unique=True))) if segments else []
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape, known = (len(at_s), len(segments), len(kpis), 2), rng.random((len(at_s), len(segments))) < 0.7
    n = rng.integers(0, 3, shape)
    arrived = np.where(known, rng.integers(0, 9, known.shape), np.nan)
    keys = st.tuples(NAMES, st.sampled_from(segments), st.integers(0, 1), TEXTS)
    return RolloutRecord(
        rollout=rollout, service=draw(NAMES), baseline=draw(NAMES), canary=draw(NAMES), started_unix_s=draw(STARTS),
        interval_s=draw(st.floats(1e-3, 1e6)), segments=tuple(segments), kpis=tuple(kpis), at_s=np.array(at_s, float),
        n=n, bad=rng.integers(0, n + 1), arrived=arrived, exposed=np.floor(arrived * rng.random(known.shape)),
        split_bp=np.where(rng.random(known.shape) < 0.7, rng.integers(0, 10_001, known.shape), np.nan),
        suspicion=np.where(known, rng.normal(size=known.shape), np.nan),
        log_e=np.where(~known, rng.normal(size=known.shape), np.nan),
        attributes=draw(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_.-]{0,5}", fullmatch=True), VALUES, max_size=3)),
        gauges=tuple(draw(_gauge(key)) for key in draw(st.lists(keys, max_size=2, unique=True))) if segments else (),
        decisions=tuple(draw(st.lists(_decisions(segments), max_size=3))),
        outcome={name: str(draw(st.sampled_from(Phase))) for name in segments if draw(st.booleans())},
        label=draw(st.none() | st.builds(Label, verdict=st.sampled_from(Verdict), who=TEXTS, reason=TEXTS)),
    )  # fmt: skip


def _gauge(key: tuple[str, str, int, str]) -> st.SearchStrategy[Gauge]:
    kpi, segment, arm, source = key
    times = st.lists(FINITE, min_size=1, max_size=3, unique=True)
    return times.map(
        lambda at_s: Gauge(
            kpi=kpi, segment=segment, arm=arm, source=source, at_s=np.array(sorted(at_s)), value=np.array(at_s)
        )
    )


def _decisions(segments: list[str]) -> st.SearchStrategy[RecordedDecision]:
    splits = st.integers(0, 10_000)
    return st.builds(
        RecordedDecision, at_s=FINITE, segment=st.sampled_from([*segments, ""]), verdict=NAMES, tier=TEXTS,
        split_before_bp=splits, split_after_bp=splits, reason=TEXTS, who=TEXTS,
    )  # fmt: skip
