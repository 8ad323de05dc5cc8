"""Readers' devices: they receive everything, and what programs write there is undone, told and kept."""

from pathlib import Path

import pytest

import crdtlog
from crdtlog.device import load_device
from crdtlog.errors import EntryRefused
from crdtlog.members import newcomer_of
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    devices,
    rows_of,
    send,
    sync,
    without_triggers,
    write_apart,
)
from tests.crdtlog.grouped import MERGING, TABLE, aside, put


def test_what_is_written_on_a_readers_device_is_undone_told_and_kept(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        put(a, "one", 1)
        put(a, "two", 2)
        a.change_role(b.device.id, "reader")
        sync(a, b)
        before = b.heads()
        b.execute("UPDATE t SET v = 'mine' WHERE id = 'one'")
        b.execute("DELETE FROM t WHERE id = 'two'")
        b.execute("INSERT INTO t VALUES ('three', 3)")

        drained = b.drain()

        assert "may only read" in drained.told
        assert "3 rows" in drained.told
        assert rows_of(b) == [("one", 1), ("two", 2)]
        assert sorted(aside(b), key=repr) == [
            ("one", "v", "mine", 0),
            ("three", "v", 3, 0),
            ("two", None, None, 1),
        ]
        assert b.heads() == before
        assert b.pending() == 0
        put(a, "two", 22)
        sync(a, b)
        assert rows_of(b) == [("one", 1), ("two", 22)]
        assert_converged([a, b], ["t"])


def test_what_waits_on_a_readers_device_is_put_aside_before_others_changes_come(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        put(a, "one", 1)
        a.change_role(b.device.id, "reader")
        sync(a, b)
        b.execute("UPDATE t SET v = 'mine'")
        put(a, "one", 2)
        send(a, b)
        assert rows_of(b) == [("one", 2)]
        assert aside(b) == [("one", "v", "mine", 0)]


def test_a_reader_s_file_is_put_right_whatever_was_done_to_it(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], MERGING)
        a.track("t", {"body": "text", "n": "counter", "tags": "set", "doc": "json"})
        write_apart([a], "INSERT INTO t VALUES ('k', 'one', 1, '[\"x\"]', '{\"a\":1}', 7)")
        write_apart([a], "INSERT INTO t VALUES ('gone', 'two', 2, '[]', '{}', 8)")
        sync(a, b)
        write_apart([a], "UPDATE t SET body = 'a ' || body, n = n + 1, tags = '[\"x\",\"y\"]', plain = 9")
        write_apart([b], "UPDATE t SET body = body || ' b', n = n + 10, doc = '{\"a\":1,\"b\":2}'")
        write_apart([b], "DELETE FROM t WHERE id = 'gone'")
        sync(a, b)
        a.change_role(b.device.id, "reader")
        sync(a, b)
        shown, state = rows_of(b), b.verify().state
        b.execute("UPDATE t SET body = 'mine', n = n + 5, tags = '[]', doc = 'no', plain = x'00'")
        b.execute("DELETE FROM t WHERE id = 'k'")
        b.execute("INSERT INTO t VALUES ('k', NULL, NULL, NULL, NULL, NULL), ('new', 1, 2, 3, 4, 5)")
        b.execute("INSERT OR REPLACE INTO t VALUES ('gone', 1, 2, 3, 4, 5)")
        assert "3 rows" in b.drain().told
        assert rows_of(b) == shown == rows_of(a)
        assert b.verify().state == state
        without_triggers(b, "UPDATE t SET plain = 'unseen'")
        assert [found.total for found in b.check(fix=True)] == [1]
        assert rows_of(b) == shown
        assert ("k", "plain", "unseen", 0) in aside(b)
        assert_converged([a, b], ["t"])


def test_rows_that_were_there_before_a_reader_joined_are_put_aside(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], TABLE)
        put(a, "one", 1)
        put(a, "two", 2)
        device = load_device(world.home("b").prepare(), name="b")
        a.add_member(newcomer_of(device, "reader"))
        with closing_connection(world.path("b")) as connection:
            connection.execute(TABLE[0])
            connection.execute("INSERT INTO t VALUES ('one', 'mine'), ('two', 2), ('only mine', 3)")
        b = world.open["b"] = crdtlog.adopt(world.path("b"), a.welcome(), home=world.home("b"), name="b")
        send(a, b)
        b.caught_up()
        b.drain_all()
        assert rows_of(b) == rows_of(a) == [("one", 1), ("two", 2)]
        assert sorted(aside(b)) == [("one", "v", "mine", 0), ("only mine", "v", 3, 0)]
        assert_converged([a, b], ["t"])


def test_a_reader_edits_no_open_text(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], MERGING)
        a.track("t", {"body": "text"})
        write_apart([a], "INSERT INTO t (id, body) VALUES ('k', 'one')")
        a.change_role(b.device.id, "reader")
        sync(a, b)
        text = b.text("t", "k", "body")
        assert str(text) == "one"
        text += " more"
        with pytest.raises(EntryRefused, match="only read"):
            b.drain_all()
        assert rows_of(b, "SELECT body FROM t") == [("one",)]
        with pytest.raises(EntryRefused, match="only read"):
            b.close()
        world.reopen("b")


def test_a_reader_tracks_and_restores_nothing(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        a.change_role(b.device.id, "reader")
        sync(a, b)
        b.execute("CREATE TABLE other (id TEXT PRIMARY KEY)")
        with pytest.raises(EntryRefused, match="only read"):
            b.track("other")
        with pytest.raises(EntryRefused, match="only read"):
            b.restore_value("t", "one", "v", "x:1")


def test_a_reader_who_may_write_again_goes_on(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        a.change_role(b.device.id, "reader")
        sync(a, b)
        a.change_role(b.device.id, "writer")
        sync(a, b)
        put(b, "mine", 1)
        sync(a, b)
        assert rows_of(a) == [("mine", 1)]
        assert_converged([a, b], ["t"])
