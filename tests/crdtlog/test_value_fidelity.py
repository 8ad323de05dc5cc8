"""Values: whatever SQLite can store arrives bit for bit, in columns and in keys, however large a row may be."""

import random
from typing import Any

import pytest

from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    exact,
    pair,
    sync,
    table_rows,
    write_apart,
)

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, v, n INTEGER)"
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
    one, other = pair(world, f"CREATE TABLE t (id INTEGER PRIMARY KEY, {columns})")
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
    one, other = pair(world, f"CREATE TABLE t (k {kind} NOT NULL, v, PRIMARY KEY (k)) {suffix}")
    with closing_connection(one.path) as connection:
        for number, value in enumerate(EVERY_VALUE[1:]):
            connection.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (value, number))
        for raw in ODD_TEXTS:
            connection.execute("INSERT INTO t VALUES (CAST(? AS TEXT), 'odd')", (raw,))
    sync(one, other)
    write_apart([one, other], "UPDATE t SET v = :name")
    sync(one, other)
    assert_converged([one, other], ["t"])
    other.execute("DELETE FROM t WHERE typeof(k) = 'text'")
    one.execute("UPDATE t SET v = 'late'")
    sync(one, other)

    assert_converged([one, other], ["t"])


def test_a_blob_of_ten_megabytes_arrives_and_changes(world: World) -> None:
    one, other = pair(world, TABLE)
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
    one, other = pair(world, TABLE, "CREATE TABLE u (id TEXT PRIMARY KEY, v)")
    one.execute("INSERT INTO t VALUES (1, zeroblob(70000000), 0), (2, 'kept', 0)")
    one.execute("INSERT INTO u VALUES ('goes', 'on')")

    sync(one, other)

    assert other.execute("SELECT * FROM u").fetchall() == [("goes", "on")]
    (paused,) = [table for table in one.tables() if table.paused]
    assert paused.name == "t"
    assert "row 1 of t" in str(paused.paused) and "shorten it" in str(paused.paused)
    assert paused.pending > 0
    one.execute("UPDATE t SET v = 'short' WHERE id = 1")
    one.check(fix=True)
    sync(one, other)
    assert other.execute("SELECT v FROM t ORDER BY id").fetchall() == [("short",), ("kept",)]
    assert_converged([one, other], ["t", "u"])
