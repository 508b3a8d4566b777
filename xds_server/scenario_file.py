"""A scenario file, read and checked: YAML in; people, truth and the service that is played out; mistakes as lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from analysis.simulation.scenario import Effect, Group, Kpi, Must, On, Scenario, Traffic
from analysis.simulation.scenario import Shape as EffectShapes
from analysis.spec import DEFAULT_SEGMENT, ServiceSpec
from xds_server.mesh_build import service_spec
from xds_server.mesh_checks import check_kpis
from xds_server.mesh_file import KeyPath, MeshError, Source, first_of, parse_source, read_source
from xds_server.mesh_model import FeatureShape, IdentityShape, SegmentShape, ServiceShape, VersionShape
from xds_server.scenario_model import FEATURE, SEGMENTS, EffectShape, GroupShape, ScenarioShape, habits
from xds_server.shape_reader import read_shape
from xds_server.units import nearest, show

__all__ = ["MeshError", "ScenarioFile", "load_scenario", "parse_scenario"]

EXPECTED = f"a YAML mapping with title, must (both required), {', '.join(list(ScenarioShape.model_fields)[2:])}"
SERVICE, BASELINE, CANARY = "shop", "v1", "v2"
MAX_ROUNDING = 1e-6  # of shares that have to add up to 1

_BELONGS = {
    "over": ("shape", EffectShapes.RAMP), "period": ("shape", EffectShapes.PERIODIC),
    "active": ("shape", EffectShapes.PERIODIC), "above": ("shape", EffectShapes.LOAD),
    "tail_times": ("kpi", Kpi.LATENCY),
}  # fmt: skip
"""Keys of an effect that do something only where another key has this value."""
_NEEDS = {EffectShapes.RAMP: ("over",), EffectShapes.PERIODIC: ("period", "active")}
_IN_PAIRS = {"peak": "daily", "spike_at": "spike_times", "spike": "spike_times", "spike_times": "spike",
             "burst": "bursts_per_h", "unlucky_visits": "unlucky"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioFile:
    """What a scenario file says: the truth, and the service that is rolled out in it, as a mesh file would have it."""

    scenario: Scenario
    spec: ServiceSpec


def load_scenario(path: Path) -> ScenarioFile:
    """Read the scenario in the file at `path`; its name is the file's.

    Raises
    ------
    MeshError
        The file cannot be read, or anything in it is wrong; it holds one line for each problem.
    """
    return parse_scenario(read_source(path, EXPECTED), str(path))


def parse_scenario(text: str, source: str) -> ScenarioFile:
    """Read the scenario in `text`; `source` is the file's name, in messages too.

    Raises
    ------
    MeshError
        Anything in it is wrong; it holds one line for each problem.
    """
    read = parse_source(text, source, EXPECTED)
    shape = read_shape(read, ScenarioShape)
    check_kpis(read, ())
    _check_segments(read, shape)
    _check_pairs(read)
    for i, effect in enumerate(shape.effects if shape else ()):
        _check_effect(read, ("effects", i), effect)
    _check_features(read)
    if read.problems or shape is None:
        raise MeshError(read.problems)
    return ScenarioFile(scenario=_scenario(Path(source).stem, shape), spec=_spec(shape))


# -- checks of what a shape alone does not say ------------------------------------------------------------------------


def _check_segments(source: Source, shape: ScenarioShape | None) -> None:
    path = ("segments",)
    if shape is not None and shape.segments is not None:
        if DEFAULT_SEGMENT not in shape.segments:
            source.report(path, f"{DEFAULT_SEGMENT} is missing", "the segment of everybody else, and others", value="")
        total = math.fsum(group.share for group in shape.segments.values())
        if abs(total - 1) > MAX_ROUNDING:
            source.report(path, f"the shares add up to {total:.6%}", "shares that add up to 100%", value="")
    names = list(SEGMENTS if "segments" not in source.mapping(()) else source.mapping(path))
    for where, _ in source.items(("effects",)):
        name = source.value((*where, "segment"))
        if isinstance(name, str) and source.sound((*where, "segment")) and name not in names:
            source.report((*where, "segment"), "unknown segment", first_of(names), hint=nearest(name, names))


def _check_pairs(source: Source) -> None:
    """A key that does nothing without another one is a mistake."""
    given = source.mapping(("traffic",))
    for key, other in _IN_PAIRS.items():
        if key in given and other not in given:
            source.report(("traffic", key), f"does nothing without {other}", f"{other} with it", value="")


def _check_effect(source: Source, path: KeyPath, effect: EffectShape) -> None:
    given = source.mapping(path)
    for key, (other, word) in _BELONGS.items():
        if key in given and getattr(effect, other) != word:
            source.report((*path, key), f"does nothing without {other}: {word}", f"{other}: {word} with it", value="")
    for key in _NEEDS.get(EffectShapes(effect.shape), ()):
        if key not in given:
            source.report((*path, "shape"), f"{key} is missing", f"{key} with it")
    if effect.period is not None and effect.active is not None and effect.active >= effect.period:
        source.report((*path, "active"), "not shorter than the period", f"below {show(str(given['period']))}")
    if effect.until is not None and effect.until <= effect.at:
        source.report((*path, "until"), "not after `at`", "a later time")
    if effect.kpi == Kpi.LATENCY and "plus" in given:
        source.report((*path, "plus"), "a latency grows by a factor", "times, tail_times", value="")
    if effect.on == On.BOTH:
        _check_of_both(source, path, effect)
    if not {"times", "plus", "tail_times"} & given.keys():
        source.report(path, "changes nothing", "one or more of times, plus, tail_times", value="")


def _check_of_both(source: Source, path: KeyPath, effect: EffectShape) -> None:
    """What only the canary can have."""
    if effect.kpi == Kpi.ROUTING:
        source.report((*path, "on"), "only the canary's people are routed to the canary", str(On.CANARY))
    if effect.since == "exposure":
        source.report((*path, "since"), "the baseline is not exposed to anything", "start, or on: canary with it")
    if effect.first_session:
        source.report((*path, "first_session"), "it is the first one on the canary", "on: canary with it")
    if effect.shape == EffectShapes.LOAD:
        source.report((*path, "shape"), "it is the canary's load", "on: canary with it")


def _check_features(source: Source) -> None:
    path = ("kpis", "features")
    for name in source.mapping(path):
        if name != FEATURE:
            source.report((*path, name), "simulated people do not use it", FEATURE, value="")


# -- what is built ----------------------------------------------------------------------------------------------------


def _scenario(name: str, shape: ScenarioShape) -> Scenario:
    segments = _segments(shape)
    t = shape.traffic
    return Scenario(
        name=name, title=shape.title, must=Must(shape.must), held_out=shape.held_out, loads=tuple(shape.loads),
        horizon_s=shape.horizon, moving_splits=shape.moving_splits,
        groups=tuple(
            Group(name=segment, share=group.share, habits=habits(group, shape.people))
            for segment, group in segments.items()
        ),
        effects=tuple(_effect(effect) for effect in shape.effects),
        traffic=Traffic(
            daily=t.daily, peak_s=t.peak, spike_times=t.spike_times, spike_at_s=t.spike_at, spike_s=t.spike,
            bots=t.bots, bursts_per_h=t.bursts_per_h, burst_s=t.burst,
            unlucky=t.unlucky, unlucky_visits=t.unlucky_visits, drift_per_h=t.drift_per_h, carry_over=t.carry_over,
        ),
    )  # fmt: skip


def _segments(shape: ScenarioShape) -> dict[str, GroupShape]:
    """In the order in which they are matched: the default one is the last."""
    given = shape.segments or {name: GroupShape.model_construct(share=share) for name, share in SEGMENTS.items()}
    return {**{k: v for k, v in given.items() if k != DEFAULT_SEGMENT}, DEFAULT_SEGMENT: given[DEFAULT_SEGMENT]}


def _effect(shape: EffectShape) -> Effect:
    return Effect(
        kpi=Kpi(shape.kpi), on=On(shape.on), segment=shape.segment, times=shape.times, plus=shape.plus,
        tail_times=shape.tail_times, at_s=shape.at, until_s=math.inf if shape.until is None else shape.until,
        since_exposure=shape.since == "exposure", shape=EffectShapes(shape.shape), over_s=shape.over or 0.0,
        period_s=shape.period or 0.0, active_s=shape.active or 0.0, above=shape.above or 0.0, people=shape.people,
        first_session=shape.first_session,
    )  # fmt: skip


def _spec(shape: ScenarioShape) -> ServiceSpec:
    """The service as if a mesh file had it: what the scenario does not say is the shipped default."""
    kpis = shape.kpis
    if "features" not in kpis.model_fields_set:
        kpis = kpis.model_copy(update={"features": {FEATURE: FeatureShape()}})
    names = [name for name in _segments(shape) if name != DEFAULT_SEGMENT]
    version = VersionShape.model_construct(endpoints=[("127.0.0.1", 8080)])
    service = ServiceShape.model_construct(
        domains=["shop.example"], port=80, identity=[IdentityShape(header="x-user")],
        versions=dict.fromkeys((BASELINE, CANARY), version), baseline=BASELINE,
        segments={name: SegmentShape() for name in names}, session=shape.session, kpis=kpis, rollout=shape.rollout,
    )  # fmt: skip
    return service_spec(SERVICE, service)
