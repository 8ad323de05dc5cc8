"""Apply: other devices' entries become rows, whole or not at all, and nothing that was here is lost by it."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crdtlog import errors
from crdtlog.database import Database
from crdtlog.values import pack
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    devices,
    lacking,
    logged,
    send,
    sync,
    sync_all,
    table_rows,
)

ROOT = Path(__file__).resolve().parents[2]
TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"
MANY = (
    "WITH RECURSIVE up (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM up WHERE i < {count}) "
    "INSERT INTO t SELECT 'k' || i, 'v' || i, i FROM up"
)


def pair(world: World, schema: str = TABLE, rows: str = "") -> tuple[Database, Database]:
    one, other = devices(world, ["one", "other"], [schema], rows)
    return one, other


def rows_of(db: Database, sql: str = "SELECT * FROM t ORDER BY id") -> list[Any]:
    return db.execute(sql).fetchall()


def conflicts_of(db: Database) -> list[tuple[Any, ...]]:
    return [(item["key"], item["column"], item["value"], item["device"]) for item in db.conflicts()]


# --- conflicts ----------------------------------------------------------------------------------------------------


def test_of_two_concurrent_writes_the_later_shows_and_the_other_is_listed_with_its_device(
    world: World,
) -> None:
    one, other = pair(world, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    one.execute("UPDATE t SET v = 'earlier'")
    one.drain_all()
    other.execute("UPDATE t SET v = 'later', n = 7")
    sync(one, other)

    for db in (one, other):
        assert rows_of(db) == [("k", "later", 7)]
        assert conflicts_of(db) == [("k", "v", "earlier", "one")]
        (listed,) = db.conflicts()
        assert listed["table"] == "t"
        at = datetime.fromisoformat(listed["at"])
        assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)


def test_a_write_that_saw_both_ends_the_conflict_everywhere(world: World) -> None:
    one, other = pair(world, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    for db in (one, other):
        db.execute("UPDATE t SET v = ?", (db.device.name,))
        db.drain_all()
    sync(one, other)
    assert len(one.conflicts()) == 1

    other.execute("UPDATE t SET v = 'settled'")
    sync(one, other)

    assert one.conflicts() == other.conflicts() == []
    assert_converged([one, other], ["t"])


def test_equal_values_written_apart_are_no_conflict_to_look_at(world: World) -> None:
    one, other = pair(world, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    for db in (one, other):
        db.execute("UPDATE t SET v = 'same'")
        db.drain_all()
    sync(one, other)

    assert one.conflicts() == []
    assert_converged([one, other], ["t"])


def test_a_delete_that_had_not_seen_an_update_is_a_conflict_that_shows_what_it_took(world: World) -> None:
    one, other = pair(world, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    one.execute("UPDATE t SET v = 'precious'")
    one.drain_all()
    time.sleep(0.002)
    other.execute("DELETE FROM t")
    sync(one, other)

    for db in (one, other):
        assert rows_of(db) == []
        (listed,) = db.conflicts()
        assert "precious" in str(listed["value"])
    one.execute("INSERT INTO t VALUES ('k', 'back', 1)")
    sync(one, other)
    assert one.conflicts() == other.conflicts() == []
    assert_converged([one, other], ["t"])


def test_an_update_that_had_not_seen_the_delete_brings_the_whole_row_back(world: World) -> None:
    one, other = pair(world, rows="INSERT INTO t VALUES ('k', 'kept', 5)")
    other.execute("DELETE FROM t")
    other.drain_all()
    time.sleep(0.002)
    one.execute("UPDATE t SET n = 6")
    sync(one, other)

    assert rows_of(one) == rows_of(other) == [("k", "kept", 6)]
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"\xc0\0"])
def test_conflicts_of_text_that_is_not_utf8_can_be_listed_and_settled(world: World, raw: bytes) -> None:
    one, other = pair(world)
    for db in (one, other):
        db.execute(
            "INSERT INTO t VALUES (CAST(? AS TEXT), CAST(? AS TEXT), 0)", (raw, raw + db.device.name.encode())
        )
        db.drain_all()
    sync(one, other)
    assert_converged([one, other], ["t"])

    assert len(one.conflicts()) == len(other.conflicts()) == 1
    other.execute("DELETE FROM t")
    one.execute("UPDATE t SET n = 1")
    sync(one, other)
    assert_converged([one, other], ["t"])
    one.execute("INSERT OR REPLACE INTO t VALUES (CAST(? AS TEXT), 'x', 2)", (raw,))
    sync(one, other)

    assert_converged([one, other], ["t"])


def test_conflicts_of_lookalike_keys_are_kept_apart(world: World) -> None:
    keys: list[Any] = [b"a", '{"hex": "61"}', '{"text": "61"}', 1, "1", 1.5, "1.5", '"', ""]
    one, other = pair(world, "CREATE TABLE t (id NOT NULL PRIMARY KEY, v, n)")
    one.connection.executemany("INSERT INTO t VALUES (?, 0, 0)", [(key,) for key in keys])
    sync(one, other)
    for db in (one, other):
        db.execute("UPDATE t SET v = ?", (db.device.name,))
        db.drain_all()
    sync(one, other)
    assert len(one.conflicts()) == len(keys)

    one.execute("UPDATE t SET v = 'settled' WHERE id = ?", (keys[1],))
    sync(one, other)

    assert len(one.conflicts()) == len(other.conflicts()) == len(keys) - 1
    assert_converged([one, other], ["t"])


def test_a_conflict_among_four_devices_is_the_same_on_each(world: World) -> None:
    dbs = devices(world, ["a", "b", "c", "d"], [TABLE], "INSERT INTO t VALUES ('k', 0, 0)")
    for db in dbs:
        db.execute("UPDATE t SET v = ?", (db.device.name,))
        db.drain_all()

    sync_all(dbs)

    assert [len(db.conflicts()) for db in dbs] == [3, 3, 3, 3]
    assert_converged(dbs, ["t"])


# --- causal order -------------------------------------------------------------------------------------------------


def test_entries_held_already_are_skipped_and_entries_to_come_are_refused(world: World) -> None:
    one, other = pair(world)
    for number in range(4):
        one.execute("INSERT INTO t VALUES (?, 0, 0)", (f"k{number}",))
        one.drain_all()
    entries = lacking(one, other)

    with pytest.raises(errors.EntryRefused):
        other.apply(entries[1:])
    assert other.apply([entries[0], entries[0], entries[2]], hold_ms=1_000).done == 2
    apply_all(other, entries)
    assert other.apply(entries, hold_ms=1_000) == (0, 0, 4)

    assert_converged([one, other], ["t"])


def test_an_entry_cannot_come_before_what_its_author_had_seen(world: World) -> None:
    a, b, c = devices(world, ["a", "b", "c"], [TABLE])
    a.execute("INSERT INTO t VALUES ('k', 'first', 0)")
    send(a, b)
    b.execute("UPDATE t SET v = 'second'")
    b.drain_all()
    only_b = [item.signed for item in b.entries_after(0, {}, 1 << 40).entries if item.writer == b.writer]

    with pytest.raises(errors.EntryRefused, match="builds on"):
        c.apply(only_b)
    assert rows_of(c) == []
    sync_all([a, b, c])
    assert_converged([a, b, c], ["t"])


def test_two_devices_that_never_meet_agree_through_a_third(world: World) -> None:
    a, b, c = devices(world, ["a", "b", "c"], [TABLE])
    a.execute("INSERT INTO t VALUES ('a', 'from a', 0)")
    c.execute("INSERT INTO t VALUES ('c', 'from c', 0)")
    for _ in range(2):
        sync(a, b)
        sync(b, c)
    sync(a, b)

    assert_converged([a, b, c], ["t"])
    assert len(rows_of(a)) == 2


def test_a_call_stops_after_its_time_and_tells_how_far_it_came(world: World) -> None:
    one, other = pair(world)
    one.execute(MANY.format(count=12_000))
    one.drain_all()
    entries = lacking(one, other)

    step = other.apply(entries, hold_ms=0)

    assert step.entries == step.done == 1
    assert 0 < step.rows <= 5_000


# --- whole or not at all ------------------------------------------------------------------------------------------


def test_one_transaction_shows_whole_or_not_at_all_to_any_reader(world: World) -> None:
    one, other = pair(world)
    one.execute(MANY.format(count=5_000))
    one.drain_all()
    entries = lacking(one, other)
    seen, stop = set[int](), threading.Event()

    def read() -> None:
        with closing_connection(other.path) as connection:
            while not stop.is_set():
                seen.add(connection.execute("SELECT count(*) FROM t").fetchone()[0])

    reader = threading.Thread(target=read)
    reader.start()
    apply_all(other, entries)
    time.sleep(0.05)
    stop.set()
    reader.join()

    assert seen <= {0, 5_000}
    assert 5_000 in seen


def test_an_entry_that_cannot_stand_in_its_table_changes_nothing(world: World) -> None:
    """The table of one device refuses what the other's allows: here by an index over JSON."""
    one, other = pair(world, rows="INSERT INTO t VALUES ('j', '{}', 0)")
    other.execute("CREATE INDEX inside ON t (json_extract(v, '$.x'))")
    other.drain_all()
    one.execute("INSERT INTO t VALUES ('good', '{\"x\": 1}', 0), ('bad', 'no json', 0)")
    one.drain_all()
    before = other.verify().state, table_rows(other, "t"), other.heads()

    with pytest.raises(errors.CrdtlogError):
        apply_all(other, lacking(one, other))

    assert (other.verify().state, table_rows(other, "t"), other.heads()) == before
    other.execute("DROP INDEX inside")
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_a_received_table_whose_index_has_a_taken_name_is_built_without_that_index(world: World) -> None:
    one, other = pair(world)
    other.execute("CREATE TABLE mine (a)")
    other.execute("CREATE INDEX by_v ON mine (a)")
    one.execute("CREATE TABLE more (id TEXT PRIMARY KEY, v)")
    one.execute("CREATE INDEX by_v ON more (v)")
    one.track("more")
    one.execute("INSERT INTO more VALUES ('k', 1)")
    sync(one, other)

    assert other.execute("SELECT tbl_name FROM sqlite_master WHERE name = 'by_v'").fetchall() == [("mine",)]
    assert_converged([one, other], ["t", "more"])


