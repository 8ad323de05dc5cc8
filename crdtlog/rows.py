"""Rows as they stand in the file: the person's own cells joined with their documents, and documents written back.

The one place that knows how a document is stored beside its row. Drain, apply and check read through `joined_sql`, so
all three see a row in one layout.
"""

from collections.abc import Sequence
from typing import NamedTuple

from crdtlog import clock, document
from crdtlog.catalog import Tracked
from crdtlog.connection import Row, fetch
from crdtlog.document import Compact
from crdtlog.state import State
from crdtlog.values import Value, key_text, normal_key

#: Rows that are asked for in one statement: SQLite of any version binds so many values.
_NAMES_AT_ONCE = 500

DOCUMENT_COLUMNS = ("w", "s", "at", "dead", "losers", "strata", "hashes")


class Layout(NamedTuple):
    """Where things stand in a row of `joined_sql`: the key is first, a document's columns are last."""

    at: int
    present: int
    cells: slice

    @staticmethod
    def of(tracked: Tracked, slots: Sequence[int] | None = None) -> "Layout":
        """The layout for a table, with the cells of some slots (None: all)."""
        width = len(tracked.keys)
        cells = len(tracked.cells) if slots is None else len(slots)
        return Layout(width, width + 1, slice(width + 2, width + 2 + cells))


def joined_sql(
    tracked: Tracked,
    source: str,
    *,
    documents: bool = True,
    slots: Sequence[int] | None = None,
    rowid: str | None = None,
) -> str:
    """SQL that joins keys (`source`: k1 …, at) with cells of the user's rows and, if wanted, their documents.

    With `rowid`, its name, a row that is present is told by its rowid and one that is not by NULL, instead of 1 and 0.
    """
    columns = [
        *(f"c.{mark}" for mark in tracked.marks),
        "c.at",
        *_user_columns(tracked, slots, rowid),
        *(f"r.{name}" for name in DOCUMENT_COLUMNS if documents),
    ]
    rows = f"LEFT JOIN main.{tracked.quoted} t ON {tracked.same_key('t', 'c', left_user=True)}"
    beside = f" LEFT JOIN {tracked.rows_name} r ON {tracked.same_key('r', 'c')}" if documents else ""
    return f"SELECT {', '.join(columns)} FROM ({source}) c {rows}{beside}"


def swept_sql(tracked: Tracked, slots: Sequence[int], rowid: str | None) -> str:
    """SQL as `joined_sql` for all documents from one key to another (a key of one column); `at` is left NULL."""
    columns = [
        "r.k1",
        "NULL",
        *_user_columns(tracked, slots, rowid),
        *(f"r.{name}" for name in DOCUMENT_COLUMNS),
    ]
    rows = f"LEFT JOIN main.{tracked.quoted} t ON {tracked.same_key('t', 'r', left_user=True)}"
    return f"SELECT {', '.join(columns)} FROM {tracked.rows_name} r {rows} WHERE r.k1 BETWEEN ? AND ?"


def _user_columns(tracked: Tracked, slots: Sequence[int] | None, rowid: str | None) -> list[str]:
    names = zip(tracked.cell_slots, tracked.cell_names, strict=True)
    return [
        f"t.{rowid}" if rowid else f"t.{tracked.key_names[0]} IS NOT NULL",
        *(f"t.{name}" for slot, name in names if slots is None or slot in slots),
    ]


# --- documents in SQL ---------------------------------------------------------------------------------------------


def insert_document_sql(tracked: Tracked) -> str:
    """Stores a document whole: key, writer, seq, stamp, dead, losers, strata, hashes."""
    marks = ", ".join("?" * (len(tracked.keys) + 7))
    return f"INSERT OR REPLACE INTO {tracked.rows_name} VALUES ({marks})"


def update_document_sql(tracked: Tracked) -> str:
    """Changes a stored document: writer, seq, stamp, dead, losers, strata, hashes, key."""
    return (
        f"UPDATE {tracked.rows_name} SET w = ?, s = ?, at = ?, dead = ?, losers = ?, strata = ?, hashes = ? "
        f"WHERE {tracked.where_document}"
    )


def stored_compact(stored: Row, strata: bytes | None) -> Compact:
    """A document from its columns (writer, seq, stamp, dead) as stored."""
    return Compact(stored[0], stored[1], clock.from_sql(stored[2]), bool(stored[3]), strata or b"")


def update_alike_sql(tracked: Tracked, writer: int, seq: int, dead: bool, losers: int) -> str:
    """`update_document_sql` for documents that have these in common; what is bound: stamp, strata, hashes, key."""
    return (
        f"UPDATE {tracked.rows_name} SET w = {writer}, s = {seq}, at = ?, dead = {int(dead)}, losers = {losers}, "
        f"strata = ?, hashes = ? WHERE {tracked.where_document}"
    )


def document_values(compact: Compact) -> tuple[int, int, int, int]:
    """Writer, seq, stamp and dead of a document, as stored."""
    return compact.writer, compact.seq, clock.to_sql(compact.stamp), int(compact.dead)


def document_key(tracked: Tracked, key: Sequence[Value]) -> Value:
    """The name of a row's document among losing versions: its normal key, as people see it."""
    first = key[0]
    if tracked.plain_key and type(first) is str and first.isascii() and first[:1] != "{":
        return first
    return key_text(normal_key(tuple(key), tracked.collations))


def beside(
    state: State, select: str, tracked: Tracked, names: Sequence[Value], *, grouped: str = ""
) -> tuple[list[Row], bool]:
    """What stands in an internal table beside some rows, by their `document_key`s: as `fetch`."""
    rows: list[Row] = []
    odd = False
    for start in range(0, len(names), _NAMES_AT_ONCE):
        some = names[start : start + _NAMES_AT_ONCE]
        marks = ", ".join("?" * len(some))
        sql = f"{select} WHERE tab = {tracked.number} AND key IN ({marks}){grouped}"
        more, strange = fetch(state.connection, sql, some)
        rows += more
        odd = odd or strange
    return rows, odd


def drop_losers(
    state: State, tracked: Tracked, names: Sequence[Value], slots: Sequence[int] | None, *, dead: bool = False
) -> dict[Value, int]:
    """Forget the losing versions of some slots (None: all, and the row's own), which a write to the rows has seen.

    Returns how many are left of each row that has any; those of dead rows are hidden from the view of conflicts.
    """
    where = f"WHERE tab = {tracked.number} AND key = ?"
    chosen = "" if slots is None else f" AND slot IN ({', '.join(map(str, (document.LIVENESS, *slots)))})"
    each = [(name,) for name in names]
    state.connection.executemany(f"DELETE FROM crdtlog__loser {where}{chosen}", each)
    if dead:
        state.connection.executemany(f"UPDATE crdtlog__loser SET hidden = 1 {where}", each)
    left, _ = beside(
        state, "SELECT key, count(*) FROM crdtlog__loser", tracked, names, grouped=" GROUP BY key"
    )
    return {name: int(count) for name, count in left}
