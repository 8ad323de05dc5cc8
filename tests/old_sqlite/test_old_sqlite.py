"""The oldest supported SQLite is really that version, and shares a WAL file with today's."""

import sqlite3
from pathlib import Path

import pytest

from tests.old_sqlite import VERSION, OldSqliteError, old_sqlite, old_sqlite_version

pytestmark = pytest.mark.usefixtures("needs_old_sqlite")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A WAL file with what our internal tables use: a trigger with a clock, a table without rowid, a view."""
    path = tmp_path / "shared.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(
            """
            CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body);
            CREATE TABLE captured (at REAL, id TEXT, PRIMARY KEY (id, at)) WITHOUT ROWID;
            CREATE TRIGGER note_added AFTER INSERT ON notes BEGIN
              INSERT INTO captured VALUES (julianday('now'), NEW.id);
            END;
            CREATE VIEW recent AS SELECT notes.id, body, at FROM notes JOIN captured USING (id);
            """
        )
    connection.close()
    return path


def test_the_old_library_is_3_24_0() -> None:
    assert old_sqlite_version() == VERSION == "3.24.0"


def test_old_and_new_libraries_write_the_same_wal_file_at_the_same_time(file: Path) -> None:
    new = sqlite3.connect(file, isolation_level=None)
    new.execute("INSERT INTO notes VALUES ('new', 'from today')")

    old_sqlite(file, "INSERT INTO notes VALUES ('old', 'from 2018')")
    rows = old_sqlite(file, "SELECT id, body, at > 2460000 FROM recent")

    assert sorted(rows) == [["new", "from today", "1"], ["old", "from 2018", "1"]]
    assert new.execute("SELECT count(*) FROM captured").fetchone() == (2,)
    assert new.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert Path(f"{file}-wal").exists()
    assert new.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    new.close()


def test_every_kind_of_value_comes_back_as_it_was(file: Path) -> None:
    strange = "back\\slash\ttab\nline\r\\N ünïcode"
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO notes VALUES ('strange', ?)", (strange,))
    connection.close()

    assert old_sqlite(file, "SELECT body, NULL, '', x'00ff', 7, 1.5 FROM notes") == [
        [strange, None, "", "X'00FF'", "7", "1.5"]
    ]


def test_what_the_old_library_does_not_know_is_an_error(file: Path) -> None:
    with pytest.raises(OldSqliteError, match="syntax error"):
        old_sqlite(file, "INSERT INTO notes VALUES ('a', 'b') RETURNING id")
