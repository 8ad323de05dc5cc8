"""Check and verify: rows against documents, logs against signatures, and one digest that tells who agrees."""

from collections.abc import Callable

import pytest

from crdtlog import clock
from crdtlog.database import Database
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    devices,
    send,
    sync,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"
ROWS = "INSERT INTO t VALUES ('a', 1, 1), ('b', 2, 2), ('c', 3, 3)"


@pytest.fixture
def pair(world: World) -> tuple[Database, Database]:
    one, other = devices(world, ["one", "other"], [TABLE], ROWS)
    other.execute("UPDATE t SET v = 9 WHERE id = 'c'")
    sync(one, other)
    return one, other


def unseen(db: Database, *statements: str) -> None:
    """Changes of which nothing was captured: the captures are taken away again."""
    with closing_connection(db.path) as connection:
        connection.execute("BEGIN")
        for sql in statements:
            connection.execute(sql)
        connection.execute("DELETE FROM crdtlog__capture_1")
        connection.execute("COMMIT")


def test_check_finds_rows_that_changed_appeared_or_vanished_unseen_and_fix_takes_them_in(
    pair: tuple[Database, Database],
) -> None:
    one, other = pair
    assert one.check()[0].total == 0
    unseen(
        one,
        "UPDATE t SET v = 7 WHERE id = 'a'",
        "DELETE FROM t WHERE id = 'b'",
        "INSERT INTO t VALUES ('d', 4, 4)",
    )

    (found,) = one.check()
    assert (found.table, found.without_document, found.changed, found.missing) == ("t", 1, 1, 1)
    assert one.drain_all() == 0
    one.check(fix=True)
    sync(one, other)

    assert one.check()[0].total == 0
    assert [row[0] for row in other.execute("SELECT id FROM t ORDER BY id").fetchall()] == ["a", "c", "d"]
    assert_converged([one, other], ["t"])


def test_check_writes_nothing(pair: tuple[Database, Database]) -> None:
    one, _ = pair
    unseen(one, "UPDATE t SET v = 7")
    position = one.position()

    one.check()

    assert one.position() == position
    assert one.pending() == 0


def test_check_fix_takes_in_a_deletion_of_everything_only_because_it_was_asked(
    pair: tuple[Database, Database],
) -> None:
    one, other = pair
    unseen(one, "DELETE FROM t")

    one.check(fix=True)
    sync(one, other)

    assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert_converged([one, other], ["t"])


def test_progress_is_told_by_table(pair: tuple[Database, Database]) -> None:
    told: list[tuple[str, int, int]] = []

    pair[0].check(progress=lambda *step: told.append(step))
    pair[0].verify(progress=lambda *step: told.append(step))

    assert ("t", 3, 3) in told
    assert any(what == "log" for what, _, _ in told)


# --- the digest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET v = 2 WHERE id = 'a'",
        "UPDATE t SET v = 1.0 WHERE id = 'a'",
        "UPDATE t SET v = '1' WHERE id = 'a'",
        "DELETE FROM t WHERE id = 'a'",
        "INSERT INTO t VALUES ('z', NULL, NULL)",
    ],
)
def test_the_state_differs_as_soon_as_documents_do(pair: tuple[Database, Database], sql: str) -> None:
    one, other = pair
    assert one.verify().state == other.verify().state

    one.execute(sql)
    one.drain_all()

    assert one.verify().state != other.verify().state
    sync(one, other)
    assert one.verify().state == other.verify().state


def test_the_state_tells_conflicts_and_dead_rows_apart_too(pair: tuple[Database, Database]) -> None:
    one, other = pair
    write_apart(pair, "UPDATE t SET v = :name WHERE id = 'a'")
    send(one, other)
    shown = other.execute("SELECT v FROM t WHERE id = 'a'").fetchone()

    assert shown == ("other",)
    assert one.verify().state != other.verify().state
    sync(one, other)
    assert_converged(pair, ["t"])


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE crdtlog__row_1 SET at = at + 1 WHERE k1 = 'a'",
        "UPDATE crdtlog__row_1 SET s = s + 1 WHERE k1 = 'a'",
        "UPDATE crdtlog__row_1 SET dead = 1 WHERE k1 = 'a'",
        "DELETE FROM crdtlog__row_1 WHERE k1 = 'a'",
    ],
)
def test_a_document_that_somebody_changed_shows_in_the_state(
    pair: tuple[Database, Database], sql: str
) -> None:
    one, other = pair
    with closing_connection(one.path) as connection:
        connection.execute(sql)

    assert one.verify().state != other.verify().state


def test_hidden_losing_values_are_part_of_the_state(pair: tuple[Database, Database]) -> None:
    one, other = pair
    write_apart(pair, "UPDATE t SET v = 'same' WHERE id = 'a'")
    sync(one, other)
    with closing_connection(one.path) as connection:
        connection.execute("DELETE FROM crdtlog__loser")

    assert one.conflicts() == other.conflicts() == []
    assert one.verify().state != other.verify().state


# --- the logs -----------------------------------------------------------------------------------------------------


def last(db: Database) -> int:
    return db.position()


TAMPERINGS: dict[str, Callable[[Database], tuple[str, tuple[object, ...]]]] = {
    "a byte of an entry": lambda db: (
        "UPDATE crdtlog__log SET signed = CAST(substr(signed, 1, 200) || x'00' || substr(signed, 202) AS BLOB) "
        "WHERE position = ?",
        (last(db),),
    ),
    "the stored hash": lambda db: (
        "UPDATE crdtlog__log SET hash = zeroblob(32) WHERE position = ?",
        (last(db) - 1,),
    ),
    "the last entry gone": lambda db: ("DELETE FROM crdtlog__log WHERE position = ?", (last(db),)),
    "an entry in the middle gone": lambda db: (
        "DELETE FROM crdtlog__log WHERE position = (SELECT min(position) + 1 FROM crdtlog__log WHERE ?)",
        (1,),
    ),
    "entries in another order": lambda db: (
        "UPDATE crdtlog__log SET position = position + ? WHERE position = 1",
        (1_000,),
    ),
    "an author unknown": lambda db: ("DELETE FROM crdtlog__device WHERE name = ?", ("other",)),
    "a head moved": lambda db: ("UPDATE crdtlog__writer SET seq = seq + ?", (1,)),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_log_that_somebody_changed_does_not_verify(
    pair: tuple[Database, Database], world: World, what: str
) -> None:
    one, _ = pair
    one.execute("UPDATE t SET n = 5")
    one.drain_all()
    assert one.verify().ok
    with closing_connection(one.path) as connection:
        connection.execute(*TAMPERINGS[what](one))

    verified = world.reopen("one").verify()

    assert not verified.ok
    assert verified.problems


def test_verify_writes_nothing_and_counts(pair: tuple[Database, Database]) -> None:
    one, _ = pair
    before = one.path.read_bytes(), one.position()

    verified = one.verify()

    assert (one.path.read_bytes(), one.position()) == before
    assert verified.rows == 3
    assert verified.entries == len(one.log())
    assert len(verified.state) == 64


def test_stamps_in_views_are_times(pair: tuple[Database, Database]) -> None:
    one, _ = pair
    one._state.now_ms = lambda: 1_700_000_000_123
    with closing_connection(one.path) as connection:
        connection.execute("UPDATE t SET n = 5")
        connection.execute("UPDATE crdtlog__capture_1 SET at = ?", (clock.julian(1_600_000_000_000),))
    assert one.drain_all() == 3

    assert one.log()[-1]["at"] >= "2020"
