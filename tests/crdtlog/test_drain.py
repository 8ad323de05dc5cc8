"""Drain: what was captured becomes one entry, or a group of entries when it is much, and nothing is lost on the way."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from crdtlog import errors
from crdtlog.database import Database
from crdtlog.entry import MAX_ROWS
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    devices,
    exact,
    lacking,
    logged,
    send,
    sync,
    table_rows,
)

ROOT = Path(__file__).resolve().parents[2]
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, n INTEGER)"
NUMBERS = "WITH RECURSIVE up (n) AS (SELECT {low} UNION ALL SELECT n + 1 FROM up WHERE n < {high}) "


def fill(db: Database, low: int, high: int, value: str = "'v' || n") -> None:
    """Another program's transaction: rows `low` to `high`, all at once."""
    with closing_connection(db.path) as connection:
        connection.execute(NUMBERS.format(low=low, high=high) + f"INSERT INTO t SELECT n, {value}, 0 FROM up")


def new_entries(db: Database, position: int) -> list[int]:
    """The rows of each data entry behind a position."""
    return [sum(section.rows for section in sections) for _, sections in logged(db, position)]


# --- values -------------------------------------------------------------------------------------------------------

EVERY_VALUE: list[Any] = [
    None,
    0,
    1,
    -1,
    2**63 - 1,
    -(2**63),
    2**53 + 1,
    0.0,
    -0.0,
    0.1,
    5e-324,
    1.7976931348623157e308,
    float("inf"),
    float("-inf"),
    "",
    "text",
    "ünïcödé 🜚",
    "nul\0inside",
    "\0",
    "1",
    "1.0",
    " 7 ",
    "0x10",
    "inf",
    b"",
    b"\0",
    b"text",
    bytes(range(256)),
]
ODD_TEXTS = [b"\xff", b"a\xff\0b", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\x80" * 40]


def test_every_value_arrives_bit_for_bit_in_every_kind_of_column(world: World) -> None:
    columns = "a, t TEXT, i INTEGER, r REAL, u NUMERIC, b BLOB"
    one, other = devices(world, ["one", "other"], [f"CREATE TABLE t (id INTEGER PRIMARY KEY, {columns})"])
    with closing_connection(one.path) as connection:
        sql = "INSERT INTO t (a, t, i, r, u, b) VALUES (?, ?, ?, ?, ?, ?)"
        connection.executemany(sql, [(value,) * 6 for value in EVERY_VALUE])
        odd = [f"CAST(x'{raw.hex()}' AS TEXT)" for raw in ODD_TEXTS]
        for text in odd:
            connection.execute(f"INSERT INTO t (a, t, i, r, u, b) VALUES ({', '.join([text] * 6)})")
    sync(one, other)
    assert_converged([one, other], ["t"])
    rows = sorted(table_rows(other, "t"), key=lambda row: row[0][1])
    assert [row[1] for row in rows][: len(EVERY_VALUE)] == list(map(exact, EVERY_VALUE))

    # Every value replaces every other kind, as an update.
    with closing_connection(one.path) as connection:
        for number in range(1, len(EVERY_VALUE) + len(odd) + 1):
            connection.execute(
                "UPDATE t SET a = (SELECT b FROM t AS o WHERE o.id = 35 - t.id) WHERE id = ?", (number,)
            )
    sync(one, other)
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("kind", ["TEXT", "BLOB", "INT", "REAL", "NUMERIC", ""])
@pytest.mark.parametrize("suffix", ["", "WITHOUT ROWID"])
def test_every_value_serves_as_a_key(world: World, kind: str, suffix: str) -> None:
    one, other = devices(
        world, ["one", "other"], [f"CREATE TABLE t (k {kind} NOT NULL, v, PRIMARY KEY (k)) {suffix}"]
    )
    with closing_connection(one.path) as connection:
        for number, value in enumerate(EVERY_VALUE[1:]):
            connection.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (value, number))
        for raw in ODD_TEXTS:
            connection.execute("INSERT INTO t VALUES (CAST(? AS TEXT), 'odd')", (raw,))
    sync(one, other)
    for db in (one, other):
        db.execute("UPDATE t SET v = ?", (db.device.name,))
        db.drain_all()
    sync(one, other)
    assert_converged([one, other], ["t"])
    other.execute("DELETE FROM t WHERE typeof(k) = 'text'")
    one.execute("UPDATE t SET v = 'late'")
    sync(one, other)

    assert_converged([one, other], ["t"])


