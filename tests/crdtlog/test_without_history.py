"""Devices that are let in without history: they get what stands, and nothing of what stood before."""

from typing import Any

import pytest

import crdtlog
from crdtlog.abridged import base
from crdtlog.database import Database
from crdtlog.device import load_device
from crdtlog.errors import DiskFull, EntryRefused, SchemaRefused, TablePaused
from crdtlog.members import newcomer_of
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    pair,
    rows_of,
    send,
    sync,
    sync_all,
)
from tests.crdtlog.grouped import MERGING, TABLE, put


def holds(db: Database, text: str) -> bool:
    """Whether a text is in a device's file, or in an entry that it holds."""
    db._state.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    entries = db._state.connection.execute(
        "SELECT writer, seq FROM crdtlog__log WHERE kind = 'data'"
    ).fetchall()
    logged = [repr(db._state.log.sections(*dot)) for dot in entries]
    return text.encode() in db.path.read_bytes() or any(text in shown for shown in logged)


def meet(one: Database, other: Database) -> None:
    """Exchange everything, and tell each other so, as devices do."""
    sync(one, other)
    for db, peer in ((one, other), (other, one)):
        db.record_held(peer.device.id, {writer: head.seq for writer, head in peer.heads().items()})


def test_a_device_without_history_gets_what_stands_and_nothing_that_stood(world: World) -> None:
    one, other = pair(world, *TABLE)
    put(one, "x", "the past")
    put(one, "gone", "was deleted")
    sync(one, other)
    put(other, "x", "the present")
    one.execute("DELETE FROM t WHERE id = 'gone'")
    meet(one, other)
    late = world.join("late", one, "writer", history=False)
    send(one, late)
    assert rows_of(late) == [("x", "the present")]
    assert not holds(late, "the past")
    assert not holds(late, "was deleted")
    sync_all([one, other, late])
    assert_converged([one, other, late], ["t"])


def test_what_was_noted_for_one_device_alone_stays_there(world: World) -> None:
    one, _ = pair(world, *TABLE)
    device = load_device(world.home("anna").prepare(), name="anna")
    one.add_member(newcomer_of(device, "writer"), "invited as Anna Example")
    late = world.join("late", one, history=False)
    send(one, late)
    assert "anna joined as writer (invited as Anna Example)" in [line["summary"] for line in one.log()]
    lines = [line["summary"] for line in late.log()]
    assert "anna joined as writer" in lines and "late joined as admin, without history" in lines
    assert "t: tracked" in lines
    assert not holds(late, "Anna Example")


def test_it_writes_and_reads_on_like_the_others(world: World) -> None:
    one, other = pair(world, *TABLE)
    put(one, "x", 1)
    sync(one, other)
    late = world.join("late", one, "writer", history=False)
    send(one, late)
    put(late, "x", 2)
    put(late, "y", 3)
    put(other, "z", 4)
    sync_all([one, other, late])
    assert rows_of(other) == [("x", 2), ("y", 3), ("z", 4)]
    assert_converged([one, other, late], ["t"])


def test_conflicts_go_along(world: World) -> None:
    one, other = pair(world, *TABLE)
    put(one, "x", "one's")
    put(other, "x", "other's")
    sync(one, other)
    late = world.join("late", one, history=False)
    send(one, late)
    assert late.conflicts() == one.conflicts() != []
    put(late, "x", "settled")
    sync_all([one, other, late])
    assert_converged([one, other, late], ["t"])


def test_texts_go_along_without_what_was_deleted_from_them(world: World) -> None:
    one, other = pair(world, *MERGING)
    one.track("t", {"body": "text", "n": "counter", "tags": "set", "doc": "json"})
    one.execute(
        "INSERT INTO t VALUES ('x', 'a secret sentence, and more', 1, '[\"concealed\"]', '{\"k\": \"old\"}', 0)"
    )
    sync(one, other)
    one.execute(
        "UPDATE t SET body = 'a sentence, and more', n = n + 4, tags = '[\"shown\"]', doc = '{\"k\": \"new\"}'"
    )
    meet(one, other)
    late = world.join("late", one, history=False)
    send(one, late)
    assert rows_of(late) == rows_of(one)
    for word in ("secret", "concealed", "old"):
        assert not holds(late, word), word
    late.execute("UPDATE t SET body = body || '!', n = n + 1")
    other.execute("UPDATE t SET body = 'O ' || body, n = n + 1")
    sync_all([one, other, late])
    assert rows_of(late)[0][1:3] == ("O a sentence, and more!", 7)
    assert_converged([one, other, late], ["t"])


