"""Taking: the parts of a snapshot, kept aside as they come, and all of them put into the file in one transaction.

For a device that was let in without history and has nothing yet: until then it takes in no entry and writes none. Only
an admin is believed, as one is who lets a device in; what the snapshot says of logs is held against them by the first
entry that comes behind it, which names the hash of the one before.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from crdtlog import aside, catalog, clock, entry, members, proof, rotating, tracking
from crdtlog.abridged import base, parts
from crdtlog.abridged.base import Numbers
from crdtlog.abridged.parts import Begin, End, Item, Logged, Losers, Merging, Part, Rows
from crdtlog.catalog import Tracked
from crdtlog.connection import bindable, escaping_text, translated
from crdtlog.device import verify_bytes
from crdtlog.entry import Entry, Signed
from crdtlog.errors import EntryRefused, Malformed, Temporary
from crdtlog.holding import WAITING, authenticate
from crdtlog.membership import Rotate
from crdtlog.plain_rows import PlainRow
from crdtlog.state import State
from crdtlog.versions import device_of
from crdtlog.writers import Writer

REASON = "it was written here before the first exchange, and others have another row of this key"
#: The file's setting: the device that gave the snapshot.
GIVEN_BY = "given_by"


class Taken(NamedTuple):
    """How many of some parts are dealt with, and how many rows are there if that was the last."""

    done: int
    rows: int


def take(state: State, signed: Sequence[bytes]) -> Taken:
    """Keep parts of a snapshot; with the last, put it into the file. What is no part is not for us yet, and left out.

    Raises `EntryRefused`, `Malformed` for what no admin gave; after what is `Temporary` the last part may come again.
    """
    for number, blob in enumerate(signed, 1):
        whole = entry.split(blob)
        item = entry.decode(whole.body)
        if item.kind == entry.SNAPSHOT and _keep(state, item, whole):
            try:
                rows = _finish(state)
            except Temporary:  # the last part will be given once more
                state.connection.execute("DELETE FROM temp.crdtlog__part WHERE number = ?", (item.seq,))
                raise
            except BaseException:
                _forget(state)
                raise
            _forget(state)
            return Taken(number, rows)
    return Taken(len(signed), 0)


# --- kept aside ---------------------------------------------------------------------------------------------------


def _keep(state: State, item: Entry, signed: Signed) -> bool:
    """Keep a part that is the next one; whether it is the last. One of another snapshot begins that."""
    giver = next((m for m in members.members(state) if m.device == device_of(item.writer)), None)
    if giver is None or giver.role != "admin":
        raise EntryRefused("a snapshot by a device that is no admin")
    if item.database != state.database:
        raise EntryRefused("a snapshot of another database")
    if not verify_bytes(giver.sign_key, entry.SIGN_DOMAIN, signed.body, signed.signature):
        raise EntryRefused("a part of a snapshot has a wrong signature")
    connection = state.connection
    with translated(state.path):
        connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS crdtlog__part "
            "(number INTEGER PRIMARY KEY, writer BLOB, hash BLOB, raw_size INTEGER, packed BLOB)"
        )
        if item.seq == 1:
            _forget(state)
        last = connection.execute(
            "SELECT number, writer, hash FROM temp.crdtlog__part ORDER BY number DESC LIMIT 1"
        ).fetchone() or (0, item.writer, b"")
        if (item.seq, item.writer, item.previous) != (last[0] + 1, last[1], last[2]):
            return False  # of a snapshot that broke off, or that another one has overtaken
        row = (item.seq, item.writer, signed.hash, item.raw_size, item.packed)
        connection.execute("INSERT INTO temp.crdtlog__part VALUES (?, ?, ?, ?, ?)", row)
    return isinstance(parts.decode(item.payload()), End)


def _forget(state: State) -> None:
    state.connection.execute("DELETE FROM temp.crdtlog__part")


def _kept(state: State) -> Iterator[tuple[int, int, bytes, Part]]:
    sql = "SELECT number, raw_size, packed FROM temp.crdtlog__part ORDER BY number"
    for number, raw_size, packed in state.connection.execute(sql).fetchall():
        yield number, raw_size, packed, parts.decode(entry.decompress(packed, raw_size))


# --- put into the file --------------------------------------------------------------------------------------------


def _finish(state: State) -> int:
    (giver,) = state.connection.execute("SELECT writer FROM temp.crdtlog__part WHERE number = 1").fetchone()
    with state.transaction():
        if not state.awaits_snapshot:
            return 0
        mine = [(tracked.table_id, _taken_away(state, tracked)) for tracked in state.tables.values()]
        try:
            rows, settled = _put(state)
        except (sqlite3.IntegrityError, sqlite3.DataError) as error:
            raise Malformed(f"a snapshot that does not hold together: {error}") from error
        state.connection.execute("DELETE FROM crdtlog__meta WHERE name = 'awaits'")
        state.log.note_given(settled)
        catalog.set_meta(state.connection, GIVEN_BY, device_of(giver))
        rotating.choose(state)
        for table, some in mine:
            _write_again(state, state.tables[table], some)
        state.log.forget()
        state.group.forget()
        state.bump()
        state.must_settle = bool(state.log.lags())
        if not state.group.knows_itself():
            raise EntryRefused("a snapshot from before this device was let in")
    return rows


def _put(state: State) -> tuple[int, dict[bytes, int]]:
    """Write all that the snapshot brings; how many rows that is, and which entries are settled."""
    begin: Begin | None = None
    numbers = Numbers([])
    rows = 0
    for number, raw_size, packed, part in _kept(state):
        if isinstance(part, Begin) != (number == 1):
            raise Malformed("a snapshot begins once, by naming its logs")
        match part:
            case Begin():
                begin, numbers = part, Numbers.of(state, part)
                base.keep(state, number, raw_size, packed)
            case Logged(items):
                assert begin is not None
                for item in items:
                    _take_entry(state, begin, item)
            case Rows() | Losers() | Merging():
                base.keep(state, number, raw_size, packed)
                rows += base.write(state, part, numbers)
            case End() if part.number != number:
                raise Malformed("a snapshot's last part is another one's")
    assert begin is not None
    _take_forks(state, begin, numbers)
    for tracked in state.tables.values():
        state.connection.execute(f"DELETE FROM {tracked.capture_name}")
    for writer, applied in zip(begin.writers, begin.applied, strict=True):
        if state.log.writers[writer].applied != applied:
            raise Malformed("a snapshot without some entries that it is made of")
    settled = zip(begin.writers, begin.settled, strict=True)
    return rows, {writer: min(seq, state.log.writers[writer].seq) for writer, seq in settled if seq}


def _take_entry(state: State, begin: Begin, item: Item) -> None:
    stored = entry.split(item.signed)
    decoded = entry.decode(stored.body)
    if decoded.database != state.database or decoded.writer not in begin.writers:
        raise Malformed("a snapshot holds an entry of no log of its own")
    original = entry.split(item.original) if item.original else stored
    said = entry.decode(original.body)
    if item.abridged:
        if decoded.seq > begin.settled[begin.writers.index(decoded.writer)]:
            raise Malformed("a snapshot without what somebody may still ask for")
        if decoded.kind in ("member", "schema", entry.SNAPSHOT):
            raise Malformed("a snapshot without what an entry says of the group or of tables")
    else:
        if original.hash != item.hash:
            raise Malformed("a snapshot holds an entry under another hash")
        authenticate(state, said, original)
    log = _log_of(state, begin, decoded)
    state.log.check_succession(decoded, log)
    if any(not _is_held(state, named.writer, named.seq) for named in decoded.context):
        raise Malformed("a snapshot holds an entry before what it builds on")
    is_applied = decoded.seq <= begin.applied[begin.writers.index(decoded.writer)]
    if decoded.kind == "member":
        record = state.group.record(decoded, item.hash, state.log.context_of(decoded), said)
        members.take(state, record)
        if isinstance(record.content, Rotate):
            rotating.unlock(state)
    summary = item.summary
    if is_applied and decoded.kind == "member":
        summary = members.effect(state, decoded)
    elif is_applied and decoded.kind == "schema":
        summary = tracking.apply_schema(state, decoded, log.context)
    elif not is_applied:
        summary = WAITING
    state.log.append(
        decoded,
        stored._replace(hash=item.hash),
        state.log.writers[decoded.writer],
        received_ms=state.now_ms(),
        rows=item.rows,
        summary=summary,
        applied=is_applied,
        original=item.original or None,
    )


def _log_of(state: State, begin: Begin, item: Entry) -> Writer:
    for branch in begin.branches:
        if begin.writers[branch.writer] == item.writer and branch.first == item.seq:
            return state.log.branch(item.writer, state.log.writer(begin.writers[branch.parent]), branch.first)
    return state.log.writer(item.writer)


def _is_held(state: State, writer: bytes, seq: int) -> bool:
    return writer in state.log.writers and state.log.writers[writer].seq >= seq


def _take_forks(state: State, begin: Begin, numbers: Numbers) -> None:
    connection = state.connection
    connection.executemany(
        "INSERT INTO crdtlog__said VALUES (?, ?, ?, ?)",
        [(numbers[writer], seq, name, numbers[meant]) for writer, seq, name, meant in begin.said],
    )
    connection.executemany(
        "INSERT INTO crdtlog__edge VALUES (?, ?, ?, ?, ?)",
        [(document, numbers[writer], *rest) for document, writer, *rest in begin.edges],
    )
    for known in begin.forks:
        point = proof.Point(known.writer, known.seq, known.previous)
        proof.note(connection, point, known.hash, b"")


# --- what programs wrote before -----------------------------------------------------------------------------------


def _taken_away(state: State, tracked: Tracked) -> list[PlainRow]:
    """Rows that programs wrote here since the device joined: they come back when the snapshot is there."""
    connection = state.connection
    width = len(tracked.keys)
    names = ", ".join([*tracked.key_names, *tracked.cell_names])
    now = clock.julian(state.now_ms())
    with escaping_text(connection):
        found = connection.execute(f"SELECT {names} FROM main.{tracked.quoted}").fetchall()
    connection.execute(f"DELETE FROM main.{tracked.quoted}")
    return [PlainRow(tuple(row[:width]), row[width:], now) for row in found]


def _write_again(state: State, tracked: Tracked, rows: Sequence[PlainRow]) -> None:
    """Write rows as a program would, which is captured; what finds its place taken is put aside."""
    names = tracked.cell_names if tracked.respelled else [*tracked.key_names, *tracked.cell_names]
    sql = f"INSERT INTO main.{tracked.quoted} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    for row in rows:
        assert row.cells is not None
        values = tuple(row.cells) if tracked.respelled else (*row.key, *row.cells)
        try:
            state.connection.execute(*bindable(sql, values))
        except sqlite3.IntegrityError:
            aside.keep(state, tracked, [(PlainRow(row.key, None, row.at), row)], REASON)
