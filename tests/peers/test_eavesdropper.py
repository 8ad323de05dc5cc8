"""What somebody on the network sees of two real daemons that pair and exchange changes, and can do with it."""

import base64
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from zeroconf import DNSIncoming, DNSPointer, DNSService, DNSText

import crdtlog
from crdtlog.device import Home, load_device
from peers import envelope, identity
from peers.control import Client
from peers.node.discovery import ids_in
from tests.peers.nodes import SECONDS, Machine
from tests.peers.processes import ROOT, Daemon
from tests.peers.spelled import holds, spellings
from tests.peers.tapping import Multicast, Tap, records
from tests.peers.test_discovery import multicast_on_loopback

TABLE = "medication_ledger"
COLUMNS = ("patient_reference", "diagnosis_text", "dosage_count", "scanned_page")
VALUES = ("ward-7-bed-12-Hopper", "hypertension, second degree", 8_413_772_210_155_004_417, os.urandom(4096))
FILE = "clinic-records.db"
NAME = re.compile(r"([0-9a-f]{16}\.)?(_crdtlog(-pair)?\._tcp\.)?local\.")
LAPTOP, PHONE = "Ada's own laptop", "Grace's telephone"


class Heard(NamedTuple):
    """Two devices that have linked and agree, while somebody listened; the laptop's daemon still runs."""

    laptop: Machine
    phone: Machine
    code: str
    address: str
    daemon: Daemon
    tap: Tap
    multicast: Multicast | None
    """None where there is no multicast."""


@pytest.fixture(scope="module")
def heard() -> Iterator[Heard]:
    with ExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory(prefix="crdtlog-", ignore_cleanup_errors=True)))
        laptop, phone = (_machine(root / place, name) for place, name in (("1", LAPTOP), ("2", PHONE)))
        _found(laptop)
        multicast = None
        if multicast_on_loopback() is None:
            with suppress(OSError):  # the port belongs to a program that shares it with nobody
                multicast = stack.enter_context(Multicast())
        daemon = stack.enter_context(Daemon(laptop, laptop.path, mdns=multicast is not None))
        tap = stack.enter_context(Tap(daemon.address))
        code = _pair(laptop, phone, tap, multicast)
        other = stack.enter_context(Daemon(phone, phone.path, peers=[tap.address]))
        other.wait_for_line("connected")
        phone.sql(f"INSERT INTO {TABLE} VALUES (?, ?, ?, ?)", *VALUES)
        _until_equal(laptop, phone, 1)
        laptop.sql(f"INSERT INTO {TABLE} VALUES (?, ?, ?, ?)", "second", *VALUES[1:])
        _until_equal(laptop, phone, 2)
        yield Heard(laptop, phone, code, daemon.address, daemon, tap, multicast)


def _machine(place: Path, name: str) -> Machine:
    place.mkdir()
    (place / "home").mkdir(mode=0o700)
    return Machine(Home(place / "home"), place / FILE, name)


def _found(machine: Machine) -> None:
    with crdtlog.open(machine.path, home=machine.home, name=machine.name) as db:
        db.execute(
            f"CREATE TABLE {TABLE} ({COLUMNS[0]} TEXT PRIMARY KEY, {COLUMNS[1]} TEXT, {COLUMNS[2]} INTEGER, "
            f"{COLUMNS[3]} BLOB)"
        )
        db.track(TABLE)


