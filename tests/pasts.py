"""A journal with rollouts that are over, as simulated histories have them."""

from __future__ import annotations

import json
from collections.abc import Iterable

from analysis.failure.facts import PastRelease
from xds_server.store.artefacts import ArtefactStore
from xds_server.store.journal import Journal
from xds_server.store.records import DecisionRow, RolloutRow

S = 1_000_000_000
LASTS_S = 1_800


def write_past(journal: Journal, releases: Iterable[PastRelease], *, name: str = "past") -> None:
    """Write each release as a rollout of one segment that was promoted, or rolled back on proof."""
    store = ArtefactStore(journal)
    with journal.atomically():
        for i, release in enumerate(releases):
            facts, rollout, began_ns = release.facts, f"{name}-{i}", int(release.began_s * S)
            phase = "rolled_back" if release.failed else "promoted"
            told = dict(facts.attributes) | ({"kind": facts.kind} if facts.kind else {})
            told |= {} if facts.size is None else {"size": facts.size}
            journal.start_rollout(RolloutRow(
                rollout=rollout, service=f"{facts.service}-{name}-{i}", baseline="v1", canary="v2", state="running",
                started_unix_ns=began_ns, attributes=told,
            ))  # fmt: skip
            journal.append(DecisionRow(
                at_unix_ns=began_ns + LASTS_S * S, service=facts.service, rollout=rollout, segment="default",
                verdict="rollback" if release.failed else "promote", tier="proven" if release.failed else "",
                split_before_bp=100, split_after_bp=0 if release.failed else 10_000, generation=1, reason="",
                detail_json=json.dumps({}),
            ))  # fmt: skip
            journal.finish_rollout(rollout, began_ns + LASTS_S * S, {"default": phase}, "finished")
            store.end(rollout, release.first)
        with journal.atomically() as connection:  # only one may run at a time, so each had a service of its own
            for i, release in enumerate(releases):
                connection.execute(
                    "UPDATE rollouts SET service = ? WHERE rollout = ?", (release.facts.service, f"{name}-{i}")
                )
