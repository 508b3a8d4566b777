"""`serinus validate --power`: how the traffic of a plan is told, and how its check is shown."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from analysis.power.detection import Detection, Effect, Traffic
from analysis.power.plan import Plan, check_plan
from analysis.spec import KpiKind, KpiSpec, ServiceSpec
from xds_server.mesh import Mesh
from xds_server.units import WrongValueError
from xds_server.units import share as read_share

ASSUMED_BASE: Final = {
    KpiKind.ERROR_RATE: 0.005,
    KpiKind.LATENCY: 0.05,  # what a threshold frozen from the baseline's 95th percentile leaves
    KpiKind.ABANDONMENT: 0.3,
    KpiKind.FEATURE: 0.5,
    KpiKind.ANOMALY: 0.05,
}
MIN_SEEN_S: Final = 60.0  # of a running control plane, before its people are taken for a rate
MIN_JUDGED: Final = 200  # baseline sessions, before their share of bad ones is taken for a base rate
_EDGE: Final = 1e-4  # base rates are kept off 0 and 1, where nothing can be said of an excess
_LONG_S: Final = 365 * 86_400.0


@dataclass(slots=True, kw_only=True)
class Told:
    """What is known of one service's traffic; None, or no entry: not told. Shares in [0, 1]."""

    sessions_per_s: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    bases: dict[tuple[str, str], float] = field(default_factory=dict)  # segment, or '' for all, and KPI


def check_plans(
    mesh: Mesh, *, rates: Sequence[str], shares: Sequence[str], bases: Sequence[str], server: str | None
) -> list[Plan]:
    """Check the plans of all services whose traffic is known. Raises BadParameter; ServerError."""
    specs = {service.name: service.spec for service in mesh.services.values()}
    told = {name: Told() for name in specs}
    if server is not None:
        _ask(server, specs, told)
    _take_rates(rates, told)
    _take_shares(shares, specs, told)
    _take_bases(bases, specs, told)
    known = {name: each for name, each in told.items() if each.sessions_per_s is not None}
    if not known:
        raise typer.BadParameter("--power needs the traffic: --rate SESSIONS_PER_SECOND, or --server HOST:PORT")
    for name in sorted(told.keys() - known.keys()):
        typer.echo(f"serinus: {name}: no traffic is known, its plan is not checked; --rate {name}=N", err=True)
    for name, each in known.items():
        if assumed := _assumed(specs[name], each):
            typer.echo(f"serinus: {name}: base rates assumed: {assumed}; --base KPI=SHARE", err=True)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        return [_check(specs[name], each, progress) for name, each in known.items()]


def _check(spec: ServiceSpec, told: Told, progress: Progress) -> Plan:
    task = progress.add_task(f"good releases of {spec.name}", total=1.0)
    return check_plan(spec, traffic_of(spec, told), progress=lambda done: progress.update(task, completed=done))


def traffic_of(spec: ServiceSpec, told: Told) -> Traffic:
    """Fill in what was not told: segments share equally what is left, and base rates are ASSUMED_BASE."""
    names = [segment.name for segment in spec.segments]
    silent = [name for name in names if name not in told.shares]
    left = 1 - sum(told.shares.values())
    if left < -1e-9 or (not silent and left > 1e-9):
        raise typer.BadParameter(
            f"{spec.name}: shares add up to {1 - left:.4g}; legal: at most 1, and 1 if every segment has one",
            param_hint="--share",
        )
    shares = [told.shares.get(name, max(left, 0.0) / max(len(silent), 1)) for name in names]
    rate = told.sessions_per_s or 0.0
    return Traffic(
        sessions_per_s=tuple(rate * share for share in shares),
        base=tuple(tuple(_base(told, name, kpi) for kpi in spec.kpis) for name in names),
    )


