"""Who gets which version: Envoy's own hash, computed here as well.

A route's hash policy rewrites the sticky key to `<rollout>:<key>`; Envoy takes its xxHash64 (seed 0) modulo the sum of
the weights and walks the weighted clusters in order, canary first (weighted_cluster_specifier.cc). The sum never
changes, so the canary owns the buckets [0, canary_bp) and a split that grows only ever adds people.
"""

from __future__ import annotations

from typing import Final

import xxhash

from analysis.spec import TOTAL_BP
from xds_server.mesh import SegmentSplit

BUCKET_HEADER: Final = "x-serinus-bucket"
"""With it a gRPC client, which does not hash, says on which side of a split somebody is: 0 to 9999."""


def bucket(rollout: str, key: str) -> int:
    """Return the hash bucket in [0, 10,000) of a person's sticky key under one rollout.

    Bytes that are no UTF-8 are taken as they are, where `key` was decoded with `surrogateescape`.

    Examples
    --------
    >>> bucket("shop-1", "anna"), bucket("shop-2", "anna")
    (6437, 3978)
    """
    return xxhash.xxh64_intdigest(f"{rollout}:{key}".encode("utf-8", "surrogateescape"), seed=0) % TOTAL_BP


def bucket_header(key: str, *, salt: str = "") -> tuple[str, str]:
    """Return the metadata with which all RPCs on behalf of one person go to one version.

    `salt`: what decides, with the key, who is among the first. Everybody who sends RPCs for the same people must use
    the same salt, for as long as a rollout lasts. With the rollout's own name people are where Envoy has them; without
    a salt it is the same people who go first in every rollout of every service.

    Examples
    --------
    >>> bucket_header("anna", salt="shop-1"), bucket_header("anna")
    (('x-serinus-bucket', '6437'), ('x-serinus-bucket', '6206'))
    """
    return BUCKET_HEADER, str(bucket(salt, key))


def shares(split: SegmentSplit) -> list[tuple[str, int, int]]:
    """Return who owns which buckets: version, first bucket, and the one after the last; no empty ones.

    Examples
    --------
    >>> shares(SegmentSplit(baseline="v1", canary="v2", canary_bp=500))
    [('v2', 0, 500), ('v1', 500, 10000)]
    """
    canary_bp = split.canary_bp if split.canary is not None else 0
    owners = ((split.canary or "", 0, canary_bp), (split.baseline, canary_bp, TOTAL_BP))
    return [(version, first, end) for version, first, end in owners if first < end]


def version_for(split: SegmentSplit, bucket: int) -> str:
    """Return the version that `bucket` is routed to: the first `canary_bp` buckets are the canary's."""
    return next(version for version, _, end in shares(split) if bucket < end)
