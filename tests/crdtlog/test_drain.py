"""Drain: what was captured becomes one entry, or a group of entries when it is much, and nothing is lost on the way."""

import time

import pytest

from crdtlog.payload import MAX_ROWS
from tests.crdtlog.devices import (
    NUMBERS,
    World,
    apply_all,
    assert_converged,
    closing_connection,
    fill,
    lacking,
    logged,
    new_entries,
    pair,
    sync,
)

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, n INTEGER)"


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
    one, other = pair(world, TABLE)
    position = one.position()

    fill(one, 1, 12_001)
    one.drain_all()

    entries = new_entries(one, position)
    assert sum(entries) == 12_001
    assert max(entries) <= MAX_ROWS
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_many_bytes_are_shared_out_among_entries(world: World) -> None:
    one, other = pair(world, TABLE)
    position = one.position()

    fill(one, 1, 40, "n, randomblob(300000), 0")
    one.drain_all()

    assert sum(new_entries(one, position)) == 40
    assert all(item.raw_size <= 5 << 20 for item, _ in logged(one, position))
    sync(one, other)
    assert_converged([one, other], ["t"])


def test_no_apply_falls_inside_a_group(world: World) -> None:
    """A context must not claim to have seen what the person who wrote the group had not."""
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE)
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
