"""The shape of a scenario file: its keys, what each takes, its defaults."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from analysis.simulation.scenario import Habits, Kpi, Must, On, Traffic
from analysis.simulation.scenario import Shape as EffectShapes
from xds_server.mesh_model import GIVEN, KpisShape, Name, RolloutShape, SessionShape, Shape
from xds_server.units import NAME, TRUTH, WORDS, choice, duration, number, points, share

SEGMENTS = {
    "mobile": 0.20, "eu": 0.15, "newcomers": 0.10, "apac": 0.07, "business": 0.05, "power": 0.02, "staff": 0.01,
    "default": 0.40,
}  # fmt: skip
"""Segments of a file that names none, and their shares of the sessions."""

FEATURE = "wishlist"
"""The one feature that simulated people use."""

_SHARE = share("0%", "100%")
_TIMES = number(0, 1_000)
_WHEN = duration("0s", "400d")
_LONG = duration("1ms", "400d")
_LOAD = number(0.001, 100_000)


class HabitsShape(Shape):
    """What is left out is as in `people`, and there as in `Habits`."""

    requests: Annotated[float | None, number(2, 200)] = None
    abandoned: Annotated[float | None, _SHARE] = None
    errors: Annotated[float | None, _SHARE] = None
    errors_in_a_row: Annotated[float | None, number(1, 100)] = None
    feature: Annotated[float | None, _SHARE] = None
    latency: Annotated[float | None, duration("1ms", "10m")] = None
    latency_sigma: Annotated[float | None, number(0.01, 3)] = None
    visits: Annotated[float | None, number(1, 1_000)] = None
    again: Annotated[float | None, _LONG] = None
    think: Annotated[float | None, duration("1ms", "1h")] = None


class GroupShape(HabitsShape):
    share: Annotated[float, share("0.01%", "100%")]


class TrafficShape(Shape):
    daily: Annotated[float, share("0%", "99%")] = Traffic().daily
    peak: Annotated[float, _WHEN] = Traffic().peak_s
    spike_times: Annotated[float, number(0.01, 100)] = Traffic().spike_times
    spike_at: Annotated[float, _WHEN] = Traffic().spike_at_s
    spike: Annotated[float, _WHEN] = Traffic().spike_s
    bots: Annotated[float, share("0%", "90%")] = Traffic().bots
    bursts_per_h: Annotated[float, number(0, 3_600)] = Traffic().bursts_per_h
    burst: Annotated[float, duration("1ms", "10m")] = Traffic().burst_s
    unlucky: Annotated[float, share("0%", "50%")] = Traffic().unlucky
    unlucky_visits: Annotated[float, number(1, 1_000)] = Traffic().unlucky_visits
    drift_per_h: Annotated[float, number(-1, 100)] = Traffic().drift_per_h
    carry_over: Annotated[float, _SHARE] = Traffic().carry_over


class EffectShape(Shape):
    kpi: Annotated[str, choice(*Kpi)]
    on: Annotated[str, choice(*On)] = On.CANARY
    segment: Annotated[str | None, NAME] = None
    times: Annotated[float, _TIMES] = 1.0
    plus: Annotated[float, points("-100pp", "100pp")] = 0.0
    tail_times: Annotated[float, _TIMES] = 1.0
    at: Annotated[float, _WHEN] = 0.0
    until: Annotated[float | None, _WHEN] = None
    since: Annotated[str, choice("start", "exposure")] = "start"
    shape: Annotated[str, choice(*EffectShapes)] = EffectShapes.STEP
    over: Annotated[float | None, _LONG] = None
    period: Annotated[float | None, _LONG] = None
    active: Annotated[float | None, _LONG] = None
    above: Annotated[float | None, share("0%", "99%")] = None
    people: Annotated[float, share("0.01%", "100%")] = 1.0
    first_session: Annotated[bool, TRUTH] = False


class ScenarioShape(Shape):
    title: Annotated[str, WORDS]
    must: Annotated[str, choice(*Must)]
    held_out: Annotated[bool, TRUTH] = False
    loads: Annotated[list[Annotated[float, _LOAD]], Field(min_length=1)] = Field(default=[2.0, 20.0, 200.0])
    horizon: Annotated[float, duration("1m", "400d")] = 21_600.0
    moving_splits: Annotated[bool, TRUTH] = False
    segments: Annotated[dict[Name, GroupShape] | None, Field(min_length=1), GIVEN] = None
    people: HabitsShape = HabitsShape()
    traffic: TrafficShape = TrafficShape()
    effects: list[EffectShape] = Field(default_factory=list)
    session: SessionShape = SessionShape()
    kpis: KpisShape = KpisShape()
    rollout: RolloutShape = RolloutShape()


def habits(*shapes: HabitsShape) -> Habits:
    """Habits as the first of the shapes that says something has them, each key on its own."""
    given: dict[str, float] = {}
    for shape in reversed(shapes):
        given |= {key: value for key in HabitsShape.model_fields if (value := getattr(shape, key)) is not None}
    if "latency" in given:
        given["latency_ms"] = given.pop("latency") * 1_000
    for key in ("again", "think"):
        if key in given:
            given[f"{key}_s"] = given.pop(key)
    return Habits(**given)
