"""The group in the engine: what a removed, demoted or reading device writes, on every device alike."""

from pathlib import Path

import pytest

from crdtlog.device import load_device
from crdtlog.errors import EntryRefused, Usage
from crdtlog.members import newcomer_of
from tests.crdtlog.devices import (
    World,
    assert_converged,
    devices,
    rows_of,
    send,
    sync,
    sync_all,
)
from tests.crdtlog.grouped import TABLE, put, role


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


def test_a_device_that_joins_after_the_founder_was_removed_takes_the_founders_entries_in(
    tmp_path: Path,
) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], TABLE, "INSERT INTO t VALUES ('first', 1)")
        put(a, "second", 2)
        send(a, b)
        b.remove_member(a.device.id)
        c = world.join("c", b)

        send(b, c)
        c.caught_up()

        assert rows_of(c) == [("first", 1), ("second", 2)]
        assert role(c, a) is None
        assert_converged([b, c], ["t"])


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


def test_who_was_let_in_by_one_who_could_not_is_no_member_and_stops_nobody(world: World) -> None:
    a, b, c = devices(world, ["a", "b", "c"], TABLE)
    e = world.join("e", c)
    send(c, e)
    put(e, "x", "by e")
    send(e, c)
    put(c, "y", "by c")
    a.change_role(c.device.id, "reader")
    send(a, b)
    send(a, c)
    assert role(c, e) is None
    send(c, a)
    send(c, b)
    put(b, "z", "by b")
    sync_all([a, b, c])
    assert rows_of(a) == rows_of(b) == rows_of(c) == [("z", "by b")]
    assert e.device.id not in {member.device for db in (a, b, c) for member in db.members()}
    assert_converged([a, b, c], ["t"])
