from __future__ import annotations

import doctest

import pytest

from xds_server import assign
from xds_server.assign import bucket, bucket_header, version_for
from xds_server.mesh import SegmentSplit


def test_a_person_has_the_bucket_that_envoy_computes() -> None:
    """Values that Envoy 1.40 routed by; tests/envoy compares two thousand more."""
    assert bucket("shop-1", "anna") == 6_437
    assert bucket("shop-2", "anna") == 3_978


def test_another_rollout_draws_other_people() -> None:
    people = [f"p{n}" for n in range(2_000)]
    first, second = ({p for p in people if bucket(rollout, p) < 1_000} for rollout in ("shop-1", "shop-2"))
    assert abs(len(first & second) - 20) < 15  # 10 % of 10 %


@pytest.mark.parametrize(("canary_bp", "expected"), [(0, "v1"), (99, "v1"), (100, "v1"), (101, "v2"), (10_000, "v2")])
def test_the_canary_owns_the_first_buckets(canary_bp: int, expected: str) -> None:
    assert version_for(SegmentSplit(baseline="v1", canary="v2", canary_bp=canary_bp), 100) == expected


def test_without_a_canary_everybody_gets_the_baseline() -> None:
    assert version_for(SegmentSplit(baseline="v1", canary_bp=10_000), 0) == "v1"


def test_the_header_says_the_bucket_and_with_the_rollouts_name_as_salt_it_is_envoys() -> None:
    assert bucket_header("anna", salt="shop-1") == ("x-serinus-bucket", str(bucket("shop-1", "anna")))
    assert bucket_header("anna") == ("x-serinus-bucket", str(bucket("", "anna")))


def test_the_examples_are_right() -> None:
    assert doctest.testmod(assign).failed == 0
