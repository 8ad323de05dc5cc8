"""A device that joins with rows of its own, in a table whose columns merge: nothing is lost, steps are counted once."""

import json
import os
from typing import Any

import pytest

import crdtlog
from crdtlog.database import Database
from crdtlog.device import load_device
from crdtlog.errors import TablePaused
from crdtlog.members import newcomer_of
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    conflicts_of,
    devices,
    rows_of,
    sync_all,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT, meta TEXT, likes INTEGER, tags TEXT)"
KINDS = {"body": "text", "meta": "json", "likes": "counter", "tags": "set"}
BASE = ("To Rome", '{"base":1}', 10, '["base"]')
LONG_AGO, LATER = 1_600_000_000, 2_000_000_000
EDITS = {
    "one": "body = body || ' by train', meta = json_set(meta, '$.b', 2), likes = likes + 5, "
    "tags = json_insert(tags, '$[#]', 'b')",
    "two": "body = 'In May: ' || body, meta = json_set(meta, '$.c', 3), likes = likes + 1, "
    "tags = json_insert(tags, '$[#]', 'c')",
}
ONE = ("To Rome by train", '{"base":1,"b":2}', 15, '["b","base"]')
BOTH = ("In May: To Rome by train", '{"base":1,"b":2,"c":3}', 16, '["b","base","c"]')


def founded(world: World, *, edited: bool, tracked_first: bool) -> Database:
    """A database with one row, whose columns merge; edited once, or not."""
    (one,) = devices(world, ["one"], [TABLE])
    if tracked_first:
        one.track("t", KINDS)
    one.execute("INSERT INTO t VALUES ('a', ?, ?, ?, ?)", BASE)
    one.drain_all()
    one.track("t", KINDS)
    if edited:
        write_apart([one], f"UPDATE t SET {EDITS['one']}")
    return one


def joined(world: World, one: Database, row: tuple[Any, ...], at: int = LONG_AGO) -> Database:
    """A device whose file held the table with that row before, last written then."""
    with closing_connection(world.path("two")) as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO t VALUES ('a', ?, ?, ?, ?), ('own', 'x', '{}', 1, '[]')", row)
    os.utime(world.path("two"), (at, at))
    home = world.home("two")
    one.add_member(newcomer_of(load_device(home.prepare(), name="two"), "admin"))
    two = world.open["two"] = crdtlog.adopt(world.path("two"), one.welcome(), home=home)
    return two


def met(one: Database, two: Database) -> None:
    sync_all([one, two])
    two.caught_up()
    sync_all([one, two])
    assert_converged([one, two], ["t"])
    assert rows_of(one, "SELECT likes FROM t WHERE id = 'own'") == [(1,)]


def shown(db: Database) -> tuple[Any, ...]:
    ((body, meta, likes, tags),) = rows_of(db, "SELECT body, meta, likes, tags FROM t WHERE id = 'a'")
    return body, json.loads(meta), likes, json.loads(tags)


def plain(values: tuple[Any, ...]) -> tuple[Any, ...]:
    body, meta, likes, tags = values
    return body, json.loads(meta), likes, json.loads(tags)


@pytest.mark.parametrize("tracked_first", [False, True])
@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("own", [BASE, ONE], ids=["the value inserted", "the value edited"])
def test_an_equal_row_is_one_row_and_what_both_add_then_merges(
    world: World, edited: bool, own: tuple[Any, ...], tracked_first: bool
) -> None:
    one = founded(world, edited=edited, tracked_first=tracked_first)
    two = joined(world, one, own)
    met(one, two)
    assert shown(one) == plain(ONE if edited else BASE)
    listed = {column: value for _, column, value, _ in conflicts_of(one)}
    assert set(listed.values()) <= set(BASE) | set(ONE)

    write_apart([one], f"UPDATE t SET {EDITS['two']}")
    write_apart([two], "UPDATE t SET likes = likes + 100, meta = json_set(meta, '$.d', 4)")
    sync_all([one, two])
    body, meta, likes, tags = plain(BOTH) if edited else plain(BASE)
    if not edited:
        body, tags = "In May: To Rome", ["base", "c"]
        meta, likes = {"base": 1, "c": 3}, 11
    assert shown(two) == (body, meta | {"d": 4}, likes + 100, tags)
    assert conflicts_of(two) == []
    assert_converged([one, two], ["t"])


@pytest.mark.parametrize("at", [LONG_AGO, LATER], ids=["older", "newer"])
@pytest.mark.parametrize("edited", [False, True])
def test_of_rows_that_differ_one_shows_and_the_other_is_listed_whole(
    world: World, edited: bool, at: int
) -> None:
    one = founded(world, edited=edited, tracked_first=True)
    own = ("Shopping", '{"own":1}', 300, '["own"]')
    two = joined(world, one, own, at)
    met(one, two)
    theirs = plain(ONE if edited else BASE)
    listed = {column: value for _, column, value, _ in conflicts_of(one)}
    lost = (listed["body"], json.loads(listed["meta"]), listed["likes"], json.loads(listed["tags"]))
    assert {repr(shown(two)), repr(lost)} == {repr(theirs), repr(plain(own))}


def test_steps_on_both_before_they_meet_are_counted_once(world: World) -> None:
    """The row that joined is stepped on before its device has heard of anything."""
    one = founded(world, edited=True, tracked_first=True)
    two = joined(world, one, BASE)
    two.execute("UPDATE t SET likes = likes + 1 WHERE id = 'a'")
    met(one, two)
    write_apart([one, two], "UPDATE t SET likes = likes + 1000 WHERE id = 'a'")
    sync_all([one, two])
    ((likes,),) = rows_of(one, "SELECT likes FROM t WHERE id = 'a'")
    assert likes in (2015, 2011)
    assert_converged([one, two], ["t"])


def test_rows_of_a_table_that_another_device_tracked_first_count_nothing_twice(world: World) -> None:
    """Both files hold a copy of one table, one of them with an older number; consent comes after the other's steps."""
    one, two = devices(world, ["one", "two"], [])
    for db, row in ((one, BASE), (two, ONE)):
        db.execute(TABLE)
        db.execute("INSERT INTO t VALUES ('a', ?, ?, ?, ?)", row)
    one.track("t", KINDS)
    write_apart([one], f"UPDATE t SET {EDITS['one']}")
    with pytest.raises(TablePaused, match="to share the rows that are here"):
        sync_all([one, two])
    two.track("t")
    sync_all([one, two])
    assert_converged([one, two], ["t"])
    assert shown(one) == plain(ONE)
    write_apart([one, two], "UPDATE t SET likes = likes + 1")
    sync_all([one, two])
    assert rows_of(two, "SELECT likes FROM t") == [(17,)]
    assert_converged([one, two], ["t"])
