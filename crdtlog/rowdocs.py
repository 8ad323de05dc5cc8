"""Merge documents beside rows, as they are stored and as the log tells of them.

Nothing is stored for a cell that was never patched: its document is its value. Once patched, its state lies in
`crdtlog__merge` with the dots of its patches that are versions still. Counters of one cell share one sum, kept under
the dot (0, 0), and their documents are first values; beside the sum stands since when values count that were written
as no counter's. What is here decides nothing: see `merging`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from crdtlog import kinds
from crdtlog.catalog import Tracked
from crdtlog.connection import execute_rows, fetch
from crdtlog.errors import DamagedDocument, EntryRefused, Malformed
from crdtlog.kinds import COUNTER, TEXT, Base, Failure, Origin, counter
from crdtlog.kinds.counter import Begun, Sum
from crdtlog.log import not_given
from crdtlog.payload import Patch
from crdtlog.rows import beside
from crdtlog.state import State
from crdtlog.values import Key, Value, has_odd_text, normal_key, pack, unpack_own

Dot = tuple[int, int]
SUM: Dot = (0, 0)
"""Where the sum of a cell's counters is kept."""


class Name(NamedTuple):
    """A document of a row: its cell, the dot that began it, and the kind of its patches."""

    slot: int
    writer: int
    seq: int
    kind: int


@dataclass(slots=True)
class Doc:
    """A stored document; `versions` are the dots of its patches that are versions of the cell.

    With a problem some patches are not in it: those `aside`, which may find their place beside others yet; or, with
    `aside` None, any, so that only all patches together tell what it is. No state: it is as it began.
    """

    state: bytes
    versions: set[Dot]
    problem: str | None = None
    aside: Sequence[Dot] | None = ()


@dataclass(slots=True)
class RowDocs:
    """The stored documents of one row, and the sums of its counters by slot."""

    docs: dict[Name, Doc] = field(default_factory=dict)
    sums: dict[int, Sum] = field(default_factory=dict)
    #: since when values count that were written as no counter's, and after what
    begun: dict[Name, Begun] = field(default_factory=dict)

    def of(self, slot: int, dot: Dot) -> Name | None:
        """The document that a version of a cell patched."""
        return next((n for n, doc in self.docs.items() if n.slot == slot and dot in doc.versions), None)

    def added(self, of: Name) -> Sum:
        """What was added to a counter."""
        total, real = self.sums.get(of.slot, counter.ZERO)
        begun = self.begun.get(of)
        return Sum(total - begun.before if begun else total, real)

    def begin(self, of: Name, begun: Begun) -> None:
        """Have a value count since then; of several first steps the latest holds."""
        self.begun[of] = max(begun, self.begun.get(of, begun))

    @property
    def count(self) -> int:
        """How many things are stored."""
        return len(self.docs) + len(self.sums)


# --- stored -------------------------------------------------------------------------------------------------------


def load(state: State, tracked: Tracked, name: Value) -> RowDocs:
    """The documents beside a row; `name` is its key as `rows.document_key` gives it."""
    return load_all(state, tracked, [name])[name]


def load_all(state: State, tracked: Tracked, names: Sequence[Value]) -> dict[Value, RowDocs]:
    """The documents beside some rows, by their names: each row has an answer, if an empty one."""
    found = {name: RowDocs() for name in names}
    wanted = "SELECT key, slot, writer, seq, kind, state, versions, problem, aside FROM crdtlog__merge"
    stored, _ = beside(state, wanted, tracked, names)
    for key, slot, writer, seq, kind, data, versions, problem, aside in stored:
        docs = found[key]
        try:
            if (writer, seq) == SUM:
                docs.sums[slot], begun = counter.decode_own(data)
                for (id_, number), item in begun.items():
                    docs.begun[Name(slot, state.log.writers[id_].number, number, COUNTER)] = item
            else:
                dots = _dots(versions)
                left = None if aside is None else sorted(_dots(aside))
                docs.docs[Name(slot, writer, seq, kind)] = Doc(_readable(kind, data), dots, problem, left)
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(state, f"row {key!r} of {tracked.name}") from error
    return found


