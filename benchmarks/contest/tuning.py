"""A peer as strict as a false-rollback rate allows: each knob on a grid, then on a finer one, on A/A runs.

The runs have seeds of their own, and all values of a grid are played in the same world.

Knobs take turns, in their order; the first of k may use 1/k of the rate, the next one 2/k, and so on, so that a peer
with a latency limit is not all errors. What is not tuned yet is left as documented, unless that alone is above the
rate: then it is at its loosest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contest.contestants import Entry, Knob
from benchmarks.contest.intervals import Figure, rate

GRID, ROUNDS = 8, 2

Values = Mapping[str, float]
FalseRollbacks = Callable[[Sequence[Values]], list[list[bool]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """`false_rollback`: on the runs that chose the values, so it is a little too good."""

    contestant: str
    load: float
    values: dict[str, float]
    documented: dict[str, float]
    false_rollback: Figure

    def as_data(self) -> dict[str, Any]:
        return {
            "contestant": self.contestant, "load": self.load, "values": self.values, "documented": self.documented,
            "false_rollback": self.false_rollback.as_data(),
        }  # fmt: skip


def documented(entry: Entry) -> dict[str, float]:
    return {knob.name: knob.documented for knob in entry.knobs}


def tune(entry: Entry, load: float, allowed: float, play: FalseRollbacks) -> Tuned:
    """`play`: for each of several settings, whether each of some A/A runs was rolled back."""
    values = documented(entry)
    if _rates(play([values]))[0] > allowed:
        values = {knob.name: knob.loosest for knob in entry.knobs}
    for number, knob in enumerate(entry.knobs, 1):
        values[knob.name] = _strictest(knob, values, allowed * number / len(entry.knobs), play)
    (flags,) = play([values])
    return Tuned(
        contestant=entry.name, load=load, values=values, documented=documented(entry), false_rollback=rate(flags)
    )


def _strictest(knob: Knob, values: Values, allowed: float, play: FalseRollbacks) -> float:
    """The strictest value of the grid before the first one that is rolled back too often."""
    lenient, width = 0.0, 1.0
    for _ in range(ROUNDS):
        width /= GRID
        grid = [lenient + width * i for i in range(1, GRID)]
        rates = _rates(play([{**values, knob.name: knob.at(strictness)} for strictness in grid]))
        lenient += width * next((i for i, each in enumerate(rates) if each > allowed), len(rates))
    return knob.at(lenient)


def _rates(flags: Sequence[Sequence[bool]]) -> list[float]:
    return [sum(each) / len(each) for each in flags]
