"""What a file remembers of relays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtlog import entry
from crdtlog.database import Database
from crdtlog.forks import Stand
from crdtlog.proof import branch_name
from crdtlog.values import pack, unpack
from crdtlog.versions import Named
from tests.crdtlog.devices import World, pair, send, sync
from tests.crdtlog.forked import copied

SCHEMA = "CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT)"
ONE, TWO = "wss://one.example", "wss://two.example#token=secret"
MAILBOX = bytes(32)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def test_a_file_remembers_its_relays_and_how_far_they_were_read(world: World) -> None:
    db = world.found("one", [SCHEMA])
    assert db.relays.urls() == []
    db.relays.forget(ONE)
    db.relays.add(TWO)
    db.relays.add(ONE)
    db.relays.add(TWO)
    assert sorted(db.relays.urls()) == [ONE, TWO]
    assert db.relays.mailbox(ONE, MAILBOX) is None
    db.relays.save(ONE, MAILBOX, b"first")
    db.relays.save(ONE, MAILBOX, b"second")

    again = world.reopen("one")

    assert again.relays.mailbox(ONE, MAILBOX) == b"second"
    assert again.relays.mailbox(TWO, MAILBOX) is None
    again.relays.forget(ONE)
    again.relays.save(ONE, MAILBOX, b"late")
    assert again.relays.urls() == [TWO]
    assert again.relays.mailbox(ONE, MAILBOX) is None


def test_a_file_that_never_used_a_relay_has_no_tables_for_it(world: World) -> None:
    db = world.found("one", [SCHEMA])
    sql = "SELECT count(*) FROM sqlite_master WHERE name IN ('crdtlog__relay', 'crdtlog__mailbox')"

    assert db.execute(sql).fetchone() == (0,)
    db.relays.add(ONE)
    assert db.execute(sql).fetchone() == (2,)
    assert db.verify().ok


def test_a_device_is_admitted_once_the_record_that_adds_it_is_applied(world: World) -> None:
    founder = world.found("one", [SCHEMA])
    assert founder.relays.is_admitted()
    joiner = world.join("two", founder)
    assert not joiner.relays.is_admitted()

    send(founder, joiner)

    assert joiner.relays.is_admitted()


def test_what_a_device_had_when_it_last_wrote_is_known_from_its_log(world: World) -> None:
    one, other = pair(world, SCHEMA)
    one.execute("INSERT INTO t VALUES ('a', '')")
    sync(one, other)
    other.execute("INSERT INTO t VALUES ('b', '')")
    sync(one, other)
    one.execute("INSERT INTO t VALUES ('c', '')")
    one.drain_all()

    seen = one.relays.seen()

    assert seen[other.device.id] == {
        one.writer: one.heads()[one.writer].seq - 1,
        other.writer: one.heads()[other.writer].seq,
    }
    assert seen[one.device.id] == {writer: head.seq for writer, head in one.heads().items()}


# --- what is asked of the log for mailboxes -----------------------------------------------------------------------


@pytest.fixture
def forked(world: World) -> tuple[Database, bytes, list[bytes], list[bytes]]:
    """A device; the log of another one that was copied, and what either copy wrote behind what the device has of it:
    their first entries, the one that is to keep the name first, and their second ones.
    """
    one, two = pair(world, SCHEMA)
    sync(one, two)
    copies = [one, copied(world, "one", "copy")]
    writer, seq = one.writer, one.heads()[one.writer].seq
    for number in range(2):
        for place, db in enumerate(copies):
            db.execute("INSERT INTO t VALUES (?, '')", (f"{place} {number}",))
            db.drain_all()
    copies.sort(key=lambda db: entry.split(db.signed_entry(writer, seq + 1)).hash)
    firsts, seconds = ([db.signed_entry(writer, seq + n) for db in copies] for n in (1, 2))
    return two, writer, firsts, seconds


Forked = tuple[Database, bytes, list[bytes], list[bytes]]


def stands(db: Database, entries: list[bytes]) -> list[Stand | str]:
    return [
        str(found) if isinstance(found, Exception) else found.stand for found in db.relays.places(entries)
    ]


def test_where_an_entry_stands_beside_those_that_are_held(forked: Forked) -> None:
    db, writer, firsts, seconds = forked
    HELD, NEXT, BESIDE, APART = Stand.HELD, Stand.NEXT, Stand.BESIDE, Stand.APART
    assert stands(db, firsts + seconds) == [NEXT, NEXT, APART, APART]
    db.apply([firsts[1]])
    assert stands(db, firsts + seconds) == [BESIDE, HELD, APART, NEXT]
    db.learn_fork(firsts[0])
    assert stands(db, firsts + seconds) == [NEXT, HELD, APART, NEXT]
    db.apply([*firsts, *seconds])
    assert stands(db, firsts + seconds) == [HELD] * 4
    (fork,) = db.forks()
    logs = [db.relays.place(each).log for each in seconds]
    assert logs == [writer, branch_name(writer, fork.hashes[1])]
    assert db.heads()[logs[1]].hash == entry.split(seconds[1]).hash


def test_looking_where_an_entry_stands_changes_nothing(forked: Forked) -> None:
    db, _, firsts, seconds = forked
    db.apply([firsts[1]])
    before = db.verify(), db.heads(), db.forks()
    stands(db, firsts + seconds)
    assert (db.verify(), db.heads(), db.forks()) == before


def test_an_entry_is_whole_if_it_is_as_this_device_would_send_it(forked: Forked) -> None:
    db, _, firsts, _ = forked
    db.apply(firsts)
    (proven,) = [
        each.signed for each in db.entries_after(0, {}, 1 << 30).entries if len(unpack(each.signed)) == 4
    ]
    assert [db.relays.place(each).is_whole for each in (*firsts, proven)] == [True, False, True]


def test_an_entry_with_another_signature_has_no_place(forked: Forked) -> None:
    db, _, firsts, _ = forked
    db.apply([firsts[0]])
    spoilt = [pack([entry.split(each).body, bytes(64)]) for each in firsts]
    held, beside = stands(db, spoilt)
    assert isinstance(held, str) and "not the one that is held" in held
    assert isinstance(beside, str) and "wrong signature" in beside


def test_entries_are_found_by_their_hashes_whatever_their_logs_are_called(forked: Forked) -> None:
    db, writer, firsts, seconds = forked
    db.apply([*firsts, *seconds])
    seq = db.heads()[writer].seq
    named = [Named(writer, seq, entry.split(each).hash[:8]) for each in seconds]
    named += [Named(writer, seq - 1, named[0].hash8), Named(bytes(24), 1, bytes(8))]
    assert db.relays.held(named) == set(named[:2])
