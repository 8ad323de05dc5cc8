"""A row that needs care: one with losing versions, one that dies unseen, or one that comes back from the dead.

Most rows that an entry touches move in batches (`apply`); here the values of one row are gathered from wherever they
are: the row, the losing versions beside it, the entry at hand, or an older entry of the log by its dot. `Work` is what
both ways share: one section of one entry, and what it will write.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from crdtlog import clock, document, merging, rowdocs
from crdtlog.abridged.base import given_document
from crdtlog.catalog import Tracked
from crdtlog.connection import Row
from crdtlog.document import BIRTH, LIVENESS, Merged, Version, Write
from crdtlog.errors import EntryRefused, Malformed
from crdtlog.kinds import COUNTER, Origin, counter
from crdtlog.kinds.counter import Begun
from crdtlog.log import not_given
from crdtlog.merging import OtherPatch, Patched
from crdtlog.payload import DELETE, INSERT, Section
from crdtlog.rowdocs import Doc, Name, RowDocs
from crdtlog.rows import Layout, beside, document_key, document_values, drop_losers, stored_compact
from crdtlog.state import State
from crdtlog.values import Key, Value, hash_columns, hash_rows, pack, same, unpack_own


class Author(NamedTuple):
    """The entry's dot, with the writer's local number, and what its author had seen."""

    writer: int
    seq: int
    covered: Callable[[Version], bool]


@dataclass
class Output:
    """What goes into the file for one section."""

    inserts: list[tuple[Value, ...]] = field(default_factory=list)
    #: by slots: values and key, or values and rowid
    updates: dict[tuple[int, ...], list[tuple[Value, ...]]] = field(default_factory=dict)
    placed: dict[tuple[int, ...], list[tuple[Value, ...]]] = field(default_factory=dict)
    deletes: list[Key] = field(default_factory=list)
    documents: list[tuple[object, ...]] = field(default_factory=list)
    losers: list[tuple[object, ...]] = field(default_factory=list)


class Work:
    """One section of one entry being applied, and what it will write."""

    def __init__(self, state: State, tracked: Tracked, section: Section, author: Author, odd: bool) -> None:
        self.state = state
        self.tracked = tracked
        self.section = section
        self.author = author
        self.odd = odd
        self.connection = state.connection
        self.rank = state.rank()
        self.out = Output()
        self.hash_columns = hash_columns(section.cells, state.seed)
        self.cell_index = {slot: index for index, slot in enumerate(tracked.cell_slots)}
        self.section_index = {slot: index for index, slot in enumerate(section.slots)}
        bits = document.slots_to_bits(section.slots)
        self.bits = bits | 1 << BIRTH if section.operation == INSERT and tracked.table.integer_key else bits
        self.alive = section.operation != DELETE
        self.layout = Layout.of(tracked)
        self.every = document.slots_to_bits(tracked.slots)

    def written(self, row: int) -> dict[int, Value]:
        """Slot → value, as the entry wrote it; patched cells are left out."""
        return self.section.values(row)

    def is_patched(self, row: int) -> bool:
        """Whether the entry patches a document of that row."""
        return any(column[row] is not None for column in self.section.patches.values())

    def keep(self, key: Key, slot: int, version: Version, value: Value, hidden: bool) -> None:
        """Keep a losing version beside its row."""
        stamp, writer, seq = version
        name = document_key(self.tracked, key)
        self.out.losers.append(
            (self.tracked.number, name, slot, writer, seq, clock.to_sql(stamp), hidden, value)
        )


def settle(work: Work, rows: Sequence[tuple[int, Row]]) -> list[tuple[object, ...]]:
    """Merge into rows that need care, each with its place in the section; returns the parameters of their documents.

    What stands beside the rows is read together and written together, and all patches go into documents together.
    """
    state, tracked = work.state, work.tracked
    names = [document_key(tracked, row[: work.layout.at]) for _, row in rows]
    accompanied = [name for name, (_, row) in zip(names, rows, strict=True) if row[-3]]
    docs = {name: RowDocs() for name in names} | rowdocs.load_all(state, tracked, accompanied)
    losers: dict[Value, list[Row]] = {name: [] for name in names}
    wanted = "SELECT key, slot, writer, seq, stamp, value FROM crdtlog__loser"
    found, odd = beside(state, wanted, tracked, accompanied)
    work.odd = work.odd or odd
    for name, *loser in found:
        losers[name].append(tuple(loser))
    contested = [
        Contested(work, index, row, docs[name], losers[name])
        for (index, row), name in zip(rows, names, strict=True)
    ]
    owners = [(row, item) for row in contested for item in row.patches()]
    done = merging.merge_others(state, tracked, [item for _, item in owners])
    for (row, _), patched in zip(owners, done, strict=True):
        row.take(patched)
    changed = [row.settle() for row in contested]
    drop_losers(state, tracked, accompanied, None)
    had = set(accompanied)
    rowdocs.store_all(
        state, tracked, {name: some for name, some in docs.items() if some.count or name in had}
    )
    return changed


class Contested:
    """A row with losing versions or merge documents, or one that dies unseen or comes back.

    Its values are gathered one by one.
    """

    def __init__(self, applier: Work, index: int, row: Row, docs: RowDocs, losers: Iterable[Row]) -> None:
        layout = applier.layout
        self.applier = applier
        self.state = applier.state
        self.tracked = applier.tracked
        self.index = index
        self.key: Key = row[: layout.at]
        self.cells: Row | None = row[layout.cells] if row[layout.present] else None
        self.compact = stored_compact(row[layout.cells.stop : layout.cells.stop + 4], row[-2])
        self.values: dict[tuple[int, int, int], Value] = {}
        #: losing values beside a deleted row that came with a snapshot, which may have left them out
        self.left_out: set[tuple[int, int, int]] = set()
        self.shown: dict[Name, Value] = {}
        self.stamp = applier.section.stamps[index]
        self.docs = docs
        losing: dict[int, set[Version]] = {}
        for slot, writer, seq, stamp, value in losers:
            if slot == LIVENESS:
                continue
            losing.setdefault(slot, set()).add(Version(clock.from_sql(stamp), writer, seq))
            if self.compact.dead and self.state.log.is_given(writer, seq):
                self.left_out.add((slot, writer, seq))
            else:
                self.values[slot, writer, seq] = value
        self.before = document.expand(self.compact, self.tracked.slots, losing)
        self.after = document.expand(self.compact, self.tracked.slots, losing)
        self.version = Version(self.stamp, applier.author.writer, applier.author.seq)

    def patches(self) -> list[OtherPatch]:
        """The patches that the entry holds for this row's documents; a counter's needs nothing but its sum."""
        found = []
        for slot, column in self.applier.section.patches.items():
            patch = column[self.index]
            if patch is None:
                continue
            origin = Origin(self.stamp, self.state.log.ids[self.version.writer], self.version.seq)
            live = {(v.writer, v.seq) for v in self._versions(self.before, slot)}
            item = OtherPatch(self.key, self.docs, slot, patch, origin, self._covers, live)
            if patch.kind == COUNTER:
                self._count(item)
            else:
                found.append(item)
        return found

    def _covers(self, writer: bytes, seq: int) -> bool:
        """Whether the entry's author had seen an entry."""
        known = self.state.log.writers.get(writer)
        return known is not None and self.applier.author.covered(Version(0, known.number, seq))

    def take(self, patched: Patched) -> None:
        """Have a patched document among the row's."""
        name = patched.of
        doc = self.docs.docs.setdefault(name, Doc(patched.state, set()))
        doc.state, doc.problem, doc.aside = patched.state, patched.problem, patched.aside
        doc.versions.add((self.version.writer, self.version.seq))
        if not patched.same:
            self.shown[name] = patched.shown

    def _count(self, item: OtherPatch) -> None:
        """Add a counter's change to its cell's sum."""
        name = merging.named(self.state, self.tracked, item)
        if name not in self.docs.docs:
            first = self._first(name)
            if not counter.counts(first):
                raise Malformed(f"a patch of a counter to a cell of {self.tracked.name} that is no number")
            self.docs.docs[name] = Doc(pack(first), set())
        self.docs.docs[name].versions.add((self.version.writer, self.version.seq))
        added = self.docs.sums.get(name.slot, counter.ZERO)
        self.docs.sums[name.slot] = counter.add(added, counter.decode(item.patch.data))
        before = counter.decode_before(item.patch.data)
        if before is not None:
            self.docs.begin(name, Begun(item.origin.stamp, item.origin.writer, before))

    def _first(self, name: Name) -> Value:
        """A counter's first value: from the log, or as it came with a snapshot."""
        dot = (name.writer, name.seq)
        try:
            return rowdocs.base_of(self.state, self.tracked, self.key, name.slot, dot)[0].value
        except EntryRefused:
            given = given_document(self.state, self.tracked, self.key, name)
            if given is None:
                raise
            return cast(Value, unpack_own(given))

    def settle(self) -> tuple[object, ...]:
        """Merge the write; returns the parameters that update its document."""
        author = self.applier.author
        write = Write(self.version, self.applier.bits, self.applier.alive)
        self._remember_showing()
        merged = document.merge(self.after, write, author.covered, self.applier.rank)
        for slot, value in self.applier.written(self.index).items():
            self.values[slot, author.writer, author.seq] = value
        self._count_anew()
        shown = {slot: self._value(slot, self.after.showing[slot]) for slot in self.tracked.cell_slots}
        hashes = self._write_row(merged, shown)
        losers = self._write_losers(merged, shown) + self._keep_docs()
        return (*document_values(merged.compact), losers, merged.compact.strata or None, hashes, *self.key)

    @staticmethod
    def _versions(of: document.Document, slot: int) -> set[Version]:
        return {of.showing[slot], *of.losing.get(slot, ())}

    def _count_anew(self) -> None:
        """What the versions of a cell with a counter's sum show."""
        author = (self.version.writer, self.version.seq)
        for slot, whole in self.docs.sums.items():
            for version in self._versions(self.after, slot):
                dot, added = (version.writer, version.seq), whole
                name = self.docs.of(slot, dot)
                if name is not None and name.kind != COUNTER:
                    continue
                if name is not None:
                    first, is_counter = unpack_own(self.docs.docs[name].state), True
                    added = self.docs.added(name)
                elif dot == author:
                    first, is_counter = self.values[slot, *dot], slot in self.applier.section.counters
                else:
                    base, is_counter = rowdocs.base_of(self.state, self.tracked, self.key, slot, dot)
                    first = base.value
                if is_counter:
                    value = counter.shown(first, added)
                    self.values[slot, *dot] = rowdocs.as_stored(
                        self.state, self.tracked.affinity(slot), value
                    )

    def _keep_docs(self) -> int:
        """Keep the documents that versions of their cells belong to (M2), and sums."""
        docs = self.docs
        for name, doc in docs.docs.items():
            doc.versions &= {(v.writer, v.seq) for v in self._versions(self.after, name.slot)}
        docs.docs = {name: doc for name, doc in docs.docs.items() if doc.versions}
        return docs.count

    def _remember_showing(self) -> None:
        if self.cells is None:
            return
        for (slot, _), value in zip(self.tracked.cells, self.cells, strict=True):
            version = self.before.showing[slot]
            self.values[slot, version.writer, version.seq] = value

    def _value(self, slot: int, version: Version) -> Value:
        """A version's value: of its document, or from the row, from beside it, from the entry, or from the log."""
        if slot == BIRTH:
            return None
        of = self.docs.of(slot, (version.writer, version.seq))
        if of is not None and of.kind != COUNTER:
            return self._shown(of)
        name = (slot, version.writer, version.seq)
        if name not in self.values:
            _, written = self.state.log.written_values(
                version.writer, version.seq, self.tracked.table_id, self.key, self.tracked.collations
            )
            for other, value in written.items():
                self.values.setdefault((other, version.writer, version.seq), value)
            if any(isinstance(value, str) for value in written.values()):
                self.applier.odd = True
            if name not in self.values and self.state.log.is_given(version.writer, version.seq):
                raise not_given()
        return self.values[name]

    def _shown(self, of: Name) -> Value:
        """What a document shows: alike for all of its versions, so that any whose value is known tells."""
        if of not in self.shown:
            doc = self.docs.docs[of]
            known = [self.values[of.slot, *dot] for dot in doc.versions if (of.slot, *dot) in self.values]
            if known:
                self.shown[of] = known[0]
            else:
                self.shown[of] = rowdocs.show(self.state, self.tracked, self.key, of, self.docs)
        return self.shown[of]

    def _write_row(self, merged: Merged, shown: dict[int, Value]) -> bytes | None:
        out, key = self.applier.out, self.key
        if not merged.alive:
            if merged.was_alive:
                out.deletes.append(key)
            return None
        values = tuple(shown[slot] for slot in self.tracked.cell_slots)
        if not merged.was_alive:
            out.inserts.append(values if self.tracked.respelled else (*key, *values))
        elif self.cells is not None:
            changed = tuple(
                slot
                for (slot, _), old in zip(self.tracked.cells, self.cells, strict=True)
                if not same(old, shown[slot])
            )
            if changed:
                out.updates.setdefault(changed, []).append((*(shown[slot] for slot in changed), *key))
        return hash_rows([(value,) for value in values], 1, self.state.seed)[0]

    def _write_losers(self, merged: Merged, shown: dict[int, Value]) -> int:
        count = 0
        for slot, versions in self.after.losing.items():
            listed: set[Name] = set()
            for version in sorted(versions, key=self.applier.rank, reverse=True):
                is_left_out = not merged.alive and (slot, version.writer, version.seq) in self.left_out
                value = None if is_left_out else self._value(slot, version)
                hidden = slot == BIRTH or not merged.alive or same(value, shown[slot])
                of = self.docs.of(slot, (version.writer, version.seq))
                if of is not None:
                    hidden = hidden or of in listed
                    listed.add(of)
                self.applier.keep(self.key, slot, version, value, hidden)
                count += 1
        for version in merged.unseen_alive:
            self.applier.keep(self.key, LIVENESS, version, self._row_text(shown), False)
            count += 1
        return count

    def _row_text(self, shown: dict[int, Value]) -> str:
        """The row's values, for people: what a delete took away without having seen the last write to it."""
        named = {column.name: shown[slot] for slot, column in self.tracked.cells}
        text = json.dumps(
            {k: v.hex() if isinstance(v, bytes) else v for k, v in named.items()}, ensure_ascii=False
        )
        return text.encode("utf-8", "replace").decode()
