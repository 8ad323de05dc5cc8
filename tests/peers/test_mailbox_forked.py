"""Forks that are found in a mailbox: devices that never meet settle them as if they had met (R11)."""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import entry, proof
from crdtlog.database import Database
from crdtlog.entry import Entry, compress
from crdtlog.errors import CrdtlogError
from crdtlog.proof import MAX_FORKS
from crdtlog.relays import Place
from crdtlog.values import pack, unpack
from crdtlog.versions import Head, Named
from peers.mailbox import candidates, contents
from peers.mailbox import sync as mailbox_sync
from peers.mailbox.forked import MAX_ASKED, Forked, Sought
from tests.crdtlog.devices import World, assert_converged, pair, quick_directory, rows_of, send
from tests.crdtlog.forked import copied, exchange
from tests.peers.mailbox_world import Box, Follower, mailbox_of
from tests.peers.test_mailbox import put, three
from tests.peers.test_mailbox_hostile import hostile


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def seal(box: Box, db: Database, *signed: bytes) -> None:
    """Leave entries in a mailbox, whatever is there."""
    box.append(mailbox_of(db).seal(contents.of_entries(signed), os.urandom(16)))


def leave(box: Box, db: Database) -> None:
    """Leave all that a device holds, without reading before, as one whose relay hides what others left."""
    db.drain_all()
    assert db.confirm()
    for item in db.entries_after(0, {}, 1 << 40).entries:
        seal(box, db, item.signed)


def signed_after(db: Database, writer: bytes, seq: int) -> list[bytes]:
    """The entries of a log behind a number, as their author signed them."""
    return [db.signed_entry(writer, each) for each in range(seq + 1, db.heads()[writer].seq + 1)]


def beside(db: Database, payload: bytes, *, at: int | None = None, context: tuple[Named, ...] = ()) -> bytes:
    """One more entry that a device signs under a number of its log, the next one if not given."""
    state, own = db._state, db._state.writer
    seq = own.seq + 1 if at is None else at
    previous = state.log.hash_of(own.number, seq - 1) or b""
    item = Entry(
        state.database, own.id, seq, previous, context, 1 << 16, 1 << 16, "event", state.epoch, len(payload),
        compress(payload),
    )  # fmt: skip
    return entry.sign(item, state.device).bytes()


def forged(signed: bytes) -> bytes:
    return pack([entry.split(signed).body, bytes(64)])


Fork = tuple[Box, list[Database], bytes, int]


@pytest.fixture
def fork(world: World) -> Fork:
    """A mailbox with what two copies of one device went on with, three entries each, that have read none of it; and
    the founder, the device, another one, and the copy. Who reads it meets the copy's entries last.
    """
    one, two, three_ = three(world)
    box = Box()
    for db in (one, two, three_):
        Follower(db).visit(box)
    put(two, "c")
    Follower(two).visit(box)
    copy = copied(world, "two", "copy")
    before = two.heads()[two.writer].seq
    writer = two.writer
    for number in range(3):
        put(two, f"x{number}")
        put(copy, f"y{number}")
    Follower(two).visit(box)
    assert copy.confirm()
    seal(box, copy, *signed_after(copy, writer, before))
    return box, [one, two, three_, copy], writer, before + 1


def visit_all(box: Box, followers: list[Follower], times: int = 3) -> None:
    for _ in range(times):
        for follower in followers:
            follower.visit(box)


EVERYTHING = ["a", "b", "c", "x0", "x1", "x2", "y0", "y1", "y2"]


def keys_of(db: Database) -> list[object]:
    return sorted(row[0] for row in rows_of(db))


def test_both_copies_entries_are_everywhere_and_all_names_are_the_same(fork: Fork) -> None:
    box, dbs, writer, seq = fork
    followers = [Follower(db) for db in dbs]
    visit_all(box, followers)

    for follower in followers:
        assert keys_of(follower.db) == EVERYTHING
        (found,) = follower.db.forks()
        assert (found.writer, found.seq, len(found.hashes)) == (writer, seq, 2)
        assert follower.sync.news() is None
        assert (follower.sync.waits, follower.refused, follower.sync.skipped) == (0, 0, 0)
        assert not follower.sync.uploads.lacks_any(follower.db.heads())
    assert_converged(dbs, ["t"])
    assert {db.writer for db in dbs}.isdisjoint({writer})
    last = box.last
    visit_all(box, followers)
    assert box.last == last


