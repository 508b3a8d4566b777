"""Tables of who is in which learned segment, and when another one counts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xds_server.learnt.memberships import Adopted, Memberships, Proposal, Proposals, Table, moved

HASHES = st.integers(1, 2**64 - 1)
STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.lists(HASHES, max_size=20)), max_size=8)


def named(name: str) -> Adopted:
    return Adopted(name=name, description="", at_unix_ns=1, who="ada")


@given(STEPS, st.lists(HASHES, max_size=5))
def test_a_table_says_what_was_adopted_last(steps: list[tuple[str, list[int] | None]], strangers: list[int]) -> None:
    """Whatever is adopted and dropped in whatever order, a mapping from people to names says the same."""
    table, expected, names = Table(), dict[int, str](), dict[str, None]()
    for version, (name, people) in enumerate(steps, start=1):
        expected = {user: of for user, of in expected.items() if of != name}
        names.pop(name, None)
        if people is None:
            table = table.dropping(name)
        else:
            table = table.adopting(named(name), people)
            expected |= dict.fromkeys(people, name)
            names[name] = None
        assert table.version == version
    assert [adopted.name for adopted in table.names] == list(names)
    assert table.sizes() == {name: sum(of == name for of in expected.values()) for name in names}
    assert list(table.people) == sorted(expected)
    for user in (*expected, *strangers, 0):
        assert table.name_of(user) == expected.get(user)


def test_whoever_is_in_a_newer_cluster_leaves_the_older_one_and_that_is_counted() -> None:
    before = Table().adopting(named("newcomers"), [1, 2, 3])
    after = before.adopting(named("power"), [3, 4])
    assert after.sizes() == {"newcomers": 2, "power": 2}
    assert moved(before, after) == {"newcomers": 1}
    assert moved(Table(), after) == {}
    assert before.sizes() == {"newcomers": 3}  # tables do not change


def test_a_new_clustering_gives_adopted_names_other_people_in_one_step_and_the_same_ones_in_none() -> None:
    before = Table().adopting(named("newcomers"), [1, 2]).adopting(named("power"), [3])
    after = before.renewed({"power": [1, 3], "newcomers": [4], "nobody": [5]})
    assert after.version == before.version + 1
    assert {user: after.name_of(user) for user in range(1, 6)} == {
        1: "power", 2: None, 3: "power", 4: "newcomers", 5: None
    }  # fmt: skip
    assert {adopted.name: adopted.who for adopted in after.names} == {"newcomers": "ada", "power": "ada"}
    assert after.renewed({"newcomers": [4], "power": [3, 1]}) is after
    assert after.renewed({}) is after
    assert Table().renewed({"newcomers": [1]}).version == 0


def test_while_a_rollout_runs_a_table_waits_and_the_newest_of_those_that_wait_counts_after_it() -> None:
    members = Memberships()
    first = Table().adopting(named("newcomers"), [1])
    assert members.put(first, is_running=False)
    second = members.newest.adopting(named("power"), [1, 2])
    third = second.adopting(named("staff"), [2])
    assert not members.put(second, is_running=True)
    assert not members.put(third, is_running=True)
    assert (members.current.name_of(1), members.current.name_of(2)) == ("newcomers", None)
    assert members.newest is third
    assert members.take_up()
    assert (members.current, members.waiting) == (third, None)
    assert not members.take_up()


def test_a_million_people_are_found_and_take_nine_bytes_each() -> None:
    people = np.unique(np.random.default_rng(1).integers(1, 2**63, 1_000_000, dtype=np.uint64))
    table = Table().adopting(named("all"), (int(user) for user in people))
    assert table.people.nbytes + table.places.nbytes == 9 * len(people)
    assert all(table.name_of(int(user)) == "all" for user in people[::10_000])


def test_proposals_know_their_people() -> None:
    few = Proposal(cluster=0, size=2, description="few")
    users, cluster_of = np.array([7, 8, 9], np.uint64), np.array([0, 1, 0], np.uint8)
    assert Proposals(clusters=(few,), users=users, cluster_of=cluster_of).people(0).tolist() == [7, 9]
