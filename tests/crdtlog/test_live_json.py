"""JSON documents and sets that a program holds open: each edit is written as what it changed, and nothing else is."""

import json
import resource
from typing import Any

import pytest
from pycrdt import Array, Doc, Map, Text

from crdtlog.database import Database
from crdtlog.errors import NoSuchRow, StaleDocument, Usage
from crdtlog.kinds.jsonstate import decode
from crdtlog.values import unpack
from tests.crdtlog.devices import (
    World,
    assert_converged,
    devices,
    logged,
    rows_of,
    send,
    sync_all,
    write_apart,
)
from tests.yjs import seen_by_yjs

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, meta TEXT, list JSON, tags TEXT, title)"
META = '{"a": {"b": 1, "c": 2}, "big": 12345678901234567890, "price": 1.50, "list": [1, 2, 3]}'
ROW = f"""INSERT INTO t VALUES ('a', '{META}', '["x", "x", "x"]', '["red", "blue"]', 1)"""


def fleet(world: World, count: int = 2) -> list[Database]:
    dbs = devices(world, ["ant", "bee", "cat"][:count], [TABLE], ROW)
    dbs[0].track("t", {"meta": "json", "list": "json", "tags": "set"})
    sync_all(dbs)
    return dbs


def cell(db: Database, column: str = "meta") -> Any:
    ((shown,),) = rows_of(db, f"SELECT {column} FROM t WHERE id = 'a'")
    return json.loads(shown)


def last_patch(db: Database) -> Any:
    """The edit that the last entry holds."""
    _, (section,) = logged(db)[-1]
    ((patch,),) = section.patches.values()
    assert patch is not None
    return unpack(patch.data)


def live_map(db: Database, column: str = "meta") -> "Map[Any]":
    found = db.json("t", "a", column)
    assert isinstance(found, Map)
    return found


def live_list(db: Database, column: str = "list") -> "Array[Any]":
    found = db.json("t", "a", column)
    assert isinstance(found, Array)
    return found


def test_an_edit_is_in_the_row_at_once_and_travels(world: World) -> None:
    one, other = fleet(world)
    meta = live_map(one)
    meta["a"]["b"] = 3
    assert cell(one)["a"] == {"b": 3, "c": 2}
    meta["new"] = Map({"list": Array([1])})
    meta["new"]["list"].append("two")
    del meta["a"]["c"]
    sync_all([one, other])
    assert cell(one) == cell(other)
    assert cell(other)["new"] == {"list": [1, "two"]}
    assert cell(other)["a"] == {"b": 3}
    assert_converged([one, other], ["t"])


def test_what_is_written_is_a_patch_of_just_that_place(world: World) -> None:
    (one,) = fleet(world, 1)
    meta = live_map(one)
    meta["a"]["b"] = 3
    key, _, within = last_patch(one)[2][3:]
    assert key == "a"
    key, _, written = within[3:]
    assert (key, written) == ("b", "3")

    meta["list"].insert(1, "x")
    key, _, within = last_patch(one)[2][3:]
    assert key == "list"
    ((_, _, _, written),) = within[2:]
    assert written == '"x"'

    meta["a"]["b"] = 3  # as it is already: written all the same, so that it wins over what was written apart
    assert last_patch(one)[2][5][5] == "3"


def test_of_equal_elements_the_one_that_was_edited_is_known(world: World) -> None:
    one, other = fleet(world)
    mine = live_list(one)
    write_apart([other], """UPDATE t SET list = '["x", "x", "y", "x"]'""")
    del mine[0]  # a difference could be in any of three places
    mine.insert(1, "new")
    sync_all([one, other])
    assert cell(one, "list") == cell(other, "list")
    assert cell(one, "list") in (["x", "new", "y", "x"], ["x", "y", "new", "x"])
    one.refresh()
    assert mine.to_py() == cell(one, "list")


