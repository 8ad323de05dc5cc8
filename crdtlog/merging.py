"""Merge documents beside rows: which versions of a cell belong to which document, and what they show.

A version of a mergeable cell is a value, or a patch to the document that an earlier value began (its *base*). Nothing
is stored for a cell that was never patched: its document is its value. Once patched, its state lies in `crdtlog__merge`
with the dots of its patches that are versions still. Counters of one cell share one sum, kept under the dot (0, 0), and
their documents are first values. Beside the sum stands since when values count that were written as no counter's.

Invariants:
 M1  a document's value depends on its base and the set of patches applied to it, not on their order;
 M2  a document is stored while a version of the cell belongs to it; a later patch to one that is not (its author had
     not seen what replaced it) builds it anew from the log;
 M3  one entry patches a cell once, and names a document that its author had seen.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from crdtlog import kinds
from crdtlog.catalog import Tracked
from crdtlog.connection import execute_rows, fetch
from crdtlog.document import Version
from crdtlog.errors import DamagedDocument, EntryRefused, Malformed
from crdtlog.kinds import COUNTER, TEXT, Base, Failure, Origin, counter
from crdtlog.kinds.counter import Begun, Sum
from crdtlog.payload import Patch
from crdtlog.state import State
from crdtlog.values import Key, Value, has_odd_text, normal_key, pack, unpack_own
from crdtlog.versions import device_of

Dot = tuple[int, int]
_SUM: Dot = (0, 0)

#: A document so many times as large as its value, and this much beyond, is left behind once every device has it.
_WORN_TIMES = 4
_WORN_BYTES = 32 << 10


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
    found = RowDocs()
    for slot, writer, seq, kind, data, versions, problem, aside in state.connection.execute(
        "SELECT slot, writer, seq, kind, state, versions, problem, aside FROM crdtlog__merge WHERE tab = ? AND key = ?",
        (tracked.number, name),
    ):
        try:
            if (writer, seq) == _SUM:
                found.sums[slot], begun = counter.decode_own(data)
                for (id_, number), item in begun.items():
                    found.begun[Name(slot, state.log.writers[id_].number, number, COUNTER)] = item
            else:
                dots = {(w, s) for w, s in unpack_own(versions)}
                left = None if aside is None else [(w, s) for w, s in unpack_own(aside)]
                found.docs[Name(slot, writer, seq, kind)] = Doc(_readable(kind, data), dots, problem, left)
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedDocument(
                f"what stands beside row {name!r} of {tracked.name} for merging was damaged in the file",
                f"Build it anew from the log: crdtlog check {state.path} --fix",
            ) from error
    return found


def _readable(kind: int, data: object) -> bytes:
    """A document's bytes. Raises `TypeError`, `ValueError` for what nobody wrote."""
    if not isinstance(data, bytes):
        raise TypeError("a document is bytes")
    if kind != TEXT and data:
        unpack_own(data)
    return data


def store(state: State, tracked: Tracked, name: Value, docs: RowDocs) -> int:
    """Replace the documents beside a row by these; returns how many things are stored."""
    state.connection.execute("DELETE FROM crdtlog__merge WHERE tab = ? AND key = ?", (tracked.number, name))
    rows: list[tuple[object, ...]] = [
        (
            tracked.number,
            name,
            *of,
            doc.state,
            pack(sorted(doc.versions)),
            doc.problem,
            None if doc.aside is None else pack(sorted(doc.aside)),
        )
        for of, doc in docs.docs.items()
    ]
    for slot, added in docs.sums.items():
        begun = {(state.log.ids[of.writer], of.seq): b for of, b in docs.begun.items() if of.slot == slot}
        rows.append(
            (tracked.number, name, slot, *_SUM, COUNTER, counter.encode_own(added, begun), None, None, None)
        )
    execute_rows(
        state.connection, "INSERT INTO crdtlog__merge VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows, odd=False
    )
    return len(rows)


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


# --- what the log says --------------------------------------------------------------------------------------------


