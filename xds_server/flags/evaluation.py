"""A service as a flag: its variants are its versions, and whoever asks is told the one that Envoy sends them to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from analysis.spec import DEFAULT_SEGMENT, TOTAL_BP
from xds_server import assign
from xds_server.flags.context import Context, ErrorCode, FlagError, missing_key
from xds_server.flags.held import Hold
from xds_server.matching import UnknownTraitError, segment_of
from xds_server.mesh import SegmentSplit, Service, ServiceSplits
from xds_server.resources.routes import split_of

Told = tuple[Service, ServiceSplits]


class Reason(StrEnum):
    """OpenFeature's words for why somebody gets a version."""

    STATIC = "STATIC"  # everybody gets it, whoever they are
    DEFAULT = "DEFAULT"  # everybody gets it who matches no segment
    TARGETING_MATCH = "TARGETING_MATCH"  # everybody in their segment gets it
    SPLIT = "SPLIT"  # by their bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One person's version of one service. `metadata`: rollout, segment, generation, bucket, split_bp."""

    flag: str
    version: str
    reason: Reason
    metadata: Mapping[str, str | int]


@dataclass(slots=True)
class Flags:
    """Evaluates. Nothing of it waits.

    `told`: a service and the splits that its people are told, None for one that is not there; `names`: all services;
    `learned`: from service and sticky key to the learned segment that the person is in, empty for none.
    `answers`: how many evaluations, by reason or error.
    """

    told: Callable[[str], Told | None]
    names: Callable[[], Iterable[str]]
    learned: Callable[[str, bytes], str]
    now_s: Callable[[], float] = time.time
    answers: Counter[str] = field(default_factory=Counter)
    _holds: dict[str, tuple[Service, Hold | None]] = field(default_factory=dict)

    def evaluate(self, flag: str, context: Context, *, is_proven: bool = True) -> Evaluation:
        """Return what Envoy does with this person now.

        `is_proven`: whether the person is known to be who the key says; else nothing is told of whom learned segments
        have. Raises FlagError; among others where a segment asks for what the context leaves open, for a guess might
        differ from what Envoy does.
        """
        try:
            found = self._evaluate(flag, context, is_proven=is_proven)
        except FlagError as error:
            self.answers[error.code] += 1
            raise
        self.answers[found.reason] += 1
        return found

    def _evaluate(self, flag: str, context: Context, *, is_proven: bool) -> Evaluation:
        told = self.told(flag)
        if told is None:
            raise FlagError(ErrorCode.FLAG_NOT_FOUND, f"{flag[:60]!r} is no service of the mesh")
        if context.key is None:
            raise missing_key()
        service, splits = told
        only = only_version(service, splits)
        segment = "" if only is not None else self._segment(service, context, context.key, is_proven=is_proven)
        place = assign.bucket(splits.rollout, context.key)
        metadata: dict[str, str | int] = {"generation": splits.generation}
        if splits.rollout:
            metadata |= {"rollout": splits.rollout, "bucket": place}
        if only is not None:
            return Evaluation(flag=flag, version=only, reason=Reason.STATIC, metadata=metadata)
        split = split_in(service, segment, splits)
        version = assign.version_for(split, place)
        metadata |= {"segment": segment, "split_bp": split.canary_bp if split.canary is not None else 0}
        return Evaluation(flag=flag, version=version, reason=_reason(segment, split), metadata=metadata)

    def _segment(self, service: Service, context: Context, key: str, *, is_proven: bool) -> str:
        def learned() -> str:
            if not is_proven:
                raise FlagError(ErrorCode.GENERAL, "who is in a learned segment is told to that person's cookie alone")
            return self.learned(service.name, key.encode("utf-8", "surrogateescape"))

        hold = self._hold(service)
        try:
            declared = segment_of(service, context.traits, learned)
        except UnknownTraitError as unknown:
            raise _left_open(service, str(unknown)) from unknown
        if hold is None:
            return declared
        if context.jar is None:
            raise _left_open(service, "cookies")
        return hold.segment(declared, context.jar, key, self.now_s())

    def _hold(self, service: Service) -> Hold | None:
        """How a service holds people, made anew where it is another one."""
        known = self._holds.get(service.name)
        if known is None or known[0] is not service:
            self._holds = {name: each for name, each in self._holds.items() if self.told(name) is not None}
            self._holds[service.name] = known = (service, Hold.of(service))
        return known[1]


def _left_open(service: Service, what: str) -> FlagError:
    """A context that does not say by what Envoy would decide."""
    said = f"the context does not say `{what}`, by which people of {service.name} are in a segment"
    empty = "" if what in ("path", "source") or ":" in what else "; where there are none, say so: {}"
    return FlagError(ErrorCode.INVALID_CONTEXT, said + empty)


def split_in(service: Service, segment: str, splits: ServiceSplits) -> SegmentSplit:
    """What the routes of a segment say."""
    return split_of(service, service.spec.segments[service.spec.segment_index[segment]], splits)


def only_version(service: Service, splits: ServiceSplits) -> str | None:
    """The version that everybody gets; None: there are several."""
    only: set[str] = set()
    for segment in service.spec.segments:
        only.update(version for version, _, _ in assign.shares(split_of(service, segment, splits)))
    return only.pop() if len(only) == 1 else None


def _reason(segment: str, split: SegmentSplit) -> Reason:
    if split.canary is not None and 0 < split.canary_bp < TOTAL_BP:
        return Reason.SPLIT
    return Reason.DEFAULT if segment == DEFAULT_SEGMENT else Reason.TARGETING_MATCH
