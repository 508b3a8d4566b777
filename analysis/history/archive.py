"""A record of a deployment as bytes that last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from analysis.errors import RecordError, StateError
from analysis.history.record import PER_SEGMENT, Gauge, Label, RecordedDecision, RolloutRecord, Verdict
from analysis.profile.archive import DAMAGE, pack, unpack

KIND, FORMAT = "rollout record", 1
_ARRAYS = ("at_s", "n", "bad", *PER_SEGMENT)


def to_bytes(record: RolloutRecord) -> bytes:
    """The same record gives the same bytes."""
    header = {
        each.name: getattr(record, each.name)
        for each in fields(record)
        if each.name not in (*_ARRAYS, "gauges", "decisions", "label")
    }
    header |= {
        "attributes": dict(record.attributes),
        "outcome": dict(record.outcome),
        "gauges": [{"kpi": g.kpi, "segment": g.segment, "arm": g.arm, "source": g.source} for g in record.gauges],
        "decisions": [asdict(decision) for decision in record.decisions],
        "label": None if record.label is None else asdict(record.label),
    }
    arrays = {name: getattr(record, name) for name in _ARRAYS}
    for i, gauge in enumerate(record.gauges):
        arrays |= {f"gauge_{i}_at_s": gauge.at_s, f"gauge_{i}_value": gauge.value}
    return pack(KIND, FORMAT, header, arrays)


def from_bytes(data: bytes) -> RolloutRecord:
    """The record of `to_bytes`.

    Raises
    ------
    RecordError
        The data are damaged, half-written or of another version, or contradict each other.
    """
    try:
        head, arrays = unpack(data, KIND, FORMAT)
        del head["kind"], head["format"]
        gauges = tuple(
            Gauge(**about, at_s=arrays[f"gauge_{i}_at_s"], value=arrays[f"gauge_{i}_value"])
            for i, about in enumerate(head.pop("gauges"))
        )
        label, decisions = head.pop("label"), head.pop("decisions")
        _check_kinds(head, gauges, decisions, label)
        values: dict[str, Any] = {**head, "segments": tuple(head["segments"]), "kpis": tuple(head["kpis"])}
        for name in _ARRAYS:
            values[name] = arrays[name].astype(np.int64 if name in ("n", "bad") else np.float64)
        return RolloutRecord(
            **values,
            gauges=gauges,
            decisions=tuple(RecordedDecision(**decision) for decision in decisions),
            label=None if label is None else Label(**{**label, "verdict": Verdict(label["verdict"])}),
        )
    except StateError as error:
        raise RecordError(str(error)) from error
    except RecordError:
        raise
    except DAMAGE as error:
        raise RecordError(f"{KIND} cannot be read: {' '.join(repr(error).split())}") from error


def _check_kinds(
    head: Mapping[str, Any], gauges: Iterable[Gauge], decisions: Iterable[Mapping[str, Any]],
    label: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    """Raise TypeError where a text is none, or a number: JSON has either, and whoever sends a record may be anybody."""
    texts = [head["rollout"], head["service"], head["baseline"], head["canary"], *head["segments"], *head["kpis"]]
    texts += [text for gauge in gauges for text in (gauge.kpi, gauge.segment, gauge.source)]
    texts += [each[name] for each in decisions for name in ("segment", "verdict", "tier", "reason", "who")]
    texts += [] if label is None else [label["who"], label["reason"]]
    numbers = [head["started_unix_s"], head["interval_s"], *(gauge.arm for gauge in gauges)]
    numbers += [each[name] for each in decisions for name in ("at_s", "split_before_bp", "split_after_bp")]
    numbers += [value for value in head["attributes"].values() if not isinstance(value, str)]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")
    for number in numbers:
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise TypeError(f"{number!r} is no number")
