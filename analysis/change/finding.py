"""What a judge of value series finds, and what it says of a release."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Ground(StrEnum):
    """Why something speaks against a release."""

    CONTRAST = "contrast"  # the canary beside the baseline
    SILENCE = "silence"  # the canary says nothing where the baseline does
    BEFORE_AFTER = "before_after"  # the canary after the baseline, where nothing ran beside it
    BLAME = "blame"  # a fault elsewhere that began with it
    RESOURCES = "resources"  # it needs more of something, which harms nobody yet


class Verdict(StrEnum):
    ROLLBACK = "rollback"
    KEEP = "keep"
    HOLD = "hold"  # not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that speaks against a release, `at_unix_s` when it was known.

    `p`: probability in [0, 1] of as much, or more, of a release that changes nothing, after all that was looked at; of
    blame, one less the share. `effect`: canary less baseline, or after less before: of shares in [0, 1], else as a
    natural logarithm of the ratio, or in the KPI's own unit where it is not always positive; NaN where nothing is
    measured.
    """

    ground: Ground
    stream: str
    at_unix_s: float
    p: float
    effect: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Of one release. `at_unix_s`: when the verdict was reached. `findings`: strongest first.

    `blame`: share in [0, 1] of faults seen elsewhere that is put on this release. `reason`: in words.
    """

    rollout: str
    service: str
    verdict: Verdict
    at_unix_s: float
    blame: float
    findings: tuple[Finding, ...]
    reason: str