def base_of(state: State, tracked: Tracked, key: Key, slot: int, dot: Dot) -> tuple[Base, bool]:
    """The value that a version wrote into a cell, and whether it began a counter; read from the log.

    Raises `Malformed` if that entry wrote no value there.
    """
    section, row = state.log.written(*dot, tracked.table_id, key, tracked.collations)
    patches = section.patches.get(slot)
    if slot not in section.slots or (patches is not None and patches[row] is not None):
        raise Malformed(f"a patch to a cell of {tracked.name} names a write that began no document")
    value = section.cells[section.slots.index(slot)][row]
    origin = Origin(section.stamps[row], state.log.ids[dot[0]], dot[1])
    return Base(value, origin), slot in section.counters


def _begun_by(state: State, of: Name) -> Base:
    """The base of a document whose state is stored: its name is all that is still needed of it."""
    return Base(None, Origin(0, state.log.ids[of.writer], of.seq))


def _rebuilt_patches(
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


def name_of(state: State, slot: int, patch: Patch) -> Name:
    """The document that a patch names. Raises `EntryRefused` if nothing of that writer is held."""
    writer = state.log.writers.get(patch.writer)
    if writer is None:
        raise EntryRefused("a patch names a write that is not held")
    return Name(slot, writer.number, patch.seq, patch.kind)


# --- own writes ---------------------------------------------------------------------------------------------------


class OwnWrite(NamedTuple):
    """A row's cell that was written here, and the version it replaces."""

    row: int
    key: Key
    name: Value
    slot: int
    before: Version
    value: Value
    stamp: int


@dataclass(slots=True)
class OwnEdit:
    """How it travels: a patch, or a value that begins a document. `shown` is what the cell holds from now on."""

    value: Value
    shown: Value
    patch: Patch | None = None
    of: Name | None = None
    state: bytes = b""
    added: Sum | None = None
    begun: Begun | None = None


def edit_own(
    state: State, tracked: Tracked, writes: Sequence[OwnWrite], seq: int
) -> dict[tuple[int, int], OwnEdit]:
    """Encode own writes to mergeable cells, by (row, slot); `seq` is that of the entry to come."""
    result: dict[tuple[int, int], OwnEdit] = {}
    jobs: dict[int, list[tuple[OwnWrite, Name, kinds.Edit]]] = {}
    for write in writes:
        if prepared := state.prepared.get((tracked.number, write.name, write.slot)):
            result[write.row, write.slot] = prepared(write.stamp)
            continue
        kind = tracked.kinds[write.slot]
        docs = load(state, tracked, write.name)
        if kind == COUNTER:
            result[write.row, write.slot] = _edit_counter(state, tracked, write, docs)
            continue
        begun = _begun(state, tracked, write, docs, kind)
        if begun is None:
            result[write.row, write.slot] = OwnEdit(write.value, write.value)
            continue
        of, base = begun
        origin = Origin(write.stamp, state.writer.id, seq)
        before = docs.docs[of].state if of in docs.docs else None
        jobs.setdefault(kind, []).append((write, of, kinds.Edit(before, base, write.value, origin)))
    for kind, some in jobs.items():
        done = state.documents(kind).edit([job for _, _, job in some])
        for (write, of, _), edited in zip(some, done, strict=True):
            edit = OwnEdit(write.value, write.value)
            if isinstance(edited, kinds.Edited) and edited.patch is not None:
                patch = Patch(kind, state.log.ids[of.writer], of.seq, edited.patch)
                shown = as_stored(state, tracked.affinity(write.slot), edited.shown)
                edit = OwnEdit(None, shown, patch, of, edited.state)
            result[write.row, write.slot] = edit
    return result


def _begun(
    state: State, tracked: Tracked, write: OwnWrite, docs: RowDocs, kind: int
) -> tuple[Name, Base] | None:
    """The document that a cell's version belongs to, and its base; None if a new one must begin."""
    dot = (write.before.writer, write.before.seq)
    of = docs.of(write.slot, dot)
    if of is not None:
        doc = docs.docs[of]
        if of.kind != kind or doc.problem is not None or _is_worn(state, doc, write.value):
            return None
        return of, _begun_by(state, of)
    base, _ = base_of(state, tracked, write.key, write.slot, dot)
    return Name(write.slot, *dot, kind), base


def _is_worn(state: State, doc: Doc, value: Value) -> bool:
    """Whether a document holds mostly what is gone, and nobody can still be changing it without knowing its last state.

    Then its next value begins a new one, so that a cell that is rewritten for ever does not grow for ever.
    """
    size = len(value) if isinstance(value, str) else 0
    if len(doc.state) <= _WORN_TIMES * size + _WORN_BYTES:
        return False
    waiting = (
        "SELECT 1 FROM crdtlog__device d WHERE d.id NOT IN (?, ?) AND NOT EXISTS "
        "(SELECT 1 FROM crdtlog__held h WHERE h.device = d.id AND h.writer = ? AND h.seq >= ?) LIMIT 1"
    )
    return all(
        state.connection.execute(
            waiting, (state.device.id, device_of(state.log.ids[writer]), writer, seq)
        ).fetchone()
        is None
        for writer, seq in doc.versions
    )


def _edit_counter(state: State, tracked: Tracked, write: OwnWrite, docs: RowDocs) -> OwnEdit:
    dot = (write.before.writer, write.before.seq)
    of = docs.of(write.slot, dot)
    added = docs.sums.get(write.slot, counter.ZERO)
    begun: Begun | None = None
    if of is not None and of.kind == COUNTER:
        first = unpack_own(docs.docs[of].state)
    elif of is not None:
        return _fresh_counter(state, tracked, write, added)
    else:
        base, is_counter = base_of(state, tracked, write.key, write.slot, dot)
        first, of = base.value, Name(write.slot, *dot, COUNTER)
        if added.total and not is_counter:  # it shows without what was added, and goes on doing so
            begun = Begun(write.stamp, state.writer.id, added.total)
            docs.begin(of, begun)
    patch = counter.difference(first, docs.added(of), write.value, begun and begun.before)
    if patch is None:
        return _fresh_counter(state, tracked, write, added)
    docs.sums[write.slot] = after = counter.add(added, counter.decode(patch))
    shown = as_stored(state, tracked.affinity(write.slot), counter.shown(first, docs.added(of)))
    named = Patch(COUNTER, state.log.ids[of.writer], of.seq, patch)
    return OwnEdit(None, shown, named, of, pack(first), after, begun)


def _fresh_counter(state: State, tracked: Tracked, write: OwnWrite, added: Sum) -> OwnEdit:
    first, shown = first_of(state, tracked, write.slot, write.value, added)
    return OwnEdit(first, shown)


def first_of(state: State, tracked: Tracked, slot: int, value: Value, added: Sum) -> tuple[Value, Value]:
    """The first value that travels when a counter begins anew at `value`, and what then shows."""
    affinity = tracked.affinity(slot)
    first = as_stored(state, affinity, counter.first_value(value, added))
    return first, as_stored(state, affinity, counter.shown(first, added))


def keep_own(
    state: State,
    tracked: Tracked,
    name: Value,
    slots: Iterable[int] | None,
    edits: Iterable[OwnEdit],
    dot: Dot,
) -> int:
    """Store what an own write leaves: it has seen everything in its slots (None: all), so only its documents stay."""
    docs = load(state, tracked, name)
    gone = None if slots is None else set(slots)
    docs.docs = {of: doc for of, doc in docs.docs.items() if gone is not None and of.slot not in gone}
    for edit in edits:
        if edit.of is not None:
            docs.docs[edit.of] = Doc(edit.state, {dot})
            if edit.added is not None:
                docs.sums[edit.of.slot] = edit.added
            if edit.begun is not None:
                docs.begin(edit.of, edit.begun)
    return store(state, tracked, name, docs)


# --- others' writes -----------------------------------------------------------------------------------------------


class OtherPatch(NamedTuple):
    """A patch that an entry holds for one cell, and who wrote it."""

    key: Key
    docs: RowDocs
    slot: int
    patch: Patch
    origin: Origin
    #: whether its author had seen an entry of a writer
    covers: Callable[[bytes, int], bool]
    #: the versions of the cell before it
    live: set[Dot]


class Patched(NamedTuple):
    """A document after a patch: as `Doc`, and what it shows; with `same`, what it showed before.

    Which patches are left out of it is the same on every device that has the same patches.
    """

    of: Name
    state: bytes
    shown: Value
    problem: str | None = None
    aside: Sequence[Dot] | None = ()
    same: bool = False


def merge_others(state: State, tracked: Tracked, patches: Sequence[OtherPatch]) -> list[Patched]:
    """Put others' patches into their documents (counters excepted); stores nothing."""
    names = [named(state, tracked, item) for item in patches]
    jobs: dict[int, kinds.Merge] = {}
    anew = []
    for index, (of, item) in enumerate(zip(names, patches, strict=True)):
        doc = item.docs.docs.get(of)
        if doc is not None and doc.aside is not None:
            left = patches_at(state, tracked, item.key, of, doc.aside)
            jobs[index] = next_job(
                state, tracked, item.key, of, doc.state, [*left, (item.patch.data, item.origin)]
            )
        elif doc is None and (of.writer, of.seq) in item.live:
            jobs[index] = next_job(state, tracked, item.key, of, b"", [(item.patch.data, item.origin)])
        else:
            anew.append(index)
    done = _run(state, names, jobs)
    # What goes wrong with some patch can depend on those before it: together, they are the same on every device.
    anew += [i for i, result in done.items() if result.tried and names[i] in patches[i].docs.docs]
    if anew:
        wanted = {index: (names[index], normal_key(patches[index].key, tracked.collations)) for index in anew}
        rebuilt = _rebuilt_patches(state, tracked, wanted.values())
        for index in anew:
            of, item = names[index], patches[index]
            todo = [*rebuilt[wanted[index]], (item.patch.data, item.origin)]
            jobs[index] = next_job(state, tracked, item.key, of, b"", todo)
        done |= _run(state, names, {index: jobs[index] for index in anew})
    return [
        _patched(state, tracked, of, item, jobs[index], done[index])
        for index, (of, item) in enumerate(zip(names, patches, strict=True))
    ]


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
        return kinds.Merge(before, _begun_by(state, of), todo)
    base, _ = base_of(state, tracked, key, of.slot, (of.writer, of.seq))
    return kinds.Merge(None, base, todo)


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


def _run(
    state: State, names: Sequence[Name], jobs: dict[int, kinds.Merge]
) -> dict[int, kinds.Merged | Failure]:
    """Have jobs done, those of one kind together."""
    kind_of = {index: names[index].kind for index in jobs}
    done: dict[int, kinds.Merged | Failure] = {}
    for kind in dict.fromkeys(kind_of.values()):
        some = [index for index in jobs if kind_of[index] == kind]
        done |= zip(some, state.documents(kind).merge([jobs[index] for index in some]), strict=True)
    return done


def _patched(
    state: State,
    tracked: Tracked,
    of: Name,
    item: OtherPatch,
    job: kinds.Merge,
    result: kinds.Merged | Failure,
) -> Patched:
    problem, aside = None, None
    if result.left or isinstance(result, Failure):
        first = min(result.left, default=kinds.LeftOut(item.origin, getattr(result, "reason", "")))
        device = device_of(first.origin.writer)
        problem = f"a change by {state.device_name(device)} cannot be merged ({first.reason})"
    if not result.tried:
        aside = [(state.log.writer(left.origin.writer).number, left.origin.seq) for left in result.left]
    if not isinstance(result, Failure):
        shown = as_stored(state, tracked.affinity(of.slot), result.shown)
        return Patched(of, result.state, shown, problem, aside if problem else ())
    if job.state is not None:
        return Patched(of, job.state, None, problem, aside, same=True)
    return Patched(of, b"", job.base.value, problem, aside)


def named(state: State, tracked: Tracked, item: OtherPatch) -> Name:
    """The document that a patch names (M3)."""
    needs = [(item.patch.writer, item.patch.seq)]
    if item.patch.kind != COUNTER:
        needs += state.documents(item.patch.kind).needs(item.patch.data, item.origin).items()
    if not all(item.covers(*dot) for dot in needs):
        raise EntryRefused(
            f"a patch to a cell of {tracked.name} speaks of a write that its author had not seen"
        )
    return name_of(state, item.slot, item.patch)


def show(state: State, tracked: Tracked, key: Key, of: Name, docs: RowDocs) -> Value:
    """What a stored document of a row shows; its base, if nothing could be done with it."""
    doc = docs.docs[of]
    if not doc.state:
        return base_of(state, tracked, key, of.slot, (of.writer, of.seq))[0].value
    if of.kind == COUNTER:
        value = counter.shown(unpack_own(doc.state), docs.added(of))
    else:
        (merged,) = state.documents(of.kind).merge([kinds.Merge(doc.state, _begun_by(state, of), ())])
        if isinstance(merged, Failure):
            raise EntryRefused(f"a cell of {tracked.name} cannot be shown: {merged.reason}")
        value = merged.shown
    return as_stored(state, tracked.affinity(of.slot), value)