def test_what_a_device_that_comes_later_reads_is_all_that_it_needs(fork: Fork, world: World) -> None:
    box, dbs, *_ = fork
    visit_all(box, [Follower(db) for db in dbs])
    put(dbs[1], "z by two")
    put(dbs[3], "z by the copy")
    visit_all(box, [Follower(db) for db in dbs])
    late = Follower(world.join("late", dbs[0]))
    Follower(dbs[0]).visit(box)

    late.visit(box)

    assert keys_of(late.db) == [*EVERYTHING, "z by the copy", "z by two"]
    assert (late.sync.waits, late.refused) == (0, 0)
    visit_all(box, [Follower(db) for db in dbs])
    assert_converged([*dbs, late.db], ["t"])


@pytest.mark.parametrize("seed", range(6))
def test_nothing_of_it_is_missed_in_any_order(fork: Fork, seed: int) -> None:
    box, dbs, *_ = fork
    blobs = list(box.blobs.values())
    random.Random(seed).shuffle(blobs)
    mixed = Box()
    for blob in blobs:
        mixed.append(blob)

    follower = Follower(dbs[2])
    follower.visit(mixed, upload=False)

    assert keys_of(dbs[2]) == EVERYTHING and len(dbs[2].forks()) == 1
    assert follower.sync.waits == 0


def test_the_losing_branch_can_be_read_before_the_entry_that_it_begins_with(fork: Fork) -> None:
    box, dbs, writer, seq = fork
    reader = dbs[2]
    send(dbs[1], reader)
    follower = Follower(reader)
    for at in (seq + 1, seq + 2):
        alone = Box()
        seal(alone, dbs[3], dbs[3].signed_entry(writer, at))
        follower = Follower(reader, saved=follower.sync.dump())
        follower.visit(alone, upload=False)
        assert (follower.refused, follower.sync.waits, follower.sync.resume_index) == (0, 1, 0)

    follower = Follower(reader)
    follower.visit(box, upload=False)

    assert keys_of(reader) == EVERYTHING
    assert follower.sync.waits == 0


def test_what_others_built_on_either_branch_comes_through_a_mailbox(fork: Fork) -> None:
    """Somebody who knows of no fork names an entry that others call otherwise."""
    box, (one, two, three_, copy), *_ = fork
    send(two, one)
    put(one, "on two's")
    send(copy, three_)
    put(three_, "on the copy's")
    leave(box, three_)
    leave(box, one)

    followers = [Follower(db) for db in (one, two, three_, copy)]
    visit_all(box, followers)

    assert keys_of(one) == sorted([*EVERYTHING, "on the copy's", "on two's"])
    assert_converged([one, two, three_, copy], ["t"])
    assert all(follower.sync.waits == 0 for follower in followers)


@pytest.mark.parametrize("is_stopped", [False, True])
@pytest.mark.parametrize("has_kept", [False, True])
def test_a_fork_that_was_learned_elsewhere_is_taken_into_account(
    fork: Fork, world: World, is_stopped: bool, has_kept: bool
) -> None:
    """What was known of the mailbox goes by names that entries do not have any more."""
    _, (one, two, _, copy), writer, seq = fork
    there, other = sorted(
        (two, copy), key=lambda db: entry.split(db.signed_entry(writer, seq)).hash, reverse=not has_kept
    )
    box = Box()
    send(there, one)
    follower = Follower(one)
    follower.visit(box)
    assert not follower.sync.uploads.lacks_any(one.heads())
    saved = follower.sync.dump()
    exchange(one, other)

    if is_stopped:
        follower = Follower(one, saved=saved)
    follower.visit(box)

    assert follower.sync.resume_index == box.last
    assert not follower.sync.uploads.lacks_any(one.heads())
    late = world.join("late", one)
    follower.visit(box)
    Follower(late).visit(box)
    assert keys_of(late) == EVERYTHING and late.forks() == one.forks()


def test_the_first_entry_of_a_losing_branch_is_left_with_its_proof_once(fork: Fork) -> None:
    box, dbs, writer, seq = fork
    follower = Follower(dbs[0])
    follower.visit(box)
    (found,) = dbs[0].forks()

    def proofs() -> list[bytes]:
        left = [contents.read(mailbox_of(dbs[0]).open(blob)) for blob in box.blobs.values()]
        return [
            each
            for entries in left
            if isinstance(entries, list)
            for each in entries
            if len(unpack(each)) == 4
        ]

    (blob,) = proofs()
    first, kept = proof.split(blob)
    assert kept is not None and (first.hash, kept.hash) == (found.hashes[1], found.hashes[0])
    # Whoever has only that learns of the fork, and takes in both.
    alone = Box()
    seal(alone, dbs[0], blob)
    send_until(dbs[0], dbs[2], writer, seq)
    Follower(dbs[2]).visit(alone, upload=False)
    assert dbs[2].forks() == dbs[0].forks()
    assert {"x0", "y0"} <= set(keys_of(dbs[2]))
    visit_all(box, [follower, *(Follower(db) for db in dbs)])
    assert len(proofs()) == 1


