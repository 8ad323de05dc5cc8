"""History: every write of a row is told once, alike on every device, with what became of it."""

import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.errors import NoSuchRow, NoSuchTable, Usage
from crdtlog.history import Written
from crdtlog.values import key_text
from tests.crdtlog.clients import SHAPES, Shape, after_a_quarrel
from tests.crdtlog.devices import (
    World,
    devices,
    exact,
    fill,
    pair,
    quick_directory,
    sync,
    sync_all,
    write_apart,
)
from tests.crdtlog.oracle import content, logged_lines

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER)"

# --- any history --------------------------------------------------------------------------------------------------


def listed(db: Database) -> dict[Any, set[tuple[str | None, str]]]:
    """The conflicts that people see: key → column and dot of each."""
    found: dict[Any, set[tuple[str | None, str]]] = {}
    for item in db.conflicts():
        found.setdefault(exact(item["key"]), set()).add((item["column"], item["dot"]))
    return found


@given(st.data(), st.sampled_from(SHAPES[:-2]))
def test_every_write_of_a_row_is_in_its_history_once_with_what_became_of_it(
    choose: st.DataObject, shape: Shape
) -> None:
    with after_a_quarrel(choose, shape) as dbs:
        db = dbs[0]
        tracked, shown, conflicts = db._state.table(shape.name), content(db)[shape.name], listed(db)
        names = {slot: column.name for slot, column in tracked.cells}

        for key, lines in logged_lines(db, shape.name).items():
            told = db.history(shape.name, key)
            assert told == dbs[1].history(shape.name, key)
            assert told == sorted(told, key=lambda line: line.at or "")
            assert Counter((x.operation, x.column, exact(x.value), x.dot) for x in told) == lines
            showing = {(line.column, exact(line.value)) for line in told if line.state == "shows"}
            lost = {(x.column, x.dot) for x in told if x.state == "lost" and x.operation != "delete"}
            against = conflicts.pop(exact(key_text(key)), set())
            if key in shown:
                assert showing == {(names[slot], value) for slot, value in shown[key].items()} or not names
                assert lost == against
            else:
                assert showing == {(None, exact(None))}
                assert {dot for _, dot in lost} == {dot for _, dot in against}
        assert not conflicts


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["v", "n"]), st.booleans()), max_size=15))
def test_every_value_that_a_device_has_taken_in_is_told_once_under_its_name(
    writes: list[tuple[int, str, bool]],
) -> None:
    with quick_directory() as directory, World(directory) as world:
        names = ["ant", "bee", "cat"]
        dbs = devices(world, names, [TABLE], "INSERT INTO t VALUES ('k', -1, -2)")
        for number, (device, column, exchange) in enumerate(writes):
            dbs[device].execute(f"UPDATE t SET {column} = ?", (number,))
            dbs[device].drain_all()
            if exchange:
                sync(dbs[device], dbs[device - 1])
        sync_all(dbs)

        for db in dbs:
            lines = [(x.device, x.column, x.value) for x in db.history("t", "k")]
            expected = [(names[device], column, number) for number, (device, column, _) in enumerate(writes)]
            assert sorted(lines, key=lambda line: line[2]) == [
                ("ant", "n", -2),
                ("ant", "v", -1),
                *expected,
            ]


# --- one by one ---------------------------------------------------------------------------------------------------


def told(lines: list[Written]) -> list[tuple[Any, ...]]:
    return [(x.device, x.operation, x.column, x.value, x.state) for x in lines]


def test_history_tells_what_was_overwritten_lost_and_deleted_and_by_whom(world: World) -> None:
    one, other = pair(world, TABLE, rows="INSERT INTO t VALUES ('k', 'old', 0), ('other', 'x', 0)")
    write_apart([one, other], "UPDATE t SET v = :name WHERE id = 'k'")
    sync(one, other)

    first = [("one", "insert", "v", "old", "overwritten"), ("one", "insert", "n", 0, "shows")]
    assert told(one.history("t", "k")) == [
        *first,
        ("one", "update", "v", "one", "lost"),
        ("other", "update", "v", "other", "shows"),
    ]
    assert told(other.history("T", "k", "N")) == [first[1]]
    (conflict,) = other.conflicts()
    (lost,) = [line for line in one.history("t", conflict["key"]) if line.state == "lost"]
    assert (lost.dot, lost.at, lost.device) == (conflict["dot"], conflict["at"], conflict["device"])

    one.execute("DELETE FROM t WHERE id = 'k'")
    sync(one, other)

    assert {line.state for line in other.history("t", "k")[:-1]} == {"overwritten"}
    assert told(other.history("t", "k", "n")) == [
        ("one", "insert", "n", 0, "overwritten"),
        ("one", "delete", None, None, "shows"),
    ]


