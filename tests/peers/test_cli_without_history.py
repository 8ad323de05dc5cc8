"""Letting a device in without history, with real devices, daemons and relays."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crdtlog import entry
from peers.mailbox import contents
from peers.mailbox.keys import epoch_mailbox
from peers.relay.client import Client, RelayUrl
from tests.peers.cli_devices import CODE, NOTES, Machine, eventually
from tests.peers.cli_world import TIMEOUT_S, finished
from tests.peers.relay_load import Process

SECRET = "the combination is 1234"


@pytest.fixture
def laptop(machine: Callable[[str], Machine]) -> Machine:
    """A laptop with two notes, of which one said something else before, and one that was deleted."""
    made = machine("laptop")
    made.write(NOTES)
    made.run("init", "notes.db", "--device", "laptop", "--no-recovery")
    made.write(
        f"UPDATE notes SET title = '{SECRET}'; INSERT INTO notes (id, title) VALUES ('gone', '{SECRET}')"
    )
    made.run("status", "notes.db")
    made.write("UPDATE notes SET title = 'forget it'; DELETE FROM notes WHERE id = 'gone'")
    made.run("status", "notes.db")
    return made


def let_in(laptop: Machine, other: Machine, *options: str) -> str:
    """Pair without history; what `pair` said."""
    pairing = laptop.start("pair", "notes.db", "--yes", "--role", "writer", "--no-history", *options)
    assert pairing.stdout is not None
    code = pairing.stdout.readline().rstrip("\n")
    assert CODE.fullmatch(code), pairing.communicate(timeout=TIMEOUT_S)
    other.run("join", code, "notes.db", "--device", other.name, "--peer", laptop.address)
    done = finished(pairing)
    assert done.code == 0 and done.out == "", done
    return done.err


def let_in_by_relay(laptop: Machine, other: Machine, at: str, *options: str) -> None:
    """Pair, the two meeting at a relay alone."""
    pairing, code = laptop.pair("--yes", "--role", "writer", "--relay", at, *options)
    joined = other.json("join", code, "notes.db", "--device", other.name, "--relay", at)["joined"]
    done = finished(pairing)
    assert (done.code, joined["complete"], joined["why"]) == (0, True, None), done


def is_in_file(machine: Machine, text: str) -> bool:
    """Whether a text is in the bytes of a file, its log unpacked."""
    import crdtlog

    with crdtlog.open(machine.file, home=machine.home, create=False) as db:
        dots = db.query("SELECT writer, seq FROM crdtlog__log WHERE kind = 'data'")[1]
        unpacked = "".join(repr(db._state.log.sections(*dot)) for dot in dots)
    wal = machine.file.with_name(machine.file.name + "-wal")
    raw = machine.file.read_bytes() + (wal.read_bytes() if wal.exists() else b"")
    return text.encode() in raw or text in unpacked


@pytest.mark.parametrize("with_daemon", [True, False], ids=["daemon", "alone"])
def test_a_device_without_history_gets_what_stands(
    laptop: Machine, machine: Callable[[str], Machine], with_daemon: bool
) -> None:
    if with_daemon:
        laptop.up()
    guest = machine("guest")

    said = let_in(laptop, guest)

    assert "guest wants to join without history. Its fingerprint is" in said
    assert guest.rows() == laptop.rows() != []
    assert is_in_file(laptop, SECRET) and not is_in_file(guest, SECRET)
    verified = guest.json("verify", "notes.db")
    assert verified["ok"] and verified["given"] > 0
    assert verified["state"] == laptop.json("verify", "notes.db")["state"]
    assert {item["name"]: item["history"] for item in laptop.json("devices", "notes.db")["devices"]} == {
        "laptop": True,
        "guest": False,
    }
    assert "writer, no history" in laptop.run("devices", "notes.db")[0]


def test_daemons_go_on_from_there(laptop: Machine, machine: Callable[[str], Machine]) -> None:
    laptop.up()
    guest = machine("guest")
    let_in(laptop, guest)
    guest.up(laptop)
    guest.write("INSERT INTO notes (id, title) VALUES ('new', 'from the guest')")
    eventually(lambda: laptop.rows() == guest.rows(), "the laptop has the guest's row")
    laptop.write("UPDATE notes SET title = title || '!'")
    eventually(lambda: guest.rows() == laptop.rows(), "the guest has the laptop's change")


def test_what_goes_along_is_told_and_why(laptop: Machine, machine: Callable[[str], Machine]) -> None:
    laptop.up()
    phone, guest = machine("phone"), machine("guest")
    pairing, code = laptop.pair("--yes")
    phone.run("join", code, "notes.db", "--device", "phone", "--peer", laptop.address)
    assert finished(pairing).code == 0
    laptop.write("UPDATE notes SET title = 'while the phone was off'")
    laptop.run("status", "notes.db")
    said = let_in(laptop, guest)
    assert "earlier values go along: they have changed, and phone may not have that yet" in said
    assert guest.rows() == laptop.rows()


def test_who_joins_without_history_does_so_with_an_empty_file(
    laptop: Machine, machine: Callable[[str], Machine]
) -> None:
    laptop.up()
    guest = machine("guest")
    guest.write(NOTES)
    pairing, code = laptop.pair("--yes", "--no-history")
    _, refused = guest.run("join", code, "notes.db", "--peer", laptop.address, fails=1)
    assert "has rows here, and this device was let in without history" in refused
    assert "Join with a file of another name" in refused
    pairing.kill()


@pytest.mark.parametrize("with_daemon", [True, False], ids=["daemon", "alone"])
def test_all_of_it_works_through_a_relay_alone(
    laptop: Machine, machine: Callable[[str], Machine], tmp_path: Path, with_daemon: bool
) -> None:
    with relayed(tmp_path) as at:
        if with_daemon:
            laptop.up()
        guest, phone = machine("guest"), machine("phone")
        let_in_by_relay(laptop, guest, at, "--no-history")
        assert guest.rows() == laptop.rows() != []
        assert not is_in_file(guest, SECRET)
        guest.write("INSERT INTO notes (id, title) VALUES ('new', 'from the guest')")
        guest.run("sync", "notes.db")
        laptop.run("sync", "notes.db")
        assert laptop.rows() == guest.rows()

        # Whoever may read the past finds it at the relay, in the mailbox of the keys from before.
        let_in_by_relay(laptop, phone, at)
        assert phone.rows() == laptop.rows()
        assert is_in_file(phone, SECRET)
        phone.write("UPDATE notes SET title = 'by the phone'")
        for each in (phone, guest, laptop):
            each.run("sync", "notes.db")
        assert guest.rows() == phone.rows() == laptop.rows()
        assert not is_in_file(guest, SECRET)
        assert not asyncio.run(readable_by(guest, at, SECRET)) and asyncio.run(
            readable_by(laptop, at, SECRET)
        )
        states = {each.json("verify", "notes.db")["state"] for each in (laptop, phone, guest)}
        assert len(states) == 1


async def readable_by(machine: Machine, at: str, text: str) -> bool:
    """Whether an entry with that text is in a mailbox at the relay that a device has the keys of."""
    import crdtlog

    with crdtlog.open(machine.file, home=machine.home, create=False) as db:
        database, epochs = db.id, db.epochs()
    client = await Client.connect(RelayUrl.parse(at), None)
    found = 0
    try:
        for epoch, secret in epochs.items():
            mailbox = epoch_mailbox(database, epoch, secret)
            opened = await client.open(mailbox.key)
            page = await client.read(mailbox.id, opened.first - 1)
            assert page.end
            for _, blob in page.blobs:
                entries = contents.read(mailbox.open(blob))
                assert isinstance(entries, list)
                for signed in entries:
                    found += 1
                    if text.encode() in entry.decode(entry.split(signed).body).payload():
                        return True
    finally:
        await client.close()
    assert found
    return False


@contextmanager
def relayed(directory: Path) -> Iterator[str]:
    """The URL of a relay."""
    process = Process(directory / "home-of-the-relay", "--listen", "127.0.0.1:0")
    yield process.shown
    assert process.stop() == 0
