"""Restoring: a version that lost or was overwritten is written again, shows everywhere, and settles its conflict."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.errors import NoSuchVersion, Usage
from crdtlog.restore import Restored
from crdtlog.values import key_text
from tests.crdtlog.clients import SHAPES, Shape, after_a_quarrel, literal, play, quarrel
from tests.crdtlog.devices import (
    World,
    apart,
    assert_converged,
    conflicts_of,
    devices,
    exact,
    logged,
    losers,
    new_entries,
    pair,
    quick_directory,
    rows_of,
    sync,
    sync_all,
    table_rows,
    without_triggers,
    write_apart,
)
from tests.crdtlog.oracle import by_definition, content, logged_lines

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"
ROW = "INSERT INTO t VALUES ('k', 'old', 0)"


def restored(db: Database, conflict: dict[str, Any]) -> Restored:
    """Put back what `conflicts` lists."""
    return db.restore_value(conflict["table"], conflict["key"], conflict["column"], conflict["dot"])


# --- any history --------------------------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(SHAPES[:-2]))
def test_whatever_is_listed_can_be_put_back_and_then_shows_everywhere(
    choose: st.DataObject, shape: Shape
) -> None:
    with after_a_quarrel(choose, shape) as dbs:
        while listed := dbs[0].conflicts():
            conflict = choose.draw(st.sampled_from(listed))
            done = restored(choose.draw(st.sampled_from(dbs)), conflict)
            sync_all(dbs)

            assert exact(done.value) == exact(conflict["value"] if done.column else None)
            assert done.revived == (conflict["column"] is None)
            for db in dbs:
                assert shows(db, done)
                assert not [x for x in db.conflicts() if cell(x) == cell(conflict)]
        assert_converged(dbs, [shape.name])


@given(st.data(), st.sampled_from(SHAPES[:-2]))
def test_whatever_history_tells_can_be_put_back(choose: st.DataObject, shape: Shape) -> None:
    with after_a_quarrel(choose, shape) as dbs:
        for key in list(logged_lines(dbs[0], shape.name))[:3]:
            lines = [line for line in dbs[0].history(shape.name, key) if line.column]
            if lines:
                line = choose.draw(st.sampled_from(lines))
                done = dbs[1].restore_value(shape.name, key, line.column, line.dot)
                sync_all(dbs)
                assert exact(done.value) == exact(line.value)
                assert all(shows(db, done) for db in dbs)
                assert "lost" not in {
                    x.state for x in dbs[0].history(shape.name, key, line.column) if x.column
                }
        assert_converged(dbs, [shape.name])


@given(st.data(), st.sampled_from(SHAPES[:-2]))
def test_what_is_put_back_amid_other_writes_merges_as_any_write(choose: st.DataObject, shape: Shape) -> None:
    plan = choose.draw(quarrel(3, shape))
    with quick_directory() as directory, World(directory) as world:
        dbs = devices(world, ["ant", "bee", "cat"], [shape.sql])
        for number, step in enumerate(plan):
            play(dbs, [step])
            db = dbs[number % 3]
            db.drain_all()
            if listed := db.conflicts():
                restored(db, choose.draw(st.sampled_from(listed)))
        sync_all(dbs)

        assert_converged(dbs, [shape.name])
        tables, lost = by_definition(dbs[0])
        assert content(dbs[2]) == tables
        assert set(losers(dbs[2])) == lost


def cell(conflict: dict[str, Any]) -> tuple[Any, ...]:
    return exact(conflict["key"]), conflict["column"]


def shows(db: Database, done: Restored) -> bool:
    """Whether the row stands, with the value that was restored."""
    slots = {column.name: slot for slot, column in db._state.table(done.table).cells}
    rows = {exact(key_text(key)): cells for key, cells in content(db)[done.table].items()}
    cells = rows.get(exact(done.key))
    return cells is not None and (done.column is None or cells[slots[done.column]] == exact(done.value))


# --- conflicts ----------------------------------------------------------------------------------------------------


def test_a_losing_value_that_is_put_back_shows_on_all_devices_and_ends_the_conflict(world: World) -> None:
    one, other = apart(world, TABLE, "UPDATE t SET v = 'lost'", "UPDATE t SET v = 'won'", rows=ROW)
    (conflict,) = one.conflicts()
    position = one.position()

    done = restored(one, conflict)

    own = f"{one.writer.hex()}:{one.heads()[one.writer].seq}"
    assert done == Restored("t", "k", "v", "lost", False, own)
    assert new_entries(one, position) == [1]
    sync(one, other)
    for db in (one, other):
        assert rows_of(db) == [("k", "lost", 0)]
        assert db.conflicts() == []
        assert [line.state for line in db.history("t", "k", "v")] == ["overwritten"] * 3 + ["shows"]
    assert_converged([one, other], ["t"])


def test_putting_back_the_value_that_shows_ends_the_conflict_too(world: World) -> None:
    one, other = apart(
        world, TABLE, "UPDATE t SET v = 'lost', n = 1", "UPDATE t SET v = 'won', n = 2", rows=ROW
    )
    other.execute("UPDATE t SET v = 'won'")
    other.drain_all()
    assert len(other.conflicts()) == 2, "writing the shown value again is no change"
    (shown,) = [line for line in one.history("t", "k", "v") if line.state == "shows"]

    done = one.restore_value("t", "k", "v", shown.dot)

    sync(one, other)
    assert done.dot is not None and not done.revived
    assert rows_of(one) == rows_of(other) == [("k", "won", 2)]
    assert conflicts_of(one) == conflicts_of(other) == [("k", "n", 1, "one")]
    (_, sections), *_ = reversed(logged(other))
    assert [section.cells for section in sections] == [[["won"]]], "one cell is written, not the row"
    assert_converged([one, other], ["t"])


def test_equal_values_that_lost_out_of_sight_end_as_well(world: World) -> None:
    one, other = apart(world, TABLE, "UPDATE t SET v = 'same'", "UPDATE t SET v = 'same'", rows=ROW)
    first = one.history("t", "k", "v")[1]

    assert one.restore_value("t", "k", "v", first.dot).dot is not None
    sync(one, other)

    assert losers(one) == losers(other) == []


def test_putting_back_what_shows_undisputed_writes_nothing(world: World) -> None:
    db = world.found("one", [TABLE], "INSERT INTO t VALUES ('k', 'v', 0)")
    (line,) = db.history("t", "k", "v")
    before = db.heads()

    assert db.restore_value("t", "k", "v", line.dot) == Restored("t", "k", "v", "v", False, None)

    assert db.heads() == before
    assert db.pending() == 0


def test_an_overwritten_value_can_be_put_back_although_there_is_no_conflict(world: World) -> None:
    one, other = apart(world, TABLE, "UPDATE t SET v = 'first'", "UPDATE t SET n = 7", rows=ROW)
    one.execute("UPDATE t SET v = 'second'")
    one.drain_all()
    first = one.history("t", "k", "v")[1]

    done = one.restore_value("t", "k", "V", first.dot)

    sync(one, other)
    assert (done.column, done.value) == ("v", "first")
    assert rows_of(other) == [("k", "first", 7)]


def test_two_devices_that_put_back_different_values_disagree_anew(world: World) -> None:
    one, other = apart(world, TABLE, "UPDATE t SET v = 'a'", "UPDATE t SET v = 'b'", rows=ROW)
    (conflict,) = one.conflicts()
    (shown,) = [line for line in one.history("t", "k", "v") if line.state == "shows"]

    restored(one, conflict)
    time.sleep(0.002)
    other.restore_value("t", "k", "v", shown.dot)
    sync(one, other)

    assert rows_of(one) == rows_of(other) == [("k", "b", 0)]
    assert conflicts_of(one) == conflicts_of(other) == [("k", "v", "a", "one")]
    assert_converged([one, other], ["t"])


def test_what_was_written_meanwhile_is_taken_in_first(world: World) -> None:
    one, other = apart(world, TABLE, "UPDATE t SET v = 'lost'", "UPDATE t SET v = 'won'", rows=ROW)
    (conflict,) = one.conflicts()
    one.execute("UPDATE t SET v = 'meanwhile', n = 5")
    one.execute("INSERT INTO t VALUES ('new', 1, 1)")

    restored(one, conflict)

    sync(one, other)
    assert rows_of(other) == [("k", "lost", 5), ("new", 1, 1)]
    assert [line.value for line in other.history("t", "k", "v")] == [
        "old",
        "lost",
        "won",
        "meanwhile",
        "lost",
    ]


@pytest.mark.parametrize("sql", ["UPDATE t SET v = 'unseen'", "DELETE FROM t"])
def test_a_change_that_no_trigger_saw_is_not_overwritten_unseen(world: World, sql: str) -> None:
    one, other = apart(world, TABLE, "UPDATE t SET v = 'lost', n = 1", "UPDATE t SET v = 'won'", rows=ROW)
    conflict = next(item for item in one.conflicts() if item["column"] == "v")
    without_triggers(one, sql)
    assert one.pending() == 0

    done = restored(one, conflict)

    sync(one, other)
    assert done.revived == ("DELETE" in sql)
    assert rows_of(one) == rows_of(other) == [("k", "lost", 1)]
    unseen = [(x.operation, x.value) for x in other.history("t", "k", "v")][-2]
    assert unseen == (("delete", None) if done.revived else ("update", "unseen"))
    assert_converged([one, other], ["t"])


# --- rows that are gone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", [None, "NULL"])
def test_a_row_that_was_deleted_unseen_comes_back_whole(world: World, column: str | None) -> None:
    wide = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER, b BLOB, r REAL, x)"
    one, other = apart(
        world,
        wide,
        f"UPDATE t SET v = CAST(x'fffe' AS TEXT), n = {2**63 - 1}, b = x'00ff', r = 9e999",
        "DELETE FROM t WHERE id = 'k'",
        rows="INSERT INTO t VALUES ('k', 'old', 0, NULL, 0.5, -0.0)",
    )
    (conflict,) = other.conflicts()
    assert (conflict["key"], conflict["column"]) == ("k", None)

    done = other.restore_value("t", "k", column, conflict["dot"])

    sync(one, other)
    assert done.revived and done.value is None and done.column is None
    for db in (one, other):
        odd = b"\xff\xfe".decode("utf-8", "surrogateescape")
        row = ("k", odd, 2**63 - 1, b"\0\xff", float("inf"), -0.0)
        assert table_rows(db, "t")[0] == tuple(map(exact, row))
        assert db.conflicts() == []
    assert_converged([one, other], ["t"])


def test_any_version_of_a_deleted_row_brings_it_back_with_that_value(world: World) -> None:
    one, other = apart(world, TABLE, "UPDATE t SET v = 'new', n = 5", "UPDATE t SET id = id", rows=ROW)
    one.execute("DELETE FROM t")
    sync(one, other)
    first = other.history("t", "k", "v")[0]

    done = other.restore_value("t", "k", "v", first.dot)

    sync(one, other)
    assert done.revived
    assert rows_of(one) == rows_of(other) == [("k", "old", 5)]
    assert_converged([one, other], ["t"])


def test_a_row_of_nothing_but_its_key_comes_back(world: World) -> None:
    schema = "CREATE TABLE t (a TEXT, b INTEGER, PRIMARY KEY (a, b))"
    one, other = pair(world, schema, rows="INSERT INTO t VALUES ('a', 1)")
    one.execute("DELETE FROM t")
    sync(one, other)
    insert, delete = other.history("t", '["a", 1]')

    with pytest.raises(NoSuchVersion):
        other.restore_value("t", ("a", 1), None, delete.dot)
    other.restore_value("t", ("a", 1), None, insert.dot)

    sync(one, other)
    assert rows_of(one, "SELECT * FROM t") == [("a", 1)]
    assert_converged([one, other], ["t"])


def test_a_numbered_row_comes_back(world: World) -> None:
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, n INTEGER)"
    one, other = apart(
        world,
        schema,
        "UPDATE t SET v = 'lost'",
        "DELETE FROM t",
        rows="INSERT INTO t VALUES (5, 'old', 0)",
    )

    other.restore_value("t", "5", "v", other.conflicts()[0]["dot"])

    sync(one, other)
    assert rows_of(one) == rows_of(other) == [(5, "lost", 0)]
    assert_converged([one, other], ["t"])


# --- keys and values ----------------------------------------------------------------------------------------------

VALUES = [
    None,
    2**63 - 1,
    -(2**63),
    2**53 + 1,
    0.1,
    -0.0,
    float("inf"),
    "",
    "a\0b\n",
    "1",
    "x'00'",
    b"",
    b"\0\xff",
]


@pytest.mark.parametrize("value", [*VALUES, memoryview(b"\xff\0\xfe")], ids=literal)
def test_every_value_comes_back_bit_for_bit(world: World, value: Any) -> None:
    one, other = pair(world, TABLE, rows=ROW)
    odd = isinstance(value, memoryview)
    sql = "UPDATE t SET v = CAST(? AS TEXT)" if odd else "UPDATE t SET v = ?"
    one.execute(sql, (bytes(value) if odd else value,))
    one.drain_all()
    time.sleep(0.002)
    other.execute("UPDATE t SET v = 'won'")
    sync(one, other)

    done = restored(other, other.conflicts()[0])

    sync(one, other)
    wanted = bytes(value).decode("utf-8", "surrogateescape") if odd else value
    assert exact(done.value) == exact(wanted)
    for db in (one, other):
        assert table_rows(db, "t") == [(exact("k"), exact(wanted), exact(0))]
        assert db.conflicts() == []
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("form", [("Rome", 1), '["rome", 1]', '["ROME", 1.0]'])
def test_a_spelling_of_a_key_that_lost_comes_back_too(world: World, form: Any) -> None:
    schema = "CREATE TABLE t (a TEXT COLLATE NOCASE, b INTEGER, v, PRIMARY KEY (a, b))"
    one, other = apart(
        world,
        schema,
        "UPDATE t SET a = 'ROME', v = 'lost'",
        "UPDATE t SET a = 'rome', v = 'won'",
        rows="INSERT INTO t VALUES ('Rome', 1, 'old')",
    )
    assert [item["key"] for item in one.conflicts()] == ['["rome", 1]'] * 2

    for conflict in one.conflicts():
        one.restore_value("t", form, conflict["column"], conflict["dot"])

    sync(one, other)
    assert rows_of(one, "SELECT * FROM t") == rows_of(other, "SELECT * FROM t") == [("ROME", 1, "lost")]
    assert one.conflicts() == []
    assert_converged([one, other], ["t"])


def test_a_column_called_null_is_a_column(world: World) -> None:
    db = world.found(
        "one", ['CREATE TABLE t (id TEXT PRIMARY KEY, "NULL")'], "INSERT INTO t VALUES ('k', 'old')"
    )
    db.execute("UPDATE t SET \"NULL\" = 'new'")
    db.drain_all()

    assert db.restore_value("t", "k", "NULL", "one:3").value == "old"


# --- dots ---------------------------------------------------------------------------------------------------------


def test_a_version_may_be_named_by_its_device_or_the_beginning_of_its_writer(world: World) -> None:
    one, _ = apart(world, TABLE, "UPDATE t SET v = 'lost'", "UPDATE t SET v = 'won'", rows=ROW)
    writer, _, number = one.conflicts()[0]["dot"].partition(":")

    for name in (writer, writer[:8], writer[:40].upper(), "one"):
        assert one.restore_value("t", "k", "v", f"{name}:{number}").value == "lost"


def test_a_name_that_two_versions_share_is_refused_with_both(world: World) -> None:
    one, other = pair(world, TABLE, rows=ROW)
    for db in (one, other):
        db._state.connection.execute("UPDATE crdtlog__device SET name = 'phone'")
    for _ in range(6):
        write_apart([one, other], "UPDATE t SET n = n + 1")
    sync(one, other)
    shared = {tuple(line.dot.split(":")) for line in one.history("t", "k", "n")}
    assert {(one.writer.hex(), "6"), (other.writer.hex(), "6")} <= shared
    before = one.heads()

    with pytest.raises(Usage, match="each of these versions") as caught:
        one.restore_value("t", "k", "n", "phone:6")

    assert one.writer.hex() in str(caught.value) and other.writer.hex() in str(caught.value)
    assert one.heads() == before
