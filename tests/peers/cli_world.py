"""The command line in one process: a fixture runs commands, these say how they ended and what an error must be like.

`tests/peers/conftest.py` has the fixtures: `crdtlog` runs a command, `notes` is a file, `shared` a replicated one.
"""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60

NOTES = """
    CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, size REAL, picture BLOB);
    INSERT INTO notes VALUES ('a', 'Milk', 1.5, x'00ff'), ('b', 'Bread', 9e999, NULL);
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its standard output, which must be one JSON object on one line."""
        assert self.out.count("\n") == 1, self.out
        return dict(json.loads(self.out))


Crdtlog = Callable[..., Done]


def made(path: Path, sql: str) -> Path:
    """A file in which this was run."""
    write(path, sql)
    return path


def write(path: Path, sql: str) -> None:
    """What any program would do: plain SQL on a connection of its own."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(sql)


def program(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "peers.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> Done:
    """Wait for a process to end."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Done(process.returncode, out, err)


def assert_an_error(done: Done, *words: str) -> None:
    """An error says what happened, why, and what to do; nothing else is printed, least of all a traceback."""
    assert done.out == ""
    assert done.err.startswith(("Error: ", "Usage: ")), done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err, done.err
    if done.err.startswith("Error: "):
        what, _, hint = done.err.partition("\n  ")
        assert what.endswith((".", "!", "?")), what
        assert hint.strip(), "the next step is missing"
