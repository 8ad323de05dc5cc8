"""Merge documents that were damaged in the file: `check` finds them, says so, and builds them anew from the log."""

import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.errors import DamagedDocument
from crdtlog.log import Log
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    conflicts_of,
    devices,
    quick_directory,
    rows_of,
    send,
    sync_all,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT, meta TEXT, likes INTEGER, tags TEXT, plain)"
KINDS = {"body": "text", "meta": "json", "likes": "counter", "tags": "set"}
EDIT = (
    "UPDATE t SET body = '{0} ' || body, meta = json_set(meta, '$.{0}', 1), likes = likes + {1}, "
    "tags = json_insert(tags, '$[#]', '{0}'){2}"
)
#: What makes a row unreadable, and what makes it only wrong.
UNREADABLE = {
    "states": "UPDATE crdtlog__merge SET state = x'c1ff' WHERE seq > 0 AND kind != 1",
    "the sum": "UPDATE crdtlog__merge SET state = x'c1' WHERE seq = 0",
    "no states": "UPDATE crdtlog__merge SET state = NULL",
    "text states": "UPDATE crdtlog__merge SET state = CAST('x' AS TEXT)",
    "dots": "UPDATE crdtlog__merge SET versions = x'c1' WHERE seq > 0",
}
WRONG = {
    "text": "UPDATE crdtlog__merge SET state = x'0000' WHERE kind = 1",
    "first value": "UPDATE crdtlog__merge SET state = x'07' WHERE seq > 0 AND kind = 3",
    "no dots": "UPDATE crdtlog__merge SET versions = x'90' WHERE seq > 0",
    "other dots": "UPDATE crdtlog__merge SET versions = x'91920163' WHERE seq > 0",
    "documents gone": "DELETE FROM crdtlog__merge WHERE seq > 0",
    "the sum gone": "DELETE FROM crdtlog__merge WHERE seq = 0",
    "all gone": "DELETE FROM crdtlog__merge",
    "kind": "UPDATE crdtlog__merge SET kind = 77 WHERE seq > 0",
    "slot": "UPDATE crdtlog__merge SET slot = 99 WHERE seq > 0",
    "writer": "UPDATE crdtlog__merge SET writer = 99 WHERE seq > 0",
    "key": "UPDATE crdtlog__merge SET key = 'nobody' WHERE key = 'a'",
}
ROWS = "INSERT INTO t VALUES ('a', 'base', '{}', 10, '[]', 'p'), ('b', 'base', '{}', 10, '[]', 'p')"


def fleet(world: World) -> tuple[Database, Database]:
    """Two devices with two rows that both have edited, one of which has a losing version of each cell, too."""
    one, other = devices(world, ["one", "other"], [TABLE], ROWS)
    one.track("t", KINDS)
    sync_all([one, other])
    write_apart([one], EDIT.format("one", 1, ""))
    write_apart([other], EDIT.format("other", 2, ""))
    write_apart([one], "UPDATE t SET body = NULL, meta = NULL, likes = NULL, tags = NULL WHERE id = 'b'")
    write_apart([other], EDIT.format("more", 3, " WHERE id = 'b'"))
    sync_all([one, other])
    return one, other


def damaged(world: World, sql: str) -> Database:
    world.open["one"].close()
    with closing_connection(world.path("one")) as connection:
        assert connection.execute(sql).rowcount > 0
    return world.reopen("one")


def picture(db: Database) -> list[Any]:
    return [rows_of(db), conflicts_of(db), db.verify().state]