def send_until(source: Database, target: Database, writer: bytes, seq: int) -> None:
    """What stands before an entry."""
    entries = source.entries_after(0, {}, 1 << 40).entries
    target.apply([item.signed for item in entries if item.writer == writer and item.seq < seq])


@pytest.mark.parametrize("copies", [2, 5])
def test_many_copies(world: World, copies: int) -> None:
    one, two, three_ = three(world)
    box = Box()
    for db in (one, two, three_):
        Follower(db).visit(box)
    put(two, "c")
    Follower(two).visit(box)
    dbs = [one, two, three_]
    writer, before = two.writer, two.heads()[two.writer].seq
    for number in range(copies):
        copy = copied(world, "two", f"copy{number}")
        dbs.append(copy)
    for number, copy in enumerate(dbs[3:]):
        for step in range(3):
            put(copy, f"copy{number} {step}")
        assert copy.confirm()
    # All first ones, then all second ones: as many of one number as there are copies.
    for step in range(3):
        for copy in dbs[3:]:
            seal(box, copy, copy.signed_entry(writer, before + 1 + step))

    visit_all(box, [Follower(db) for db in dbs])

    assert len(keys_of(one)) == 3 + 3 * copies
    assert len(one.forks()[0].hashes) == copies
    assert_converged(dbs, ["t"])


@given(seed=st.integers(0, 1 << 30))
def test_however_copies_write_and_visit_all_end_alike_with_every_row(seed: int) -> None:
    rng = random.Random(seed)
    with quick_directory() as directory, World(directory) as world:
        dbs = three(world)
        names = ["one", "two", "three"]
        box, followers = Box(), [Follower(db) for db in dbs]
        visit_all(box, followers, 1)
        written: set[object] = {"a", "b"}
        for step in range(rng.randrange(4, 16)):
            at = rng.randrange(len(dbs))
            match rng.choice(
                [
                    "put",
                    "put",
                    "visit",
                    "hostile",
                    "leave",
                    "leave",
                    "copy",
                    "meet",
                    "again",
                    "expire",
                    "lose",
                ]
            ):
                case "put":
                    put(dbs[at], f"k{step}")
                    written.add(f"k{step}")
                case "visit":
                    followers[at].visit(box, patient=rng.random() < 0.3)
                case "hostile":
                    followers[at].visit(box, pages=lambda blobs: hostile(blobs, [], rng))
                case "leave":
                    dbs[at].drain_all()
                    if dbs[at].confirm():
                        own = dbs[at].writer
                        if own in dbs[at].heads():
                            seal(box, dbs[at], *signed_after(dbs[at], own, 0)[-3:])
                case "copy" if len(dbs) < 6:
                    dbs.append(copied(world, names[at], f"copy{step}"))
                    names.append(f"copy{step}")
                    followers.append(Follower(dbs[-1]))
                case "meet":
                    exchange(dbs[at], dbs[rng.randrange(at + 1) - 1])
                case "again":
                    followers[at] = followers[at].again()
                case "expire":
                    box.expire(rng.randrange(1, box.last + 2))
                case "lose":
                    box.lose()
        # What was hidden so well that nothing shows it is found out as soon as its log goes on.
        for turn in ("honest", "all logs go on"):
            for number, db in enumerate(dbs):
                put(db, "last", f"{turn} {number}")
            visit_all(box, followers, 4)
        assert written <= set(keys_of(dbs[0]))
        assert_converged(dbs, ["t"])
        assert len({tuple(db.forks()) for db in dbs}) == 1
        assert all(follower.sync.waits == 0 for follower in followers)
        # Whoever comes now finds all of it.
        late = Follower(world.join("late", dbs[0]))
        followers[0].visit(box)
        late.visit(box)
        followers[0].visit(box)
        assert_converged([dbs[0], late.db], ["t"])


