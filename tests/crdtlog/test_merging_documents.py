"""JSON documents and sets in real tables: what several devices change by plain SQL is merged, alike on each."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import kinds
from crdtlog.database import Database
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

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, meta TEXT, tags TEXT, n INTEGER, plain)"
KINDS = {"meta": "json", "tags": "set", "n": "counter"}
ROW = "INSERT INTO t VALUES ('a', '{\"x\": 1, \"y\": [1, 2]}', '[\"red\"]', 1, 'p')"


def fleet(world: World, count: int, rows: str = ROW) -> list[Database]:
    dbs = devices(world, ["ant", "bee", "cat", "dog"][:count], [TABLE], rows)
    dbs[0].track("t", KINDS)
    sync_all(dbs)
    return dbs


def both(one: Database, other: Database, first: str, second: str, column: str = "meta") -> Any:
    """What both devices show after each changed a cell apart."""
    write_apart([one], f"UPDATE t SET {column} = '{first}'")
    write_apart([other], f"UPDATE t SET {column} = '{second}'")
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    assert not conflicts_of(one)
    ((shown,),) = rows_of(one, f"SELECT {column} FROM t")
    return shown


def test_members_that_two_devices_change_both_stand(world: World) -> None:
    one, other = fleet(world, 2)
    shown = both(one, other, '{"x": 2, "y": [1, 2]}', '{"x": 1, "y": [1, 2, 3], "z": null}')
    assert shown == '{"x":2,"y":[1,2,3],"z":null}'


def test_a_row_on_which_nobody_disagreed_keeps_its_spelling(world: World) -> None:
    other = fleet(world, 2)[1]
    assert rows_of(other, "SELECT meta FROM t") == [('{"x": 1, "y": [1, 2]}',)]


def test_what_is_no_json_is_kept_as_it_is_and_wins_or_loses_whole(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "UPDATE t SET meta = json_set(meta, '$.x', 5)")
    write_apart([other], "UPDATE t SET meta = 'not json'")
    sync_all([one, other])
    assert rows_of(one, "SELECT meta FROM t") == [("not json",)]
    assert rows_of(one, "SELECT value FROM crdtlog_conflicts") == [('{"x":5,"y":[1,2]}',)]
    write_apart([other], "UPDATE t SET meta = '{\"q\": 1}'")
    sync_all([one, other])
    write_apart([one], "UPDATE t SET meta = json_set(meta, '$.r', 2)")
    write_apart([other], "UPDATE t SET meta = json_set(meta, '$.s', 3)")
    sync_all([one, other])
    ((shown,),) = rows_of(one, "SELECT meta FROM t")
    assert shown == '{"q":1,"r":2,"s":3}'
    assert_converged([one, other], ["t"])


def test_a_document_that_lost_with_changes_by_several_devices_is_one_conflict(world: World) -> None:
    one, other, third = fleet(world, 3)
    write_apart([one, other], "UPDATE t SET meta = json_set(meta, '$.' || :name, 1)")
    write_apart([third], "UPDATE t SET meta = 'not json'")
    sync_all([one, other, third])
    assert_converged([one, other, third], ["t"])
    assert rows_of(one, "SELECT meta FROM t") == [("not json",)]
    ((value,),) = rows_of(one, "SELECT value FROM crdtlog_conflicts")
    assert all(device in value for device in ("ant", "bee"))


def test_a_change_of_a_document_that_was_replaced_meanwhile_is_a_conflict_with_all_its_changes(
    world: World,
) -> None:
    one, other, third = fleet(world, 3)
    write_apart([other], "UPDATE t SET meta = json_set(meta, '$.early', 1)")
    sync_all([one, other, third])
    write_apart([other], "UPDATE t SET meta = json_set(meta, '$.late', 2)")
    write_apart([one], "UPDATE t SET meta = NULL")
    send(one, third)  # the third forgets the document, and is then told of a change to it
    write_apart([third], "UPDATE t SET plain = 'seen'")
    sync_all([one, other, third])
    assert_converged([one, other, third], ["t"])
    values = {*rows_of(third, "SELECT value FROM crdtlog_conflicts"), *rows_of(third, "SELECT meta FROM t")}
    assert values == {(None,), ('{"x":1,"y":[1,2],"early":1,"late":2}',)}


def test_adds_win_over_removes_and_the_order_is_one(world: World) -> None:
    one, other = fleet(world, 2)
    assert both(one, other, '["red", "blue"]', '["apple", "red"]', "tags") == '["apple","blue","red"]'
    assert both(one, other, '["blue"]', '["red", "blue", "apple", "x"]', "tags") == '["blue","x"]'


def test_a_set_is_sorted_on_the_device_that_wrote_it_too(world: World) -> None:
    one, _ = fleet(world, 2)
    write_apart([one], 'UPDATE t SET tags = \'["z", "a", "z"]\'')
    assert rows_of(one, "SELECT tags FROM t") == [('["a","z"]',)]
    assert one.drain_all() == 0


def test_a_set_is_sorted_and_has_each_element_once_from_the_beginning(world: World) -> None:
    one, other = fleet(world, 2)
    one.execute("""INSERT INTO t (id, tags) VALUES ('new', '["z", "a", "z"]'), ('tidy', '["a","b"]')""")
    one.execute("INSERT INTO t (id, tags) VALUES ('none', NULL), ('odd', 'no array')")
    write_apart([one], "UPDATE t SET tags = NULL WHERE id = 'a'")
    write_apart([one], "UPDATE t SET tags = '[2, 1, 1]' WHERE id = 'a'")
    sync_all([one, other])
    for db in (one, other):
        found = dict(rows_of(db, "SELECT id, tags FROM t"))
        assert found == {
            "a": "[1,2]",
            "new": '["a","z"]',
            "tidy": '["a","b"]',
            "none": None,
            "odd": "no array",
        }
    assert one.drain_all() == 0
    write_apart([one], "UPDATE t SET tags = json_insert(tags, '$[#]', 'b') WHERE id = 'new'")
    write_apart([other], "UPDATE t SET tags = json_insert(tags, '$[#]', 'c') WHERE id = 'new'")
    sync_all([one, other])
    assert rows_of(one, "SELECT tags FROM t WHERE id = 'new'") == [('["a","b","c","z"]',)]
    assert_converged([one, other], ["t"])


def test_a_deleted_row_comes_back_with_what_was_merged(world: World) -> None:
    one, other = fleet(world, 2)
    both(one, other, '{"x": 2}', '{"x": 1, "w": 1}')
    write_apart([one], "DELETE FROM t")
    write_apart([other], "UPDATE t SET meta = json_set(meta, '$.v', 9)")
    sync_all([one, other])
    ((shown,),) = rows_of(one, "SELECT meta FROM t")
    assert '"v":9' in shown
    assert '"x":2' in shown
    assert_converged([one, other], ["t"])


def test_a_row_that_was_deleted_and_put_back_has_a_new_document(world: World) -> None:
    one, other = fleet(world, 2)
    both(one, other, '{"x": 2}', '{"x": 1, "w": 1}')
    write_apart([one], "DELETE FROM t")
    write_apart([one], "INSERT INTO t VALUES ('a', '{}', '[]', 0, 'new')")
    sync_all([one, other])
    assert both(one, other, '{"p": 1}', '{"q": 1}') in ('{"p":1,"q":1}', '{"q":1,"p":1}')
    aside = one._state.connection.execute("SELECT count(*) FROM crdtlog__merge WHERE seq > 0").fetchone()
    assert aside == (1,)


def test_one_key_inserted_twice_at_once_shows_one_document_and_lists_the_other(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "INSERT INTO t VALUES ('k', '{\"a\": 1}', '[1]', 1, 1)")
    write_apart([other], "INSERT INTO t VALUES ('k', '{\"b\": 2}', '[2]', 2, 2)")
    write_apart([one], "UPDATE t SET meta = json_set(meta, '$.more', 1) WHERE id = 'k'")
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    values = {
        *rows_of(other, "SELECT value FROM crdtlog_conflicts WHERE \"column\" = 'meta'"),
        *rows_of(other, "SELECT meta FROM t WHERE id = 'k'"),
    }
    assert values == {('{"a":1,"more":1}',), ('{"b": 2}',)}


def test_many_rows_are_patched_in_one_transaction(world: World) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    one.track("t", KINDS)
    sync_all([one, other])
    one.execute(
        "WITH RECURSIVE up (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < 3000) "
        "INSERT INTO t SELECT 'k' || n, '{\"n\": ' || n || '}', '[]', n, n FROM up"
    )
    one.drain_all()
    sync_all([one, other])
    write_apart([one], "UPDATE t SET meta = json_set(meta, '$.one', 1), n = n + 1")
    write_apart([other], "UPDATE t SET meta = json_set(meta, '$.other', 1), n = n + 1")
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    assert rows_of(one, "SELECT meta, n FROM t WHERE id = 'k7'")[0][1] == 9
    assert rows_of(one, "SELECT count(*) FROM t WHERE meta LIKE '%one%' AND meta LIKE '%other%'") == [(3000,)]


@pytest.mark.parametrize("kind", [name for name in kinds.CODES if name != "counter"])
def test_a_column_changes_its_kind_and_keeps_what_it_shows(world: World, kind: str) -> None:
    one, other = fleet(world, 2)
    shown = both(one, other, '{"x": 2}', '{"x": 1, "w": 1}')
    other.track("t", {"meta": kind})
    sync_all([one, other])
    assert rows_of(one, "SELECT meta FROM t") == [(shown,)]
    write_apart([one], "UPDATE t SET meta = '{\"new\": true}'")
    sync_all([one, other])
    assert rows_of(other, "SELECT json_extract(meta, '$.new') FROM t") == [(1,)]
    assert_converged([one, other], ["t"])


META = ['{"x": 1}', '{"x": 2, "l": [1, 2]}', '{"l": [2, 1, 3]}', '[1, {"id": 1}]', "5", "no json", "{}"]
STATEMENTS = [
    *(f"UPDATE t SET meta = '{text}'" for text in META),
    *[
        "UPDATE t SET meta = json_set(meta, '$.k', 1)",
        "UPDATE t SET meta = json_insert(meta, '$.l[#]', 9)",
    ]
    * 3,
    "UPDATE t SET meta = NULL, tags = NULL",
    *(f"UPDATE t SET tags = '{text}'" for text in ['["a"]', '["b", "a"]', '[1, "c"]', "[]", "x"]),
    "UPDATE t SET tags = json_insert(tags, '$[#]', 'z')",
    "UPDATE t SET n = n + 1, plain = n",
    "DELETE FROM t",
    "INSERT INTO t VALUES ('a', '{\"i\": 1}', '[\"i\"]', 5, 'new')",
    "REPLACE INTO t VALUES ('a', '{\"r\": 1}', '[\"r\"]', 6, 'replaced')",
]


@given(merging(STATEMENTS, {"meta": ["json", "register"], "tags": ["json", "set"]}))
def test_after_any_history_of_merging_all_devices_show_the_same(history: list[Step]) -> None:
    with quick_directory() as directory, World(directory) as world:
        dbs = fleet(world, 3)
        play(dbs, history)
        sync_all(dbs)
        assert_converged(dbs, ["t"])


TAGS = ["[]", "[]", '["a"]', '["a"]', '["b"]', '["a", "b"]']
TAGGING = st.lists(st.lists(st.sampled_from(TAGS), max_size=3), min_size=2, max_size=2)


@given(st.lists(TAGGING, min_size=2, max_size=5))
def test_after_any_history_of_one_set_all_devices_show_the_same(rounds: list[list[list[str]]]) -> None:
    """One element comes and goes on both devices: a remove beside an add that it had not seen is frequent."""
    with quick_directory() as directory, World(directory) as world:
        dbs = fleet(world, 2)
        for written in rounds:
            for db, texts in zip(dbs, written, strict=True):
                for text in texts:
                    write_apart([db], f"UPDATE t SET tags = '{text}'")
            sync_all(dbs)
        assert_converged(dbs, ["t"])


def test_what_does_not_merge_is_listed_with_a_row_and_the_reason(world: World) -> None:
    (one,) = fleet(world, 1)
    assert one.unmerged() == []
    one.execute("INSERT INTO t VALUES ('odd', 'no json', '{}', 'many', 0), ('null', NULL, NULL, NULL, NULL)")
    one.execute(f"INSERT INTO t VALUES ('big', '1', '[]', {2**63 - 2}, 0)")
    one.drain_all()
    other = world.join("other", one)
    send(one, other)
    write_apart([one, other], "UPDATE t SET n = n + 1 WHERE id = 'big'")
    sync_all([one, other])
    found = {(item.column, item.kind, item.rows, item.key) for item in one.unmerged()}
    assert found == {
        ("meta", "json", 1, "odd"),
        ("tags", "set", 1, "odd"),
        ("n", "counter", 1, "odd"),
        ("n", "counter", 1, "big"),
    }


def test_history_tells_what_each_author_saw_after_a_patch(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "UPDATE t SET meta = json_set(meta, '$.one', 1), n = n + 1")
    write_apart([other], "UPDATE t SET meta = json_set(meta, '$.other', 2), n = n + 5")
    sync_all([one, other])
    write_apart([other], "UPDATE t SET meta = json_set(meta, '$.both', 3), n = n + 1")
    sync_all([one, other])
    for column, values in {
        "meta": [
            '{"x": 1, "y": [1, 2]}',
            '{"x":1,"y":[1,2],"one":1}',
            '{"x":1,"y":[1,2],"other":2}',
            '{"x":1,"y":[1,2],"one":1,"other":2,"both":3}',
        ],
        "n": [1, 2, 6, 8],
    }.items():
        told = [[line.value for line in db.history("t", "a", column)] for db in (one, other)]
        assert told[0] == told[1]
        assert told[0][:3] == values[:3]
        assert str(told[0][3]).count(":") == str(values[3]).count(":")


def test_a_merge_that_was_taken_back_by_a_stale_save_can_be_restored(world: World) -> None:
    one, other = fleet(world, 2)
    ((stale,),) = rows_of(one, "SELECT meta FROM t")
    write_apart([other], "UPDATE t SET meta = json_set(meta, '$.work', 'of an hour')")
    sync_all([one, other])
    write_apart([one], f"UPDATE t SET meta = '{stale}'")
    sync_all([one, other])
    assert "hour" not in str(rows_of(other, "SELECT meta FROM t"))
    lost = next(line for line in one.history("t", "a", "meta") if "hour" in str(line.value))
    one.restore_value("t", "a", "meta", lost.dot)
    sync_all([one, other])
    assert rows_of(other, "SELECT meta FROM t") == [(lost.value,)]
    assert_converged([one, other], ["t"])


def test_a_deleted_row_is_restored_with_its_merged_cells(world: World) -> None:
    one, other = fleet(world, 2)
    merged = both(one, other, '{"x": 2}', '{"x": 1, "w": 1}')
    write_apart([other], "UPDATE t SET n = n + 1")
    write_apart([one], "DELETE FROM t")
    sync_all([one, other])
    if rows_of(one, "SELECT 1 FROM t"):
        return
    ((dot,),) = rows_of(one, 'SELECT dot FROM crdtlog_conflicts WHERE "column" IS NULL')
    one.restore_value("t", "a", None, dot)
    sync_all([one, other])
    assert rows_of(other, "SELECT meta, n FROM t") == [(merged, 2)]
    assert_converged([one, other], ["t"])


def test_a_document_that_lost_to_no_json_in_a_deleted_row_is_kept_alike(world: World) -> None:
    """Its patch stands in an entry that wrote another cell, too: that entry's values are read for the row's revival."""
    one, other = fleet(world, 2)
    write_apart([other], "UPDATE t SET meta = '{\"x\":2}', plain = 'new'")
    write_apart([other], "DELETE FROM t")
    write_apart([one], "UPDATE t SET meta = 'no json'")
    sync_all([one, other])

    assert [conflict["value"] for conflict in one.conflicts()] == ['{"x":2}']
    assert_converged([one, other], ["t"])
