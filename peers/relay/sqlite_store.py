"""The store that needs nothing installed: one SQLite file.

Knows SQL and threads. Must not know connections of clients. The one idea: one thread writes and one reads, each with a
connection of its own (write-ahead logging lets them work at once), and appends that gather during a commit share the
next one, as the disk must be waited for at each (`synchronous = FULL`).
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from crdtlog.errors import Locked, NotADatabase, ReadOnly, Unsupported
from peers.relay.batching import Batcher, Kept, Placed, Waiting, expiring, page, place, unavailable
from peers.relay.messages import LIFE_BYTES
from peers.relay.store import Appended, Changed, Page, Quota, State, Store, Usage

logger = logging.getLogger(__name__)

_APPLICATION_ID = 0x63726C79
_VERSION = 1
_SCHEMA = """
CREATE TABLE mailbox (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    life BLOB NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    blobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    oldest INTEGER,
    used INTEGER NOT NULL
);
CREATE INDEX mailbox_oldest ON mailbox (oldest) WHERE oldest IS NOT NULL;
CREATE TABLE blob (
    mailbox INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (mailbox, number)
);
"""
_DAY_S = 86_400
_EXPIRE_MAILBOXES = 100
_EXPIRE_BLOBS = 1_000
_Result = TypeVar("_Result")


class SqliteStore(Store):
    """Mailboxes in one SQLite file, which no second relay may use at the same time."""

    def __init__(self, path: Path, quota: Quota | None = None) -> None:
        self._path = path
        self._quota = quota or Quota()
        self._writing = ThreadPoolExecutor(1, "relay writes")
        self._reading = ThreadPoolExecutor(1, "relay reads")
        self._batcher = Batcher(self._commit)
        self._changed: Changed = lambda mailbox: None
        self._watched: set[bytes] = set()
        self._lock = -1
        self._writer: sqlite3.Connection
        self._reader: sqlite3.Connection
        self._usage = Usage(0, 0, 0)

    async def start(self, changed: Changed) -> None:
        """Raises `Locked`, `NotADatabase`, `ReadOnly`, `Unsupported`."""
        self._changed = changed
        await self._in(self._writing, self._open)

    async def close(self) -> None:
        """Commit what waits, and close the file."""
        await self._batcher.close()
        if self._lock >= 0:
            await self._in(self._reading, self._reader.close)
            await self._in(self._writing, self._writer.close)
            os.close(self._lock)
            self._lock = -1
        self._writing.shutdown()
        self._reading.shutdown()

    async def append(self, mailbox: bytes, blob: bytes, now: int) -> Appended:
        """See `Store`."""
        appended = await self._batcher.append(Waiting(mailbox, blob, now))
        if mailbox in self._watched:
            self._changed(mailbox)
        return appended

    async def read(self, mailbox: bytes, after: int, max_bytes: int) -> Page:
        """See `Store`."""
        return await self._in(self._reading, self._read, mailbox, after, max_bytes)

    async def state(self, mailbox: bytes, now: int) -> State | None:
        """See `Store`."""
        found = await self._in(self._reading, self._state, mailbox)
        if found is None:
            return None
        state, used = found
        if used < now - _DAY_S:
            await self._in(self._writing, self._touch, mailbox, now)
        return state

    def watch(self, mailbox: bytes, *, wanted: bool) -> None:
        """See `Store`."""
        if wanted:
            self._watched.add(mailbox)
        else:
            self._watched.discard(mailbox)

    async def usage(self) -> Usage:
        """Exact, as nobody else writes the file."""
        return self._usage

    async def expire(self, now: int, ttl_s: int) -> int:
        """In steps, between which appends are committed."""
        await self._in(self._writing, self._forget, tuple(self._watched), now, now - 2 * ttl_s)
        dropped = 0
        while True:
            blobs, is_more = await self._in(self._writing, self._expire, now - ttl_s)
            dropped += blobs
            if not is_more:
                return dropped

    async def check(self) -> None:
        """Both threads answer."""
        for pool, connection in ((self._writing, self._writer), (self._reading, self._reader)):
            await self._in(pool, lambda used: used.execute("SELECT 1 FROM mailbox LIMIT 1"), connection)

    async def _in(
        self, pool: ThreadPoolExecutor, work: Callable[..., _Result], *arguments: object
    ) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        except sqlite3.Error as error:
            logger.warning("the relay's store cannot work: %s", error)
            raise unavailable("cannot be read or written") from error
        except RuntimeError as error:  # the pool takes nothing more
            raise unavailable("is closed") from error

    # --- opening --------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._lock = _locked(self._path)
        try:
            self._writer = _connection(self._path)
            _prepare(self._writer, self._path)
            self._reader = _connection(self._path)
            row = self._writer.execute("SELECT count(*), total(blobs), total(bytes) FROM mailbox").fetchone()
        except sqlite3.Error as error:
            self._close_lock()
            raise NotADatabase(
                f"{self._path} cannot be a relay's store: {error}", "Name another file."
            ) from error
        except BaseException:
            self._close_lock()
            raise
        self._usage = Usage(row[0], int(row[1]), int(row[2]))

    def _close_lock(self) -> None:
        os.close(self._lock)
        self._lock = -1

    # --- writing, in the thread that writes ---------------------------------------------------------------------

    async def _commit(self, batch: Sequence[Waiting]) -> Sequence[Placed]:
        return await self._in(self._writing, self._write, batch)

    def _write(self, batch: Sequence[Waiting]) -> list[Placed]:
        with _transaction(self._writer) as writer:
            rows = {mailbox: self._row(mailbox) for mailbox in {waiting.mailbox for waiting in batch}}
            before = {mailbox: kept.last for mailbox, (_, kept) in rows.items()}
            free = self._quota.store_bytes - self._usage.bytes
            placed = place(batch, {mailbox: kept for mailbox, (_, kept) in rows.items()}, self._quota, free)
            now = max(waiting.now for waiting in batch)
            numbers = {
                mailbox: self._save(mailbox, number, kept, now)
                for mailbox, (number, kept) in rows.items()
                if kept.last != before[mailbox]
            }
            blobs = [
                (numbers[waiting.mailbox], result.number, waiting.now, waiting.blob)
                for waiting, result in zip(batch, placed, strict=True)
                if isinstance(result, Appended)
            ]
            writer.executemany("INSERT INTO blob (mailbox, number, at, data) VALUES (?, ?, ?, ?)", blobs)
        self._count(
            sum(isinstance(result, Appended) and result.created for result in placed),
            len(blobs),
            sum(len(row[3]) for row in blobs),
        )
        return placed

    def _row(self, mailbox: bytes) -> tuple[int | None, Kept]:
        """A mailbox's number and row; no number, and a new life, where there is none."""
        found = self._writer.execute(
            "SELECT number, life, first, last, blobs, bytes, oldest FROM mailbox WHERE id = ?", (mailbox,)
        ).fetchone()
        return (
            (None, Kept(secrets.token_bytes(LIFE_BYTES))) if found is None else (found[0], Kept(*found[1:]))
        )

    def _save(self, mailbox: bytes, number: int | None, kept: Kept, now: int) -> int:
        """Write a mailbox's row, and return its number."""
        counted = (kept.last, kept.blobs, kept.bytes, kept.oldest, now)
        if number is not None:
            self._writer.execute(
                "UPDATE mailbox SET last = ?, blobs = ?, bytes = ?, oldest = ?, used = ? WHERE number = ?",
                (*counted, number),
            )
            return number
        made = self._writer.execute(
            "INSERT INTO mailbox (last, blobs, bytes, oldest, used, id, life, first) VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
            (*counted, mailbox, kept.life),
        )
        return made.lastrowid or 0

    def _touch(self, mailbox: bytes, now: int) -> None:
        with _transaction(self._writer) as writer:
            writer.execute("UPDATE mailbox SET used = ? WHERE id = ?", (now, mailbox))

    def _expire(self, cutoff: int) -> tuple[int, bool]:
        """One step: how many blobs were dropped, and whether there may be more."""
        dropped = size = 0
        with _transaction(self._writer) as writer:
            found = writer.execute(
                "SELECT number, last FROM mailbox WHERE oldest < ? ORDER BY oldest LIMIT ?",
                (cutoff, _EXPIRE_MAILBOXES),
            ).fetchall()
            for number, last in found:
                rows = writer.execute(
                    "SELECT number, at, length(data) FROM blob WHERE mailbox = ? ORDER BY number LIMIT ?",
                    (number, _EXPIRE_BLOBS + 1),
                ).fetchall()
                gone = expiring(rows, last, cutoff)
                writer.execute("DELETE FROM blob WHERE mailbox = ? AND number < ?", (number, gone.first))
                writer.execute(
                    "UPDATE mailbox SET first = ?, blobs = blobs - ?, bytes = bytes - ?, oldest = ? WHERE number = ?",
                    (gone.first, gone.blobs, gone.bytes, gone.oldest, number),
                )
                dropped += gone.blobs
                size += gone.bytes
        self._count(0, -dropped, -size)
        return dropped, bool(found)

    def _forget(self, watched: Sequence[bytes], now: int, unused_since: int) -> None:
        """Forget mailboxes that are empty and were not used since; whoever is watched is in use."""
        with _transaction(self._writer) as writer:
            writer.executemany(
                "UPDATE mailbox SET used = ? WHERE id = ? AND used < ?",
                [(now, mailbox, now - _DAY_S) for mailbox in watched],
            )
            gone = writer.execute("DELETE FROM mailbox WHERE oldest IS NULL AND used < ?", (unused_since,))
        self._count(-gone.rowcount, 0, 0)

    def _count(self, mailboxes: int, blobs: int, size: int) -> None:
        usage = self._usage
        self._usage = Usage(usage.mailboxes + mailboxes, usage.blobs + blobs, usage.bytes + size)

    # --- reading, in the thread that reads --------------------------------------------------------------------------

    def _read(self, mailbox: bytes, after: int, max_bytes: int) -> Page:
        with _transaction(self._reader, "BEGIN") as reader:
            found = reader.execute(
                "SELECT number, first, last FROM mailbox WHERE id = ?", (mailbox,)
            ).fetchone()
            if found is None:
                return Page(1, (), True)
            number, first, last = found
            rows = reader.execute(
                "SELECT number, data FROM blob WHERE mailbox = ? AND number > ? ORDER BY number",
                (number, min(after, last)),
            )
            return page(first, last, rows, max_bytes)

    def _state(self, mailbox: bytes) -> tuple[State, int] | None:
        found = self._reader.execute(
            "SELECT life, first, last, used FROM mailbox WHERE id = ?", (mailbox,)
        ).fetchone()
        return (State(*found[:3]), found[3]) if found is not None else None


