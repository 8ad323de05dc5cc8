"""Rows from before joining or tracking: they merge by key, nothing is lost, and equal rows make no noise."""

import os

import pytest

from crdtlog.errors import SchemaRefused
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    conflicts_of,
    fill,
    rows_of,
    send,
    sync,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"


def prepare(world: World, name: str, rows: str) -> None:
    """A file that is no replicated database yet, with some rows."""
    with closing_connection(world.path(name)) as connection:
        connection.execute(TABLE)
        connection.execute(f"INSERT INTO t VALUES {rows}")


def test_rows_of_both_merge_by_key_and_nothing_is_lost(world: World) -> None:
    one = world.found(
        "one", [TABLE], "INSERT INTO t VALUES ('same', 'v', 1), ('differs', 'one', 1), ('one', 'x', 1)"
    )
    prepare(world, "other", "('same', 'v', 1), ('differs', 'other', 1), ('other', 'y', 1)")
    other = world.join("other", one)
    sync(one, other)
    assert [row[0] for row in rows_of(one)] == ["differs", "one", "same"], "not before it has caught up"
    other.caught_up()
    sync(one, other)

    assert [row[0] for row in rows_of(one)] == ["differs", "one", "other", "same"]
    values = {row[1] for row in rows_of(one) if row[0] == "differs"}
    values |= {value for key, column, value, _ in conflicts_of(one) if (key, column) == ("differs", "v")}
    assert values == {"one", "other"}
    assert all(key == "differs" for key, *_ in conflicts_of(one))
    assert_converged([one, other], ["t"])


def test_equal_rows_are_adopted_without_writing_anything(world: World) -> None:
    one = world.found("one", [TABLE], "INSERT INTO t VALUES ('x', 'same', 1), ('y', 'same', 2)")
    prepare(world, "other", "('x', 'same', 1), ('y', 'same', 2)")
    other = world.join("other", one)
    send(one, other)
    other.caught_up()
    sync(one, other)

    assert_converged([one, other], ["t"])
    assert other.conflicts() == []
    assert [entry for entry in one.log() if entry["device"] == "other"] == []


@pytest.mark.parametrize("modified_s", [0, 1, -86_400, 1_000_000_000])
def test_an_old_file_that_joins_does_not_overrule_newer_values(world: World, modified_s: int) -> None:
    """Archives and images often date their files 1970, at the very zero of the clock."""
    prepare(world, "other", "('k', 'stale', 1), ('own', 'kept', 1)")
    os.utime(world.path("other"), (modified_s, modified_s))
    one = world.found("one", [TABLE], "INSERT INTO t VALUES ('k', 'current', 1)")
    other = world.join("other", one)
    send(one, other)
    other.caught_up()
    sync(one, other)

    assert rows_of(one) == rows_of(other) == [("k", "current", 1), ("own", "kept", 1)]
    assert conflicts_of(one) == [("k", "v", "stale", "other")]
    assert_converged([one, other], ["t"])


def test_a_file_dated_1970_has_its_rows_taken_in_when_tracked(world: World) -> None:
    prepare(world, "one", "('k', 'there before', 1)")
    one = world.found("one")
    for name in ("one.db", "one.db-wal", "one.db-shm"):
        os.utime(world.directory / name, (0, 0))

    one.track("t")

    assert one.check()[0].total == 0
    assert one.log(kind="data")


def test_writes_made_while_a_joiner_catches_up_are_kept(world: World) -> None:
    one = world.found("one", [TABLE])
    fill(one, 1, 200, "'k' || n, 'v' || n, n")
    one.drain_all()
    prepare(world, "other", "('k1', 'joiner', 0), ('mine', 'joiner', 0)")
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


def test_a_table_that_does_not_fit_is_refused_and_the_file_stays_as_it_was(world: World) -> None:
    one = world.found("one", [TABLE])
    with closing_connection(world.path("other")) as connection:
        connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY, else_ INTEGER)")
        connection.execute("INSERT INTO t VALUES ('k', 1)")

    with pytest.raises(SchemaRefused, match="does not fit"):
        world.join("other", one)

    with closing_connection(world.path("other")) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        assert names == [("t",)]
        assert connection.execute("SELECT * FROM t").fetchall() == [("k", 1)]
