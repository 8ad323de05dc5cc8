"""What changed: rows compared with their documents by hashes, and written as one entry and into the documents.

Works on batches of rows already read, inside the caller's transaction; knows nothing of captures or backlogs. Rows that
changed alike become one section of the entry, column by column.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from crdtlog import clock, document, merging, rowdocs
from crdtlog.catalog import Tracked
from crdtlog.connection import Row, execute_rows
from crdtlog.document import Compact, Version, Write
from crdtlog.kinds import COUNTER, SET
from crdtlog.payload import DELETE, INSERT, UPDATE, Patch, Section, encode_data
from crdtlog.rows import (
    DOCUMENT_COLUMNS,
    Layout,
    document_key,
    document_values,
    drop_losers,
    insert_document_sql,
    update_document_sql,
)
from crdtlog.state import State
from crdtlog.values import HASH_BYTES, Key, Value, hash_rows, same

#: How own writes to mergeable cells travel, by (row, slot).
_Edits = dict[tuple[int, int], merging.OwnEdit]


class Batch(NamedTuple):
    """Rows of one table joined with their documents (whose columns are left out when none has one); see `Layout`."""

    tracked: Tracked
    rows: list[Row]
    odd: bool
    full: bool


class _Columns:
    """A batch as columns, by name."""

    def __init__(self, batch: Batch) -> None:
        layout = Layout.of(batch.tracked)
        columns = list(zip(*batch.rows, strict=True))
        self.key = columns[: layout.at]
        self.at = columns[layout.at]
        self.present = columns[layout.present]
        self.cells = columns[layout.cells]
        documents = columns[layout.cells.stop :] or [(None,) * len(batch.rows)] * len(DOCUMENT_COLUMNS)
        self.writer, self.seq, self.stamp, self.dead, self.losers, self.strata, self.hashes = documents

    def key_of(self, row: int) -> Key:
        """The key of a row."""
        return tuple(column[row] for column in self.key)

    def compact(self, row: int) -> Compact:
        """The stored document of a row."""
        return Compact(
            self.writer[row],
            self.seq[row],
            clock.from_sql(self.stamp[row]),
            bool(self.dead[row]),
            self.strata[row] or b"",
        )


def write_changes(state: State, batches: list[Batch], floor: int, forced: Sequence[int] = ()) -> int:
    """Write what differs as one entry and into the documents; returns the number of changed rows.

    `floor` is a stamp that none of these rows has had in this log: all new stamps are above it. `forced` are slots that
    living rows write in any case: a value written again ends the versions that its author had seen.

    Invariant: afterwards every row of the batches has exactly the hashes of its document, and unless forced no row
    whose hashes were equal before was written (an equal rewrite is no change).
    """
    own = state.writer
    now = state.now_ms()
    plans = [_Plan(state, batch, floor, now, forced) for batch in batches if batch.rows]
    sections = [section for plan in plans for section in plan.sections]
    if not sections:
        return 0
    first = min(min(section.stamps) for section in sections)
    last = max(max(section.stamps) for section in sections)
    rows = sum(section.rows for section in sections)
    raw = encode_data(sections, first)
    state.append_own("data", raw, stamps=(first, last), rows=rows, summary=_summary(state, sections))
    dot = Version(0, own.number, own.seq)
    for plan in plans:
        for write in plan.writes:
            write(dot)
    return rows


def _summary(state: State, sections: list[Section]) -> str:
    counts: dict[str, list[int]] = {}
    for section in sections:
        counts.setdefault(state.tables[section.table].name, [0, 0, 0])[section.operation] += section.rows
    return summarise(counts)


def summarise(counts: dict[str, list[int]]) -> str:
    """One line for people: what an entry did to each table."""
    verbs = ("inserted", "updated", "deleted")
    return "; ".join(
        f"{name}: " + ", ".join(f"{n} {verb}" for n, verb in zip(three, verbs, strict=True) if n)
        for name, three in counts.items()
    )


class _Plan:
    """What a batch comes to: sections of the entry, and writes that follow once its sequence number is known."""

    def __init__(self, state: State, batch: Batch, floor: int, now_ms: int, forced: Sequence[int]) -> None:
        self.sections: list[Section] = []
        self.writes: list[Callable[[Version], None]] = []
        self._state = state
        self._tracked = batch.tracked
        self._odd = batch.odd
        self._forced = forced
        self._columns = columns = _Columns(batch)
        self._hashes = hash_rows(columns.cells, len(batch.rows), state.seed)
        inserted, updated, deleted = self._changed()
        touched = sorted({*inserted, *updated, *deleted}) if updated or deleted else inserted
        times = clock.stamps_for((columns.at[row] for row in touched), last=floor, now_ms=now_ms)
        self._stamps = dict(zip(touched, times, strict=True))
        if inserted:
            self._insert(inserted)
        if updated:
            self._update(updated)
        if deleted:
            self._delete(deleted)

    def _changed(self) -> tuple[list[int], list[int], list[int]]:
        """The rows that were inserted, updated and deleted."""
        columns = self._columns
        inserted, updated, deleted = [], [], []
        for row, (present, writer, dead, before, after) in enumerate(
            zip(columns.present, columns.writer, columns.dead, columns.hashes, self._hashes, strict=True)
        ):
            if present:
                if writer is None or dead:
                    inserted.append(row)
                elif before != after or self._forced:
                    updated.append(row)
            elif writer is not None and not dead:
                deleted.append(row)
        return inserted, updated, deleted

    def _insert(self, rows: list[int]) -> None:
        state, tracked, columns, hashes = self._state, self._tracked, self._columns, self._hashes
        contested = [row for row in rows if columns.losers[row]]
        # A row from before its table was shared may hold steps that others are known for, as a copy does: its numbers
        # begin no counters, so that they show as they are until somebody steps on them.
        counts = not tracked.reconcile_ms
        begun = self._begin_sets(rows) | (self._begin_counters(contested) if counts else {})
        keys = [_pick(column, rows) for column in columns.key]
        cells = [_pick(column, rows) for column in columns.cells]
        places = {row: place for place, row in enumerate(rows)} if begun else {}
        for (row, slot), edit in begun.items():
            cells[tracked.cell_slots.index(slot)][places[row]] = edit.value
        times = [self._stamps[row] for row in rows]
        counters = tuple(slot for slot, kind in sorted(tracked.kinds.items()) if counts and kind == COUNTER)
        self.sections.append(
            Section(
                tracked.table_id, INSERT, tuple(tracked.cell_slots), keys, cells, times, counters=counters
            )
        )
        picked = hashes if len(rows) == len(hashes) else [hashes[row] for row in rows]

        def write(dot: Version) -> None:
            names = {row: document_key(tracked, columns.key_of(row)) for row in contested}
            drop_losers(state, tracked, list(names.values()), None)
            kept = merging.keep_own(
                state, tracked, None, {name: () for name in names.values()}, (dot.writer, dot.seq)
            )
            aside = {row: kept[name] for row, name in names.items()}
            self._write_shown(begun)
            bias = clock.to_sql(0)
            execute_rows(
                state.connection,
                insert_document_sql(tracked),
                (
                    (*key, dot.writer, dot.seq, at + bias, 0, aside.get(row, 0), None, digest)
                    for *key, at, digest, row in zip(*keys, times, picked, rows, strict=True)
                ),
                odd=self._odd,
            )

        self.writes.append(write)

    def _update(self, rows: list[int]) -> None:
        tracked, columns = self._tracked, self._columns
        groups: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            slots = _changed_slots(tracked, columns.hashes[row], self._hashes[row], self._forced)
            groups.setdefault(slots, []).append(row)
        position = {slot: index for index, slot in enumerate(tracked.cell_slots)}
        for slots, members in groups.items():
            edits = self._edit(slots, members)
            keys = [_pick(column, members) for column in columns.key]
            cells = [_pick(columns.cells[position[slot]], members) for slot in slots]
            patches: dict[int, list[Patch | None]] = {}
            for index, slot in enumerate(slots):
                if slot in tracked.kinds:
                    some = [edits[row, slot] for row in members]
                    cells[index] = [edit.value for edit in some]
                    if any(edit.patch for edit in some):
                        patches[slot] = [edit.patch for edit in some]
            times = [self._stamps[row] for row in members]
            births = _births(self._state, tracked, columns, members)
            counters = tuple(slot for slot in slots if tracked.kinds.get(slot) == COUNTER)
            self.sections.append(
                Section(
                    tracked.table_id,
                    UPDATE,
                    slots,
                    keys,
                    cells,
                    times,
                    births,
                    patches=patches,
                    counters=counters,
                )
            )
            self.writes.append(self._document_updates(members, slots, edits, dead=False))

    def _delete(self, rows: list[int]) -> None:
        keys = [_pick(column, rows) for column in self._columns.key]
        times = [self._stamps[row] for row in rows]
        births = _births(self._state, self._tracked, self._columns, rows)
        self.sections.append(Section(self._tracked.table_id, DELETE, (), keys, [], times, births))
        self.writes.append(self._document_updates(rows, (), {}, dead=True))

    def _document_updates(
        self, rows: list[int], slots: tuple[int, ...], edits: _Edits, *, dead: bool
    ) -> Callable[[Version], None]:
        """Writes to documents that exist; `dead`: the rows are gone."""
        state, tracked, columns, odd = self._state, self._tracked, self._columns, self._odd
        stamps, hashes = self._stamps, self._hashes
        bits = document.slots_to_bits(slots)

        def write(dot: Version) -> None:
            merge = _own_merge(state, tracked, dot, bits, not dead)
            self._write_shown(edits)
            patched = {row for (row, _), edit in edits.items() if edit.patch}
            beside = {
                row: document_key(tracked, columns.key_of(row))
                for row in rows
                if columns.losers[row] or row in patched
            }
            losing = [name for row, name in beside.items() if columns.losers[row]]
            left = drop_losers(state, tracked, losing, slots, dead=dead)
            own = {
                name: [edits[row, slot] for slot in slots if (row, slot) in edits]
                for row, name in beside.items()
            }
            kept = merging.keep_own(state, tracked, slots, own, (dot.writer, dot.seq))
            losers = {row: left.get(name, 0) + kept[name] for row, name in beside.items()}

            def parameters() -> Iterator[tuple[object, ...]]:
                for row in rows:
                    new = merge(columns.compact(row), stamps[row])
                    digest, key = None if dead else hashes[row], columns.key_of(row)
                    yield (*document_values(new), losers.get(row, 0), new.strata or None, digest, *key)

            execute_rows(state.connection, update_document_sql(tracked), parameters(), odd=odd)

        return write

    # --- cells that merge -----------------------------------------------------------------------------------------

    def _edit(self, slots: tuple[int, ...], rows: list[int]) -> _Edits:
        """How the rows' mergeable cells travel; their hashes become those of what then shows."""
        tracked, columns = self._tracked, self._columns
        mergeable = [slot for slot in slots if slot in tracked.kinds]
        writes = []
        for row in rows if mergeable else ():
            key = columns.key_of(row)
            name = document_key(tracked, key)
            showing = document.expand(columns.compact(row), mergeable).showing
            for slot in mergeable:
                value = columns.cells[tracked.cell_slots.index(slot)][row]
                writes.append(merging.OwnWrite(row, key, name, slot, showing[slot], value, self._stamps[row]))
        state = self._state
        edits = merging.edit_own(state, tracked, writes, state.writer.seq + 1) if writes else {}
        self._rehash(edits)
        return edits

    def _begin_sets(self, rows: list[int]) -> _Edits:
        """Sets as they are shown from the beginning: sorted, and each element once."""
        state, tracked = self._state, self._tracked
        edits = {}
        for index, slot in enumerate(tracked.cell_slots):
            if tracked.kinds.get(slot) == SET:
                column = self._columns.cells[index]
                for row in rows:
                    edit = merging.begin_own(state, tracked, slot, column[row])
                    if edit.value is not column[row]:
                        edits[row, slot] = edit
        self._rehash(edits)
        return edits

    def _begin_counters(self, rows: list[int]) -> _Edits:
        """Counters that begin anew where some were before: what was added to those is taken off the first value."""
        state, tracked, columns = self._state, self._tracked, self._columns
        edits = {}
        names = [document_key(tracked, columns.key_of(row)) for row in rows]
        stored = rowdocs.load_all(state, tracked, names)
        for row, name in zip(rows, names, strict=True):
            for slot, added in stored[name].sums.items():
                if tracked.kinds.get(slot) == COUNTER:
                    value = columns.cells[tracked.cell_slots.index(slot)][row]
                    edits[row, slot] = merging.OwnEdit(*merging.first_of(state, tracked, slot, value, added))
        self._rehash(edits)
        return edits

    def _rehash(self, edits: _Edits) -> None:
        for (row, slot), edit in edits.items():
            at = self._tracked.cell_slots.index(slot) * HASH_BYTES
            (digest,) = hash_rows([(edit.shown,)], 1, self._state.seed)
            self._hashes[row] = self._hashes[row][:at] + digest + self._hashes[row][at + HASH_BYTES :]

    def _write_shown(self, edits: _Edits) -> None:
        """Have every row hold what its documents show, where that is not what was written (a sorted set, say)."""
        tracked, columns = self._tracked, self._columns
        changed: dict[int, list[tuple[Value, ...]]] = {}
        for (row, slot), edit in edits.items():
            index = tracked.cell_slots.index(slot)
            if not same(columns.cells[index][row], edit.shown):
                changed.setdefault(index, []).append((edit.shown, *columns.key_of(row)))
        for index, rows in changed.items():
            sql = (
                f"UPDATE main.{tracked.quoted} SET {tracked.cell_names[index]} = ? WHERE {tracked.where_key}"
            )
            execute_rows(self._state.connection, sql, rows, odd=self._odd)


