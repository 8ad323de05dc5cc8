"""Patches of texts that no honest device makes: the text they belong to is set aside, and everything else goes on."""

import secrets
from collections.abc import Sequence

import pytest

from crdtlog import rowdocs
from crdtlog.database import Database
from crdtlog.errors import CrdtlogError, WorkerUnavailable
from crdtlog.kinds import TEXT, Failure, Merge, Merged
from crdtlog.kinds.yjs import edit_client, start_client
from crdtlog.payload import UPDATE, Patch
from crdtlog.texts import TextDocuments, new_lane, with_lane
from tests.crdtlog import poison
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    devices,
    rows_of,
    send,
    sync_all,
    write_apart,
)
from tests.crdtlog.liar import data, section
from tests.crdtlog.unguarded import without_reader, without_worker

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT, n)"
LANE = b"a lane.."
ROWS = "INSERT INTO t VALUES ('bad', 'a text', 1), ('good', 'another', 1)"


def fleet(world: World) -> list[Database]:
    dbs = devices(world, ["liar", "honest", "other"], [TABLE], ROWS)
    dbs[0].track("t", {"body": "text"})
    sync_all(dbs)
    return dbs


def begun(liar: Database) -> tuple[bytes, int]:
    """The write that began the text: the last of its row, so far."""
    writer, seq = liar._state.connection.execute(
        "SELECT w, s FROM crdtlog__row_1 WHERE k1 = 'bad'"
    ).fetchone()
    return liar._state.log.ids[writer], seq


def lie(
    liar: Database,
    update: bytes,
    *receivers: Database,
    lane: bytes = b"",
    of: tuple[bytes, int] | None = None,
) -> bytes:
    """Sign and hand over an entry that patches one text with these bytes, and changes the other row's number."""
    tracked = liar._state.table("t")
    slot, number = tracked.cell_slots
    patch = Patch(TEXT, *(of or begun(liar)), with_lane(lane, update))
    entry = data(
        liar,
        section(liar, "t", UPDATE, ["bad"], [None], patches={slot: [patch]}),
        section(liar, "t", UPDATE, ["good"], [7], slots=(number,)),
    )
    for db in receivers:
        assert db.apply([entry]).done == 1
    return entry


def updates(liar: Database) -> list[bytes]:
    """Bytes of many kinds: nothing, noise, broken off, another client's, and some that build on what is not there."""
    client = edit_client(begun(liar), liar.writer)

    def number(value: int) -> bytes:
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    def item(who: int, clock: int, origin: int | None = None) -> bytes:
        head = b"\x84" + number(who) + number(origin) if origin is not None else b"\x04\x01\x04text"
        return b"\x01\x01" + number(who) + number(clock) + head + b"\x02hi" + b"\x00"

    return [
        b"\x00",
        secrets.token_bytes(200),
        item(client, 0)[:-3],
        item(client + 1, 0),
        item(client, 0, 99),
        item(client, 5),
        item(client, 0) + b"more",
        b"\xff" * 60,
        # Well formed, but beside one character on both sides: what it shows is another text once it was stored.
        poison.update(poison.string("\0", *[(start_client(begun(liar)), 1)] * 2), client=client),
    ]