def test_a_deleted_row_leaves_neither_conflicts_nor_texts_behind(world: World) -> None:
    one, other = pair(world, *MERGING)
    one.track("t", {"body": "text", "n": "counter", "doc": "json", "tags": "set"})
    one.execute("INSERT INTO t VALUES ('x', 'a secret', 1, '[\"concealed\"]', '[\"private\"]', 'quiet')")
    meet(one, other)
    for db in (one, other):
        db.execute(
            "UPDATE t SET body = body || ?, n = n + 1, plain = ?",
            (" sentence", f"confidential {db.device.name}"),
        )
        db.drain_all()
    meet(one, other)
    assert one.conflicts()
    one.execute("DELETE FROM t")
    meet(one, other)
    late = world.join("late", one, history=False)
    send(one, late)
    for word in ("secret", "sentence", "concealed", "private", "quiet", "confidential"):
        assert not holds(late, word), word
    meet(one, late)
    assert_converged([one, late], ["t"])
    late.execute("INSERT INTO t VALUES ('x', 'anew', 5, '[]', '[]', 0)")
    other.execute("INSERT INTO t VALUES ('x', 'anew, too', 7, '[]', '[]', 1)")
    sync_all([one, other, late])
    assert_converged([one, other, late], ["t"])


def test_what_somebody_may_still_bring_back_goes_along(world: World) -> None:
    """A row that a device has not seen go is brought back by what that device has changed in it meanwhile."""
    one, other = pair(world, "CREATE TABLE t (id TEXT PRIMARY KEY, v, w)")
    one.execute("INSERT INTO t VALUES ('x', 'kept', 1)")
    sync(one, other)
    other.execute("UPDATE t SET w = 2")
    other.drain_all()
    one.execute("DELETE FROM t")
    one.drain_all()
    late = world.join("late", one, history=False)
    send(one, late)
    assert rows_of(late) == []
    sync_all([one, other, late])
    assert_converged([one, other, late], ["t"])


def test_what_a_device_wrote_before_it_heard_of_a_delete_still_brings_the_row_back(world: World) -> None:
    """It has told that it has the delete, and what it had written before is not here yet."""
    one, other = pair(world, "CREATE TABLE t (id TEXT PRIMARY KEY, v, w)")
    one.execute("INSERT INTO t VALUES ('x', 'kept', 1)")
    meet(one, other)
    one.execute("DELETE FROM t")
    one.drain_all()
    other.execute("UPDATE t SET w = 2")
    send(one, other)
    one.record_held(other.device.id, {writer: head.seq for writer, head in other.heads().items()})
    late = world.join("late", one, history=False)
    send(one, late)
    sync_all([one, other, late])
    assert rows_of(late) == [("x", "kept", 2)]
    assert_converged([one, other, late], ["t"])


def test_what_a_removed_device_wrote_may_still_be_vouched_for(world: World) -> None:
    """Whoever has it, and has not heard of the removal, makes it count."""
    one, other = pair(world, "CREATE TABLE t (id TEXT PRIMARY KEY, v, w)")
    gone = world.join("gone", one)
    one.execute("INSERT INTO t VALUES ('x', 'kept', 1)")
    meet(one, other)
    meet(one, gone)
    gone.execute("UPDATE t SET w = 2")
    gone.drain_all()
    one.execute("DELETE FROM t")
    meet(one, other)
    sync(gone, other)
    one.remove_member(gone.device.id)
    assert one.unsettled() == (1, [other.device.id])
    late = world.join("late", one, history=False)
    send(one, late)
    sync_all([one, other, late])
    assert_converged([one, other, late], ["t"])


