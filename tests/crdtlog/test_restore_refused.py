"""Restoring that cannot be: it is said why, and nothing is written."""

import sqlite3
from typing import Any

import pytest

from crdtlog.errors import NoSuchRow, NoSuchTable, NoSuchVersion, TablePaused, Usage
from tests.crdtlog.devices import World, apart, assert_converged, rows_of, sync, table_rows

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"
ROW = "INSERT INTO t VALUES ('k', 'old', 0)"


@pytest.mark.parametrize(
    ("table", "key", "column", "dot", "error", "words"),
    [
        ("u", "k", "v", "one:3", NoSuchTable, "no tracked table"),
        ("t", "no", "v", "one:3", NoSuchRow, "no row 'no'"),
        ("t", "k", "w", "one:3", NoSuchTable, "no column 'w'"),
        ("t", "k", "id", "one:3", NoSuchTable, "part of its key"),
        ("t", "k", "v", "one:1", NoSuchVersion, "row 'k' of table t has no version one:1 of that"),
        ("t", "k", "v", "one:99", NoSuchVersion, "one:99"),
        ("t", "k", "v", "nobody:3", NoSuchVersion, "nobody:3"),
        ("t", "k", "n", "one:4", NoSuchVersion, "one:4"),
        ("t", "other", "v", "one:4", NoSuchVersion, "row 'other'"),
        ("t", "k", None, "one:4", NoSuchVersion, "is there"),
        ("t", "gone", None, "one:3", NoSuchVersion, "lost nothing by one:3"),
        ("t", "k", "v", "one", Usage, "names no version"),
        ("t", "k", "v", ":3", Usage, "names no version"),
        ("t", "k", "v", "one:", Usage, "names no version"),
        ("t", "k", "v", "one:-3", Usage, "names no version"),
        ("t", "k", "v", "one:³", Usage, "names no version"),
        ("t", "k", "v", "one:" + "9" * 30, Usage, "names no version"),
        ("t", ("k", "k"), "v", "one:3", Usage, "has 1 columns"),
    ],
)
def test_what_cannot_be_put_back_is_said_and_nothing_is_written(
    world: World, table: str, key: Any, column: str | None, dot: str, error: type[Exception], words: str
) -> None:
    db = world.found(
        "one", [TABLE], "INSERT INTO t VALUES ('k', 'old', 0), ('other', 'x', 0), ('gone', 'x', 0)"
    )
    assert db.heads()[db.writer].seq == 3
    db.execute("UPDATE t SET v = 'new' WHERE id = 'k'")
    db.drain_all()
    db.execute("DELETE FROM t WHERE id = 'gone'")
    db.drain_all()
    before = db.heads(), table_rows(db, "t")

    with pytest.raises(error, match=words):
        db.restore_value(table, key, column, dot)

    assert (db.heads(), table_rows(db, "t")) == before
    assert db.pending() == 0
    assert_converged([db], ["t"])


def test_what_is_captured_stays_captured_if_nothing_can_be_put_back(world: World) -> None:
    db = world.found("one", [TABLE], ROW)
    db.execute("UPDATE t SET v = 'captured'")

    with pytest.raises(NoSuchVersion):
        db.restore_value("t", "k", "v", "nobody:3")

    assert [line.value for line in db.history("t", "k", "v")] in (["old"], ["old", "captured"])
    db.drain_all()
    assert [line.value for line in db.history("t", "k", "v")] == ["old", "captured"]
    assert_converged([db], ["t"])


@pytest.mark.parametrize("sql", ["UPDATE t SET v = 'won'", "DELETE FROM t"])
def test_what_fails_in_the_middle_leaves_nothing_behind(world: World, sql: str) -> None:
    one, other = apart(world, TABLE, "UPDATE t SET v = 'lost'", sql, rows=ROW)
    (conflict,) = one.conflicts()
    before = rows_of(one), one.heads(), one.conflicts()
    one.execute("CREATE TRIGGER full BEFORE INSERT ON crdtlog__log BEGIN SELECT raise(ABORT, 'full'); END")

    with pytest.raises(sqlite3.IntegrityError, match="full"):
        one.restore_value("t", "k", conflict["column"], conflict["dot"])

    assert (rows_of(one), one.heads(), one.conflicts()) == before
    assert one.pending() == 0
    one.execute("DROP TRIGGER full")
    one.restore_value("t", "k", conflict["column"], conflict["dot"])
    sync(one, other)
    assert rows_of(other) == [("k", "lost", 0)]
    assert_converged([one, other], ["t"])


def test_nothing_is_put_back_into_a_paused_table(world: World) -> None:
    db = world.found("one", [TABLE], ROW)
    (line,) = db.history("t", "k", "v")
    db.execute("UPDATE t SET v = 'new'")
    db.drain_all()
    db.execute("ALTER TABLE t ADD COLUMN more")

    with pytest.raises(TablePaused, match="more"):
        db.restore_value("t", "k", "v", line.dot)

    assert rows_of(db) == [("k", "new", 0, None)]
