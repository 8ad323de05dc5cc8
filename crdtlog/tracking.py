"""Tracked tables: how one comes to be tracked, which kinds its columns have, and what it may be waiting for.

What a table must be is in `schema`. Here the two kinds of schema entry, one that begins to track a table and one that
gives columns kinds, are written and put into effect, inside the caller's transaction.
"""

import hashlib
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from crdtlog import capture, catalog, clock, kinds, schema
from crdtlog.catalog import Tracked
from crdtlog.entry import Entry
from crdtlog.errors import EntryRefused, Malformed, NoSuchTable, SchemaRefused, Untrackable, Usage
from crdtlog.schema import Table
from crdtlog.state import State
from crdtlog.values import pack, unpack


class TableStatus(NamedTuple):
    """A tracked table: why it is paused (or None), and about how many captured changes wait to be drained.

    `waiting` tells what has to come before all rows that are there are taken in: None (they are), "unfinished" (a drain
    that goes on to its end), or "first exchange" (with another device, after joining). `merge` gives the kinds of the
    columns that are no registers.
    """

    name: str
    paused: str | None
    pending: int
    waiting: str | None
    merge: dict[str, str]


def statuses(state: State) -> list[TableStatus]:
    """The tracked tables and their condition."""
    return [
        TableStatus(
            tracked.name,
            tracked.paused,
            capture.pending_rows(state.connection, tracked),
            tracked.waiting,
            {column.name: kinds.NAMES[tracked.kinds[n]] for n, column in tracked.cells if n in tracked.kinds},
        )
        for tracked in state.tables.values()
    ]


# --- begun here ---------------------------------------------------------------------------------------------------


class Begun(NamedTuple):
    """What `begin` did: whether rows are exchanged from now on that were not, and whether to drain all of them now."""

    is_new: bool
    drain_now: bool


def begin(state: State, table: Table, merge: Mapping[str, str], rows_ms: int) -> Begun:
    """Track a table as it is in this file, or give the columns of a tracked one other kinds.

    Its rows, if it is new, count as written at `rows_ms`. Raises `NoSuchTable`, `Usage`.
    """
    chosen = _chosen_kinds(table, merge)
    identity = table_id(state.database, table.name)
    known = state.tables.get(identity)
    if known is None:
        add_table(state, identity, table, reconcile_ms=rows_ms)
        state.append_own("schema", encode_track(identity, table), summary=f"{table.name}: tracked")
    elif known.held is not None and waits_for_consent(known.held):
        state.hold(known, None)
        state.bump()
        _choose(state, identity, chosen)
        return Begun(is_new=True, drain_now=False)
    _choose(state, identity, chosen)
    return Begun(is_new=known is None, drain_now=known is None or known.waiting == "unfinished")


def _chosen_kinds(table: Table, merge: Mapping[str, str]) -> dict[str, str]:
    """The kinds that somebody asks for, by columns' own names. Raises `NoSuchTable`, `Usage`."""
    columns = {column.name.lower(): column for column in table.columns}
    chosen = {}
    for name, kind in merge.items():
        column = columns.get(name.lower())
        if column is None:
            known = ", ".join(item.name for item in table.columns)
            raise NoSuchTable(f"table {table.name} has no column {name!r}", f"Its columns: {known}.")
        if column.key or column.generated is not None:
            what = "part of the key" if column.key else "generated"
            others = ", ".join(item.name for item in table.columns if not item.key and item.generated is None)
            raise Usage(
                f"column {column.name} of {table.name} is {what}, so that it cannot merge",
                f"Columns that can: {others}." if others else "The table has no column that can.",
            )
        kinds.check_affinity(kind, table.affinity(column), f"column {column.name} of {table.name}")
        chosen[column.name] = kind
    return chosen


def _choose(state: State, identity: bytes, chosen: Mapping[str, str]) -> None:
    """Give columns kinds, where they have others, as a schema entry."""
    tracked = state.tables[identity]
    slots = {column.name: slot for slot, column in tracked.cells}
    new = {
        column: kind
        for column, kind in chosen.items()
        if tracked.kinds.get(slots[column], kinds.REGISTER) != kinds.code(kind)
    }
    if new:
        state.append_own("schema", encode_merge(identity, new), summary=describe_kinds(tracked, new))
        own = state.writer
        set_kinds(state, tracked, new, (own.id, own.seq, own.last_stamp), None)


