"""Restore: a version that lost, was overwritten, or went with its row is written again, as a change made now.

It becomes an ordinary captured write on this device, drained in the same transaction. So it has seen all versions that
are here, and settles the conflict on every device. Values come from the log by their dots, never from what is shown.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

from crdtlog import document
from crdtlog.catalog import Tracked
from crdtlog.connection import bindable, execute_rows, fetch
from crdtlog.document import BIRTH, Version
from crdtlog.drain import Drainer, capture_rows
from crdtlog.errors import NoSuchTable, NoSuchVersion, TablePaused, Usage
from crdtlog.finding import Row, find_row, slot_of
from crdtlog.history import Write, device_names, dot_text, last_value, losing_versions, written_by
from crdtlog.payload import DELETE
from crdtlog.rows import Layout, document_key, joined_sql
from crdtlog.state import State
from crdtlog.values import Key, Value, hash_rows

#: How the view of conflicts shows the column of a row that was lost as a whole.
WHOLE_ROW = "NULL"


class Restored(NamedTuple):
    """What was written: a value, or with `column` None a whole row; `revived` if the row had been deleted.

    `dot` names the new version; None if the value shows already and nothing stood against it.
    """

    table: str
    key: Value
    column: str | None
    value: Value
    revived: bool
    dot: str | None


def restore_value(
    state: State,
    drainer: Drainer,
    table: str,
    key: Value | Sequence[Value],
    column: str | None,
    dot: str,
) -> Restored:
    """Write a version again, all or nothing; what is captured is drained first. See `Database.restore_value`."""
    while True:
        state.refresh()
        drainer.prepare()
        with state.transaction():
            if drainer.settle():
                return _restore(state, drainer, table, key, column, dot)


def _restore(
    state: State, drainer: Drainer, table: str, key: Value | Sequence[Value], column: str | None, dot: str
) -> Restored:
    tracked = state.table(table)
    if tracked.paused:
        raise TablePaused(
            f"table {tracked.name} is paused: {tracked.paused}", f"See: crdtlog doctor {state.path}"
        )
    row = find_row(state, tracked, key)
    slot = _slot(tracked, column)
    if _changed_unseen(state, tracked, row.key):
        capture_rows(state, tracked, [row.key], odd=True)
        drainer.step()
        row = find_row(state, tracked, row.key)
    chosen = _chosen(state, tracked, row, slot, dot)
    forced: tuple[int, ...] = ()
    if row.compact.dead:
        _insert(state, tracked, row, chosen)
    elif slot is not None:
        _update(state, tracked, row, slot, chosen[slot])
        if any(loser == slot for loser, _ in losing_versions(state, tracked, row.key)):
            forced = (slot,)
    step = drainer.step(forced)
    assert step.rows == 1 or not (row.compact.dead or forced), "the row that was written is not there"
    own = state.writer
    return Restored(
        tracked.name,
        document_key(tracked, row.key),
        None if slot is None else next(item.name for cell, item in tracked.cells if cell == slot),
        None if slot is None else chosen[slot],
        row.compact.dead,
        dot_text(state, Version(0, own.number, own.seq)) if step.rows else None,
    )


def _slot(tracked: Tracked, column: str | None) -> int | None:
    """The slot of a column; None for the row as a whole."""
    if column is None:
        return None
    try:
        return slot_of(tracked, column)
    except NoSuchTable:
        if column == WHOLE_ROW:
            return None
        raise


def _changed_unseen(state: State, tracked: Tracked, key: Key) -> bool:
    """Whether a row differs from its document although nothing is captured: overwriting it would lose that."""
    layout = Layout.of(tracked)
    source = (
        f"SELECT {', '.join(tracked.marks)}, 0 AS at FROM {tracked.rows_name} WHERE {tracked.where_document}"
    )
    rows, _ = fetch(state.connection, *bindable(joined_sql(tracked, source), key))
    present, cells, dead, hashes = rows[0][layout.present], rows[0][layout.cells], rows[0][-4], rows[0][-1]
    if bool(present) == bool(dead):
        return True
    return bool(present) and hash_rows([(cell,) for cell in cells], 1, state.seed)[0] != hashes


# --- which version ------------------------------------------------------------------------------------------------


def _chosen(state: State, tracked: Tracked, row: Row, slot: int | None, dot: str) -> dict[int, Value]:
    """The values that the version brings: of one slot, or none where the row comes back as it was."""
    found = [write for write in _named(state, tracked, row, dot) if _brings(tracked, row, slot, write)]
    if len(found) == 1:
        return {} if slot is None else {slot: _value(state, tracked, row, slot, found[0])}
    shown = document_key(tracked, row.key)
    if found:
        dots = ", ".join(dot_text(state, write.version) for write in found)
        raise Usage(f"{dot!r} may be each of these versions: {dots}", "Write more of it.")
    look = f"crdtlog history {state.path} {tracked.name} KEY"
    if slot is None:
        why = (
            f"has lost nothing by {dot} to a delete that had not seen it"
            if row.compact.dead
            else f"is there, so that {dot} cannot bring it back"
        )
        raise NoSuchVersion(
            f"row {shown!r} of table {tracked.name} {why}", f"Name a column and one of its versions: {look}"
        )
    raise NoSuchVersion(
        f"row {shown!r} of table {tracked.name} has no version {dot} of that column",
        f"See its versions: {look}",
    )


def _brings(tracked: Tracked, row: Row, slot: int | None, write: Write) -> bool:
    """Whether a write can be restored: it wrote the column; or for a whole row, the delete had not seen it."""
    if slot is not None:
        return slot in write.cells
    if not row.compact.dead or write.operation == DELETE:
        return False
    alive = document.expand(row.compact, tracked.slots).liveness
    return alive.get(write.version, False) or not tracked.cells


def _value(state: State, tracked: Tracked, row: Row, slot: int, write: Write) -> Value:
    """What a version brings: its value; where it merges, what shows of it or is listed, while it is kept."""
    if slot not in tracked.kinds:
        return write.cells[slot]
    if document.expand(row.compact, tracked.slots).showing[slot] == write.version:
        if row.compact.dead:
            return last_value(state, tracked, row.key, slot, write.version)
        cell = tracked.cell_names[tracked.cell_slots.index(slot)]
        sql = f"SELECT {cell} FROM main.{tracked.quoted} WHERE {tracked.where_key}"
        kept, _ = fetch(state.connection, *bindable(sql, row.key))
    else:
        _, writer, seq = write.version
        name = (tracked.number, document_key(tracked, row.key))
        sql = "SELECT value FROM crdtlog__loser WHERE tab = ? AND key = ? AND slot = ? AND writer = ? AND seq = ?"
        kept, _ = fetch(state.connection, sql, (*name, slot, writer, seq))
    return cast(Value, kept[0][0]) if kept else write.cells[slot]


def _named(state: State, tracked: Tracked, row: Row, dot: str) -> Iterator[Write]:
    """The writes of a row that a dot may mean: the writer's id, its beginning, or its device's name, and the number."""
    name, _, digits = dot.rpartition(":")
    if not name or not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise Usage(
            f"{dot!r} names no version",
            "A version is a writer and a number, as in 6011ba22:12 or laptop:12. "
            f"See: crdtlog history {state.path} {tracked.name} KEY",
        )
    devices = device_names(state)
    for writer in state.log.writers.values():
        if writer.id.hex().startswith(name.lower()) or devices[writer.number] == name:
            write = written_by(state, tracked, row.key, writer.number, int(digits))
            if write is not None:
                yield write


# --- writing it ---------------------------------------------------------------------------------------------------


def _update(state: State, tracked: Tracked, row: Row, slot: int, value: Value) -> None:
    name = tracked.cell_names[tracked.cell_slots.index(slot)]
    sql = f"UPDATE main.{tracked.quoted} SET {name} = ? WHERE {tracked.where_key}"
    execute_rows(state.connection, sql, [(value, *row.key)], odd=True)


def _insert(state: State, tracked: Tracked, row: Row, chosen: dict[int, Value]) -> None:
    """Insert a deleted row with the values that its document still names, or what was chosen instead."""
    values: dict[int, Value] = {}
    for slot, version in document.expand(row.compact, tracked.slots).showing.items():
        if slot != BIRTH and slot not in chosen:
            values[slot] = last_value(state, tracked, row.key, slot, version)
    values |= chosen
    cells = [values[slot] for slot in tracked.cell_slots]
    names = tracked.cell_names if tracked.respelled else [*tracked.key_names, *tracked.cell_names]
    inserted = cells if tracked.respelled else [*row.key, *cells]
    marks = ", ".join("?" * len(names))
    sql = f"INSERT INTO main.{tracked.quoted} ({', '.join(names)}) VALUES ({marks})"
    execute_rows(state.connection, sql, [inserted], odd=True)
