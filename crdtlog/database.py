"""The engine on one file: what programs and the command line call.

A `Database` is a `Replica` that programs open: their own SQL, what they hold open, tables, and questions.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from crdtlog import (
    check,
    drain,
    history,
    mending,
    reverting,
    schema,
    tracking,
    welcome,
)
from crdtlog.check import Difference, Progress, Verified, no_progress
from crdtlog.connection import escaping_text, translate
from crdtlog.device import Home
from crdtlog.live import Live, each
from crdtlog.merge_check import Unmerged, unmerged
from crdtlog.opening import file_time_ms, join_state, open_state
from crdtlog.replica import Replica
from crdtlog.restore import Restored, restore_value
from crdtlog.snapshot import Snapshot, snapshot
from crdtlog.state import State
from crdtlog.tracking import TableStatus
from crdtlog.values import Value
from crdtlog.watch import Change, watch

if TYPE_CHECKING:
    from pycrdt import Array, Doc, Map, Text


class Database(Replica):
    """One replicated file, opened by this device. Use `crdtlog.open`; a context manager."""

    def __init__(self, state: State, home: Home) -> None:
        super().__init__(state, home)
        self._user: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.drain_all()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file. What was captured but not drained stays captured.

        Raises if an edit of an open text could not be written; the file is closed then, too.
        """
        try:
            each(self._live, Live.close)
        finally:
            self._live.clear()
            self._close()

    def _close(self) -> None:
        if self._user is not None:
            self._user.close()
        self._state.close()

    # --- what programs hold open ----------------------------------------------------------------------------------

    def text(self, table: str, key: Value | Sequence[Value], column: str) -> "Text":
        """A row's text as a `pycrdt.Text` that lives: its edits go into the file at once, as they were made.

        For editors; plain SQL goes on to work. What others write comes in with `refresh`. What is no text any more, or
        whose row is deleted, takes no more edits: `StaleDocument` then comes once from `drain_all`, `refresh` or
        `close`. Raises `NoSuchTable`, `NoSuchRow`, `Usage` (the column is of another kind, or holds no text).
        """
        from crdtlog.live_text import LiveText

        return cast("Text", self._held(LiveText, table, key, column))

    def json(self, table: str, key: Value | Sequence[Value], column: str) -> "Map[Any] | Array[Any]":
        """A row's JSON as a `pycrdt.Map` or `pycrdt.Array` that lives, as `text` does; see `crdtlog.live_json`.

        An edit made after another program on this device wrote the cell goes into the file with the next `refresh`.
        """
        from crdtlog.live_json import LiveJson

        return cast("Map[Any] | Array[Any]", self._held(LiveJson, table, key, column))

    def set(self, table: str, key: Value | Sequence[Value], column: str) -> "Array[Any]":
        """A row's set as a `pycrdt.Array` that lives, as `text` does; `refresh` puts its elements in order."""
        from crdtlog.live_json import LiveSet

        return cast("Array[Any]", self._held(LiveSet, table, key, column))

    def _held(self, kind: type[Live], table: str, key: Value | Sequence[Value], column: str) -> object:
        self._live.append(live := kind(self._state, self._drainer, table, key, column))
        return live.shared

    # --- the person's own SQL -------------------------------------------------------------------------------------

    @property
    def connection(self) -> sqlite3.Connection:
        """A plain connection for the program's own SQL, in autocommit mode; whatever it writes is captured."""
        if self._user is None:
            self._user = sqlite3.connect(
                self.path, isolation_level=None, timeout=5.0, check_same_thread=False
            )
        return self._user

    def execute(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> sqlite3.Cursor:
        """Run one SQL statement on `connection`."""
        return self.connection.execute(sql, cast(Any, parameters))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One immediate transaction on `connection`: what it changes becomes visible elsewhere as one."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def watch(
        self,
        sql: str,
        parameters: Sequence[object] = (),
        *,
        poll_seconds: float = 0.05,
        timeout: float | None = None,
    ) -> Iterator[Change]:
        """The rows of a query now, and again whenever anybody's write changes them; see `crdtlog.watch.watch`."""
        return watch(self.connection, sql, parameters, poll_seconds=poll_seconds, timeout=timeout)

    # --- tables ---------------------------------------------------------------------------------------------------

    def track(
        self, table: str, merge: Mapping[str, str] | None = None, progress: Progress = no_progress
    ) -> bool:
        """Begin to replicate a table, with the rows it has; False if it was tracked already.

        If it was and that was interrupted, the rest of its rows are taken in now.
        `merge` gives columns another kind than they have (`register` at first), also in a table that is tracked.
        Raises `NoSuchTable`, `Untrackable`, `Usage`.
        """
        self._state.require_writer()
        table_here = schema.read_table(self._state.connection, table)
        rows_ms = file_time_ms(self.path)
        with self._state.transaction():
            begun = tracking.begin(self._state, table_here, merge or {}, rows_ms)
        if begun.drain_now:
            self._take_in(table_here.name, progress)
        return begun.is_new

    def _take_in(self, table: str, progress: Progress) -> None:
        total = self._state.connection.execute(f"SELECT count(*) FROM {schema.quote(table)}").fetchone()[0]
        done, more = 0, True
        while more:
            step = self.drain()
            done, more = done + step.rows, step.more
            progress(table, done, max(total, done))

    def tables(self) -> list[TableStatus]:
        """The tracked tables and their condition."""
        self._state.refresh()
        return tracking.statuses(self._state)

    # --- questions ------------------------------------------------------------------------------------------------

    def query(self, sql: str, parameters: Sequence[object] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows of a query that cannot write, on `connection`.

        Text that is not valid UTF-8 comes with surrogate escapes.
        """
        connection = self.connection
        connection.execute("PRAGMA query_only = ON")
        try:
            with escaping_text(connection):
                cursor = connection.execute(sql, parameters)
                return [column[0] for column in cursor.description or ()], cursor.fetchall()
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        finally:
            connection.execute("PRAGMA query_only = OFF")

    def conflicts(self) -> list[dict[str, Any]]:
        """Every losing version: table, key, column, value, device, at, dot."""
        return self._view('SELECT * FROM crdtlog_conflicts ORDER BY "table", key, "column", at')

    def history(
        self, table: str, key: Value | Sequence[Value], column: str | None = None
    ) -> list[history.Written]:
        """Every write of one row by time, as far as the log goes; reads the whole log: see `crdtlog.history.history`.

        A key of several columns is a tuple, or what `conflicts` gives. Raises `NoSuchTable`, `NoSuchRow`, `Usage`.
        """
        return history.history(self._state, table, key, column)

    def document(self, table: str, key: Value | Sequence[Value]) -> "Doc[Any]":
        """A row as a Yjs document, as it shows now: a snapshot; see `crdtlog.snapshot.Snapshot.document`.

        A key is as for `history`. Raises `NoSuchTable`, `NoSuchRow`, `TablePaused`, `Usage`.
        """
        return self.snapshot(table, key).document()

    def snapshot(self, table: str, key: Value | Sequence[Value]) -> Snapshot:
        """What `document` is made from: the row's columns, and the document's bytes. Reads nothing but the row."""
        return snapshot(self._state, table, key)

    def restore_value(
        self, table: str, key: Value | Sequence[Value], column: str | None, dot: str
    ) -> Restored:
        """Write a version again, one that `conflicts` or `history` gave: it shows, and its conflict is settled.

        A deleted row comes back whole, with that value; `column` None brings it back as the conflict lists it. `dot`
        may also be written with the beginning of the writer's id, or with the device's name if unique: "laptop:12".
        All or nothing. Raises `NoSuchTable`, `NoSuchRow`, `NoSuchVersion`, `TablePaused`, `Usage`.
        """
        self._state.require_writer()
        return restore_value(self._state, self._drainer, table, key, column, dot)

    def log(self, kind: str | None = None, after: int = 0) -> list[dict[str, Any]]:
        """All devices' entries by time: at, device, sequence, kind, summary, writer, position."""
        return self._view(
            "SELECT * FROM crdtlog_log WHERE (?1 IS NULL OR kind = ?1) AND position > ?2", (kind, after)
        )

    def _view(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        with escaping_text(self._state.connection):
            cursor = self._state.connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def check(self, *, fix: bool = False, progress: Progress = no_progress) -> list[Difference]:
        """Compare all rows with their documents, and merge documents with the log.

        With `fix`, build those anew, and take in the rows that differ as changes made now.
        """
        self._state.refresh()
        if fix:
            self.mend()
        found = check.differences(self._state, progress)
        if fix and self._state.may_write:
            drain.reconcile_all(self._state, self._drainer)
        elif fix:
            drain.compare_all(self._state)
            reverting.revert(self._state)
        return found

    def mend(self) -> int:
        """Build merge documents anew that are not what the log says (a damaged file); returns how many rows'.

        Nothing is drained, as that needs them. `check` with `fix` does this first.
        """
        self._state.refresh()
        return mending.mend_all(self._state)

    def verify(self, progress: Progress = no_progress) -> Verified:
        """Check signatures, chains and contexts of all logs, and digest all documents."""
        return check.verify(self._state, progress)

    def unmerged(self) -> list[Unmerged]:
        """Cells of mergeable columns that do not merge, and why; reads every row of such tables."""
        self._state.refresh()
        return unmerged(self._state)


def open_database(
    path: str | Path,
    *,
    home: Home | str | Path | None = None,
    name: str | None = None,
    create: bool = True,
    recovery: bytes | None = None,
) -> Database:
    """Open a replicated database, or make the file one (founding a new database) if `create` is given.

    `home` holds this device's keys (default: `CRDTLOG_HOME` or the platform's directories), `name` names the device
    when its keys are made. `recovery` is the public half of a recovery key (`crdtlog.new_recovery()`), which a new
    database then has for ever; without it a new one has none, and cannot be given one later. A database that is there
    keeps what it has: compare with its `recovery`. Raises `NotADatabase`, `ReadOnly`, `NotInitialised`, `WrongDevice`,
    `Unsupported`, `KeysUnusable`, `Usage` (no public half).
    """
    where = Home.of(home)
    state = open_state(Path(path).absolute(), where, name=name, create=create, recovery=recovery)
    database = Database(state, where)
    try:
        database.check_mark()
    except BaseException:
        database.close()
        raise
    return database


def adopt(
    path: str | Path, data: bytes, *, home: Home | str | Path | None = None, name: str | None = None
) -> Database:
    """Make a file part of the database that a pairing's welcome describes; all of it or nothing.

    Raises `Malformed`, `SchemaRefused`, `WrongDevice`, `PairingFailed`.
    """
    where = Home.of(home)
    decoded = welcome.decode(data)
    return Database(join_state(Path(path).absolute(), where, decoded, name=name), where)