# --- schema entries -----------------------------------------------------------------------------------------------


def apply_schema(state: State, item: Entry, before: Mapping[bytes, int]) -> str:
    """Put a received schema entry into effect; returns a line for people. `before` is its log's context before it."""
    parts = unpack(item.payload())
    match parts:
        case ["merge", bytes(identity), list(pairs)] if len(identity) == 8:
            return _apply_merge(state, identity, pairs, item, before)
        case ["track", bytes(identity), wire, []] if len(identity) == 8:
            table = schema.from_wire(wire)
        case _:
            raise Malformed("a schema entry of an unknown form")
    check_identity(state.database, identity, table)
    known = state.tables.get(identity)
    if known is None:
        add_table(state, identity, table, reconcile_ms=max(1, state.now_ms()), ask=True)
    else:
        problem = schema.difference(known.table, table)
        if problem and known.held is None:
            state.hold(known, f"another device tracks it with another schema: {problem}")
            state.bump()
    return f"{table.name}: tracked"


def encode_track(identity: bytes, table: Table) -> bytes:
    """The payload of the schema entry that begins to track a table; its columns are all registers."""
    return pack(["track", identity, schema.to_wire(table), []])


def encode_merge(identity: bytes, chosen: Mapping[str, str]) -> bytes:
    """The payload of the schema entry that gives columns other kinds."""
    return pack(["merge", identity, sorted(chosen.items())])


def _apply_merge(
    state: State, identity: bytes, pairs: list[object], item: Entry, before: Mapping[bytes, int]
) -> str:
    tracked = state.tables.get(identity)
    if tracked is None:
        raise EntryRefused("a schema entry about a table that is not tracked")
    chosen: dict[str, str] = {}
    for pair in pairs:
        match pair:
            case [str(column), str(kind)]:
                chosen[column] = kind
            case _:
                raise Malformed("a schema entry gives columns kinds")
    known = {column.name: column for _, column in tracked.cells if not column.key}
    if not chosen or not set(chosen) <= set(known) or not set(chosen.values()) <= set(kinds.CODES):
        raise Malformed(
            "a schema entry gives a kind to a column that is not there or that is part of the key, or one that this "
            "version does not know"
        )
    for column, kind in chosen.items():
        if not kinds.suits(kinds.CODES[kind], tracked.table.affinity(known[column])):
            raise Malformed(
                f"a schema entry gives {column} of {tracked.name} a kind that its type cannot hold"
            )
    seen = {**before, **{n.writer: n.seq for n in item.context}}
    seen[item.writer] = item.seq - 1
    set_kinds(state, tracked, chosen, (item.writer, item.seq, item.last_stamp), seen)
    return describe_kinds(tracked, chosen)


def describe_kinds(tracked: Tracked, chosen: Mapping[str, str]) -> str:
    """A line for people."""
    return f"{tracked.name}: " + ", ".join(f"{column} merges as {kind}" for column, kind in chosen.items())


# --- tables and columns -------------------------------------------------------------------------------------------


_CONSENT = "another device shares a table of this name"


def table_id(database: bytes, name: str) -> bytes:
    """The id of a table tracked under that name; alike on two devices that track it at the same time."""
    folded = name.translate({upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)})
    return hashlib.sha256(b"crdtlog table" + database + folded.encode()).digest()[:8]


def check_identity(database: bytes, identity: bytes, table: Table) -> None:
    """Require that a table's id is the one of its name: two ids for one name would put two documents on a row."""
    if identity != table_id(database, table.name):
        raise Malformed(f"table {table.name} under an id that is not its own")


def check_fit(connection: sqlite3.Connection, table: Table) -> None:
    """Raise `SchemaRefused` if a table of that description could not be tracked in this file."""
    try:
        problem = schema.difference(schema.read_table(connection, table.name), table)
    except NoSuchTable:
        schema.validate(table)
        return
    except Untrackable as error:
        problem = str(error)
    if problem:
        raise SchemaRefused(
            f"table {table.name} is here already and does not fit: {problem}",
            "Rename the table here, or give it the same columns, and join again.",
        )


