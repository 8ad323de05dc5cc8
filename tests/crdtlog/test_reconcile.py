"""Reconciling rows with documents (R2): what triggers missed is found again; what merely vanished is not believed."""

import pytest

from crdtlog import errors
from crdtlog.database import Database
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    fill,
    lacking,
    new_entries,
    pair,
    send,
    sync,
    table_rows,
    without_triggers,
)

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, n INTEGER)"

# --- triggers that are gone (R2) ----------------------------------------------------------------------------------


def test_triggers_that_somebody_dropped_come_back_and_what_they_missed_is_found(world: World) -> None:
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE, "CREATE TABLE u2 (id TEXT PRIMARY KEY)")
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
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE, "CREATE TABLE u (id TEXT PRIMARY KEY)")
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
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE)
    fill(one, 1, rows)
    sync(one, other)
    remove_unseen(one, f"id <= {gone}")

    sync(one, other)

    assert other.execute("SELECT count(*) FROM t").fetchone() == (rows - gone,)
    assert_converged([one, other], ["t"])


def test_an_emptied_table_without_a_delete_never_empties_the_others(world: World) -> None:
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE)
    fill(one, 1, 1_000)
    sync(one, other)
    without_triggers(one, "DELETE FROM t WHERE id <= 300")
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
    one, other = pair(world, TABLE)
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