def test_a_blob_of_ten_megabytes_arrives_and_changes(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    blob = random.Random(1).randbytes(10 << 20)
    one.execute("INSERT INTO t VALUES (1, ?, 0), (2, ?, 0), (3, 'small', 0)", (blob, blob[::-1]))
    one.execute("UPDATE t SET n = 1")
    sync(one, other)

    one.execute("UPDATE t SET v = ? WHERE id = 1", (blob[:-1],))
    sync(one, other)

    assert other.execute("SELECT v FROM t ORDER BY id").fetchall() == [
        (blob[:-1],),
        (blob[::-1],),
        ("small",),
    ]
    assert_converged([one, other], ["t"])


def test_a_row_too_large_for_any_entry_pauses_its_table_alone_until_it_is_shortened(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE, "CREATE TABLE u (id TEXT PRIMARY KEY, v)"])
    one.execute("INSERT INTO t VALUES (1, zeroblob(70000000), 0), (2, 'kept', 0)")
    one.execute("INSERT INTO u VALUES ('goes', 'on')")

    sync(one, other)

    assert other.execute("SELECT * FROM u").fetchall() == [("goes", "on")]
    (paused,) = [table for table in one.tables() if table.paused]
    assert paused.name == "t"
    assert "too large" in str(paused.paused) or "over the limit" in str(paused.paused)
    assert paused.pending > 0
    one.execute("UPDATE t SET v = 'short' WHERE id = 1")
    one.check(fix=True)
    sync(one, other)
    assert other.execute("SELECT v FROM t ORDER BY id").fetchall() == [("short",), ("kept",)]
    assert_converged([one, other], ["t", "u"])


# --- one transaction, one entry (R3) ------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2_501, MAX_ROWS])
def test_a_transaction_up_to_the_limit_becomes_one_entry(world: World, rows: int) -> None:
    db = world.found("one", [TABLE])
    position = db.position()

    fill(db, 1, rows)
    db.drain_all()

    assert new_entries(db, position) == [rows]


def test_a_transaction_that_touches_its_rows_twice_is_still_one_entry(world: World) -> None:
    db = world.found("one", [TABLE])
    position = db.position()

    with closing_connection(db.path) as connection:
        connection.execute("BEGIN")
        connection.execute(NUMBERS.format(low=1, high=3_000) + "INSERT INTO t SELECT n, n, n FROM up")
        connection.execute("UPDATE t SET n = -n")
        connection.execute("COMMIT")
    db.drain_all()

    assert new_entries(db, position) == [3_000]


def test_a_transaction_over_two_tables_that_touches_rows_twice_is_still_one_entry(world: World) -> None:
    db = world.found("one", [TABLE, "CREATE TABLE u (id INTEGER PRIMARY KEY, v)"])
    position = db.position()

    with closing_connection(db.path) as connection:
        connection.execute("BEGIN")
        connection.execute(NUMBERS.format(low=1, high=1_500) + "INSERT INTO t SELECT n, n, n FROM up")
        connection.execute("INSERT INTO u SELECT id, n FROM t")
        connection.execute("UPDATE t SET n = -n")
        connection.execute("UPDATE u SET v = -v")
        connection.execute("COMMIT")
    db.drain_all()

    assert new_entries(db, position) == [3_000]
    assert db.pending() == 0


