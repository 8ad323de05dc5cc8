"""What a relay, or somebody who holds the epoch's secret, can do to those who read a mailbox: not much."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import entry
from crdtlog.database import Database
from crdtlog.errors import Malformed
from crdtlog.values import unpack
from crdtlog.versions import Head
from peers.mailbox import candidates, contents, keys
from peers.mailbox.candidates import candidate
from peers.mailbox.holding import Holding
from peers.mailbox.sync import MailboxSync
from tests.crdtlog.devices import World, assert_converged, pair, quick_directory, rows_of
from tests.crdtlog.forked import copied, exchange
from tests.peers.mailbox_world import Box, Follower, Page, mailbox_of
from tests.peers.test_mailbox import put, three

HEX = st.integers(0, 1 << 30)


@pytest.fixture
def world() -> Iterator[World]:
    with quick_directory() as directory, World(directory) as world:
        yield world


def seal(db: Database, content: bytes) -> bytes:
    return mailbox_of(db).seal(content, os.urandom(16))


def hostile(blobs: Page, others: Page, rng: random.Random) -> list[Page]:
    """What a hostile relay makes of some blobs: other orders, repeats, gaps, damage, blobs of other mailboxes."""
    pages: list[Page] = []
    for _ in range(rng.randrange(1, 4)):
        shown = [blob for _, blob in blobs if rng.random() < 0.8]
        shown += [blob for _, blob in rng.sample(others, min(2, len(others))) if rng.random() < 0.5]
        shown += [_damaged(blob, rng) for _, blob in blobs if rng.random() < 0.2]
        shown += [blob for _, blob in blobs if rng.random() < 0.3]
        rng.shuffle(shown)
        start = rng.randrange(1, 50)
        pages.append([(start + number, blob) for number, blob in enumerate(shown)])
    return pages


def _damaged(blob: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(blob))
    return blob[:at] + bytes((blob[at] ^ (1 << rng.randrange(8)),)) + blob[at + 1 :]


@given(seed=HEX)
def test_whatever_a_relay_does_no_wrong_rows_come_and_all_converge_once_it_behaves(seed: int) -> None:
    rng = random.Random(seed)
    with quick_directory() as directory, World(directory) as world:
        dbs = three(world)
        others = [(n, os.urandom(256)) for n in range(3)]
        box, followers = Box(), [Follower(db) for db in dbs]
        for step in range(4):
            number = rng.randrange(3)
            put(dbs[number], f"k{step}", f"{number}")
            followers[number].visit(box, pages=lambda blobs: hostile(blobs, others, rng))
            if rng.random() < 0.3:
                followers[number] = followers[number].again()
            if rng.random() < 0.2:
                box.lose()
        allowed = {row for db in dbs for row in rows_of(db)}
        # What was hidden so well that nothing shows it is found out as soon as its log goes on.
        for turn in ("honest", "all logs go on"):
            for db in dbs:
                put(db, "last", f"{turn} {db.device.name}")
                allowed |= set(rows_of(db))
            for _ in range(3):
                for follower in followers:
                    follower.visit(box)

        assert set(rows_of(dbs[0])) <= allowed
        assert_converged(dbs, ["t"])


def test_a_blob_of_another_mailbox_does_not_open(world: World) -> None:
    one, two, _ = three(world)
    box, elsewhere = Box(), Box()
    Follower(one).visit(box)
    other = keys.epoch_mailbox(os.urandom(32), one.epoch, one.epochs()[one.epoch])
    elsewhere.append(other.seal(contents.of_entries([b"x"]), os.urandom(16)))
    follower = Follower(two)

    follower.visit(elsewhere, upload=False)

    assert follower.sync.skipped == 1
    assert follower.sync.waits == 0


def test_what_cannot_be_accepted_is_passed_over_and_told_once(world: World) -> None:
    one, two, _ = three(world)
    box = Box()
    signed = entry.split(one.entries_after(0, {}, 1 << 30).entries[0].signed)
    forged = entry.Signed(signed.body, bytes(64), signed.hash).bytes()
    for content in (b"", b"\x03", contents.of_entries([b"nonsense"]), contents.of_entries([forged, forged])):
        box.append(seal(one, content))
    Follower(one).visit(box)
    follower = Follower(two)

    follower.visit(box)

    assert rows_of(two) == rows_of(one)
    assert follower.refused == 1
    assert follower.sync.news() is not None
    assert follower.sync.news() is None
    assert follower.sync.resume_index == follower.sync.read


def test_a_forged_entry_does_not_keep_the_true_one_from_being_uploaded(world: World) -> None:
    one, two, three_ = three(world)
    box = Box()
    for item in one.entries_after(0, {}, 1 << 30).entries:
        signed = entry.split(item.signed)
        box.append(seal(one, contents.of_entries([entry.Signed(signed.body, bytes(64), b"").bytes()])))
    Follower(two).visit(box, upload=False)
    lying = box.last

    follower = Follower(one)
    follower.visit(box)
    Follower(three_).visit(box)

    assert lying > 0
    assert rows_of(three_) == rows_of(one)


def test_entries_that_wait_are_bounded_and_what_had_no_room_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "MAX_WAITING", 3)
    one, two, _ = three(world)
    for number in range(12):
        put(one, f"n{number}")
    box, backwards = Box(), Box()
    items = one.entries_after(0, {}, 1 << 30).entries
    for item in reversed(items):
        backwards.append(seal(one, contents.of_entries([item.signed])))
    follower = Follower(two)

    follower.visit(backwards, upload=False)

    assert rows_of(two) == rows_of(one)
    assert follower.sync.resume_index == backwards.last
    assert not box.blobs


def test_stopping_while_entries_wait_loses_none(world: World) -> None:
    one, two, _ = three(world)
    items = one.entries_after(0, {}, 1 << 30).entries
    blobs = [seal(one, contents.of_entries([item.signed])) for item in items]
    box = Box()
    for blob in blobs[1:]:
        box.append(blob)
    follower = Follower(two)
    follower.visit(box, upload=False)
    assert rows_of_or_none(two) == []
    follower = follower.again()
    box.append(blobs[0])

    follower.visit(box, upload=False)

    assert rows_of(two) == rows_of(one)


def rows_of_or_none(db: Database) -> list[object]:
    return list(rows_of(db)) if db.tables() else []


# --- pieces -------------------------------------------------------------------------------------------------------


def test_an_entry_in_pieces_is_whole_in_any_order() -> None:
    data = os.urandom(1_000)
    parts = [contents.read(part) for part in contents.cut(data, bytes(16), 256)]
    random.Random(1).shuffle(parts)
    pieces = contents.Pieces()

    found = [pieces.add(7 + n, part) for n, part in enumerate(parts) if isinstance(part, contents.Piece)]

    assert found[:-1] == [None] * (len(parts) - 1)
    assert found[-1] == (7, data)
    assert pieces.first_index() is None


def test_pieces_that_never_become_whole_are_bounded_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_PARTIAL_BYTES", 10_000)
    monkeypatch.setattr(contents, "MAX_PARTIAL", 5)
    pieces = contents.Pieces()
    for number in range(20):
        pieces.add(number + 1, contents.Piece(number.to_bytes(16, "big"), 0, 2, bytes(10)))
    assert (pieces.dropped, pieces.first_index()) == (15, 16)

    pieces.add(21, contents.Piece(bytes(16), 0, 2, bytes(20_000)))
    assert (pieces.dropped, pieces.first_index()) == (21, None)

    pieces.add(22, contents.Piece(bytes(16), 0, 2, b"x"))
    pieces.pass_over(22 + contents.STALE_BLOBS)
    assert pieces.first_index() == 22
    pieces.pass_over(23 + contents.STALE_BLOBS)
    assert pieces.first_index() is None


def test_pieces_that_contradict_one_another_are_dropped() -> None:
    pieces = contents.Pieces()
    for first, second in [((0, 2, b"a"), (1, 3, b"b")), ((0, 2, b"a"), (0, 2, b"b"))]:
        pieces.add(1, contents.Piece(bytes(16), *first))
        assert pieces.add(2, contents.Piece(bytes(16), *second)) is None
        assert pieces.first_index() is None
    assert pieces.dropped == 2


# --- what is known to be there ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 100)), max_size=60), st.integers(1, 100))
def test_a_holding_never_claims_what_was_not_noted_or_is_lost(
    notes: list[tuple[int, int]], first: int
) -> None:
    writer, holding = bytes(24), Holding()
    for seq, index in notes:
        holding.note(writer, seq, index)
    assert {seq for seq in range(1, 32) if holding.has(writer, seq)} == {seq for seq, _ in notes}
    assert Holding.load(holding.dump()).dump() == holding.dump()

    holding.lose_before(first)

    kept = {seq for seq in range(1, 32) if holding.has(writer, seq)}
    at = {}
    for seq, index in notes:
        at.setdefault(seq, index)
    assert kept <= {seq for seq, index in at.items() if index >= first}
    reach = holding.vector().get(writer, 0)
    assert set(range(1, reach + 1)) <= kept
    assert reach + 1 not in kept


@pytest.mark.parametrize(
    "dumped", [None, [1], [[b"x", []]], [[bytes(24), [[1]]]], [[bytes(24), [[2, 1, 1]]]]]
)
def test_what_is_no_holding_is_malformed(dumped: object) -> None:
    with pytest.raises(Malformed):
        Holding.load(dumped)


def test_a_damaged_state_leads_to_reading_again() -> None:
    mailbox = keys.epoch_mailbox(bytes(32), bytes(16), bytes(32))
    for saved in (b"", b"\xc1", b"\x90", b"\x94\x01\x02\x03\x04"):
        sync = MailboxSync(mailbox, database=bytes(32), sign_key=bytes(32), random=os.urandom, saved=saved)
        assert sync.read == 0
        assert sync.uploads.lacks_any({bytes(24): Head(1, b"")})


def test_an_entry_that_brings_the_proof_of_a_fork_is_read_as_the_entry(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        one, two = pair(world, "CREATE TABLE t (id TEXT PRIMARY KEY)")
        copy = copied(world, "one", "copy")
        for db, key in ((one, "x"), (copy, "y")):
            db.execute("INSERT INTO t VALUES (?)", (key,))
            exchange(db, two)
        (blob,) = [
            item.signed for item in two.entries_after(0, {}, 1 << 40).entries if len(unpack(item.signed)) == 4
        ]
        (fork,) = two.forks()
        assert candidate(blob, two.id, 1).dot == (fork.writer, fork.seq)
