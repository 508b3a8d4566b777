"""People are remembered by decayed sums, bounded, and told apart in kinds that words describe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from analysis.columns import NEVER
from analysis.errors import StateError
from analysis.profile.persons import DAY_NS, FEATURES, Clustering, PersonTable, cluster_persons, person_features
from tests.unit.analysis.visits import HOME, LABELS, VOUCHER, rows

NOW_NS = 100 * DAY_NS


def _visits(users: npt.ArrayLike, days: npt.ArrayLike, pages: int = 3, seconds: float = 60) -> npt.NDArray[np.void]:
    users = np.asarray(users, np.uint64)
    table = rows(*[((HOME, VOUCHER), 1.0)] * len(users))
    table["user"] = users
    table["start_unix_ns"] = NOW_NS - np.asarray(days) * DAY_NS
    table["last_unix_ns"] = table["start_unix_ns"] + int(seconds * 1e9)
    table["n_pages"], table["goal_ms"] = pages, NEVER
    return table


def _crowds(rng: np.random.Generator) -> tuple[PersonTable, npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """600 newcomers with one short visit this week, 400 people who have come for three months and stay long."""
    table = PersonTable()
    new, power = np.arange(1, 601, dtype=np.uint64), np.arange(1001, 1401, dtype=np.uint64)
    for user in power:
        days = rng.uniform(0, 95, 30)
        table.update(_visits([user] * 30, days, int(rng.integers(10, 20)), rng.uniform(300, 900)), LABELS)
    table.update(_visits(new, rng.uniform(0, 6, 600), pages=2, seconds=30), LABELS)
    return table, new, power


def test_sums_decay_and_the_order_of_batches_does_not_matter_much() -> None:
    table = PersonTable()
    table.update(_visits([7, 7, 8], [60, 30, 0]), LABELS)
    person = table.persons[table.persons["user"] == 7][0]
    assert person["sessions"] == pytest.approx(1.5)
    assert person["pages"] == pytest.approx(4.5)
    assert (person["first_unix_ns"], person["last_unix_ns"]) == (NOW_NS - 60 * DAY_NS, NOW_NS - 30 * DAY_NS)
    assert len(table) == 2


def test_bots_and_nobody_are_left_out() -> None:
    visits = _visits([0, 5, 6], [1, 1, 1])
    visits["bot"][1] = True
    table = PersonTable()
    table.update(visits, LABELS)
    assert table.persons["user"].tolist() == [6]


def test_people_are_bounded_and_who_was_away_longest_is_forgotten() -> None:
    table = PersonTable(limit=100)
    for first in range(0, 1_000, 50):
        table.update(_visits(np.arange(first + 1, first + 51), [90 - first / 20] * 50), LABELS)
        assert len(table) <= 100
    assert table.forgotten_n == 1_000 - len(table)
    assert set(range(951, 1_001)) <= set(table.persons["user"].tolist())
    table.update(_visits(np.arange(2_000, 2_500), [0] * 500), LABELS)
    assert len(table) <= 100


def test_features_are_rates() -> None:
    table = PersonTable()
    table.update(_visits([7] * 10, np.linspace(0, 69, 10)), LABELS)
    told = dict(zip(FEATURES, person_features(table.persons, NOW_NS)[0], strict=True))
    assert told["sessions a week"] == pytest.approx(1.0, abs=0.25)
    assert told["weeks known"] == pytest.approx(69 / 7)
    assert told["weeks away"] == pytest.approx(0.0)
    assert told["pages a session"] == pytest.approx(3.0)
    assert told["features a session"] == pytest.approx(1.0)


def test_kinds_of_people_are_found_and_told_in_words() -> None:
    table, new, power = _crowds(np.random.default_rng(1))
    clustering = cluster_persons(table.persons, NOW_NS, np.random.default_rng(2))
    assert clustering is not None
    cluster = dict(zip(table.persons["user"].tolist(), clustering.assign(table.persons).tolist(), strict=True))
    kinds_of_new, kinds_of_power = {cluster[u] for u in new.tolist()}, {cluster[u] for u in power.tolist()}
    assert not kinds_of_new & kinds_of_power
    described = clustering.describe()
    assert all("fewer" in described[kind] for kind in kinds_of_new)
    assert all("more" in described[kind] for kind in kinds_of_power), described
    assert clustering.sizes.sum() == 1_000
    assert (np.diff(clustering.sizes) <= 0).all()


def test_the_same_chance_gives_the_same_clusters_and_bytes_give_them_back() -> None:
    table, _, _ = _crowds(np.random.default_rng(1))
    one, two = (cluster_persons(table.persons, NOW_NS, np.random.default_rng(3)) for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.to_bytes() == two.to_bytes()
    again = Clustering.from_bytes(one.to_bytes())
    assert again.describe() == one.describe()
    np.testing.assert_array_equal(again.assign(table.persons), one.assign(table.persons))
    np.testing.assert_array_equal(again.assign(table.persons[:10]), one.assign(table.persons)[:10])


def test_a_clustering_of_other_points_is_refused() -> None:
    table, _, _ = _crowds(np.random.default_rng(1))
    one = cluster_persons(table.persons, NOW_NS, np.random.default_rng(0))
    assert one is not None
    with pytest.raises(StateError):
        Clustering.from_bytes(replace(one, centres=one.centres[:, :-1]).to_bytes())


def test_a_table_is_given_back_by_its_bytes() -> None:
    table, _, _ = _crowds(np.random.default_rng(1))
    again = PersonTable.from_bytes(table.to_bytes())
    for one in (table, again):
        one.update(_visits([1], [0]), LABELS)
    assert np.sort(table.persons, order="user").tobytes() == np.sort(again.persons, order="user").tobytes()
    for damaged in (b"", b"PK", table.to_bytes()[:-9], one_byte_off(table.to_bytes())):
        with pytest.raises(StateError):
            PersonTable.from_bytes(damaged)
        with pytest.raises(StateError):
            Clustering.from_bytes(damaged)


def one_byte_off(data: bytes) -> bytes:
    return data[:200] + bytes([data[200] ^ 0xFF]) + data[201:]


def test_few_people_are_not_told_apart() -> None:
    table = PersonTable()
    table.update(_visits([1, 2, 3], [0, 0, 0]), LABELS)
    assert cluster_persons(table.persons, NOW_NS, np.random.default_rng(0)) is None
