"""Apply: from another writer's entry to documents and rows, in one transaction.

Apply comes after drain under the same write lock: nothing is captured that is not in a document, so no context ever
claims to have seen what the person had not. A cell is overwritten only if its hash equals its document's; a row where
one differs (a change that no trigger saw) is captured and drained first. Rows without conflicts move in batches; the
few others go through `contested`, one at a time.

Invariants:
 A1  after an entry, every touched cell equals its document's showing version, and its hash is its document's;
 A2  a value that stops showing without having been seen by the entry's author is kept among the losing versions;
 A3  what triggers captured while applying is removed again in the same transaction (no echo).
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import NamedTuple, TypeVar

from crdtlog import clock, section_check
from crdtlog.catalog import Tracked
from crdtlog.connection import Row, execute_rows, fetch
from crdtlog.contested import Author, Work, settle
from crdtlog.document import Version, Write
from crdtlog.entry import Entry
from crdtlog.errors import EntryRefused
from crdtlog.payload import INSERT, UPDATE, Section, decode_data
from crdtlog.rows import (
    Layout,
    document_key,
    insert_document_sql,
    joined_sql,
    swept_sql,
    update_alike_sql,
    update_document_sql,
)
from crdtlog.state import State
from crdtlog.steps import Step, Steps, Way
from crdtlog.values import HASH_BYTES, Key, Value, hash_rows, same


class CaptureFirst(Exception):
    """Rows differ from their documents although nothing is captured: they must be drained before this entry."""

    def __init__(self, tracked: Tracked, keys: list[Key], odd: bool, missing: int) -> None:
        super().__init__(tracked.name)
        self.tracked = tracked
        self.keys = keys
        self.odd = odd
        #: how many of the rows are gone
        self.missing = missing


def author_of(state: State, item: Entry, before: Mapping[bytes, int]) -> Author:
    """Who wrote an entry, and its context: what it names, together with its log's context `before` it."""
    context = {**before, **{named.writer: named.seq for named in item.context}}
    seen = {other.number: context.get(other.id, 0) for other in state.log.writers.values()}
    writer = state.log.writer(item.writer)
    seen[writer.number] = item.seq - 1

    def covered(version: Version) -> bool:
        return seen.get(version.writer, 0) >= version.seq

    return Author(writer.number, item.seq, covered)


def apply_data(state: State, item: Entry, before: Mapping[bytes, int]) -> tuple[int, dict[str, list[int]]]:
    """Merge a data entry, after its log's context `before`; returns its rows, and counts by table for people.

    Raises `Malformed`, `EntryRefused`, `TablePaused`, or signals `CaptureFirst`; the caller undoes what was begun.
    """
    payload = decode_data(item.payload(), item.first_stamp, item.last_stamp)
    counts: dict[str, list[int]] = {}
    named: dict[int, set[Key]] = {}
    for section in payload.sections:
        tracked = section_check.table_of(state, section)
        section_check.check_rows(tracked, section, named.setdefault(tracked.number, set()))
        section_check.check_exact(state, tracked, section, payload.odd)
        counts.setdefault(tracked.name, [0, 0, 0])[section.operation] += section.rows
    author = author_of(state, item, before)
    apply_sections(state, item, payload.sections, author, odd=payload.odd)
    return sum(section.rows for section in payload.sections), counts


def apply_sections(
    state: State, item: Entry, sections: Sequence[Section], author: Author, *, odd: bool
) -> None:
    """Merge checked sections of an entry into documents and rows. Raises and signals as `apply_data`."""
    touched: dict[int, Tracked] = {}
    for section in sections:
        tracked = section_check.table_of(state, section)
        touched[tracked.number] = tracked
        try:
            _Applier(state, tracked, section, author, odd).run()
        except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.OperationalError) as error:
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise  # about the file, not about these rows (as an expression of an index or a column is)
            raise EntryRefused(
                f"entry {item.seq} of writer {item.writer.hex()[:12]} cannot stand in table {tracked.name}: {error}"
            ) from error
    for tracked in touched.values():
        state.connection.execute(f"DELETE FROM {tracked.capture_name}")