def _pair(laptop: Machine, phone: Machine, tap: Tap, multicast: Multicast | None) -> str:
    environment = {**os.environ, "CRDTLOG_HOME": str(phone.home.path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "peers.cli", "join", "-", str(phone.path), "--device", phone.name]
    code = ""
    with Client.connect(laptop.home) as client:
        for message in client.stream("pair", path=str(laptop.path), role="writer"):
            if "code" in message:
                code = message["code"]
                if multicast is not None:
                    _until_announced(multicast, code.partition("-")[0])
                joining = subprocess.Popen(
                    [*command, "--peer", tap.address, "--no-mdns"],
                    env=environment,
                    text=True,
                    stdin=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                assert joining.stdin is not None
                joining.stdin.write(code + "\n")
                joining.stdin.flush()
            elif "approve" in message:
                client.send({"approve": True})
    _, complaint = joining.communicate(timeout=60)
    assert joining.returncode == 0, complaint
    return code


def _until_announced(multicast: Multicast, nameplate: str) -> None:
    limit = time.monotonic() + SECONDS
    while b"n=%s" % nameplate.encode() not in multicast.heard():
        assert time.monotonic() < limit, "the code was not announced"
        time.sleep(0.02)


def _until_equal(laptop: Machine, phone: Machine, count: int) -> None:
    limit = time.monotonic() + SECONDS
    while not count == len(_rows(laptop)) == len(_rows(phone)):
        assert time.monotonic() < limit, "the row did not arrive"
        time.sleep(0.02)


def _rows(machine: Machine) -> list[tuple[object, ...]]:
    return machine.sql(f"SELECT * FROM {TABLE}")


def _private(heard: Heard) -> dict[str, bytes]:
    """All that must not be seen, by what it is."""
    found = {
        "the table": TABLE.encode(),
        "the file": FILE.encode(),
        "the file's stem": FILE.partition(".")[0].encode(),
        "a number": VALUES[2].to_bytes(8, "big"),
        "a number as text": str(VALUES[2]).encode(),
        "bytes": VALUES[3][:32],
        "the code": heard.code.encode(),
        "the words": heard.code.partition("-")[2].encode(),
        **{f"column {name}": name.encode() for name in COLUMNS},
        **{f"text {text}": text.encode() for text in VALUES[:2]},
        # A shorter one may be there by chance.
        **{f"word {word}": word.encode() for word in heard.code.split("-")[1:] if len(word) >= 5},
    }
    for machine in (heard.laptop, heard.phone):
        with crdtlog.open(machine.path, home=machine.home, create=False) as db:
            device = load_device(machine.home, create=False)
            certificate = identity.certificate_of(device)
            found |= {
                "the database's id": db.id,
                "the beginning of the database's id": db.id[:8],
                "an epoch's id": next(iter(db.epochs())),
                "an epoch's secret": next(iter(db.epochs().values())),
                f"name of {machine.name}": machine.name.encode(),
                f"id of {machine.name}": device.id,
                f"log of {machine.name}": db.writer,
                f"end of the log's id of {machine.name}": db.writer[16:],
                f"signing key of {machine.name}": device.public.sign_key,
                f"receiving key of {machine.name}": device.public.receive_key,
                f"certificate of {machine.name}": certificate[:64],
                f"fingerprint of {machine.name}": identity.fingerprint(certificate),
                f"place of {machine.name}": os.fsencode(machine.home.path),
            }
    return found


def test_what_two_devices_say_to_each_other_shows_no_name_id_key_or_value(heard: Heard) -> None:
    carried, announced = heard.tap.heard(), heard.multicast.heard() if heard.multicast else b""
    log = b"".join(signed for (signed,) in heard.laptop.sql("SELECT signed FROM crdtlog__log"))

    assert len(carried) > 2 * len(VALUES[3]), "what was exchanged did not pass here"
    assert VALUES[3][:32] in log and VALUES[3][:32] not in carried, "compression alone would not hide it"
    for what, data in _private(heard).items():
        assert not holds(carried, data), what
        assert not holds(announced, data), f"{what}, by multicast"


def test_all_but_the_two_greetings_of_tls_is_encrypted(heard: Heard) -> None:
    assert heard.tap.connections
    for connection in heard.tap.connections:
        for stream in (connection.there, connection.back):
            kinds = [record.kind for record in records(bytes(stream))]
            plain = [kind for kind in kinds if kind != 23]
            assert kinds[0] == 22 and plain in ([22], [22, 20]), plain
        # No name of a host, as this one was dialled by its address; one that is dialled by name would be seen here.
        assert b"localhost" not in records(bytes(connection.there))[0].body


def test_what_is_announced_is_a_passing_id_a_port_and_the_number_of_an_open_code(heard: Heard) -> None:
    if heard.multicast is None:
        pytest.skip("no multicast here")
    with crdtlog.open(heard.laptop.path, home=heard.laptop.home, create=False) as db:
        key = envelope.discovery_key(next(iter(db.epochs().values())))
    now = time.time()
    slots = {envelope.discovery_id(key, now - back * envelope.SLOT_SECONDS) for back in range(2)}
    names, texts = _announced(heard.multicast)

    assert names and not [name for name in names if not NAME.fullmatch(name)]
    assert slots & {found for text in texts for found in ids_in(text)}
    assert {"v": "1", "n": heard.code.partition("-")[0]} in texts
    assert all(re.fullmatch("v|n|d[0-9]", name) for text in texts for name in text)


def _announced(multicast: Multicast) -> tuple[set[str], list[dict[str, str]]]:
    """The names and the TXT records in all packets about crdtlog."""
    names: set[str] = set()
    texts = []
    for packet in multicast.packets:
        for record in DNSIncoming(packet).answers():
            if "_crdtlog" in record.name:
                names.add(record.name)
                if isinstance(record, DNSPointer):
                    names.add(record.alias)
                if isinstance(record, DNSService):
                    names.add(record.server)
                if isinstance(record, DNSText):
                    strings = _strings(record.text)
                    texts.append(dict(string.decode().split("=", 1) for string in strings))
    return names, texts


def _strings(text: bytes) -> Iterator[bytes]:
    while text:
        yield text[1 : 1 + text[0]]
        text = text[1 + text[0] :]


def test_what_was_recorded_and_is_sent_again_moves_nothing(heard: Heard) -> None:
    before = (heard.daemon.lines(), _rows(heard.laptop), heard.laptop.sql("SELECT * FROM crdtlog_devices"))
    host, _, port = heard.address.rpartition(":")

    for connection in list(heard.tap.connections):
        recorded = bytes(connection.there)
        greeting = 5 + len(records(recorded)[0].body)
        with socket.create_connection((host, int(port)), timeout=SECONDS) as again:
            again.sendall(recorded[:greeting])
            answer = _received(again)
            again.sendall(recorded[greeting:])
            while data := _received(again):
                answer += data
        # The daemon greets, encrypts its certificate for a key that whoever sends again does not have, and hangs up.
        assert records(answer)[0].kind == 22 and len(answer) < 3_000

    after = (heard.daemon.lines(), _rows(heard.laptop), heard.laptop.sql("SELECT * FROM crdtlog_devices"))
    assert after == before


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except ConnectionError:
        return b""


def test_the_search_finds_what_is_there_however_it_is_written() -> None:
    secret = bytes(range(200, 232))
    for spelled in spellings(secret):
        assert holds(b"before" + spelled + b"behind", secret)
    for before in range(4):
        text = base64.encodebytes(b"x" * (before + 40) + secret + b"y" * 40)
        assert holds(text, secret)
    assert not holds(secret[:31] + b"x", secret)
