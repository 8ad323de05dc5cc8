"""What a file remembers of relays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crdtlog.devices import World, pair, send, sync

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


def test_the_digest_of_an_entry_covers_its_signature(world: World) -> None:
    db = world.found("one", [SCHEMA])
    head = db.heads()[db.writer]

    assert db.relays.digest_of(db.writer, head.seq) not in (None, head.hash)
    assert db.relays.digest_of(db.writer, head.seq + 1) is None
    assert db.relays.digest_of(bytes(24), 1) is None
