"""Counters in real tables: plain SQL steps on several devices add up, whatever order they meet in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.errors import NoSuchTable, Usage
from tests.crdtlog.clients import Step, merging, play
from tests.crdtlog.devices import (
    World,
    assert_converged,
    conflicts_of,
    devices,
    quick_directory,
    rows_of,
    send,
    sync_all,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, likes INTEGER, level REAL, title)"
KINDS = {"likes": "counter", "level": "counter"}


def fleet(world: World, count: int, rows: str = "") -> list[Database]:
    """Devices with a table that has counters."""
    names = ["ant", "bee", "cat", "dog", "eel"][:count]
    dbs = devices(world, names, [TABLE], rows)
    dbs[0].track("t", KINDS)
    sync_all(dbs)
    return dbs


ROW = "INSERT INTO t VALUES ('a', 10, 1.5, 'x')"


def test_one_more_on_each_of_five_devices_is_five_more(world: World) -> None:
    dbs = fleet(world, 5, ROW)
    write_apart(dbs, "UPDATE t SET likes = likes + 1")
    sync_all(dbs)
    assert [rows_of(db, "SELECT likes FROM t") for db in dbs] == [[(15,)]] * 5
    assert not conflicts_of(dbs[0])
    assert_converged(dbs, ["t"])


def test_several_steps_on_each_device_add_up_with_syncs_in_between(world: World) -> None:
    one, other = fleet(world, 2, ROW)
    for step in (1, 5, -3):
        write_apart([one, other, one], f"UPDATE t SET likes = likes + {step}, level = level + {step / 4}")
        sync_all([one, other])
    assert rows_of(other, "SELECT likes, level FROM t") == [(10 + 9, 1.5 + 9 / 4)]
    assert_converged([one, other], ["t"])


def test_zero_takes_off_what_was_seen(world: World) -> None:
    one, other = fleet(world, 2, ROW)
    one.execute("UPDATE t SET likes = 0")
    other.execute("UPDATE t SET likes = likes + 2")
    sync_all([one, other])
    assert rows_of(one, "SELECT likes FROM t") == [(2,)]
    assert_converged([one, other], ["t"])


def test_of_two_first_values_one_shows_and_later_steps_add_up(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "INSERT INTO t VALUES ('k', 5, 0, 1)")
    write_apart([other], "INSERT INTO t VALUES ('k', 3, 0, 1)")
    write_apart([one], "UPDATE t SET likes = likes + 1")
    write_apart([other], "UPDATE t SET likes = likes + 1")
    sync_all([one, other])
    (shown,) = rows_of(one, "SELECT likes FROM t")
    assert shown in [(5 + 2,), (3 + 2,)]
    assert_converged([one, other], ["t"])
    write_apart([other], "UPDATE t SET likes = likes + 1")
    sync_all([one, other])
    assert rows_of(one, "SELECT likes FROM t") == [(shown[0] + 1,)]
    assert not conflicts_of(one)


def test_of_a_step_and_a_row_put_back_the_later_shows_and_the_other_is_a_conflict_with_all_steps(
    world: World,
) -> None:
    one, other = fleet(world, 2, ROW)
    write_apart([one], "UPDATE t SET likes = likes + 4")
    sync_all([one, other])
    write_apart([one], "DELETE FROM t")
    write_apart([one], "INSERT INTO t VALUES ('a', 100, 0.0, 'y')")
    write_apart([other], "UPDATE t SET likes = likes + 1")
    sync_all([one, other])
    assert rows_of(one, "SELECT likes FROM t") == [(15,)]
    assert rows_of(one, "SELECT value FROM crdtlog_conflicts WHERE \"column\" = 'likes'") == [(101,)]
    assert_converged([one, other], ["t"])


def test_what_counts_nothing_shows_as_it_is_and_a_number_begins_anew(world: World) -> None:
    one, other = fleet(world, 2, ROW)
    write_apart([one], "UPDATE t SET likes = likes + 1")
    write_apart([one], "UPDATE t SET likes = NULL")
    sync_all([one, other])
    assert rows_of(other, "SELECT likes FROM t") == [(None,)]
    write_apart([other], "UPDATE t SET likes = 7")
    sync_all([one, other])
    write_apart([one, other], "UPDATE t SET likes = likes + 1")
    sync_all([one, other])
    assert rows_of(one, "SELECT likes FROM t") == [(9,)]
    assert_converged([one, other], ["t"])


def test_past_64_bits_the_nearest_number_shows(world: World) -> None:
    one, other = fleet(world, 2, f"INSERT INTO t VALUES ('a', {2**63 - 2}, 0.0, 'x')")
    write_apart([one, other], "UPDATE t SET likes = likes + 1")
    sync_all([one, other])
    assert rows_of(one, "SELECT likes FROM t") == [(2**63 - 1,)]
    assert_converged([one, other], ["t"])


def test_a_register_becomes_a_counter_on_every_device_and_back(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE], ROW)
    write_apart([one], "UPDATE t SET likes = 20")
    one.track("t", {"likes": "counter"})
    sync_all([one, other])
    write_apart([one, other], "UPDATE t SET likes = likes + 1")
    sync_all([one, other])
    assert rows_of(other, "SELECT likes FROM t") == [(22,)]
    other.track("t", {"likes": "register"})
    sync_all([one, other])
    write_apart([one, other], "UPDATE t SET likes = likes + 1")
    sync_all([one, other])
    assert rows_of(one, "SELECT likes FROM t") == [(23,)]
    assert_converged([one, other], ["t"])


def test_kinds_that_were_chosen_apart_end_alike(world: World) -> None:
    one, other, third = devices(world, ["one", "other", "third"], [TABLE], ROW)
    one.track("t", {"likes": "counter"})
    other.track("t", {"likes": "register", "level": "counter"})
    third.track("t", {"level": "counter", "likes": "counter"})
    third.track("t", {"level": "register"})
    sync_all([one, other, third])
    found = [{slot for slot in db._state.table("t").kinds} for db in (one, other, third)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("column", "error"), [("nope", NoSuchTable), ("id", Usage), ("title2", NoSuchTable)])
def test_columns_that_cannot_count_are_refused(world: World, column: str, error: type[Exception]) -> None:
    (one,) = devices(world, ["one"], [TABLE])
    with pytest.raises(error):
        one.track("t", {column: "counter"})


def test_text_columns_do_not_count(world: World) -> None:
    (one,) = devices(world, ["one"], ["CREATE TABLE t (id TEXT PRIMARY KEY, title TEXT)"])
    with pytest.raises(Usage, match="does not keep every number"):
        one.track("t", {"title": "counter"})


STATEMENTS = [
    *["UPDATE t SET likes = likes + 1", "UPDATE t SET likes = likes - 3, level = level + 0.1"] * 3,
    "UPDATE t SET likes = 0",
    "UPDATE t SET likes = NULL",
    "UPDATE t SET likes = 'text', title = 2",
    "UPDATE t SET likes = 2.5",
    "UPDATE t SET level = 1e300 * 10",
    "UPDATE t SET title = title || 'x'",
    "DELETE FROM t",
    "INSERT INTO t VALUES ('a', 5, 0.5, 'new')",
    "REPLACE INTO t VALUES ('a', 6, 1, 'replaced')",
    "INSERT INTO t VALUES ('a', 7, 7, 7) ON CONFLICT DO UPDATE SET likes = likes + 7",
]


@given(merging(STATEMENTS, {"likes": ["counter", "register"]}))
def test_after_any_history_of_counting_all_devices_show_the_same(history: list[Step]) -> None:
    with quick_directory() as directory, World(directory) as world:
        dbs = fleet(world, 3, ROW)
        play(dbs, history)
        sync_all(dbs)
        assert_converged(dbs, ["t"])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 5) | st.tuples(st.integers(0, 2))), max_size=30))
def test_integer_steps_are_never_lost(history: list[tuple[int, int | tuple[int]]]) -> None:
    with quick_directory() as directory, World(directory) as world:
        dbs = fleet(world, 3, ROW)
        total = 10
        for device, step in history:
            if isinstance(step, tuple):
                if step[0] != device:
                    dbs[device].drain_all()
                    send(dbs[device], dbs[step[0]])
            else:
                dbs[device].execute("UPDATE t SET likes = likes + ?", (step,))
                total += step
        sync_all(dbs)
        assert [rows_of(db, "SELECT likes FROM t") for db in dbs] == [[(total,)]] * 3
        assert_converged(dbs, ["t"])


ONLY = "CREATE TABLE t (id TEXT PRIMARY KEY, n {})"


@pytest.mark.parametrize("kind", ["json", "set", "register"])
@pytest.mark.parametrize("choosers", [1, 2])
@pytest.mark.parametrize("affinity", ["NUMERIC", "JSON", "INTEGER"])
def test_a_number_that_was_written_as_another_kind_is_a_number(
    world: World, affinity: str, choosers: int, kind: str
) -> None:
    """In a column that keeps numbers a document never shows one: what is written over it is a value of its own."""
    if affinity == "INTEGER" and kind != "register":
        return
    one, other = devices(world, ["one", "other"], [ONLY.format(affinity)], "INSERT INTO t VALUES ('a', '{}')")
    one.track("t", {"n": kind})
    sync_all([one, other])
    for value in ("'{\"a\": 1}'", "'[\"b\"]'", "'5'", "7"):
        write_apart([one], f"UPDATE t SET n = {value}")
        sync_all([one, other])
    for db in (one, other)[:choosers]:
        db.track("t", {"n": "counter"})
    write_apart([one, other][:choosers], "UPDATE t SET n = n + 1")
    sync_all([one, other])
    write_apart([one, other], "UPDATE t SET n = n + 1")
    sync_all([one, other])
    assert rows_of(other) == [("a", 7 + choosers + 2)]
    assert not conflicts_of(one)
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("kind", ["json", "text", "register"])
@pytest.mark.parametrize("affinity", ["", "BLOB"])
def test_a_text_that_reads_as_a_number_counts_nothing_and_the_steps_after_the_first_add_up(
    world: World, affinity: str, kind: str
) -> None:
    one, other = devices(world, ["one", "other"], [ONLY.format(affinity)], "INSERT INTO t VALUES ('a', '5')")
    one.track("t", {"n": kind})
    sync_all([one, other])
    write_apart([one], "UPDATE t SET n = '7'")
    sync_all([one, other])
    one.track("t", {"n": "counter"})
    sync_all([one, other])
    assert rows_of(other) == [("a", "7")]
    write_apart([one], "UPDATE t SET n = n + 1")
    write_apart([other], "UPDATE t SET n = n + 5")
    write_apart([one], "UPDATE t SET n = n + 1")
    sync_all([one, other])
    (shown,) = rows_of(one)
    assert shown in [("a", 12 + 1), ("a", 8 + 1)], "the later of two beginnings, and the step that knew one"
    assert len(conflicts_of(one)) == 1
    assert_converged([one, other], ["t"])
    write_apart([one, other], "UPDATE t SET n = n + 1")
    sync_all([one, other])
    assert rows_of(other) == [("a", shown[1] + 2)]
    assert not conflicts_of(one)
    assert_converged([one, other], ["t"])
