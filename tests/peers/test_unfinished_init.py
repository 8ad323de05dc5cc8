"""An `init` that a full disk interrupted: status and doctor say that rows are still to be taken in, and what to do."""

import json
import sqlite3
from pathlib import Path

import pytest

from crdtlog import errors
from crdtlog.database import Database
from crdtlog.drain import Drained
from peers.cli import overview, run
from tests.peers.cli_reference import assert_shape, documented

ROWS = 12_000


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of which `init` took in some rows before the disk was full."""
    file = tmp_path / "notes.db"
    connection = sqlite3.connect(file)
    connection.executescript("CREATE TABLE notes (id TEXT PRIMARY KEY, title)")
    connection.executemany("INSERT INTO notes VALUES (?, ?)", ((f"k{n}", n) for n in range(ROWS)))
    connection.commit()
    connection.close()
    drain, steps = Database.drain, iter(range(2))

    def until_full(self: Database) -> Drained:
        if next(steps, None) is None:
            raise errors.DiskFull("the disk is full", "Free some space.")
        return drain(self)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "drain", until_full)
        assert run(["init", str(file)]) == errors.DiskFull.exit_code
    return file


def taken_in(file: Path) -> int:
    connection = sqlite3.connect(file)
    try:
        return int(connection.execute("SELECT count(*) FROM crdtlog_row_status").fetchone()[0])
    finally:
        connection.close()


def test_status_says_so_and_what_to_do(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(file)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "notes:" in line)
    assert "rows still to be taken in" in line
    assert f"crdtlog init {file}" in line and "crdtlog up" in line

    assert run(["status", str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["files"][0]["tables"][0]["waiting"] == "unfinished"
    assert_shape(answer, documented("status"))


def test_doctor_says_how_many_and_does_not_call_it_a_difference(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["doctor", str(file), "--json"]) == 0
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert "rows" not in findings
    waiting = findings["waiting rows"]
    assert waiting["state"] == "note" and f"{ROWS - taken_in(file):,} rows of notes" in waiting["message"]
    assert f"crdtlog init {file}" in waiting["next"]


def test_the_same_command_finishes_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 < taken_in(file) < ROWS
    assert run(["init", str(file)]) == 0
    assert taken_in(file) == ROWS
    capsys.readouterr()
    assert run(["status", str(file)]) == 0
    assert "to be taken in" not in capsys.readouterr().out


def test_the_same_command_says_that_the_recovery_words_were_shown_before(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["init", str(file)]) == 0
    said = capsys.readouterr().err
    assert " 1. " not in said and "cannot be shown again" in said and f"crdtlog pair {file}" in said


@pytest.mark.parametrize(
    ("waiting", "served", "words"),
    [
        ("unfinished", True, "  t: rows still to be taken in; the daemon is at it"),
        (
            "unfinished",
            False,
            "  t: rows still to be taken in; run: crdtlog init /n.db, or start: crdtlog up /n.db",
        ),
        ("first exchange", True, "  t: rows from before joining are taken in after the first exchange"),
        (None, True, ""),
    ],
)
def test_the_line_tells_who_takes_them_in(
    capsys: pytest.CaptureFixture[str], waiting: str | None, served: bool, words: str
) -> None:
    table = {"name": "t", "paused": None, "pending": 0, "waiting": waiting}
    overview.show_file({"path": "/n.db", "served": served, "devices": [], "pending": 0, "tables": [table]})
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "rows" in line] == ([words] if words else [])