_T = TypeVar("_T")


class _Stored(NamedTuple):
    """Rows as they were read, in the layout of `joined_sql`, and which of the section's they are, ascending."""

    rows: list[Row]
    indexes: Sequence[int]


class _Here(NamedTuple):
    """A section's rows that are here, as columns."""

    keys: Sequence[Key]
    #: their rowids, for a table that has a name for them
    places: Sequence[Value] | None
    #: which of the section's rows they are
    indexes: Sequence[int]
    #: the cells that were read
    cells: Sequence[Sequence[Value]]
    #: the documents' hashes of all cells
    hashes: Sequence[bytes]


class _Applier(Work):
    """One section of one entry, most of its rows at once."""

    def run(self) -> None:
        """Apply the section."""
        section, tracked = self.section, self.tracked
        # An update is merged by the cells that it writes; whatever needs a row whole reads it again.
        read = None
        if section.operation == UPDATE and not section.patches:
            read = [slot for slot in tracked.cell_slots if slot in section.slots]
        here = _Stored([], []) if self._is_empty() else self._found(read)
        self._insert_fresh(_others(here.indexes, section.rows))
        if here.rows:
            self._merge(here, read)
        self._flush()

    # --- what is here ---------------------------------------------------------------------------------------------

    def _is_empty(self) -> bool:
        return all(
            self.connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() is None
            for name in (self.tracked.rows_name, f"main.{self.tracked.quoted}")
        )

    def _found(self, read: Sequence[int] | None) -> _Stored:
        """The section's rows that have a row or a document here, as `_stored` gives them."""
        swept = None if read is None else self._swept(read)
        if swept is None:
            return self._stored(range(self.section.rows), read)
        missing = _others(swept.indexes, self.section.rows)
        if not missing:
            return swept
        rest = self._stored(missing, read)
        both = sorted(
            zip([*swept.indexes, *rest.indexes], [*swept.rows, *rest.rows], strict=True), key=itemgetter(0)
        )
        return _Stored([row for _, row in both], [at for at, _ in both])

    def _swept(self, read: Sequence[int]) -> _Stored | None:
        """Rows with documents, read in one go from the section's first key to its last; None where that is no quicker.

        An entry of a large change holds rows whose keys are neighbours, with hardly any other between them. Which keys
        lie between is for SQLite to say: no row is missed that way, as those not found are looked for one by one.
        """
        keys, most = self.section.keys[0], self.section.rows * 5 // 4
        if not self.tracked.plain_key or self.odd or set(map(type, keys)) not in ({str}, {int}):
            return None
        ends = (min(keys), max(keys))  # type: ignore[type-var]
        between = f"SELECT 1 FROM {self.tracked.rows_name} WHERE k1 BETWEEN ? AND ? LIMIT ?"
        (count,) = self.connection.execute(f"SELECT count(*) FROM ({between})", (*ends, most + 1)).fetchone()
        if count > most:
            return None
        rows, self.odd = fetch(self.connection, swept_sql(self.tracked, read, self.tracked.rowid), ends)
        if [row[0] for row in rows] == keys:
            return _Stored(rows, range(len(rows)))
        places = {key: at for at, key in enumerate(keys)}
        found = sorted((places[row[0]], at) for at, row in enumerate(rows) if row[0] in places)
        return _Stored([(keys[place], *rows[at][1:]) for place, at in found], [place for place, _ in found])

    def _stored(self, indexes: Sequence[int], read: Sequence[int] | None) -> _Stored:
        """Those of some of the section's rows that have a row or a document here.

        Whole, or with the cells of the slots `read` and, where there is one, their rowid.
        """
        tracked, connection = self.tracked, self.connection
        inbox = f"temp.crdtlog__inbox_{tracked.number}"
        connection.execute(
            f"CREATE TEMP TABLE IF NOT EXISTS {inbox[5:]} (i INTEGER PRIMARY KEY, {tracked.key_declarations})"
        )
        connection.execute(f"DELETE FROM {inbox}")
        marks = ", ".join("?" * (len(tracked.marks) + 1))
        keys = zip(indexes, *(_picked(column, indexes) for column in self.section.keys), strict=True)
        execute_rows(connection, f"INSERT INTO {inbox} VALUES ({marks})", keys, odd=self.odd)
        source = f"SELECT {', '.join(tracked.marks)}, i AS at FROM {inbox}"
        sql = joined_sql(tracked, source, slots=read, rowid=None if read is None else tracked.rowid)
        here = f"r.w IS NOT NULL OR t.{tracked.key_names[0]} IS NOT NULL"
        rows, odd = fetch(connection, f"{sql} WHERE {here} ORDER BY c.at")
        self.odd = self.odd or odd
        return _Stored(rows, [row[self.layout.at] for row in rows])

    def _insert_hashes(self, row: int) -> bytes:
        order = {slot: index for index, slot in enumerate(self.section.slots)}
        return b"".join(self.hash_columns[order[slot]][row] for slot in self.tracked.cell_slots)

    # --- rows nobody has here -------------------------------------------------------------------------------------

    def _insert_fresh(self, rows: list[int]) -> None:
        if not rows:
            return
        section, tracked = self.section, self.tracked
        if section.operation != INSERT:
            raise EntryRefused(f"entry {self.author.seq} changes a row of {tracked.name} that never was")
        order = {slot: index for index, slot in enumerate(section.slots)}
        cells = [section.cells[order[slot]] for slot in tracked.cell_slots]
        digests = [self.hash_columns[order[slot]] for slot in tracked.cell_slots]
        everything = [*cells] if tracked.respelled else [*section.keys, *cells]
        hashes = list(map(b"".join, zip(*digests, strict=True))) if digests else [b""] * section.rows
        if len(rows) == section.rows:
            self.out.inserts = list(zip(*everything, strict=True))
        else:
            self.out.inserts = [tuple(column[row] for column in everything) for row in rows]
        writer, seq = self.author.writer, self.author.seq
        stamps = [clock.to_sql(value) for value in section.stamps]
        picked: Iterable[Row] = zip(*section.keys, stamps, hashes, strict=True)
        if len(rows) < section.rows:
            wanted = set(rows)
            picked = (row for index, row in enumerate(picked) if index in wanted)
        self.out.documents = [(*key, writer, seq, at, 0, 0, None, digest) for *key, at, digest in picked]

    # --- rows that are here ---------------------------------------------------------------------------------------

    def _merge(self, stored: _Stored, read: Sequence[int] | None) -> None:
        """Merge into rows as `_stored` read them. Signals `CaptureFirst` for changes that no trigger saw (A2)."""
        tracked, section, rows = self.tracked, self.section, stored.rows
        layout = Layout.of(tracked, read)
        columns = list(zip(*rows, strict=True))
        keys: list[Key] = list(zip(*columns[: layout.at], strict=True))
        cells = columns[layout.cells]
        *compact, losers, strata, hashes = columns[layout.cells.stop :]
        present = columns[layout.present]
        places = None
        if read is not None and tracked.rowid:
            places, present = present, tuple([place is not None for place in present])
        here = _Here(keys, places, stored.indexes, cells, hashes)
        digests = hash_rows(cells, len(rows), self.state.seed)
        before = hashes if read is None else self._hashes_of(read, hashes)
        if all(present) and not any(losers) and not section.patches and digests == list(before):
            plain: Sequence[int] = range(len(rows))
            contested: list[int] = []
        else:
            plain, contested = self._sift(here, digests, before, present, compact[0], compact[3], losers)
        names = list(zip(*compact, strata, _picked(section.stamps, here.indexes), strict=True))
        for way, (at, steps) in self._ways(
            names, plain, tracked.cell_slots if read is None else read
        ).items():
            if way.contested:
                contested += at
            else:
                self._go(way, steps, _pick_rows(here, at))
        if contested and read is not None:
            self._merge(self._stored([here.indexes[at] for at in sorted(contested)], None), None)
        elif contested:
            changed = settle(self, [(here.indexes[at], rows[at]) for at in contested])
            execute_rows(self.connection, update_document_sql(tracked), changed, odd=self.odd)

    def _ways(
        self, names: Sequence[Row], plain: Sequence[int], read: Sequence[int]
    ) -> Mapping[Way, tuple[Sequence[int], list[Step]]]:
        """The ways that plain rows go, each with its rows and their steps; a row's name is as `Steps` says."""
        write = Write(Version(0, self.author.writer, self.author.seq), self.bits, self.alive)
        steps = Steps(self.tracked, self.section, write, self.author.covered, self.rank, read)
        each = [steps[name] for name in _picked(names, plain)]
        if len(steps.ways) == 1:
            return {way: (plain, each) for way in steps.ways}
        ways: dict[Way, tuple[list[int], list[Step]]] = {way: ([], []) for way in steps.ways}
        for at, step in zip(plain, each, strict=True):
            places, some = ways[step.way]
            places.append(at)
            some.append(step)
        return dict(ways)

    def _hashes_of(self, read: Sequence[int], hashes: Sequence[bytes | None]) -> list[bytes | None]:
        """The hashes of the cells read; None where a document has none, or not those of this table's columns."""
        size = len(self.tracked.cells) * HASH_BYTES
        spans = [
            slice(at * HASH_BYTES, (at + 1) * HASH_BYTES)
            for at, slot in enumerate(self.tracked.cell_slots)
            if slot in read
        ]
        if len(spans) == 1:
            (span,) = spans
            return [whole[span] if whole is not None and len(whole) == size else None for whole in hashes]
        return [
            b"".join([whole[span] for span in spans]) if whole is not None and len(whole) == size else None
            for whole in hashes
        ]

    def _sift(
        self,
        here: _Here,
        digests: Sequence[bytes],
        before: Sequence[bytes | None],
        present: Row,
        writers: Row,
        dead: Row,
        losers: Row,
    ) -> tuple[list[int], list[int]]:
        """Which of the rows are plain, and which have losing versions or patches to come; others are adopted."""
        plain: list[int] = []
        contested: list[int] = []
        unseen: list[Key] = []
        missing = 0
        for at, index in enumerate(here.indexes):
            if writers[at] is None:
                if self.section.operation == INSERT and self._insert_hashes(index) == digests[at]:
                    self._adopt(index, here.keys[at], digests[at])
                else:
                    unseen.append(here.keys[at])
            elif present[at] == dead[at] or (present[at] and digests[at] != before[at]):
                unseen.append(here.keys[at])
                missing += not present[at]
            elif losers[at] or self.is_patched(index):
                contested.append(at)
            else:
                plain.append(at)
        if unseen:
            raise CaptureFirst(self.tracked, unseen, self.odd, missing)
        return plain, contested

    def _go(self, way: Way, steps: list[Step], rows: _Here) -> None:
        """What the write does to rows that go one way, and to their documents."""
        out, cells = self.out, self.section.cells
        keys: list[Row] = list(zip(*rows.keys, strict=True))
        hashes = rows.hashes
        for column, place in way.splice:
            written, end = self.hash_columns[column], place + HASH_BYTES
            hashes = [
                whole[:place] + own + whole[end:]
                for whole, own in zip(hashes, _picked(written, rows.indexes), strict=True)
            ]
        if way.dies:
            out.deletes += rows.keys
        if way.taken:
            values = [_picked(cells[column], rows.indexes) for column, _ in way.splice]
            if rows.places is not None:
                out.placed.setdefault(way.taken, []).extend(zip(*values, rows.places, strict=True))
            else:
                out.updates.setdefault(way.taken, []).extend(zip(*values, *keys, strict=True))
        if way.losers:
            self._keep_losers(way, steps, rows)
        after = way.after
        sql = update_alike_sql(self.tracked, after.writer, after.seq, after.dead, len(way.losers))
        stamps, strata = [step.at for step in steps], [step.strata for step in steps]
        kept = repeat(None, len(steps)) if way.dies else hashes
        execute_rows(self.connection, sql, zip(stamps, strata, kept, *keys, strict=True), odd=self.odd)

    def _adopt(self, index: int, key: Key, digest: bytes) -> None:
        """A row that was here before its table was, equal to the one that arrives: only its document is missing."""
        at = clock.to_sql(self.section.stamps[index])
        self.out.documents.append((*key, self.author.writer, self.author.seq, at, 0, 0, None, digest))

    def _keep_losers(self, way: Way, steps: list[Step], rows: _Here) -> None:
        """Keep what loses by a step; a value equal to the one that shows is kept out of sight."""
        names = [document_key(self.tracked, key) for key in rows.keys]
        for loser in way.losers:
            stamps = [step.stamps[loser.rank] for step in steps]
            values: Iterable[Value] = repeat(None)
            hidden: Iterable[bool] = repeat(True)
            if loser.cell >= 0:
                mine = rows.cells[loser.cell]
                theirs = _picked(self.section.cells[loser.column], rows.indexes)
                values, hidden = theirs if loser.written else mine, map(same, mine, theirs)
            # What all of them share is said once, and not bound again for each row.
            alike = (self.tracked.number, loser.slot, loser.writer, loser.seq)
            sql = "INSERT OR REPLACE INTO crdtlog__loser VALUES ({}, ?, {}, {}, {}, ?, ?, ?)".format(*alike)
            parameters = zip(names, stamps, hidden, values, strict=False)
            execute_rows(self.connection, sql, parameters, odd=self.odd)

    # --- writing --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        tracked, out, odd = self.tracked, self.out, self.odd
        if out.deletes:
            execute_rows(
                self.connection,
                f"DELETE FROM main.{tracked.quoted} WHERE {tracked.where_key}",
                out.deletes,
                odd=odd,
            )
        if out.inserts:
            names = tracked.cell_names if tracked.respelled else [*tracked.key_names, *tracked.cell_names]
            marks = ", ".join("?" * len(names))
            sql = f"INSERT INTO main.{tracked.quoted} ({', '.join(names)}) VALUES ({marks})"
            execute_rows(self.connection, sql, out.inserts, odd=odd)
        for updates, where in ((out.placed, f"{tracked.rowid} = ?"), (out.updates, tracked.where_key)):
            for slots, rows in updates.items():
                names = [tracked.cell_names[self.cell_index[slot]] for slot in slots]
                assignments = ", ".join(f"{name} = ?" for name in names)
                sql = f"UPDATE main.{tracked.quoted} SET {assignments} WHERE {where}"
                execute_rows(self.connection, sql, rows, odd=odd)
        if out.documents:
            execute_rows(self.connection, insert_document_sql(tracked), out.documents, odd=odd)
        if out.losers:
            sql = "INSERT OR REPLACE INTO crdtlog__loser VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            execute_rows(self.connection, sql, out.losers, odd=odd)


def _picked(column: Sequence[_T], at: Sequence[int]) -> Sequence[_T]:
    """Some of a column, by ascending indexes: mostly all of them."""
    return column if len(at) == len(column) else [column[row] for row in at]


def _others(indexes: Sequence[int], count: int) -> list[int]:
    """The indexes below `count` that are not among these."""
    return [] if len(indexes) == count else sorted(set(range(count)).difference(indexes))


def _pick_rows(rows: _Here, at: Sequence[int]) -> _Here:
    cells = [_picked(column, at) for column in rows.cells]
    places = None if rows.places is None else _picked(rows.places, at)
    return _Here(_picked(rows.keys, at), places, _picked(rows.indexes, at), cells, _picked(rows.hashes, at))
