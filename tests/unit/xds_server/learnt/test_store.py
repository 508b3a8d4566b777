"""What a restart knows of learned segments."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from xds_server.errors import JournalDamagedError
from xds_server.learnt.memberships import Adopted, Table
from xds_server.store.journal import Journal
from xds_server.store.learned import LearnedStore

FIRST = Table().adopting(Adopted(name="newcomers", description="few visits", at_unix_ns=5, who="ada"), [1, 2**64 - 1])
SECOND = FIRST.adopting(Adopted(name="power", description="many", at_unix_ns=6, who="bob", reason="why"), [1, 7])


def same(one: Table, other: Table) -> bool:
    return (one.version, one.names, list(one.people), list(one.places)) == (
        other.version, other.names, list(other.people), list(other.places)
    )  # fmt: skip


def test_tables_are_there_after_a_restart_and_so_is_that_one_waits(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    store = LearnedStore(journal)
    assert store.load() == {}
    store.save("shop", FIRST, is_waiting=False, at_unix_ns=5, who="ada", what="adopted cluster 1 as newcomers")
    store.save("shop", SECOND, is_waiting=True, at_unix_ns=6, who="bob", what="adopted cluster 2 as power")
    store.save("cart", FIRST, is_waiting=True, at_unix_ns=7, who="ada", what="adopted cluster 1 as newcomers")
    journal.close()

    journal = Journal(tmp_path)
    store = LearnedStore(journal)
    found = store.load()
    assert same(found["shop"].current, FIRST)
    assert found["shop"].waiting is not None
    assert same(found["shop"].waiting, SECOND)
    assert found["cart"].current.version == 0
    third = SECOND.dropping("power")
    store.save("shop", third, is_waiting=True, at_unix_ns=8, who="ada", what="dropped power, 2 people")
    assert same(store.load()["shop"].newest, third)  # what waited before it waits no more
    store.take_up("shop", third.version)
    found = store.load()
    assert same(found["shop"].current, third)
    assert found["shop"].waiting is None
    assert [(row["version"], row["who"]) for row in store.history("shop")] == [(1, "ada"), (2, "bob"), (3, "ada")]
    journal.close()


def test_only_the_tables_that_count_keep_their_people(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    store, table = LearnedStore(journal), FIRST
    for n in range(10):
        store.save("shop", table, is_waiting=False, at_unix_ns=n, who="ada", what="")
        table = table.dropping("nobody")
    with journal.atomically(durably=False) as connection:
        (kept,) = connection.execute("SELECT COUNT(*) FROM learned_tables WHERE people IS NOT NULL").fetchone()
    assert kept == 1
    assert len(store.history("shop")) == 10
    journal.close()


def test_a_table_that_contradicts_itself_is_said_to_be_damaged(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    LearnedStore(journal).save("shop", FIRST, is_waiting=False, at_unix_ns=5, who="ada", what="")
    journal.close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("UPDATE learned_tables SET places = x'0005'")
    connection.close()
    journal = Journal(tmp_path)
    with pytest.raises(JournalDamagedError, match="do not fit"):
        LearnedStore(journal).load()
    journal.close()
