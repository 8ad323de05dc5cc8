"""Giving: a snapshot of a file, as signed entries of a log of its own.

Read in one transaction, so that log, documents and rows are of one moment. What it leaves out are the values in data
entries that no version of a cell is any more, patches to documents (whose states go along, without what was deleted),
and what programs noted in `event`, `error` and `command` entries; and what stands beside deleted rows, but for sums of
counters and the names of values that had lost. Rows that are not settled (`needed`) keep all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from crdtlog import capture, clock, document, entry, merging, rowdocs
from crdtlog.abridged import needed, parts
from crdtlog.abridged.base import given_documents
from crdtlog.abridged.parts import (
    Begin,
    Beside,
    Branch,
    Edge,
    End,
    Item,
    Known,
    Logged,
    Loser,
    Losers,
    Merging,
    Part,
    Rows,
    Said,
)
from crdtlog.catalog import Tracked
from crdtlog.clock import stamps_for
from crdtlog.connection import Row, escaping_text, execute_rows
from crdtlog.device import new_writer
from crdtlog.document import LIVENESS
from crdtlog.entry import Entry, Signed
from crdtlog.errors import Busy, EntryRefused, TablePaused
from crdtlog.kinds import COUNTER
from crdtlog.log import LogEntry
from crdtlog.payload import NOTHING, Section, decode_data, encode_data
from crdtlog.rows import Layout, document_key, joined_sql
from crdtlog.state import State
from crdtlog.values import Value, normal_key, pack, unpack_own

#: About so many bytes of payload go into one part, and no more rows than this.
PART_BYTES = 1 << 20
PART_ROWS = 2_000


def snapshot(state: State) -> Iterator[LogEntry]:
    """The signed parts of a snapshot of what is applied here now.

    The caller has drained. Holds a read transaction until it is exhausted or closed. Raises `Busy` if something was
    captured meanwhile (drain, and try again), `TablePaused` if a table cannot be read.
    """
    connection = state.connection
    connection.execute("BEGIN")
    try:
        state.refresh()
        with escaping_text(connection):
            yield from _signed(state, _Giving(state).parts())
    finally:
        connection.execute("ROLLBACK")


def _signed(state: State, found: Iterator[Part]) -> Iterator[LogEntry]:
    writer, before, now = new_writer(state.device), b"", state.now_ms()
    (stamp,) = stamps_for([now / 86_400_000 + 2440587.5], last=0, now_ms=now)
    for number, part in enumerate(found, 1):
        raw = parts.encode(part)
        item = Entry(
            state.database,
            writer,
            number,
            before,
            (),
            stamp,
            stamp,
            entry.SNAPSHOT,
            state.epoch,
            len(raw),
            entry.compress(raw),
        )
        signed = entry.sign(item, state.device)
        before = signed.hash
        yield LogEntry(0, writer, number, item.kind, signed.bytes())


class _Giving:
    def __init__(self, state: State) -> None:
        self._state = state
        self._connection = state.connection
        logs = [writer for writer in state.log.writers.values() if writer.seq >= writer.first]
        self._logs = logs
        self._numbers = {writer.number: at for at, writer in enumerate(logs)}
        for tracked in state.tables.values():
            if reason := tracked.paused or state.misfit(tracked):
                raise TablePaused(
                    f"table {tracked.name} is paused: {reason}", f"See: crdtlog doctor {state.path}"
                )
            if capture.pending_rows(state.connection, tracked):
                raise Busy("rows were written meanwhile", "Try again.")
        self._settled = needed.settled(state)
        self._whole = needed.unsettled_rows(state, self._settled)
        self._losing = {tracked.number: self._losing_bits(tracked) for tracked in state.tables.values()}

    def parts(self) -> Iterator[Part]:
        """All parts, in their order."""
        number = 1
        for part in self._contents():
            yield part
            number += 1
        yield End(number)

    def _contents(self) -> Iterator[Part]:
        yield self._begin()
        yield from self._log()
        for tracked in self._state.tables.values():
            yield from self._rows(tracked)
            yield from self._losers(tracked)
            yield from self._merging(tracked)

    def _begin(self) -> Begin:
        rows = self._connection.execute
        at = self._numbers
        return Begin(
            [writer.id for writer in self._logs],
            [writer.applied for writer in self._logs],
            [self._settled.get(writer.id, 0) for writer in self._logs],
            [
                Branch(at[writer.number], at[writer.parent.number], writer.first)
                for writer in self._logs
                if writer.parent is not None
            ],
            [
                Said(at[writer], seq, name, at[meant])
                for writer, seq, name, meant in rows("SELECT writer, seq, name, meant FROM crdtlog__said")
            ],
            [
                Edge(digest, at[writer], lane, seq, place)
                for digest, writer, lane, seq, place in rows("SELECT * FROM crdtlog__edge")
            ],
            [Known(*row) for row in rows("SELECT hash, writer, seq, previous FROM crdtlog__fork")],
        )

    # --- the log --------------------------------------------------------------------------------------------------

    def _log(self) -> Iterator[Part]:
        sql = (
            "SELECT l.writer, l.seq, l.hash, l.kind, l.rows, l.summary, l.signed, o.signed FROM crdtlog__log l "
            "LEFT JOIN crdtlog__original o ON o.writer = l.writer AND o.seq = l.seq ORDER BY l.position"
        )
        items: list[Item] = []
        size = 0
        for row in self._connection.execute(sql).fetchall():
            item = self._item(*row)
            if items and (size + len(item.signed) > PART_BYTES or len(items) == PART_ROWS):
                yield Logged(items)
                items, size = [], 0
            items.append(item)
            size += len(item.signed) + len(item.original)
        if items:
            yield Logged(items)

    def _item(
        self,
        number: int,
        seq: int,
        digest: bytes,
        kind: str,
        rows: int,
        summary: str,
        signed: bytes,
        original: bytes | None,
    ) -> Item:
        # What somebody may not have yet goes along as it was signed, to be handed on.
        if kind in ("member", "schema") or seq > self._settled.get(self._state.log.ids[number], 0):
            # The line of a membership record may hold what is for this device alone.
            return Item(digest, rows, summary if kind == "data" else "", signed, original or b"", False)
        whole = entry.split(signed)
        item = entry.decode(whole.body)
        raw = self._standing(item, number) if kind == "data" else pack(None)
        less = replace(item, raw_size=len(raw), packed=entry.compress(raw))
        return Item(
            digest, rows, summary, Signed(entry.encode(less), whole.signature, digest).bytes(), b"", True
        )

    def _standing(self, item: Entry, number: int) -> bytes:
        """The payload of a data entry without what stands no more."""
        raw = item.payload()
        if raw == NOTHING:
            return raw
        payload = decode_data(raw, item.first_stamp, item.last_stamp)
        left = [
            section
            for each in payload.sections
            for section in self._standing_in(each, number, item.seq, odd=payload.odd)
        ]
        return encode_data(left, item.first_stamp) if left else NOTHING

    def _standing_in(self, section: Section, number: int, seq: int, *, odd: bool) -> Iterator[Section]:
        tracked = self._state.tables[section.table]
        names = [
            document_key(tracked, normal_key(section.key(row), tracked.collations))
            for row in range(section.rows)
        ]
        whole = self._whole[section.table]
        kept = [row for row, name in enumerate(names) if name in whole]
        if kept:
            yield section.picked(kept)
        losing = self._losing[tracked.number]
        some: dict[tuple[int, ...], list[int]] = {}
        for row, shown in self._shown(tracked, section, number, seq, odd=odd):
            if names[row] in whole:
                continue
            bits = shown | losing.get((names[row], number, seq), 0)
            slots = tuple(
                slot
                for slot in section.slots
                if bits >> slot & 1
                and not (slot in section.patches and section.patches[slot][row] is not None)
            )
            if slots:
                some.setdefault(slots, []).append(row)
        for slots, rows in some.items():
            picked = section.picked(rows)
            yield replace(
                picked,
                slots=slots,
                cells=[picked.cells[picked.slots.index(slot)] for slot in slots],
                unseen=(),
                patches={},
                counters=tuple(slot for slot in picked.counters if slot in slots),
            )

    def _shown(
        self, tracked: Tracked, section: Section, number: int, seq: int, *, odd: bool
    ) -> list[tuple[int, int]]:
        """The section's rows that are there, each with the bit set of the cells in which the entry's value shows."""
        inbox = f"crdtlog__given_{tracked.number}"
        connection = self._connection
        connection.execute(
            f"CREATE TEMP TABLE IF NOT EXISTS {inbox} (i INTEGER PRIMARY KEY, {tracked.key_declarations})"
        )
        connection.execute(f"DELETE FROM temp.{inbox}")
        marks = ", ".join("?" * (len(tracked.marks) + 1))
        keys = zip(range(section.rows), *section.keys, strict=True)
        execute_rows(connection, f"INSERT INTO temp.{inbox} VALUES ({marks})", keys, odd=odd)
        found = connection.execute(
            f"SELECT c.i, r.w, r.s, r.strata FROM temp.{inbox} c "
            f"JOIN {tracked.rows_name} r ON {tracked.same_key('r', 'c')} WHERE r.dead = 0"
        ).fetchall()
        every = document.slots_to_bits(tracked.slots)
        return [(row, document.owned(w, s, strata, every, (number, seq))) for row, w, s, strata in found]

    def _losing_bits(self, tracked: Tracked) -> dict[tuple[Value, int, int], int]:
        """Which cells of a row a version of that dot loses in, by the row's name and the dot."""
        found: dict[tuple[Value, int, int], int] = {}
        for name, slot, writer, seq in self._connection.execute(
            "SELECT key, slot, writer, seq FROM crdtlog__loser WHERE tab = ? AND slot > 0", (tracked.number,)
        ):
            found[name, writer, seq] = found.get((name, writer, seq), 0) | 1 << slot
        return found

    # --- documents ------------------------------------------------------------------------------------------------

    def _rows(self, tracked: Tracked) -> Iterator[Part]:
        layout = Layout.of(tracked)
        source = f"SELECT {', '.join(tracked.marks)}, 0 AS at FROM {tracked.rows_name}"
        cursor = self._connection.execute(joined_sql(tracked, source))
        alive: list[Row] = []
        dead: list[Row] = []
        sizes = [0, 0]
        while some := list(islice(cursor, PART_ROWS)):
            for row in some:
                is_dead = bool(row[-4])
                if bool(row[layout.present]) == is_dead:
                    raise EntryRefused(
                        f"a row of {tracked.name} and its document disagree",
                        f"Run: crdtlog check {self._state.path} --fix",
                    )
                rows = dead if is_dead else alive
                size = sum(len(value) for value in row if isinstance(value, (str, bytes)))
                if rows and (sizes[is_dead] + size > PART_BYTES or len(rows) == PART_ROWS):
                    yield self._columns(tracked, layout, rows, is_dead)
                    rows.clear()
                    sizes[is_dead] = 0
                rows.append(row)
                sizes[is_dead] += size
        for rows, is_dead in ((alive, False), (dead, True)):
            if rows:
                yield self._columns(tracked, layout, rows, is_dead)

    def _columns(self, tracked: Tracked, layout: Layout, rows: Sequence[Row], is_dead: bool) -> Rows:
        columns: list[Any] = [list(column) for column in zip(*rows, strict=True)]
        writers, seqs, stamps, _, losers, strata, _ = columns[-7:]
        if is_dead and (left := self._left_out(tracked)):
            losers = [
                count - left.get(document_key(tracked, row[: layout.at]), 0)
                for count, row in zip(losers, rows, strict=True)
            ]
        return Rows(
            tracked.table_id,
            columns[: layout.at],
            None if is_dead else columns[layout.cells],
            [self._numbers[writer] for writer in writers],
            seqs,
            list(map(clock.from_sql, stamps)),
            losers,
            [each and self._strata(each) for each in strata],
        )

    def _strata(self, strata: bytes) -> bytes:
        return pack([(self._numbers[w], s, at, bits, life) for w, s, at, bits, life in unpack_own(strata)])

    def _losers(self, tracked: Tracked) -> Iterator[Part]:
        cursor = self._connection.execute(
            "SELECT key, slot, writer, seq, stamp, hidden, value FROM crdtlog__loser WHERE tab = ?",
            (tracked.number,),
        )
        gone = self._gone(tracked)
        items = (
            Loser(
                key,
                slot,
                self._numbers[writer],
                seq,
                clock.from_sql(stamp),
                bool(hidden),
                None if key in gone and slot != LIVENESS else value,
            )
            for key, slot, writer, seq, stamp, hidden, value in cursor
        )
        for some in _batches(items, lambda item: _size(item.value)):
            yield Losers(tracked.table_id, some)

    def _merging(self, tracked: Tracked) -> Iterator[Part]:
        cursor = self._connection.execute(
            "SELECT key, slot, writer, seq, kind, state, versions, problem, aside FROM crdtlog__merge WHERE tab = ?",
            (tracked.number,),
        )
        gone = self._gone(tracked)
        stored = (self._beside(*row) for row in cursor if row[0] not in gone or row[2:4] == rowdocs.SUM)
        items = chain(stored, self._replaced(tracked))
        for some in _batches(items, lambda item: len(item.state)):
            yield Merging(tracked.table_id, some)

    def _replaced(self, tracked: Tracked) -> Iterator[Beside]:
        """Documents that are stored no more, and of which the log tells too little, as they came with a snapshot."""
        whole, state = self._whole[tracked.table_id], self._state
        given = [(name, of, data) for name, of, data in given_documents(state, tracked) if name in whole]
        if not given:
            return
        marks = f"SELECT {', '.join(tracked.marks)} FROM {tracked.rows_name}"
        keys = {document_key(tracked, key): key for key in self._connection.execute(marks)}
        for name, of, data in given:
            if of in rowdocs.load(state, tracked, name).docs:
                continue
            whole_state = data if of.kind == COUNTER else merging.whole_state(state, tracked, keys[name], of)
            if whole_state is not None:
                yield Beside(
                    name, of.slot, self._numbers[of.writer], of.seq, of.kind, whole_state, [], None, []
                )

    def _gone(self, tracked: Tracked) -> set[Value]:
        """The names of deleted rows beside which something stands that nobody needs: whoever writes there knows all."""
        rows = self._connection.execute(
            f"SELECT {', '.join(tracked.marks)} FROM {tracked.rows_name} WHERE dead = 1 AND losers > 0"
        )
        return {document_key(tracked, key) for key in rows} - self._whole[tracked.table_id]

    def _left_out(self, tracked: Tracked) -> dict[Value, int]:
        """How many documents are left out beside such rows, by their names."""
        sql = (
            "SELECT key, count(*) FROM crdtlog__merge WHERE tab = ? AND (writer, seq) != (?, ?) GROUP BY key"
        )
        counts = self._connection.execute(sql, (tracked.number, *rowdocs.SUM))
        gone = self._gone(tracked)
        return {name: count for name, count in counts if name in gone}

    def _beside(
        self,
        key: Value,
        slot: int,
        writer: int,
        seq: int,
        kind: int,
        state: bytes,
        versions: bytes | None,
        problem: str | None,
        aside: bytes | None,
    ) -> Beside:
        at = -1 if (writer, seq) == rowdocs.SUM else self._numbers[writer]
        return Beside(key, slot, at, seq, kind, state, self._dots(versions), problem, self._dots(aside))

    def _dots(self, dots: bytes | None) -> list[tuple[int, int]] | None:
        return None if dots is None else [(self._numbers[writer], seq) for writer, seq in unpack_own(dots)]


def _size(value: Value) -> int:
    return len(value) if isinstance(value, (str, bytes)) else 8


def _batches(items: Iterator[Any], size_of: Any) -> Iterator[list[Any]]:
    some: list[Any] = []
    size = 0
    for item in items:
        if some and (size + size_of(item) > PART_BYTES or len(some) == PART_ROWS):
            yield some
            some, size = [], 0
        some.append(item)
        size += size_of(item)
    if some:
        yield some
