"""Drain: from captured keys to documents and one log entry, in one transaction.

A drain reads the captured rows as they are now, finds by hashes which cells differ from the documents, writes the
documents, appends one entry and forgets the captures: all or nothing. Up to 5,000 rows or 4 MiB of one snapshot become
one entry (R3). A larger backlog is sorted by key once and becomes a group of entries; only when the whole group is out
are its captures deleted, so that a crash in between repeats comparisons (which then find nothing) and loses nothing.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from crdtlog import capture, catalog
from crdtlog.catalog import Tracked
from crdtlog.changes import Batch, write_changes
from crdtlog.clock import julian
from crdtlog.connection import Row, escaping_text, execute_rows
from crdtlog.errors import TooLarge
from crdtlog.payload import MAX_ROWS, TARGET_RAW_BYTES
from crdtlog.remembered import WorkFirst
from crdtlog.rows import joined_sql
from crdtlog.state import State
from crdtlog.values import Key, key_text, pack

#: Rows of a backlog in one entry: small enough that the write lock is held for some tens of milliseconds (R4).
BACKLOG_ROWS = 2_500
#: A reconcile that would delete more rows than this, and more than this share of a table, waits for a person (R2).
MASS_DELETE_ROWS = 100
MASS_DELETE_SHARE = 0.05
_DELETE_CAPTURES = 20_000
#: So often the lock is given back because cells changed while it was worked out how they merge.
PATIENCE = 10
#: Another process that has not moved for so long is not at it any more; so long passes before it is looked for again.
_LEFT_ALONE_S, _MOMENT_S = 1.0, 0.005


class Drained(NamedTuple):
    """What one step did: entries appended, rows in them, and whether more is waiting.

    `trouble` says why texts travel as whole values for now, if they do. `told` says what was undone instead, and why.
    """

    entries: int
    rows: int
    more: bool
    trouble: str = ""
    told: str = ""


@dataclass
class Backlog:
    """Keys sorted into temporary tables, those captured up to `last[table]`; valid while no other process drained."""

    last: dict[bytes, int]
    reconciled: dict[bytes, int]
    drains: object
    todo: list[bytes]
    #: the log's last stamp before the group: within it rows are distinct, so each keeps its own capture time
    floor: int
    #: the log's last sequence number after our last step: an entry by another process means that it drains, too
    seq: int
    #: how many transactions of this process had been undone when it was made
    undone: int
    done: int = 0
    #: many captures of few rows: all of them may still become one entry
    whole: bool = False


_WAITS_FOR_PERSON = "then run `crdtlog check --fix`"


def waits_for_person(reason: str) -> bool:
    """Whether a table is paused until somebody has looked at its rows (and not because of its schema)."""
    return _WAITS_FOR_PERSON in reason


def has_pending(state: State) -> bool:
    """Whether any table that is not paused has captured changes, or waits to be reconciled."""
    return any(
        tracked.reconcile_ms > 0 or capture.pending(state.connection, tracked)
        for tracked in state.tables.values()
        if not tracked.paused
    )


def pending_rows(state: State) -> int:
    """About how many captured changes wait, paused tables included."""
    return sum(capture.pending_rows(state.connection, tracked) for tracked in state.tables.values())


def capture_rows(state: State, tracked: Tracked, keys: Iterable[Key], *, odd: bool) -> None:
    """Note rows that differ from their documents although no trigger saw it, so that the next drain takes them in."""
    marks = ", ".join("?" * (len(tracked.marks) + 1))
    # A row from before joining counts as changed when its file was last written, not now.
    at = julian(-tracked.reconcile_ms if tracked.reconcile_ms < 0 else state.now_ms())
    execute_rows(
        state.connection,
        f"INSERT INTO {tracked.capture_name} (at, {', '.join(tracked.marks)}) VALUES ({marks})",
        ((at, *key) for key in keys),
        odd=odd,
    )


def drain(state: State, drainer: "Drainer") -> Drained:
    """One step; what takes long with merging cells is worked out before the write lock is taken.

    Its answers are remembered: see `State.forget_answers`.
    """
    for _ in range(PATIENCE):
        state.refresh()
        drainer.prepare()
        with state.transaction(), state.quick():
            try:
                return drainer.step()
            except WorkFirst as signal:
                # It comes before anything of the batch is written: what the step did so far stands.
                work = signal.work
        work()
    # Somebody writes to these cells all the time.
    with state.transaction():
        return drainer.step()


def compare_all(state: State) -> None:
    """Have every row compared with its document, also where that waited for a person: one has looked."""
    with state.transaction():
        for tracked in state.tables.values():
            if tracked.held is None or waits_for_person(tracked.held):
                state.hold(tracked, None)
                state.mark_for_reconcile(tracked)
        state.bump()


def reconcile_all(state: State, drainer: "Drainer") -> None:
    """Take in every row that differs from its document, however many are gone."""
    compare_all(state)
    more = True
    while more:
        state.refresh()
        drainer.prepare(allow_mass_delete=True)
        with state.transaction():
            more = drainer.step().more


class Drainer:
    """Drains one file, remembering only an unfinished backlog between steps.

    Of two processes with backlogs of one file, each step of one undoes the other's: whoever finds that leaves the file
    to the other for as long as that moves. Otherwise neither would come to its end while somebody writes without pause.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._backlog: Backlog | None = None
        self._force_backlog = False
        #: how far another process with a backlog had come when it last moved, and when that was
        self._theirs: tuple[object, int] | None = None
        self._moved_at = 0.0

    def prepare(self, *, allow_mass_delete: bool = False) -> None:
        """Sort a large backlog, or a table to be reconciled, before the write lock is taken.

        Not under a schema that nobody has looked at yet: the transaction that follows checks it first.
        """
        if self._backlog is not None or self._state.schema_changed() or self._is_theirs():
            return
        connection = self._state.connection
        active = self._active()
        self._state.warm(active)
        rows = sum(capture.pending_rows(connection, tracked) for tracked in active)
        if self._force_backlog or rows > MAX_ROWS or any(tracked.reconcile_ms > 0 for tracked in active):
            held = (
                []
                if allow_mass_delete
                else [tracked for tracked in active if self._hold_mass_delete(tracked)]
            )
            self._backlog = self._sort([tracked for tracked in active if tracked not in held])
            self._force_backlog = False

    def _is_theirs(self) -> bool:
        """Whether another process is at a backlog of this file; then a moment passes first."""
        if self._theirs is None:
            return False
        reached, now = self._reached(), time.monotonic()
        if reached != self._theirs:
            self._theirs, self._moved_at = reached, now
        elif now - self._moved_at > _LEFT_ALONE_S:
            self._theirs = None
            return False
        time.sleep(_MOMENT_S)
        return True

    def _reached(self) -> tuple[object, int]:
        return catalog.get_meta(self._state.connection, "drains"), self._state.writer.seq

    def _hold_mass_delete(self, tracked: Tracked) -> bool:
        """Absence is weak evidence: a reconcile that would delete much waits for a person (R2)."""
        if tracked.reconcile_ms <= 0:
            return False
        missing, alive = self._state.connection.execute(
            f"SELECT count(CASE WHEN t.{tracked.key_names[0]} IS NULL THEN 1 END), count(*) FROM {tracked.rows_name} r "
            f"LEFT JOIN main.{tracked.quoted} t ON {tracked.same_key('r', 't', right_user=True)} WHERE r.dead = 0"
        ).fetchone()
        if missing <= MASS_DELETE_ROWS or missing <= alive * MASS_DELETE_SHARE:
            return False
        reason = (
            f"{missing:,} of {alive:,} rows of {tracked.name} are gone although no delete was seen; "
            f"put them back or make sure that this is meant, {_WAITS_FOR_PERSON}"
        )
        with self._state.transaction():
            self._state.hold(tracked, reason)
            self._state.bump()
        return True

    def settle(self) -> bool:
        """Drain once if anything waits, inside the caller's transaction; whether nothing waits now."""
        if has_pending(self._state):
            if not self._state.may_write:
                return False
            step = self.step()
            if step.more or has_pending(self._state):
                return False
        self.rest()
        return True

    def step(self, forced: Sequence[int] = ()) -> Drained:
        """Drain once, inside the caller's transaction.

        `forced` are slots to be written of the rows captured, changed or not; only where nothing else is captured.
        """
        backlog = self._backlog
        if backlog is not None and (
            backlog.drains != catalog.get_meta(self._state.connection, "drains")
            or backlog.seq != self._state.writer.seq
            or backlog.undone != self._state.undone
        ):
            # Another process drained meanwhile, so that capture numbers may have been used anew, or a step of ours was
            # undone although its rows count as done. Begin again: the captures are still there, and rows that equal
            # their documents are passed over.
            if backlog.undone == self._state.undone:
                self._theirs, self._moved_at = self._reached(), time.monotonic()
            self._backlog = backlog = None
        if backlog is None:
            drained = self._direct_step(forced)
        else:
            drained = self._backlog_step(backlog)
            backlog.seq = self._state.writer.seq
        return drained._replace(trouble=self._state.trouble)

    def rest(self) -> None:
        """Nothing is pending: a backlog that is left, of a table paused meanwhile, begins anew when there is."""
        self._backlog = None

    def _active(self) -> list[Tracked]:
        return [
            t
            for t in self._state.tables.values()
            if not t.paused and (t.reconcile_ms > 0 or capture.pending(self._state.connection, t))
        ]

    # --- everything at once ---------------------------------------------------------------------------------------

    def _direct_step(self, forced: Sequence[int]) -> Drained:
        active = self._active()
        if not active:
            return Drained(0, 0, False)
        rows = sum(capture.pending_rows(self._state.connection, tracked) for tracked in active)
        if rows > MAX_ROWS or any(tracked.reconcile_ms > 0 for tracked in active):
            self._force_backlog = True
            return Drained(0, 0, True)
        batches = []
        room = TARGET_RAW_BYTES
        for tracked in active:
            keys = ", ".join(tracked.marks)
            source = f"SELECT {keys}, max(at) AS at FROM {tracked.capture_name} GROUP BY {keys}"
            batch, size = _read(self._state, tracked, source, (), room)
            if batch.full:
                self._force_backlog = True
                return Drained(0, 0, True)
            room -= size
            batches.append(batch)
        try:
            rows = write_changes(self._state, batches, self._state.writer.last_stamp, forced)
        except TooLarge:  # a patch can take more bytes than its row: it names what it takes away
            self._force_backlog = True
            return Drained(0, 0, True)
        for tracked in active:
            self._state.connection.execute(f"DELETE FROM {tracked.capture_name}")
        self._count_drain()
        return Drained(1 if rows else 0, rows, False)

    def _count_drain(self) -> None:
        self._state.connection.execute("UPDATE crdtlog__meta SET value = value + 1 WHERE name = 'drains'")

    # --- a group of entries ---------------------------------------------------------------------------------------

    def _sort(self, active: list[Tracked]) -> Backlog:
        connection = self._state.connection
        own = self._state.writer
        drains = catalog.get_meta(connection, "drains")
        backlog = Backlog({}, {}, drains, [], own.last_stamp, own.seq, self._state.undone)
        for tracked in active:
            high = connection.execute(f"SELECT max(seq) FROM {tracked.capture_name}").fetchone()[0] or 0
            backlog.last[tracked.table_id] = high
            backlog.todo.append(tracked.table_id)
            if tracked.reconcile_ms > 0:
                backlog.reconciled[tracked.table_id] = tracked.reconcile_ms
            keys = ", ".join(tracked.marks)
            name = _backlog_name(tracked)
            connection.execute(f"DROP TABLE IF EXISTS {name}")
            connection.execute(
                f"CREATE TEMP TABLE {name} (i INTEGER PRIMARY KEY, {tracked.key_declarations}, at REAL)"
            )
            source, parameters = _keys_to_compare(tracked, high)
            connection.execute(
                f"INSERT INTO {name} ({keys}, at) "
                f"SELECT {keys}, max(at) FROM ({source}) GROUP BY {keys} ORDER BY {keys}",
                parameters,
            )
        names = [_backlog_name(tracked) for tracked in active]
        rows = sum(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names)
        backlog.whole = rows <= MAX_ROWS
        return backlog

    def _whole_step(self, backlog: Backlog) -> Drained | None:
        """All rows of the backlog as one entry (R3); None if they do not fit one."""
        batches, room = [], TARGET_RAW_BYTES
        tables = [self._state.tables.get(table_id) for table_id in backlog.todo]
        active = [tracked for tracked in tables if tracked is not None and not tracked.paused]
        for tracked in active:
            source = f"SELECT {', '.join(tracked.marks)}, at FROM {_backlog_name(tracked)} ORDER BY i"
            batch, size = _read(self._state, tracked, source, (), room)
            if batch.full:
                return None
            room -= size
            batches.append(batch)
        try:
            rows = write_changes(self._state, batches, backlog.floor)
        except TooLarge:
            return None
        for tracked in active:
            self._finish_table(backlog, tracked)
        return Drained(1 if rows else 0, rows, True)

    def _backlog_step(self, backlog: Backlog) -> Drained:
        if backlog.whole:
            drained = self._whole_step(backlog)
            backlog.whole = False
            if drained is not None:
                return drained
        while backlog.todo:
            tracked = self._state.tables.get(backlog.todo[0])
            if tracked is None or tracked.paused:
                backlog.last.pop(backlog.todo.pop(0), None)
                backlog.done = 0
                continue
            source = (
                f"SELECT {', '.join(tracked.marks)}, at FROM {_backlog_name(tracked)} "
                f"WHERE i > ? AND i <= ? ORDER BY i"
            )
            bounds = (backlog.done, backlog.done + BACKLOG_ROWS)
            batch, _ = _read(self._state, tracked, source, bounds, TARGET_RAW_BYTES)
            if not batch.rows:
                self._finish_table(backlog, tracked)
                continue
            return self._batch_step(backlog, batch)
        return self._forget_captures(backlog)

    def _batch_step(self, backlog: Backlog, batch: Batch) -> Drained:
        """As many of these rows as one entry holds: a patch can take more bytes than its row."""
        try:
            rows = write_changes(self._state, [batch], backlog.floor)
        except TooLarge as error:
            if len(batch.rows) > 1:
                return self._batch_step(backlog, batch._replace(rows=batch.rows[: len(batch.rows) // 2]))
            self._pause_too_large(batch.tracked, batch, error)
            rows = 0
        backlog.done += len(batch.rows)
        return Drained(1 if rows else 0, rows, True)

    def _pause_too_large(self, tracked: Tracked, batch: Batch, error: TooLarge) -> None:
        """A row that fits no entry stops its own table only, with its captures kept."""
        key = key_text(batch.rows[0][: len(tracked.keys)])
        self._state.hold(tracked, f"row {key!r} of {tracked.name}: {error}; shorten it, {_WAITS_FOR_PERSON}")
        self._state.bump()

    def _finish_table(self, backlog: Backlog, tracked: Tracked) -> None:
        self._state.connection.execute(f"DROP TABLE IF EXISTS {_backlog_name(tracked)}")
        backlog.todo.remove(tracked.table_id)
        backlog.done = 0
        if backlog.reconciled.get(tracked.table_id) == tracked.reconcile_ms:
            self._state.set_reconcile(tracked, 0)
            self._state.bump()

    def _forget_captures(self, backlog: Backlog) -> Drained:
        """Delete some of the captures that are dealt with; with the last of them the backlog ends.

        Both in one step: once a capture table is empty its numbers are given again, and a backlog that outlived its
        captures would delete newer ones by their numbers.
        """
        room = _DELETE_CAPTURES
        for table_id, last in list(backlog.last.items()):
            tracked = self._state.tables.get(table_id)
            low = None
            if tracked is not None:
                sql = f"SELECT min(seq) FROM {tracked.capture_name} WHERE seq <= ?"
                low = self._state.connection.execute(sql, (last,)).fetchone()[0]
            if tracked is not None and low is not None:
                high = min(last, low + room)
                self._state.connection.execute(f"DELETE FROM {tracked.capture_name} WHERE seq <= ?", (high,))
                room -= high - low
                if high < last:
                    break
            del backlog.last[table_id]
        # Whoever else has a backlog must not delete by numbers that can now be given again.
        self._count_drain()
        backlog.drains = catalog.get_meta(self._state.connection, "drains")
        if backlog.last:
            return Drained(0, 0, True)
        self._backlog = None
        return Drained(0, 0, bool(self._active()))


def _keys_to_compare(tracked: Tracked, high: int) -> tuple[str, tuple[object, ...]]:
    """SQL for the keys of a backlog: those captured; to reconcile, those of every row and every living document."""
    marks = ", ".join(tracked.marks)
    captured = f"SELECT {marks}, at FROM main.{tracked.capture_name} WHERE seq <= ?"
    if tracked.reconcile_ms <= 0:
        return captured, (high,)
    at = julian(tracked.reconcile_ms)
    names = ", ".join(
        f"{name} AS {mark}" for name, mark in zip(tracked.key_names, tracked.marks, strict=True)
    )
    known = " AND ".join(f"{name} IS NOT NULL" for name in tracked.key_names)
    return (
        f"{captured} UNION ALL SELECT {names}, ? FROM main.{tracked.quoted} WHERE {known} "
        f"UNION ALL SELECT {marks}, ? FROM {tracked.rows_name} WHERE dead = 0",
        (high, at, at),
    )


def _backlog_name(tracked: Tracked) -> str:
    return f"temp.crdtlog__backlog_{tracked.number}"


# --- reading ------------------------------------------------------------------------------------------------------


def _read(
    state: State, tracked: Tracked, source: str, parameters: Sequence[object], room: int
) -> tuple[Batch, int]:
    known = state.connection.execute(
        f"SELECT 1 FROM ({source}) c JOIN {tracked.rows_name} r ON {tracked.same_key('r', 'c')} LIMIT 1",
        parameters,
    ).fetchone()
    sql = joined_sql(tracked, source, documents=known is not None)
    try:
        rows, size, full = _read_until(state, sql, parameters, room)
        return Batch(tracked, rows, False, full), size
    except Exception as error:
        if "UTF-8" not in str(error):
            raise
    with escaping_text(state.connection):
        rows, size, full = _read_until(state, sql, parameters, room)
    return Batch(tracked, rows, True, full), size


def _read_until(
    state: State, sql: str, parameters: Sequence[object], room: int
) -> tuple[list[Row], int, bool]:
    """Rows up to about `room` bytes of values, at least one; whether more were left."""
    cursor = state.connection.execute(sql, parameters)
    rows: list[Row] = []
    size, fetch = 0, 4
    while size <= room:
        more = cursor.fetchmany(fetch)
        if not more:
            return rows, size, False
        added = _size(more)
        if size + added > room and len(more) > 1:
            for row in more:
                size += _size([row])
                if size > room and rows:
                    return rows, size, True
                rows.append(row)
        else:
            if size + added > room and rows:
                return rows, size, True
            rows += more
            size += added
        fetch = min(fetch * 2, 1_024)
    left = cursor.fetchone() is not None
    cursor.close()
    return rows, size, left


def _size(rows: list[Row]) -> int:
    """About the bytes that the rows' values take in an entry."""
    return len(pack(rows))