def test_an_element_that_is_set_is_one_element_whoever_sets_it(world: World) -> None:
    one, other = fleet(world)
    mine, theirs = live_list(one), live_list(other)
    mine[1] = "mine"
    theirs[1] = "theirs"
    sync_all([one, other])
    assert cell(one, "list") in (["x", "mine", "x"], ["x", "theirs", "x"])
    assert mine.to_py() == theirs.to_py() == cell(one, "list") == cell(other, "list")


def test_what_others_write_comes_into_the_same_objects(world: World) -> None:
    one, other = fleet(world)
    meta = live_map(one)
    inner, numbers = meta["a"], meta["list"]
    seen: list[Any] = []
    subscriptions = [each.observe(lambda event: seen.append(event.target)) for each in (inner, numbers)]
    write_apart(
        [other], "UPDATE t SET meta = json_set(meta, '$.a.b', 7, '$.list[1]', 'two', '$.more', json('{}'))"
    )
    send(other, one)
    assert inner.to_py() == {"b": 7, "c": 2}
    assert numbers.to_py() == [1, "two", 3]
    assert isinstance(meta["more"], Map)
    assert len(seen) == 2
    inner["d"] = 4
    numbers.insert(0, 0)
    assert cell(one)["a"] == {"b": 7, "c": 2, "d": 4}
    assert cell(one)["list"] == [0, 1, "two", 3]
    assert subscriptions


def test_concurrent_edits_by_hand_and_by_sql_both_stand(world: World) -> None:
    one, other = fleet(world)
    meta = live_map(one)
    write_apart([other], "UPDATE t SET meta = json_set(meta, '$.a.c', 20, '$.theirs', 1, '$.list[3]', 4)")
    meta["a"]["b"] = 10
    meta["mine"] = 1
    meta["list"].insert(0, 0)
    sync_all([one, other])
    assert cell(one) == cell(other)
    assert cell(one)["a"] == {"b": 10, "c": 20}
    assert cell(one)["list"] == [0, 1, 2, 3, 4]
    assert cell(one)["mine"] == cell(one)["theirs"] == 1
    assert cell(one)["big"] == 12345678901234567890
    assert_converged([one, other], ["t"])


def test_what_is_not_touched_keeps_every_digit(world: World) -> None:
    (one,) = fleet(world, 1)
    meta = live_map(one)
    assert meta["big"] == {"integer": "12345678901234567890"}
    assert meta["price"] == 1.5
    meta["a"]["b"] = 0.1
    meta["copy"] = meta["big"]
    meta["plain"] = {"integer": "5"}
    meta["shared"] = Map({"integer": "12345678901234567890"})
    ((shown,),) = rows_of(one, "SELECT meta FROM t")
    assert shown == (
        '{"a":{"b":0.1,"c":2},"big":12345678901234567890,"price":1.50,"list":[1,2,3],"copy":12345678901234567890,'
        '"plain":{"integer":"5"},"shared":{"integer":"12345678901234567890"}}'
    )


def test_opening_and_closing_writes_nothing(world: World) -> None:
    (one,) = fleet(world, 1)
    entries = one.position()
    live_map(one)
    live_list(one)
    one.set("t", "a", "tags")
    one.refresh()
    one.drain_all()
    assert one.position() == entries
    assert rows_of(one, "SELECT meta, list, tags FROM t") == [(META, '["x", "x", "x"]', '["red", "blue"]')]


def test_several_edits_in_one_transaction_are_one_entry(world: World) -> None:
    one, other = fleet(world)
    meta = live_map(one)
    before = one.position()
    with meta.doc.transaction():
        meta["list"].insert(0, Map({"in": 1}))
        meta["list"][0]["in"] = 2
        meta["list"][2] = "two"
        del meta["list"][3]
        meta["a"]["b"] = 5
        meta["a"] = {"plain": [1, {"x": None}]}
    assert one.position() == before + 1
    assert cell(one)["list"] == [{"in": 2}, 1, "two"]
    assert cell(one)["a"] == {"plain": [1, {"x": None}]}
    write_apart([one], "UPDATE t SET meta = json_set(meta, '$.a.plain[1].x', 'in a plain value')")
    assert meta["a"]["plain"].to_py() == [1, {"x": "in a plain value"}]
    sync_all([one, other])
    assert_converged([one, other], ["t"])


