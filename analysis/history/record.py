"""One deployment as data: what was known of the release, what was seen of it tick by tick, and what came of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from analysis.decision import Phase, Tier
from analysis.errors import RecordError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Attribute = str | float

MOST_ATTRIBUTES = 50
LONGEST_ATTRIBUTE = 200  # characters of a name or a value
LARGEST_COUNT = 1 << 53  # above it a float does not hold every count
LATEST_UNIX_S = 253_402_300_800.0  # the year 10000, where calendars end

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class Verdict(StrEnum):
    """What an operator may say of a deployment afterwards."""

    BAD = "bad"
    GOOD = "good"
    UNKNOWN = "unknown"  # nobody can tell, whatever Serinus did


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What somebody says of a deployment: the verdict, who said so (may be empty) and why (may be empty)."""

    verdict: Verdict
    who: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDecision:
    """One decision, `at_s` seconds after the beginning. `segment` empty: the whole service. Splits in basis points.

    `verdict`: `decision.verdict_name`, or a person's order; `tier`: of a rollback, else empty; `who` empty: the engine.
    """

    at_s: float
    segment: str
    verdict: str
    tier: str
    split_before_bp: int
    split_after_bp: int
    reason: str
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gauge:
    """A series of values that are no counts of people: latency, memory, a success rate. In its own unit.

    `at_s`, `value` : (N,), N > 0, seconds after the beginning, rising; finite values
    `source` : which pod, edge or machine; may be empty
    """

    kpi: str
    segment: str
    arm: int
    at_s: Floats
    value: Floats
    source: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gauge) and _same(self, other)

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    def __post_init__(self) -> None:
        where = f"series {self.kpi!r} of segment {self.segment!r}"
        if self.at_s.shape != self.value.shape or self.at_s.ndim != 1 or not len(self.at_s):
            raise RecordError(f"{where}: {self.at_s.shape} times and {self.value.shape} values")
        if self.arm not in (0, 1):
            raise RecordError(f"{where}: arm {self.arm}; legal: 0 (baseline), 1 (canary)")
        if not (np.isfinite(self.at_s).all() and np.isfinite(self.value).all()):
            raise RecordError(f"{where}: times and values must be finite")
        if (np.diff(self.at_s) <= 0).any():
            raise RecordError(f"{where}: times must rise")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutRecord:
    """One deployment of one service. T ticks, S segments, K KPIs, two arms (`window.BASELINE`, `window.CANARY`).

    `started_unix_s` : when it began; `interval_s`: length of a tick in seconds, > 0
    `attributes` : what was known of the release before it had traffic, by name
    `segments`, `kpis` : names, in the order of the arrays' axes
    `at_s` : (T,) end of each tick in seconds after the beginning, rising; negative: before the change
    `n`, `bad` : (T, S, K, 2) people judged in that tick for the first time, and the bad ones, as `Window` has them; 0
    where nobody was, or nothing was recorded
    `exposed`, `arrived` : (T, S) sessions that began on the canary, and on either arm; NaN where not recorded
    `split_bp` : (T, S) the canary's share in force during that tick, in basis points; NaN where not recorded
    `suspicion` : (T, S) strongest evidence of harm as a share of what proves it, as after that tick; `log_e` : (T, S)
    the same as the natural logarithm of an e-value; NaN where not recorded
    `outcome` : segment to phase (`decision.Phase`) in the end; of a deployment that still runs, or was recorded
    elsewhere, possibly empty
    `label` : what an operator says; None: nothing yet

    Raises RecordError where shapes, counts or times contradict each other.
    """

    rollout: str
    service: str
    baseline: str
    canary: str
    started_unix_s: float
    interval_s: float
    segments: tuple[str, ...]
    kpis: tuple[str, ...]
    at_s: Floats
    n: Counts
    bad: Counts
    exposed: Floats
    arrived: Floats
    split_bp: Floats
    suspicion: Floats
    log_e: Floats
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    gauges: tuple[Gauge, ...] = ()
    decisions: tuple[RecordedDecision, ...] = ()
    outcome: Mapping[str, str] = field(default_factory=dict)
    label: Label | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RolloutRecord) and _same(self, other)

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    def __post_init__(self) -> None:
        where = f"rollout {self.rollout!r}"
        _check_shapes(where, self)
        _check_names(where, self)
        if not (math.isfinite(self.started_unix_s) and math.isfinite(self.interval_s) and self.interval_s > 0):
            raise RecordError(f"{where}: starts at {self.started_unix_s} with ticks of {self.interval_s} s")
        if not 0 <= self.started_unix_s < LATEST_UNIX_S:
            raise RecordError(
                f"{where}: starts at {self.started_unix_s:g}; legal: seconds since 1970, below {LATEST_UNIX_S:.0f}"
            )
        if not np.isfinite(self.at_s).all() or (np.diff(self.at_s) <= 0).any():
            raise RecordError(f"{where}: the ticks' times must be finite and rise")
        _check_counts(where, self)
        check_attributes(self.attributes)

    @property
    def ends_s(self) -> float:
        """The last tick's end in seconds after the beginning; 0 without any."""
        return float(self.at_s[-1]) if len(self.at_s) else 0.0


