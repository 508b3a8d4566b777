"""The failure model as JSON: read by any version of the same format, and by people. Never code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.errors import StateError
from analysis.failure.columns import Column, Columns
from analysis.failure.model import FailureModel, FirstStage, Stage
from analysis.failure.training import Champion, Trained

Floats = npt.NDArray[np.float64]

FORMAT = 1
KIND = "failure"
MOST_COLUMNS = 500


def to_json(trained: Trained) -> str:
    """The artefact of a training, with the fingerprint of its data and its scores."""
    model = trained.model
    body = {
        "kind": KIND,
        "format": FORMAT,
        "fingerprint": trained.fingerprint,
        "until_s": trained.until_s,
        "scores": scores_of(trained),
        "releases": model.releases,
        "failures": model.failures,
        "rate": model.columns.rate,
        "columns": [asdict(column) for column in model.columns.columns],
        "before": _stage(model.before),
        "first_columns": [asdict(column) for column in model.first.columns],
        "first": _stage(model.first.stage),
    }
    return json.dumps(body, allow_nan=False)


def scores_of(trained: Trained) -> dict[str, Any]:
    """Scores and comparison as JSON-able values."""
    return {"before": asdict(trained.before), "after": asdict(trained.after), "comparison": asdict(trained.comparison)}


def _stage(stage: Stage) -> dict[str, object]:
    return {"coef": stage.coef.tolist(), "covariance": stage.covariance.tolist()}


def from_json(text: str | bytes) -> Champion:
    """The model of an artefact.

    Raises StateError, in one line, where it is of another kind or format, or damaged.
    """
    try:
        body = json.loads(text, parse_constant=_refuse)
        _require(body["kind"], body["format"])
        first = first_stage_from({"columns": body["first_columns"], **body["first"]})
        columns = Columns(columns=_columns(body["columns"]), rate=_within(body["rate"], 0.0, 1.0))
        model = FailureModel(
            columns=columns,
            before=_read_stage(body["before"], 1 + len(columns.columns)),
            first=first,
            releases=int(body["releases"]),
            failures=int(body["failures"]),
        )
        return Champion(model=model, until_s=float(body["until_s"]))
    except StateError:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise StateError(f"the artefact of a failure model cannot be read: {error!r}") from error


def _require(kind: object, number: object) -> None:
    if kind != KIND or number != FORMAT:
        raise StateError(f"artefact {kind!r} of format {number!r}; this version reads {KIND!r} of format {FORMAT}")


def first_stage_to(first: FirstStage) -> dict[str, object]:
    """What a running rollout keeps of the model that it began with, as JSON-able values."""
    return {"columns": [asdict(column) for column in first.columns], **_stage(first.stage)}


def first_stage_from(values: Mapping[str, Any]) -> FirstStage:
    """Read what `first_stage_to` gave. Raises ValueError, TypeError or KeyError where it is damaged."""
    columns = _columns(values["columns"])
    return FirstStage(columns=columns, stage=_read_stage(values, len(columns)))


def _columns(values: object) -> tuple[Column, ...]:
    if not isinstance(values, list) or len(values) > MOST_COLUMNS:
        raise ValueError(f"at most {MOST_COLUMNS} columns, as a list")
    columns = tuple(Column(**each) for each in values)
    for column in columns:
        _within(column.mean, -np.inf, np.inf)
        _within(column.sd, 0.0, np.inf)
        if not (isinstance(column.about, str) and isinstance(column.value, str)):
            raise TypeError(f"names of column {column.about!r} are no text")
    return columns


def _within(value: float, lower: float, upper: float) -> float:
    if not lower < float(value) < upper:
        raise ValueError(f"{value} is out of range; legal: between {lower} and {upper}")
    return float(value)


def _read_stage(values: Mapping[str, Any], n: int) -> Stage:
    coef = np.asarray(values["coef"], float).reshape(n)
    covariance = np.asarray(values["covariance"], float).reshape(n, n)
    if not (np.isfinite(coef).all() and np.isfinite(covariance).all()):
        raise ValueError("coefficients must be finite")
    return Stage(coef=coef, covariance=covariance)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")
