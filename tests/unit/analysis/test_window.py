"""Windows add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import numpy as np

from analysis.window import Window, empty


def _random(seed: int) -> Window:
    rng = np.random.default_rng(seed)
    shape = empty(3, 2)
    values = {
        f.name: 5 if f.name == "entries" else rng.integers(0, 50, np.shape(getattr(shape, f.name)))
        for f in fields(shape)
    }
    keys = [(int(s), 500 * int(bp), int(arm)) for s, bp, arm in rng.integers(0, (3, 3, 2), (6, 3))]
    return replace(Window(**values), newcomers=Counter(dict.fromkeys(keys, seed + 1)))


def _equal(one: Window, other: Window) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))


def test_merging_loses_nothing_in_any_order() -> None:
    a, b, c = (_random(seed) for seed in range(3))
    assert _equal((a + b) + c, a + (b + c))
    assert _equal(a + b, b + a)
    assert (a + b).bad.sum() == a.bad.sum() + b.bad.sum()
    assert (a + b).newcomers.total() == a.newcomers.total() + b.newcomers.total()


def test_an_empty_window_changes_nothing() -> None:
    assert _equal(_random(1) + empty(3, 2), _random(1))
