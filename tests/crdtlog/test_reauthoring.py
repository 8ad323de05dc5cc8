"""Own entries written once more as a new writer: rows, conflicts and merges stay, and everybody converges."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.device import new_writer
from crdtlog.reauthoring import reauthor
from tests.crdtlog.clients import Step, merging, play
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    conflicts_of,
    lacking,
    quick_directory,
    rows_of,
    send,
    sync_all,
    table_rows,
    write_apart,
)
from tests.crdtlog.test_rewinding import STATEMENTS, fleet, held


def anew(db: Database, seq: int) -> int:
    """Write the own entries from that one on anew."""
    db.drain_all()
    with db._state.transaction():
        return reauthor(db._state, db._drainer, seq, new_writer(db.device))


def unsent(db: Database, others: list[Database]) -> int:
    """The first own entry that nobody else has."""
    own = db.writer
    return 1 + max(other.heads()[own].seq if own in other.heads() else 0 for other in others)


def shown(db: Database) -> list[Any]:
    return [sorted(table_rows(db, "t")), sorted(conflicts_of(db), key=repr)]


@given(merging(STATEMENTS, {"body": ["register", "text"], "meta": ["json", "register"]}), st.integers(0, 3))
def test_what_was_written_anew_shows_as_before_and_merges_as_before(history: list[Step], extra: int) -> None:
    with quick_directory() as directory, World(directory) as world:
        dbs = fleet(world)
        play(dbs, history)
        one, *others = dbs
        for n in range(extra):
            write_apart([one], STATEMENTS[n])
        send(others[0], one)
        one.drain_all()
        seq, own, before = unsent(one, others), one.writer, shown(one)
        many = one.heads()[own].seq - seq + 1
        assert anew(one, seq) == many
        assert shown(one) == before
        assert one.heads()[own].seq == seq - 1
        assert one.writer != own
        held(one)
        sync_all(dbs)
        assert_converged(dbs, ["t"])


def test_nobody_s_step_is_lost_or_counted_twice(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "UPDATE t SET n = n + 10, body = body || ' one', tags = '[1]'")
    write_apart([other], "UPDATE t SET n = n + 100, body = 'other ' || body, tags = '[2]'")
    write_apart([one], "UPDATE t SET n = n + 1000, meta = json_set(meta, '$.one', 1)")
    apply_all(one, lacking(other, one))
    write_apart([one], "UPDATE t SET n = n + 10000")
    anew(one, unsent(one, [other]))
    assert rows_of(one, "SELECT n, body, tags FROM t") == [(11111, "other a text one", "[1,2]")]
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    assert rows_of(other, "SELECT n, body, tags FROM t") == [(11111, "other a text one", "[1,2]")]


def test_a_conflict_stays_one(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "UPDATE t SET plain = 'early'")
    write_apart([other], "UPDATE t SET plain = 'late'")
    apply_all(one, lacking(other, one))
    before = conflicts_of(one)
    assert [conflict[2] for conflict in before] == ["early"]
    anew(one, unsent(one, [other]))
    assert conflicts_of(one) == before
    assert rows_of(one, "SELECT plain FROM t") == [("late",)]
    sync_all([one, other])
    assert conflicts_of(other) == before
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("table", ["WITHOUT ROWID", "STRICT", ""])
def test_keys_of_all_kinds_and_rows_that_went(world: World, table: str) -> None:
    one, other = fleet(world, 2)
    for db in (one, other):
        db.execute(f"CREATE TABLE u (a TEXT COLLATE NOCASE, b BLOB, v REAL, PRIMARY KEY (a, b)) {table}")
    one.track("u")
    sync_all([one, other])
    seq = unsent(one, [other])
    write_apart(
        [one], "INSERT INTO u VALUES ('Key', x'00ff', 1.5), ('gone', x'', 2.0), ('stays', x'01', -0.0)"
    )
    write_apart([one], "UPDATE u SET a = 'KEY' WHERE a = 'key'")
    write_apart([one], "DELETE FROM u WHERE a = 'gone'")
    before = table_rows(one, "u")
    assert anew(one, seq) == 3
    assert table_rows(one, "u") == before
    sync_all([one, other])
    assert_converged([one, other], ["t", "u"])
    assert len(table_rows(other, "u")) == 2


def test_tables_kinds_and_members_that_nobody_has_heard_of(world: World) -> None:
    one, other = fleet(world, 2)
    seq = unsent(one, [other])
    one.execute("CREATE TABLE u (id TEXT PRIMARY KEY, v)")
    one.track("u")
    write_apart([one], "INSERT INTO u VALUES ('k', 1)")
    one.track("t", {"plain": "json"})
    third = world.join("cat", one)
    assert anew(one, seq) >= 4
    sync_all([one, other, third])
    assert_converged([one, other, third], ["t", "u"])
    assert rows_of(third, "SELECT * FROM u") == [("k", 1)]
    assert {member.name for member in other.members()} == {"ant", "bee", "cat"}