def test_history_tells_what_a_delete_had_not_seen_and_which_delete_lost(world: World) -> None:
    one, other = pair(world, TABLE, rows="INSERT INTO t VALUES ('a', 'old', 0), ('b', 'old', 0)")
    one.execute("UPDATE t SET v = 'precious' WHERE id = 'a'")
    other.execute("DELETE FROM t WHERE id = 'b'")
    one.drain_all()
    other.drain_all()
    time.sleep(0.002)
    one.execute("UPDATE t SET v = 'kept' WHERE id = 'b'")
    other.execute("DELETE FROM t WHERE id = 'a'")
    sync(one, other)

    assert told(one.history("t", "a"))[2:] == [
        ("one", "update", "v", "precious", "lost"),
        ("other", "delete", None, None, "shows"),
    ]
    assert told(one.history("t", "b"))[2:] == [
        ("other", "delete", None, None, "lost"),
        ("one", "update", "v", "kept", "shows"),
    ]


def test_equal_values_written_apart_both_show(world: World) -> None:
    one, other = pair(world, TABLE, rows="INSERT INTO t VALUES ('k', 'old', 0)")
    write_apart([one, other], "UPDATE t SET v = 'same'")
    sync(one, other)

    assert [line[2:] for line in told(one.history("t", "k", "v"))] == [
        ("v", "old", "overwritten"),
        ("v", "same", "shows"),
        ("v", "same", "shows"),
    ]


def test_a_row_of_nothing_but_its_key_has_a_history_too(world: World) -> None:
    db = world.found("one", ["CREATE TABLE links (a TEXT, b INTEGER, PRIMARY KEY (a, b))"])
    for sql in (
        "INSERT INTO links VALUES ('a', 1)",
        "DELETE FROM links",
        "INSERT INTO links VALUES ('a', 1)",
    ):
        db.execute(sql)
        db.drain_all()

    assert [(line.operation, line.column, line.state) for line in db.history("links", ("a", 1))] == [
        ("insert", None, "overwritten"),
        ("delete", None, "overwritten"),
        ("insert", None, "shows"),
    ]


def test_one_row_is_found_among_many_of_several_tables(world: World) -> None:
    db = world.found("one", [TABLE, "CREATE TABLE u (id TEXT PRIMARY KEY, v, n INTEGER)"])
    fill(db, 1, 6_000, "'k' || n, 'v' || n, n")
    db.execute("INSERT INTO u SELECT * FROM t")
    db.drain_all()
    db.execute("UPDATE u SET v = 'k77'")
    db.execute("UPDATE t SET n = -1 WHERE id = 'k77'")
    db.drain_all()

    assert told(db.history("t", "k77")) == [
        ("one", "insert", "v", "v77", "shows"),
        ("one", "insert", "n", 77, "overwritten"),
        ("one", "update", "n", -1, "shows"),
    ]


def test_a_paused_tables_history_can_be_read(world: World) -> None:
    db = world.found("one", [TABLE], "INSERT INTO t VALUES ('k', 'old', 0)")
    db.execute("ALTER TABLE t RENAME COLUMN v TO w")
    db.drain_all()

    assert [table.paused is not None for table in db.tables()] == [True]
    assert [line.column for line in db.history("t", "k")] == ["v", "n"]


def test_a_time_after_the_year_9999_is_unknown(world: World) -> None:
    db = world.found("one", [TABLE])
    db._state.now_ms = lambda: (1 << 48) - 1
    db.execute("INSERT INTO t VALUES ('k', 1, 1)")
    db.drain_all()
    db.begin_anew_if_ahead(0)

    assert len(db.history("t", "k")) == 2


# --- keys ---------------------------------------------------------------------------------------------------------

