"""The index of people says what a dictionary would, whatever is put in and taken out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.user_index import UserIndex

USERS = st.integers(1, 40) | st.sampled_from([2**64 - 1, 1_024, 2_048, 3_072, 4_096])  # many want the same place
STEPS = st.lists(st.tuples(st.booleans(), st.lists(USERS, max_size=60)), max_size=40)


@settings(max_examples=200)
@given(steps=STEPS)
def test_an_index_is_a_mapping(steps: list[tuple[bool, list[int]]]) -> None:
    index, truth = UserIndex(), dict[int, int]()
    slot = 0
    for puts, users in steps:
        if puts:
            slots = np.arange(slot, slot + len(users), dtype=np.int32)
            slot += len(users)
            index.put(np.array(users, np.uint64), slots)
            truth.update(zip(users, slots.tolist(), strict=True))
        else:
            index.remove(np.array(sorted(set(users)), np.uint64))
            for user in users:
                truth.pop(user, None)
        assert len(index) == len(truth)
        everybody = [*range(1, 41), 2**64 - 1, 1_024, 2_048, 3_072, 4_096]
        found = index.find(np.array(everybody, np.uint64)).tolist()
        assert found == [truth.get(user, -1) for user in everybody]


def test_many_people_come_and_go() -> None:
    rng = np.random.default_rng(1)
    index, users = UserIndex(), rng.integers(1, 2**63, 50_000).astype(np.uint64)
    for start in range(0, 50_000, 1_000):
        index.put(users[start : start + 1_000], np.arange(start, start + 1_000, dtype=np.int32))
        if start >= 10_000:
            index.remove(users[start - 10_000 : start - 9_000])
    assert len(index) == 10_000
    np.testing.assert_array_equal(index.find(users[40_000:]), np.arange(40_000, 50_000))
    assert (index.find(users[:40_000]) == -1).all()
    assert index.capacity <= 1 << 17
