"""Own entries that turn out not to count, and what newcomers and those let in again write."""

from pathlib import Path

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
from tests.crdtlog.grouped import TABLE, aside, put, role


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