@pytest.mark.parametrize("what", [*UNREADABLE, *WRONG])
def test_it_is_found_and_built_anew(world: World, what: str) -> None:
    one, other = fleet(world)
    before = picture(one)
    one = damaged(world, (UNREADABLE | WRONG)[what])
    (found,) = one.check()
    assert found.damaged > 0
    (again,) = one.check()
    assert again == found, "check writes nothing"

    one.check(fix=True)

    assert picture(one) == before
    assert [item.damaged for item in one.check()] == [0]
    assert one.mend() == 0
    write_apart([one, other], EDIT.format("late", 100, " WHERE id = 'a'"))
    sync_all([one, other])
    assert rows_of(one, "SELECT likes FROM t WHERE id = 'a'") == [(213,)]
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_is_told_in_our_words_and_changes_that_wait_are_taken_in_then(
    world: World, what: str
) -> None:
    one, other = fleet(world)
    write_apart([other], EDIT.format("theirs", 20, ""))
    one = damaged(world, UNREADABLE[what])
    with pytest.raises(DamagedDocument, match="damaged") as caught:
        send(other, one)
    assert "--fix" in caught.value.hint
    one.execute(EDIT.format("mine", 300, " WHERE id = 'a'"))
    with pytest.raises(DamagedDocument):
        one.drain_all()
    assert one.pending() == 1

    one.check(fix=True)
    sync_all([one, other])

    assert rows_of(one, "SELECT likes FROM t WHERE id = 'a'") == [(10 + 3 + 20 + 300,)]
    for column in ("body", "meta", "tags"):
        ((value,),) = rows_of(one, f"SELECT {column} FROM t WHERE id = 'a'")
        assert all(name in value for name in ("one", "other", "theirs", "mine"))
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("what", ["the sum gone", "all gone", "key"])
def test_a_row_that_shows_a_wrong_sum_since_is_put_right(world: World, what: str) -> None:
    one, other = fleet(world)
    one = damaged(world, WRONG[what])
    write_apart([other], EDIT.format("theirs", 20, " WHERE id = 'a'"))
    sync_all([one, other])
    right = rows_of(other, "SELECT likes FROM t WHERE id = 'a'")
    assert rows_of(one, "SELECT likes FROM t WHERE id = 'a'") != right

    one.check(fix=True)

    assert rows_of(one, "SELECT likes FROM t WHERE id = 'a'") == right
    assert one.drain_all() == 0
    sync_all([one, other])
    assert_converged([one, other], ["t"])


def test_the_log_is_read_once_for_all_tables_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = ["t", "u", "v"]
    (one,) = devices(world, ["one"], [TABLE.replace(" t ", f" {name} ") for name in tables])
    for name in tables:
        one.track(name, {"meta": "json"})
        one.execute(f"INSERT INTO {name} (id, meta) VALUES ('a', '{{}}')")
        one.drain_all()
        write_apart([one], f"UPDATE {name} SET meta = json_set(meta, '$.a', 1)")
    one.execute("UPDATE crdtlog__merge SET state = x'c1'")
    read: list[tuple[int, int]] = []
    sections = Log.sections
    monkeypatch.setattr(
        Log, "sections", lambda log, number, seq: read.append((number, seq)) or sections(log, number, seq)
    )

    assert {item.table: item.damaged for item in one.check()} == dict.fromkeys(tables, 1)

    entries = one.execute("SELECT count(*) FROM crdtlog__log WHERE kind = 'data'").fetchone()[0]
    assert len(read) == len(set(read)) == entries
    assert one.mend() == 3


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(
        st.sampled_from(
            [
                EDIT.format("x", 1, ""),
                EDIT.format("y", 5, " WHERE id = 'a'"),
                "UPDATE t SET meta = NULL, likes = NULL, tags = 'odd' WHERE id = 'a'",
                "UPDATE t SET meta = '{}', likes = 7, tags = '[]' WHERE id = 'a'",
                "DELETE FROM t WHERE id = 'a'",
                "INSERT INTO t VALUES ('a', 'new', '{\"n\": 1}', 50, '[\"n\"]', 'p')",
                "UPDATE t SET plain = plain || 'q'",
                "counter",
                "register",
            ]
        ),
        st.integers(0, 2),
        st.just(0),
    ),
)


@given(st.lists(STEPS, max_size=14), st.sampled_from([*WRONG.values(), UNREADABLE["no states"]]))
def test_after_any_history_documents_are_what_the_log_says_also_once_mended(
    history: list[tuple[str, int, int]], damage: str
) -> None:
    with quick_directory() as directory, World(directory) as world:
        dbs = devices(world, ["one", "two", "three"], [TABLE], ROWS)
        dbs[0].track("t", {column: kind for column, kind in KINDS.items() if kind != "text"})
        sync_all(dbs)
        for step, device, other in history:
            if step == "send":
                if device != other:
                    send(dbs[device], dbs[other])
            elif step in ("counter", "register"):
                dbs[device].track("t", {"likes": step})
            else:
                try:
                    dbs[device].execute(step)
                except sqlite3.Error as error:
                    assert "UNIQUE" in str(error) or "malformed JSON" in str(error)
                dbs[device].drain_all()
        for db in dbs:
            assert [item.damaged for item in db.check()] == [0]
        before = picture(dbs[0])
        stored = dbs[0].execute("SELECT * FROM crdtlog__merge").fetchall()
        with closing_connection(world.path("one")) as connection:
            connection.execute(damage)
        dbs[0] = world.reopen("one")
        dbs[0].check(fix=True)
        assert picture(dbs[0]) == before
        assert dbs[0].execute("SELECT * FROM crdtlog__merge").fetchall() == stored
        sync_all(dbs)
        assert_converged(dbs, ["t"])
