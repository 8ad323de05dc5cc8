"""What is said when a disk is full: also where SQLite calls it an I/O error, and where it is one."""

import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from crdtlog.connection import translate
from crdtlog.errors import CrdtlogError, DiskFull

HINT = "Free some space, then run the same command again: it goes on where it stopped."


def said(name: str, text: str, path: Path) -> CrdtlogError:
    """What becomes of an error that SQLite raises under that name."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = getattr(sqlite3, name)
    found = translate(error, path)
    assert isinstance(found, DiskFull)
    return found


def leave(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    """Have so much room on every file system."""
    room = SimpleNamespace(f_bavail=free_bytes // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: room)


def test_a_full_disk_comes_with_what_to_do(tmp_path: Path) -> None:
    found = said("SQLITE_FULL", "database or disk is full", tmp_path / "notes.db")
    assert "disk is full" in str(found) and found.hint == HINT


@pytest.mark.parametrize(
    "name", ["SQLITE_IOERR", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_TRUNCATE"]
)
def test_an_io_error_where_no_room_is_left_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    leave(monkeypatch, 8192)
    found = said(name, "disk I/O error", tmp_path / "notes.db")
    assert "disk is full" in str(found) and found.hint == HINT


def test_an_io_error_where_there_is_room_is_a_failing_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 1 << 30)
    found = said("SQLITE_IOERR_WRITE", "disk I/O error", tmp_path / "notes.db")
    assert "disk failed" in str(found) and "I/O error" in str(found) and found.hint != HINT


def test_a_disk_that_cannot_be_asked_is_not_called_full(tmp_path: Path) -> None:
    found = said("SQLITE_IOERR_FSTAT", "disk I/O error", tmp_path / "gone" / "notes.db")
    assert "disk failed" in str(found)