def test_a_larger_backlog_becomes_a_group_of_entries_within_the_limits(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    position = one.position()

    fill(one, 1, 12_001)
    one.drain_all()

    entries = new_entries(one, position)
    assert sum(entries) == 12_001
    assert max(entries) <= MAX_ROWS
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_many_bytes_are_shared_out_among_entries(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    position = one.position()

    fill(one, 1, 40, "randomblob(300000)")
    one.drain_all()

    assert sum(new_entries(one, position)) == 40
    assert all(item.raw_size <= 5 << 20 for item, _ in logged(one, position))
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_no_apply_falls_inside_a_group(world: World) -> None:
    """A context must not claim to have seen what the person who wrote the group had not."""
    one, other = devices(world, ["one", "other"], [TABLE])
    other.execute("INSERT INTO t VALUES (-1, 'theirs', 0)")
    other.drain_all()
    fill(one, 1, 12_000)
    assert one.drain().more
    one.drain()
    position = one.position()

    apply_all(one, lacking(other, one))

    found = one.entries_after(position, {}, 1 << 40).entries
    writers = [item.writer for item in found]
    assert writers[-1] == other.writer
    assert set(writers[:-1]) == {one.writer}
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_rows_changed_again_while_their_group_is_drained_are_not_forgotten(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 12_000)
    step, turn = one.drain(), 0
    while step.more:
        turn += 1
        one.execute("UPDATE t SET n = ? WHERE id IN (1, 3000, 6000, 9000, 12000)", (turn,))
        one.execute("DELETE FROM t WHERE id = ?", (turn * 1_000 + 1,))
        one.execute("INSERT INTO t VALUES (?, 'new', 0)", (-turn,))
        step = one.drain()
        if turn >= 30:
            break
    sync(one, other)

    assert_converged([one, other], ["t"])


def test_a_change_keeps_the_time_at_which_it_was_captured(world: World) -> None:
    db = world.found("one", [TABLE])
    before = time.time_ns() // 1_000_000
    db.execute("INSERT INTO t VALUES (1, 'monday', 0)")
    after = time.time_ns() // 1_000_000
    db._state.now_ms = lambda: after + 86_400_000 * 4

    db.drain_all()

    item, _ = logged(db)[-1]
    assert before - 1 <= item.first_stamp >> 16 <= after + 1


def test_an_update_of_many_rows_says_only_what_differs(world: World) -> None:
    db = world.found("one", [TABLE])
    fill(db, 1, 500)
    db.drain_all()
    db.execute("UPDATE t SET v = CASE WHEN id % 5 THEN v ELSE 'fifth' END, n = n + (id = 7)")

    assert db.drain_all() == 101
    sections = {section.slots: section.rows for section in logged(db)[-1][1]}
    assert sorted(sections.values()) == [1, 100]
    assert all(len(slots) == 1 for slots in sections)


# --- killed at any moment -----------------------------------------------------------------------------------------

DRAIN_FOREVER = """
import sys, crdtlog
db = crdtlog.open(sys.argv[1], home=sys.argv[2], create=False)
print("ready", flush=True)
while db.drain().more:
    pass
print("done", flush=True)
"""


def engine_process(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process with an engine on some file; it says `ready` once it is open."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def kill_after(process: subprocess.Popen[str], seconds: float) -> None:
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert process.stdout is not None
    process.stdout.close()


def test_a_drain_killed_at_any_moment_is_finished_by_the_next_one(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 60_000)
    one.close()
    chance = random.Random(2)

    for _ in range(5):
        kill_after(engine_process(DRAIN_FOREVER, one.path, one.home.path), chance.uniform(0.0, 0.25))
    one = world.reopen("one")

    assert one.verify().ok
    assert one.execute("SELECT count(*) FROM t").fetchone() == (60_000,)
    one.execute("DELETE FROM t WHERE id > 59000")
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_two_processes_drain_one_file_at_once(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 30_000)
    second = engine_process(DRAIN_FOREVER, one.path, one.home.path)

    turn = 0
    while one.drain().more or second.poll() is None:
        turn += 1
        one.execute("UPDATE t SET n = ? WHERE id = ?", (turn, turn % 30_000 + 1))
        one.execute("INSERT INTO t VALUES (?, 'meanwhile', 0)", (-turn,))
    second.communicate(timeout=60)

    assert second.returncode == 0
    sync(one, other)
    assert_converged([one, other], ["t"])


# --- triggers that are gone (R2) ----------------------------------------------------------------------------------


def test_triggers_that_somebody_dropped_come_back_and_what_they_missed_is_found(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 50)
    sync(one, other)
    with closing_connection(one.path) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute("UPDATE t SET v = 'unseen' WHERE id = 1")
        connection.execute("DELETE FROM t WHERE id = 2")
        connection.execute("INSERT INTO t VALUES (99, 'unseen', 0)")

    sync(one, other)

    assert one.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone() == (4,)
    found = other.execute("SELECT id, v FROM t WHERE id IN (1, 2, 99) ORDER BY id").fetchall()
    assert found == [(1, "unseen"), (99, "unseen")]
    assert_converged([one, other], ["t"])


REBUILD = """
BEGIN;
CREATE TABLE new_t (id INTEGER PRIMARY KEY, v, n INTEGER);
INSERT INTO new_t SELECT id, CASE id WHEN 3 THEN 'migrated' ELSE v END, n FROM t WHERE id != 4;
DROP TABLE t;
ALTER TABLE new_t RENAME TO t;
COMMIT;
"""


def test_a_table_rebuilt_by_a_migration_gets_its_triggers_back_and_sends_exactly_what_differs(
    world: World,
) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 50)
    sync(one, other)
    position = one.position()
    with closing_connection(one.path) as connection:
        connection.executescript(REBUILD)

    sync(one, other)
    assert new_entries(one, position) == [2]
    one.execute("UPDATE t SET v = 'captured again' WHERE id = 5")
    sync(one, other)

    assert_converged([one, other], ["t"])
    assert other.execute("SELECT v FROM t WHERE id IN (3, 5)").fetchall() == [
        ("migrated",),
        ("captured again",),
    ]


def test_a_triggers_loss_noticed_while_refusing_an_entry_is_not_forgotten(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    sync(one, other)
    with closing_connection(one.path) as connection:
        connection.execute("DROP TRIGGER crdtlog__1_insert")
    with pytest.raises(errors.CrdtlogError):
        one.apply([b"refused"])  # put the trigger back, and undid that
    with closing_connection(one.path) as connection:
        connection.execute("DROP TRIGGER crdtlog__1_update")
        connection.execute("INSERT INTO t VALUES (1, 'unseen', 0)")

    sync(one, other)

    assert_converged([one, other], ["t"])
    assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)


@pytest.mark.parametrize(
    ("change", "back"),
    [
        ("ALTER TABLE t ADD COLUMN extra", "ALTER TABLE t DROP COLUMN extra"),
        ("ALTER TABLE t RENAME COLUMN n TO number", "ALTER TABLE t RENAME COLUMN number TO n"),
        ("ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME TO t"),
        ("ALTER TABLE t RENAME COLUMN id TO key", "ALTER TABLE t RENAME COLUMN key TO id"),
        ("CREATE UNIQUE INDEX only ON t (v)", "DROP INDEX only"),
        ("CREATE TRIGGER mine AFTER INSERT ON t BEGIN SELECT 1; END", "DROP TRIGGER mine"),
    ],
)
def test_a_changed_schema_pauses_its_table_with_captures_kept_until_it_fits_again(
    world: World, change: str, back: str
) -> None:
    one, other = devices(world, ["one", "other"], [TABLE, "CREATE TABLE u2 (id TEXT PRIMARY KEY)"])
    fill(one, 1, 3)
    sync(one, other)
    one.execute("UPDATE t SET v = 'before' WHERE id = 1")
    one.execute(change)
    one.execute("INSERT INTO u2 VALUES ('goes on')")
    name = "u" if "TO u" in change else "t"
    key = "key" if "TO key" in change else "id"

    send(one, other)
    one.execute(f"UPDATE {name} SET v = 'while paused' WHERE {key} = 2")
    one.drain_all()
    assert [table.name for table in one.tables() if table.paused] == ["t"]
    assert one.pending() >= 2
    assert other.execute("SELECT v FROM t ORDER BY id").fetchall() == [("v1",), ("v2",), ("v3",)]
    assert other.execute("SELECT count(*) FROM u2").fetchone() == (1,)
    other.execute("UPDATE t SET v = 'theirs' WHERE id = 3")
    other.drain_all()
    with pytest.raises(errors.TablePaused):
        one.apply(lacking(other, one))
    one.execute(back)
    sync(one, other)

    assert [table for table in one.tables() if table.paused] == []
    assert one.execute("SELECT v FROM t ORDER BY id").fetchall() == [
        ("before",),
        ("while paused",),
        ("theirs",),
    ]
    assert_converged([one, other], ["t", "u2"])


def test_a_pause_noticed_while_refusing_an_entry_is_not_forgotten(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 3)
    sync(one, other)
    other.execute("UPDATE t SET v = 'theirs'")
    other.drain_all()
    one.execute("ALTER TABLE t RENAME COLUMN v TO w")

    for _ in range(2):
        with pytest.raises(errors.TablePaused):
            one.apply(lacking(other, one))
    one.execute("UPDATE t SET w = 'mine' WHERE id = 1")
    assert one.drain_all() == 0
    assert one.tables()[0].paused
    one.execute("ALTER TABLE t RENAME COLUMN w TO v")
    sync(one, other)

    assert_converged([one, other], ["t"])


def test_one_table_tracked_with_two_schemas_stays_paused_on_both_devices(world: World) -> None:
    one = world.found("one")
    other = world.join("other", one)
    one.execute("CREATE TABLE t (id TEXT PRIMARY KEY, v)")
    other.execute("CREATE TABLE t (id TEXT PRIMARY KEY, v, more)")
    for db in (one, other):
        db.execute("INSERT INTO t (id, v) VALUES ('k', 1)")
        db.track("t")

    for _ in range(3):
        for source, target in ((one, other), (other, one)):
            with pytest.raises(errors.TablePaused, match="another schema"):
                send(source, target)
            target.execute("CREATE TABLE IF NOT EXISTS unrelated (a)")

    assert one.verify().ok
    assert other.verify().ok


def test_a_table_dropped_while_its_rows_wait_to_be_compared_stops_nothing_else(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE, "CREATE TABLE u (id TEXT PRIMARY KEY)"])
    with closing_connection(one.path) as connection:
        connection.executescript(REBUILD)
    assert one.drain().more
    one.execute("DROP TABLE t")
    one.execute("INSERT INTO u VALUES ('goes on')")

    send(one, other)

    assert other.execute("SELECT * FROM u").fetchall() == [("goes on",)]
    assert [table.name for table in one.tables() if table.paused] == ["t"]


# --- absence is weak evidence (R2) --------------------------------------------------------------------------------


def remove_unseen(db: Database, where: str) -> None:
    """Rows vanish in a migration that keeps the table."""
    with closing_connection(db.path) as connection:
        connection.executescript(
            "BEGIN; CREATE TABLE x (id INTEGER PRIMARY KEY, v, n INTEGER);"
            f"INSERT INTO x SELECT * FROM t WHERE NOT ({where});"
            "DROP TABLE t; ALTER TABLE x RENAME TO t; COMMIT;"
        )


def test_many_rows_that_vanish_unseen_wait_for_check_fix(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 1_000)
    sync(one, other)
    remove_unseen(one, "id <= 150")

    send(one, other)

    assert other.execute("SELECT count(*) FROM t").fetchone() == (1_000,)
    (table,) = one.tables()
    assert "150" in str(table.paused)
    assert "check --fix" in str(table.paused)
    assert one.drain_all() == 0
    one.execute("CREATE TABLE unrelated (a)")
    one.drain_all()
    assert one.tables() == [table]
    one.check(fix=True)
    sync(one, other)
    assert other.execute("SELECT count(*) FROM t").fetchone() == (850,)
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize(
    ("rows", "gone"), [(1_000, 100), (3_000, 150)], ids=["a hundred", "five in a hundred"]
)
def test_few_rows_that_vanish_unseen_are_deletes(world: World, rows: int, gone: int) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, rows)
    sync(one, other)
    remove_unseen(one, f"id <= {gone}")

    sync(one, other)

    assert other.execute("SELECT count(*) FROM t").fetchone() == (rows - gone,)
    assert_converged([one, other], ["t"])


