"""A mailbox as devices use it: what one leaves, the others find, also after the relay has lost some of it."""

import contextlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crdtlog
from crdtlog.database import Database
from crdtlog.device import Device, device_from_secrets
from crdtlog.errors import EntryRefused, Malformed
from peers.mailbox import contents, keys, uploads
from peers.mailbox.uploads import Due
from peers.node import meeting
from peers.relay.messages import SIZES
from tests.crdtlog.devices import World, assert_converged, quick_directory, rows_of, send
from tests.peers.mailbox_world import Box, Follower, mailbox_of

SCHEMA = ["CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT, n INTEGER)"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def put(db: Database, key: str, value: str = "v") -> None:
    db.execute("INSERT OR REPLACE INTO t VALUES (?, ?, 0)", (key, value))
    db.drain_all()


def three(world: World) -> list[Database]:
    """A founder with two rows, and two devices that it has added and that hold nothing."""
    founder = world.found("one", SCHEMA)
    put(founder, "a")
    put(founder, "b")
    return [founder, world.join("two", founder), world.join("three", founder)]


def test_a_new_device_is_brought_up_wholly_from_a_mailbox(world: World) -> None:
    one, two, three_ = three(world)
    box = Box()

    for db in (one, two, three_, one, two):
        Follower(db).visit(box)

    assert rows_of(two) == rows_of(three_) == [("a", "v", 0), ("b", "v", 0)]
    assert_converged([one, two, three_], ["t"])
    assert all(len(blob) in SIZES for blob in box.blobs.values())


def test_what_was_read_is_not_read_again_in_another_run(world: World) -> None:
    one, two, _ = three(world)
    box = Box()
    Follower(one).visit(box)
    follower = Follower(two)
    follower.visit(box)
    before = follower.sync.read

    again = follower.again()
    again.sync.opened(box.life, box.first, box.last)

    assert again.sync.read == before == box.last
    assert not again.sync.uploads.lacks_any(two.heads())


def test_own_entries_leave_at_once_and_others_after_a_while(world: World) -> None:
    one, two, _ = three(world)
    send(one, two)
    put(two, "own")
    box = Box()
    follower = Follower(two)
    follower.visit(box, upload=False)
    of = follower.sync.uploads

    # What the own entry builds on is not there, so it waits for that.
    assert of.due(two.heads(), two.writer, 100.0) is Due.OWN
    assert follower.upload(box, Due.OWN) == 0
    assert of.due(two.heads(), two.writer, 100.0) is None
    assert of.wake_at is not None
    assert 100.0 + uploads.GRACE_S <= of.wake_at <= 100.0 + uploads.GRACE_S + uploads.GRACE_JITTER_S
    assert of.due(two.heads(), two.writer, of.wake_at) is Due.ALL
    assert follower.upload(box, Due.ALL) > 0

    put(two, "own 2")
    assert of.due(two.heads(), two.writer, 200.0) is Due.OWN
    assert follower.upload(box, Due.OWN) == 1
    assert of.due(two.heads(), two.writer, 200.0) is None


def test_what_another_device_uploads_meanwhile_is_not_uploaded_again(world: World) -> None:
    one, two, _ = three(world)
    send(one, two)
    box = Box()
    follower = Follower(two)
    follower.visit(box, upload=False)
    assert follower.sync.uploads.due(two.heads(), two.writer, 100.0) is None

    Follower(one).visit(box)
    follower.read(box)

    assert follower.upload(box, Due.ALL) == 0
    assert follower.sync.uploads.due(two.heads(), two.writer, 1000.0) is None


def test_a_device_that_was_only_ever_near_another_gets_everything_to_all(world: World) -> None:
    one, two, three_ = three(world)
    send(one, two)
    put(two, "near")
    send(two, one)  # `two` never sees the mailbox
    box = Box()

    Follower(one).visit(box)
    Follower(three_).visit(box)

    assert ("near", "v", 0) in rows_of(three_)


def test_a_relay_that_lost_everything_gets_it_again_in_an_order_that_can_be_applied(world: World) -> None:
    one, two, three_ = three(world)
    box = Box()
    followers = [Follower(one), Follower(two)]
    for follower in followers:
        follower.visit(box)
    put(two, "later")
    followers[1].visit(box)
    box.lose()

    assert followers[0].sync.opened(box.life, box.first, box.last)
    followers[0].visit(box)
    followers[1].visit(box)
    newcomer = Follower(three_)
    newcomer.visit(box)

    assert ("later", "v", 0) in rows_of(three_)
    assert newcomer.sync.waits == 0


def test_a_relay_that_begins_anew_with_as_many_blobs_is_noticed_by_its_life(world: World) -> None:
    one, two, _ = three(world)
    box = Box()
    follower = Follower(one)
    follower.visit(box)
    count = box.last
    box.lose()
    while box.last < count + 3:
        box.append(os.urandom(256))

    follower.visit(box)
    Follower(two).visit(box)

    assert rows_of(two) == rows_of(one)
    assert follower.sync.skipped == count + 3


def test_what_has_expired_is_uploaded_again(world: World) -> None:
    one, two, three_ = three(world)
    box = Box()
    followers = [Follower(one), Follower(two)]
    for number in range(3):
        put(one, f"n{number}")
        followers[0].visit(box)
    box.expire(box.last)

    followers[0].visit(box)
    newcomer = Follower(three_)
    newcomer.visit(box)

    assert rows_of(three_) == rows_of(one)
    assert newcomer.sync.waits == 0


def test_small_entries_share_a_blob_and_large_ones_are_cut(world: World) -> None:
    one, two, _ = three(world)
    for number in range(30):
        put(one, f"n{number}")
    one.execute("INSERT INTO t VALUES ('large', ?, 0)", (os.urandom(3_500_000).hex(),))
    box = Box()

    Follower(one, largest=1 << 18).visit(box)
    Follower(two).visit(box)

    assert rows_of(two) == rows_of(one)
    assert max(map(len, box.blobs.values())) == 1 << 18
    assert 14 < box.last < 32


def test_a_restored_file_reads_again_and_begins_a_new_log(world: World) -> None:
    one, two, _ = three(world)
    box = Box()
    Follower(one).visit(box)
    Follower(two).visit(box)
    backup = world.directory / "backup"
    world.open["two"].execute("VACUUM INTO ?", (str(backup),))
    put(two, "lost")
    follower = Follower(two)
    follower.visit(box)
    saved = follower.sync.dump()
    old = two.writer
    two.close()
    # The home is restored with the file, so nothing here tells that the log went on.
    for mark in (world.home("two").state / "marks").rglob("*"):
        if mark.is_file():
            mark.unlink()
    for suffix in ("-wal", "-shm"):
        Path(f"{two.path}{suffix}").unlink(missing_ok=True)
    backup.replace(two.path)
    restored = world.open["two"] = crdtlog.open(two.path, home=world.home("two"), create=False)
    assert restored.writer == old
    put(restored, "new")

    again = Follower(restored)
    again.visit(box)
    Follower(one).visit(box)

    assert restored.writer != old
    assert saved
    assert {"lost", "new"} <= {row[0] for row in rows_of(restored)}
    assert {"lost", "new"} <= {row[0] for row in rows_of(one)}


def test_all_members_of_an_epoch_and_nobody_else_find_its_mailbox(world: World) -> None:
    one, two, _ = three(world)

    assert mailbox_of(one).id == mailbox_of(two).id
    other = keys.epoch_mailbox(bytes(32), one.epoch, one.epochs()[one.epoch])
    assert other.id != mailbox_of(one).id
    with pytest.raises(EntryRefused):
        other.open(mailbox_of(one).seal(b"\x01", bytes(16)))


def test_two_devices_agree_on_a_mailbox_of_their_own() -> None:
    laptop = device_from_secrets("laptop", bytes(32), b"\x01" * 32)
    phone = device_from_secrets("phone", b"\x02" * 32, b"\x03" * 32)
    tablet = device_from_secrets("tablet", b"\x04" * 32, b"\x05" * 32)

    def of(own: Device, other: Device) -> keys.Mailbox:
        return keys.pairwise_mailbox(bytes(32), own, other.id, other.public.receive_key)

    assert of(laptop, phone).id == of(phone, laptop).id
    assert of(laptop, phone).id != of(laptop, tablet).id
    assert of(phone, laptop).open(of(laptop, phone).seal(b"x", bytes(16))) == b"x"
    with pytest.raises(Malformed):
        keys.pairwise_mailbox(bytes(32), laptop, phone.id, bytes(32))


def test_an_entry_by_somebody_who_is_let_in_later_waits_for_that(world: World) -> None:
    one, two, _ = three(world)
    box = Box()
    Follower(two).visit(box)
    send(one, two)
    four = world.join("four", one)
    four.execute("CREATE TABLE IF NOT EXISTS t (id TEXT PRIMARY KEY, v TEXT, n INTEGER)")
    send(two, four)
    put(four, "by a stranger")
    # `two` reads what the newcomer wrote before it hears of the newcomer.
    records = [
        item.signed for item in four.entries_after(0, {}, 1 << 30).entries if item.writer == four.writer
    ]
    box.append(mailbox_of(one).seal(contents.of_entries(records), bytes(16)))
    follower = Follower(two)
    follower.visit(box)
    assert follower.sync.waits > 0
    assert ("by a stranger", "v", 0) not in rows_of(two)

    send(one, two)
    follower.settle()

    assert ("by a stranger", "v", 0) in rows_of(two)
    assert follower.sync.waits == 0


@given(seed=st.integers(0, 1 << 30))
def test_however_devices_visit_and_whatever_is_lost_a_mailbox_can_be_read_from_its_beginning(
    seed: int,
) -> None:
    rng = random.Random(seed)
    with quick_directory() as directory, World(directory) as world:
        dbs = three(world)
        box, followers = Box(), [Follower(db) for db in dbs]
        for step in range(rng.randrange(1, 12)):
            number, other = rng.randrange(3), rng.randrange(3)
            match rng.choice(["put", "visit", "visit", "patient", "near", "again", "lose", "expire"]):
                case "put" if dbs[number].tables():
                    put(dbs[number], f"k{step}")
                case "visit":
                    followers[number].visit(box)
                case "patient":
                    followers[number].visit(box, patient=True)
                case "near" if number != other:
                    with contextlib.suppress(
                        EntryRefused
                    ):  # one may not have heard yet that the other was let in
                        send(dbs[number], dbs[other])
                case "again":
                    followers[number] = followers[number].again()
                case "lose":
                    box.lose()
                case "expire":
                    box.expire(rng.randrange(1, box.last + 2))
        for follower in [*followers, *followers]:
            follower.visit(box)

        # Whoever reads it all now, with what any of them holds to apply it to, gets everything.
        reader = Follower(world.join("reader", dbs[0]))
        followers[0].visit(box)
        reader.visit(box)
        assert reader.sync.waits == 0
        for follower in [*followers, *followers]:
            follower.visit(box)
        assert_converged([*dbs, reader.db], ["t"])


# --- what is kept for ever ----------------------------------------------------------------------------------------


def test_mailboxes_and_blobs_are_those_of_the_vectors() -> None:
    """A device of any version finds the mailbox, and opens what is there."""
    recorded = json.loads((Path(__file__).resolve().parents[1] / "vectors" / "mailbox.json").read_text())
    database, epoch, secret = (bytes.fromhex(recorded[name]) for name in ("database", "epoch", "secret"))
    mailbox = keys.epoch_mailbox(database, epoch, secret)
    laptop = device_from_secrets("laptop", bytes(32), b"\x01" * 32)
    phone = device_from_secrets("phone", b"\x02" * 32, b"\x03" * 32)
    pair = keys.pairwise_mailbox(database, laptop, phone.id, phone.public.receive_key)

    assert mailbox.id.hex() == recorded["mailbox"]
    assert (pair.id.hex(), pair.epoch.hex()) == (recorded["pairwise_mailbox"], recorded["pairwise_epoch"])
    for each in recorded["blobs"]:
        content = bytes.fromhex(each["content"])
        assert mailbox.seal(content, bytes.fromhex(each["salt"])).hex() == each["blob"]
        assert mailbox.open(bytes.fromhex(each["blob"])) == content
        found = contents.read(content)
        assert (
            [entry.hex() for entry in found] == each["entries"]
            if isinstance(found, list)
            else not each["entries"]
        )
    assert meeting.channel_of(417).hex() == recorded["channel_417"]
