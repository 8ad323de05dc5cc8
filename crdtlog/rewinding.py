"""The file as it was before some entry: for entries that turn out not to count, or to stand under a wrong name.

Entries from a position of the local order on are taken out of the log, and the rows that they touched are made anew
from the entries that stay: documents are a function of the set of entries, so that is what they were. What was taken
out is returned in its order, to be merged again, written anew, or put aside. The caller has drained before, and holds
the write lock.
"""

from collections.abc import Iterable
from typing import NamedTuple

from crdtlog import entry, tracking
from crdtlog.abridged import base
from crdtlog.apply import apply_sections, author_of
from crdtlog.catalog import Tracked
from crdtlog.connection import execute_rows
from crdtlog.errors import Malformed
from crdtlog.log import APPLIED
from crdtlog.payload import Section, decode_data
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.values import Key, has_odd_text, normal_key
from crdtlog.versions import MAX_SEQ


class Rewound(NamedTuple):
    """An entry that was taken out of the log, with the name that its log had, and its bytes as they were signed."""

    writer: bytes
    seq: int
    kind: str
    signed: bytes


#: Rows of a table: the key as it is compared, and as it was spelled first.
_Keys = dict[Key, Key]


def rewind(state: State, position: int) -> list[Rewound]:
    """Bring log and rows back to before an entry, inside the caller's transaction; returns what is not held any more.

    Columns have the kinds again that they had. What entries told of tables and devices stays known.
    """
    base.require_behind(state, position, "rows have to be as they were")
    rewound = [
        Rewound(state.log.ids[number], seq, kind, signed)
        for number, seq, kind, signed in state.connection.execute(
            "SELECT l.writer, l.seq, l.kind, coalesce(o.signed, l.signed) FROM crdtlog__log l "
            "LEFT JOIN crdtlog__original o ON o.writer = l.writer AND o.seq = l.seq "
            "WHERE l.position >= ? ORDER BY l.position",
            (position,),
        )
    ]
    touched = _touched(state, rewound)
    state.log.cut(position)
    for table, keys in touched.items():
        _clear(state, state.tables[table], keys.values())
    has_schema = any(item.kind == "schema" for item in rewound)
    if has_schema:
        state.connection.execute("DELETE FROM crdtlog__kind")
    _replay(state, touched, has_schema=has_schema)
    state.bump()
    return rewound


def _touched(state: State, rewound: Iterable[Rewound]) -> dict[bytes, _Keys]:
    touched: dict[bytes, _Keys] = {}
    for item in rewound:
        if item.kind != "data":
            continue
        decoded = entry.decode(entry.split(item.signed).body)
        try:
            sections = decode_data(decoded.payload(), decoded.first_stamp, decoded.last_stamp).sections
        except Malformed:
            continue  # it was only held
        for section in sections:
            tracked = state.tables.get(section.table)
            if tracked is None:
                continue
            keys = touched.setdefault(section.table, {})
            for row in range(section.rows):
                key = section.key(row)
                keys.setdefault(normal_key(key, tracked.collations), key)
    return touched


def _clear(state: State, tracked: Tracked, keys: Iterable[Key]) -> None:
    """Take rows away, and all that stands beside them."""
    keys = list(keys)
    odd = any(has_odd_text(key) for key in keys)
    names = [(tracked.number, document_key(tracked, key)) for key in keys]
    for table, where in (
        (f"main.{tracked.quoted}", tracked.where_key),
        (tracked.rows_name, tracked.where_document),
    ):
        execute_rows(state.connection, f"DELETE FROM {table} WHERE {where}", keys, odd=odd)
    for table in ("crdtlog__loser", "crdtlog__merge"):
        state.connection.executemany(f"DELETE FROM {table} WHERE tab = ? AND key = ?", names)
    state.connection.execute(f"DELETE FROM {tracked.capture_name}")


def _replay(state: State, touched: dict[bytes, _Keys], *, has_schema: bool) -> None:
    """Merge once more what held entries wrote to some rows, which are not there; if wanted, kinds of columns too."""
    contexts: dict[bytes, dict[bytes, int]] = {}
    base.put_back(state, touched)
    try:
        for position, kind, signed in state.connection.execute(
            f"SELECT l.position, l.kind, l.signed FROM {APPLIED} ORDER BY l.position"
        ).fetchall():
            item = entry.decode(entry.split(signed).body)
            if item.writer not in contexts:
                contexts[item.writer] = state.log.before(state.log.writers[item.writer])
            before = contexts[item.writer]
            if kind == "data" and position > state.log.given_position:
                payload = decode_data(item.payload(), item.first_stamp, item.last_stamp)
                sections = [part for section in payload.sections if (part := _part(state, section, touched))]
                state.log.horizon = position
                apply_sections(state, item, sections, author_of(state, item, before), odd=payload.odd)
            elif kind == "schema" and has_schema:
                tracking.apply_schema(state, item, before)
            before.update((named.writer, named.seq) for named in item.context)
    finally:
        state.log.horizon = MAX_SEQ


def _part(state: State, section: Section, touched: dict[bytes, _Keys]) -> Section | None:
    """Those rows of a section that are among some; None if none are."""
    keys = touched.get(section.table)
    if not keys:
        return None
    collations = state.tables[section.table].collations
    rows = [row for row in range(section.rows) if normal_key(section.key(row), collations) in keys]
    return section.picked(rows) if rows else None
