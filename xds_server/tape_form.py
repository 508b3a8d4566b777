"""Events of a rollout's tape as bytes: a byte of format, then deflated JSON and, of a tick, its window's report."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, Final, TypeVar

from analysis.decision import Action, Insufficient, Order
from analysis.errors import SpecError
from analysis.evidence.log_loss import LogCheck, LogLoss
from analysis.forecast.exhaustion import Exhaustion
from analysis.spec import (
    HarmSpec,
    KpiKind,
    KpiSpec,
    Mode,
    Outcome,
    ResourceSpec,
    RolloutSpec,
    SegmentSpec,
    ServiceSpec,
    SessionSpec,
)
from analysis.tape import Adopted, Confirmed, Doubted, Event, Lost, Ordered, PutBack, Resumed, Said, Started, Ticked
from xds_server import window_report
from xds_server.errors import BadRequestError, HistoryError

FORMAT: Final = 2
"""First byte of every event. A change of what is in them raises it."""

MOST_BYTES: Final = 16 * 2**20  # of one event, inflated
_LENGTH: Final = 4  # bytes of how long the JSON is

_T = TypeVar("_T")
_KINDS: Final = {
    kind.__name__.lower(): kind
    for kind in (Started, Resumed, Adopted, Doubted, Confirmed, PutBack, Ordered, Ticked, Lost)
}


def kind_of(event: Event) -> str:
    return type(event).__name__.lower()


def encode(event: Event, spec: ServiceSpec | None) -> bytes:
    """The bytes of an event of a rollout; `spec`: its specification, which only ticks need."""
    window = b""
    match event:
        case Started():
            body = {**_plain(event), "spec": _spec_body(event.spec)}
        case Ordered(order=order):
            body = {**_plain(event), "order": asdict(order), "digest": event.digest.hex()}
        case Ticked(logs=logs, exhaustion=exhaustion):
            if spec is None:
                raise HistoryError("a tick without a specification")
            body = {**_plain(event), "logs": _logs_body(logs), "digest": event.digest.hex()}
            body["said"] = [
                [each.verdict, each.phase, each.split_before_bp, each.split_after_bp] for each in event.said
            ]
            body["exhaustion"] = None if exhaustion is None else asdict(exhaustion)
            del body["window"]
            window = window_report.encode(event.window, spec, start_unix_ns=event.at_ns, end_unix_ns=event.at_ns)
        case _:
            body = _plain(event)
    text = json.dumps(body, separators=(",", ":")).encode()
    return bytes([FORMAT]) + zlib.compress(len(text).to_bytes(_LENGTH, "big") + text + window)


def _plain(event: Event) -> dict[str, Any]:
    return {each.name: getattr(event, each.name) for each in fields(event)}


def _spec_body(spec: ServiceSpec) -> dict[str, Any]:
    body = asdict(spec)
    body["rollout"]["harm"]["bad"] = sorted(body["rollout"]["harm"]["bad"])
    return body


def _logs_body(logs: LogCheck) -> dict[str, Any]:
    return {
        "total": _loss_body(logs.total),
        "versions": {version: _loss_body(loss) for version, loss in logs.versions.items()},
        "nodes": logs.nodes,
    }


def _loss_body(loss: LogLoss | Insufficient) -> dict[str, Any]:
    return {"known": isinstance(loss, LogLoss), **asdict(loss)}


def decode(kind: str, data: bytes, spec: ServiceSpec | None) -> Event:
    """The event; `spec`: that of the last `Started`.

    Raises
    ------
    HistoryError
        The event is damaged, half-written, or of another version.
    """
    if kind not in _KINDS:
        raise HistoryError(f"event {kind[:40]!r} is none that this version knows")
    if data[:1] != bytes([FORMAT]):
        raise HistoryError(f"event {kind} has format {data[0] if data else 'none'}; this version reads {FORMAT}")
    try:
        body, window = _opened(data[1:])
        return _event(kind, body, window, spec)
    except (
        AttributeError, BadRequestError, KeyError, OverflowError, RecursionError, SpecError, TypeError, ValueError,
        zlib.error,
    ) as error:  # fmt: skip
        raise HistoryError(f"event {kind} is damaged: {' '.join(repr(error).split())}") from error


def _opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    stream = zlib.decompressobj()
    plain = stream.decompress(data, MOST_BYTES)
    if not stream.eof:
        raise ValueError("cut off, or too long")
    length = int.from_bytes(plain[:_LENGTH], "big")
    return json.loads(plain[_LENGTH : _LENGTH + length]), plain[_LENGTH + length :]


def _event(kind: str, body: dict[str, Any], window: bytes, spec: ServiceSpec | None) -> Event:
    if kind == "started":
        arms = {name: (str(pair[0]), str(pair[1])) for name, pair in body["arms"].items()}
        return _made(Started, {**body, "arms": arms, "spec": _spec(body["spec"])})
    if kind == "ordered":
        order = _made(Order, {**body["order"], "action": Action(body["order"]["action"])})
        return _made(Ordered, {**body, "order": order, "digest": bytes.fromhex(body["digest"])})
    if kind == "putback":
        return _made(PutBack, {**body, "segments": tuple(body["segments"])})
    if kind == "ticked":
        if spec is None:
            raise HistoryError("a tick before the rollout's beginning")
        said = tuple(
            Said(verdict=verdict, phase=phase, split_before_bp=int(before), split_after_bp=int(after))
            for verdict, phase, before, after in body["said"]
        )
        values = {
            **body, "window": window_report.decode(window, spec), "logs": _logs(body["logs"]), "said": said,
            "suspicion": tuple(body["suspicion"]), "log_e": tuple(body["log_e"]),
            "digest": bytes.fromhex(body["digest"]),
            "exhaustion": None if body["exhaustion"] is None else _made(Exhaustion, body["exhaustion"]),
        }  # fmt: skip
        return _made(Ticked, values)
    make: Callable[..., Event] = _KINDS[kind]
    return _made(make, body)


def _made(make: Callable[..., _T], values: Mapping[str, Any]) -> _T:
    """Exactly the fields that there are: fewer or more are of another version."""
    known = {each.name for each in fields(make)}  # type: ignore[arg-type]  # dataclasses only
    if known != values.keys():
        odd = sorted(known ^ values.keys())
        raise HistoryError(
            f"{make.__name__.lower()} was recorded by another version of Serinus: "
            f"{odd[0]!r} is {'missing' if odd[0] in known else 'not known here'}"
        )
    return make(**values)


def _spec(body: Mapping[str, Any]) -> ServiceSpec:
    harm = {**body["rollout"]["harm"], "bad": frozenset(map(Outcome, body["rollout"]["harm"]["bad"]))}
    rollout = {**body["rollout"], "mode": Mode(body["rollout"]["mode"]), "harm": _made(HarmSpec, harm)}
    segments = (_made(SegmentSpec, {**each, "after": tuple(each["after"])}) for each in body["segments"])
    kpis = (_made(KpiSpec, {**each, "kind": KpiKind(each["kind"])}) for each in body["kpis"])
    resources = tuple(_made(ResourceSpec, each) for each in body["resources"])
    return _made(
        ServiceSpec,
        {
            **body, "versions": tuple(body["versions"]), "segments": tuple(segments), "kpis": tuple(kpis),
            "session": _made(SessionSpec, body["session"]), "rollout": _made(RolloutSpec, rollout),
            "resources": resources,
        },
    )  # fmt: skip


def _logs(body: Mapping[str, Any]) -> LogCheck:
    versions = {version: _loss(loss) for version, loss in body["versions"].items()}
    return _made(LogCheck, {**body, "total": _loss(body["total"]), "versions": versions})


def _loss(body: Mapping[str, Any]) -> LogLoss | Insufficient:
    values = {name: value for name, value in body.items() if name != "known"}
    return _made(LogLoss, values) if body["known"] else _made(Insufficient, values)