def test_nothing_waits_for_a_removed_device_that_all_know_to_be(world: World) -> None:
    one, other = pair(world, *TABLE)
    gone = world.join("gone", one, "writer", history=False)
    put(one, "x", "the past")
    meet(one, other)
    put(one, "x", "the present")
    one.remove_member(gone.device.id)
    meet(one, other)
    assert one.unsettled() == (0, [])
    assert one.without_snapshot() == []


def test_it_writes_nothing_before_it_was_given_what_there_is(world: World) -> None:
    one, _ = pair(world, *TABLE)
    put(one, "x", "theirs")
    late = world.join("late", one, history=False)
    late.execute("INSERT INTO t VALUES ('x', 'mine'), ('y', 'mine, too')")
    late.drain_all()
    assert late.heads() == {}
    with pytest.raises(EntryRefused, match="has not been given"):
        late.track("t", {"v": "text"})
    send(one, late)
    assert rows_of(late) == [("x", "theirs"), ("y", "mine, too")]
    assert late.execute("SELECT key, value FROM crdtlog_aside").fetchall() == [("x", "mine")]
    sync(one, late)
    assert rows_of(one) == [("x", "theirs"), ("y", "mine, too")]


def test_a_file_with_rows_cannot_join_so(world: World) -> None:
    one, _ = pair(world, *TABLE)
    world.path("late").touch()
    with closing_connection(world.path("late")) as connection:
        connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY, v)")
        connection.execute("INSERT INTO t VALUES (1, 2)")
    with pytest.raises(SchemaRefused, match="without history"):
        world.join("late", one, history=False)


def test_it_cannot_read_what_was_sealed_before(world: World) -> None:
    one, other = pair(world, *TABLE)
    before = set(one.epochs())
    late = world.join("late", one, history=False)
    assert not set(late.epochs()) & before
    send(one, late)
    sync_all([one, other, late])
    assert not set(late.epochs()) & before
    world.join("more", one)
    one.remove_member(other.device.id)
    send(one, late)
    assert one.epoch in late.epochs()
    assert not set(late.epochs()) & before


def test_it_hands_on_what_others_may_lack_and_nothing_that_it_was_given_abridged(world: World) -> None:
    one, other = pair(world, *TABLE)
    put(one, "x", 1)
    meet(one, other)
    put(one, "y", 2)
    late = world.join("late", one, history=False)
    send(one, late)
    put(late, "z", 3)
    send(late, other)
    assert rows_of(other) == [("x", 1), ("y", 2), ("z", 3)]
    other.close()
    other.path.unlink()
    other = world.open["other"] = crdtlog.adopt(
        other.path, one.welcome(other.device.id), home=world.home("other"), name="other"
    )
    send(late, other)
    assert rows_of(other) == []
    send(one, other)
    send(late, other)
    assert rows_of(other) == [("x", 1), ("y", 2), ("z", 3)]
    with pytest.raises(EntryRefused, match="has none to hand on"):
        world.join("more", late)


def test_no_entry_from_before_is_shown_to_it(world: World) -> None:
    """As one is that stands beside another one at a fork."""
    one, other = pair(world, *TABLE)
    put(one, "x", "the past")
    meet(one, other)
    late = world.join("late", one, history=False)
    past = one.heads()[one.writer].seq
    put(one, "x", "the present")
    for db in (one, other):
        send(one, db)
        with pytest.raises(EntryRefused, match="has no history"):
            db.signed_entry(one.writer, 1, to=late.device.id)
        assert db.signed_entry(one.writer, 1, to=one.device.id)
        assert db.signed_entry(one.writer, past + 1, to=late.device.id)


def test_a_device_without_history_lets_in_another_one(world: World) -> None:
    one, other = pair(world, *TABLE)
    put(one, "x", 0)
    meet(one, other)
    put(one, "x", 1)
    meet(one, other)
    late = world.join("late", one, history=False)
    send(one, late)
    assert late.verify().given > 0
    later = world.join("later", late, history=False)
    send(late, later)
    assert rows_of(later) == [("x", 1)]
    put(later, "x", 2)
    sync_all([one, other, late, later])
    assert_converged([one, other, late, later], ["t"])