def test_what_rests_on_a_history_that_is_not_known_waits_until_it_is(fork: Fork) -> None:
    box, (_, two, three_, copy), *_ = fork
    reader = fork[1][0]
    send(two, reader)
    send(copy, three_)
    put(three_, "on the copy's")
    first = Box()
    seal(first, three_, three_.signed_entry(three_.writer, three_.heads()[three_.writer].seq))
    follower = Follower(reader)

    follower.visit(first, upload=False)

    assert (follower.sync.waits, follower.sync.skipped, follower.sync.resume_index) == (1, 0, 0)
    attempts = follower.refused
    put(reader, "goes on")
    follower.visit(first, upload=False)
    assert follower.refused == attempts
    for blob in box.blobs.values():
        first.append(blob)
    follower.visit(first, upload=False)
    assert keys_of(reader) == sorted([*EVERYTHING, "goes on", "on the copy's"])
    assert follower.sync.waits == 0


def test_stopping_before_a_fork_was_learned_loses_nothing(fork: Fork) -> None:
    _, (reader, two, _, copy), writer, seq = fork
    send(two, reader)
    box = Box()
    seal(box, copy, copy.signed_entry(writer, seq))
    sync = Follower(reader).sync
    sync.opened(box.life, box.first, box.last)
    sync.receive(1, list(box.blobs.items()), True, reader.heads())
    assert sync.resume_index == 0

    def look() -> None:
        asked = sync.asks(reader.heads())
        assert asked is not None and asked.entries
        sync.answered(asked, reader.relays.places(asked.entries), set(), reader.writer)

    look()
    rival = sync.rival()
    assert rival is not None and not sync.is_done and not sync.may_upload(reader.writer)
    assert sync.resume_index == 0
    # What proves nothing, as the other entry is gone, is looked at once more.
    sync.learned(rival)
    assert sync.rival() is None and not sync.is_done and sync.resume_index == 0
    look()
    assert sync.rival() == rival


# --- what is looked for -------------------------------------------------------------------------------------------


def test_what_others_build_on_is_looked_for_once_and_when_a_log_has_come_that_far() -> None:
    device = bytes(16)
    writer, other = device + b"a" * 8, device + b"b" * 8
    sought = Sought(Forked([proof.Fork(device, writer, 2, (b"1" * 32, b"2" * 32))]))
    wanted = [Named(writer, seq, bytes(8)) for seq in (3, 5)]
    elsewhere = Named(b"e" * 24, 1, bytes(8))
    sought.want([*wanted, elsewhere])
    heads = {writer: Head(3, b"")}

    assert set(sought.asks(heads)) == set(wanted)
    sought.told(wanted, {wanted[0]})
    assert [named in sought for named in (*wanted, elsewhere)] == [True, False, False]
    assert sought.asks(heads) == sought.asks({writer: Head(4, b"")}) == ()
    heads = {writer: Head(4, b""), other: Head(1_000, b"")}
    assert sought.asks(heads) == (wanted[1],)
    sought.told([wanted[1]], set())
    assert sought.asks(heads) == ()
    sought.leave([*wanted, elsewhere])
    assert wanted[0] not in sought
    assert sought.asks({writer: Head(5, b"")}) == ()


def test_what_was_cut_off_a_log_is_looked_for_when_it_comes_back() -> None:
    writer = bytes(24)
    sought = Sought(Forked([proof.Fork(bytes(16), writer, 2, (b"1" * 32, b"2" * 32))]))
    wanted, other = Named(writer, 5, bytes(8)), Named(writer, 9, bytes(8))
    sought.want([other])
    sought.told(sought.asks({writer: Head(6, b"")}), set())
    sought.want([wanted])
    sought.told(sought.asks({}), set())
    assert sought.asks({writer: Head(5, b"")}) == (wanted,)


