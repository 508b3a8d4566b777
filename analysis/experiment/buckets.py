"""Shares as ranges of the 10,000 hash buckets, and how people who have been seen keep their variant.

When shares move, a shrinking variant gives up buckets at the ends of its ranges and a growing one takes them: no bucket
moves between variants that both grow, or that need not move, so that as few buckets change hands as the shares allow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.errors import SpecError, StateError
from analysis.spec import TOTAL_BP

MAX_RANGES = 64  # an allotment of more is laid out anew, in one range a variant
MAX_BATCHES = 1_000  # allotments that are remembered


_BATCH = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Range:
    """Buckets start <= b < end of one variant (its index)."""

    start: int
    end: int
    variant: int


Ranges = tuple[Range, ...]
"""In order, without gaps, from 0 to 10,000."""


def lay_out(shares_bp: Sequence[int]) -> Ranges:
    """One range a variant, in their order; variants with a share of 0 have none. Raises SpecError."""
    if sum(shares_bp) != TOTAL_BP or min(shares_bp) < 0:
        raise SpecError(f"shares in basis points are {list(shares_bp)}; legal: none below 0, adding up to {TOTAL_BP}")
    ranges, start = [], 0
    for variant, share in enumerate(shares_bp):
        if share:
            ranges.append(Range(start, start + share, variant))
            start += share
    return tuple(ranges)


def move(ranges: Ranges, shares_bp: Sequence[int]) -> Ranges:
    """The ranges after shares have moved, with as few buckets in other hands as can be.

    What is freed goes first to a neighbour that grows, then to others. Where that would leave more than MAX_RANGES, the
    buckets are laid out anew; people who have been seen do not notice.
    """
    fresh = lay_out(shares_bp)
    owners = _given_up(ranges, shares_bp)
    missing = {
        variant: share - sum(end - start for start, end, owner in owners if owner == variant)
        for variant, share in enumerate(shares_bp)
    }
    moved = _joined(_taken(owners, missing))
    return moved if len(moved) <= MAX_RANGES else fresh


_Piece = tuple[int, int, int | None]


def _given_up(ranges: Ranges, shares_bp: Sequence[int]) -> list[_Piece]:
    """Pieces in order; freed ones belong to None. Last ranges give up first, beside one that grows if so."""
    surplus = dict.fromkeys(range(len(shares_bp)), 0)
    for each in ranges:
        surplus[each.variant] = surplus.get(each.variant, 0) + each.end - each.start
    surplus = {
        variant: held - (shares_bp[variant] if variant < len(shares_bp) else 0) for variant, held in surplus.items()
    }
    growing = {variant for variant, more in surplus.items() if more < 0}
    pieces: list[_Piece] = []
    for place in reversed(range(len(ranges))):
        each = ranges[place]
        freed = min(max(surplus[each.variant], 0), each.end - each.start)
        surplus[each.variant] -= freed
        is_before = place > 0 and ranges[place - 1].variant in growing
        is_after = place + 1 < len(ranges) and ranges[place + 1].variant in growing
        at = each.start + freed if is_before and not is_after else each.end - freed
        parts = (each.start, at), (at, each.end)
        owners = (None, each.variant) if is_before and not is_after else (each.variant, None)
        pieces += [(*part, owner) for part, owner in zip(parts[::-1], owners[::-1], strict=True) if part[0] < part[1]]
    return pieces[::-1]


def _taken(pieces: list[_Piece], missing: dict[int, int]) -> list[_Piece]:
    """Freed pieces in the hands of who grows: neighbours from their side, then whoever misses some."""
    result: list[_Piece] = []
    for place, (start, end, owner) in enumerate(pieces):
        if owner is not None:
            result.append((start, end, owner))
            continue
        before = result[-1][2] if result else None
        after = next((piece[2] for piece in pieces[place + 1 :] if piece[2] is not None), None)
        left = _grow(missing, before, end - start)
        right = _grow(missing, after, end - start - left)
        result += [(start, start + left, before)] * bool(left)
        at = start + left
        for variant in sorted(missing):
            some = _grow(missing, variant, end - right - at)
            result += [(at, at + some, variant)] * bool(some)
            at += some
        result += [(end - right, end, after)] * bool(right)
    return result


def _grow(missing: dict[int, int], variant: int | None, offered: int) -> int:
    """How much of what is offered a variant takes; it then misses as much less."""
    if variant is None:
        return 0
    some = min(max(missing[variant], 0), offered)
    missing[variant] -= some
    return some


def _joined(pieces: list[_Piece]) -> Ranges:
    ranges: list[Range] = []
    for start, end, owner in pieces:
        if owner is None:
            raise SpecError(f"buckets {start} to {end} belong to nobody: the ranges were not whole")
        if ranges and ranges[-1].variant == owner:
            ranges[-1] = Range(ranges[-1].start, end, owner)
        else:
            ranges.append(Range(start, end, owner))
    return tuple(ranges)


def variant_of(ranges: Ranges, bucket: int) -> int:
    """The variant (index) of a bucket from 0 to 9,999."""
    return next(each.variant for each in ranges if each.start <= bucket < each.end)


# -- who has been seen ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a person carries from the first exposure on, for the shell to sign: the variant, and the batch it was in.

    A person with one keeps its variant, whatever has moved since; whoever has none is a newcomer.
    """

    experiment: str
    batch: int
    variant: str

    def to_text(self) -> str:
        """The parts joined by '~'; names have none (`from_text` takes the text apart from its end)."""
        return f"{self.experiment}~{self.batch}~{self.variant}"

    @classmethod
    def from_text(cls, text: str) -> Assignment:
        """Raises StateError where the text is none of `to_text`."""
        parts = text.rsplit("~", 2)
        if len(parts) != 3 or not all(parts) or _BATCH.fullmatch(parts[1]) is None:
            raise StateError("an assignment is EXPERIMENT~BATCH~VARIANT")
        return cls(experiment=parts[0], batch=int(parts[1]), variant=parts[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """One batch's ranges, in force from `since_s` (event time) until the next one's."""

    batch: int
    since_s: float
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class AllotmentHistory:
    """All allotments of one segment, oldest first: for people who carry nothing, but whose first exposure is known.

    The newest MAX_BATCHES are kept.
    """

    allotments: tuple[Allotment, ...]

    @classmethod
    def begin(cls, shares_bp: Sequence[int], since_s: float) -> AllotmentHistory:
        return cls((Allotment(batch=0, since_s=since_s, ranges=lay_out(shares_bp)),))

    def then(self, shares_bp: Sequence[int], since_s: float) -> AllotmentHistory:
        """The history with one more batch. Raises SpecError if it would begin before the last one."""
        last = self.allotments[-1]
        if not (math.isfinite(since_s) and since_s >= last.since_s):
            raise SpecError(f"batch {last.batch + 1} begins at {since_s}; legal: from {last.since_s} on")
        new = Allotment(batch=last.batch + 1, since_s=since_s, ranges=move(last.ranges, shares_bp))
        return AllotmentHistory((*self.allotments, new)[-MAX_BATCHES:])

    def at(self, first_seen_s: float) -> Allotment | None:
        """What was in force then; None if it is forgotten, or was before the experiment."""
        return next((each for each in reversed(self.allotments) if each.since_s <= first_seen_s), None)

    def variant_of(self, bucket: int, first_seen_s: float) -> int | None:
        """The variant (index) that a person keeps; None where `at` is."""
        allotment = self.at(first_seen_s)
        return None if allotment is None else variant_of(allotment.ranges, bucket)
