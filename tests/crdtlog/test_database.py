"""The engine on one file: opening and refusing to, joining, tracking, and the answers that programs get."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import crdtlog
from crdtlog import errors, members
from crdtlog.connection import switch_to_wal
from crdtlog.device import load_device
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    devices,
    lacking,
    send,
    sync,
    table_rows,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v)"


# --- opening ------------------------------------------------------------------------------------------------------


def test_a_program_opens_writes_and_closes(tmp_path: Path, home: Callable[..., Path]) -> None:
    with crdtlog.open(tmp_path / "notes.db", home=home(), name="laptop") as db:
        db.execute(TABLE)
        assert db.track("t")
        assert not db.track("t")
        with db.transaction():
            db.execute("INSERT INTO t VALUES ('k', 1)")

    with crdtlog.open(tmp_path / "notes.db", home=home(), create=False) as db:
        assert db.pending() == 0
        assert [item["summary"] for item in db.log()][-1] == "t: 1 inserted"
        assert db.device.name == "laptop"


def test_a_transaction_that_fails_leaves_nothing(world: World) -> None:
    db = world.found("one", [TABLE])

    with pytest.raises(ZeroDivisionError), db.transaction():
        db.execute("INSERT INTO t VALUES ('k', 1)")
        raise ZeroDivisionError

    assert db.pending() == 0
    assert table_rows(db, "t") == []


def test_a_file_that_is_not_there_or_not_ours_is_not_made(tmp_path: Path, home: Callable[..., Path]) -> None:
    with pytest.raises(errors.NotADatabase):
        crdtlog.open(tmp_path / "none.db", home=home(), create=False)
    assert list(tmp_path.iterdir()) == []
    with closing_connection(tmp_path / "plain.db") as connection:
        connection.execute(TABLE)
    with pytest.raises(errors.NotInitialised):
        crdtlog.open(tmp_path / "plain.db", home=home(), create=False)


@pytest.mark.parametrize(
    "content", [b"this is a letter, not a database\n" * 50, random.Random(4).randbytes(8_192)]
)
def test_another_kind_of_file_or_an_encrypted_one_stays_as_it_is(
    tmp_path: Path, home: Callable[..., Path], content: bytes
) -> None:
    path = tmp_path / "secret.db"
    path.write_bytes(content)

    with pytest.raises(errors.NotADatabase):
        crdtlog.open(path, home=home())

    assert path.read_bytes() == content


def test_a_directory_is_no_database(tmp_path: Path, home: Callable[..., Path]) -> None:
    with pytest.raises(errors.NotADatabase):
        crdtlog.open(tmp_path, home=home())


def test_text_in_utf16_is_refused_with_a_way_out(tmp_path: Path, home: Callable[..., Path]) -> None:
    with closing_connection(tmp_path / "wide.db") as connection:
        connection.execute("PRAGMA encoding = 'UTF-16'")
        connection.execute(TABLE)

    with pytest.raises(errors.Unsupported) as caught:
        crdtlog.open(tmp_path / "wide.db", home=home())

    assert caught.value.hint


def test_a_file_of_a_newer_version_is_left_alone(world: World) -> None:
    db = world.found("one", [TABLE])
    db._state.connection.execute("UPDATE crdtlog__meta SET value = 99 WHERE name = 'format'")
    db.close()

    with pytest.raises(errors.Unsupported, match="99"):
        crdtlog.open(db.path, home=world.home("one"))


def test_a_copied_file_cannot_be_used_with_other_keys(world: World, home: Callable[..., Path]) -> None:
    db = world.found("one", [TABLE])
    db.close()
    shutil.copy(db.path, world.directory / "copy.db")
    load_device(crdtlog.Home(home("else")).prepare(), name="else")

    with pytest.raises(errors.WrongDevice) as caught:
        crdtlog.open(world.directory / "copy.db", home=home("else"))
    assert "join" in caught.value.hint

    with pytest.raises(errors.KeysUnusable):
        crdtlog.open(world.directory / "copy.db", home=home("empty"))


def test_a_home_that_lost_its_epochs_says_so(world: World) -> None:
    db = world.found("one", [TABLE])
    db.close()
    shutil.rmtree(db.home.keys / "databases")

    with pytest.raises(errors.KeysUnusable):
        crdtlog.open(db.path, home=db.home)


def test_the_file_is_switched_to_write_ahead_logging(world: World) -> None:
    db = world.found("one", [TABLE])

    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not switch_to_wal(db._state.connection, db.path)


# --- joining ------------------------------------------------------------------------------------------------------


def test_a_welcome_that_was_damaged_makes_no_file(world: World) -> None:
    one = world.found("one", [TABLE])
    device = load_device(world.home("two").prepare(), name="two")
    one.add_member(members.newcomer_of(device, "writer"))
    welcome = one.welcome()
    chance = random.Random(5)
    for _ in range(200):
        at = chance.randrange(len(welcome))
        changed = welcome[:at] + bytes([chance.randrange(256)]) + welcome[at + 1 :]
        try:
            crdtlog.adopt(world.path("two"), changed, home=world.home("two")).close()
        except crdtlog.CrdtlogError:
            assert not world.path("two").exists()
        world.path("two").unlink(missing_ok=True)
    with pytest.raises(errors.Malformed):
        crdtlog.adopt(world.path("two"), welcome[:-1], home=world.home("two"))


def test_a_welcome_for_another_device_is_refused(world: World) -> None:
    one = world.found("one", [TABLE])

    with pytest.raises(errors.PairingFailed):
        crdtlog.adopt(world.path("two"), one.welcome(), home=world.home("two"), name="two")

    assert not world.path("two").exists()


def test_a_file_joins_once(world: World) -> None:
    one, two = devices(world, ["one", "two"], [TABLE])

    with pytest.raises(errors.WrongDevice):
        crdtlog.adopt(two.path, one.welcome(), home=world.home("two"))


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (id TEXT PRIMARY KEY, v, more)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
        "CREATE TABLE t (id TEXT, v)",
        "CREATE TABLE t (id TEXT PRIMARY KEY, v UNIQUE)",
        "CREATE VIEW t AS SELECT 1 AS id, 2 AS v",
    ],
)
def test_a_file_whose_table_does_not_fit_stays_as_it_was(world: World, sql: str) -> None:
    one = world.found("one", [TABLE])
    with closing_connection(world.path("two")) as connection:
        connection.execute(sql)
        before = connection.execute("SELECT * FROM sqlite_master").fetchall()

    with pytest.raises(errors.SchemaRefused):
        world.join("two", one)

    with closing_connection(world.path("two")) as connection:
        assert connection.execute("SELECT * FROM sqlite_master").fetchall() == before


def test_only_an_admin_adds_devices(world: World) -> None:
    one = world.found("one", [TABLE])
    device = load_device(world.home("two").prepare(), name="two")
    one.add_member(members.newcomer_of(device, "writer"))
    with crdtlog.adopt(world.path("two"), one.welcome(), home=world.home("two")) as two:
        apply_all(two, lacking(one, two))
        three = load_device(world.home("three").prepare(), name="three")
        with pytest.raises(errors.EntryRefused):
            two.add_member(members.newcomer_of(three, "writer"))
        assert [member.name for member in two.members()] == ["two", "one"]


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("CREATE TABLE x (a, b)", errors.Untrackable),
        ("CREATE TABLE x (a TEXT PRIMARY KEY, b UNIQUE)", errors.Untrackable),
        ("CREATE TABLE x (a TEXT PRIMARY KEY, b CHECK (b > 0))", errors.Untrackable),
        ("CREATE VIEW x AS SELECT 1", errors.Untrackable),
        ("CREATE TABLE y (a TEXT PRIMARY KEY)", errors.NoSuchTable),
    ],
)
def test_a_table_that_cannot_be_tracked_is_refused_and_nothing_remains(
    world: World, sql: str, error: type[errors.CrdtlogError]
) -> None:
    db = world.found("one")
    db.execute(sql)
    position = db.position()

    with pytest.raises(error) as caught:
        db.track("x")

    assert caught.value.hint or "x" in str(caught.value)
    assert db.position() == position
    assert db.tables() == []


def test_a_kind_or_column_that_does_not_exist_is_refused(world: World) -> None:
    db = world.found("one")
    db.execute(TABLE)
    with pytest.raises(errors.Usage):
        db.track("t", merge={"v": "magic"})
    with pytest.raises(errors.NoSuchTable):
        db.track("t", merge={"w": "register"})
    assert db.track("t", merge={"v": "register"})


@pytest.mark.parametrize("name", ["crdtlog__meta", "sqlite_master"])
def test_tables_of_sqlite_and_crdtlog_are_not_tracked(world: World, name: str) -> None:
    db = world.found("one")

    with pytest.raises(errors.CrdtlogError):
        db.track(name)


def test_names_with_quotes_percent_and_question_marks_work_throughout(world: World) -> None:
    name = 'it\'s "100%" — why? [x] {0} \\ ; --'
    quoted = '"' + name.replace('"', '""') + '"'
    one, two = devices(
        world, ["one", "two"], [f"CREATE TABLE {quoted} ({quoted} TEXT PRIMARY KEY, \"a?\", 'b''c')"]
    )
    one.execute(f"INSERT INTO {quoted} VALUES (CAST(x'ff3f' AS TEXT), CAST(x'fe' AS TEXT), 1)")
    sync(one, two)
    two.execute(f"UPDATE {quoted} SET \"a?\" = 'x'")
    one.execute(f"UPDATE {quoted} SET \"a?\" = CAST(x'fd' AS TEXT)")
    sync(one, two)

    assert_converged([one, two], [name])
    assert len(one.conflicts()) == 1
    assert name in one.log()[-1]["summary"]


# --- questions ----------------------------------------------------------------------------------------------------


def test_views_answer_any_client(world: World) -> None:
    one, two = devices(world, ["one", "two"], [TABLE], "INSERT INTO t VALUES ('k', 1), ('l', 1)")
    one.execute("UPDATE t SET v = 2")
    one.drain_all()
    two.execute("UPDATE t SET v = 3 WHERE id = 'k'")
    sync(one, two)
    one.record_held(two.device.id, {writer: head.seq for writer, head in two.heads().items()})

    with closing_connection(one.path) as connection:
        sql = 'SELECT "table", key, device, devices, on_relay FROM crdtlog_row_status ORDER BY key'
        assert connection.execute(sql).fetchall() == [("t", "k", "two", 2, 0), ("t", "l", "one", 2, 0)]
        names = connection.execute(
            "SELECT name, role, self, entries > 0 FROM crdtlog_devices ORDER BY name"
        ).fetchall()
        assert names == [("one", "admin", 1, 1), ("two", "admin", 0, 1)]
        log = connection.execute(
            "SELECT device, kind, summary FROM crdtlog_log WHERE kind = 'data'"
        ).fetchall()
        assert ("two", "data", "t: 1 updated") in log
        conflict = connection.execute(
            'SELECT "table", key, "column", value, device FROM crdtlog_conflicts'
        ).fetchall()
        assert conflict == [("t", "k", "v", 2, "one")]
        ats = [row[0] for row in connection.execute("SELECT at FROM crdtlog_log")]
        assert ats == sorted(ats)


def test_a_query_cannot_write(world: World) -> None:
    db = world.found("one", [TABLE])

    assert db.query("SELECT 1 AS a, 'x' AS b") == (["a", "b"], [(1, "x")])
    with pytest.raises((errors.CrdtlogError, sqlite3.Error)):
        db.query("INSERT INTO t VALUES ('k', 1)")
    db.execute("INSERT INTO t VALUES ('k', 1)")
    assert db.pending() == 1


def test_other_connections_commits_are_noticed_once(world: World) -> None:
    db = world.found("one", [TABLE])
    db.data_changed()
    assert not db.data_changed()

    db.execute("INSERT INTO t VALUES ('k', 1)")

    assert db.data_changed()
    assert not db.data_changed()


def test_what_others_hold_never_shrinks(world: World) -> None:
    one, two = devices(world, ["one", "two"], [TABLE])
    one.record_held(two.device.id, {one.writer: 2})
    one.record_held(two.device.id, {one.writer: 1, b"u" * 24: 5})

    assert one.held() == {two.device.id: {one.writer: 2}}


def test_the_latest_addresses_are_kept(world: World) -> None:
    one, two = devices(world, ["one", "two"], [TABLE])
    for number in range(20):
        one.record_address(two.device.id, f"10.0.0.{number}:1", number)

    found = one.addresses()[two.device.id]
    assert found[0] == "10.0.0.19:1"
    assert len(found) == 8


def test_entries_come_in_causal_order_in_batches_of_bounded_size(world: World) -> None:
    one, two = devices(world, ["one", "two"], [TABLE])
    for number in range(10):
        one.execute("INSERT INTO t VALUES (?, randomblob(1000))", (number,))
        one.drain_all()
    lack = {writer: head.seq for writer, head in two.heads().items()}

    seqs, position, rounds = [], 0, 0
    while True:
        batch = one.entries_after(position, lack, 3_000)
        seqs += [item.seq for item in batch.entries]
        position, rounds = batch.position, rounds + 1
        if batch.end:
            break

    assert len(seqs) == 10
    assert seqs == sorted(seqs)
    assert rounds > 3
    assert one.entries_after(0, lack, 1).entries[0].seq == seqs[0]


def test_rows_as_they_change_are_watched(world: World) -> None:
    one, two = devices(world, ["one", "two"], [TABLE])
    changes = two.watch("SELECT v FROM t", poll_seconds=0.001, timeout=5)
    assert next(changes).rows == []

    one.execute("INSERT INTO t VALUES ('k', 'arrived')")
    send(one, two)

    assert next(changes).added == [("arrived",)]


# --- several engines on one file ----------------------------------------------------------------------------------


def test_two_engines_in_one_process_see_each_others_work(world: World) -> None:
    one, two = devices(world, ["one", "two"], [TABLE])
    with crdtlog.open(one.path, home=world.home("one"), create=False) as beside:
        two.execute("INSERT INTO t VALUES ('from', 'two')")
        send(two, beside)
        one.execute("UPDATE t SET v = 'seen'")
        one.drain_all()
        assert beside.heads() == one.heads()
        one.execute("CREATE TABLE u (id TEXT PRIMARY KEY)")
        one.track("u")
        beside.execute("INSERT INTO u VALUES ('k')")
        assert beside.drain_all() == 1
        assert {table.name for table in beside.tables()} == {"t", "u"}

    sync(one, two)
    assert_converged([one, two], ["t", "u"])
    assert one.conflicts() == []