def test_few_entries_are_asked_for_at_a_time(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    box, (reader, *_), *_ = fork
    monkeypatch.setattr(mailbox_sync, "MAX_ASKED", 2)
    places = reader.relays.places
    asked: list[int] = []

    def counted(entries: Sequence[bytes]) -> list[Place | CrdtlogError]:
        asked.append(len(entries))
        return places(entries)

    monkeypatch.setattr(reader.relays, "places", counted)
    follower = Follower(reader)
    follower.visit(box)
    assert keys_of(reader) == EVERYTHING and max(asked) == 2
    assert not follower.sync.uploads.lacks_any(reader.heads())


def test_little_is_looked_for_at_a_time() -> None:
    device = bytes(16)
    sought = Sought(Forked([proof.Fork(device, bytes(24), 2, (b"1" * 32, b"2" * 32))]))
    wanted = {Named(bytes(24), seq, bytes(8)) for seq in range(1, 3 * MAX_ASKED)}
    sought.want(wanted)
    while asked := sought.asks({}):
        assert len(asked) <= MAX_ASKED
        sought.told(asked, wanted)
    assert all(named in sought for named in wanted)


# --- what members can do ------------------------------------------------------------------------------------------


def test_a_forged_rival_is_passed_over_and_costs_no_attempt(fork: Fork) -> None:
    _, dbs, _, seq = fork
    reader = dbs[0]
    send(dbs[1], reader)
    lying = Box()
    rivals = [forged(beside(dbs[1], b"r%d" % number, at=seq)) for number in range(50)]
    seal(lying, dbs[2], *rivals)
    follower = Follower(reader)

    follower.visit(lying, upload=False)

    assert reader.forks() == [] and follower.learning == follower.refused == 0
    assert (follower.sync.waits, follower.sync.resume_index) == (0, lying.last)
    assert follower.sync.skipped == 50
    follower.visit(lying, upload=False)
    assert keys_of(reader) == [key for key in EVERYTHING if not str(key).startswith("y")]


def test_forged_entries_do_not_take_the_place_of_a_true_one(fork: Fork) -> None:
    """They continue a history of a log that is not there, and nothing else tells that they are not true."""
    _, (_, liar, reader, author), writer, seq = fork
    send_until(author, reader, writer, seq)
    lying = Box()
    for number in range(10):
        item = entry.decode(entry.split(author.signed_entry(writer, seq)).body)
        body = entry.encode(replace(item, previous=bytes([number]) * 32))
        seal(lying, liar, pack([body, bytes(64)]))
    follower = Follower(reader)
    follower.visit(lying, upload=False)
    seal(lying, liar, *signed_after(author, writer, seq - 1))

    follower.visit(lying, upload=False)

    assert {"y0", "y1", "y2"} <= set(keys_of(reader))
    assert (follower.sync.waits, follower.sync.resume_index) == (0, lying.last)


@pytest.mark.parametrize("what", ["nothing before it", "what it builds on is unknown", "forged proof"])
def test_a_rival_that_cannot_be_taken_in_stops_nothing(fork: Fork, what: str) -> None:
    _, dbs, writer, seq = fork
    reader = dbs[0]
    send(dbs[1], reader)
    unknown = Named(dbs[2].writer, 1_000, bytes(8))
    honest, other = beside(dbs[1], b"r", at=seq), beside(dbs[1], b"s", at=seq)
    rival = {
        "nothing before it": signed_after(dbs[3], writer, seq)[0],
        "what it builds on is unknown": beside(dbs[1], b"r", at=seq, context=(unknown,)),
        "forged proof": pack([*unpack(honest), *unpack(forged(other))]),
    }[what]
    lying = Box()
    seal(lying, dbs[2], rival)
    follower = Follower(reader)
    follower.visit(lying, upload=False)
    put(reader, "goes on")

    for db in (reader, dbs[2]):
        Follower(db).visit(lying)

    assert len(reader.forks()) == (what == "what it builds on is unknown")
    assert follower.sync.waits == (what != "forged proof")
    assert "goes on" in keys_of(dbs[2])
    assert reader.verify().ok


def test_a_member_that_forks_again_and_again_is_told_of_with_what_to_do(fork: Fork) -> None:
    box, dbs, *_ = fork
    reader = dbs[0]
    Follower(reader).visit(box, upload=False)
    liar = dbs[2]
    Follower(liar).visit(box)
    rivals = [beside(liar, b"r%d" % number) for number in range(MAX_FORKS + 40)]
    for rival in rivals:
        seal(box, liar, rival)
    follower = Follower(reader)

    follower.visit(box)

    forks = [each for each in reader.forks() if each.device == liar.device.id]
    assert sum(len(each.hashes) - 1 for each in forks) == MAX_FORKS
    news = follower.sync.news()
    assert news is not None and "again and again" in news and "crdtlog remove" in news
    assert follower.learning <= MAX_FORKS + 1
    put(reader, "goes on")
    follower.visit(box)
    Follower(dbs[1]).visit(box)
    assert "goes on" in keys_of(dbs[1])


def test_room_for_rivals_is_bounded(world: World) -> None:
    one, two = pair(world, "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT, n INTEGER)")
    waiting = candidates.Waiting()
    for number in range(100):
        signed = beside(one, b"r%d" % number, at=3)
        waiting.add(candidates.candidate(signed, one.id, number + 1))
    assert len(waiting.of(one.writer)) == candidates.MAX_RIVALS
    assert waiting.first_index() == 1
    assert two.id == one.id