def watch_lock(db: Database, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each text that is merged from now on: whether the write lock of the file was held meanwhile."""
    held: list[bool] = []
    work = TextDocuments.merge

    def watched(self: TextDocuments, jobs: Sequence[Merge]) -> list[Merged | Failure]:
        held.extend([db._state.connection.in_transaction] * len(jobs))
        return work(self, jobs)

    monkeypatch.setattr(TextDocuments, "merge", watched)
    return held


@pytest.mark.parametrize("which", range(9))
def test_a_poisoned_text_is_set_aside_and_the_rest_of_its_entry_stands(world: World, which: int) -> None:
    liar, honest, other = fleet(world)
    lie(liar, updates(liar)[which], honest, other)

    for db in (honest, other):
        assert rows_of(db, "SELECT body, n FROM t ORDER BY id") == [("a text", 1), ("another", 7)]
        (found,) = db.unmerged()
        assert (found.table, found.column, found.key, found.kind) == ("t", "body", "bad", "text")
        assert "liar" in found.reason
    assert_converged([honest, other], ["t"])

    write_apart([honest], "UPDATE t SET body = 'written anew'")
    send(honest, other)
    write_apart([honest], "UPDATE t SET body = body || ' here'")
    write_apart([other], "UPDATE t SET body = 'and ' || body")
    sync_all([honest, other])
    assert rows_of(other, "SELECT body FROM t WHERE id = 'bad'") == [("and written anew here",)]
    assert not honest.unmerged()
    assert_converged([honest, other], ["t"])


def test_what_is_known_to_hurt_the_library_is_left_out_of_its_text(world: World) -> None:
    liar, honest, other = fleet(world)
    of = begun(liar)
    lies = [lie(liar, known.patch, liar, lane=new_lane(), of=of) for known in poison.small_poisons()]
    for db in (honest, other):
        apply_all(db, lies)
        write_apart([db], "UPDATE t SET n = n + 1 WHERE id = 'good'")
    sync_all([honest, other])
    assert rows_of(honest, "SELECT body FROM t WHERE id = 'bad'") == [("a text",)]
    assert honest.unmerged() == other.unmerged()
    assert_converged([honest, other], ["t"])


@pytest.mark.parametrize("which", [1, 5, 8])
def test_others_edits_of_a_text_count_whether_they_come_before_a_lie_or_behind(
    world: World, which: int
) -> None:
    liar, honest, other = fleet(world)
    write_apart([other], "UPDATE t SET body = body || ' here' WHERE id = 'bad'")
    write_apart([honest], "UPDATE t SET body = 'there: ' || body WHERE id = 'bad'")
    of = begun(liar)
    lies = [lie(liar, updates(liar)[which], liar), lie(liar, updates(liar)[which], liar, lane=LANE, of=of)]
    apply_all(honest, lies[:1])
    sync_all([honest, other])
    apply_all(other, lies[1:])
    sync_all([honest, other])
    for db in (honest, other):
        assert rows_of(db, "SELECT body FROM t WHERE id = 'bad'") == [("there: a text here",)]
    assert honest.unmerged() == other.unmerged()
    assert_converged([honest, other], ["t"])


@pytest.mark.parametrize("name", poison.KINDS)
def test_what_hurts_the_library_for_real_costs_nothing_but_itself(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With workers that read nothing first, so that the library panics, crashes, or never comes to an end."""
    told = without_reader(monkeypatch)
    liar, honest, other = fleet(world)
    (known,) = [known for known in poison.small_poisons() if known.name == name]
    write_apart([other], "UPDATE t SET body = body || ' here', n = n + 1")
    for db in (honest, other):
        lie(liar, known.patch, db)
        assert len(db.unmerged()) == 1
    assert told
    assert {reason for reason, _ in told} <= set(known.reasons)
    sync_all([honest, other])
    for db in (honest, other):
        assert rows_of(db, "SELECT body FROM t ORDER BY id") == [("a text here",), ("another here",)]
        assert ["liar" in found.reason for found in db.unmerged()] == [True]
        told = [line.value for line in db.history("t", "bad", "body")]
        assert sorted(told, key=str) == ["a text", "a text", "a text here"]
    assert_converged([honest, other], ["t"])

    write_apart([honest], "UPDATE t SET body = 'anew' WHERE id = 'bad'")
    sync_all([honest, other])
    assert rows_of(other, "SELECT body FROM t WHERE id = 'bad'") == [("anew",)]
    assert not other.unmerged()


def test_edits_of_others_to_a_text_that_was_set_aside_are_conflicts_and_not_lost(world: World) -> None:
    liar, honest, other = fleet(world)
    write_apart([other], "UPDATE t SET body = body || ' with an hour of work' WHERE id = 'bad'")
    lie(liar, b"\xff" * 30, honest)
    send(other, honest)
    history = [line.value for line in honest.history("t", "bad", "body")]
    assert "a text with an hour of work" in history
    assert None not in history, "a write that changed nothing showed what was there"


def test_lies_that_want_one_place_are_left_out_alike(world: World) -> None:
    """The first builds on what only some devices have, the second does not; they use the same numbers."""
    liar, honest, other = fleet(world)
    write_apart([honest], "UPDATE t SET body = body || ' here' WHERE id = 'bad'")
    of = begun(liar)
    lying, writing = edit_client(of, liar.writer), edit_client(of, honest.writer)
    first = poison.update(poison.string("first", (writing, 0)), client=lying)
    second = poison.update(poison.string("second", (start_client(of), 0)), client=lying)
    lies = [lie(liar, update, liar, of=of) for update in (first, second)]
    apply_all(other, lies)
    assert other.unmerged()
    apply_all(honest, lies)
    sync_all([honest, other])
    ((shown,),) = rows_of(other, "SELECT body FROM t WHERE id = 'bad'")
    assert "first" in shown
    assert "second" not in shown
    assert other.unmerged()
    assert honest.unmerged() == other.unmerged()
    assert_converged([honest, other], ["t"])


def test_a_text_with_a_lie_takes_honest_changes_without_reading_the_log_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar, honest, other = fleet(world)
    for n in range(5):
        write_apart([other], f"UPDATE t SET body = body || ' {n}' WHERE id = 'bad'")
    lie(liar, b"\xff" * 30, honest)
    read = []
    rebuild = rowdocs.rebuilt_patches
    monkeypatch.setattr(rowdocs, "rebuilt_patches", lambda *args: read.append(args) or rebuild(*args))
    send(other, honest)
    assert rows_of(honest, "SELECT body FROM t WHERE id = 'bad'") == [("a text 0 1 2 3 4",)]
    assert len(honest.unmerged()) == 1
    assert not read


def test_a_text_that_was_replaced_is_built_anew_while_no_lock_is_held(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, honest, other = fleet(world)
    write_apart([other], "UPDATE t SET body = body || ' here' WHERE id = 'bad'")
    sync_all([honest, other])
    write_apart([honest], "UPDATE t SET body = NULL WHERE id = 'bad'")
    write_apart([other], "UPDATE t SET body = body || ' and there', n = 5 WHERE id = 'bad'")
    held = watch_lock(honest, monkeypatch)
    send(other, honest)
    assert held
    assert not any(held)
    assert rows_of(honest, "SELECT n FROM t WHERE id = 'bad'") == [(5,)]
    sync_all([honest, other])
    assert_converged([honest, other], ["t"])


def test_a_lane_of_another_length_is_refused(world: World) -> None:
    liar, honest, _ = fleet(world)
    with pytest.raises(CrdtlogError):
        lie(liar, b"\x00", honest, lane=b"x")


def test_patches_are_worked_on_while_no_lock_is_held(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    liar, honest, other = fleet(world)
    write_apart([other], "UPDATE t SET body = body || ' here'")
    write_apart([other], "UPDATE t SET body = body || ' and there', n = 5")
    held = watch_lock(honest, monkeypatch)
    lie(liar, b"\xff" * 30, honest)
    send(other, honest)
    assert len(held) >= 4
    assert not any(held)
    assert rows_of(honest, "SELECT body FROM t WHERE id = 'good'") == [("another here and there",)]


def test_what_is_written_is_sent_whole_while_there_is_no_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, honest, other = fleet(world)
    write_apart([honest], "UPDATE t SET body = body || ' here'")
    sync_all([honest, other])
    with monkeypatch.context() as patched:
        without_worker(patched)
        honest = world.reopen("honest")
        write_apart([honest], "UPDATE t SET body = body || ' and there'")
        assert honest.pending() == 0
        (found,) = honest.unmerged()
        assert (found.table, found.column, found.rows) == ("t", "body", 0)
        assert "no_such_module" in found.reason
    honest = world.reopen("honest")
    assert not honest.unmerged()
    sync_all([honest, other])
    write_apart([honest, other], "UPDATE t SET body = body || ' ' || :name WHERE id = 'bad'")
    sync_all([honest, other])
    ((shown,),) = rows_of(other, "SELECT body FROM t WHERE id = 'bad'")
    assert shown.startswith("a text here and there ")
    assert_converged([honest, other], ["t"])


def test_without_a_worker_what_needs_none_is_applied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, honest, other = fleet(world)
    write_apart([other], "UPDATE t SET n = 6")
    write_apart([other], "UPDATE t SET body = body || ' here'")
    without_worker(monkeypatch)
    honest = world.reopen("honest")
    write_apart([honest], "UPDATE t SET n = 7 WHERE id = 'bad'")
    with pytest.raises(WorkerUnavailable, match="no_such_module"):
        send(other, honest)
    assert rows_of(honest, "SELECT n FROM t WHERE id = 'good'") == [(6,)]
    assert honest.pending() == 0
