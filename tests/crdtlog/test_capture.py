"""Capture: whatever plain SQL any client runs, the rows that it touched are noted, and their changes arrive elsewhere.

Each test writes through connections that know nothing of crdtlog, then lets another device take it over: equal tables
say that nothing was missed, `check` before the exchange says that no row changed unnoticed.
"""

import sqlite3
from pathlib import Path

import pytest

from crdtlog.database import Database
from crdtlog.errors import Untrackable
from crdtlog.schema.description import COLUMNS_LIMIT
from tests.crdtlog.devices import World, assert_converged, closing_connection, pair, sync, table_rows

NOTES = "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title, n INTEGER)"
ROWS = "INSERT INTO notes VALUES ('a', 'one', 1), ('b', 'two', 2), ('c', 'three', 3)"


def write(db: Database, *statements: str) -> None:
    """Some other program's connection, one autocommit statement after the other."""
    with closing_connection(db.path) as connection:
        for sql in statements:
            connection.execute(sql)


def changes_arrive(one: Database, other: Database, *tables: str) -> None:
    """What was written on `one` is noticed, logged and shown on `other`."""
    one.drain_all()
    assert all(difference.total == 0 for difference in one.check()), "a change that no trigger noticed"
    sync(one, other)
    assert_converged([one, other], tables)


@pytest.mark.parametrize(
    "statements",
    [
        ["INSERT INTO notes VALUES ('d', 'four', 4)"],
        ["INSERT INTO notes SELECT id || id, title, n FROM notes"],
        ["UPDATE notes SET title = 'new' WHERE id = 'a'"],
        ["UPDATE notes SET title = upper(title), n = n + 1"],
        ["DELETE FROM notes WHERE n > 1"],
        ["DELETE FROM notes"],
        ["INSERT OR REPLACE INTO notes VALUES ('a', 'new', 9)"],
        ["REPLACE INTO notes (id) VALUES ('a'), ('z')"],
        ["INSERT OR IGNORE INTO notes VALUES ('a', 'ignored', 0), ('d', 'kept', 0)"],
        ["INSERT INTO notes VALUES ('a', 'x', 5) ON CONFLICT (id) DO UPDATE SET n = excluded.n + n"],
        ["INSERT INTO notes VALUES ('a', 'x', 5) ON CONFLICT (id) DO NOTHING"],
        ["UPDATE notes SET id = 'z' WHERE id = 'a'"],
        ["UPDATE OR REPLACE notes SET id = 'b' WHERE id = 'a'"],
        ["UPDATE OR IGNORE notes SET id = 'b' WHERE id = 'a'"],
        ["UPDATE notes SET id = id || '!' , n = 0"],
        ["DELETE FROM notes WHERE id = 'a'", "INSERT INTO notes VALUES ('a', 'again', 1)"],
        ["INSERT INTO notes VALUES ('d', 'four', 4)", "DELETE FROM notes WHERE id = 'd'"],
        [
            "BEGIN",
            "UPDATE notes SET id = 't' WHERE id = 'a'",
            "UPDATE notes SET id = 'a' WHERE id = 'b'",
            "UPDATE notes SET id = 'b' WHERE id = 't'",
            "COMMIT",
        ],
        ["PRAGMA recursive_triggers = ON", "REPLACE INTO notes VALUES ('a', 'new', 9)"],
        [
            "WITH up (k) AS (SELECT id FROM notes WHERE n > 1) UPDATE notes SET n = 0 WHERE id IN (SELECT k FROM up)"
        ],
        ["UPDATE notes SET n = other.n FROM (SELECT 7 AS n) AS other RETURNING id"],
    ],
    ids=lambda statements: "; ".join(statements)[:60],
)
def test_every_way_of_writing_is_captured(world: World, statements: list[str]) -> None:
    one, other = pair(world, NOTES, rows=ROWS)

    write(one, *statements)

    changes_arrive(one, other, "notes")


@pytest.mark.parametrize(
    "statements",
    [
        ["BEGIN", "UPDATE notes SET n = 9", "DELETE FROM notes", "ROLLBACK"],
        ["BEGIN", "SAVEPOINT s", "DELETE FROM notes", "ROLLBACK TO s", "COMMIT"],
        ["UPDATE notes SET n = n", "REPLACE INTO notes VALUES ('a', 'one', 1)"],
        ["BEGIN", "UPDATE notes SET n = 9 WHERE id = 'a'", "UPDATE notes SET n = 1 WHERE id = 'a'", "COMMIT"],
    ],
    ids=["rolled back", "rolled back to a savepoint", "rewritten as it was", "there and back"],
)
def test_what_changed_nothing_in_the_end_writes_no_entry(world: World, statements: list[str]) -> None:
    one, _ = pair(world, NOTES, rows=ROWS)
    position = one.position()

    write(one, *statements)

    assert one.drain_all() == 0
    assert one.position() == position
    assert one.pending() == 0


