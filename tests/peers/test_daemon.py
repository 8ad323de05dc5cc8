"""The daemon as a process of its own: starting, one per home, answering, and ending cleanly."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import crdtlog
from crdtlog.device import Home
from crdtlog.errors import Locked, Usage
from peers import daemon
from peers.control import Client
from peers.node import known
from peers.node.node import Options
from tests.peers.nodes import Machine
from tests.peers.processes import Daemon

MakeHome = Callable[..., Path]
QUIET = Options(listen="127.0.0.1:0", mdns=False)


@pytest.fixture
def running(laptop: Machine) -> Iterator[Daemon]:
    with Daemon(laptop, laptop.path) as process:
        yield process


def test_it_says_in_lines_for_people_what_it_does(laptop: Machine, running: Daemon) -> None:
    laptop.write("a")
    running.wait_for_line("laptop.db: 1 row changed here")

    first, *_ = running.lines()
    assert first[:8].count(":") == 2 and "up, listening on 127.0.0.1:" in first and "laptop.db" in first


def test_it_tells_its_status(laptop: Machine, running: Daemon) -> None:
    with Client.connect(laptop.home) as client:
        status = client.request("status")

    assert (
        status["v"] == 1
        and status["pid"] == running.process.pid
        and status["listen"].startswith("127.0.0.1:")
    )
    (file,) = status["files"]
    assert file["path"] == str(laptop.path) and file["tables"] == [
        {"name": "notes", "paused": None, "pending": 0, "waiting": None, "merge": {}}
    ]
    (device,) = file["devices"]
    assert device["self"] and device["name"] == "laptop" and device["lag"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_with_everything_taken_in(
    laptop: Machine, running: Daemon, number: signal.Signals
) -> None:
    laptop.write("last")
    running.process.send_signal(number)

    assert running.process.wait(10) == 0
    assert running.lines()[-1].endswith("stopped")
    with crdtlog.open(laptop.path, home=laptop.home, create=False) as db:
        assert db.pending() == 0


def test_it_can_be_stopped_by_command(laptop: Machine, running: Daemon) -> None:
    with Client.connect(laptop.home) as client:
        client.request("stop")

    assert running.process.wait(10) == 0


@pytest.mark.parametrize(
    ("command", "name"), [("sync", "timeout"), ("pair", "expires")], ids=["sync", "pair"]
)
@pytest.mark.parametrize("value", ["soon", -1, True, [], 10**400], ids=lambda value: repr(value)[:10])
def test_what_is_no_time_is_refused_and_no_fault_of_the_daemon(
    laptop: Machine, running: Daemon, command: str, name: str, value: object
) -> None:
    with Client.connect(laptop.home) as client, pytest.raises(Usage, match=f"{name} in seconds"):
        client.request(command, path=str(laptop.path), **{name: value})

    assert not any("Traceback" in line for line in running.lines())


def test_a_second_daemon_of_one_home_is_told_who_the_first_is(laptop: Machine, running: Daemon) -> None:
    with pytest.raises(Locked, match=f"process {running.process.pid}") as caught:
        daemon.run([laptop.path], QUIET, laptop.home)

    assert "crdtlog status" in caught.value.hint


def test_a_daemon_that_was_killed_leaves_no_lock_behind(laptop: Machine, running: Daemon) -> None:
    running.kill()

    with Daemon(laptop, laptop.path):
        pass


def test_without_file_names_it_serves_the_files_of_its_home(laptop: Machine, tmp_path: Path) -> None:
    known.remember_file(laptop.home, tmp_path / "vanished.db")
    known.remember_file(laptop.home, laptop.path)

    with Daemon(laptop) as process, Client.connect(laptop.home) as client:
        assert [file["path"] for file in client.request("status")["files"]] == [str(laptop.path)]
        assert any("vanished.db: not served" in line for line in process.lines())


def test_a_home_without_files_is_told_how_to_get_one(home: MakeHome) -> None:
    with pytest.raises(Usage, match="no files") as caught:
        daemon.run([], QUIET, Home(home()))

    assert "crdtlog up FILE" in caught.value.hint


def test_files_are_added_while_it_runs(laptop: Machine, running: Daemon, tmp_path: Path) -> None:
    other = Machine(laptop.home, tmp_path / "other.db", "laptop")
    with crdtlog.open(other.path, home=other.home) as db:
        db.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT, stars INTEGER)")
        db.track("notes")
    with Client.connect(laptop.home) as client:
        client.request("add", path=str(other.path))

    other.write("a")
    running.wait_for_line("other.db: 1 row changed here")
    assert known.known_files(laptop.home) == [laptop.path, other.path]


def test_a_program_may_use_the_same_file_beside_it(laptop: Machine, running: Daemon) -> None:
    with crdtlog.open(laptop.path, home=laptop.home, create=False) as db:
        for number in range(20):
            db.execute("INSERT INTO notes VALUES (?, '', 0)", (str(number),))
            db.drain()

    assert laptop.verified().ok and len(laptop.notes()) == 20


def test_signals_are_left_as_they_were(laptop: Machine) -> None:
    """`serve` may run inside another program's loop."""

    async def briefly() -> int:
        asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGTERM)
        return await daemon.serve([laptop.path], QUIET, laptop.home)

    assert asyncio.run(briefly()) == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
