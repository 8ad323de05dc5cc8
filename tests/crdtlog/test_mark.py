"""Restored and copied files: no number is used twice, the tail comes back, and what was written here is kept (R11)."""

import shutil
from pathlib import Path

import pytest

import crdtlog
from crdtlog.database import Database
from crdtlog.errors import KeysUnusable
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    conflicts_of,
    pair,
    rows_of,
    send,
    sync_all,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"


def told(db: Database) -> None:
    """The device tells others of its log."""
    db.drain_all()
    assert db.confirm()


def copy(db: Database, to: Path) -> Path:
    """A backup of a file in use."""
    with closing_connection(db.path) as source, closing_connection(to) as target:
        source.backup(target)
    return to


def restore(world: World, name: str, backup: Path) -> Database:
    """Put a backup in the place of a device's file, and open it."""
    world.open[name].close()
    for suffix in ("", "-wal", "-shm"):
        world.path(name).with_name(world.path(name).name + suffix).unlink(missing_ok=True)
    shutil.copy(backup, world.path(name))
    db = world.open[name] = crdtlog.open(world.path(name), home=world.home(name), create=False)
    return db


@pytest.fixture
def two(world: World) -> tuple[Database, Database]:
    one, other = pair(world, TABLE, rows="INSERT INTO t VALUES ('k', 'first', 1);")
    one.track("t", {"n": "counter"})
    sync_all([one, other])
    told(one)
    return one, other


def test_a_restored_file_goes_on_as_a_new_writer_and_gets_its_tail_back(
    world: World, two: tuple[Database, Database]
) -> None:
    one, other = two
    backup = copy(one, world.directory / "backup.db")
    write_apart([one], "UPDATE t SET v = 'after the backup', n = n + 10")
    told(one)
    send(one, other)
    old = one.writer

    one = restore(world, "one", backup)
    assert one.writer != old
    assert rows_of(one) == [("k", "first", 1)]
    write_apart([one], "INSERT INTO t VALUES ('new', 'after restoring', 5)")
    write_apart([one], "UPDATE t SET n = n + 100")
    told(one)
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    assert rows_of(other) == [("k", "after the backup", 111), ("new", "after restoring", 105)]


def test_what_a_program_wrote_into_the_restored_file_before_it_was_opened_is_kept(
    world: World, two: tuple[Database, Database]
) -> None:
    one, other = two
    backup = copy(one, world.directory / "backup.db")
    write_apart([one], "UPDATE t SET v = 'after the backup'")
    told(one)
    send(one, other)
    with closing_connection(backup) as connection:
        connection.execute("UPDATE t SET v = 'by hand'")

    old = one.writer
    one = restore(world, "one", backup)
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    assert {rows_of(one)[0][1], conflicts_of(one)[0][2]} == {"by hand", "after the backup"}
    assert one.heads()[old].seq == other.heads()[old].seq


def test_a_file_ahead_of_its_mark_is_in_order(world: World, two: tuple[Database, Database]) -> None:
    one, _ = two
    writer = one.writer
    write_apart([one], "UPDATE t SET v = 'not told yet'")
    one = world.reopen("one")
    assert one.writer == writer
    told(one)
    one = world.reopen("one")
    assert one.writer == writer
    assert one.confirm()


def test_two_copies_in_one_home_that_write_apart_do_not_tell_two_things(
    world: World, two: tuple[Database, Database]
) -> None:
    one, other = two
    copied = copy(one, world.directory / "copy.db")
    with crdtlog.open(copied, home=world.home("one"), create=False) as second:
        assert second.writer == one.writer
        write_apart([one], "UPDATE t SET v = 'by the file', n = n + 10")
        second.execute("UPDATE t SET n = n + 100")
        second.execute("INSERT INTO t VALUES ('copy', 'by the copy', 1)")
        second.drain_all()
        told(one)
        assert not second.confirm()
        assert second.begin_anew() == 1
        assert second.writer != one.writer
        told(second)
        assert one.confirm()
        sync_all([other, one, second])
        assert_converged([other, one, second], ["t"])
    assert rows_of(other) == [("copy", "by the copy", 1), ("k", "by the file", 111)]


