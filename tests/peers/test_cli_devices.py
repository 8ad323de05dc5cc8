"""The command line between devices: real daemons, pairing by code, and what people see of one another."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.peers.cli_devices import CODE, NOTES, Machine, eventually, joined
from tests.peers.cli_reference import assert_shape, documented
from tests.peers.cli_world import ROOT, TIMEOUT_S, finished, made


@pytest.fixture
def laptop(machine: Callable[[str], Machine]) -> Machine:
    """A device with a replicated file of two notes."""
    laptop = machine("laptop")
    laptop.write(NOTES)
    laptop.run("init", "notes.db", "--device", "laptop")
    return laptop


@pytest.fixture
def phone(machine: Callable[[str], Machine]) -> Machine:
    """A device without any file."""
    return machine("phone")


# --- the whole way ------------------------------------------------------------------------------------------------


def test_two_daemons_carry_plain_writes_both_ways_and_show_the_conflict(
    laptop: Machine, phone: Machine
) -> None:
    daemon = laptop.up()
    answer = joined(laptop, phone)
    other = phone.up(laptop)

    assert answer["complete"] and answer["issuer"]["name"] == "laptop" and answer["role"] == "admin"
    assert phone.rows() == laptop.rows() != []

    laptop.write("INSERT INTO notes VALUES ('c', 'Rice', 'from the laptop')")
    phone.write("DELETE FROM notes WHERE id = 'b'")
    eventually(lambda: len(phone.rows()) == 2 and phone.rows() == laptop.rows(), "both show two notes")

    other.send_signal(signal.SIGTERM)
    assert finished(other).code == 0
    laptop.write("UPDATE notes SET title = 'Oat milk' WHERE id = 'a'")
    time.sleep(0.01)
    phone.write("UPDATE notes SET title = 'Soy milk' WHERE id = 'a'")
    assert phone.json("conflicts", "notes.db")["conflicts"] == []
    other = phone.up(laptop)
    eventually(lambda: laptop.rows()[0][1] == phone.rows()[0][1] == "Soy milk", "the later write shows")

    (conflict,) = laptop.json("conflicts", "notes.db")["conflicts"]
    assert (conflict["table"], conflict["key"], conflict["column"]) == ("notes", "a", "title")
    assert (conflict["value"], conflict["device"]) == ("Oat milk", "laptop")
    assert laptop.json("verify", "notes.db") == phone.json("verify", "notes.db")

    for process in (daemon, other):
        process.send_signal(signal.SIGTERM)
        assert finished(process).code == 0
    assert not list(laptop.home.rglob("*.sock"))


def test_status_devices_and_doctor_beside_a_daemon(laptop: Machine, phone: Machine) -> None:
    laptop.up()
    joined(laptop, phone)
    phone.up(laptop)

    def connected() -> dict[str, Any] | None:
        found = laptop.json("status", "notes.db")
        return found if found["files"][0]["devices"][1]["connected"] else None

    def last_line() -> re.Match[str] | None:
        line = laptop.run("status")[0].splitlines()[-1]
        return re.fullmatch(r"  phone +direct +(up to date|\d+ entr(y|ies)) +now", line)

    # Each is asked until it is so: the connection by which the phone joined may end only now, and be seen for a moment.
    answer = eventually(connected, "the phone is connected")
    eventually(last_line, "status shows it")
    assert_shape(answer, documented("status"))
    devices = laptop.json("devices", "notes.db")["devices"]
    findings = {item["name"]: item for item in laptop.json("doctor", "notes.db")["findings"]}

    assert answer["daemon"]["listen"] == laptop.address
    assert answer["files"][0]["served"]
    assert answer["files"][0]["devices"][1]["path"] == "direct"
    assert [device["name"] for device in devices] == ["laptop", "phone"]
    assert findings["daemon"]["state"] == "ok" and "serves 1 file" in findings["daemon"]["message"]


def test_status_beside_a_daemon_loads_neither_the_engine_nor_click(laptop: Machine) -> None:
    laptop.up()
    show = (
        "import sys; from peers.cli import run; run(['status']); print(*sorted(sys.modules), file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", show],
        env=laptop.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    heavy = {
        "click",
        "sqlite3",
        "asyncio",
        "aiohttp",
        "cryptography",
        "rich",
        "msgpack",
        "crdtlog.database",
        "ssl",
    }
    assert "laptop" in done.stdout
    assert not heavy & set(done.stderr.split())


def test_a_daemon_serves_a_file_that_a_command_brings(laptop: Machine) -> None:
    laptop.up()
    made(laptop.files / "other.db", NOTES)
    laptop.run("init", "other.db")

    assert not laptop.json("status", "other.db")["files"][0]["served"]
    laptop.run("sync", "other.db")
    assert laptop.json("status", "other.db")["files"][0]["served"]


# --- without a daemon ---------------------------------------------------------------------------------------------


def test_pair_and_join_work_without_a_daemon(laptop: Machine, phone: Machine) -> None:
    answer = joined(laptop, phone, "--role", "writer")

    assert (answer["role"], answer["name"], answer["complete"]) == ("writer", "phone", True)
    assert phone.rows() == laptop.rows()
    assert [device["role"] for device in phone.json("devices", "notes.db")["devices"]] == ["writer", "admin"]


def test_sync_brings_both_to_the_same_state_and_ends(laptop: Machine, phone: Machine) -> None:
    joined(laptop, phone)
    laptop.up()
    laptop.write("INSERT INTO notes VALUES ('c', 'Rice', 'from the laptop')")
    phone.write("INSERT INTO notes VALUES ('d', 'Salt', 'from the phone')")

    answer = phone.json("sync", "notes.db", "--timeout", "20")

    assert_shape(answer, documented("sync"))
    assert answer["sync"]["complete"]
    assert [(device["name"], device["state"]) for device in answer["sync"]["devices"]] == [
        ("laptop", "equal")
    ]
    assert phone.rows() == laptop.rows() and len(phone.rows()) == 4


def test_sync_says_when_nobody_can_be_reached(laptop: Machine, phone: Machine) -> None:
    joined(laptop, phone)

    out, err = phone.run("sync", "notes.db", "--timeout", "3", fails=75)

    assert out == ""
    assert "no other device of notes.db could be reached" in err.lower() and "laptop" in err
    assert f"or name its address: crdtlog up {phone.file} --peer HOST:PORT" in err
    assert "crdtlog up" in err


def test_sync_alone_says_how_to_let_somebody_in(laptop: Machine) -> None:
    out, err = laptop.run("sync", "notes.db")

    assert out == ""
    assert "crdtlog pair notes.db" in err


def test_a_joiner_with_rows_of_its_own_merges_them(laptop: Machine, phone: Machine) -> None:
    phone.write(NOTES.replace("'a', 'Milk'", "'z', 'Zucchini'"))

    joined(laptop, phone)

    assert [row[0] for row in phone.rows()] == ["a", "b", "z"]
    eventually(
        lambda: laptop.json("status", "notes.db") and laptop.rows() == phone.rows(), "the laptop has them too"
    )


# --- approval -----------------------------------------------------------------------------------------------------


@contextmanager
def on_a_terminal(
    machine: Machine, *arguments: object
) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], str], int]]:
    """A command on a terminal: the process, a reader until some words, and what to type into."""
    ours, theirs = pty.openpty()
    process = machine.start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = ""

    def read(words: str) -> str:
        nonlocal seen
        end = time.monotonic() + TIMEOUT_S / 2
        while words not in seen:
            assert time.monotonic() < end, f"{words!r} never came:\n{seen}"
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    seen += os.read(ours, 65_536).decode()
                except OSError:
                    break
        assert words in seen, seen
        return seen

    try:
        yield process, read, ours
    finally:
        os.close(ours)


@pytest.mark.parametrize("answer", ["y", "n"])
@pytest.mark.parametrize("with_daemon", [True, False], ids=["daemon", "alone"])
def test_on_a_terminal_a_person_compares_fingerprints_and_decides(
    laptop: Machine, phone: Machine, answer: str, with_daemon: bool
) -> None:
    if with_daemon:
        laptop.up()
    with on_a_terminal(laptop, "pair", "notes.db") as (pairing, read, keyboard):
        shown = read(f"--peer {laptop.address}")
        code = shown.splitlines()[0]
        assert CODE.fullmatch(code)
        assert f"crdtlog join {code} notes.db" in shown
        assert "▀" in shown and "█" in shown, "there is no QR code"

        joining = phone.start("join", code, "notes.db", "--device", "phone", "--peer", laptop.address)
        question = read("may it join?")
        os.write(keyboard, f"{answer}\n".encode())
        _, told = joining.communicate(timeout=TIMEOUT_S)

        fingerprint = re.search(r"fingerprint is ([0-9a-f ]+)", told)
        assert fingerprint and fingerprint[1].strip() in question
        assert "phone wants to join" in question
        if answer == "y":
            read("phone has joined as admin")
            assert joining.returncode == 0 and pairing.wait(TIMEOUT_S) == 0
        else:
            read("Error: ")
            assert joining.returncode == 1 and pairing.wait(TIMEOUT_S) == 1
            assert not phone.file.exists()
            assert len(laptop.json("devices", "notes.db")["devices"]) == 1


def test_without_anybody_to_ask_a_device_may_not_join(laptop: Machine, phone: Machine) -> None:
    pairing, code = laptop.pair()

    _, told = phone.run("join", code, "notes.db", "--peer", laptop.address, fails=1)
    _, said = pairing.communicate(timeout=TIMEOUT_S)

    assert pairing.returncode == 1
    assert "--yes" in said and "declined" in told
    assert not phone.file.exists()


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_wrong_code_is_refused_and_makes_the_real_one_void(laptop: Machine, phone: Machine) -> None:
    pairing, code = laptop.pair("--yes")
    number = code.partition("-")[0]
    wrong = f"{number}-zoo-zoo-zoo" if not code.endswith("zoo-zoo-zoo") else f"{number}-zoo-zoo-zone"

    _, told = phone.run("join", wrong, "notes.db", "--peer", laptop.address, fails=1)
    _, said = pairing.communicate(timeout=TIMEOUT_S)

    assert "code" in told and told.count("Error: ") == 1
    assert pairing.returncode == 1 and "Error: " in said
    assert not phone.file.exists()


def test_join_says_when_whoever_answers_has_not_opened_the_code(laptop: Machine, phone: Machine) -> None:
    laptop.up()

    _, told = phone.run("join", "1-zoo-zoo-zoo", "notes.db", "--peer", laptop.address, fails=1)

    assert "expired or was never made" in told.lower() and "crdtlog pair" in told


def test_join_says_when_nobody_answers(phone: Machine) -> None:
    _, told = phone.run("join", "1-zoo-zoo-zoo", "notes.db", "--peer", "127.0.0.1:1", "--no-mdns", fails=75)

    assert "no device was found" in told.lower() and "crdtlog pair" in told


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["join", "nonsense", "notes.db"], 2, "not a pairing code"),
        (["join", "1-zoo-zoo-zooo", "notes.db"], 2, "zoo"),
        (["join", "1-zoo-zoo-zoo", "notes.db", "--peer", "laptop"], 2, "HOST:PORT"),
        (["join", "1-zoo-zoo-zoo", "notes.db", "--relay", "http://relay.example"], 2, "URL of a relay"),
        (["join", "1-zoo-zoo-zoo", "missing/notes.db"], 1, "does not exist"),
        (["up"], 2, "no files to serve"),
        (["up", "notes.db"], 1, "does not exist"),
        (["up", "other.db", "--relay", "ws://relay.example"], 2, "not encrypted"),
        (["up", "notes.db", "--listen", "here"], 2, "HOST:PORT"),
    ],
)
def test_what_cannot_be_done_is_said(phone: Machine, arguments: list[str], code: int, word: str) -> None:
    phone.run("paths")
    if arguments[0] == "up":
        phone.run("init", "other.db")
        (phone.home / "state" / "files.json").unlink()
    out, err = phone.run(*arguments, fails=code)

    assert out == "" and word in err
    assert err.splitlines()[-2].startswith("Error: ") and err.splitlines()[-1].startswith("  ")


def test_pair_refuses_roles_that_do_not_exist(laptop: Machine) -> None:
    assert "no role 'king'" in laptop.run("pair", "notes.db", "--role", "king", fails=2)[1]


def test_a_second_daemon_is_refused(laptop: Machine) -> None:
    first = laptop.up()

    _, err = laptop.run("up", "notes.db", fails=75)

    assert f"process {first.pid}" in err and "crdtlog status" in err


def test_a_port_that_is_taken_is_said(laptop: Machine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", laptop.port))
        taken.listen()

        _, err = laptop.run("up", "notes.db", fails=1)

    assert str(laptop.port) in err and "Error: " in err


def test_ctrl_c_ends_a_pairing_with_130_and_closes_the_code(laptop: Machine, phone: Machine) -> None:
    laptop.up()
    pairing, code = laptop.pair("--yes")

    pairing.send_signal(signal.SIGINT)
    _, err = pairing.communicate(timeout=TIMEOUT_S)

    assert pairing.returncode == 130 and "Traceback" not in err
    phone.run("join", code, "notes.db", "--peer", laptop.address, fails=1)
