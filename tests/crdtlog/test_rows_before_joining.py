"""A device that joins with rows of its own: they merge by key, nothing is lost, and equal rows make no noise."""

import os
import sqlite3
from pathlib import Path

import crdtlog
from crdtlog.device import load_device
from crdtlog.opening import newcomer_of
from tests.crdtlog.devices import World, assert_converged, devices, sync

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT, body TEXT)"
LONG_AGO = 1_600_000_000


def join_with(world: World, founder: crdtlog.Database, name: str, rows: str) -> crdtlog.Database:
    """A second device whose file already holds the table with some rows, last written long ago."""
    with sqlite3.connect(world.path(name)) as connection:
        connection.execute(SCHEMA)
        connection.execute(f"INSERT INTO notes VALUES {rows}")
    connection.close()
    os.utime(world.path(name), (LONG_AGO, LONG_AGO))
    home = world.home(name)
    founder.add_member(newcomer_of(load_device(home, name=name), "admin"))
    return crdtlog.adopt(world.path(name), founder.welcome(), home=home)


def test_equal_rows_are_adopted_without_writing_anything(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(
            world, ["a"], [SCHEMA], "INSERT INTO notes VALUES ('x', 'same', 'same'), ('y', 'b', 'c')"
        )
        with join_with(world, a, "b", "('x', 'same', 'same'), ('y', 'b', 'c')") as b:
            sync(a, b)
            b.caught_up()
            b.drain_all()
            sync(a, b)

            assert_converged([a, b], ["notes"])
            assert b.conflicts() == []
            assert [entry for entry in a.log() if entry["device"] == "b"] == []


def test_a_row_of_its_own_reaches_the_others(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], [SCHEMA], "INSERT INTO notes VALUES ('x', 'of a', NULL)")
        with join_with(world, a, "b", "('mine', 'of b', NULL)") as b:
            sync(a, b)
            assert a.execute("SELECT count(*) FROM notes").fetchone() == (1,), "not before it has caught up"
            b.caught_up()
            b.drain_all()
            sync(a, b)

            assert_converged([a, b], ["notes"])
            assert a.execute("SELECT title FROM notes WHERE id = 'mine'").fetchone() == ("of b",)


def test_a_row_that_differs_is_kept_as_a_conflict_and_competes_with_the_time_its_file_was_written(
    tmp_path: Path,
) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], [SCHEMA], "INSERT INTO notes VALUES ('x', 'newer', 'same')")
        with join_with(world, a, "b", "('x', 'older', 'same')") as b:
            sync(a, b)
            b.caught_up()
            b.drain_all()
            sync(a, b)

            assert_converged([a, b], ["notes"])
            assert b.execute("SELECT title FROM notes").fetchone() == ("newer",)
            assert [(c["column"], c["value"]) for c in a.conflicts()] == [("title", "older")]


def test_a_table_that_does_not_fit_is_refused_and_the_file_stays_as_it_was(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], [SCHEMA], "INSERT INTO notes VALUES ('x', 'of a', NULL)")
        with sqlite3.connect(world.path("b")) as connection:
            connection.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, other INTEGER)")
        connection.close()
        home = world.home("b")
        a.add_member(newcomer_of(load_device(home, name="b"), "admin"))

        try:
            crdtlog.adopt(world.path("b"), a.welcome(), home=home)
        except crdtlog.CrdtlogError as error:
            assert "does not fit" in str(error)
        else:
            raise AssertionError("a table that does not fit was accepted")

        with sqlite3.connect(world.path("b")) as connection:
            names = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
        assert names == ["notes"]


def test_a_row_too_large_for_an_entry_pauses_its_table_only_and_goes_on_once_it_is_shortened(
    tmp_path: Path,
) -> None:
    with World(tmp_path) as world:
        tables = [SCHEMA, "CREATE TABLE other (id TEXT PRIMARY KEY)"]
        a, b = devices(world, ["a", "b"], tables)
        a.execute("INSERT INTO notes VALUES ('big', zeroblob(70000000), NULL)")
        a.execute("INSERT INTO other VALUES ('small')")

        a.drain_all()
        sync(a, b)

        assert b.execute("SELECT id FROM other").fetchone() == ("small",)
        (paused,) = [table.paused for table in a.tables() if table.name == "notes"]
        assert paused is not None and "'big'" in paused and "shorten" in paused
        a.execute("UPDATE notes SET title = 'short' WHERE id = 'big'")
        a.check(fix=True)
        sync(a, b)
        assert_converged([a, b], ["notes", "other"])