def test_texts_and_scalars_of_all_kinds(world: World) -> None:
    (one,) = fleet(world, 1)
    meta = live_map(one)
    for name, value in {
        "n": None,
        "t": True,
        "s": 'é"\\\n\0',
        "f": -2.5,
        "z": -0.0,
        "e": 1e300,
        "i": 2**60,
    }.items():
        meta[name] = value
    meta["text"] = Text("ab")
    meta["text"].insert(1, "é")
    meta['é"'] = []
    shown = cell(one)
    assert {name: shown[name] for name in "ntsfzei"} == {
        "n": None, "t": True, "s": 'é"\\\n\0', "f": -2.5, "z": -0.0, "e": 1e300, "i": 2**60
    }  # fmt: skip
    assert shown["text"] == "aéb"
    assert shown['é"'] == []


@pytest.mark.parametrize("value", [b"bytes", float("nan"), {"deep": [float("inf")]}])
def test_a_value_that_is_no_json_is_refused_and_said(world: World, value: object) -> None:
    (one,) = fleet(world, 1)
    meta = live_map(one)
    meta["good"] = 1
    meta["bad"] = value
    with pytest.raises(StaleDocument, match="JSON"):
        one.refresh()
    assert "bad" not in cell(one)
    assert cell(one)["good"] == 1
    one.close()


def test_an_edit_after_another_program_wrote_the_cell_waits_for_what_that_wrote(world: World) -> None:
    (one,) = fleet(world, 1)
    first, second = live_map(one), live_map(one)
    first["a"]["unseen"] = 1
    second["a"]["b"] = 5
    del second["a"]  # ends what the second has seen in it, and not what the first wrote there
    assert "unseen" in cell(one)["a"]
    one.refresh()
    assert cell(one)["a"] == {"unseen": 1}
    assert first.to_py() == second.to_py()


def test_two_programs_hold_one_set_open(world: World) -> None:
    one, other = fleet(world)
    mine, theirs = one.set("t", "a", "tags"), other.set("t", "a", "tags")
    assert mine.to_py() == ["blue", "red"]
    mine.append("amber")
    assert cell(one, "tags") == ["amber", "blue", "red"]
    mine.append("amber")  # once is enough
    theirs.pop(1)
    theirs.append("green")
    sync_all([one, other])
    for db in (one, other):
        db.refresh()
        assert cell(db, "tags") == ["amber", "blue", "green"]
    assert mine.to_py() == theirs.to_py() == ["amber", "blue", "green"]
    assert_converged([one, other], ["t"])


def test_an_element_that_somebody_adds_again_outlives_a_live_removal(world: World) -> None:
    one, other = fleet(world)
    mine = one.set("t", "a", "tags")
    write_apart([other], "UPDATE t SET tags = '[]'")
    write_apart([other], """UPDATE t SET tags = '["red"]'""")
    mine.pop(1)
    sync_all([one, other])
    assert cell(one, "tags") == cell(other, "tags") == ["red"]


def test_a_document_that_was_replaced_takes_no_more_edits_and_says_so(world: World) -> None:
    (one,) = fleet(world, 1)
    meta = live_map(one)
    write_apart([one], "DELETE FROM t")
    one.execute("INSERT INTO t (id, meta) VALUES ('a', '{}')")
    one.drain()
    meta["lost"] = True
    with pytest.raises(StaleDocument, match="replaced"):
        one.refresh()
    assert cell(one) == {}
    one.close()


