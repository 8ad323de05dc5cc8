"""Revert: what was written where nothing may be written becomes what the documents say, and is put aside.

A reader's device, or one that was removed: a program wrote its file all the same. Documents know nothing of that yet,
so each captured row is compared with its document, and gets back from the log what it held. What was written is kept,
cell by cell (`crdtlog_aside`). The cost is that of the rows that were written.
"""

from collections.abc import Sequence

from crdtlog import capture
from crdtlog.aside import equal, keep
from crdtlog.catalog import Tracked
from crdtlog.connection import Row, fetch
from crdtlog.document import expand
from crdtlog.drain import has_pending
from crdtlog.history import last_value
from crdtlog.plain_rows import PlainRow, put
from crdtlog.rows import Layout, joined_sql, stored_compact
from crdtlog.state import State
from crdtlog.values import HASH_BYTES, Value, hash_rows

#: So many captures are looked at in one hold of the write lock.
_CAPTURES = 2_500

REASON = "this device may only read"


def revert(state: State) -> int:
    """Revert what is captured, and every row of tables that wait to be compared; returns how many rows were written.

    In holds of the write lock of its own.
    """
    rows = 0
    while has_pending(state):
        with state.transaction():
            for tracked in list(state.tables.values()):
                if not tracked.paused and tracked.reconcile_ms > 0:
                    rows += _revert(state, tracked, *_every(tracked))
                    state.connection.execute(f"DELETE FROM {tracked.capture_name}")
                    state.set_reconcile(tracked, 0)
                    state.bump()
                elif not tracked.paused and capture.pending(state.connection, tracked):
                    rows += _revert_captured(state, tracked)
    return rows


def _revert_captured(state: State, tracked: Tracked) -> int:
    numbers = f"SELECT seq FROM {tracked.capture_name} ORDER BY seq LIMIT {_CAPTURES}"
    (high,) = state.connection.execute(f"SELECT max(seq) FROM ({numbers})").fetchone()
    marks = ", ".join(tracked.marks)
    source = f"SELECT {marks}, max(at) AS at FROM main.{tracked.capture_name} WHERE seq <= ? GROUP BY {marks}"
    (last,) = state.connection.execute(f"SELECT max(seq) FROM {tracked.capture_name}").fetchone()
    rows = _revert(state, tracked, source, (high,))
    # What was written back was captured, too.
    state.connection.execute(f"DELETE FROM {tracked.capture_name} WHERE seq <= ? OR seq > ?", (high, last))
    return rows


def _every(tracked: Tracked) -> tuple[str, tuple[object, ...]]:
    """SQL for the keys of all rows and all living documents."""
    marks = ", ".join(tracked.marks)
    names = ", ".join(
        f"{name} AS {mark}" for name, mark in zip(tracked.key_names, tracked.marks, strict=True)
    )
    known = " AND ".join(f"{name} IS NOT NULL" for name in tracked.key_names)
    both = (
        f"SELECT {names} FROM main.{tracked.quoted} WHERE {known} "
        f"UNION SELECT {marks} FROM {tracked.rows_name} WHERE dead = 0"
    )
    return f"SELECT {marks}, julianday('now') AS at FROM ({both})", ()


def _revert(state: State, tracked: Tracked, source: str, parameters: Sequence[object]) -> int:
    rows, _ = fetch(state.connection, joined_sql(tracked, source), parameters)
    both = [pair for row in rows if (pair := _differing(state, tracked, row)) is not None]
    put(state, tracked, [base for base, _ in both])
    keep(state, tracked, both, REASON)
    return len(both)


def _differing(state: State, tracked: Tracked, row: Row) -> tuple[PlainRow, PlainRow] | None:
    """A row as its document says, and as it is; None if that is the same."""
    layout = Layout.of(tracked)
    key, at = row[: layout.at], row[layout.at]
    cells: Sequence[Value] | None = row[layout.cells] if row[layout.present] else None
    stored, strata, hashes = row[-7:-3], row[-2], row[-1]
    base: list[Value] | None = None
    if stored[0] is not None and not stored[3]:
        digest = b"" if cells is None else hash_rows([(cell,) for cell in cells], 1, state.seed)[0]
        if digest == hashes and cells is not None:
            return None
        showing = expand(stored_compact(stored, strata), tracked.slots).showing
        base = [
            cells[at]
            if cells is not None and _span(digest, at) == _span(hashes, at)
            else last_value(state, tracked, key, slot, showing[slot])
            for at, slot in enumerate(tracked.cell_slots)
        ]
    if equal(base, cells):
        return None
    return PlainRow(key, base, at), PlainRow(key, cells, at)


def _span(hashes: bytes, cell: int) -> bytes:
    return hashes[cell * HASH_BYTES : (cell + 1) * HASH_BYTES]