@pytest.mark.parametrize(
    "sql",
    ["CREATE VIEW more AS SELECT 1", "CREATE TABLE more (x)", "CREATE TABLE more (id TEXT PRIMARY KEY, z)"],
)
def test_a_received_table_whose_name_is_taken_pauses_or_is_refused_in_our_words(
    world: World, sql: str
) -> None:
    one, other = pair(world)
    other.execute(sql)
    one.execute("CREATE TABLE more (id TEXT PRIMARY KEY, v)")
    one.track("more")
    one.execute("INSERT INTO more VALUES ('k', 1)")
    one.drain_all()

    with pytest.raises(errors.CrdtlogError):
        apply_all(other, lacking(one, other))

    verified = other.verify()
    assert not verified.ok
    assert "more" in verified.problems[0]
    assert [difference.table for difference in other.check()] == ["t"]
    other.execute("DROP VIEW more" if "VIEW" in sql else "DROP TABLE more")
    other.execute("CREATE TABLE more (id TEXT PRIMARY KEY, v)")
    sync(one, other)
    assert_converged([one, other], ["t", "more"])


# --- what was here is never overwritten unseen --------------------------------------------------------------------


def without_triggers(db: Database, sql: str) -> None:
    """A write that no trigger sees and that leaves no trace in the schema."""
    script = f".dbconfig enable_trigger off\n{sql};\n"
    try:
        command = ["sqlite3", "-bail", "-batch", db.path]
        subprocess.run(command, input=script, text=True, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("the sqlite3 shell is not here")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET v = 'unseen' WHERE id = 'k'",
        "DELETE FROM t WHERE id = 'k'",
        "INSERT INTO t VALUES ('new', 'unseen', 0)",
    ],
)
def test_a_row_that_changed_without_triggers_is_captured_before_it_is_overwritten(
    world: World, sql: str
) -> None:
    one, other = pair(world, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    other.execute("UPDATE t SET v = 'theirs' WHERE id = 'k'")
    other.execute("INSERT INTO t VALUES ('new', 'theirs', 0)")
    other.drain_all()
    without_triggers(one, sql)
    assert one.pending() == 0

    send(other, one)
    sync(one, other)

    assert_converged([one, other], ["t"])
    shown = {(row[0], row[1]) for row in rows_of(one)}
    listed = {(key, value) for key, _, value, _ in conflicts_of(one)}
    if "DELETE" in sql:
        assert ("k", "theirs") in shown or any("theirs" in str(value) for _, value in listed)
    else:
        key = "k" if "UPDATE" in sql else "new"
        assert {(key, "unseen"), (key, "theirs")} <= shown | listed


def test_rows_that_were_here_before_joining_merge_by_key_and_nothing_is_lost(world: World) -> None:
    one = world.found(
        "one", [TABLE], "INSERT INTO t VALUES ('same', 'v', 1), ('differs', 'one', 1), ('one', 'x', 1)"
    )
    with closing_connection(world.path("other")) as connection:
        connection.execute(TABLE)
        connection.execute(
            "INSERT INTO t VALUES ('same', 'v', 1), ('differs', 'other', 1), ('other', 'y', 1)"
        )
    other = world.join("other", one)
    send(one, other)
    other.caught_up()
    sync(one, other)

    assert [row[0] for row in rows_of(one)] == ["differs", "one", "other", "same"]
    values = {row[1] for row in rows_of(one) if row[0] == "differs"}
    values |= {value for key, column, value, _ in conflicts_of(one) if (key, column) == ("differs", "v")}
    assert values == {"one", "other"}
    assert all(key == "differs" for key, *_ in conflicts_of(one))
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("modified_s", [0, 1, -86_400, 1_000_000_000])
def test_an_old_file_that_joins_does_not_overrule_newer_values(world: World, modified_s: int) -> None:
    """Archives and images often date their files 1970, at the very zero of the clock."""
    with closing_connection(world.path("other")) as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO t VALUES ('k', 'stale', 1), ('own', 'kept', 1)")
    for name in ("other.db", "other.db-wal"):
        if (world.directory / name).exists():
            os.utime(world.directory / name, (modified_s, modified_s))
    one = world.found("one", [TABLE], "INSERT INTO t VALUES ('k', 'current', 1)")
    other = world.join("other", one)
    send(one, other)
    other.caught_up()
    sync(one, other)

    assert rows_of(one) == rows_of(other) == [("k", "current", 1), ("own", "kept", 1)]
    assert conflicts_of(one) == [("k", "v", "stale", "other")]


def test_a_file_dated_1970_has_its_rows_taken_in_when_tracked(world: World) -> None:
    with closing_connection(world.path("one")) as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO t VALUES ('k', 'there before', 1)")
    os.utime(world.path("one"), (0, 0))
    one = world.found("one")
    os.utime(one.path, (0, 0))
    for name in ("one.db-wal", "one.db-shm"):
        os.utime(world.directory / name, (0, 0))

    one.track("t")

    assert one.check()[0].total == 0
    assert one.log(kind="data")


def test_two_devices_may_track_one_table_at_the_same_time(world: World) -> None:
    one = world.found("one")
    other = world.join("other", one)
    for db in (one, other):
        db.execute(TABLE)
        name = db.device.name
        db.execute("INSERT INTO t VALUES ('same', 'v', 1), (?, 'own', 1), ('differs', ?, 1)", (name, name))
        db.track("t")
    sync(one, other)

    assert [row[0] for row in rows_of(one)] == ["differs", "one", "other", "same"]
    assert_converged([one, other], ["t"])


def test_writes_made_while_a_joiner_catches_up_are_kept(world: World) -> None:
    one = world.found("one", [TABLE])
    one.execute(MANY.format(count=200))
    one.drain_all()
    with closing_connection(world.path("other")) as connection:
        connection.execute(TABLE)
        connection.execute("INSERT INTO t VALUES ('k1', 'joiner', 0), ('mine', 'joiner', 0)")
    other = world.join("other", one)
    other.execute("UPDATE t SET v = 'meanwhile' WHERE id = 'k1'")
    other.execute("INSERT INTO t VALUES ('k2', 'meanwhile', 0)")
    send(one, other)
    other.execute("DELETE FROM t WHERE id = 'k3'")
    other.caught_up()
    sync(one, other)

    assert_converged([one, other], ["t"])
    shown = {row[0]: row[1] for row in rows_of(one)}
    assert shown["k1"] == shown["k2"] == "meanwhile"
    assert shown["mine"] == "joiner"
    assert "k3" not in shown


# --- clocks -------------------------------------------------------------------------------------------------------


def test_whoever_saw_a_write_from_the_year_9999_can_overwrite_it(world: World) -> None:
    one, other = pair(world, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    one._state.now_ms = lambda: 253_000_000_000_000
    with closing_connection(one.path) as connection:
        connection.execute("UPDATE t SET v = 'future'")
        connection.execute("UPDATE crdtlog__capture_1 SET at = julianday('9999-01-01')")
    sync(one, other)
    assert rows_of(other)[0][1] == "future"

    other.execute("UPDATE t SET v = 'now'")
    sync(one, other)

    assert rows_of(one)[0][1] == rows_of(other)[0][1] == "now"
    assert one.conflicts() == []
    assert_converged([one, other], ["t"])


def test_a_clock_that_is_set_back_does_not_lose_to_ones_own_earlier_writes(world: World) -> None:
    one, other = pair(world, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    one.execute("UPDATE t SET v = 'before'")
    one.drain_all()
    one._state.now_ms = lambda: 1_000
    one.execute("UPDATE t SET v = 'after'")
    sync(one, other)

    assert rows_of(other) == [("k", "after", 0)]
    stamps = [item.last_stamp for item, _ in logged(one) if item.writer == one.writer]
    assert stamps == sorted(stamps)


# --- killed, and beside others ------------------------------------------------------------------------------------

APPLY_ALL = """
import sys, time, msgpack, crdtlog
db = crdtlog.open(sys.argv[1], home=sys.argv[2], create=False)
todo = msgpack.unpackb(open(sys.argv[3], "rb").read())
print("ready", flush=True)
while todo:
    todo = todo[db.apply(todo).done:]
    time.sleep(0.03)  # a pause leaves others their turn (R4)
"""


def apply_process(db: Database, entries: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", APPLY_ALL, str(db.path), str(db.home.path), str(entries)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def test_an_apply_killed_at_any_moment_is_finished_by_the_next_one(world: World, tmp_path: Path) -> None:
    one, other = pair(world)
    one.execute(MANY.format(count=40_000))
    one.drain_all()
    one.execute("UPDATE t SET v = 'again' WHERE n % 3 = 0")
    one.drain_all()
    other.execute("INSERT INTO t VALUES ('k7', 'mine', 0), ('own', 'mine', 0)")
    (tmp_path / "entries").write_bytes(pack(lacking(one, other)))
    other.close()
    chance = random.Random(3)

    for _ in range(5):
        process = apply_process(other, tmp_path / "entries")
        time.sleep(chance.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
    other = world.reopen("other")

    assert other.verify().ok
    sync(one, other)
    assert rows_of(other, "SELECT count(*) FROM t") == [(40_001,)]
    assert_converged([one, other], ["t"])


def test_a_program_that_writes_while_entries_are_applied_never_fails_and_loses_nothing(
    world: World, tmp_path: Path
) -> None:
    one, other = pair(world)
    one.execute(MANY.format(count=40_000))
    one.drain_all()
    (tmp_path / "entries").write_bytes(pack(lacking(one, other)))
    process = apply_process(other, tmp_path / "entries")

    written, waits = 0, list[float]()
    with closing_connection(other.path) as connection:
        connection.execute("PRAGMA busy_timeout = 1000")
        while process.poll() is None:
            began = time.monotonic()
            key = f"k{written * 37 % 50_000}"
            connection.execute(
                "INSERT INTO t VALUES (?, 'user', 0) ON CONFLICT DO UPDATE SET v = 'user'", (key,)
            )
            waits.append(time.monotonic() - began)
            written += 1
            time.sleep(0.01)
    process.communicate(timeout=60)
    sync(one, other)

    assert process.returncode == 0
    assert written > 3
    assert max(waits) < 1.0
    assert_converged([one, other], ["t"])
    assert any(item.writer == other.writer for item, _ in logged(other))
    shown = {row[0] for row in rows_of(other, "SELECT id FROM t WHERE v = 'user'")}
    listed = {item["key"] for item in other.conflicts() if item["value"] == "user"}
    assert {f"k{number * 37 % 50_000}" for number in range(written)} <= shown | listed


def test_a_locked_file_is_busy_and_nothing_happened(world: World) -> None:
    one, other = pair(world)
    one.execute("INSERT INTO t VALUES ('k', 1, 1)")
    one.drain_all()
    entries = lacking(one, other)
    other._state.connection.execute("PRAGMA busy_timeout = 50")
    with closing_connection(other.path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(errors.Busy):
            other.apply(entries)
        connection.execute("ROLLBACK")

    apply_all(other, entries)
    assert_converged([one, other], ["t"])


def test_a_person_whose_shell_holds_a_read_open_does_not_stop_apply(world: World) -> None:
    one, other = pair(world, rows="INSERT INTO t VALUES ('k', 1, 1)")
    one.execute("UPDATE t SET v = 2")
    with closing_connection(other.path) as connection:
        connection.execute("BEGIN")
        assert connection.execute("SELECT v FROM t").fetchone() == (1,)
        send(one, other)
        assert connection.execute("SELECT v FROM t").fetchone() == (1,)
        with pytest.raises(sqlite3.OperationalError):  # as with any second writer (R4)
            connection.execute("UPDATE t SET v = 3")
        connection.execute("ROLLBACK")

    assert_converged([one, other], ["t"])
