"""Finding what a person names: a row by its key, whatever its spelling, and a column by its name.

Pure reading. A row is found by its document, so that one that was deleted is found too.
"""

from collections.abc import Sequence
from typing import NamedTuple

from crdtlog import clock
from crdtlog.catalog import Tracked
from crdtlog.connection import bindable, fetch
from crdtlog.document import Compact
from crdtlog.errors import NoSuchRow, NoSuchTable, Usage
from crdtlog.state import State
from crdtlog.values import KEY_HINT, Key, Value, possible_keys


class Row(NamedTuple):
    """A row that is or was there: its key as its document spells it, and that document."""

    key: Key
    compact: Compact


def find_row(state: State, tracked: Tracked, key: Value | Sequence[Value]) -> Row:
    """The row with that key, whatever its spelling. Raises `NoSuchRow`, `Usage`.

    A key is one value or a tuple of the key's columns; a text may also be what `values.key_text` made of a key.
    """
    sql = (
        f"SELECT {', '.join(tracked.marks)}, w, s, at, dead, strata FROM {tracked.rows_name} "
        f"WHERE {tracked.where_document}"
    )
    for possible in keys_meant(tracked, key):
        rows, _ = fetch(state.connection, *bound(sql, possible))
        if rows:
            *spelled, writer, seq, at, dead, strata = rows[0]
            return Row(tuple(spelled), Compact(writer, seq, clock.from_sql(at), bool(dead), strata or b""))
    raise NoSuchRow(f"the log has no row {key!r} of table {tracked.name}", KEY_HINT)


def keys_meant(tracked: Tracked, key: Value | Sequence[Value]) -> list[Key]:
    """The keys that may be meant, likeliest first; see `find_row`. Raises `Usage`."""
    width = len(tracked.keys)
    if isinstance(key, str):
        return possible_keys(key, width, tracked.key_affinities)
    values = (key,) if key is None or isinstance(key, int | float | bytes) else tuple(key)
    if len(values) != width:
        raise Usage(f"the key of {tracked.name} has {width} columns, {len(values)} were given", KEY_HINT)
    return [values]


def bound(sql: str, key: Key) -> tuple[str, Sequence[object]]:
    """A statement with a key as its parameters, which SQLite can take."""
    if any(type(value) is int and not -(1 << 63) <= value < 1 << 63 for value in key):
        raise Usage("an integer in a key does not fit 64 bits", KEY_HINT)
    try:
        return bindable(sql, key)
    except UnicodeEncodeError:
        raise Usage("a text in a key holds what is no character", KEY_HINT) from None


def slot_of(tracked: Tracked, column: str) -> int:
    """The slot of a column that is a register of its own. Raises `NoSuchTable` for any other."""
    cells = {item.name: slot for slot, item in tracked.cells}
    for name, slot in cells.items():
        if name == column:
            return slot
    for name, slot in cells.items():
        if name.lower() == column.lower():
            return slot
    what = f"table {tracked.name} has no column {column!r}"
    if any(item.name.lower() == column.lower() for item in tracked.table.columns):
        what = (
            f"column {column!r} of table {tracked.name} is part of its key or computed, and keeps no versions"
        )
    raise NoSuchTable(what, f"Columns with versions: {', '.join(cells) or 'none'}.")
