"""Sessions of SESSION_DTYPE for the tests of profiles: people who walk through a small shop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analysis.columns import PATH_STEPS, SESSION_DTYPE

LABELS = ("other", "page /", "page /search", "page /item", "page /cart", "click buy", "page /done", "feature voucher")
HOME, SEARCH, ITEM, CART, BUY, DONE, VOUCHER = range(1, 8)
WAY = (HOME, SEARCH, ITEM, CART, BUY, DONE)
NS = 1_000_000_000


def rows(*visits: tuple[Sequence[int], float]) -> npt.NDArray[np.void]:
    """Sessions of these paths, each step as many seconds after the one before."""
    table = np.zeros(len(visits), SESSION_DTYPE)
    for number, (row, (steps, pace_s)) in enumerate(zip(table, visits, strict=True)):
        path = steps[:PATH_STEPS]
        row["user"], row["start_unix_ns"], row["n_path"] = number + 1, number * NS, len(path)
        row["path"][: len(path)] = path
        row["path_ds"][: len(path)] = np.minimum(np.arange(len(path)) * pace_s * 10, 0xFFFF)
    return table


def usual(n: int, rng: np.random.Generator, *, leaves: float = 0.1, click_works: float = 1.0) -> npt.NDArray[np.void]:
    """Visits of the shop: some look around more, `leaves` leave at each visit before the goal, some use a voucher."""
    visits = []
    for _ in range(n):
        path: list[int] = [HOME]
        for _ in range(int(rng.integers(1, 4))):
            path += [SEARCH, ITEM]
        path.append(CART)
        if rng.random() < 0.3:
            path.append(VOUCHER)
        if rng.random() < click_works:
            path += [BUY, DONE]
        if rng.random() < leaves:
            path = path[: int(rng.integers(1, len(path)))]
        visits.append((path, float(rng.gamma(8, 0.25))))
    table = rows(*visits)
    table["user"] = rng.integers(1, 2**63, n)
    table["start_unix_ns"] = np.sort(rng.integers(0, 3_600 * NS, n))
    return table