def _assumed(spec: ServiceSpec, told: Told) -> str:
    """KPIs of which some segment has no base rate but the assumed one, with it."""
    names = [segment.name for segment in spec.segments]
    return ", ".join(
        f"{kpi.name} {ASSUMED_BASE[kpi.kind]:g}"
        for kpi in spec.kpis
        if ("", kpi.name) not in told.bases and not all((name, kpi.name) in told.bases for name in names)
    )


def _base(told: Told, segment: str, kpi: KpiSpec) -> float:
    everywhere = told.bases.get(("", kpi.name), ASSUMED_BASE[kpi.kind])
    return min(max(told.bases.get((segment, kpi.name), everywhere), _EDGE), 1 - _EDGE)


# -- what is told on the command line ---------------------------------------------------------------------------------


def _take_rates(texts: Iterable[str], told: Mapping[str, Told]) -> None:
    for text in texts:
        service, _, number = text.rpartition("=")
        rate = _number(number, text)
        for name in _services(service, told, "--rate"):
            told[name].sessions_per_s = rate


def _take_shares(texts: Iterable[str], specs: Mapping[str, ServiceSpec], told: Mapping[str, Told]) -> None:
    outranked: set[str] = set()
    for text in texts:
        where, value = _split(text, "--share", "[SERVICE/]SEGMENT=SHARE", most=2)
        names = _services(where[0] if len(where) > 1 else "", told, "--share")
        fitting = [name for name in names if where[-1] in specs[name].segment_index]
        _require(fitting, where[-1], [s for name in names for s in specs[name].segment_index], "--share")
        for name in fitting:
            if name not in outranked:  # shares that were seen would not add up with those that are told
                told[name].shares.clear()
                outranked.add(name)
            told[name].shares[where[-1]] = value


def _take_bases(texts: Iterable[str], specs: Mapping[str, ServiceSpec], told: Mapping[str, Told]) -> None:
    for text in texts:
        where, value = _split(text, "--base", "[[SERVICE/]SEGMENT/]KPI=SHARE", most=3)
        names = _services(where[0] if len(where) > 2 else "", told, "--base")
        segment = where[-2] if len(where) > 1 else ""
        if segment:
            names = [name for name in names if segment in specs[name].segment_index]
            _require(names, segment, [s for spec in specs.values() for s in spec.segment_index], "--base")
        fitting = [name for name in names if any(kpi.name == where[-1] for kpi in specs[name].kpis)]
        _require(fitting, where[-1], [kpi.name for name in names for kpi in specs[name].kpis], "--base")
        for name in fitting:
            told[name].bases[segment, where[-1]] = value


def _split(text: str, option: str, form: str, *, most: int) -> tuple[list[str], float]:
    where, equals, value = text.rpartition("=")
    parts = where.split("/")
    if not equals or not all(parts) or len(parts) > most:
        raise typer.BadParameter(f"'{text}' is not {form}", param_hint=option)
    reader = read_share("0%", "100%")
    try:
        return parts, float(str(reader(value)))
    except WrongValueError as wrong:
        raise typer.BadParameter(f"'{text}': {wrong.message}; legal: {wrong.legal}", param_hint=option) from None


