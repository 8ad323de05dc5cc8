"""Rows as plain cells, read and written as a program would: for what has to be written once more, or put aside."""

from collections.abc import Sequence
from typing import NamedTuple

from crdtlog import clock
from crdtlog.catalog import Tracked
from crdtlog.connection import bindable, execute_rows, fetch
from crdtlog.entry import Entry
from crdtlog.payload import decode_data
from crdtlog.rows import Layout, joined_sql
from crdtlog.state import State
from crdtlog.values import Key, Value, has_odd_text


class PlainRow(NamedTuple):
    """A row: its cells, or None where it is gone; and when that was written (Julian day)."""

    key: Key
    cells: Sequence[Value] | None
    at: float


def rows_of(item: Entry) -> dict[bytes, dict[Key, float]]:
    """The rows that an entry wrote, by table, and when."""
    rows: dict[bytes, dict[Key, float]] = {}
    for section in decode_data(item.payload(), item.first_stamp, item.last_stamp).sections:
        table = rows.setdefault(section.table, {})
        for row in range(section.rows):
            table[section.key(row)] = clock.julian(clock.stamp_ms(section.stamps[row]))
    return rows


def rows_now(state: State, tracked: Tracked, rows: dict[Key, float]) -> list[PlainRow]:
    """Some rows, with their times, as they are in the file."""
    layout = Layout.of(tracked)
    source = ", ".join(f"? AS {mark}" for mark in tracked.marks)
    sql = joined_sql(tracked, f"SELECT {source}, 0 AS at", documents=False)
    found = []
    for key, at in rows.items():
        ((*row,),), _ = fetch(state.connection, *bindable(sql, key))
        found.append(PlainRow(key, row[layout.cells] if row[layout.present] else None, at))
    return found


def put(state: State, tracked: Tracked, rows: Sequence[PlainRow]) -> None:
    """Make rows what they should be, as a program would; what that captures counts from the time it was first done."""
    connection = state.connection
    odd = any(has_odd_text(row.key) or has_odd_text(row.cells or ()) for row in rows)
    names = tracked.cell_names if tracked.respelled else [*tracked.key_names, *tracked.cell_names]
    whole = [
        row.cells if tracked.respelled else (*row.key, *row.cells) for row in rows if row.cells is not None
    ]
    gone = [row.key for row in rows if row.cells is None]
    marks = ", ".join("?" * len(names))
    execute_rows(connection, f"DELETE FROM main.{tracked.quoted} WHERE {tracked.where_key}", gone, odd=odd)
    sql = f"INSERT OR REPLACE INTO main.{tracked.quoted} ({', '.join(names)}) VALUES ({marks})"
    execute_rows(connection, sql, whole, odd=odd)
    connection.execute(f"DELETE FROM {tracked.capture_name}")
    capture = f"INSERT INTO {tracked.capture_name} (at, {', '.join(tracked.marks)}) VALUES (?, "
    each = ((row.at, *row.key) for row in rows)
    execute_rows(connection, capture + ", ".join("?" * len(tracked.marks)) + ")", each, odd=odd)
