"""Disks that are full or read-only: the engine says so, changes nothing, and goes on when there is room."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import crdtlog
from crdtlog import errors
from crdtlog.database import Database
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    devices,
    lacking,
    quick_directory,
    send,
    sync,
    table_rows,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v)"


def limit_pages(db: Database, room: int) -> None:
    """Let the engine's file grow by no more than that many pages, as on a disk that is nearly full."""
    connection = db._state.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + room}")


def picture(db: Database) -> object:
    return db.verify(), db.heads(), table_rows(db, "t"), db.pending(), db.conflicts()


@pytest.mark.parametrize("rows", [50, 12_000], ids=["one entry", "a group"])
def test_a_drain_on_a_full_disk_changes_nothing_and_goes_on_when_there_is_room(
    world: World, rows: int
) -> None:
    one, two = devices(world, ["one", "two"], [TABLE])
    one.execute(
        "WITH RECURSIVE up (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < ?) "
        "INSERT INTO t SELECT 'k' || n, randomblob(100) FROM up",
        (rows,),
    )
    one._state.connection.execute("SELECT 1").fetchall()
    limit_pages(one, 0)
    for _ in range(3):
        try:
            one.drain()
        except errors.DiskFull:
            break
    before = picture(one)

    with pytest.raises(errors.DiskFull) as caught:
        one.drain_all()
    assert caught.value.hint
    assert picture(one) == before
    one._state.connection.execute("PRAGMA max_page_count = 1000000")

    sync(one, two)
    assert_converged([one, two], ["t"])
    assert len(table_rows(two, "t")) == rows


def test_an_apply_on_a_full_disk_changes_nothing_and_goes_on_when_there_is_room(world: World) -> None:
    one, two = devices(world, ["one", "two"], [TABLE])
    one.execute("INSERT INTO t VALUES ('small', 1)")
    one.drain_all()
    one.execute("INSERT INTO t VALUES ('large', randomblob(300000))")
    one.drain_all()
    entries = lacking(one, two)
    limit_pages(two, 8)
    before = picture(two)

    with pytest.raises(errors.DiskFull):
        two.apply(entries, hold_ms=1_000)
    assert picture(two) == before
    two._state.connection.execute("PRAGMA max_page_count = 1000000")

    apply_all(two, entries)
    sync(one, two)
    assert_converged([one, two], ["t"])


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A file system of two megabytes, where one may be mounted."""
    with quick_directory() as directory:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)], capture_output=True, text=True
        )
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
        try:
            yield directory
        finally:
            subprocess.run(["umount", str(directory)], check=True)


def test_a_disk_that_is_really_full_loses_nothing(world: World, tiny_disk: Path) -> None:
    one = world.found("one", [TABLE])
    small = World(tiny_disk)
    two = small.join("two", one)
    send(one, two)
    two.execute("INSERT INTO t VALUES ('mine', 1)")
    (tiny_disk / "ballast").write_bytes(bytes(800_000))
    one.execute("INSERT INTO t VALUES ('large', randomblob(1500000)), ('k', 1)")
    one.drain_all()

    with pytest.raises(errors.DiskFull):
        apply_all(two, lacking(one, two))
    assert two.verify().ok
    assert two.execute("SELECT id FROM t").fetchall() == [("mine",)]
    (tiny_disk / "ballast").unlink()
    one.execute("UPDATE t SET v = 'short' WHERE id = 'large'")
    small.close()
    two.close()

    with closing_connection(two.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    moved = shutil.copy(two.path, world.path("two"))
    shutil.copytree(small.home("two").path, world.home("two").path)
    with crdtlog.open(moved, home=world.home("two"), create=False) as db:
        sync(one, db)
        assert_converged([one, db], ["t"])


def as_nobody() -> bool:
    """Act as a user without privileges; whether that is possible here."""
    try:
        os.seteuid(65_534)
    except OSError:
        return os.geteuid() != 0
    return True


def test_a_read_only_file_says_so_and_stays_as_it_was() -> None:
    with quick_directory() as directory:
        directory.chmod(0o755)
        world = World(directory)
        db = world.found("one", [TABLE])
        db.close()
        content = db.path.read_bytes()
        user = os.geteuid()
        if user == 0:
            for path in [world.home("one").path, *world.home("one").path.rglob("*")]:
                os.chown(path, 65_534, 65_534)
        db.path.chmod(0o444)
        directory.chmod(0o555)
        if not as_nobody():
            pytest.skip("this user may write everything")
        try:
            with pytest.raises(errors.ReadOnly) as caught:
                opened = crdtlog.open(db.path, home=world.home("one"), create=False)
                opened.execute("SELECT 1")
                opened.drain()
            assert caught.value.hint
        finally:
            os.seteuid(user)
            directory.chmod(0o755)
        assert db.path.read_bytes() == content
