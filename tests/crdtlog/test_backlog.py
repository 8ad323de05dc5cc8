"""A backlog is a group of entries; whatever interrupts it, no captured change is forgotten."""

import time

import pytest

import crdtlog
from crdtlog.errors import DiskFull
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    fill,
    lacking,
    pair,
    rows_of,
    sync,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v)"
#: Keys in another order than the changes: a backlog is sorted by key.
ANY_KEY = "hex(randomblob(8)), 'v' || n"


def test_a_step_that_could_not_commit_is_done_again(world: World) -> None:
    one, other = pair(world, TABLE)
    fill(one, 1, 12_000, ANY_KEY)
    assert one.drain().rows > 0
    pages = one._state.connection.execute("PRAGMA page_count").fetchone()[0]
    one._state.connection.execute(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(DiskFull):
        one.drain_all()
    one._state.connection.execute("PRAGMA max_page_count = 1000000000")

    one.drain_all()

    sync(one, other)
    assert_converged([one, other], ["t"])
    assert rows_of(other, "SELECT count(*) FROM t") == [(12_000,)]


def test_two_engines_may_drain_one_backlog_by_turns_while_the_person_goes_on_writing(world: World) -> None:
    one, other = pair(world, TABLE)
    fill(one, 1, 12_000, ANY_KEY)
    again = crdtlog.open(one.path, home=one.home, create=False)
    with again, closing_connection(one.path) as program:
        assert one.drain().more
        for number in range(40):
            key = f"meanwhile {number}"
            program.execute("INSERT INTO t VALUES (?, 'new')", (key,))
            (again if number % 2 else one).drain()
            program.execute("UPDATE t SET v = 'changed' WHERE id = ?", (key,))
        again.drain_all()

        sync(one, other)

        assert_converged([one, other], ["t"])
        assert rows_of(other, "SELECT count(*) FROM t WHERE v = 'changed'") == [(40,)]


def test_stamps_of_a_group_keep_the_times_of_capture_although_it_is_sorted_by_key(world: World) -> None:
    one = world.found("one", [TABLE])
    fill(one, 1, 12_000, ANY_KEY)
    one.execute("UPDATE crdtlog__capture_1 SET at = at + seq / 86400.0")
    one._state.now_ms = lambda: time.time_ns() // 1_000_000 + 13_000_000
    captured = dict(one.execute("SELECT k1, at FROM crdtlog__capture_1"))

    one.drain_all()

    rows = one.execute("SELECT k1, (at >> 16) + 140737488355328 FROM crdtlog__row_1").fetchall()
    wrong = [key for key, ms in rows if abs(ms - (captured[key] - 2440587.5) * 86_400_000) > 1]
    assert len(rows) == 12_000
    assert wrong == []


def test_a_backlog_ends_with_its_captures_so_that_it_deletes_no_newer_ones(world: World) -> None:
    """Triggers that were dropped come back as an entry is applied, and the next change gets a number given before."""
    one, other = pair(world, TABLE)
    other.execute("INSERT INTO t VALUES ('x', 'of other')")
    for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        other.execute(f"DROP TRIGGER {name}")
    other.execute("DELETE FROM t")
    one.execute("INSERT INTO t VALUES ('x', 'of one')")
    one.drain_all()
    apply_all(other, lacking(one, other))  # what was captured is compared, and nothing is left to log

    other.execute("UPDATE t SET v = 'newer' WHERE id = 'x'")
    other.drain_all()

    sync(one, other)
    assert_converged([one, other], ["t"])
    assert rows_of(one, "SELECT v FROM t") == [("newer",)]
