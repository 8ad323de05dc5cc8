"""What commands print of names that are SQL, steer terminals or are long: text, and no more."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.crdtlog.test_hostile_names import NAMES, TOO_LONG, quoted
from tests.peers.cli_world import Crdtlog, Done, write


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A file with a table of each name, and in each a row whose key and value are that name."""
    path = tmp_path / "odd.db"
    write(path, "CREATE TABLE y (id TEXT PRIMARY KEY, v); INSERT INTO y VALUES ('kept', 1)")
    with closing(sqlite3.connect(path)) as connection:
        for name in NAMES:
            table = quoted(name)
            connection.execute(f"CREATE TABLE {table} ({table} TEXT PRIMARY KEY, v TEXT)")
            connection.execute(f"INSERT INTO {table} VALUES (?, ?)", (name, name))
        for name in TOO_LONG:
            connection.execute(f"CREATE TABLE {quoted(name)} (id TEXT PRIMARY KEY)")
        connection.commit()
    return path


def assert_harmless(done: Done) -> Done:
    """Nothing in it can move a cursor, begin a line, or turn the direction of what follows."""
    for text in (done.out, done.err):
        odd = {character for character in text if character != "\n" and not character.isprintable()}
        assert not odd, odd
    return done


def test_whatever_is_called_what_commands_print_only_text(odd: Path, crdtlog: Crdtlog) -> None:
    assert_harmless(crdtlog("init", odd, "--device", "laptop"))
    for name in NAMES:
        write(odd, f"UPDATE {quoted(name)} SET v = 'other'")
    for command in ("status", "doctor", "log", "conflicts", "verify", "check", "devices"):
        assert_harmless(crdtlog(command, odd))
        json.loads(assert_harmless(crdtlog(command, odd, "--json")).out)
    for name in NAMES:
        plain = assert_harmless(crdtlog("history", odd, name, name))
        assert plain.out.count("\n") >= 2
        told = json.loads(assert_harmless(crdtlog("history", odd, name, name, "--json")).out)
        assert any(write["value"] == "other" for write in told["history"])
    assert_harmless(crdtlog("track", odd, TOO_LONG[0], fails=1))
    assert_harmless(crdtlog("track", odd, "no\x1b[2Jtable", fails=1))
    assert crdtlog("sql", odd, "SELECT * FROM y", "--json").json["rows"] == [["kept", 1]]
