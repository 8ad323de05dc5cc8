"""Restoring where columns merge: what is put back is what was listed, or what had merged before a row was deleted."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.database import Database
from tests.crdtlog.clients import Client, Drain, Send, play
from tests.crdtlog.devices import (
    World,
    assert_converged,
    devices,
    exact,
    quick_directory,
    rows_of,
    sync,
    sync_all,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, tags TEXT, doc TEXT, v)"
KINDS = {"n": "counter", "tags": "set", "doc": "json"}
ROW = """INSERT INTO t VALUES ('k', 10, '["a"]', '{"x":1}', 'old')"""


def merging(world: World, rows: str = ROW) -> list[Database]:
    """Two devices whose table has a column of each kind, from the beginning."""
    dbs = devices(world, ["one", "other"], [TABLE])
    dbs[0].track("t", KINDS)
    sync_all(dbs)
    if rows:
        dbs[0].execute(rows)
    sync_all(dbs)
    return dbs


def meant(value: Any) -> Any:
    """A value, for JSON what it says: a document that is written again may order its members otherwise."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return exact(value)


def test_a_deleted_row_comes_back_with_what_had_merged(world: World) -> None:
    one, other = merging(world)
    write_apart(
        [one, other], "UPDATE t SET n = n + 1, tags = json_array('a', :name), doc = json_object(:name, 1)"
    )
    sync(one, other)
    before = rows_of(one)
    other.execute("UPDATE t SET v = 'unseen'")
    other.drain_all()
    time.sleep(0.002)
    one.execute("DELETE FROM t")
    sync(one, other)
    (conflict,) = one.conflicts()

    one.restore_value("t", "k", None, conflict["dot"])
    sync(one, other)

    assert before[0][1:3] == (12, '["a","one","other"]')
    assert rows_of(one) == rows_of(other) == [(*before[0][:-1], "unseen")]
    assert_converged([one, other], ["t"])
    write_apart([one, other], "UPDATE t SET n = n + 1")
    sync(one, other)
    assert rows_of(one, "SELECT n FROM t") == [(14,)]
    assert_converged([one, other], ["t"])


def test_a_counter_that_began_twice_comes_back_with_all_that_was_added(world: World) -> None:
    one, other = merging(world, "")
    write_apart([one], "INSERT INTO t VALUES ('k', 5, NULL, NULL, 0)")
    write_apart([one], "UPDATE t SET n = n + 1")
    time.sleep(0.002)
    write_apart([other], "INSERT INTO t VALUES ('k', 3, NULL, NULL, 0)")
    sync(one, other)
    before = rows_of(one)
    write_apart([one], "UPDATE t SET v = 'unseen'")
    time.sleep(0.002)
    write_apart([other], "DELETE FROM t")
    sync(one, other)
    (conflict,) = one.conflicts()

    one.restore_value("t", "k", None, conflict["dot"])
    sync(one, other)

    assert before[0][1] == 4
    assert rows_of(one) == rows_of(other) == [(*before[0][:-1], "unseen")]
    assert_converged([one, other], ["t"])


def test_what_is_listed_of_a_counter_is_what_comes_back(world: World) -> None:
    one, other = merging(world)
    write_apart([one, other], "UPDATE t SET n = n + 1")
    write_apart([one], "UPDATE t SET n = n + 1")
    time.sleep(0.002)
    write_apart([other], "UPDATE t SET n = NULL")
    sync(one, other)
    (conflict,) = other.conflicts()

    other.restore_value("t", "k", "n", conflict["dot"])
    sync(one, other)

    assert conflict["value"] == 13
    assert rows_of(one, "SELECT n FROM t") == rows_of(other, "SELECT n FROM t") == [(13,)]
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("column", ["tags", "doc"])
@pytest.mark.parametrize("state", ["shows", "lost"])
def test_of_two_documents_begun_apart_one_can_be_chosen(world: World, column: str, state: str) -> None:
    one, other = merging(world, "")
    for db, text in ((one, "b"), (other, "c")):
        db.execute("INSERT INTO t VALUES ('k', 0, ?, ?, 0)", (f'["{text}"]', f'{{"{text}":1}}'))
        db.drain_all()
        time.sleep(0.002)
        db.execute("UPDATE t SET tags = ?, doc = ?", (f'["a","{text}"]', f'{{"a":0,"{text}":1}}'))
        db.drain_all()
    sync(one, other)
    assert {conflict["column"] for conflict in one.conflicts()} == {"tags", "doc"}
    lost = next(conflict for conflict in one.conflicts() if conflict["column"] == column)
    shown = rows_of(one, f"SELECT {column} FROM t")[0][0]
    showing = next(x for x in one.history("t", "k", column) if x.state == "shows")
    dot, value = (lost["dot"], lost["value"]) if state == "lost" else (showing.dot, shown)

    one.restore_value("t", "k", column, dot)
    sync(one, other)

    for db in (one, other):
        assert meant(rows_of(db, f"SELECT {column} FROM t")[0][0]) == meant(value)
    assert column not in {conflict["column"] for conflict in other.conflicts()}
    assert_converged([one, other], ["t"])


SETS = ['["a"]', '["b","c"]', "[]", "no set", None]
DOCUMENTS = ['{"x":1}', '{"x":2,"y":[1,2]}', "[1]", "no json", None]
STATEMENTS = st.one_of(
    st.sampled_from(
        ["UPDATE t SET n = n + 1", "UPDATE t SET n = 5", "UPDATE t SET n = NULL", "DELETE FROM t", ROW]
    ),
    st.sampled_from(SETS).map(lambda v: f"UPDATE t SET tags = {literal(v)}"),
    st.sampled_from(DOCUMENTS).map(lambda v: f"UPDATE t SET doc = {literal(v)}"),
    st.tuples(st.sampled_from(SETS), st.sampled_from(DOCUMENTS)).map(
        lambda pair: f"REPLACE INTO t VALUES ('k', 1, {literal(pair[0])}, {literal(pair[1])}, 'v')"
    ),
)


def literal(value: str | None) -> str:
    return "NULL" if value is None else f"'{value}'"


@given(st.data())
def test_whatever_is_listed_can_be_put_back_where_columns_merge(choose: st.DataObject) -> None:
    rounds = choose.draw(st.lists(st.tuples(STATEMENTS, STATEMENTS, st.booleans()), min_size=1, max_size=6))
    with quick_directory() as directory, World(directory) as world:
        dbs = merging(world)
        for first, second, exchange in rounds:
            play(dbs, [Client(0, [first]), Drain(0), Client(1, [second]), Drain(1)])
            if exchange:
                play(dbs, [Send(0, 1)])
        sync_all(dbs)
        assert dbs[0].history("t", "k") == dbs[1].history("t", "k")
        while listed := dbs[0].conflicts():
            conflict = choose.draw(st.sampled_from(listed))
            db = choose.draw(st.sampled_from(dbs))
            done = db.restore_value("t", conflict["key"], conflict["column"], conflict["dot"])
            sync_all(dbs)
            for each in dbs:
                ((*_,),) = rows_of(each)
                assert conflict["column"] not in {item["column"] for item in each.conflicts()}
                if done.column:
                    (shown,) = rows_of(each, f"SELECT {done.column} FROM t")
                    assert meant(shown[0]) == meant(conflict["value"])
        assert_converged(dbs, ["t"])