def _dots(data: bytes) -> set[Dot]:
    dots = {(w, s) for w, s in unpack_own(data)}
    if not all(type(w) is int and type(s) is int for w, s in dots):
        raise TypeError("a dot is two numbers")
    return dots


def _readable(kind: int, data: object) -> bytes:
    """A document's bytes. Raises `TypeError`, `ValueError` for what nobody wrote.

    What else is wrong with one is found by who reads it (`readable`).
    """
    if not isinstance(data, bytes):
        raise TypeError("a document is bytes")
    if kind not in kinds.NAMES:
        raise ValueError("a document of no kind")
    if kind == COUNTER and not counter.counts(unpack_own(data)):
        raise ValueError("a counter's first value is a number")
    if kind != TEXT and not data:
        raise ValueError("only a text may be as it began")
    return data


@contextmanager
def readable(state: State, tracked: Tracked) -> Iterator[None]:
    """Within, that a document beside a row cannot be read is said with what to do."""
    try:
        yield
    except DamagedDocument as error:
        raise _damaged(state, f"a row of {tracked.name}") from error


def _damaged(state: State, where: str) -> DamagedDocument:
    return DamagedDocument(
        f"what stands beside {where} for merging was damaged in the file",
        f"Build it anew from the log: crdtlog check {state.path} --fix",
    )


def store_all(state: State, tracked: Tracked, docs: Mapping[Value, RowDocs]) -> None:
    """Replace the documents beside some rows, by their names, by these."""
    forget = f"DELETE FROM crdtlog__merge WHERE tab = {tracked.number} AND key = ?"
    state.connection.executemany(forget, ((name,) for name in docs))
    rows = (row for name, some in docs.items() for row in _as_rows(state, tracked, name, some))
    keep = "INSERT INTO crdtlog__merge VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    state.connection.executemany(keep, rows)


def _as_rows(state: State, tracked: Tracked, name: Value, docs: RowDocs) -> Iterator[tuple[object, ...]]:
    for of, doc in docs.docs.items():
        aside = None if doc.aside is None else pack(sorted(doc.aside))
        yield (tracked.number, name, *of, doc.state, pack(sorted(doc.versions)), doc.problem, aside)
    for slot, added in docs.sums.items():
        begun = {(state.log.ids[of.writer], of.seq): b for of, b in docs.begun.items() if of.slot == slot}
        data = counter.encode_own(added, begun)
        yield (tracked.number, name, slot, *SUM, COUNTER, data, None, None, None)


def as_stored(state: State, affinity: str, value: Value) -> Value:
    """What a column of that affinity holds after this value was put there: SQLite itself is asked."""
    if type(value) is int and affinity != "REAL" and affinity != "TEXT":
        return value
    if (type(value) is str and affinity == "TEXT") or affinity == "BLOB" or value is None:
        return value
    name = f"crdtlog__stored_{affinity.lower()}"
    state.connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} (v {affinity})")
    state.connection.execute(f"DELETE FROM temp.{name}")
    execute_rows(
        state.connection, f"INSERT INTO temp.{name} VALUES (?)", [(value,)], odd=has_odd_text([value])
    )
    rows, _ = fetch(state.connection, f"SELECT v FROM temp.{name}")
    return cast(Value, rows[0][0])


def show(state: State, tracked: Tracked, key: Key, of: Name, docs: RowDocs) -> Value:
    """What a stored document of a row shows; its base, if nothing could be done with it."""
    doc = docs.docs[of]
    if not doc.state:
        return base_of(state, tracked, key, of.slot, (of.writer, of.seq))[0].value
    if of.kind == COUNTER:
        value = counter.shown(unpack_own(doc.state), docs.added(of))
    else:
        with readable(state, tracked):
            (merged,) = state.documents(of.kind).merge([kinds.Merge(doc.state, begun_by(state, of), ())])
        if isinstance(merged, Failure):
            raise EntryRefused(f"a cell of {tracked.name} cannot be shown: {merged.reason}")
        value = merged.shown
    return as_stored(state, tracked.affinity(of.slot), value)


