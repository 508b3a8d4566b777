"""Decisions of the core as rows of the journal."""

from __future__ import annotations

import json
from dataclasses import asdict

from analysis.decision import Rollback, SegmentDecision, verdict_name
from xds_server.store.records import DecisionRow


def decision_row(  # noqa: PLR0913 -- one row's context
    decision: SegmentDecision,
    *,
    at_unix_ns: int,
    service: str,
    rollout: str,
    generation: int,
    watched: bool = False,
    observed_only: bool = False,
    who: str = "",
    verb: str | None = None,
) -> DecisionRow:
    """The row of a decision. `watched`: its segment is watched more closely from then on.

    `verb`: an operator's action, in place of the verdict that it amounts to.
    """
    verdict = decision.verdict
    detail = {
        "reasons": [asdict(reason) for reason in verdict.reasons],
        "numbers": decision.numbers,
        "propensity": decision.propensity,
        "phase": str(decision.phase),
        "differences": decision.differences,
        "watched": watched,
    }
    if decision.shadow is not None:
        detail["shadow"] = asdict(decision.shadow)
    return DecisionRow(
        at_unix_ns=at_unix_ns,
        service=service,
        rollout=rollout,
        segment=decision.segment,
        verdict=verb if verb is not None else verdict_name(verdict),
        tier=str(verdict.tier) if isinstance(verdict, Rollback) else "",
        split_before_bp=decision.split_before_bp,
        split_after_bp=decision.split_after_bp,
        generation=generation,
        reason=verdict.reasons[0].text,
        detail_json=json.dumps(detail, separators=(",", ":")),
        who=who,
        observed_only=observed_only,
    )
