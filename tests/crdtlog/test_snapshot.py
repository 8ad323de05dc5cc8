"""A row as a Yjs document holds what the row shows, each value exactly."""

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from pycrdt import Array, Doc, Map
from pycrdt import Text as YText

from crdtlog import kinds
from crdtlog.errors import NoSuchRow, NoSuchTable, TablePaused, Usage
from crdtlog.kinds import jsontext
from crdtlog.kinds.jsontext import Json, minified
from crdtlog.snapshot import Snapshot, content
from crdtlog.values import Value
from crdtlog.yjs_writer import Exact, Node, Text
from tests.crdtlog.devices import World, pair, sync
from tests.crdtlog.jsondocs import TREES
from tests.yjs import seen_by_yjs

NOTES = "CREATE TABLE notes (id TEXT PRIMARY KEY, title, size REAL, meta TEXT, likes INTEGER, tags TEXT)"
MERGE = {"meta": "json", "likes": "counter", "tags": "set"}
META = '{"where": {"city": "Rome"}, "days": [1, 2]}'
ROW = f"""INSERT INTO notes VALUES ('milk', 'Shopping', 1.5, '{META}', 3, '["b","a"]')"""


def row_of(doc: "Doc[Any]") -> "Map[Any]":
    return doc.get("row", type=Map)


def test_a_row_is_a_map_by_column_with_mergeable_columns_as_what_they_are(world: World) -> None:
    db = world.found("one", [NOTES], ROW)
    db.track("notes", merge=MERGE)

    row = row_of(db.document("notes", "milk"))

    assert row.to_py() == {
        "id": "milk",
        "title": "Shopping",
        "size": 1.5,
        "meta": {"where": {"city": "Rome"}, "days": [1, 2]},
        "likes": 3,
        "tags": ["b", "a"],
    }
    assert isinstance(row["meta"], Map) and isinstance(row["meta"]["where"], Map)
    assert isinstance(row["meta"]["days"], Array) and isinstance(row["tags"], Array)
    assert list(db.snapshot("notes", "milk").row) == ["id", "title", "size", "meta", "likes", "tags"]


@pytest.mark.usefixtures("needs_yjs")
def test_a_program_in_javascript_sees_the_row(world: World) -> None:
    db = world.found("one", [NOTES], ROW)
    db.track("notes", merge=MERGE)
    db.execute("UPDATE notes SET title = x'00ff', likes = 9223372036854775807, size = -9e999")

    assert seen_by_yjs(db.document("notes", "milk").get_update()) == {
        "id": "milk",
        "title": {"bytes": "00ff"},
        "size": {"number": "-Infinity"},
        "meta": {"map": {"where": {"map": {"city": "Rome"}}, "days": {"array": [1, 2]}}},
        "likes": {"plain": {"integer": "9223372036854775807"}},
        "tags": {"array": ["b", "a"]},
    }


def test_it_is_what_shows_whoever_wrote_it_and_whether_it_is_drained(world: World) -> None:
    one, other = pair(world, NOTES, rows=ROW)
    one.track("notes", merge=MERGE)
    sync(one, other)
    one.execute("UPDATE notes SET likes = likes + 1, meta = json_set(meta, '$.a', 1)")
    other.execute("UPDATE notes SET likes = likes + 1, meta = json_set(meta, '$.b', 2)")
    assert row_of(one.document("notes", "milk"))["likes"] == 4

    sync(one, other)

    for db in (one, other):
        row = row_of(db.document("notes", "milk"))
        assert row["likes"] == 5
        assert row["meta"].to_py() == {"where": {"city": "Rome"}, "days": [1, 2], "a": 1, "b": 2}


def test_a_text_column_is_a_text_that_can_be_edited(world: World) -> None:
    db = world.found("one", [NOTES], ROW)
    db.execute("UPDATE notes SET title = 'Grüße 😀'")
    db.execute("INSERT INTO notes (id) VALUES ('empty')")
    db.track("notes", merge={"title": "text"})
    db.text("notes", "milk", "title").insert(0, "Viele ")
    doc = db.document("notes", "milk")

    title = row_of(doc)["title"]
    title += "!"

    assert isinstance(title, YText) and str(title) == "Viele Grüße 😀!"
    assert db.execute("SELECT title FROM notes WHERE id = 'milk'").fetchall() == [("Viele Grüße 😀",)]
    assert row_of(db.document("notes", "empty"))["title"] is None