# --- what the log says --------------------------------------------------------------------------------------------


def base_of(state: State, tracked: Tracked, key: Key, slot: int, dot: Dot) -> tuple[Base, bool]:
    """The value that a version wrote into a cell, and whether it began a counter; read from the log.

    Raises `Malformed` if that entry wrote no value there, `EntryRefused` where a snapshot left it out.
    """
    section, row = state.log.written(*dot, tracked.table_id, key, tracked.collations)
    patches = section.patches.get(slot)
    if slot not in section.slots or (patches is not None and patches[row] is not None):
        if state.log.is_given(*dot):
            raise not_given()
        raise Malformed(f"a patch to a cell of {tracked.name} names a write that began no document")
    value = section.cells[section.slots.index(slot)][row]
    origin = Origin(section.stamps[row], state.log.ids[dot[0]], dot[1])
    return Base(value, origin), slot in section.counters


def begun_by(state: State, of: Name) -> Base:
    """The base of a document whose state is stored: its name is all that is still needed of it."""
    return Base(None, Origin(0, state.log.ids[of.writer], of.seq))


def name_of(state: State, slot: int, patch: Patch) -> Name:
    """The document that a patch names. Raises `EntryRefused` if nothing of that writer is held."""
    writer = state.log.writers.get(patch.writer)
    if writer is None:
        raise EntryRefused("a patch names a write that is not held")
    return Name(slot, writer.number, patch.seq, patch.kind)


def rebuilt_patches(
    state: State, tracked: Tracked, wanted: Iterable[tuple[Name, Key]]
) -> dict[tuple[Name, Key], list[tuple[bytes, Origin]]]:
    """All patches in the log to some documents of rows (by normal keys), in causal order (M2).

    Cost: the log since the first of them began, once for all of them.
    """
    found: dict[tuple[Name, Key], list[tuple[bytes, Origin]]] = {item: [] for item in wanted}
    slots = {of.slot for of, _ in found}
    for number, seq in state.log.data_entries_after({(of.writer, of.seq) for of, _ in found}):
        for section in state.log.sections(number, seq):
            if section.table != tracked.table_id:
                continue
            for slot in slots & section.patches.keys():
                for row, patch in enumerate(section.patches[slot]):
                    if patch is None:
                        continue
                    item = (name_of(state, slot, patch), normal_key(section.key(row), tracked.collations))
                    if item in found:
                        origin = Origin(section.stamps[row], state.log.ids[number], seq)
                        found[item].append((patch.data, origin))
    return found


def patches_at(
    state: State, tracked: Tracked, key: Key, of: Name, dots: Iterable[Dot]
) -> list[tuple[bytes, Origin]]:
    """The patches that some entries hold for a document, from the log."""
    found = []
    for number, seq in dots:
        section, row = state.log.written(number, seq, tracked.table_id, key, tracked.collations)
        patch = section.patches[of.slot][row]
        assert patch is not None, "a patch was left out that its entry does not hold"
        found.append((patch.data, Origin(section.stamps[row], state.log.ids[number], seq)))
    return found


def next_job(
    state: State,
    tracked: Tracked,
    key: Key,
    of: Name,
    before: bytes,
    todo: Sequence[tuple[bytes, Origin]],
) -> kinds.Merge:
    """How patches are put into a document that has that state, or none while it is as it began."""
    if before:
        return kinds.Merge(before, begun_by(state, of), todo)
    base, _ = base_of(state, tracked, key, of.slot, (of.writer, of.seq))
    return kinds.Merge(None, base, todo)
