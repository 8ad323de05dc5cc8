"""The group in the engine: what a removed, demoted or reading device writes, on every device alike."""

from pathlib import Path

import pytest

import crdtlog
from crdtlog import new_recovery
from crdtlog.database import Database
from crdtlog.device import load_device
from crdtlog.errors import EntryRefused, Usage
from crdtlog.members import newcomer_of
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    devices,
    rows_of,
    send,
    sync,
    sync_all,
    without_triggers,
    write_apart,
)

TABLE = ["CREATE TABLE t (id TEXT PRIMARY KEY, v)"]
MERGING = ["CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT, n INTEGER, tags TEXT, doc TEXT, plain)"]


def put(db: Database, key: str, value: object) -> None:
    db.execute(
        "INSERT INTO t (id, v) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET v = excluded.v", (key, value)
    )
    db.drain_all()


def role(db: Database, of: Database) -> str | None:
    return {member.device: member.role for member in db.devices()}[of.device.id]


def aside(db: Database) -> list[tuple[object, ...]]:
    return db.execute('SELECT key, "column", value, deleted FROM crdtlog_aside').fetchall()


def test_a_removed_device_belongs_no_more_on_any_device(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        a.remove_member(c.device.id)
        sync(a, b)
        for db in (a, b):
            assert role(db, c) is None
            assert c.device.id not in {member.device for member in db.members()}
        (gone,) = [member for member in b.devices() if member.role is None]
        assert gone.removed_by == a.device.id


def test_what_a_removed_device_writes_afterwards_is_held_and_not_counted(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        put(c, "before", 1)
        sync_all([a, b, c])
        a.remove_member(c.device.id)
        put(c, "late", 2)
        send(c, b)  # b does not know yet
        put(c, "later", 3)
        send(c, a)
        assert rows_of(a) == [("before", 1)]
        assert rows_of(b) == [("before", 1), ("late", 2)]

        sync(a, b)

        # b had merged it before it knew, and says so: nothing that was applied is undone, anywhere.
        assert rows_of(a) == rows_of(b) == [("before", 1), ("late", 2)]
        put(b, "on", 4)
        put(a, "and on", 5)
        sync(a, b)
        assert_converged([a, b], ["t"])
        (waiting,) = [line for line in a.log() if line["summary"] == "held, not counted"]
        assert waiting["device"] == "c"


def test_a_device_that_joins_afterwards_finds_the_same_to_count(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        put(c, "before", 1)
        sync_all([a, b, c])
        a.remove_member(c.device.id)
        put(c, "late", 2)
        send(c, b)
        sync(a, b)
        put(c, "later", 3)
        send(c, b)
        put(b, "on", 4)
        sync(a, b)
        d = world.join("d", a)
        for source in (a, b):
            send(source, d)
        d.caught_up()
        sync_all([a, b, d])
        assert rows_of(d) == [("before", 1), ("late", 2), ("on", 4)]
        assert_converged([a, b, d], ["t"])
        assert role(d, c) is None


def test_an_honest_entry_that_builds_on_what_is_cut_brings_it_along(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        put(c, "late", 2)
        send(c, b)
        put(b, "built on it", 3)
        a.remove_member(c.device.id)
        send(b, a)  # a has heard of the late entry only now
        assert rows_of(a) == [("built on it", 3), ("late", 2)]
        sync(a, b)
        assert_converged([a, b], ["t"])


def test_what_is_held_waits_over_a_restart_and_counts_once_somebody_vouches(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        put(c, "late", 2)
        send(c, b)
        a.remove_member(c.device.id)
        send(c, a)
        assert rows_of(a) == []
        a = world.reopen("a")
        assert rows_of(a) == []
        put(a, "mine", 1)
        sync(b, a)
        assert rows_of(a) == rows_of(b) == [("late", 2), ("mine", 1)]
        assert_converged([a, b], ["t"])


def test_two_admins_who_remove_one_another_are_both_out(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        a.remove_member(b.device.id)
        b.remove_member(a.device.id)
        for source in (a, b):
            send(source, c)
        assert role(c, a) is None
        assert role(c, b) is None
        assert role(c, c) == "admin"


def test_the_last_admin_stays(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        a.change_role(b.device.id, "writer")
        for refused in (lambda: a.remove_member(a.device.id), lambda: a.change_role(a.device.id, "reader")):
            with pytest.raises(Usage, match="last admin"):
                refused()
        sync(a, b)
        with pytest.raises(EntryRefused, match="may not"):
            b.remove_member(a.device.id)
        b.remove_member(b.device.id)
        sync(a, b)
        assert role(a, b) is None


def test_an_admin_settles_what_admins_disagree_about_by_saying_what_holds_already(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        a.change_role(c.device.id, "writer")
        b.change_role(c.device.id, "reader")
        sync_all([a, b, c])
        (conflict,) = a.admins_conflict()
        assert conflict.device == c.device.id
        assert {said for _, _, said in conflict.said} == {"writer", "reader"}

        a.change_role(c.device.id, "reader")
        sync_all([a, b, c])

        assert [db.admins_conflict() for db in (a, b, c)] == [[], [], []]
        assert role(b, c) == role(c, c) == "reader"
        a.change_role(c.device.id, "reader")
        assert [line["summary"] for line in a.log("member")].count(
            "c is reader now"
        ) == 2  # b's, and one of a's


def test_a_note_about_a_newcomer_stays_in_the_log_of_the_file_that_let_it_in(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        c = load_device(world.home("c").prepare(), name="c")
        a.add_member(newcomer_of(c, "reader"), "invited as Carla")
        sync(a, b)
        assert a.log("member")[-1]["summary"] == "c joined as reader (invited as Carla)"
        assert b.log("member")[-1]["summary"] == "c joined as reader"


def test_a_reader_whose_writes_were_taken_back_never_wrote(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        a.change_role(b.device.id, "reader")
        sync(a, b)
        put(b, "mine", 1)
        assert b.execute("SELECT entries, last_write FROM crdtlog_devices WHERE self").fetchall() == [
            (0, None)
        ]


def test_who_has_just_joined_changes_nothing_of_the_group_before_it_knows_it(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], TABLE)
        b = world.join("b", a)
        for change in (
            lambda: b.remove_member(b.device.id),
            lambda: b.change_role(a.device.id, "reader"),
            lambda: b.add_member(newcomer_of(load_device(world.home("c").prepare(), name="c"), "writer")),
        ):
            with pytest.raises(EntryRefused, match="before its first exchange"):
                change()
        send(a, b)
        b.remove_member(b.device.id)
        assert role(b, b) is None


# --- readers ------------------------------------------------------------------------------------------------------


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


# --- own entries that do not count ----------------------------------------------------------------------------------


def test_a_device_made_a_reader_while_it_wrote_offline_takes_its_writes_back_and_keeps_them(
    tmp_path: Path,
) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        put(a, "one", 1)
        sync(a, b)
        put(b, "one", "offline")
        put(b, "new", "offline")
        a.change_role(b.device.id, "reader")
        put(a, "other", 3)
        writer = b.writer

        send(a, b)

        assert rows_of(b) == [("one", 1), ("other", 3)]
        assert ("one", "v", "offline", 0) in aside(b)
        assert b.writer != writer
        sync(a, b)
        assert rows_of(a) == rows_of(b)
        assert_converged([a, b], ["t"])


def test_a_device_demoted_and_promoted_while_it_wrote_offline_loses_nothing(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        put(a, "one", 1)
        put(a, "two", 2)
        sync(a, b)
        put(b, "one", "offline")
        put(b, "two", "offline")
        put(b, "new", "offline")
        a.change_role(b.device.id, "reader")
        a.change_role(b.device.id, "writer")
        put(a, "two", "by a")

        sync(a, b)
        sync(a, b)

        assert rows_of(a) == rows_of(b) == [("new", "offline"), ("one", "offline"), ("two", "by a")]
        assert ("two", "v", "offline", 0) in aside(b)
        assert_converged([a, b], ["t"])


def test_who_is_let_in_again_goes_on_as_a_new_writer(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        put(b, "one", 1)
        sync_all([a, b, c])
        a.remove_member(b.device.id)
        put(b, "offline", 2)
        a.add_member(newcomer_of(b.device, "writer"))
        writer = b.writer
        sync(a, b)
        assert b.writer != writer
        assert role(b, b) == role(a, b) == "writer"
        sync_all([a, b, c])
        assert rows_of(a) == rows_of(b) == rows_of(c) == [("offline", 2), ("one", 1)]
        put(b, "again", 3)
        sync_all([a, b, c])
        assert_converged([a, b, c], ["t"])


def test_who_has_just_joined_writes_before_it_knows_the_group(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE)
        c = world.join("c", a)
        put(c, "early", 1)
        sync(a, c)
        a.change_role(b.device.id, "writer")  # the group is not plain any more
        d = world.join("d", a)
        put(d, "early too", 2)
        sync_all([a, b, c, d])
        assert rows_of(b) == [("early", 1), ("early too", 2)]
        assert_converged([a, b, c, d], ["t"])


def test_a_seen_entry_says_nothing_else(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        put(c, "late", 1)
        send(c, b)
        a.remove_member(c.device.id)
        send(a, b)
        kinds = [line["summary"] for line in b.log("member") if line["device"] == "b"]
        assert len(kinds) == 1
        sync(a, b)
        assert len([line for line in b.log("member") if line["device"] == "b"]) == 1


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_removal_hands_a_new_secret_to_all_but_the_removed(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        before = a.epoch
        a.remove_member(c.device.id)
        assert a.epoch != before
        send(a, b)
        assert b.epoch == a.epoch
        assert b.epochs() == a.epochs()
        send(a, c)  # should somebody send it all the same
        assert a.epoch not in c.epochs()
        assert not b.rotate_if_due()
        assert world.reopen("b").epochs() == a.epochs()


def test_two_removals_apart_end_in_a_secret_that_neither_knows(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c, d = devices(world, ["a", "b", "c", "d"], TABLE)
        a.remove_member(c.device.id)
        b.remove_member(d.device.id)
        sync(a, b)
        assert a.rotate_if_due()
        sync(a, b)
        assert not b.rotate_if_due()
        assert a.epoch == b.epoch
        for gone in (c, d):
            send(a, gone)
            assert a.epoch not in gone.epochs()


def test_who_joined_while_somebody_rotated_gets_the_secret_later(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b, c = devices(world, ["a", "b", "c"], TABLE)
        d = world.join("d", a)
        b.remove_member(c.device.id)
        sync(a, b)
        send(a, d)
        assert b.epoch not in d.epochs()
        assert a.rotate_if_due()
        sync_all([a, b, d])
        assert d.epoch == a.epoch == b.epoch
        assert d.epochs().keys() == a.epochs().keys()


# --- the recovery key -----------------------------------------------------------------------------------------------


def test_the_recovery_key_makes_an_admin_who_lets_the_removed_in_again(tmp_path: Path) -> None:
    key = new_recovery()
    with World(tmp_path) as world:
        world.open["a"] = a = crdtlog.open(
            world.path("a"), home=world.home("a"), name="a", recovery=key.public
        )
        a.execute(TABLE[0])
        a.track("t")
        b, c = (world.join(name, a) for name in "bc")
        for db in (b, c):
            send(a, db)
            db.caught_up()
        a.change_role(c.device.id, "reader")
        sync_all([a, b, c])
        a.remove_member(b.device.id)
        b.remove_member(a.device.id)
        for source in (a, b):
            send(source, c)
        assert [member.role for member in c.members()] == ["reader"]
        with pytest.raises(Usage, match="another database"):
            c.recover(new_recovery())

        c.recover(key)

        assert role(c, c) == "admin"
        c.add_member(newcomer_of(a.device, "admin"))
        put(c, "one", 1)
        send(c, a)
        assert role(a, c) == role(a, a) == "admin"
        assert role(a, b) is None
        assert rows_of(a) == [("one", 1)]
        put(a, "two", 2)
        sync(a, c)
        assert c.rotate_if_due()
        sync(a, c)
        assert_converged([a, c], ["t"])
        assert a.epoch == c.epoch


def test_a_database_without_a_recovery_key_says_so(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        (a,) = devices(world, ["a"], TABLE)
        with pytest.raises(Usage, match="without a recovery key"):
            a.recover(new_recovery())
