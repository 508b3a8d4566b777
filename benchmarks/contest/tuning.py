"""A peer as strict as a false-rollback rate allows: each knob by bisection on A/A runs, with seeds of their own.

Knobs take turns, in their order; the first of k may use 1/k of the rate, the next one 2/k, and so on, so that a peer
with a latency limit is not all errors. What is not tuned yet is left as documented, unless that alone is above the
rate: then it is at its loosest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.contest.contestants import Entry, Knob
from benchmarks.contest.intervals import Figure, rate

STEPS = 7

FalseRollbacks = Callable[[Mapping[str, float]], list[bool]]


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
    """`play`: whether each of some A/A runs was rolled back, with the given values."""
    values = documented(entry)
    if _rate(play(values)) > allowed:
        values = {knob.name: knob.loosest for knob in entry.knobs}
    for number, knob in enumerate(entry.knobs, 1):
        values[knob.name] = _strictest(knob, values, allowed * number / len(entry.knobs), play)
    return Tuned(
        contestant=entry.name, load=load, values=values, documented=documented(entry), false_rollback=rate(play(values))
    )


def _strictest(knob: Knob, values: Mapping[str, float], allowed: float, play: FalseRollbacks) -> float:
    lenient, strict = 0.0, 1.0
    for _ in range(STEPS):
        middle = (lenient + strict) / 2
        if _rate(play({**values, knob.name: knob.at(middle)})) <= allowed:
            lenient = middle
        else:
            strict = middle
    return knob.at(lenient)


def _rate(flags: list[bool]) -> float:
    return sum(flags) / len(flags)
