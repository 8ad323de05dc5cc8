"""Merging where something else happens meanwhile: kinds that change, undone transactions, many rows at once."""

import time

import pytest

from crdtlog.database import Database
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    devices,
    rows_of,
    send,
    sync_all,
    without_triggers,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, doc TEXT, tags TEXT, x, plain)"
KINDS = {"n": "counter", "doc": "json", "tags": "set", "x": "counter"}


def fleet(world: World, count: int, rows: str = "") -> list[Database]:
    dbs = devices(world, ["ant", "bee", "cat"][:count], [TABLE], rows)
    dbs[0].track("t", KINDS)
    sync_all(dbs)
    return dbs


def test_a_counter_that_begins_at_minus_zero(world: World) -> None:
    one, other = fleet(world, 2, "INSERT INTO t (id) VALUES ('a')")
    write_apart([one], "UPDATE t SET x = -0.0")
    sync_all([one, other])
    assert_converged([one, other], ["t"])


def test_steps_on_a_value_from_before_its_column_counted_take_nothing_off(world: World) -> None:
    one, other, third = devices(
        world, ["ant", "bee", "cat"], [TABLE], "INSERT INTO t (id, n) VALUES ('a', 10)"
    )
    one.track("t", KINDS)
    write_apart([one], "UPDATE t SET n = n + 5")
    write_apart([other], "UPDATE t SET n = 20")
    sync_all([one, other, third])
    assert rows_of(third, "SELECT n FROM t") == [(20,)]
    write_apart([one, third], "UPDATE t SET n = n + 1")
    sync_all([one, other, third])
    assert rows_of(third, "SELECT n FROM t") == [(22,)]
    write_apart([one, third], "UPDATE t SET n = n + 1")
    sync_all([one, other, third])
    assert rows_of(third, "SELECT n FROM t") == [(24,)]
    assert_converged([one, other, third], ["t"])


def test_what_an_undone_attempt_read_of_its_own_entry_is_forgotten(world: World) -> None:
    one, other = fleet(
        world, 2, "INSERT INTO t VALUES ('a', 1, '{}', '[]', 1, 'p'), ('b', 1, '{}', '[]', 1, 'p')"
    )
    write_apart([one, other], "UPDATE t SET n = n + 1 WHERE id = 'a'")
    sync_all([one, other])
    with closing_connection(other.path) as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE t SET n = n + 1 WHERE id = 'a'")
        connection.execute("UPDATE t SET plain = 'q' WHERE id = 'b'")
        connection.execute("COMMIT")
    without_triggers(one, "UPDATE t SET doc = 'no json' WHERE id = 'b'")
    one.execute("UPDATE t SET n = NULL WHERE id = 'a'")
    send(other, one)
    write_apart([one], "UPDATE t SET doc = '{\"z\": 2}' WHERE id = 'b'")
    sync_all([one, other])
    assert_converged([one, other], ["t"])


def test_large_sets_that_are_emptied_at_once_fill_several_entries(world: World) -> None:
    one, other = fleet(world, 2)
    up = "WITH RECURSIVE u(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM u WHERE n < 1000) SELECT n FROM u"
    tags = f"(SELECT json_group_array(printf('%0900d', n)) FROM ({up}))"
    for n in range(70):
        one.execute(f"INSERT INTO t (id, tags) VALUES ('{n}', {tags})")
        if n % 4 == 3:
            one.drain_all()
    one.drain_all()
    one.execute("UPDATE t SET tags = '[]'")
    one.drain_all()
    assert one.tables()[0].paused is None
    send(one, other)
    assert_converged([one, other], ["t"])


def test_many_documents_that_must_be_built_anew_are_read_from_the_log_once(world: World) -> None:
    one, other, third = fleet(world, 3)
    up = "WITH RECURSIVE u(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM u WHERE n < 4000) "
    write_apart([one], f"INSERT INTO t SELECT n, 1, '{{}}', '[]', 1, 'p' FROM ({up} SELECT n FROM u)")
    write_apart([one], "UPDATE t SET doc = json_set(doc, '$.early', 1)")
    sync_all([one, other, third])
    write_apart([one], "UPDATE t SET doc = json_set(doc, '$.late', 1)")
    write_apart([other], "UPDATE t SET doc = NULL")
    send(other, third)
    begin = time.monotonic()
    send(one, third)
    assert time.monotonic() - begin < 15
    sync_all([one, other, third])
    assert_converged([one, other, third], ["t"])


def test_a_counter_put_back_is_in_history_and_restored_as_it_showed(world: World) -> None:
    one, other = fleet(world, 2, "INSERT INTO t VALUES ('a', 10, '{}', '[]', 1, 'p')")
    write_apart([one, other], "UPDATE t SET n = n + 2")
    sync_all([one, other])
    write_apart([one], "DELETE FROM t")
    write_apart([one], "INSERT INTO t VALUES ('a', 20, '{}', '[]', 1, 'p')")
    sync_all([one, other])
    assert rows_of(other, "SELECT n FROM t") == [(20,)]
    put_back = [c for c in other.history("t", "a") if c.column == "n"]
    assert 20 in [c.value for c in put_back], put_back
    write_apart([one], "DELETE FROM t")
    write_apart([other], "UPDATE t SET plain = 'q'")
    sync_all([one, other])
    lost = [item for item in one.conflicts() if item["column"] is None]
    if not rows_of(one, "SELECT 1 FROM t"):
        one.restore_value("t", "a", None, lost[0]["dot"])
    sync_all([one, other])
    assert rows_of(other, "SELECT n, plain FROM t") == [(20, "q")]
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("doc", ["'no json'", "doc", "NULL"])
def test_a_value_and_a_patch_of_one_entry_come_back_with_a_row_that_was_deleted(
    world: World, doc: str
) -> None:
    dbs = fleet(world, 3, "INSERT INTO t VALUES ('a', 1, '{}', '[]', 1, 'p')")
    dbs[1]._state.now_ms = lambda: 0
    write_apart([dbs[1]], f"UPDATE t SET doc = {doc}, tags = '[\"c\"]', n = n + 1")
    write_apart([dbs[0]], "DELETE FROM t")
    write_apart([dbs[2]], "UPDATE t SET plain = 'q'")
    sync_all(dbs)
    assert rows_of(dbs[0], "SELECT tags, n, plain FROM t") == [('["c"]', 2, "q")]
    assert_converged(dbs, ["t"])