def test_a_document_that_somebody_begins_anew_goes_on_in_that(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = fleet(world)
    meta, tags = live_map(one), one.set("t", "a", "tags")
    meta["mine"] = 1
    tags.append("mine")
    sync_all([one, other])
    with monkeypatch.context() as patch:
        patch.setattr("crdtlog.merging._is_worn", lambda *_: True)
        patch.setattr("crdtlog.merging._rewrites", lambda *_: True)
        write_apart([other], """UPDATE t SET meta = '{"a": [1], "new": {"x": 1}}', tags = '["red", "new"]'""")
    send(other, one)
    one.refresh()
    assert meta.to_py() == {"a": [1], "new": {"x": 1}} and tags.to_py() == ["new", "red"]
    meta["new"]["y"] = 2
    tags.append("after")
    sync_all([one, other])
    assert cell(one) == cell(other) == {"a": [1], "new": {"x": 1, "y": 2}}
    assert cell(other, "tags") == ["after", "new", "red"]
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM t",
        "UPDATE t SET meta = NULL",
        "UPDATE t SET meta = 'no JSON'",
        "UPDATE t SET meta = x'00'",
    ],
)
def test_whatever_replaces_a_document_is_said_and_stays(world: World, sql: str) -> None:
    (one,) = fleet(world, 1)
    meta = live_map(one)
    write_apart([one], sql)
    before = rows_of(one)
    meta["lost"] = True
    with pytest.raises(StaleDocument, match="replaced"):
        one.refresh()
    assert rows_of(one) == before
    one.close()


def test_a_column_that_gets_another_kind_takes_no_more_edits_and_says_so(world: World) -> None:
    (one,) = fleet(world, 1)
    meta, tags = live_map(one), one.set("t", "a", "tags")
    one.track("t", {"meta": "register"})
    meta["lost"] = True
    tags.append("fine")
    assert cell(one, "tags") == ["blue", "fine", "red"]
    with pytest.raises(StaleDocument, match="any more"):
        one.close()


def test_a_root_that_becomes_another_kind_of_value_is_said(world: World) -> None:
    one, other = fleet(world)
    meta = live_map(one)
    write_apart([other], "UPDATE t SET meta = '[1]'")
    send(other, one)
    meta["x"] = 1
    with pytest.raises(StaleDocument, match="another kind"):
        one.refresh()
    assert cell(one) == [1]
    one.close()


def test_an_edit_while_the_file_is_locked_is_written_later(world: World) -> None:
    one, other = fleet(world)
    meta = live_map(one)
    one._state.connection.execute("PRAGMA busy_timeout = 50")
    one.connection.execute("BEGIN IMMEDIATE")
    meta["a"]["b"] = "later"
    meta["list"].append(4)
    meta["list"].pop(0)
    one.connection.execute("COMMIT")
    assert cell(one)["a"]["b"] == 1
    one.refresh()
    assert cell(one)["a"]["b"] == "later"
    assert cell(one)["list"] == [2, 3, 4]
    sync_all([one, other])
    assert_converged([one, other], ["t"])


def test_what_cannot_be_opened_is_told(world: World) -> None:
    (one,) = fleet(world, 1)
    one.execute("INSERT INTO t VALUES ('null', NULL, '1', 'no set', 1)")
    one.execute("INSERT INTO t (id, meta) VALUES ('scalar', '1')")
    with pytest.raises(Usage, match="does not merge as json"):
        one.json("t", "a", "title")
    with pytest.raises(Usage, match="does not merge as set"):
        one.set("t", "a", "meta")
    with pytest.raises(NoSuchRow):
        one.json("t", "nobody", "meta")
    with pytest.raises(Usage, match="no json"):
        one.json("t", "null", "meta")
    with pytest.raises(Usage, match="no object or array"):
        one.json("t", "scalar", "meta")
    with pytest.raises(Usage, match="no set"):
        one.set("t", "null", "tags")


