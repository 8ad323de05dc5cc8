"""Whether a section of an entry may stand in its table: what no honest device writes is refused before anything is.

Looks at the section and at the table's description; SQLite itself is asked which values a column would change.
"""

import math
import re
import sqlite3
from collections.abc import Sequence

from crdtlog.catalog import Tracked
from crdtlog.connection import execute_rows, fetch
from crdtlog.errors import EntryRefused, Malformed, TablePaused
from crdtlog.payload import DELETE, INSERT, UPDATE, Section
from crdtlog.state import State
from crdtlog.values import Key, Value, normal_key, same


def table_of(state: State, section: Section) -> Tracked:
    """The table that a section changes. Raises `EntryRefused`, `Malformed`, or `TablePaused`."""
    tracked = state.tables.get(section.table)
    if tracked is None:
        raise EntryRefused("an entry changes a table that is not tracked here")
    if tracked.paused:
        raise TablePaused(f"table {tracked.name} is paused: {tracked.paused}")
    if len(section.keys) != len(tracked.keys):
        raise Malformed(f"a key of {tracked.name} has {len(tracked.keys)} columns")
    if section.operation != DELETE and not set(section.slots) <= set(tracked.cell_slots):
        raise Malformed(f"an entry names columns that {tracked.name} does not have")
    if section.operation == INSERT and set(section.slots) != set(tracked.cell_slots):
        raise Malformed(f"an insert into {tracked.name} must name every column")
    if section.operation != UPDATE and section.patches:
        raise Malformed(f"an insert into {tracked.name} holds a patch")
    return tracked


def check_rows(tracked: Tracked, section: Section, named: set[Key]) -> None:
    """Require that an entry names each row once, and that where spellings are values they are spellings of its key."""
    if tracked.respelled or len(tracked.keys) > 1 or tracked.collations != ["BINARY"]:
        names = [normal_key(section.key(row), tracked.collations) for row in range(section.rows)]
    else:
        names = [(value,) for value in section.keys[0]]
    rows = set(names)
    if len(rows) != section.rows or not named.isdisjoint(rows):
        raise Malformed("an entry names a row twice")
    named |= rows
    if not tracked.respelled:
        return
    places = {slot: column.key - 1 for slot, column in tracked.cells if column.key}
    for slot, column in zip(section.slots, section.cells, strict=True):
        place = places.get(slot)
        if place is None:
            continue
        collation = [tracked.collations[place]]
        if any(
            normal_key((value,), collation)[0] != name[place]
            for value, name in zip(column, names, strict=True)
        ):
            raise Malformed(f"an entry spells a key of {tracked.name} as another key")


def check_exact(state: State, tracked: Tracked, section: Section, odd: bool) -> None:
    """Require that every column would keep every value as it is.

    Honest entries hold what a column of the same affinity gave. A value that is stored as another one would leave a row
    that is not its document's, and rows that devices name differently.
    """
    affinities = dict(zip(tracked.cell_slots, tracked.affinities, strict=True))
    columns = [
        *zip(tracked.key_affinities, section.keys, strict=True),
        *((affinities[slot], column) for slot, column in zip(section.slots, section.cells, strict=True)),
    ]
    for affinity, column in columns:
        if _may_convert(column, affinity) and not _keeps(state.connection, column, affinity, odd):
            raise Malformed(f"an entry holds a value that a column of {tracked.name} would change")


def _keeps(connection: sqlite3.Connection, column: Sequence[Value], affinity: str, odd: bool) -> bool:
    """Whether a column of that affinity gives these values back bit for bit: SQLite itself is asked."""
    name = f"crdtlog__kept_{affinity.lower()}"
    connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} (v {affinity})")
    connection.execute(f"DELETE FROM temp.{name}")
    execute_rows(connection, f"INSERT INTO temp.{name} VALUES (?)", [(value,) for value in column], odd=odd)
    rows, _ = fetch(connection, f"SELECT v FROM temp.{name} ORDER BY rowid")
    return all(same(before, after) for before, (after,) in zip(column, rows, strict=True))


# --- values that a column's affinity would change ----------------------------------------------------------------

_NUMERIC_TEXT = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")


def _may_convert(column: Sequence[Value], affinity: str) -> bool:
    """Whether storing these values in a column of that affinity could change one of them."""
    kinds = set(map(type, column))
    match affinity:
        case "TEXT":
            return bool(kinds & {int, float})
        case "REAL":
            return (
                int in kinds
                or (str in kinds and _any_numeric(column))
                or (float in kinds and _any_minus_zero(column))
            )
        case "INTEGER" | "NUMERIC":
            whole = float in kinds and any(type(value) is float and value.is_integer() for value in column)
            return whole or (str in kinds and _any_numeric(column))
        case _:
            return False


def _any_numeric(column: Sequence[Value]) -> bool:
    return any(_NUMERIC_TEXT.fullmatch(value) is not None for value in column if isinstance(value, str))


def _any_minus_zero(column: Sequence[Value]) -> bool:
    return 0.0 in column and any(type(v) is float and v == 0.0 and math.copysign(1, v) < 0 for v in column)