def test_a_member_does_not_lose_what_it_has_read(world: World) -> None:
    one, other = pair(world, *TABLE)
    with pytest.raises(EntryRefused, match="has read what there is"):
        one.add_member(newcomer_of(other.device, "writer"), history=False)


def test_a_full_disk_or_a_paused_table_makes_it_wait_and_not_begin_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair(world, *TABLE)
    put(one, "x", 1)
    late = world.join("late", one, history=False)
    parts = [part.signed for part in one.snapshot_parts()]
    write = base.write

    def full(*arguments: Any) -> int:
        monkeypatch.setattr(base, "write", write)
        raise DiskFull("the disk is full")

    monkeypatch.setattr(base, "write", full)
    with pytest.raises(DiskFull):
        late.apply(parts)
    assert late.awaits_snapshot and rows_of(late) == []
    late.execute("ALTER TABLE t RENAME COLUMN v TO w")
    with pytest.raises(TablePaused):
        late.apply(parts[-1:])
    assert late.awaits_snapshot
    late.execute("ALTER TABLE t RENAME COLUMN w TO v")
    late.apply(parts[-1:])
    assert rows_of(late) == [("x", 1)]


def test_what_stood_beside_a_row_goes_with_it(world: World) -> None:
    """The documents of a deleted row, and the values that had lost in it."""
    one, other = pair(world, *MERGING)
    one.track("t", {"body": "text", "n": "counter", "tags": "set", "doc": "json"})
    one.execute("INSERT INTO t VALUES ('x', 'a text', 1, '[]', '{}', 'plain')")
    meet(one, other)
    one.execute(
        "UPDATE t SET body = 'a secret text', n = 5, tags = '[\"concealed\"]', doc = '{\"k\": \"old\"}'"
    )
    meet(one, other)
    for db in (one, other):
        db.execute("UPDATE t SET plain = 'said by ' || :name", {"name": db.device.name})
        db.drain_all()
    meet(one, other)
    assert len(one.conflicts()) == 1
    one.execute("DELETE FROM t")
    meet(one, other)
    late = world.join("late", one, history=False)
    send(one, late)
    for word in ("secret", "concealed", "old", "said by"):
        assert not holds(late, word), word
    assert_converged([one, late], ["t"])
    later = world.join("later", late, history=False)
    send(late, later)
    put_again = "INSERT INTO t VALUES ('x', 'anew', 2, '[]', '{}', 'plain')"
    later.execute(put_again)
    sync_all([one, other, late, later])
    assert rows_of(one) == [("x", "anew", 2, "[]", "{}", "plain")]
    assert_converged([one, other, late, later], ["t"])


@pytest.mark.parametrize("column, anew", [("body", None), ("n", "none"), ("tags", None), ("doc", None)])
def test_a_document_that_somebody_replaces_goes_on_for_who_has_not_seen_that(
    world: World, column: str, anew: object
) -> None:
    """It is built anew, from what the snapshot brought of it."""
    one, other = pair(world, *MERGING)
    one.track("t", {"body": "text", "n": "counter", "tags": "set", "doc": "json"})
    one.execute("INSERT INTO t VALUES ('x', 'text', 1, '[1]', '{}', 'plain')")
    meet(one, other)
    one.execute("UPDATE t SET body = 'a text', n = 5, tags = '[2]', doc = '{\"k\": 1}'")
    meet(one, other)
    late = world.join("late", one, history=False)
    send(one, late)
    meet(one, other)
    other.execute("UPDATE t SET body = body || '!', n = n + 1, tags = '[2, 3]', doc = '{\"k\": 1, \"l\": 2}'")
    other.drain_all()
    one.execute(f"UPDATE t SET {column} = ?", (anew,))
    send(one, late)
    sync_all([one, other, late])
    assert len(one.conflicts()) == 1
    assert_converged([one, other, late], ["t"])
    assert late.conflicts() == one.conflicts()
    assert {line.column for line in late.history("t", "x")} >= {column, "plain"}


