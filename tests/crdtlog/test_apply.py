"""Apply: other devices' entries become rows, whole or not at all, and nothing that was here is lost by it."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crdtlog import errors
from tests.crdtlog.devices import (
    World,
    apart,
    apply_all,
    assert_converged,
    closing_connection,
    conflicts_of,
    devices,
    fill,
    lacking,
    logged,
    pair,
    rows_of,
    send,
    sync,
    sync_all,
    table_rows,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"
ROW = "INSERT INTO t VALUES ('k', 'old', 0)"

# --- conflicts ----------------------------------------------------------------------------------------------------


def test_of_two_concurrent_writes_the_later_shows_and_the_other_is_listed_with_its_device(
    world: World,
) -> None:
    one, other = apart(
        world, TABLE, "UPDATE t SET v = 'earlier'", "UPDATE t SET v = 'later', n = 7", rows=ROW
    )

    for db in (one, other):
        assert rows_of(db) == [("k", "later", 7)]
        assert conflicts_of(db) == [("k", "v", "earlier", "one")]
        (listed,) = db.conflicts()
        assert listed["table"] == "t"
        at = datetime.fromisoformat(listed["at"])
        assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)


def test_a_write_that_saw_both_ends_the_conflict_everywhere(world: World) -> None:
    one, other = pair(world, TABLE, rows=ROW)
    write_apart([one, other], "UPDATE t SET v = :name")
    sync(one, other)
    assert len(one.conflicts()) == 1

    other.execute("UPDATE t SET v = 'settled'")
    sync(one, other)

    assert one.conflicts() == other.conflicts() == []
    assert_converged([one, other], ["t"])


def test_equal_values_written_apart_are_no_conflict_to_look_at(world: World) -> None:
    one, other = pair(world, TABLE, rows=ROW)
    write_apart([one, other], "UPDATE t SET v = 'same'")
    sync(one, other)

    assert one.conflicts() == []
    assert_converged([one, other], ["t"])


def test_a_delete_that_had_not_seen_an_update_is_a_conflict_that_shows_what_it_took(world: World) -> None:
    one, other = apart(world, TABLE, "UPDATE t SET v = 'precious'", "DELETE FROM t", rows=ROW)

    for db in (one, other):
        assert rows_of(db) == []
        (listed,) = db.conflicts()
        assert "precious" in str(listed["value"])
    one.execute("INSERT INTO t VALUES ('k', 'back', 1)")
    sync(one, other)
    assert one.conflicts() == other.conflicts() == []
    assert_converged([one, other], ["t"])


def test_an_update_that_had_not_seen_the_delete_brings_the_whole_row_back(world: World) -> None:
    one, other = apart(world, TABLE, "DELETE FROM t", "UPDATE t SET n = 6", rows=ROW)

    assert rows_of(one) == rows_of(other) == [("k", "old", 6)]
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"\xc0\0"])
def test_conflicts_of_text_that_is_not_utf8_can_be_listed_and_settled(world: World, raw: bytes) -> None:
    one, other = pair(world, TABLE)
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
    write_apart([one, other], "UPDATE t SET v = :name")
    sync(one, other)
    assert len(one.conflicts()) == len(keys)

    one.execute("UPDATE t SET v = 'settled' WHERE id = ?", (keys[1],))
    sync(one, other)

    assert len(one.conflicts()) == len(other.conflicts()) == len(keys) - 1
    assert_converged([one, other], ["t"])


def test_a_conflict_among_four_devices_is_the_same_on_each(world: World) -> None:
    dbs = devices(world, ["a", "b", "c", "d"], [TABLE], "INSERT INTO t VALUES ('k', 0, 0)")
    write_apart(dbs, "UPDATE t SET v = :name")

    sync_all(dbs)

    assert [len(db.conflicts()) for db in dbs] == [3, 3, 3, 3]
    assert_converged(dbs, ["t"])


# --- causal order -------------------------------------------------------------------------------------------------


def test_entries_held_already_are_skipped_and_entries_to_come_are_refused(world: World) -> None:
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE)
    fill(one, 1, 12_000, "'k' || n, 'v' || n, n")
    one.drain_all()
    entries = lacking(one, other)

    step = other.apply(entries, hold_ms=0)

    assert step.entries == step.done == 1
    assert 0 < step.rows <= 5_000


# --- whole or not at all ------------------------------------------------------------------------------------------


def test_one_transaction_shows_whole_or_not_at_all_to_any_reader(world: World) -> None:
    one, other = pair(world, TABLE)
    fill(one, 1, 5_000, "'k' || n, 'v' || n, n")
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
    one, other = pair(world, TABLE, rows="INSERT INTO t VALUES ('j', '{}', 0)")
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
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE)
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


# --- clocks -------------------------------------------------------------------------------------------------------


def test_whoever_saw_a_write_from_the_year_9999_can_overwrite_it(world: World) -> None:
    one, other = pair(world, TABLE, rows=ROW)
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
    one, other = pair(world, TABLE, rows=ROW)
    one.execute("UPDATE t SET v = 'before'")
    one.drain_all()
    one._state.now_ms = lambda: 1_000
    one.execute("UPDATE t SET v = 'after'")
    sync(one, other)

    assert rows_of(other) == [("k", "after", 0)]
    stamps = [item.last_stamp for item, _ in logged(one) if item.writer == one.writer]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("gap", [0, 1, 9])
@pytest.mark.parametrize("key", ["TEXT", "INTEGER", "BLOB"])
def test_rows_that_are_read_in_one_go_and_rows_between_them_stay_apart(
    world: World, key: str, gap: int
) -> None:
    """Rows of one entry are neighbours, or have others between them that it does not change (`gap`)."""
    one, other = pair(world, f"CREATE TABLE t (id {key} PRIMARY KEY, v, n)")
    keys = [n if key == "INTEGER" else f"k{n:03}" if key == "TEXT" else b"k%03d" % n for n in range(200)]
    one.connection.executemany("INSERT INTO t VALUES (?, 'old', 0)", [(k,) for k in keys])
    sync(one, other)
    changed = [k for at, k in enumerate(keys) if not gap or at % (gap + 1)]
    one.connection.executemany("UPDATE t SET v = 'of one' WHERE id = ?", [(k,) for k in changed])
    other.connection.executemany("UPDATE t SET v = 'of other' WHERE id = ?", [(k,) for k in changed[::2]])
    other.connection.execute("DELETE FROM t WHERE id = ?", (keys[3],))
    other.connection.execute("INSERT INTO t VALUES (?, 'fresh', 0)", ("k0030" if key == "TEXT" else 1_000,))

    sync(one, other)

    assert_converged([one, other], ["t"])
    listed = {str(lost) for lost, _, value, _ in conflicts_of(one) if value in ("of one", "of other")}
    assert len(listed) >= len(changed[::2]) - 1
    assert one.execute("SELECT count(*) FROM t WHERE v = 'old'").fetchone() == (
        200 - len(changed) - (keys[3] not in changed),
    )


def test_rows_that_need_care_for_different_reasons_keep_their_own_values(world: World) -> None:
    """The second row of an entry has a conflict, the first comes back from the dead."""
    one, other = pair(
        world,
        "CREATE TABLE t (id TEXT PRIMARY KEY, v, w)",
        rows="INSERT INTO t VALUES ('a', 0, 0), ('b', 0, 0)",
    )
    write_apart([one, other], "UPDATE t SET v = :name WHERE id = 'b'")
    sync(one, other)
    one.execute("DELETE FROM t WHERE id = 'a'")
    one.drain_all()
    other.execute("UPDATE t SET w = 'of ' || id")
    sync(one, other)
    assert rows_of(one, "SELECT id, w FROM t ORDER BY id") == [("a", "of a"), ("b", "of b")]
    assert_converged([one, other], ["t"])