PER_SEGMENT = ("exposed", "arrived", "split_bp", "suspicion", "log_e")
"""Fields of a record by tick and segment."""


def _check_shapes(where: str, record: RolloutRecord) -> None:
    ticks, segments, kpis = len(record.at_s), len(record.segments), len(record.kpis)
    counts = (ticks, segments, kpis, 2)
    shapes = {"at_s": (ticks,), "n": counts, "bad": counts, **dict.fromkeys(PER_SEGMENT, (ticks, segments))}
    for name, shape in shapes.items():
        if getattr(record, name).shape != shape:
            raise RecordError(f"{where}: {name} has shape {getattr(record, name).shape}, not {shape}")
    if ticks and not segments:
        raise RecordError(f"{where}: {ticks} ticks of no segment")


def _check_names(where: str, record: RolloutRecord) -> None:
    if not record.rollout or not record.service:
        raise RecordError(f"{where} of service {record.service!r}: both must have a name")
    for kind, names in (("segments", record.segments), ("KPIs", record.kpis)):
        if len(set(names)) != len(names) or "" in names:
            raise RecordError(f"{where}: {kind} must have distinct names: {', '.join(map(repr, names))}")
    if wrong := sorted(set(record.outcome.values()) - set(Phase)):
        raise RecordError(f"{where}: outcome {wrong[0]!r}; legal: {', '.join(Phase)}")
    strange = {*record.outcome, *(gauge.segment for gauge in record.gauges)} - set(record.segments)
    if strange:
        raise RecordError(f"{where}: segment {min(strange)!r} is none of {', '.join(map(repr, record.segments))}")
    series = [(gauge.kpi, gauge.segment, gauge.arm, gauge.source) for gauge in record.gauges]
    if len(set(series)) != len(series):
        raise RecordError(f"{where}: two series of values of the same KPI, segment, arm and source")


def _check_counts(where: str, record: RolloutRecord) -> None:
    if (record.n < 0).any() or (record.bad < 0).any() or (record.bad > record.n).any():
        raise RecordError(f"{where}: counts must satisfy 0 <= bad <= n")
    for name in ("exposed", "arrived"):
        values = getattr(record, name)
        if (values < 0).any() or np.isinf(values).any() or (values % 1 > 0).any():
            raise RecordError(f"{where}: {name} must be counts, or NaN")
    if not np.array_equal(np.isnan(record.exposed), np.isnan(record.arrived)):
        raise RecordError(f"{where}: exposed and arrived must be recorded together")
    if (record.split_bp < 0).any() or (record.split_bp > 10_000).any():
        raise RecordError(f"{where}: splits must lie within 0 and 10000 basis points")
    if (record.exposed > record.arrived).any():
        raise RecordError(f"{where}: more sessions on the canary than on both versions")


