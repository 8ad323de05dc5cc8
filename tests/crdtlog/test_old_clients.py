"""SQLite 3.24.0, the oldest supported client, reads and writes tracked files; everything it does is captured.

It is compiled without optional parts, so that whatever our triggers and views need beyond the bare library fails here.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtlog.database import Database
from tests.crdtlog.devices import World, assert_converged, devices, sync
from tests.old_sqlite import OldSqliteError, old_sqlite, old_sqlite_version

pytestmark = pytest.mark.usefixtures("needs_old_sqlite")

# Every shape of table that SQLite 3.24 can read: STRICT and generated columns came later.
SHAPES = [
    "CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT, n INTEGER, r REAL, b BLOB)",
    "CREATE TABLE pairs (a TEXT, b INTEGER, v, PRIMARY KEY (b, a)) WITHOUT ROWID",
    "CREATE TABLE numbered (id INTEGER PRIMARY KEY AUTOINCREMENT, v NOT NULL DEFAULT 'd')",
    "CREATE TABLE folded (id TEXT COLLATE NOCASE PRIMARY KEY, v)",
    "CREATE TABLE trimmed (id TEXT, v, PRIMARY KEY (id COLLATE RTRIM))",
    "CREATE TABLE blobs (id BLOB PRIMARY KEY NOT NULL, v)",
    'CREATE TABLE "select ""it"" über" ("group" TEXT PRIMARY KEY, "or""der" , v)',
    "CREATE TABLE parents (id TEXT PRIMARY KEY, v)",
    "CREATE TABLE children (id TEXT PRIMARY KEY, p REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE, v)",
]
TABLES = [
    "notes",
    "pairs",
    "numbered",
    "folded",
    "trimmed",
    "blobs",
    'select "it" über',
    "parents",
    "children",
]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    with World(tmp_path) as world:
        one, other = devices(world, ["one", "other"], SHAPES)
        yield one, other


def test_the_version_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nold client: SQLite {old_sqlite_version()}")

    assert old_sqlite_version() == "3.24.0"


def arrives(pair: tuple[Database, Database]) -> None:
    one, other = pair
    one.drain_all()
    assert all(difference.total == 0 for difference in one.check()), "a change that was not captured"
    sync(one, other)
    assert_converged(pair, TABLES)


def test_inserts_updates_and_deletes_in_every_shape_of_table_are_captured(
    pair: tuple[Database, Database],
) -> None:
    one, other = pair
    old_sqlite(
        one.path,
        """
        INSERT INTO notes VALUES ('a', 'one', 9223372036854775807, -0.5, x'00ff'), ('b', '', NULL, 9e999, x'');
        INSERT INTO pairs VALUES ('x', 1, 'v'), ('y', 2, 3.5);
        INSERT INTO numbered (v) VALUES ('auto'), (7);
        INSERT INTO folded VALUES ('Key', 1), ('ÄÖ', 2);
        INSERT INTO trimmed VALUES ('k  ', 1);
        INSERT INTO blobs VALUES (x'6b', 'blob'), ('k', 'text');
        INSERT INTO "select ""it"" über" VALUES ('g', 1, 2);
        """,
    )
    arrives(pair)
    assert len(other.execute("SELECT * FROM notes").fetchall()) == 2

    old_sqlite(
        one.path,
        """
        UPDATE notes SET title = title || '!', n = 1 WHERE id = 'a';
        DELETE FROM notes WHERE id = 'b';
        INSERT OR REPLACE INTO pairs VALUES ('x', 1, 'replaced');
        INSERT INTO pairs VALUES ('y', 2, 0) ON CONFLICT (b, a) DO UPDATE SET v = 'upserted';
        UPDATE numbered SET id = id + 10;
        UPDATE folded SET id = 'KEY' WHERE id = 'key';
        UPDATE trimmed SET id = 'k ';
        UPDATE OR REPLACE blobs SET id = 'k' WHERE id = x'6b';
        DELETE FROM "select ""it"" über";
        """,
    )
    arrives(pair)
    assert other.execute("SELECT id FROM folded ORDER BY id").fetchall() == [("KEY",), ("ÄÖ",)]
    assert other.execute("SELECT v FROM pairs ORDER BY b").fetchall() == [("replaced",), ("upserted",)]


def test_cascades_are_captured(pair: tuple[Database, Database]) -> None:
    one, other = pair
    old_sqlite(
        one.path,
        """
        PRAGMA foreign_keys = ON;
        INSERT INTO parents VALUES ('p', 1), ('q', 2);
        INSERT INTO children VALUES ('1', 'p', 'x'), ('2', 'q', 'y');
        DELETE FROM parents WHERE id = 'p';
        UPDATE parents SET id = 'r' WHERE id = 'q';
        """,
    )

    arrives(pair)
    assert other.execute("SELECT id, p FROM children").fetchall() == [("2", "r")]


def test_a_transaction_that_is_rolled_back_captures_nothing(pair: tuple[Database, Database]) -> None:
    one, _ = pair
    old_sqlite(one.path, "BEGIN; INSERT INTO notes (id) VALUES ('x'); ROLLBACK")

    assert one.pending() == 0


def test_a_failed_statement_is_an_error_as_ever(pair: tuple[Database, Database]) -> None:
    one, _ = pair
    old_sqlite(one.path, "INSERT INTO notes (id) VALUES ('x')")

    with pytest.raises(OldSqliteError, match="UNIQUE"):
        old_sqlite(one.path, "INSERT INTO notes (id) VALUES ('x')")


def test_what_arrived_and_every_view_can_be_read(pair: tuple[Database, Database]) -> None:
    one, other = pair
    one.execute("INSERT INTO notes (id, title, n) VALUES ('k', 'ünï', 1)")
    one.execute("INSERT INTO pairs VALUES ('x', 1, 'v')")
    one.execute("INSERT INTO blobs VALUES (x'00', 'v')")
    sync(one, other)
    for db in pair:
        db.execute("UPDATE notes SET title = ?", (db.device.name,))
        db.drain_all()
    sync(one, other)

    assert old_sqlite(other.path, "SELECT title FROM notes") == [["other"]]
    assert old_sqlite(other.path, 'SELECT "table", key, "column", value, device FROM crdtlog_conflicts') == [
        ["notes", "k", "title", "one", "one"]
    ]
    devices_seen = old_sqlite(other.path, "SELECT name, role, self FROM crdtlog_devices ORDER BY name")
    assert devices_seen == [["one", "admin", "0"], ["other", "admin", "1"]]
    log = old_sqlite(other.path, "SELECT at, device, kind, summary FROM crdtlog_log")
    assert len(log) == len(other.log())
    assert all(at is not None and at.endswith("Z") for at, *_ in log)
    status = old_sqlite(other.path, 'SELECT "table", key, devices FROM crdtlog_row_status ORDER BY 1, 2')
    assert [row[0] for row in status] == ["blobs", "notes", "pairs"]
    assert status[0][1] in ('{"hex": "00"}', "X'00'")


def test_everything_in_the_file_is_understood_and_sound(pair: tuple[Database, Database]) -> None:
    one, _ = pair
    assert old_sqlite(one.path, "PRAGMA integrity_check") == [["ok"]]
    names = old_sqlite(one.path, "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    for (name,) in names:
        old_sqlite(one.path, f'SELECT * FROM "{str(name).replace(chr(34), chr(34) * 2)}"')


def test_an_old_client_writes_while_the_engine_drains(pair: tuple[Database, Database]) -> None:
    one, _ = pair
    for number in range(5):
        insert, update = f"INSERT INTO notes (id) VALUES ('{number}')", f"UPDATE notes SET r = {number}.5"
        old_sqlite(one.path, f"{insert}; {update}")
        one.drain_all()

    arrives(pair)
