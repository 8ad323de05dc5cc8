"""What was here is never overwritten unseen: rows that no trigger noticed, and rows from before joining or tracking."""

import os

import pytest

from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    conflicts_of,
    fill,
    pair,
    rows_of,
    send,
    sync,
    without_triggers,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET v = 'unseen' WHERE id = 'k'",
        "DELETE FROM t WHERE id = 'k'",
        "INSERT INTO t VALUES ('new', 'unseen', 0)",
    ],
)
def test_a_row_that_changed_without_triggers_is_captured_before_it_is_overwritten(
    world: World, sql: str
) -> None:
    one, other = pair(world, TABLE, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    other.execute("UPDATE t SET v = 'theirs' WHERE id = 'k'")
    other.execute("INSERT INTO t VALUES ('new', 'theirs', 0)")
    other.drain_all()
    without_triggers(one, sql)
    assert one.pending() == 0

    send(other, one)
    sync(one, other)

    assert_converged([one, other], ["t"])
    shown = {(row[0], row[1]) for row in rows_of(one)}
    listed = {(key, value) for key, _, value, _ in conflicts_of(one)}
    if "DELETE" in sql:
        assert ("k", "theirs") in shown or any("theirs" in str(value) for _, value in listed)
    else:
        key = "k" if "UPDATE" in sql else "new"
        assert {(key, "unseen"), (key, "theirs")} <= shown | listed


def test_a_cell_that_changed_without_triggers_stays_beside_one_that_arrives(world: World) -> None:
    one, other = pair(world, TABLE, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    without_triggers(one, "UPDATE t SET n = 7")
    other.execute("UPDATE t SET v = 'theirs'")

    sync(one, other)

    assert rows_of(one) == [("k", "theirs", 7)]
    assert [difference.total for difference in one.check(fix=True)] == [1]
    sync(one, other)
    assert_converged([one, other], ["t"])
    assert rows_of(other) == [("k", "theirs", 7)]


@pytest.mark.parametrize(
    "columns", ["v", "rowid TEXT, v", "rowid, ROWID_, _rowid_ TEXT, v", "rowid, _rowid_, oid TEXT, v"]
)
def test_columns_may_be_called_as_sqlite_calls_a_row(world: World, columns: str) -> None:
    one, other = pair(world, f"CREATE TABLE t (id TEXT PRIMARY KEY, {columns})")
    for at, key in enumerate("abc"):
        if columns == "v":
            one.execute("INSERT INTO t (rowid, id, v) VALUES (?, ?, 'old')", (at - 1, key))
        else:
            one.execute("INSERT INTO t (id, rowid, v) VALUES (?, 'mine', 'old')", (key,))
    sync(one, other)
    other.execute("UPDATE t SET v = 'b of other' WHERE id = 'b'")
    other.execute("UPDATE t SET v = 'c of other' WHERE id = 'c'")
    one.execute("UPDATE t SET v = 'c of one' WHERE id = 'c'")

    sync(one, other)

    assert_converged([one, other], ["t"])
    (a,), (b,), (c,) = one.execute("SELECT v FROM t ORDER BY id").fetchall()
    assert (a, b) == ("old", "b of other")
    (lost,) = [value for _, _, value, _ in conflicts_of(one)]
    assert {c, lost} == {"c of one", "c of other"}


def test_rows_that_were_here_before_joining_merge_by_key_and_nothing_is_lost(world: World) -> None:
    one = world.found(
        "one", [TABLE], "INSERT INTO t VALUES ('same', 'v', 1), ('differs', 'one', 1), ('one', 'x', 1)"
    )
    with closing_connection(world.path("other")) as connection:
        connection.execute(TABLE)
        connection.execute(
            "INSERT INTO t VALUES ('same', 'v', 1), ('differs', 'other', 1), ('other', 'y', 1)"
        )
    other = world.join("other", one)
    send(one, other)
    other.caught_up()
    sync(one, other)

    assert [row[0] for row in rows_of(one)] == ["differs", "one", "other", "same"]
    values = {row[1] for row in rows_of(one) if row[0] == "differs"}
    values |= {value for key, column, value, _ in conflicts_of(one) if (key, column) == ("differs", "v")}
    assert values == {"one", "other"}
    assert all(key == "differs" for key, *_ in conflicts_of(one))
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("modified_s", [0, 1, -86_400, 1_000_000_000])
def test_an_old_file_that_joins_does_not_overrule_newer_values(world: World, modified_s: int) -> None:
    """Archives and images often date their files 1970, at the very zero of the clock."""
    with closing_connection(world.path("other")) as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO t VALUES ('k', 'stale', 1), ('own', 'kept', 1)")
    for name in ("other.db", "other.db-wal"):
        if (world.directory / name).exists():
            os.utime(world.directory / name, (modified_s, modified_s))
    one = world.found("one", [TABLE], "INSERT INTO t VALUES ('k', 'current', 1)")
    other = world.join("other", one)
    send(one, other)
    other.caught_up()
    sync(one, other)

    assert rows_of(one) == rows_of(other) == [("k", "current", 1), ("own", "kept", 1)]
    assert conflicts_of(one) == [("k", "v", "stale", "other")]


def test_a_file_dated_1970_has_its_rows_taken_in_when_tracked(world: World) -> None:
    with closing_connection(world.path("one")) as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO t VALUES ('k', 'there before', 1)")
    os.utime(world.path("one"), (0, 0))
    one = world.found("one")
    os.utime(one.path, (0, 0))
    for name in ("one.db-wal", "one.db-shm"):
        os.utime(world.directory / name, (0, 0))

    one.track("t")

    assert one.check()[0].total == 0
    assert one.log(kind="data")


def test_two_devices_may_track_one_table_at_the_same_time(world: World) -> None:
    one = world.found("one")
    other = world.join("other", one)
    for db in (one, other):
        db.execute(TABLE)
        name = db.device.name
        db.execute("INSERT INTO t VALUES ('same', 'v', 1), (?, 'own', 1), ('differs', ?, 1)", (name, name))
        db.track("t")
    sync(one, other)

    assert [row[0] for row in rows_of(one)] == ["differs", "one", "other", "same"]
    assert_converged([one, other], ["t"])


def test_writes_made_while_a_joiner_catches_up_are_kept(world: World) -> None:
    one = world.found("one", [TABLE])
    fill(one, 1, 200, "'k' || n, 'v' || n, n")
    one.drain_all()
    with closing_connection(world.path("other")) as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO t VALUES ('k1', 'joiner', 0), ('mine', 'joiner', 0)")
    other = world.join("other", one)
    other.execute("UPDATE t SET v = 'meanwhile' WHERE id = 'k1'")
    other.execute("INSERT INTO t VALUES ('k2', 'meanwhile', 0)")
    send(one, other)
    other.execute("DELETE FROM t WHERE id = 'k3'")
    other.caught_up()
    sync(one, other)

    assert_converged([one, other], ["t"])
    shown = {row[0]: row[1] for row in rows_of(one)}
    assert shown["k1"] == shown["k2"] == "meanwhile"
    assert shown["mine"] == "joiner"
    assert "k3" not in shown