def _own_merge(
    state: State, tracked: Tracked, dot: Version, bits: int, alive: bool
) -> Callable[[Compact, int], Compact]:
    """Merging an own write, whose context covers everything; remembered, as many rows are alike."""
    rank = state.rank()
    every = document.slots_to_bits(tracked.slots)
    known: dict[tuple[Compact, int], Compact] = {}

    def merge(before: Compact, stamp: int) -> Compact:
        after = known.get((before, stamp))
        if after is None:
            write = Write(Version(stamp, dot.writer, dot.seq), bits, alive)
            after = document.merge_plain(before, write, every, lambda _: True, rank).compact
            if len(known) < 100_000:
                known[before, stamp] = after
        return after

    return merge


def _changed_slots(
    tracked: Tracked, before: bytes | None, after: bytes, forced: Sequence[int]
) -> tuple[int, ...]:
    """The slots whose cells differ, and those forced; all of them when the stored hashes cannot tell."""
    if before is None or len(before) != len(after):
        return tuple(tracked.cell_slots)
    return tuple(
        slot
        for slot, at in zip(tracked.cell_slots, range(0, len(after), HASH_BYTES), strict=True)
        if before[at : at + HASH_BYTES] != after[at : at + HASH_BYTES] or slot in forced
    )


def _births(
    state: State, tracked: Tracked, columns: _Columns, rows: list[int]
) -> list[tuple[bytes, int] | None] | None:
    if not tracked.table.integer_key:
        return None
    known: dict[Compact, tuple[bytes, int]] = {}
    births: list[tuple[bytes, int] | None] = []
    for row in rows:
        compact = columns.compact(row)
        birth = known.get(compact)
        if birth is None:
            version = document.expand(compact, (document.BIRTH,)).showing[document.BIRTH]
            birth = known[compact] = (state.log.ids[version.writer], version.seq)
        births.append(birth)
    return births


def _pick(column: Sequence[Value], rows: list[int]) -> list[Value]:
    return list(column) if len(rows) == len(column) else [column[row] for row in rows]
