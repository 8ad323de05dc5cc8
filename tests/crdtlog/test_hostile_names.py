"""Names of tables and columns that are SQL, steer terminals, look like others or are long: here, and from a member."""

from typing import Any

import msgpack
import pytest

from crdtlog.errors import CrdtlogError, Untrackable
from crdtlog.tracking import table_id
from tests.crdtlog.devices import World, apply_all, assert_converged, devices, sync
from tests.crdtlog.liar import Three, next_entry, refused, signed
from tests.crdtlog.test_hostile_records import column, description

NAMES = [
    'x"; DROP TABLE y; --',
    "x'; DROP TABLE y; --",
    "x`; DROP TABLE y; --",
    "x]; DROP TABLE y; --",
    'y" AFTER INSERT ON y BEGIN DELETE FROM y; END; --',
    "x) VALUES (1); DROP TABLE y; --",
    "/* x",
    "x; --",
    "two\nlines\r\n-- and three",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.elif\u2066",
    "zero\u200bwidth\ufeff",
    "%s {0} {x!r} %(y)s ?1 :a @b $c",
    "new",
    "old",
    "rowid",
    "main.y",
    "temp",
    "select",
    " ",
    "",
    "\U0001f4a3",
]
TOO_LONG = ["n" * 10_000, '"' * 10_000, "\U0001f4a3" * 10_000]


def short(name: str) -> str:
    return ascii(name)[:30]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("name", NAMES, ids=short)
def test_a_name_is_only_a_name_on_every_device(world: World, name: str) -> None:
    table, key, other = quoted(name), quoted(name), quoted(name + " and more")
    one, two = devices(
        world,
        ["one", "two"],
        [
            "CREATE TABLE y (id TEXT PRIMARY KEY, v)",
            f"CREATE TABLE {table} ({key} TEXT PRIMARY KEY, {other} TEXT)",
            f"CREATE INDEX {quoted(name + ' index')} ON {table} ({other})",
        ],
        f"INSERT INTO y VALUES ('kept', 1); INSERT INTO {table} VALUES ('a', 'first'), ('b', 'first')",
    )
    one.execute(f"UPDATE {table} SET {other} = 'one' WHERE {key} = 'a'")
    two.execute(f"UPDATE {table} SET {other} = 'two' WHERE {key} = 'a'")
    two.execute(f"INSERT INTO {table} VALUES ('c', 'new')")
    one.execute(f"DELETE FROM {table} WHERE {key} = 'b'")
    sync(one, two)
    sync(one, two)

    assert_converged([one, two], [name, "y"])
    assert one.execute("SELECT * FROM y").fetchall() == [("kept", 1)]
    assert [row[0] for row in one.execute(f"SELECT {key} FROM {table} ORDER BY 1")] == ["a", "c"]
    assert {conflict["table"] for conflict in one.conflicts()} == {name}


@pytest.mark.parametrize("name", TOO_LONG, ids=short)
def test_a_name_of_ten_thousand_characters_is_refused_and_the_file_stays_as_it_was(
    world: World, name: str
) -> None:
    db = world.found("one", ["CREATE TABLE y (id TEXT PRIMARY KEY, v)"], "INSERT INTO y VALUES ('kept', 1)")
    db.execute(f"CREATE TABLE {quoted(name)} (id TEXT PRIMARY KEY)")
    db.execute(f"CREATE TABLE of_a_column ({quoted(name)} TEXT PRIMARY KEY)")
    before = schema_of(db)

    for table in (name, "of_a_column"):
        with pytest.raises(Untrackable):
            db.track(table)

    assert schema_of(db) == before and db.verify().ok


@pytest.mark.parametrize("name", NAMES, ids=short)
def test_a_name_in_a_member_s_description_is_only_a_name(three: Three, name: str) -> None:
    before = schema_of(three.honest)

    apply_all(three.honest, [named(three, name, name, name + " index")])

    added = schema_of(three.honest) - before
    theirs = {(kind, made) for kind, made, on in added if not made.startswith(("crdtlog__", "sqlite_auto"))}
    assert before <= schema_of(three.honest)
    assert theirs == {("table", name), ("index", name + " index")}
    assert {on for _, made, on in added if not on.startswith("crdtlog__")} == {name}
    assert three.honest.verify().ok


@pytest.mark.parametrize("name", TOO_LONG, ids=short)
@pytest.mark.parametrize("where", ["table", "column", "index"])
def test_a_name_of_ten_thousand_characters_from_a_member_is_refused(
    three: Three, where: str, name: str
) -> None:
    before = schema_of(three.honest)
    lie = named(three, *(name if where == each else "x" for each in ("table", "column", "index")))

    with pytest.raises(CrdtlogError) as caught:
        three.honest.apply([lie])
    refused(three, lie)

    assert len(str(caught.value)) < 1_000 and schema_of(three.honest) == before


@pytest.mark.parametrize("name", ["x\0y", "x\0; DROP TABLE t; --", "\0", "\ud800"], ids=short)
@pytest.mark.parametrize("where", ["table", "column", "index"])
def test_a_name_that_sql_cannot_hold_is_refused(three: Three, where: str, name: str) -> None:
    before = schema_of(three.honest)

    refused(three, named(three, *(name if where == each else "x" for each in ("table", "column", "index"))))

    assert schema_of(three.honest) == before


def named(three: Three, table: str, second: str, index: str) -> bytes:
    """What the liar signs to have everybody make a table with these names."""
    wire = description(
        table, column("id", 1), column(second), indexes=[[index, [[second, False, "BINARY", False]], None]]
    )
    content = ["track", bytes(8) if "\ud800" in table else table_id(three.liar.id, table), wire, []]
    raw = msgpack.packb(content, unicode_errors="surrogatepass")
    return signed(three.liar, next_entry(three.liar, raw, kind="schema"))


def schema_of(db: Any) -> set[tuple[str, str, str]]:
    rows = db.execute("SELECT type, name, tbl_name FROM sqlite_master").fetchall()
    return {(kind, name, on) for kind, name, on in rows}