def test_who_has_no_history_hands_on_what_is_still_edited(world: World) -> None:
    """A document that was replaced, to which somebody who has not seen that may still write."""
    one, other = pair(world, *MERGING)
    one.track("t", {"body": "text", "n": "counter", "tags": "set", "doc": "json"})
    one.execute("INSERT INTO t VALUES ('x', 'text', 1, '[1]', '{}', 'plain')")
    meet(one, other)
    one.execute("UPDATE t SET body = 'a text', n = 5, tags = '[2]', doc = '{\"k\": 1}'")
    meet(one, other)
    late = world.join("late", one, history=False)
    send(one, late)
    for db in (one, other):
        meet(late, db)
    late.execute("UPDATE t SET body = body || '?', n = n + 7")
    late.drain_all()
    other.execute("UPDATE t SET body = body || '!', n = n + 1, tags = '[2, 3]', doc = '{\"k\": 1, \"l\": 2}'")
    other.drain_all()
    send(late, one)
    one.execute("UPDATE t SET body = NULL, n = 'none', tags = NULL, doc = NULL")
    send(one, late)
    second = world.join("second", late, history=False)
    send(late, second)
    third = world.join("third", second, history=False)
    send(second, third)
    sync(one, other)
    for db in (second, third, late):
        sync(other, db)
    sync_all([one, other, late, second, third])
    assert len(one.conflicts()) == 4
    assert_converged([one, other, late, second, third], ["t"])


def test_whose_role_is_changed_anew_goes_on_with_what_it_has(world: World) -> None:
    """What a removed admin said of it behind what does not count is ended by a readmission: it has its file still."""
    one, other = pair(world, *TABLE)
    gone = world.join("gone", one)
    sync_all([one, other, gone])
    put(one, "x", 1)
    sync_all([one, other, gone])
    late = world.join("late", one, "writer", history=False)
    send(one, late)
    sync_all([one, other, gone])
    one.remove_member(gone.device.id)
    put(gone, "y", "does not count")
    gone.change_role(late.device.id, "reader")
    send(one, other)
    send(gone, other)
    sync(one, other)
    put(other, "z", "new")
    sync(one, other)
    one.change_role(late.device.id, "writer")
    for db in (one, other):
        sync(db, one)
        assert not db.has_history(late.device.id)
        assert not db.must_give(late.device.id, {writer: head.seq for writer, head in late.heads().items()})
    put(late, "l", "written meanwhile")
    sync_all([one, other, late])
    assert_converged([one, other, late], ["t"])


def test_who_was_removed_and_joins_once_more_does_not_read_what_was_written_meanwhile(world: World) -> None:
    one, other = pair(world, *TABLE)
    late = world.join("late", one, "writer", history=False)
    send(one, late)
    sync_all([one, other])
    one.remove_member(late.device.id)
    put(one, "x", "written meanwhile")
    meanwhile = one.heads()[one.writer].seq
    meet(one, other)
    put(one, "x", "the present")
    meet(one, other)
    late.close()
    late.path.unlink()
    late = world.join("late", one, "writer", history=False)
    send(one, late)
    assert rows_of(late) == [("x", "the present")]
    assert not holds(late, "written meanwhile")
    with pytest.raises(EntryRefused, match="has no history"):
        one.signed_entry(one.writer, meanwhile, to=late.device.id)


def test_of_two_admins_that_let_a_device_in_apart_the_one_who_gives_history_decides(world: World) -> None:
    one, other = pair(world, *TABLE)
    put(one, "x", 0)
    put(one, "x", 1)
    meet(one, other)
    late = world.join("late", one)
    other.add_member(newcomer_of(late.device, "admin"), history=False)
    sync(one, other)
    for db in (one, other):
        assert db.has_history(late.device.id) and not db.must_give(late.device.id, {})
    send(one, late)
    sync_all([one, other, late])
    assert late.verify().given == 0
    assert_converged([one, other, late], ["t"])