def test_a_statement_that_fails_half_way_captures_nothing(world: World) -> None:
    one, _ = pair(world, NOTES, rows=ROWS)

    with pytest.raises(sqlite3.IntegrityError):
        write(one, "INSERT INTO notes SELECT 'x' || n, n, n FROM notes UNION ALL SELECT 'a', 0, 0")

    assert one.pending() == 0


def test_one_transaction_over_several_tables_is_one_entry(world: World) -> None:
    one, other = pair(world, NOTES, "CREATE TABLE tags (name TEXT PRIMARY KEY, n)", rows=ROWS)
    before = len(one.log())

    write(one, "BEGIN", "INSERT INTO tags VALUES ('t', 1)", "DELETE FROM notes WHERE n > 1", "COMMIT")

    changes_arrive(one, other, "notes", "tags")
    assert len(one.log()) == before + 1


def test_cascades_set_null_and_key_changes_of_parents_are_captured(world: World) -> None:
    one, other = pair(
        world,
        "CREATE TABLE parents (id TEXT PRIMARY KEY)",
        "CREATE TABLE gone (id TEXT PRIMARY KEY, p REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE)",
        "CREATE TABLE kept (id TEXT PRIMARY KEY, p REFERENCES parents ON DELETE SET NULL ON UPDATE CASCADE)",
        rows="INSERT INTO parents VALUES ('p'), ('q'); INSERT INTO gone VALUES ('1', 'p'), ('2', 'q');"
        "INSERT INTO kept VALUES ('1', 'p'), ('2', 'q')",
    )

    write(
        one, "PRAGMA foreign_keys = ON", "DELETE FROM parents WHERE id = 'p'", "UPDATE parents SET id = 'r'"
    )

    changes_arrive(one, other, "parents", "gone", "kept")
    assert [row[0][1] for row in table_rows(other, "gone")] == ["2"]


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, v)",
        "CREATE TABLE t (k TEXT COLLATE NOCASE, v, PRIMARY KEY (k COLLATE BINARY))",
    ],
    ids=["a nocase key keeps its row", "a binary key on a nocase column moves"],
)
def test_a_key_that_changes_only_in_case_arrives(world: World, table: str) -> None:
    one, other = pair(world, table, rows="INSERT INTO t VALUES ('a', 1)")

    write(one, "UPDATE t SET k = 'A'")

    changes_arrive(one, other, "t")
    assert other.execute("SELECT k, v FROM t").fetchall() == [("A", 1)]


def test_rows_with_null_in_their_key_stay_here_and_are_counted(world: World) -> None:
    one, other = pair(world, "CREATE TABLE t (a TEXT, b TEXT, v, PRIMARY KEY (a, b))")

    write(one, "INSERT INTO t VALUES (NULL, 'x', 1), ('k', 'x', 2), ('l', NULL, 3)")
    one.drain_all()
    sync(one, other)

    assert other.execute("SELECT * FROM t").fetchall() == [("k", "x", 2)]
    assert one.check()[0].null_keys == 2
    assert one.check()[0].total == 0


def test_a_row_whose_key_becomes_null_leaves_and_comes_back_with_its_key(world: World) -> None:
    one, other = pair(world, "CREATE TABLE t (a TEXT PRIMARY KEY, v)", rows="INSERT INTO t VALUES ('k', 1)")

    write(one, "UPDATE t SET a = NULL")
    sync(one, other)
    assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)
    write(one, "UPDATE t SET a = 'k', v = 2")

    changes_arrive(one, other, "t")
    assert other.execute("SELECT * FROM t").fetchall() == [("k", 2)]


def test_a_table_of_key_columns_alone_is_captured(world: World) -> None:
    links = "CREATE TABLE links (a TEXT, b TEXT, PRIMARY KEY (a, b))"
    one, other = pair(world, links, rows="INSERT INTO links VALUES (1, 2)")

    write(
        one,
        "INSERT INTO links VALUES ('x', 'y')",
        "UPDATE links SET b = 'z' WHERE a = 'x'",
        "DELETE FROM links WHERE a = 1",
    )

    changes_arrive(one, other, "links")


