"""What people mean to do in a session: its requests, planned before it is known which version will serve them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
import numpy.typing as npt

from analysis.simulation.rates import BOT_REQUESTS, BOT_THINK_S
from analysis.simulation.scenario import Habits

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PAGES = ("home", "search", "product", "cart", "checkout", "done")
HOME, SEARCH, PRODUCT, CART, CHECKOUT, GOAL = range(len(PAGES))
FEATURE_LABEL = 10
FEATURE = "wishlist"
LABELS = (
    *(f"page {page}" for page in PAGES), *("other",) * (FEATURE_LABEL - len(PAGES)), f"feature {FEATURE}",
)  # fmt: skip
"""The vocabulary of the rows."""

NEVER = 2.0  # above every share


class Kind(IntEnum):
    PERSON = 0
    UNLUCKY = 1  # with a broken device
    BOT = 2


class Mark(IntFlag):
    FIRST = 1  # the session's first request
    LEAVES = 2  # the last one of a person who leaves before the goal
    DEAD_END = 4  # where a version that loses people loses them: at the checkout
    GOAL = 8
    RETRY = 16  # follows a failed request


class Forced(IntEnum):
    """Why a request fails whatever the version's share of errors is."""

    NOT = 0
    CHANCE = 1  # it would have failed on the baseline too
    CANARY = 2  # the canary's fault, as long as the canary serves it
    CARRIED = 3  # what a fault in the last session has left behind


PLAN_DTYPE = np.dtype(
    [
        ("at_s", np.float64),
        ("slot", np.int64),  # of its session
        ("luck", np.float64),  # uniform: fails if below the chance of a failed request
        ("requests", np.float64),  # of its session, as far as a healthy version lets it go
        ("label", np.uint16),
        ("mark", np.uint8),
        ("forced", np.uint8),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Sessions that begin: (n,) each. `breaks`: Forced; it hits one request of the session."""

    slots: Ints
    at_s: Floats
    segment: Ints
    kind: npt.NDArray[np.uint8]
    leaves: Floats  # uniform: leaves if below the share of those who leave; NEVER for machines
    breaks: npt.NDArray[np.uint8]


def plan(begun: Begun, habits: Sequence[Habits], rng: np.random.Generator) -> npt.NDArray[np.void]:
    """The requests (PLAN_DTYPE) of sessions, in no order. A complete session has 2 requests at the least."""
    is_bot = begun.kind == Kind.BOT
    mean, think_s, abandoned = (
        np.array([getattr(h, name) for h in habits], float)[begun.segment]
        for name in ("requests", "think_s", "abandoned")
    )
    mean, think_s = np.where(is_bot, BOT_REQUESTS, mean), np.where(is_bot, BOT_THINK_S, think_s)
    n = 2 + rng.poisson(np.maximum(mean - 2, 0.0))
    last_if_left = np.floor(rng.random(len(n)) * (n - 1)).astype(np.int64)
    made = np.where(begun.leaves < abandoned, last_if_left + 1, n)  # on a healthy version
    broken = np.floor(rng.random(len(n)) * made).astype(np.int64)
    of = np.repeat(np.arange(len(n)), n)
    step = np.arange(len(of)) - np.repeat(np.cumsum(n) - n, n)
    gaps = np.where(step > 0, think_s[of] * (0.3 + 0.7 * rng.exponential(size=len(of))), 0.0)
    rows = np.empty(len(of), PLAN_DTYPE)
    rows["at_s"] = begun.at_s[of] + running(gaps, n)
    rows["slot"], rows["requests"], rows["luck"] = begun.slots[of], made[of], rng.random(len(of))
    to_go, person = n[of] - 1 - step, ~is_bot[of]
    rows["label"] = _labels(step, to_go, person)
    rows["forced"] = np.where(step == broken[of], begun.breaks[of], Forced.NOT)
    rows["mark"] = (
        (step == 0) * Mark.FIRST
        | (person & (step == last_if_left[of])) * Mark.LEAVES
        | (person & (to_go == 1)) * Mark.DEAD_END
        | (person & (to_go == 0)) * Mark.GOAL
    )
    return rows


def retries(
    failed: npt.NDArray[np.void], forced: npt.NDArray[np.uint8], in_a_row: Floats, retry_s: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.void]:  # fmt: skip
    """The requests that follow failed ones: as many more that fail, and one that may succeed.

    `in_a_row`: (n,) mean number of failed requests in a row, the first one included.
    """
    more = rng.geometric(1 / in_a_row)  # those that fail, but for the first, and one at the end
    rows = np.repeat(failed, more)
    step = np.arange(len(rows)) - np.repeat(np.cumsum(more) - more, more)
    is_last = step == np.repeat(more, more) - 1
    rows["at_s"] += running(rng.exponential(retry_s, len(rows)), more)
    rows["forced"] = np.where(is_last, Forced.NOT, np.repeat(forced, more))
    rows["luck"] = rng.random(len(rows))
    rows["mark"] = (rows["mark"] & (Mark.GOAL | Mark.RETRY)) | Mark.RETRY
    return rows


def running(values: Floats, counts: Ints) -> Floats:
    """Sums so far, within groups of `counts` values each."""
    sums = np.cumsum(values)
    before = np.append(0.0, sums)[np.cumsum(counts) - counts]
    result: Floats = sums - np.repeat(before, counts)
    return result


def _labels(step: Ints, to_go: Ints, person: npt.NDArray[np.bool_]) -> Ints:
    browsing = np.where(step % 2 == 1, SEARCH, PRODUCT)
    labels = np.select(
        [person & (to_go == 0), person & (to_go == 1), person & (to_go == 2) & (step > 0), step == 0],
        [GOAL, CHECKOUT, CART, HOME], browsing,
    )  # fmt: skip
    return labels.astype(np.int64)
