"""Membership and schema entries put into the file: what a received record changes in the internal tables.

The rules are in `membership` and `schema`; here they meet SQLite, inside the caller's transaction.
"""

import hashlib
import sqlite3
from collections.abc import Mapping
from dataclasses import replace

from crdtlog import capture, catalog, clock, kinds, membership, schema
from crdtlog.catalog import Tracked
from crdtlog.certificate import belongs_to
from crdtlog.entry import Entry
from crdtlog.errors import EntryRefused, Malformed, NoSuchTable, SchemaRefused, Untrackable, Usage
from crdtlog.membership import Newcomer
from crdtlog.schema import Table
from crdtlog.state import State
from crdtlog.values import pack, unpack
from crdtlog.versions import device_of


def put_device(state: State, newcomer: Newcomer, added_by: bytes | None, *, confirmed: bool) -> None:
    """Have a device among the members; `confirmed` when the record that adds it has been applied."""
    state.connection.execute(
        "INSERT INTO crdtlog__device (id, name, role, sign_key, receive_key, certificate, added_by, confirmed) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name, role = excluded.role, "
        "receive_key = excluded.receive_key, certificate = excluded.certificate, added_by = excluded.added_by, "
        "confirmed = max(confirmed, excluded.confirmed)",
        (
            newcomer.device,
            newcomer.name,
            newcomer.role,
            newcomer.sign_key,
            newcomer.receive_key,
            newcomer.certificate,
            added_by,
            int(confirmed),
        ),
    )


def apply_member(state: State, raw: bytes, item: Entry, hash_: bytes) -> str:
    """Put a received membership record into effect; returns a line for people."""
    _, content = membership.decode_record(raw)
    author = device_of(item.writer)
    if not isinstance(content, bytes):
        check_certificate(content)
    if isinstance(content, bytes):
        if membership.database_id(content) != state.database or item.seq != 1:
            raise EntryRefused("a founding record of another database")
        founder = membership.decode_genesis(content).founder
        if founder.device != author:
            raise EntryRefused("a founding record that its founder did not write")
        put_device(state, founder, None, confirmed=True)
        summary = f"{founder.name} founded the database"
    else:
        role = state.connection.execute("SELECT role FROM crdtlog__device WHERE id = ?", (author,)).fetchone()
        if role is None or role[0] != "admin":
            raise EntryRefused("a device was added by one that may not add devices")
        if _counts(state, content, item, hash_):
            put_device(state, content, author, confirmed=True)
            note_added(state, content.device, item.writer, item.seq, hash_)
        summary = f"{content.name} joined as {content.role}"
    state.bump()
    return summary


def check_certificate(newcomer: Newcomer) -> None:
    """Require that a device's certificate is its own: connections are told apart by certificates."""
    if not belongs_to(newcomer.certificate, newcomer.sign_key):
        raise EntryRefused(f"the certificate of {newcomer.name} holds another key")


def note_added(state: State, device: bytes, writer: bytes, seq: int, hash_: bytes) -> None:
    """Remember which entry's record counts for a device."""
    state.connection.execute(
        "UPDATE crdtlog__device SET add_writer = ?, add_seq = ?, add_hash = ? WHERE id = ?",
        (writer, seq, hash_, device),
    )


def _counts(state: State, newcomer: Newcomer, item: Entry, hash_: bytes) -> bool:
    """Whether an `add` counts: a member's name, role and keys are not changed by adding it again.

    Of two concurrent records for one device, the one in the entry with the lower hash counts on every device.
    """
    before = state.connection.execute(
        "SELECT add_writer, add_seq, add_hash FROM crdtlog__device WHERE id = ? AND confirmed = 1",
        (newcomer.device,),
    ).fetchone()
    if before is None:
        return True
    writer, seq, before_hash = before
    if writer is None:  # the founder
        return False
    author = state.log.writer(item.writer)
    seen = {
        **author.context,
        **{named.writer: named.seq for named in item.context},
        item.writer: item.seq - 1,
    }
    return bool(seen.get(writer, 0) < seq and hash_ < before_hash)


# --- tracked tables -----------------------------------------------------------------------------------------------


def table_id(database: bytes, name: str) -> bytes:
    """The id of a table tracked under that name; alike on two devices that track it at the same time."""
    folded = name.translate({upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)})
    return hashlib.sha256(b"crdtlog table" + database + folded.encode()).digest()[:8]


def check_identity(database: bytes, identity: bytes, table: Table) -> None:
    """Require that a table's id is the one of its name: two ids for one name would put two documents on a row."""
    if identity != table_id(database, table.name):
        raise Malformed(f"table {table.name} under an id that is not its own")


def waits_for_consent(reason: str) -> bool:
    """Whether a table is paused because its rows were here before another device began to share one of that name."""
    return reason.startswith(_CONSENT)


_CONSENT = "another device shares a table of this name"


def encode_track(identity: bytes, table: Table) -> bytes:
    """The payload of the schema entry that begins to track a table; its columns are all registers."""
    return pack(["track", identity, schema.to_wire(table), []])


def apply_schema(state: State, item: Entry) -> str:
    """Put a received schema entry into effect; returns a line for people."""
    parts = unpack(item.payload())
    match parts:
        case ["merge", bytes(identity), list(pairs)] if len(identity) == 8:
            return _apply_merge(state, identity, pairs, item)
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


def encode_merge(identity: bytes, chosen: Mapping[str, str]) -> bytes:
    """The payload of the schema entry that gives columns other kinds."""
    return pack(["merge", identity, sorted(chosen.items())])


def _apply_merge(state: State, identity: bytes, pairs: list[object], item: Entry) -> str:
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
    seen = {**state.log.writer(item.writer).context, **{n.writer: n.seq for n in item.context}}
    seen[item.writer] = item.seq - 1
    set_kinds(state, tracked, chosen, (item.writer, item.seq, item.last_stamp), seen)
    return describe_kinds(tracked, chosen)


def describe_kinds(tracked: Tracked, chosen: Mapping[str, str]) -> str:
    """A line for people."""
    return f"{tracked.name}: " + ", ".join(f"{column} merges as {kind}" for column, kind in chosen.items())


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


def chosen_kinds(table: Table, merge: Mapping[str, str]) -> dict[str, str]:
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
            raise Usage(f"column {column.name} of {table.name} is {what}, so that it cannot merge")
        kinds.check_affinity(kind, table.affinity(column), f"column {column.name} of {table.name}")
        chosen[column.name] = kind
    return chosen