def test_an_object_whose_keys_no_yjs_value_can_hold_is_opened_by_sql_only(world: World) -> None:
    (one,) = fleet(world, 1)
    one.execute(
        """INSERT INTO t (id, meta, list) VALUES ('odd', '{"\\ud800": 1}', '[{"\\ud800": 1}, "\\ud800"]')"""
    )
    with pytest.raises(Usage, match="no object or array"):
        one.json("t", "odd", "meta")
    found = one.json("t", "odd", "list")
    assert isinstance(found, Array)
    assert found[0] == {"json": '{"\\ud800":1}'}
    found.insert(1, found[0])
    ((shown,),) = rows_of(one, "SELECT list FROM t WHERE id = 'odd'")
    assert shown == '[{"\\ud800":1},{"\\ud800":1},"\\ud800"]'


def test_members_with_odd_keys_that_come_in_replace_what_holds_them(world: World) -> None:
    one, other = fleet(world)
    meta = live_map(one)
    write_apart([other], """UPDATE t SET meta = replace(meta, '"c"', '"\\ud800"')""")
    send(other, one)
    assert meta["a"] == {"json": '{"b":1,"\\ud800":2}'}
    meta["x"] = 1
    assert cell(one)["a"] == {"b": 1, "\ud800": 2}


def test_large_arrays_are_opened_and_edited(world: World) -> None:
    (one,) = fleet(world, 1)
    one.execute("UPDATE t SET list = ?", (json.dumps(list(range(10_000))),))
    found = live_list(one)
    found.insert(5_000, "middle")
    del found[0:3]
    assert cell(one, "list") == [*range(3, 5_000), "middle", *range(5_000, 10_000)]


def test_large_arrays_that_come_in_take_no_more_than_they_are(world: World) -> None:
    """The library takes 2 GiB for them, if it gets one element behind another."""
    one, other = fleet(world)
    meta, found = live_map(one), live_list(one)
    many = list(range(10_000))
    other.execute(
        "UPDATE t SET list = ?, meta = json_set(meta, '$.a.many', json(?))", (json.dumps(many),) * 2
    )
    other.drain_all()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    send(other, one)
    assert found.to_py() == meta["a"]["many"].to_py() == many
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (1 << 20)  # KiB


def test_the_known_document_is_the_one_in_the_file(world: World) -> None:
    """Otherwise a later patch would name what nobody has."""
    one, other = fleet(world)
    meta = live_map(one)
    (live,) = one._live
    for number in range(5):
        meta["list"].insert(number, number)
        meta[f"key {number}"] = Map({"n": number})
        meta[f"key {number}"]["n"] = Array()
    ((state,),) = one._state.connection.execute("SELECT state FROM crdtlog__merge").fetchall()
    assert state == live._known
    assert decode(state).seen
    sync_all([one, other])
    assert_converged([one, other], ["t"])


@pytest.mark.usefixtures("needs_yjs")
def test_they_open_in_a_yjs_program(world: World) -> None:
    (one,) = fleet(world, 1)
    meta, found, tags = live_map(one), live_list(one), one.set("t", "a", "tags")
    meta["a"]["d"] = Array([1, Map({"é": "👩"})])
    found.insert(1, Map({}))
    tags.append("new")
    shown = seen_by_yjs(meta.doc.get_update(), "json", "Map")["map"]
    assert shown["a"] == {"map": {"b": 1, "c": 2, "d": {"array": [1, {"map": {"é": "👩"}}]}}}
    assert shown["big"] == {"plain": {"integer": "12345678901234567890"}}
    assert seen_by_yjs(found.doc.get_update(), "json", "Array") == {"array": ["x", {"map": {}}, "x", "x"]}
    assert seen_by_yjs(tags.doc.get_update(), "set", "Array") == {"array": ["blue", "red", "new"]}


def test_their_documents_open_in_another_one(world: World) -> None:
    (one,) = fleet(world, 1)
    meta = live_map(one)
    meta["a"]["d"] = [1]
    copy: Doc[Any] = Doc()
    copy.apply_update(meta.doc.get_update())
    assert copy.get("json", type=Map).to_py() == meta.to_py()