def test_an_emptied_table_without_a_delete_never_empties_the_others(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 1_000)
    sync(one, other)
    rows = table_rows(other, "t")
    remove_unseen(one, "1")
    one = world.reopen("one")
    other.execute("UPDATE t SET n = 5 WHERE id <= 500")
    other.drain_all()

    with pytest.raises(errors.TablePaused):
        apply_all(one, lacking(other, one))
    send(one, other)

    assert len(table_rows(other, "t")) == len(rows)


def test_rows_that_vanish_while_triggers_are_switched_off_wait_too(world: World) -> None:
    """`.dbconfig enable_trigger off` leaves no trace in the schema; only an entry for those rows shows the gap."""
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 1_000)
    sync(one, other)
    try:
        script = ".dbconfig enable_trigger off\nDELETE FROM t WHERE id <= 300;\n"
        subprocess.run(
            ["sqlite3", "-batch", one.path], input=script, text=True, check=True, capture_output=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("the sqlite3 shell is not here")
    assert one.pending() == 0
    other.execute("UPDATE t SET n = 5")
    other.drain_all()

    with pytest.raises(errors.TablePaused):
        apply_all(one, lacking(other, one))
    send(one, other)

    assert other.execute("SELECT count(*) FROM t").fetchone() == (1_000,)
    one.check(fix=True)
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_rows_put_back_after_they_vanished_are_changes_like_any(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    fill(one, 1, 1_000)
    sync(one, other)
    remove_unseen(one, "id <= 150")
    one.drain_all()
    assert one.tables()[0].paused

    fill(one, 1, 150)
    one.check(fix=True)
    sync(one, other)

    assert not one.tables()[0].paused
    assert other.execute("SELECT count(*) FROM t").fetchone() == (1_000,)
    assert_converged([one, other], ["t"])
