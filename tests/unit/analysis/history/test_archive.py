"""A record as bytes, as anybody may send it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from analysis.errors import RecordError
from analysis.history import archive
from analysis.history.record import Label, RecordedDecision, Verdict
from analysis.profile import archive as pieces
from tests.deployments import deployment

DECISION = RecordedDecision(
    at_s=1.0, segment="", verdict="hold", tier="", split_before_bp=0, split_after_bp=0, reason=""
)  # fmt: skip
WHOLE = archive.to_bytes(deployment(decisions=(DECISION,), label=Label(verdict=Verdict.BAD)))


def rewritten(member: str, change: Callable[[bytes], bytes]) -> bytes:
    """The record with other content in one of its members, packed well."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name == member else old.read(name))
    return out.getvalue()


def told(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The record with another header."""

    def changed(head: bytes) -> bytes:
        values = json.loads(head)
        change(values)
        return json.dumps(values).encode()

    return rewritten("header.json", changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: head.update(rollout=None), "None is no text"),
        (lambda head: head.update(service=["shop"]), "is no text"),
        (lambda head: head.update(segments=["power", 7]), "7 is no text"),
        (lambda head: head.update(started_unix_s=True), "True is no number"),
        (lambda head: head["attributes"].update(lines=True), "True is no number"),
        (lambda head: head["decisions"][0].update(segment=None), "None is no text"),
        (lambda head: head["decisions"][0].update(at_s="soon"), "'soon' is no number"),
        (lambda head: head["label"].update(who=7), "7 is no text"),
    ],
)
def test_what_is_of_another_kind_is_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        archive.from_bytes(told(change))


def test_an_array_that_claims_more_than_there_is_is_a_line() -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**14,)})
    with pytest.raises(RecordError, match="cannot be read"):
        archive.from_bytes(rewritten("n.npy", lambda _: header.getvalue()))


def test_few_bytes_that_stand_for_many_are_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST_BYTES", 100_000)
    assert archive.from_bytes(WHOLE).rollout == deployment().rollout
    with pytest.raises(RecordError, match="bytes, inflated; legal: 100000 at most"):
        archive.from_bytes(rewritten("n.npy", lambda _: bytes(200_000)))
