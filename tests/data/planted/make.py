"""Writes the planted click paths beside it: visits that no usual person makes, on a site of 17 categories.

Nothing in them is taken from real data, only the number of categories. The files were fixed before the detector that
is judged on them was tuned; a test says that this still makes them.

    python tests/data/planted/make.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

CATEGORIES = 17
VISITS = 300
SEED = 20_150_517

Walk = Callable[[np.random.Generator], list[int]]


def loop(rng: np.random.Generator) -> list[int]:
    """Back and forth between two pages, 8 to 24 steps: a form that sends people back."""
    pair = rng.choice(CATEGORIES, 2, replace=False) + 1
    return [int(pair[i % 2]) for i in range(int(rng.integers(8, 25)))]


def jumps(rng: np.random.Generator) -> list[int]:
    """From any page to any other, 5 to 15 steps: links that lead elsewhere."""
    walk = [int(rng.integers(1, CATEGORIES + 1))]
    for _ in range(int(rng.integers(4, 15))):
        walk.append(int((walk[-1] - 1 + rng.integers(1, CATEGORIES)) % CATEGORIES + 1))
    return walk


def cut_short(rng: np.random.Generator) -> list[int]:
    """In by any page, over others seen once each, gone after 3 to 5 steps: ways skipped, nothing stayed for."""
    return [int(page) + 1 for page in rng.choice(CATEGORIES, int(rng.integers(3, 6)), replace=False)]


KINDS: dict[str, Walk] = {"loops": loop, "jumps": jumps, "cut_short": cut_short}


def text(kind: str) -> str:
    """The file of a kind: one visit a line, categories 1 to 17 with a space between."""
    rng = np.random.default_rng([SEED, list(KINDS).index(kind)])
    return "".join(" ".join(map(str, KINDS[kind](rng))) + "\n" for _ in range(VISITS))


if __name__ == "__main__":
    for name in KINDS:
        (Path(__file__).parent / f"{name}.txt").write_text(text(name), encoding="ascii")
