"""Own entries that nobody else can have, written once more as a new writer (R11).

Whose file was restored from a backup, or copied, may have told others more under its old writer's numbers than its log
holds, so what it wrote since must not travel under them. The log is rewound to before the first such entry. From there
everything happens again in its order: others' entries are merged as they are, own ones are written as plain changes of
the rows to what they held after them. So they keep what they had seen, and the times at which they were made.
"""

from collections.abc import Sequence
from typing import NamedTuple

from crdtlog import accept, clock, entry, tracking
from crdtlog.catalog import Tracked
from crdtlog.connection import bindable, execute_rows, fetch
from crdtlog.drain import Drainer, has_pending
from crdtlog.entry import Entry
from crdtlog.payload import decode_data
from crdtlog.rewinding import Rewound, rewind
from crdtlog.rows import Layout, joined_sql
from crdtlog.state import State
from crdtlog.values import Key, Value, has_odd_text


def reauthor(state: State, drainer: Drainer, seq: int, writer: bytes) -> int:
    """Go on as another writer, own entries from `seq` on included, inside the caller's transaction.

    What is captured has been drained. Returns how many entries were written anew.
    """
    own = state.writer
    found = state.connection.execute(
        "SELECT position FROM crdtlog__log WHERE writer = ? AND seq = ?", (own.number, seq)
    ).fetchone()
    rewound = rewind(state, found[0]) if found else []
    # Once as it was, to see what each own entry left; then anew.
    left = {item.seq: _left_by(state, item) for item in rewound if _again(state, item, own.id)}
    if found:
        rewind(state, found[0])
    state.become(writer)
    for item in rewound:
        if item.writer != own.id:
            accept.accept_entry(state, item.signed)
        elif item.kind == "data":
            _write_again(state, drainer, left[item.seq])
        else:
            _say_again(state, entry.decode(entry.split(item.signed).body))
    return len(left)


def _again(state: State, item: Rewound, own: bytes) -> bool:
    """Merge an entry as it was; whether it is an own one."""
    accept.accept_entry(state, item.signed)
    return item.writer == own


def _say_again(state: State, item: Entry) -> None:
    """An entry that changes no rows, with the same payload."""
    stamps = (item.first_stamp, item.last_stamp)
    signed = state.append_own(item.kind, item.payload(), stamps=stamps, summary="written anew")
    own = state.writer
    if item.kind == "schema":
        tracking.apply_schema(state, entry.decode(signed.body), own.context)
    elif item.kind == "member":
        state.connection.execute(
            "UPDATE crdtlog__device SET add_writer = ?, add_seq = ?, add_hash = ? WHERE add_writer = ? AND add_seq = ?",
            (own.id, own.seq, signed.hash, item.writer, item.seq),
        )


class _Row(NamedTuple):
    """A row as an entry left it: its cells, or None where it is gone; and when that was."""

    key: Key
    cells: Sequence[Value] | None
    at: float


def _left_by(state: State, item: Rewound) -> dict[bytes, list[_Row]]:
    """The rows that an entry wrote, by table, as they are now."""
    if item.kind != "data":
        return {}
    rows = _rows_of(entry.decode(entry.split(item.signed).body))
    return {table: _rows_now(state, table, some) for table, some in rows.items()}


def _write_again(state: State, drainer: Drainer, rows: dict[bytes, list[_Row]]) -> None:
    """What an entry left, as changes of those rows that are drained now."""
    for table, some in rows.items():
        _put(state, state.tables[table], some)
    while has_pending(state):
        drainer.prepare()
        drainer.step()
    drainer.rest()


def _rows_of(item: Entry) -> dict[bytes, dict[Key, float]]:
    """The rows that an entry wrote, by table, and when."""
    rows: dict[bytes, dict[Key, float]] = {}
    for section in decode_data(item.payload(), item.first_stamp, item.last_stamp).sections:
        table = rows.setdefault(section.table, {})
        for row in range(section.rows):
            table[section.key(row)] = clock.julian(clock.stamp_ms(section.stamps[row]))
    return rows


def _rows_now(state: State, table: bytes, rows: dict[Key, float]) -> list[_Row]:
    """The rows as they are in the file."""
    tracked = state.tables[table]
    layout = Layout.of(tracked)
    source = ", ".join(f"? AS {mark}" for mark in tracked.marks)
    sql = joined_sql(tracked, f"SELECT {source}, 0 AS at", documents=False)
    found = []
    for key, at in rows.items():
        ((*row,),), _ = fetch(state.connection, *bindable(sql, key))
        found.append(_Row(key, row[layout.cells] if row[layout.present] else None, at))
    return found


def _put(state: State, tracked: Tracked, rows: Sequence[_Row]) -> None:
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