def test_two_hundred_columns_each_change_by_themselves(world: World) -> None:
    columns = [f"c{n}" for n in range(200)]
    one, other = pair(
        world,
        f"CREATE TABLE wide (id TEXT PRIMARY KEY, {', '.join(columns)})",
        rows=f"INSERT INTO wide VALUES ('k', {', '.join('0' for _ in columns)})",
    )

    write(one, *(f"UPDATE wide SET {name} = 'one'" for name in columns[::3]))
    write(other, *(f"UPDATE wide SET {name} = 'other'" for name in columns[1::3]))
    one.drain_all()
    other.drain_all()

    changes_arrive(one, other, "wide")
    row = one.execute("SELECT * FROM wide").fetchone()
    assert row == ("k", *(["one", "other", 0] * 67)[:200])
    assert one.conflicts() == []


def wide(columns: int) -> str:
    """A table of that many columns, the key included."""
    return f"CREATE TABLE wide (id TEXT PRIMARY KEY, {', '.join(f'c{n}' for n in range(1, columns))})"


def test_a_table_as_wide_as_may_be_is_exchanged(world: World) -> None:
    one, other = pair(world, wide(COLUMNS_LIMIT))

    write(
        one,
        f"INSERT INTO wide (id, c{COLUMNS_LIMIT - 1}) VALUES ('k', 1)",
        "UPDATE wide SET c1 = 2, c700 = 3",
    )

    changes_arrive(one, other, "wide")


@pytest.mark.parametrize("columns", [COLUMNS_LIMIT + 1, 2_000])
def test_a_wider_table_is_refused_when_it_is_tracked(world: World, columns: int) -> None:
    """SQLite gives a query 2,000 columns at most, and the engine reads a row together with its document."""
    one = world.found("one")
    one.execute(wide(columns))

    with pytest.raises(Untrackable, match=f"{COLUMNS_LIMIT} columns"):
        one.track("wide")

    assert one.tables() == []


def test_generated_columns_are_left_to_each_device(world: World) -> None:
    one, other = pair(
        world, "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, twice AS (n * 2) STORED, said AS (id || n))"
    )

    write(one, "INSERT INTO t VALUES ('a', 1)", "UPDATE t SET n = 4")

    changes_arrive(one, other, "t")
    assert other.execute("SELECT twice, said FROM t").fetchall() == [(8, "a4")]


def test_what_clients_ask_about_their_own_writes_is_answered_as_without_triggers(world: World) -> None:
    one, _ = pair(world, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)")

    with closing_connection(one.path) as connection:
        cursor = connection.execute("INSERT INTO t VALUES (41, 'x'), (42, 'y')")
        assert cursor.lastrowid == 42
        assert connection.execute("SELECT changes(), last_insert_rowid()").fetchone() == (2, 42)


def test_a_file_attached_to_another_database_is_captured(world: World, tmp_path: Path) -> None:
    one, other = pair(world, NOTES, rows=ROWS)

    with closing_connection(tmp_path / "main.db") as connection:
        connection.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, title, n)")
        connection.execute("ATTACH ? AS shared", (str(one.path),))
        connection.execute("INSERT INTO shared.notes VALUES ('new', 'x', 1)")

    changes_arrive(one, other, "notes")


def test_many_rows_at_once_are_captured(world: World) -> None:
    one, other = pair(world, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)")

    write(
        one,
        "WITH RECURSIVE up (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < 12000) "
        "INSERT INTO t SELECT n, n FROM up",
        "UPDATE t SET v = -v",
    )

    changes_arrive(one, other, "t")
    assert other.execute("SELECT count(*), sum(v) FROM t").fetchone() == (12_000, -72_006_000)


def test_triggers_name_key_columns_only_so_that_other_columns_can_be_dropped(world: World) -> None:
    one, _ = pair(world, NOTES, rows=ROWS)

    with closing_connection(one.path) as connection:
        connection.execute("ALTER TABLE notes DROP COLUMN title")
        connection.execute("ALTER TABLE notes RENAME COLUMN n TO number")
        connection.execute("INSERT INTO notes VALUES ('still', 1)")

    assert one.pending() == 1


def test_apply_does_not_echo(world: World) -> None:
    one, other = pair(world, NOTES, rows=ROWS)
    write(
        one,
        "UPDATE notes SET n = 0",
        "DELETE FROM notes WHERE id = 'a'",
        "INSERT INTO notes VALUES ('z', 1, 1)",
    )

    sync(one, other)
    position = other.position()

    assert other.pending() == 0
    assert other.drain_all() == 0
    assert other.position() == position