def _same(one: object, other: object) -> bool:
    """Whether two records of the same class hold the same; NaN is like NaN."""
    for each in fields(one):  # type: ignore[arg-type]  # dataclasses only
        mine, theirs = getattr(one, each.name), getattr(other, each.name)
        if isinstance(mine, np.ndarray):
            if mine.shape != theirs.shape or not np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f"):
                return False
        elif isinstance(mine, Mapping):
            if dict(mine) != dict(theirs):
                return False
        elif mine != theirs:
            return False
    return True


def attribute(text: str) -> Attribute:
    """An attribute's value: what reads as a finite number is one."""
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else text


def check_attributes(attributes: Mapping[str, Attribute]) -> None:
    """Raise RecordError where there are too many attributes, or one has a wrong name or value."""
    if len(attributes) > MOST_ATTRIBUTES:
        raise RecordError(f"{len(attributes)} attributes; at most {MOST_ATTRIBUTES} are kept")
    for name, value in attributes.items():
        if len(name) > LONGEST_ATTRIBUTE or not _NAME.fullmatch(name):
            raise RecordError(
                f"attribute {name[:LONGEST_ATTRIBUTE]!r}: a name begins with a letter, goes on with letters, digits, "
                f"'_', '.' or '-', and has at most {LONGEST_ATTRIBUTE} characters"
            )
        if isinstance(value, str):
            if not 0 < len(value) <= LONGEST_ATTRIBUTE or not value.isprintable():
                raise RecordError(f"attribute {name}: 1 to {LONGEST_ATTRIBUTE} printable characters")
            if isinstance(attribute(value), float):
                raise RecordError(f"attribute {name}: {value!r} is a number, and not kept as a text")
        elif not math.isfinite(value):
            raise RecordError(f"attribute {name}: {value} is no finite number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether a deployment was bad. None: nobody knows. `who` empty: the outcome itself says so."""

    bad: bool | None
    who: str
    reason: str


SAID: Mapping[Verdict, bool | None] = MappingProxyType({Verdict.BAD: True, Verdict.GOOD: False, Verdict.UNKNOWN: None})
"""Whether a deployment was bad, by an operator's verdict; it outranks how it ended."""
_HARM = frozenset({str(Tier.HARD), str(Tier.PROVEN)})
"""Rollbacks that rest on harm which was seen. A predicted one rests on what did not come to pass: only an operator can
say what would have. One that a person ordered says nothing by itself."""


class Ending(Protocol):
    """A decision, as far as it tells how a deployment ended."""

    @property
    def segment(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def tier(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def who(self) -> str: ...


def label_of(record: RolloutRecord) -> Judgement:
    """What is known of a deployment: an operator's verdict, else what its end says (`judged`)."""
    if record.label is not None:
        return Judgement(bad=SAID[record.label.verdict], who=record.label.who, reason=record.label.reason)
    return judged(record.outcome, record.decisions)


def judged(outcome: Mapping[str, str], decisions: Iterable[Ending]) -> Judgement:
    """What the end of a deployment says by itself. `outcome`: segment to phase; `decisions`: that were carried out.

    Rolled back anywhere by harm that was seen is bad, whatever people did then; promoted wherever it took part, and
    nowhere by a person, is good. All else is unknown: withdrawn, predicted only, ended by a person, or not over.
    """
    told = tuple(decisions)
    for each in told:
        if each.verdict == "rollback" and each.tier in _HARM and not each.who:
            return Judgement(bad=True, who="", reason=f"{each.segment or 'everybody'} was rolled back: {each.reason}")
    phases = {phase for phase in outcome.values() if phase != Phase.PINNED}
    if phases != {Phase.PROMOTED}:
        return Judgement(bad=None, who="", reason="neither rolled back by harm nor promoted everywhere")
    if any(each.verdict == "promote" and each.who for each in told):
        return Judgement(bad=None, who="", reason="a person promoted it")
    return Judgement(bad=False, who="", reason="promoted everywhere")