def _number(text: str, whole: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate <= 1e6:
        raise typer.BadParameter(
            f"'{whole}' is not a number of sessions a second; legal: above 0, at most 1,000,000", param_hint="--rate"
        )
    return rate


def _services(name: str, told: Mapping[str, Told], option: str) -> list[str]:
    if not name:
        return list(told)
    _require([name] if name in told else [], name, told, option)
    return [name]


def _require(found: Sequence[str], name: str, legal: Iterable[str], option: str) -> None:
    if not found:
        raise typer.BadParameter(f"unknown {name!r}; legal: {', '.join(dict.fromkeys(legal))}", param_hint=option)


# -- what a running control plane has seen ----------------------------------------------------------------------------


def _ask(server: str, specs: Mapping[str, ServiceSpec], told: Mapping[str, Told]) -> None:
    """Take people seen in the last minutes for sessions, and the newest rollout's baseline for base rates."""
    from xds_server.client import connected
    from xds_server.pb import control_pb2 as pb

    with connected(server) as client:
        status = client.call("GetStatus", pb.GetStatusRequest())
    for service in status.services:
        if service.service in specs:
            take_status(service, specs[service.service], told[service.service])


def take_status(service: Any, spec: ServiceSpec, told: Told) -> None:
    """Take from a service's status (a message) what it tells; too little to go by tells nothing."""
    here = [segment for segment in service.segments if segment.segment in spec.segment_index]
    people = sum(segment.seen_people for segment in here)
    if service.seen_s >= MIN_SEEN_S and people:
        told.sessions_per_s = people / service.seen_s
        told.shares = {segment.segment: segment.seen_people / people for segment in here}
    for segment in here:
        for kpi in segment.kpis:
            if kpi.baseline_n >= MIN_JUDGED:
                told.bases[segment.segment, kpi.kpi] = kpi.baseline


# -- how it is shown --------------------------------------------------------------------------------------------------


def plans_json(plans: Iterable[Plan]) -> list[Any]:
    """Every field of the plans, by name; what is infinite is null."""
    return [_plain(asdict(plan)) for plan in plans]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def show_plans(plans: Iterable[Plan]) -> None:
    """Print what the plans can find."""
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 180)
    for plan in plans:
        console.print(_view(plan))


def _view(plan: Plan) -> RenderableType:
    table = Table(
        title=f"{plan.service}: the smallest excess found in half of the releases that have it, and times to proof",
        title_justify="left",
        expand=False,
    )
    names = [effect.name for effect in plan.detections[0].effects]
    for name in ("segment", "KPI", "base", "accepted", "split", "30 min", "2 h", "24 h", *names):
        table.add_column(name, justify="left" if name in ("segment", "KPI") else "right")
    for row in plan.detections:
        table.add_row(*_cells(row, names))
    return Group(table, *map(Text, _lines(plan)), *(Text(f"warning: {line}", "yellow") for line in plan.warnings))


def _cells(row: Detection, names: Sequence[str]) -> Iterable[str]:
    yield row.segment
    yield row.kpi
    yield f"{row.base:.2%}"
    yield f"{100 * row.tolerance:g} pp"
    yield f"{row.split:.0%}"
    yield from ("–" if excess is None else f"+{100 * excess:.2g} pp" for excess in row.smallest)
    effects = {effect.name: effect for effect in row.effects}
    yield from (_effect(effects.get(name)) for name in names)


def _effect(effect: Effect | None) -> str:
    if effect is None or effect.excess is None:
        return "–"
    if effect.accepted:
        return "accepted"
    return "never" if effect.median_s is None or effect.median_s > _LONG_S else _time(effect.median_s)


def _lines(plan: Plan) -> Iterable[str]:
    yield f"a release within its tolerances is rolled back on proof with a chance of at most {plan.false_rollback:.2%}"
    for need in plan.health:
        when = "never" if need.seconds is None else f"in {_time(need.seconds)}"
        yield (
            f"{need.segment}: a good canary is known to be healthy after {need.sessions:,.0f} sessions at "
            f"{need.split:.0%}, {when} (most for {need.what})"
        )
    for good in plan.good.segments if plan.good is not None else ():
        median = "" if good.promoted_s is None else f", the median in {_time(good.promoted_s)}"
        yield (
            f"{good.segment}: of {good.runs} simulated good releases {good.promoted} came to 100 % within "
            f"{_time(good.played_s)}{median}; {good.undecided} undecided, {good.withdrawn} withdrawn, "
            f"{good.rolled_back} rolled back"
        )
    budget = plan.budget
    yield (
        f"harm.budget {budget.budget:g} at {budget.base:.2%} bad sessions: not to freeze takes "
        f"{budget.needed_not_to_freeze:.3g}, to begin {budget.needed_to_begin:.3g}"
    )


def _time(seconds: float) -> str:
    for unit, name in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"
