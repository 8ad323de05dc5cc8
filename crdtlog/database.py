"""The engine on one file: what programs, the daemon and the command line call.

A `Database` belongs to one thread at a time. It drains local changes into the log, applies other devices' entries, and
answers questions; it opens no socket and starts no thread. Several processes may each have one on the same file:
SQLite's write lock orders them, and cached facts are refreshed under it.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from crdtlog import (
    accept,
    catalog,
    check,
    drain,
    forks,
    history,
    members,
    membership,
    mending,
    proof,
    reverting,
    rotating,
    schema,
    tracking,
    welcome,
)
from crdtlog.accept import Applied
from crdtlog.check import Difference, Progress, Verified, no_progress
from crdtlog.connection import escaping_text, translate
from crdtlog.device import Device, Home
from crdtlog.drain import Drained, Drainer
from crdtlog.epoch_keys import EpochKeys
from crdtlog.live import Live, each
from crdtlog.log import Batch
from crdtlog.members import Member
from crdtlog.membership import Conflict, Newcomer
from crdtlog.merge_check import Unmerged, unmerged
from crdtlog.opening import file_time_ms, join_state, open_state
from crdtlog.recovery import RecoveryKey
from crdtlog.relays import Relays
from crdtlog.restore import Restored, restore_value
from crdtlog.snapshot import Snapshot, snapshot
from crdtlog.state import State
from crdtlog.telling import Telling
from crdtlog.tracking import TableStatus
from crdtlog.values import Value
from crdtlog.versions import Head
from crdtlog.watch import Change, watch

if TYPE_CHECKING:
    from pycrdt import Array, Doc, Map, Text


class Database:
    """One replicated file, opened by this device. Use `crdtlog.open`; a context manager."""

    def __init__(self, state: State, home: Home) -> None:
        self._state = state
        self._drainer = Drainer(state)
        self._user: sqlite3.Connection | None = None
        self._data_version = -1
        self._live: list[Live] = []
        self.home = home
        self._telling = Telling(state, home)
        #: the relays that this file's devices use, and how far they were read
        self.relays = Relays(state)
        #: the epochs' secrets, for those who seal
        self.epoch_keys = EpochKeys(state)
        #: how many entries were written anew when the file was opened; None if its log went on as it was
        self.written_anew: int | None = None

    # --- identity -------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The file."""
        return self._state.path

    @property
    def id(self) -> bytes:
        """The database's 32-byte id, the same on every device."""
        return self._state.database

    @property
    def device(self) -> Device:
        """This device."""
        return self._state.device

    @property
    def writer(self) -> bytes:
        """The id of this device's current log (24 bytes)."""
        return self._state.writer.id

    @property
    def epoch(self) -> bytes:
        """The id of the current epoch."""
        return self._state.epoch

    @property
    def recovery(self) -> bytes | None:
        """The recovery key's public half (32 bytes) that the founding record names for ever, or None."""
        genesis = cast(bytes, catalog.get_meta(self._state.connection, "genesis"))
        return membership.decode_genesis(genesis).recovery

    def epochs(self) -> dict[bytes, bytes]:
        """The secrets of all epochs this device holds, by id: the current one first, then the deepest."""
        self._state.refresh()
        return self.epoch_keys.held()

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

    def refresh(self) -> None:
        """Write what open documents still hold, and take into them what was written elsewhere; quick if nothing was."""
        each(self._live, Live.flush, Live.refresh)

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

    # --- draining and applying ------------------------------------------------------------------------------------

    def drain(self) -> Drained:
        """Take captured changes into documents and the log: one entry at most; call again while `more`.

        Holds the write lock for tens of milliseconds. On a reader's device, what was captured is undone and put aside
        instead (`crdtlog_aside`); on one that was removed it is left as it is. Raises `Busy`, `DiskFull`.
        """
        self._state.refresh()
        if not self._state.may_write:
            return self._undo_written()
        rotating.before_writing(self._state)
        try:
            return drain.drain(self._state, self._drainer)
        finally:
            self._state.forget_answers()

    def _undo_written(self) -> Drained:
        if self._state.role(self.device.id) is None:
            return Drained(0, 0, False)
        rows = reverting.revert(self._state)
        count = "1 row" if rows == 1 else f"{rows:,} rows"
        told = f"{reverting.REASON}: what was written here was undone, and put aside ({count})"
        return Drained(0, 0, False, told=told if rows else "")

    def drain_all(self) -> int:
        """Drain until nothing is captured; returns the number of changed rows."""
        rows = 0
        while True:
            step = self.drain()
            rows += step.rows
            if not step.more:
                self.refresh()
                return rows

    def pending(self) -> int:
        """About how many captured changes wait to be drained."""
        self._state.refresh()
        return drain.pending_rows(self._state)

    def apply(self, signed: Sequence[bytes], hold_ms: float = 20) -> Applied:
        """Merge other devices' entries, in the order given, which must be causal; what is captured is drained first.

        Stops after holding the write lock for about `hold_ms`; call again with what is left. An entry already held is
        skipped. Raises `EntryRefused`, `Malformed`, `TooLarge`, `TablePaused` if the first entry cannot be accepted; a
        later one ends the batch early instead.
        """
        self._state.refresh()
        rotating.before_writing(self._state)
        applied = accept.apply(self._state, self._drainer, signed, hold_ms)
        each(self._live, Live.refresh)
        return applied

    def learn_fork(self, signed: bytes) -> None:
        """Know that a log is forked, by an entry that is not the one held under its number (R11); raises as `apply`."""
        accept.learn(self._state, self._drainer, signed)
        each(self._live, Live.refresh)

    def unmerged(self) -> list[Unmerged]:
        """Cells of mergeable columns that do not merge, and why; reads every row of such tables."""
        self._state.refresh()
        return unmerged(self._state)

    def caught_up(self) -> None:
        """Tell that everything a first peer had is applied: rows that were here before joining are now taken in."""
        tracking.take_in_what_waited(self._state)

    def begin_anew_if_ahead(self, peer_ms: int) -> bool:
        """Go on as a new writer if this log's stamps are over five minutes ahead of both clocks; True if so.

        `peer_ms` is another device's clock. Otherwise one bad hour with a wrong clock would win over everybody's
        concurrent writes until the right time had caught up (R9): within a log, stamps never run backwards.
        """
        return self._telling.begin_anew_if_ahead(peer_ms, self.drain_all)

    def confirm(self) -> bool:
        """Note outside of the file, durably, that this device's log may be told to others as it is now (R11).

        False if others may know other entries under its numbers (a restored or copied file): then `begin_anew`.
        """
        return self._telling.confirm()

    def unconfirmed(self) -> dict[int, bytes]:
        """The hashes of this device's last entries that others cannot know, by sequence number."""
        return self._telling.unconfirmed()

    def begin_anew(self) -> int:
        """Go on as a new writer, and write anew the own entries that nobody else can have (R11); returns how many.

        What is captured is drained first, under the old name.
        """
        self.drain_all()
        return self._telling.begin_anew(self._drainer)

    def check_mark(self) -> None:
        """Go on as a new writer if others may know more of this log than it holds."""
        if self._telling.is_behind():
            self.written_anew = self.begin_anew()

    def data_changed(self) -> bool:
        """Whether another connection committed since this was last asked."""
        version = self._state.connection.execute("PRAGMA data_version").fetchone()[0]
        changed = bool(version != self._data_version)
        self._data_version = version
        return changed

    # --- logs -----------------------------------------------------------------------------------------------------

    def heads(self) -> dict[bytes, Head]:
        """The last entry held of every log."""
        self._state.refresh()
        return self._state.log.heads()

    def position(self) -> int:
        """The last position of the local log order."""
        return self._state.log.position()

    def entries_after(self, position: int, lacking: Mapping[bytes, int], max_bytes: int) -> Batch:
        """Entries behind `position` that a holder of the vector `lacking` lacks, in causal order."""
        return self._state.log.entries_after(position, lacking, max_bytes)

    def hashes(self, asked: Mapping[bytes, Collection[int]]) -> dict[bytes, dict[int, bytes]]:
        """Of the entries asked for, by writer and number, the hashes of those that are held."""
        self._state.refresh()
        return forks.hashes(self._state.log, asked)

    def signed_entry(self, writer: bytes, seq: int) -> bytes:
        """The bytes of a held entry as its author signed them. Raises `EntryRefused` for one that is not held."""
        self._state.refresh()
        return self._state.log.original_of(writer, seq)

    def forks(self) -> list[proof.Fork]:
        """Where devices signed different entries under one number; the proofs are kept, and `verify` reads them."""
        self._state.refresh()
        return proof.forks(self._state.connection)

    def record_held(self, device: bytes, vector: Mapping[bytes, int]) -> None:
        """Remember what another device has acknowledged; never less than before."""
        with self._state.transaction():
            members.record_held(self._state, device, vector)

    def held(self) -> dict[bytes, dict[bytes, int]]:
        """What each other device has acknowledged: device → writer → sequence number."""
        self._state.refresh()
        return members.held(self._state)

    # --- members --------------------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """The devices of the database, this one first."""
        return members.members(self._state)

    def devices(self) -> list[Member]:
        """All devices that belong or belonged, removed ones (role None) last."""
        self._state.refresh()
        return members.members(self._state, removed=True)

    def add_member(self, newcomer: Newcomer, note: str = "") -> None:
        """Add a device, by an entry of the log; one that belongs already (and lost its file) stays as it is.

        `note` goes into its line of this file's log alone. Raises `EntryRefused` if this device may not add others.
        """
        with self._state.transaction():
            members.add(self._state, newcomer, note)

    def change_role(self, device: bytes, role: str) -> None:
        """Have a device do more, or less: `admin`, `writer` or `reader`.

        Raises `EntryRefused` if this device may not say so, `Usage` for no member and for the last admin.
        """
        self.drain_all()
        with self._state.transaction():
            members.change_role(self._state, device, role)

    def remove_member(self, device: bytes) -> None:
        """Have a device belong no more, or leave (its own id). Raises as `change_role`."""
        self.drain_all()
        with self._state.transaction():
            members.remove(self._state, device)
            if device != self.device.id:
                rotating.rotate(self._state)

    def rotate_if_due(self) -> bool:
        """Hand out a new secret if somebody removed knows every other, or a member lacks the current; whether it was.

        To be called when nothing else is on its way: the one who removed a device does it, too.
        """
        self._state.refresh()
        if not rotating.is_rotation_due(self._state):
            return False
        self.drain_all()
        return rotating.rotate_if_due(self._state)

    def recover(self, key: RecoveryKey) -> None:
        """Make this device an admin by the recovery key, whatever was said of it. Raises `Usage` for another key."""
        if self._state.may_write:
            self.drain_all()
        with self._state.transaction():
            members.recover(self._state, key)
            rotating.rotate(self._state)

    def admins_conflict(self) -> list[Conflict]:
        """The devices about which admins who did not know of one another said different things."""
        self._state.refresh()
        return [] if self._state.group.is_plain else self._state.group.found.conflicts

    def welcome(self) -> bytes:
        """What a new device needs to join; secret, for the inside of a pairing only."""
        self._state.refresh()
        return welcome.encode(members.welcome(self._state))

    def addresses(self) -> dict[bytes, list[str]]:
        """Where other devices were last reached, `host:port`, latest first."""
        return members.addresses(self._state)

    def record_address(self, device: bytes, address: str, seen_ms: int) -> None:
        """Remember that a device was reached at `host:port`; the last few are kept."""
        with self._state.transaction():
            members.record_address(self._state, device, address, seen_ms)

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
