"""A file of an earlier format is brought to today's when it is opened, with all that it holds.

`tests/vectors/format_1.zip` was written by the last program of format 1; `format_1.py` beside it tells how. The same
for format 2.
"""

import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

import crdtlog
from crdtlog import catalog, opening
from crdtlog.connection import open_file
from crdtlog.database import Database
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    conflicts_of,
    rows_of,
    send,
    sync_all,
    write_apart,
)

VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def unpacked(world: World, number: int) -> World:
    with zipfile.ZipFile(VECTORS / f"format_{number}.zip") as archive:
        archive.extractall(world.directory)
    for path in world.home("one").path.glob("**/*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert setting(world, "format") == number
    return world


@pytest.fixture
def old(world: World) -> World:
    """Where a file of format 1 lies, unopened."""
    return unpacked(world, 1)


@pytest.fixture
def of_format_2(world: World) -> World:
    """Where one of format 2 lies."""
    return unpacked(world, 2)


def setting(world: World, name: str) -> Any:
    with closing_connection(world.path("one")) as connection:
        return catalog.get_meta(connection, name)


def opened(world: World) -> Database:
    db = world.open["one"] = crdtlog.open(world.path("one"), home=world.home("one"), create=False)
    return db


def new_device(world: World, one: Database) -> Database:
    two = world.join("two", one)
    send(one, two)
    two.caught_up()
    sync_all([one, two])
    return two


ROWS = [("a", 1, "by other", None), ("b", 21, "second", b"\0\xff"), ("gone", 30, "third", 1.5)]
BORN = [(1, "one"), (3, "other")]
CONFLICTS = [("a", "body", "by one", "one"), ("3", "v", "one", "one")]


def listed(db: Database) -> list[Any]:
    return sorted((str(key), *rest) for key, *rest in conflicts_of(db))


def test_its_rows_log_and_conflicts_are_there(old: World) -> None:
    with closing_connection(old.path("one")) as connection:
        before = connection.execute("SELECT * FROM crdtlog_log ORDER BY position").fetchall()
        signed = connection.execute("SELECT signed FROM crdtlog__log ORDER BY position").fetchall()

    one = opened(old)

    assert setting(old, "format") == catalog.FORMAT == 3
    assert one.execute("SELECT * FROM crdtlog_log ORDER BY position").fetchall() == before
    assert one.execute("SELECT signed FROM crdtlog__log ORDER BY position").fetchall() == signed
    assert rows_of(one) == ROWS
    assert rows_of(one, "SELECT * FROM born ORDER BY id") == BORN
    assert listed(one) == sorted(CONFLICTS)
    verified = one.verify()
    assert verified.problems == []
    assert verified.entries == len(before)
    assert [item.total for item in one.check()] == [1, 0]  # the row whose change was captured last
    assert one.pending() == 1
    assert one.unmerged() == []
    assert [line.value for line in one.history("t", "a", "body")] == ["first", "by one", "by other"]


def test_it_has_the_tables_of_a_file_made_today(old: World) -> None:
    one = opened(old)
    with closing_connection(old.directory / "today.db") as connection:
        catalog.create(connection)
        sql = (
            "SELECT name, sql FROM sqlite_master WHERE name LIKE 'crdtlog%' AND name != 'crdtlog_row_status'"
        )
        today = set(connection.execute(sql).fetchall())
    assert today <= set(one.execute(sql).fetchall())


def test_it_goes_on_and_syncs_with_a_new_device_and_its_columns_merge(old: World) -> None:
    one = opened(old)
    two = new_device(old, one)
    assert_converged([one, two], ["t", "born"])
    assert rows_of(two) == ROWS
    assert rows_of(two, "SELECT * FROM born ORDER BY id") == BORN
    assert listed(two) == sorted(CONFLICTS)

    two.track("t", {"n": "counter", "body": "text"})
    sync_all([one, two])
    write_apart([one, two], "UPDATE t SET n = n + 1, body = :name || body || :name WHERE id = 'b'")
    sync_all([one, two])
    ((n, body),) = rows_of(one, "SELECT n, body FROM t WHERE id = 'b'")
    assert n == 23
    assert body in ("onetwosecondonetwo", "twoonesecondtwoone", "onetwosecondtwoone", "twoonesecondonetwo")
    one = old.reopen("one")
    assert_converged([one, two], ["t", "born"])


def test_a_conflict_of_before_is_settled_by_a_restored_value(old: World) -> None:
    one = opened(old)
    two = new_device(old, one)
    (lost,) = [item for item in two.conflicts() if item["table"] == "t"]
    two.restore_value("t", "a", "body", lost["dot"])
    sync_all([one, two])
    assert rows_of(one, "SELECT body FROM t WHERE id = 'a'") == [("by one",)]
    assert [conflict[1] for conflict in listed(one)] == ["v"]
    assert_converged([one, two], ["t", "born"])


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(catalog, "set_meta", fails)
    with pytest.raises(RuntimeError):
        opened(old)
    monkeypatch.undo()
    with closing_connection(old.path("one")) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "crdtlog__merge" not in names
    assert setting(old, "format") == 1
    assert rows_of(opened(old)) == ROWS


def test_two_programs_that_open_it_at_once_both_succeed(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second has read the old format, and then waits for the first one's upgrade."""
    read = threading.Event()
    get_meta = catalog.get_meta

    def reading(connection: Any, name: str) -> object:
        found = get_meta(connection, name)
        if threading.current_thread() is second and name == "format":
            read.set()
        return found

    errors: list[BaseException] = []

    def open_it() -> None:
        try:
            crdtlog.open(old.path("one"), home=old.home("one"), create=False).close()
        except BaseException as error:
            errors.append(error)

    second = threading.Thread(target=open_it)
    monkeypatch.setattr(opening.catalog, "get_meta", reading)
    first = open_file(old.path("one"), create=False)
    first.execute("BEGIN IMMEDIATE")
    second.start()
    assert read.wait(20)
    catalog.upgrade(first)
    first.execute("COMMIT")
    first.close()
    second.join(20)

    assert errors == []
    assert rows_of(opened(old)) == ROWS


# --- format 2 -----------------------------------------------------------------------------------------------------


def test_a_file_of_format_2_goes_on_with_its_group(of_format_2: World) -> None:
    with closing_connection(of_format_2.path("one")) as connection:
        before = connection.execute("SELECT * FROM crdtlog_log ORDER BY position").fetchall()
    one = opened(of_format_2)

    assert setting(of_format_2, "format") == catalog.FORMAT
    assert one.execute("SELECT * FROM crdtlog_log ORDER BY position").fetchall() == before
    assert one.verify().problems == []
    assert {member.name: member.role for member in one.members()} == dict.fromkeys(
        ("one", "other", "third"), "admin"
    )
    one.drain_all()
    ((n, body),) = rows_of(one, "SELECT n, body FROM t WHERE id = 'a'")
    assert n == 3
    assert sorted(body.split()) == ["first", "one", "other"]
    assert rows_of(one, "SELECT n FROM t WHERE id = 'b'") == [(7,)]

    third = next(member.device for member in one.members() if member.name == "third")
    one.remove_member(third)
    two = new_device(of_format_2, one)
    # What the removed device had written counts on the new device as on the old one, what it wrote at first included.
    assert rows_of(two, "SELECT n FROM t WHERE id = 'early'") == [(3,)]
    assert_converged([one, two], ["t"])
    assert len(one.epochs()) == len(two.epochs()) == 2


def test_a_file_of_format_2_has_the_tables_of_a_file_made_today(of_format_2: World) -> None:
    one = opened(of_format_2)
    with closing_connection(of_format_2.directory / "today.db") as connection:
        catalog.create(connection)
        sql = (
            "SELECT name, sql FROM sqlite_master WHERE name LIKE 'crdtlog%' AND name != 'crdtlog_row_status'"
        )
        today = set(connection.execute(sql).fetchall())
    assert today <= set(one.execute(sql).fetchall())
