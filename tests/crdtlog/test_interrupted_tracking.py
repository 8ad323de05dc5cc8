"""Tracking a table that was interrupted half-way: it is told of, and the same call finishes it."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import crdtlog
from crdtlog import errors
from crdtlog.database import Database
from crdtlog.device import Home, load_device
from crdtlog.drain import Drained
from crdtlog.members import newcomer_of

MakeHome = Callable[..., Path]
ROWS = 12_000


@pytest.fixture
def db(home: MakeHome, tmp_path: Path) -> Database:
    """A database whose disk was full after two steps of taking in a table."""
    db = crdtlog.open(tmp_path / "t.db", home=home())
    db.execute("CREATE TABLE t (id TEXT PRIMARY KEY, v)")
    db.execute(
        "WITH RECURSIVE up (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < ?) "
        "INSERT INTO t SELECT 'k' || n, n FROM up",
        (ROWS,),
    )
    interrupted(db, "t")
    return db


def interrupted(db: Database, table: str) -> None:
    steps = iter(range(2))
    drain = Database.drain

    def until_full(self: Database) -> Drained:
        if next(steps, None) is None:
            raise errors.DiskFull("the disk is full", "Free some space.")
        return drain(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "drain", until_full)
        with pytest.raises(errors.DiskFull):
            db.track(table)


def taken_in(db: Database) -> int:
    return int(db.query("SELECT count(*) FROM crdtlog_row_status")[1][0][0])


def test_a_table_whose_rows_are_not_all_taken_in_says_so(db: Database) -> None:
    assert 0 < taken_in(db) < ROWS
    (table,) = db.tables()
    assert table.waiting == "unfinished" and not table.paused and table.pending == 0

    db.drain_all()
    (table,) = db.tables()
    assert table.waiting is None and taken_in(db) == ROWS


def test_tracking_it_again_finishes_it(db: Database) -> None:
    assert not db.track("t")  # it was tracked
    assert taken_in(db) == ROWS and db.tables()[0].waiting is None


def test_another_process_finishes_it(db: Database, home: MakeHome) -> None:
    db.close()
    with crdtlog.open(db.path, home=home(), create=False) as again:
        assert again.tables()[0].waiting == "unfinished"
        again.track("t")
        assert taken_in(again) == ROWS


def test_rows_from_before_joining_wait_for_the_first_exchange(home: MakeHome, tmp_path: Path) -> None:
    with crdtlog.open(tmp_path / "one.db", home=home("one"), name="one") as one:
        one.execute("CREATE TABLE t (id TEXT PRIMARY KEY, v)")
        one.track("t")
        device = load_device(Home(home("two")).prepare(), name="two")
        one.add_member(newcomer_of(device, "writer"))
        beside = sqlite3.connect(tmp_path / "two.db")
        beside.executescript("CREATE TABLE t (id TEXT PRIMARY KEY, v); INSERT INTO t VALUES ('mine', 1)")
        beside.close()
        with crdtlog.adopt(tmp_path / "two.db", one.welcome(), home=home("two")) as two:
            two.drain_all()
            assert two.tables()[0].waiting == "first exchange"
            two.caught_up()
            assert two.tables()[0].waiting == "unfinished"
            two.drain_all()
            assert two.tables()[0].waiting is None