def test_a_copy_that_is_opened_again_knows_what_it_has_not_told(
    world: World, two: tuple[Database, Database]
) -> None:
    one, other = two
    copied = copy(one, world.directory / "copy.db")
    with crdtlog.open(copied, home=world.home("one"), create=False) as second:
        second.execute("UPDATE t SET n = n + 100")
    for step in range(30):
        write_apart([one], f"UPDATE t SET v = {step}")
        told(one)
    send(one, other)
    with crdtlog.open(copied, home=world.home("one"), create=False) as second:
        assert second.writer != one.writer
        told(second)
        sync_all([other, one, second])
        assert_converged([other, one, second], ["t"])
    assert rows_of(other) == [("k", 29, 101)]


def test_what_was_told_is_told_once_though_the_file_does_not_say_so(
    world: World, two: tuple[Database, Database]
) -> None:
    """The last entry was sent, and nothing was written since; a copy goes on, then the file must notice."""
    one, other = two
    write_apart([one], "UPDATE t SET n = n + 10")
    told(one)
    send(one, other)
    copied = copy(one, world.directory / "copy.db")
    one.close()
    with crdtlog.open(copied, home=world.home("one"), create=False) as second:
        write_apart([second], "UPDATE t SET n = n + 100")
        told(second)
        send(second, other)
    one = world.open["one"] = crdtlog.open(world.path("one"), home=world.home("one"), create=False)
    assert one.drain_all() == 0
    sync_all([other, one])
    assert_converged([other, one], ["t"])
    assert rows_of(one) == [("k", "first", 111)]


def mark_of(world: World, db: Database) -> Path:
    (found,) = (world.home("one").state / "marks" / db.id.hex()).glob(db.writer.hex())
    return found


def test_a_damaged_mark_is_told_and_nothing_changed(world: World, two: tuple[Database, Database]) -> None:
    one, _ = two
    mark = mark_of(world, one)
    assert mark.stat().st_mode & 0o777 == 0o600
    backup = copy(one, world.directory / "backup.db")
    write_apart([one], "UPDATE t SET v = 1")
    told(one)
    good = mark.read_bytes()
    mark.write_bytes(bytes(len(good) - 12) + good[-12:])
    with pytest.raises(KeysUnusable, match="damaged"):
        restore(world, "one", backup)
    mark.write_bytes(good)
    one = restore(world, "one", backup)
    assert rows_of(one) == [("k", "first", 1)]


@pytest.mark.parametrize("left", [b"\1", bytes(12), bytes(1_000), b"\xff" * 30])
def test_what_a_crash_left_behind_the_mark_is_written_over(
    world: World, two: tuple[Database, Database], left: bytes
) -> None:
    one, _ = two
    mark, writer = mark_of(world, one), one.writer
    before = mark.read_bytes()
    mark.write_bytes(before + left)
    one = world.reopen("one")
    assert one.writer == writer
    write_apart([one], "UPDATE t SET v = 1")
    write_apart([one], "UPDATE t SET v = 2")
    told(one)
    assert mark.read_bytes()[: len(before) + 24] == before + mark.read_bytes()[len(before) :][:24]
    one = world.reopen("one")
    assert one.writer == writer and one.confirm()


def test_an_old_backup_is_the_beginning_of_what_was_told(
    world: World, two: tuple[Database, Database]
) -> None:
    """Whatever was told since, nothing that the backup holds is written anew: a step would count twice."""
    one, other = two
    write_apart([one], "UPDATE t SET n = n + 10")
    backup = copy(one, world.directory / "backup.db")
    for _ in range(40):
        write_apart([one], "UPDATE t SET n = n + 100")
        told(one)
    send(one, other)
    one = restore(world, "one", backup)
    assert one.written_anew == 0
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    assert rows_of(one) == [("k", "first", 4011)]


def test_the_mark_is_durable_before_anything_is_told(
    world: World, two: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    write_apart([one], "UPDATE t SET v = 1")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("crdtlog.mark._write", full)
        with pytest.raises(OSError, match="space"):
            one.confirm()
    writer = one.writer
    assert one.confirm()
    assert one.writer == writer
