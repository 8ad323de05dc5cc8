"""Devices for tests of the command line between devices: homes and files of their own, and the processes they run."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any, TypeVar

from tests.peers.cli_reference import assert_shape, documented
from tests.peers.cli_world import ROOT, TIMEOUT_S, finished

T = TypeVar("T")
CODE = re.compile(r"\d{1,3}(-[a-z]{3,8}){3}")

NOTES = """
    CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);
    INSERT INTO notes VALUES ('a', 'Milk', 'one litre'), ('b', 'Bread', NULL);
"""


class Machine:
    """A device of a test: a home, a directory of files, and the processes it runs."""

    def __init__(self, name: str, home: Path, files: Path) -> None:
        self.name = name
        self.home = home
        self.files = files
        self.port = _free_port()
        self.started: list[subprocess.Popen[str]] = []
        files.mkdir(exist_ok=True)

    @property
    def file(self) -> Path:
        return self.files / "notes.db"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        own = {"CRDTLOG_HOME": str(self.home), "CRDTLOG_NO_MDNS": "1", "CRDTLOG_LISTEN": self.address}
        return {**os.environ, **own, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def start(self, *arguments: object, **streams: Any) -> subprocess.Popen[str]:
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **streams,
        }
        command = [sys.executable, "-m", "peers.cli", *map(str, arguments)]
        process = subprocess.Popen(command, env=self.environment, cwd=self.files, text=True, **streams)
        self.started.append(process)
        return process

    def run(self, *arguments: object, fails: int = 0) -> tuple[str, str]:
        """Run a command to its end: what it printed, and what it said."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == fails, f"{arguments} ended with {process.returncode}\n{out}{err}"
        assert "Traceback" not in err, err
        return out, err

    def json(self, *arguments: object) -> dict[str, Any]:
        return dict(json.loads(self.run(*arguments, "--json")[0]))

    def up(self, *peers: "Machine") -> subprocess.Popen[str]:
        """Start the daemon, and return when it listens."""
        dialled = [word for peer in peers for word in ("--peer", peer.address)]
        process = self.start("up", self.file.name, *dialled)
        assert process.stderr is not None
        read_until(process.stderr, "listening on")
        return process

    def pair(self, *options: str) -> tuple[subprocess.Popen[str], str]:
        """Start pairing: the process, and the code that is the first line of its output."""
        process = self.start("pair", self.file.name, *options)
        assert process.stdout is not None
        code = process.stdout.readline().rstrip("\n")
        assert CODE.fullmatch(code), (code, process.stderr.read() if process.stderr else "")
        return process, code

    def write(self, sql: str) -> None:
        with closing(sqlite3.connect(self.file, timeout=10)) as connection:
            connection.executescript(sql)

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file, timeout=10)) as connection:
            return connection.execute("SELECT * FROM notes ORDER BY id").fetchall()

    def stop(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()


def read_until(stream: IO[str], words: str) -> str:
    """Read lines until one holds the words."""
    read = ""
    for line in stream:
        read += line
        if words in line:
            return read
    raise AssertionError(f"{words!r} never came:\n{read}")


def eventually(condition: Callable[[], T], what: str) -> T:
    """Ask again and again until the answer is true in Python's sense; gives that answer."""
    end = time.monotonic() + TIMEOUT_S / 2
    while not (answer := condition()):
        assert time.monotonic() < end, f"it never came true that {what}"
        time.sleep(0.05)
    return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def joined(laptop: Machine, phone: Machine, *options: str) -> dict[str, Any]:
    """Pair the two devices; returns what `join` printed."""
    pairing, code = laptop.pair("--yes", *options)
    answer = phone.json("join", code, "notes.db", "--device", "phone", "--peer", laptop.address)
    assert finished(pairing).code == 0
    assert_shape(answer, documented("join"))
    return dict(answer["joined"])
