"""A backlog is a group of entries; whatever interrupts it, no captured change is forgotten."""

import sqlite3
import time
from pathlib import Path

import pytest

import crdtlog
from crdtlog.errors import DiskFull
from tests.crdtlog.devices import World, apply_all, assert_converged, devices, lacking, sync

SCHEMA = ["CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT)"]
MANY = (
    "WITH RECURSIVE up (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < 12000) "
    "INSERT INTO notes SELECT hex(randomblob(8)), 'body of row ' || n FROM up"
)


def test_a_step_that_could_not_commit_is_done_again(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], SCHEMA)
        a.execute(MANY)
        assert a.drain().rows > 0
        pages = a._state.connection.execute("PRAGMA page_count").fetchone()[0]
        a._state.connection.execute(f"PRAGMA max_page_count = {pages + 5}")
        with pytest.raises(DiskFull):
            a.drain_all()
        a._state.connection.execute("PRAGMA max_page_count = 1000000000")

        a.drain_all()

        sync(a, b)
        assert_converged([a, b], ["notes"])
        assert b.execute("SELECT count(*) FROM notes").fetchone() == (12000,)


def test_two_processes_may_drain_one_backlog_while_the_person_goes_on_writing(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], SCHEMA)
        a.execute(MANY)
        with crdtlog.open(world.path("a"), home=world.home("a"), create=False) as other:
            program = sqlite3.connect(world.path("a"), isolation_level=None)
            assert a.drain().more
            for number in range(40):
                program.execute("INSERT INTO notes VALUES (?, 'meanwhile')", (f"meanwhile {number}",))
                (other if number % 2 else a).drain()
                program.execute("UPDATE notes SET body = 'changed' WHERE id = ?", (f"meanwhile {number}",))
            program.close()
            other.drain_all()
            a.drain_all()

            sync(a, b)

            assert_converged([a, b], ["notes"])
            assert b.execute("SELECT count(*) FROM notes WHERE body = 'changed'").fetchone() == (40,)


def test_stamps_of_a_group_keep_the_times_of_capture_although_it_is_sorted_by_key(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], SCHEMA)
        a.execute(MANY)
        a.execute("UPDATE crdtlog__capture_1 SET at = at + seq / 86400.0")
        a._state.now_ms = lambda: time.time_ns() // 1_000_000 + 13_000_000
        captured = dict(a.execute("SELECT k1, at FROM crdtlog__capture_1"))

        a.drain_all()

        rows = a.execute("SELECT k1, (at >> 16) + 140737488355328 FROM crdtlog__row_1").fetchall()
        wrong = [key for key, ms in rows if abs(ms - (captured[key] - 2440587.5) * 86_400_000) > 1]
        assert len(rows) == 12000
        assert wrong == []


def test_a_backlog_ends_with_its_captures_so_that_it_deletes_no_newer_ones(tmp_path: Path) -> None:
    """Found by random histories: triggers dropped, an entry applied, and the next change took a number given before."""
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], SCHEMA)
        b.execute("INSERT INTO notes VALUES ('x', 'of b')")
        for (name,) in b.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            b.execute(f"DROP TRIGGER {name}")
        b.execute("DELETE FROM notes")
        a.execute("INSERT INTO notes VALUES ('x', 'of a')")
        a.drain_all()
        apply_all(b, lacking(a, b))  # what was captured is compared, and nothing is left to log

        b.execute("UPDATE notes SET body = 'newer' WHERE id = 'x'")
        b.drain_all()

        sync(a, b)
        assert_converged([a, b], ["notes"])
        assert a.execute("SELECT body FROM notes").fetchone() == ("newer",)
