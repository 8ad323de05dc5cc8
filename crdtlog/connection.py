"""The one place that opens an SQLite file, and translates what SQLite says into this project's errors.

The engine uses Python's own `sqlite3` and never brings a second SQLite library into the process: POSIX locks belong to
a process, and two copies of the library on one file lose data. Everything else talks to the `Connection` made here.
"""

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crdtlog.errors import Busy, CrdtlogError, DiskFull, NotADatabase, ReadOnly, Unsupported
from crdtlog.values import has_odd_text, text_bytes

Row = tuple[Any, ...]

BUSY_TIMEOUT_MS = 5_000
_CACHE_KIB = 32_768
# A bulk of small commits touches the same pages again and again; copying them back from the write-ahead log once in
# 64 MiB instead of once in 4 saves most of that writing. More than that gains nothing: the log itself costs pages.
_CHECKPOINT_PAGES = 16_000
# SQLite's last step may have needed a few pages, or 32 KiB of shared memory, more than were left.
_FULL_BYTES = 1 << 20


def open_file(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open a file for the engine: autocommit, full durability, foreign keys unenforced (they arrive as data).

    A file that is made has mode 0600, and with it what SQLite puts beside it; one that was there keeps its mode.
    Raises `NotADatabase`, `ReadOnly`, `Busy`, `Unsupported` (UTF-16 databases).
    """
    if not create and not path.exists():
        raise NotADatabase(f"{path} does not exist", "Check the path, or create it with `crdtlog init`.")
    if path.is_dir():
        raise NotADatabase(f"{path} is a directory", "Name an SQLite file.")
    if create:
        # What others sealed for this device is in it, unsealed. SQLite would let everybody read it.
        with suppress(OSError):  # it is there; or it cannot be made, and SQLite says why
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
    with translated(path):
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            timeout=BUSY_TIMEOUT_MS / 1000,
            check_same_thread=False,
            cached_statements=512,
        )
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            encoding = connection.execute("PRAGMA encoding").fetchone()[0]
            if encoding != "UTF-8":
                raise Unsupported(
                    f"{path} stores its text as {encoding}",
                    "Copy it into a UTF-8 database first: sqlite3 OLD .dump | sqlite3 NEW.",
                )
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("PRAGMA recursive_triggers = OFF")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        except BaseException:
            connection.close()
            raise
    return connection


def switch_to_wal(connection: sqlite3.Connection, path: Path) -> bool:
    """Put the file into write-ahead mode; True when it was in another mode before."""
    with translated(path):
        before = connection.execute("PRAGMA journal_mode").fetchone()[0]
        if before == "wal":
            return False
        after = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if after != "wal":
        raise Unsupported(f"{path} cannot use write-ahead logging here (it stays in mode {after})")
    return True


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's exceptions about the file into errors that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error


def translate(error: sqlite3.Error, path: Path) -> CrdtlogError | sqlite3.Error:
    """The error to raise for an SQLite exception; the exception itself when it is about SQL, not about the file."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    text = str(error)
    match primary:
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return NotADatabase(
                f"{path} is not a readable SQLite database ({text})",
                "It may be another kind of file, encrypted, or damaged; nothing was changed.",
            )
        case sqlite3.SQLITE_FULL:
            return _disk_full(path)
        case sqlite3.SQLITE_IOERR if _has_no_room(path):
            # So it calls shared memory that cannot grow, for one.
            return _disk_full(path)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return ReadOnly(
                f"{path} cannot be opened for writing ({text})",
                "Check the permissions of the file and of its directory.",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Busy(
                f"another program keeps {path} locked ({text})", "Wait for it, or end it, and try again."
            )
        case sqlite3.SQLITE_IOERR:
            return DiskFull(
                f"the disk failed while {path} was used ({text})", "Check the disk and its free space."
            )
        case _:
            return error


def _disk_full(path: Path) -> DiskFull:
    return DiskFull(
        f"the disk is full; nothing of the last step was written to {path}",
        "Free some space, then run the same command again: it goes on where it stopped.",
    )


def _has_no_room(path: Path) -> bool:
    """Whether the file system that holds the file is (nearly) full; False where nobody can tell."""
    try:
        room = os.statvfs(path.resolve().parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _FULL_BYTES


def fetch(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[object] = ()
) -> tuple[list[Row], bool]:
    """All rows of a query, and whether some text is not valid UTF-8 (then it carries surrogate escapes)."""
    try:
        return connection.execute(sql, parameters).fetchall(), False
    except sqlite3.OperationalError as error:
        if "UTF-8" not in str(error):
            raise
    with escaping_text(connection):
        return connection.execute(sql, parameters).fetchall(), True


@contextmanager
def escaping_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Within it, text that is not valid UTF-8 is read with surrogate escapes instead of failing."""
    before = connection.text_factory
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        connection.text_factory = before


def execute_rows(
    connection: sqlite3.Connection, sql: str, rows: Iterable[Sequence[object]], *, odd: bool
) -> None:
    """Run one statement for many rows of parameters.

    `odd` says that some text may not be valid UTF-8; such a parameter is bound as bytes and cast, which stores exactly
    those bytes as text.
    """
    if not odd:
        connection.executemany(sql, rows)
        return
    pieces = _around_placeholders(sql)
    for row in rows:
        connection.execute(*(_cast(pieces, row) if has_odd_text(row) else (sql, row)))


def bindable(sql: str, parameters: Sequence[object]) -> tuple[str, Sequence[object]]:
    """One statement and its parameters such that text that is not valid UTF-8 can be bound, too."""
    return _cast(_around_placeholders(sql), parameters) if has_odd_text(parameters) else (sql, parameters)


def _cast(pieces: Sequence[str], row: Sequence[object]) -> tuple[str, Sequence[object]]:
    marks = ["CAST(? AS TEXT)" if isinstance(v, str) else "?" for v in row]
    bound = [text_bytes(v) if isinstance(v, str) else v for v in row]
    return "".join(piece + mark for piece, mark in zip(pieces, [*marks, ""], strict=True)), bound


_QUOTED_OR_PLACEHOLDER = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|\?')


def _around_placeholders(sql: str) -> list[str]:
    """The text between a statement's placeholders; a question mark inside a quoted name is none."""
    pieces, begin = [], 0
    for found in _QUOTED_OR_PLACEHOLDER.finditer(sql):
        if found[0] == "?":
            pieces.append(sql[begin : found.start()])
            begin = found.end()
    return [*pieces, sql[begin:]]
