"""Latencies that people are shown of watched segments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.latencies import QUANTILES, WatchedLatencies
from analysis.sketch import Sketch
from analysis.window import Traffic, Window, empty


def _window(**durations_ms: list[float]) -> Window:
    """`s0v1=[...]`: requests of segment 0 to version 1."""
    traffic = {
        (int(name[1]), int(name[3])): Traffic(
            requests=len(values), errors=0, slow=0, duration=Sketch.of(np.array(values)), first_byte=Sketch()
        )
        for name, values in durations_ms.items()
    }
    return replace(empty(2, 1), traffic=traffic)


def test_requests_add_up_by_version_from_when_the_watch_begins_until_it_ends() -> None:
    latencies = WatchedLatencies()
    latencies.learn(_window(s0v0=[1.0]), {})
    assert latencies.view(0) is None
    latencies.learn(_window(s0v0=[10.0] * 3, s0v1=[20.0], s1v1=[99.0]), {0: (0, 1)})
    latencies.learn(_window(s0v0=[10.0], s0v2=[7.0]), {0: (0, 1)})
    latencies.learn(_window(s0v1=[float("nan")] * 5), {0: (0, 1)})
    view = latencies.view(0)
    assert view is not None
    assert (view.baseline_n, view.canary_n) == (4, 1)
    assert view.baseline_ms == pytest.approx([10.0] * len(QUANTILES), rel=0.01)
    assert view.canary_ms == pytest.approx([20.0] * len(QUANTILES), rel=0.01)
    assert latencies.view(1) is None
    latencies.learn(_window(), {})
    assert latencies.view(0) is None


def test_quantiles_tell_the_tail_from_the_middle_and_nothing_from_something() -> None:
    latencies = WatchedLatencies()
    latencies.learn(_window(s1v1=[*np.full(95, 10.0), *np.full(5, 900.0)]), {1: (0, 1)})
    view = latencies.view(1)
    assert view is not None
    assert view.canary_ms == pytest.approx([10.0, 10.0, 10.0, 900.0], rel=0.01)
    assert np.isnan(view.baseline_ms).all()
