"""The commands for the group between real devices: daemons, sockets and codes."""

import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.peers.cli_devices import CODE, NOTES, Machine, eventually
from tests.peers.cli_world import TIMEOUT_S, finished


@pytest.fixture
def real(machine: Callable[[str], Machine]) -> Machine:
    """A laptop with a replicated file of two notes."""
    laptop = machine("laptop")
    laptop.write(NOTES)
    laptop.run("init", "notes.db", "--device", "laptop", "--no-recovery")
    return laptop


def shared(laptop: Machine, other: Machine, *options: str) -> str:
    """Invite a person, whose device joins; what `share` said."""
    sharing = laptop.start("share", "notes.db", "--yes", *options)
    assert sharing.stdout is not None
    code = sharing.stdout.readline().rstrip("\n")
    assert CODE.fullmatch(code), sharing.communicate(timeout=TIMEOUT_S)
    other.run("join", code, "notes.db", "--device", other.name, "--peer", laptop.address)
    done = finished(sharing)
    assert done.code == 0 and done.out == "", done
    return done.err


@pytest.mark.parametrize("with_daemon", [True, False], ids=["daemon", "alone"])
def test_share_invites_a_person_by_name_with_a_role(
    real: Machine, machine: Callable[[str], Machine], with_daemon: bool
) -> None:
    if with_daemon:
        real.up()
    phone = machine("annas-phone")

    said = shared(real, phone, "--role", "reader", "--name", "Anna")

    assert "Tell Anna the code" in said
    assert "Invited as Anna: device annas-phone wants to join as reader. Its fingerprint is" in said
    assert "annas-phone has joined as reader, invited as Anna." in said
    (line,) = [
        entry["summary"]
        for entry in real.json("log", "notes.db", "--kind", "member")["entries"]
        if "annas-phone" in entry["summary"]
    ]
    assert line == "annas-phone joined as reader (invited as Anna)"
    assert [item["role"] for item in phone.json("devices", "notes.db")["devices"]] == ["reader", "admin"]
    assert phone.rows() == real.rows() != []

    phone.write("UPDATE notes SET title = 'mine'")
    assert len(phone.json("aside", "notes.db")["aside"]) == 2
    assert phone.rows() == real.rows()


def test_a_writer_is_what_share_makes_unless_told_otherwise(
    real: Machine, machine: Callable[[str], Machine]
) -> None:
    said = shared(real, machine("phone"))

    assert "phone wants to join as writer" in said and "Tell the other person the code" in said
    assert real.json("devices", "notes.db")["devices"][1]["role"] == "writer"


@pytest.mark.parametrize("name", ["A" * 101, "An\x1bna"])
def test_a_person_has_a_short_printable_name(real: Machine, name: str) -> None:
    _, said = real.run("share", "notes.db", "--name", name, fails=2)

    assert "name" in said and "\x1b" not in said


def test_a_device_that_is_removed_while_its_daemon_runs_gets_nothing_more(
    real: Machine, machine: Callable[[str], Machine]
) -> None:
    phone = machine("phone")
    real.up()
    shared(real, phone)
    phone.up(real)
    real.write("INSERT INTO notes VALUES ('c', 'Rice', NULL)")
    eventually(lambda: len(phone.rows()) == 3, "the phone gets what is written")

    real.run("remove", "notes.db", "phone", "--yes")

    def is_apart() -> bool:
        devices = phone.json("status", "notes.db")["files"][0]["devices"]
        return not any(device["connected"] for device in devices)

    eventually(is_apart, "the connection has ended")
    real.write("INSERT INTO notes VALUES ('d', 'Secret', NULL)")
    phone.write("INSERT INTO notes VALUES ('e', 'Late', NULL)")
    _, said = phone.run("sync", "notes.db", "--timeout", "5", fails=75)
    assert "would exchange it with this device: laptop: " in said and ".;" not in said
    assert "crdtlog devices" in said and "crdtlog pair" in said
    with closing(sqlite3.connect(phone.file)) as connection:
        assert not connection.execute("SELECT 1 FROM notes WHERE id = 'd'").fetchall()
    assert [row[0] for row in real.rows()] == ["a", "b", "c", "d"]
    assert [item["name"] for item in real.json("devices", "notes.db")["devices"]] == ["laptop"]


@pytest.mark.parametrize("with_daemon", [True, False], ids=["daemon", "alone"])
def test_a_device_that_is_let_in_again_goes_on_with_the_new_file(
    real: Machine, machine: Callable[[str], Machine], with_daemon: bool
) -> None:
    phone = machine("phone")
    real.up()
    shared(real, phone)
    phone.run("leave", "notes.db", "--yes")
    if with_daemon:
        phone.up(real)
    else:
        phone.run("sync", "notes.db")
    eventually(lambda: len(real.json("devices", "notes.db")["devices"]) == 1, "the laptop hears that it left")

    pairing, code = real.pair("--yes")
    _, said = phone.run("join", code, "again.db", "--peer", real.address)

    assert finished(pairing).code == 0
    assert "notes.db is the same database" in said and "again.db takes its place" in said
    assert "Not all rows" not in said
    assert [Path(file["path"]).name for file in phone.json("status")["files"]] == ["again.db"]
    real.write("INSERT INTO notes VALUES ('c', 'Rice', NULL)")
    assert phone.json("sync", "again.db")["sync"]["complete"]
    with closing(sqlite3.connect(phone.files / "again.db")) as connection:
        assert connection.execute("SELECT * FROM notes ORDER BY id").fetchall() == real.rows()
    assert [row[0] for row in phone.rows()] == ["a", "b"]


def test_a_second_file_of_a_database_that_is_served_is_refused_by_name(
    real: Machine, machine: Callable[[str], Machine]
) -> None:
    phone = machine("phone")
    real.up()
    shared(real, phone)
    phone.run("leave", "notes.db", "--yes")
    pairing, code = real.pair("--yes")
    phone.run("join", code, "again.db", "--peer", real.address)
    assert finished(pairing).code == 0
    phone.up(real)

    _, said = phone.run("sync", "again.db", fails=1)

    assert "again.db is of the same database as notes.db, which is served here already" in said
    assert f"end the daemon, then: crdtlog up {phone.files / 'again.db'}" in said


def test_what_is_said_of_the_group_reaches_a_running_daemon(
    real: Machine, machine: Callable[[str], Machine]
) -> None:
    phone = machine("phone")
    daemon = real.up()
    shared(real, phone)
    phone.up(real)

    real.run("role", "notes.db", "phone", "reader")

    def own_role() -> str:
        return str(phone.json("devices", "notes.db")["devices"][0]["role"])

    eventually(lambda: own_role() == "reader", "the phone knows that it may only read")
    daemon.send_signal(signal.SIGTERM)
    assert finished(daemon).code == 0