def check_empty(connection: sqlite3.Connection, table: Table) -> None:
    """Raise `SchemaRefused` if a table of that name has rows in this file."""
    try:
        name = schema.read_table(connection, table.name).name
    except NoSuchTable:
        return
    if connection.execute(f"SELECT 1 FROM {schema.quote(name)} LIMIT 1").fetchone():
        raise SchemaRefused(
            f"table {table.name} has rows here, and this device was let in without history",
            "Join with a file of another name; the rows can be copied over with SQL afterwards.",
        )


def waits_for_consent(reason: str) -> bool:
    """Whether a table is paused because its rows were here before another device began to share one of that name."""
    return reason.startswith(_CONSENT)


def add_table(
    state: State, identity: bytes, table: Table, *, reconcile_ms: int, ask: bool = False
) -> Tracked:
    """Track a table under a description: build it where it is missing, take it in where it fits, pause it otherwise.

    Its rows, if it has any, are compared with documents from `reconcile_ms` on (negative: after the first catch-up).
    With `ask`, a table that has rows here is held until the person tracks it, as its rows were nobody else's so far.
    Raises `SchemaRefused` for a description that is not harmless.
    """
    connection = state.connection
    reason = held = None
    try:
        here = schema.read_table(connection, table.name)
        reason = schema.difference(here, table)
        if ask and connection.execute(f"SELECT 1 FROM {schema.quote(here.name)} LIMIT 1").fetchone():
            held = f"{_CONSENT}; to share the rows that are here, run: crdtlog track FILE {table.name}"
    except NoSuchTable:
        schema.validate(table)
        try:
            for statement in schema.create_statements(_without_taken_indexes(connection, table)):
                connection.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise  # about the file, not about the names
            raise SchemaRefused(
                f"table {table.name} cannot be built here: {error}", "Rename what has that name in this file."
            ) from error
        reconcile_ms = 0
    except Untrackable as error:
        reason = str(error)
    number = connection.execute(
        "INSERT INTO crdtlog__table (table_id, name, description, misfit, held, reconcile_ms) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (identity, table.name, pack(schema.to_wire(table)), reason, held, reconcile_ms),
    ).lastrowid
    assert number is not None
    tracked = Tracked(number, identity, table, reason, held, reconcile_ms)
    catalog.create_beside(connection, tracked)
    if reason is None:
        capture.install(connection, tracked)
    catalog.create_row_status(connection, [*state.tables.values(), tracked])
    state.bump()
    return tracked


def _without_taken_indexes(connection: sqlite3.Connection, table: Table) -> Table:
    """The description without indexes whose names something else has here: indexes matter to no merge."""
    taken = {str(name).lower() for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    return replace(table, indexes=tuple(index for index in table.indexes if index.name.lower() not in taken))


def set_kinds(
    state: State,
    tracked: Tracked,
    chosen: Mapping[str, str],
    dot: tuple[bytes, int, int],
    seen: Mapping[bytes, int] | None,
) -> None:
    """Give columns kinds, by an entry of that (writer, sequence, stamp).

    A column's kind is a register: what the author had seen (`seen`; None: everything) is replaced, and of concurrent
    choices the latest counts. It only tells how local writes are encoded, so nothing is rewritten.
    """
    writer, seq, stamp = dot
    slots = {column.name: slot for slot, column in tracked.cells}
    connection = state.connection
    for column, kind in chosen.items():
        slot = slots[column]
        versions = connection.execute(
            "SELECT writer, seq FROM crdtlog__kind WHERE tab = ? AND slot = ?", (tracked.number, slot)
        ).fetchall()
        for number, at in versions:
            if seen is None or seen.get(state.log.ids[number], 0) >= at:
                connection.execute(
                    "DELETE FROM crdtlog__kind WHERE tab = ? AND slot = ? AND writer = ? AND seq = ?",
                    (tracked.number, slot, number, at),
                )
        connection.execute(
            "INSERT INTO crdtlog__kind VALUES (?, ?, ?, ?, ?, ?)",
            (
                tracked.number,
                slot,
                state.log.writer(writer).number,
                seq,
                clock.to_sql(stamp),
                kinds.CODES[kind],
            ),
        )
    state.bump()


def take_in_what_waited(state: State) -> None:
    """Have the rows compared that waited for the first exchange after joining."""
    if any(tracked.reconcile_ms < 0 for tracked in state.tables.values()):
        with state.transaction():
            state.connection.execute(
                "UPDATE crdtlog__table SET reconcile_ms = -reconcile_ms WHERE reconcile_ms < 0"
            )
            state.bump()
