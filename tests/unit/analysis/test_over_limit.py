"""No rise while people are above an absolute limit, long before that is proven."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.reading import Reading, Standing
from analysis.window import BASELINE, CANARY, empty
from analysis.wording import Wording
from tests.unit.analysis.rows import ERRORS, small_spec

NOBODY_NEW = np.zeros((0, 5), np.int64)
LIMIT = 0.05


def _reading(n: int, *, canary: int = 0, baseline: int = 0, elsewhere: int = 0) -> Reading:
    """Four ticks of `n` people of each version in both segments; how many of them met an error."""
    spec = small_spec()
    kpis = [replace(kpi, limit=LIMIT if k == ERRORS else None) for k, kpi in enumerate(spec.kpis)]
    reading, window = Reading(replace(spec, kpis=tuple(kpis))), empty(2, 5)
    window.n[:], window.bad[:, ERRORS] = n, elsewhere
    window.bad[0, ERRORS, CANARY], window.bad[0, ERRORS, BASELINE] = canary, baseline
    split = np.full((1, 2), 0.5)
    standing = Standing(split=split, live=split > 0, rising=split > 0, cleared=split > 1)
    for tick in range(1, 5):
        reading.learn(window, NOBODY_NEW, standing, since_s=float(tick), elapsed_s=1.0, blind=False)
    return reading


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"canary": 3}, "error_rate is 15.0% of the canary's last 80 sessions, limit 5.0%"),
        ({"canary": 1}, None),  # at the limit
        ({"canary": 2}, None),  # 8 of 80: no 1-in-100 surprise
        ({"baseline": 4}, None),  # the canary may be the cure
        ({"canary": 2, "baseline": 2, "elsewhere": 2}, "error_rate is 10.0% of the last 320 sessions on both versions"),
    ],
)
def test_who_is_above_the_limit_is_told(bad: dict[str, int], text: str | None) -> None:
    reading = _reading(20, **bad)
    reason = Wording(reading, 0).over_limit(0)
    assert not reading.now.proven.any()
    assert (reason is None) == (text is None)
    if reason is not None and text is not None:
        assert reason.text.startswith(text)
        assert (reason.code, reason.limit) == ("over_limit:error_rate", LIMIT)
