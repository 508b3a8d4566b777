"""Windows travel as protobuf and lose nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.sample import UNKNOWN
from analysis.spec import SegmentSpec, ServiceSpec
from analysis.window import Window, empty
from tests.unit.analysis.rows import small_spec
from tests.unit.analysis.test_window import traffic
from xds_server.errors import BadRequestError
from xds_server.pb import window_pb2 as pb
from xds_server.window_report import decode, encode

SPEC = small_spec()


def _window(seed: int, spec: ServiceSpec = SPEC) -> Window:
    rng = np.random.default_rng(seed)
    shape = empty(len(spec.segments), len(spec.kpis))
    arrays = {f.name: getattr(shape, f.name) for f in dataclasses.fields(shape)}
    counts = {n: rng.integers(0, 2**40, a.shape) for n, a in arrays.items() if isinstance(a, np.ndarray)}
    return dataclasses.replace(
        shape, **counts, newcomers=Counter({(0, 500, 1): 3, (1, 0, 0): 9}), entries=77,
        traffic={(0, 1): traffic(rng), (1, UNKNOWN): traffic(rng)},
    )  # fmt: skip


def _same(one: Window, other: Window) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


def _encode(window: Window, spec: ServiceSpec = SPEC) -> bytes:
    return encode(window, spec, start_unix_ns=1, end_unix_ns=2)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_read_is_what_was_written(seed: int) -> None:
    assert _same(decode(_encode(_window(seed)), SPEC), _window(seed))


def test_reports_of_parts_add_up_to_the_report_of_the_whole() -> None:
    one, other = _window(1), _window(2)
    assert _same(decode(_encode(one), SPEC) + decode(_encode(other), SPEC), one + other)


def test_counts_go_by_names_and_not_by_their_order() -> None:
    """The mesh file of who sends has the segments in another order, and one that is not known here."""
    theirs = small_spec(
        segments=(SegmentSpec(name="other"), SegmentSpec(name="power"), SegmentSpec(name="default")),
        kpis=SPEC.kpis[::-1], versions=("v2", "v1"),
    )  # fmt: skip
    sent = _window(3, theirs)
    read = decode(_encode(sent, theirs), SPEC)
    np.testing.assert_array_equal(read.exposed, sent.exposed[1:])
    np.testing.assert_array_equal(read.n, sent.n[1:, ::-1])
    assert read.newcomers == Counter({(0, 0, 0): 9})
    assert read.traffic[0, UNKNOWN] == sent.traffic[1, UNKNOWN]


def test_reports_that_fit_nothing_are_refused() -> None:
    for message in (b"\xff", _encode(_window(1), small_spec(name="cart"))):
        with pytest.raises(BadRequestError):
            decode(message, SPEC)
    report = pb.WindowReport.FromString(_encode(_window(1)))
    endless = pb.Traffic(segment="power", duration=pb.Sketch(counts=[1] * 5_000))
    beyond = pb.Newcomers(segment="power", asked_bp=10_001, n=1)
    for damage in ({"n": [1]}, {"exposed": [2**60, 0]}, {"traffic": [endless]}, {"newcomers": [beyond]}):
        damaged = pb.WindowReport()
        damaged.CopyFrom(report)
        for field, values in damage.items():
            damaged.ClearField(field)  # type: ignore[arg-type]
            getattr(damaged, field).extend(values)
        with pytest.raises(BadRequestError):
            decode(damaged.SerializeToString(), SPEC)


@settings(max_examples=200)
@given(st.binary(max_size=400), st.integers(0, 2**31))
def test_no_bytes_raise_anything_else(noise: bytes, at: int) -> None:
    message = _encode(_window(1))
    place = at % len(message)
    for each in (noise, message[:place] + noise + message[place:], message[:place]):
        try:
            decode(each, SPEC)
        except BadRequestError:
            continue