def _locked(path: Path) -> int:
    """A descriptor that holds the lock on the store's file. Raises `Locked`, `ReadOnly`."""
    lock = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(FileExistsError):  # other users must not read it, whatever the umask says
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ReadOnly(
            f"The relay's store {path} cannot be written: {error.strerror}",
            "Check the path and its permissions.",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Locked(
            f"Another relay uses {path}.", "End it, or name another file; for several relays use PostgreSQL."
        ) from error
    return descriptor


def _connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or see that they are ours. Raises `NotADatabase`, `Unsupported`."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == _APPLICATION_ID and version == _VERSION:
        return
    if application == _APPLICATION_ID and version > _VERSION:
        raise Unsupported(f"{path} was made by a newer crdtlog", "Update crdtlog on this machine.")
    if application or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise NotADatabase(
            f"{path} is something else than a relay's store", "Name a file that does not exist yet."
        )
    connection.executescript(
        f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID};"
        f" PRAGMA user_version = {_VERSION}; COMMIT;"
    )


@contextlib.contextmanager
def _transaction(
    connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE"
) -> Iterator[sqlite3.Connection]:
    connection.execute(begin)
    try:
        yield connection
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # an error; some of SQLite's have ended the transaction already
            connection.execute("ROLLBACK")