ODD = b"\xff\xfea".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("key", "inserted", "typed"),
    [
        ("id INTEGER PRIMARY KEY", 5, ["5", 5, (5,), 5.0, "5.0", "[5]"]),
        ("id INTEGER PRIMARY KEY", -(2**63), [str(-(2**63)), -(2**63)]),
        ("id INT PRIMARY KEY", 2**63 - 1, [str(2**63 - 1), 2**63 - 1]),
        ("id REAL PRIMARY KEY", 2.5, ["2.5", "25e-1", 2.5]),
        ("id REAL PRIMARY KEY", 7, ["7", 7, 7.0]),
        ("id REAL PRIMARY KEY", float("-inf"), ["-inf", float("-inf")]),
        ("id NUMERIC PRIMARY KEY", "1_0", ["1_0"]),
        ("id TEXT PRIMARY KEY", "5", ["5", ("5",), 5]),
        ("id TEXT PRIMARY KEY", "", ["", ("",)]),
        ("id TEXT PRIMARY KEY", "{a", ["{a"]),
        ("id TEXT PRIMARY KEY", '{"hex": "61"}', ['{"text": "7b22686578223a20223631227d"}']),
        ("id TEXT PRIMARY KEY", "[5]", ["[5]"]),
        ("id TEXT PRIMARY KEY", "x'00'", ["x'00'"]),
        ("id TEXT PRIMARY KEY", "a\0b\n", ["a\0b\n", '{"text": "6100620a"}']),
        ("id TEXT PRIMARY KEY", memoryview(b"\xff\xfea"), [ODD, '{"text": "fffe61"}', (ODD,)]),
        ("id BLOB PRIMARY KEY", b"\0\xff", [b"\0\xff", '{"hex": "00ff"}', "x'00FF'"]),
        ("id BLOB PRIMARY KEY", b"", [b"", '{"hex": ""}', "x''"]),
        ("id PRIMARY KEY", 1, ["1", "1.0", 1, 1.0]),
        ("id PRIMARY KEY", "1", ["1", '{"text": "31"}', ("1",)]),
        ("id TEXT PRIMARY KEY COLLATE NOCASE", "Rome ÄÖ", ["rome ÄÖ", "ROME ÄÖ"]),
        ("id TEXT PRIMARY KEY COLLATE NOCASE", "A\0b", ["a\0b"]),
        ("id TEXT PRIMARY KEY COLLATE RTRIM", "Rome  ", ["Rome", "Rome   "]),
    ],
)
def test_a_key_is_found_in_every_form_in_which_it_may_be_given(
    world: World, key: str, inserted: Any, typed: list[Any]
) -> None:
    one, other = pair(world, f"CREATE TABLE t ({key}, v)")
    value = "CAST(? AS TEXT)" if isinstance(inserted, memoryview) else "?"
    parameter = bytes(inserted) if isinstance(inserted, memoryview) else inserted
    one.execute(f"INSERT INTO t VALUES ({value}, 'old')", (parameter,))
    sync(one, other)
    write_apart([one, other], "UPDATE t SET v = :name")
    sync(one, other)
    (conflict,) = one.conflicts()

    for form in [*typed, conflict["key"]]:
        values = [line.value for line in one.history("t", form) if line.column == "v"]
        assert values == ["old", "one", "other"], form


@pytest.mark.parametrize(
    "key", [("a", 1), ("A", 1.0), '["a", 1]', '["A", 1.0]', ["a", 1], '[ "a",1 ]', ("a", "1")]
)
def test_a_key_of_several_columns_is_a_tuple_or_a_json_array(world: World, key: Any) -> None:
    db = world.found("one", ["CREATE TABLE t (n INTEGER, a TEXT, v, PRIMARY KEY (a COLLATE NOCASE, n))"])
    db.execute("INSERT INTO t VALUES (1, 'a', 'found'), (2, 'a', 'no'), (1, 'b', 'no')")
    db.drain_all()

    assert [line.value for line in db.history("t", key) if line.column == "v"] == ["found"]


def test_blobs_and_odd_text_in_keys_of_several_columns(world: World) -> None:
    db = world.found("one", ["CREATE TABLE t (a TEXT, b BLOB, v, PRIMARY KEY (a, b))"])
    db.execute("INSERT INTO t VALUES (CAST(x'fffe61' AS TEXT), x'00ff', 'found')")
    db.drain_all()

    for key in ((ODD, b"\0\xff"), '[{"text": "fffe61"}, {"hex": "00ff"}]'):
        assert [line.value for line in db.history("t", key, "v")] == ["found"]


def test_a_text_and_a_number_that_look_alike_are_two_rows(world: World) -> None:
    db = world.found(
        "one", ["CREATE TABLE t (id PRIMARY KEY, v)"], "INSERT INTO t VALUES (1, 'n'), ('1', 't')"
    )

    found = [db.history("t", key)[-1].value for key in ("1", 1, "[1]", '["1"]', '{"text": "31"}')]

    assert found == ["t", "n", "n", "t", "t"]


# --- what is not there --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "column", "error", "words"),
    [
        ("u", "k", None, NoSuchTable, "no tracked table 'u'"),
        ("t", "k", "w", NoSuchTable, "has no column 'w'"),
        ("t", "k", "id", NoSuchTable, "part of its key"),
        ("t", "no", None, NoSuchRow, "no row 'no' of table t"),
        ("t", None, None, NoSuchRow, "no row None"),
        ("t", 2**63, None, Usage, "64 bits"),
        ("t", ("k", 1), None, Usage, "has 1 columns, 2 were given"),
        ("t", (), None, Usage, "has 1 columns, 0 were given"),
        ("t", "\ud800", None, Usage, "no character"),
        ("t", '{"hex": 5}', None, Usage, "hexadecimal"),
    ],
)
def test_what_is_not_there_is_said_so(
    world: World, table: str, key: Any, column: str | None, error: type[Exception], words: str
) -> None:
    db = world.found("one", [TABLE], "INSERT INTO t VALUES ('k', 'old', 0)")

    with pytest.raises(error, match=words):
        db.history(table, key, column)

    assert len(db.history("t", "k")) == 2
