"""Windows add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np

from analysis.sketch import Sketch
from analysis.window import Traffic, Window, empty


def traffic(rng: np.random.Generator) -> Traffic:
    """So many requests, whose latencies nobody has chosen."""
    duration, first_byte = (Sketch.of(rng.lognormal(3, 1, rng.integers(0, 30))) for _ in range(2))
    return Traffic(requests=int(rng.integers(100)), errors=1, slow=2, duration=duration, first_byte=first_byte)


def _random(seed: int) -> Window:
    rng = np.random.default_rng(seed)
    shape = empty(3, 2)
    values: dict[str, Any] = {
        f.name: 5 if f.name == "entries" else rng.integers(0, 50, np.shape(getattr(shape, f.name)))
        for f in fields(shape)
        if f.name != "traffic"
    }
    values["traffic"] = {(0, seed % 2): traffic(rng), (2, 1): traffic(rng)}
    keys = [(int(s), 500 * int(bp), int(arm)) for s, bp, arm in rng.integers(0, (3, 3, 2), (6, 3))]
    return replace(Window(**values), newcomers=Counter(dict.fromkeys(keys, seed + 1)))


def _equal(one: Window, other: Window) -> bool:
    if one.traffic != other.traffic:
        return False
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one) if f.name != "traffic")


def test_merging_loses_nothing_in_any_order() -> None:
    a, b, c = (_random(seed) for seed in range(3))
    assert _equal((a + b) + c, a + (b + c))
    assert _equal(a + b, b + a)
    assert (a + b).bad.sum() == a.bad.sum() + b.bad.sum()
    assert (a + b).newcomers.total() == a.newcomers.total() + b.newcomers.total()


def test_an_empty_window_changes_nothing() -> None:
    assert _equal(_random(1) + empty(3, 2), _random(1))