@pytest.mark.parametrize(
    ("kind", "value", "node"),
    [
        (kinds.REGISTER, None, None),
        (kinds.REGISTER, (1 << 53) - 1, (1 << 53) - 1),
        (kinds.REGISTER, 1 << 53, Exact("integer", "9007199254740992")),
        (kinds.REGISTER, -(1 << 63), Exact("integer", "-9223372036854775808")),
        (kinds.COUNTER, (1 << 63) - 1, Exact("integer", "9223372036854775807")),
        (kinds.REGISTER, math.inf, math.inf),
        (kinds.REGISTER, b"\0\xff", b"\0\xff"),
        (kinds.REGISTER, "[1]", "[1]"),
        (kinds.REGISTER, "ca\udce9", Exact("text_hex", "6361e9")),
        (kinds.TEXT, "ca\udce9", Exact("text_hex", "6361e9")),
        (kinds.JSON, "ca\udce9", Exact("text_hex", "6361e9")),
        (kinds.TEXT, 5, 5),
        (kinds.TEXT, "5", Text("5")),
        (kinds.JSON, "{no JSON", "{no JSON"),
        (kinds.JSON, b"[1]", b"[1]"),
        (kinds.JSON, '"x"', "x"),
        (kinds.JSON, "[" * 101 + "]" * 101, "[" * 101 + "]" * 101),
        (kinds.SET, "[3, [1.5]]", [3, [1.5]]),
        (kinds.SET, '{"a": 1}', '{"a": 1}'),
        (kinds.JSON, "1.50", 1.5),
        (kinds.JSON, "-0", -0.0),
        (kinds.JSON, "1e2", 100.0),
        (kinds.JSON, "9007199254740993", Exact("integer", "9007199254740993")),
        (kinds.JSON, "1" * 5000, Exact("integer", "1" * 5000)),
        (kinds.JSON, "0.1234567890123456789", Exact("json", "0.1234567890123456789")),
        (kinds.JSON, "1e400", Exact("json", "1e400")),
        (kinds.JSON, "1e-99999999999999999999", Exact("json", "1e-99999999999999999999")),
        (kinds.JSON, "0." + "1" * 5000, Exact("json", "0." + "1" * 5000)),
        (kinds.JSON, r'["\ud800", "\ud83d\ude00"]', [Exact("json", r'"\ud800"'), "😀"]),
        (kinds.JSON, r'{"a": {"\udc00": [1]}}', {"a": Exact("json", r'{"\udc00":[1]}')}),
    ],
)
def test_each_value_has_an_exact_form(kind: int, value: Value, node: Node) -> None:
    made = content(kind, value)

    assert (made, repr(made)) == (node, repr(node))
    Snapshot({"c": made}).update()


@given(TREES)
def test_json_holds_what_its_text_says(tree: Json) -> None:
    def text(node: Node) -> str:
        if isinstance(node, Exact):
            return node.spelled
        if isinstance(node, dict):
            return (
                "{"
                + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{text(x)}" for key, x in node.items())
                + "}"
            )
        if isinstance(node, list):
            return f"[{','.join(map(text, node))}]"
        return json.dumps(node, ensure_ascii=False)

    def said(tree: Json | None) -> object:
        if isinstance(tree, dict):
            return {key: said(item) for key, item in tree.items()}
        if isinstance(tree, list):
            return [said(item) for item in tree]
        return tree if tree is None or tree[0] in '"tfn' else Decimal(tree)

    assert said(jsontext.parse(text(content(kinds.JSON, minified(tree))))) == said(tree)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_the_deepest_json_is_no_trouble(world: World, opening: str) -> None:
    db = world.found("one", [NOTES], ROW)
    db.track("notes", merge=MERGE)
    closing = "]" if opening == "[" else "}"
    text = opening * 100 + "1" + closing * 100
    db.execute("UPDATE notes SET meta = ?", (text.replace(":", ": "),))

    node = row_of(db.document("notes", "milk"))["meta"]
    for _ in range(100):
        node = node["a" if isinstance(node, Map) else 0]

    assert node == 1


def test_each_document_is_of_its_own(world: World) -> None:
    db = world.found("one", [NOTES], ROW)

    states = {db.document("notes", "milk").get_state() for _ in range(20)}

    assert len(states) == 20


@pytest.mark.parametrize(
    ("columns", "row", "keys"),
    [
        ("id INTEGER PRIMARY KEY, v", "-5, 1", [-5, "-5"]),
        ("id BLOB PRIMARY KEY, v", "x'00ff', 1", [b"\0\xff", "x'00ff'", '{"hex": "00ff"}']),
        ("id TEXT PRIMARY KEY COLLATE NOCASE, v", "'Rome', 1", ["Rome", "ROME"]),
        ("id TEXT PRIMARY KEY, v", "CAST(x'ff61' AS TEXT), 1", ["\udcffa", '{"text": "ff61"}']),
        ("a TEXT, b, v, PRIMARY KEY (b, a)", "'x', 2, 1", [(2, "x"), '[2, "x"]']),
        ('"a""b" TEXT PRIMARY KEY, v AS (1)', "'k'", ["k"]),
    ],
)
def test_a_row_is_found_by_every_way_to_write_its_key(
    world: World, columns: str, row: str, keys: list[Value | tuple[Value, ...]]
) -> None:
    db = world.found("one", [f"CREATE TABLE t ({columns})"], f"INSERT INTO t VALUES ({row})")

    assert [db.snapshot("t", key).row["v"] for key in keys] == [1] * len(keys)


def test_what_cannot_be_given_is_refused(world: World) -> None:
    db = world.found("one", [NOTES], ROW)

    with pytest.raises(NoSuchTable):
        db.document("letters", "milk")
    with pytest.raises(NoSuchRow, match="no row 'bread'"):
        db.document("notes", "bread")
    with pytest.raises(Usage, match="1 columns"):
        db.document("notes", ("milk", 1))

    db.execute("DELETE FROM notes")
    with pytest.raises(NoSuchRow, match="'milk' of table notes is not there now") as caught:
        db.document("notes", "milk")
    assert "crdtlog history" in caught.value.hint

    db.execute("ALTER TABLE notes RENAME COLUMN id TO name")
    with pytest.raises(TablePaused, match="notes is paused"):
        db.document("notes", "id")
