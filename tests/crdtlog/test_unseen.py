"""What is here is never overwritten unseen: rows that changed although no trigger noticed."""

import pytest

from tests.crdtlog.devices import (
    World,
    assert_converged,
    conflicts_of,
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
