"""Real processes: daemons killed at the worst moments, devices on one network, and how fast a write arrives."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

import crdtlog
from peers.control import Client
from tests.peers.nodes import Machine
from tests.peers.processes import ROOT, Daemon

MANY = 60_000


def pair(issuer: Machine, joiner: Machine, *, prefix: Sequence[str] = (), address: str | None = None) -> None:
    """Link two devices as people do; the issuer's daemon runs."""
    with Client.connect(issuer.home) as client:
        for message in client.stream("pair", path=str(issuer.path), role="writer"):
            if "code" in message:
                process = join(
                    issuer, joiner, message["code"], prefix=prefix, address=address or message["address"]
                )
            elif "approve" in message:
                client.send({"approve": True})
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint


def join(
    issuer: Machine, joiner: Machine, code: str, *, prefix: Sequence[str], address: str
) -> "subprocess.Popen[str]":
    command = [
        *prefix,
        sys.executable,
        "-m",
        "peers.cli",
        "join",
        code,
        str(joiner.path),
        "--device",
        joiner.name,
    ]
    if address != "mdns":
        command += ["--peer", address, "--no-mdns"]
    environment = {**os.environ, "CRDTLOG_HOME": str(joiner.home.path), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )


def insert_many(machine: Machine, prefix: str, count: int = MANY) -> None:
    connection = sqlite3.connect(machine.path, timeout=5, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    rows = ((f"{prefix}{number:06d}", f"title {number}", number) for number in range(count))
    connection.executemany("INSERT INTO notes VALUES (?, ?, ?)", rows)
    connection.execute("COMMIT")
    connection.close()


def entries(machine: Machine) -> int:
    return int(machine.sql("SELECT count(*) FROM crdtlog__log")[0][0])


def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come true in time"
        time.sleep(0.01)


def count(machine: Machine) -> int:
    return int(machine.sql("SELECT count(*) FROM notes")[0][0])


def test_devices_converge_after_a_daemon_was_killed_in_the_middle_of_draining(
    laptop: Machine, phone: Machine
) -> None:
    with Daemon(laptop, laptop.path) as daemon:
        address = daemon.address
        pair(laptop, phone)
        daemon.kill()
    insert_many(laptop, "d")
    before = entries(laptop)
    with Daemon(laptop, laptop.path, listen=address) as daemon:
        wait(lambda: entries(laptop) > before + 2)
        daemon.kill()
    drained = entries(laptop) - before
    with crdtlog.open(laptop.path, home=laptop.home, create=False) as db:
        assert db.pending() > 0, "it was killed too late to mean anything"
    with Daemon(laptop, laptop.path, listen=address), Daemon(phone, phone.path):
        phone.write("p", "meanwhile")
        wait(lambda: count(phone) == count(laptop) == MANY + 1)
        wait(lambda: laptop.notes() == phone.notes())

    mine, theirs = laptop.verified(), phone.verified()
    assert drained and mine.ok and theirs.ok and mine.state == theirs.state


def test_devices_converge_after_a_daemon_was_killed_in_the_middle_of_applying(
    laptop: Machine, phone: Machine
) -> None:
    with Daemon(laptop, laptop.path) as daemon:
        pair(laptop, phone)
        insert_many(laptop, "a")
        for _ in range(2):
            had = count(phone)
            with Daemon(phone, phone.path) as receiving:
                wait(lambda had=had: count(phone) > had)  # type: ignore[misc]
                receiving.kill()
        assert 0 < count(phone) < MANY, "it was killed too late to mean anything"
        phone.write("p", "meanwhile")
        with Daemon(phone, phone.path):
            wait(lambda: count(phone) == count(laptop) == MANY + 1)
        assert daemon.process.poll() is None

    mine, theirs = laptop.verified(), phone.verified()
    assert mine.ok and theirs.ok and mine.state == theirs.state


def test_single_writes_show_on_the_other_device_one_after_the_other(laptop: Machine, phone: Machine) -> None:
    with Daemon(laptop, laptop.path):
        pair(laptop, phone)
        with Daemon(phone, phone.path):
            for number in range(10):
                source, target = (laptop, phone) if number % 2 else (phone, laptop)
                source.write(f"k{number}")
                wait(lambda target=target, key=f"k{number}": key in target.notes())


def test_another_program_can_write_all_the_time_while_much_is_being_applied(
    laptop: Machine, phone: Machine
) -> None:
    with Daemon(laptop, laptop.path):
        pair(laptop, phone)
        insert_many(laptop, "w")
        stop, failures, writes = threading.Event(), [], []

        def write() -> None:
            connection = sqlite3.connect(phone.path, timeout=1.0, isolation_level=None)
            while not stop.is_set():
                began = time.monotonic()
                try:
                    connection.execute("INSERT INTO notes VALUES (?, 'other', 0)", (f"o{len(writes)}",))
                except sqlite3.OperationalError as error:
                    failures.append(str(error))
                writes.append(time.monotonic() - began)
                time.sleep(0.005)
            connection.close()

        writer = threading.Thread(target=write)
        with Daemon(phone, phone.path):
            writer.start()
            wait(lambda: count(phone) >= MANY)
            stop.set()
            writer.join()
            wait(lambda: laptop.notes() == phone.notes())

    assert failures == [] and len(writes) > 20


# --- two networks -------------------------------------------------------------------------------------------------


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def bridged_namespaces(names: Sequence[str]) -> Iterator[list[list[str]]]:
    """Network namespaces on one bridge, which itself is in the first of them; yields how to run a command in each."""
    tag = f"{os.getpid() % 10_000}"
    spaces = [f"crdtlog-{name}-{tag}" for name in names]
    try:
        for number, space in enumerate(spaces):
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
            if number == 0:
                ip("-n", space, "link", "add", "bridge", "type", "bridge")
                ip("-n", space, "addr", "add", "10.77.0.1/24", "dev", "bridge")
                ip("-n", space, "link", "set", "bridge", "up")
                ip("-n", space, "route", "add", "224.0.0.0/4", "dev", "bridge")
                continue
            outer, inner = f"cr{number}o{tag}", f"cr{number}i{tag}"
            ip("-n", spaces[0], "link", "add", outer, "type", "veth", "peer", "name", inner)
            ip("-n", spaces[0], "link", "set", inner, "netns", space)
            ip("-n", spaces[0], "link", "set", outer, "master", "bridge")
            ip("-n", spaces[0], "link", "set", outer, "up")
            ip("-n", space, "addr", "add", f"10.77.0.{number + 1}/24", "dev", inner)
            ip("-n", space, "link", "set", inner, "up")
            ip("-n", space, "route", "add", "224.0.0.0/4", "dev", inner)
        yield [["ip", "netns", "exec", space] for space in spaces]
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)


@pytest.mark.netns
def test_devices_on_one_network_find_each_other_by_mdns(laptop: Machine, phone: Machine) -> None:
    assert shutil.which("ip")
    laptop.write("a", "over the bridge")
    try:
        spaces = bridged_namespaces(["laptop", "phone"])
        with spaces as (at_laptop, at_phone):
            with Daemon(laptop, laptop.path, listen="0.0.0.0:0", mdns=True, prefix=at_laptop) as daemon:
                pair(laptop, phone, prefix=at_phone, address="mdns")
                assert phone.notes() == {"a": "over the bridge"}
                daemon.kill()
            # Another port than the one that the phone remembers: only mDNS can tell.
            phone.sql("DELETE FROM crdtlog__address")
            laptop.sql("DELETE FROM crdtlog__address")
            with (
                Daemon(laptop, laptop.path, listen="0.0.0.0:0", mdns=True, prefix=at_laptop),
                Daemon(phone, phone.path, listen="0.0.0.0:0", mdns=True, prefix=at_phone),
            ):
                phone.write("b", "and back")
                wait(lambda: laptop.notes() == {"a": "over the bridge", "b": "and back"}, 30)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a bridge cannot be made here: {error.stderr.decode().strip()}")
