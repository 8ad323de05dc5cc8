"""Merging cells: how own writes to them travel, and what others' patches do to their documents.

A version of a mergeable cell is a value, or a patch to the document that an earlier value began (its *base*). What is
stored of documents, and what the log tells of them, is `rowdocs`'s.

Invariants:
 M1  a document's value depends on its base and the set of patches applied to it, not on their order;
 M2  a document is stored while a version of the cell belongs to it; a later patch to one that is not (its author had
     not seen what replaced it) builds it anew from the log, or from what a snapshot brought of it and the log since;
 M3  one entry patches a cell once, and names a document that its author had seen.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from crdtlog import kinds, rowdocs
from crdtlog.abridged.base import given_document
from crdtlog.catalog import Tracked
from crdtlog.document import Version
from crdtlog.errors import DamagedDocument, EntryRefused, Malformed
from crdtlog.kinds import COUNTER, TEXT, Base, Failure, Origin, counter
from crdtlog.kinds.counter import Begun, Sum
from crdtlog.payload import Patch
from crdtlog.rowdocs import Doc, Dot, Name, RowDocs
from crdtlog.state import State
from crdtlog.values import Key, Value, normal_key, pack, unpack_own
from crdtlog.versions import device_of

#: A document so many times as large as its value, and this much beyond, is worn.
_WORN_TIMES = 4
_WORN_BYTES = 32 << 10
#: A worn one is left behind by whoever rewrites it; by whoever changes a word of it, only when it is larger than this.
_SWOLLEN_BYTES = 1 << 20
#: What a patch that says next to nothing takes.
_PATCH_BYTES = 64


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
    stored = rowdocs.load_all(state, tracked, list(dict.fromkeys(write.name for write in writes)))
    for write in writes:
        if prepared := state.prepared.get((tracked.number, write.name, write.slot)):
            result[write.row, write.slot] = edit = prepared(write.stamp)
            if edit.patch:
                with rowdocs.readable(state, tracked):
                    _check_names(state, edit.patch.kind, edit.patch.data)
            continue
        kind = tracked.kinds[write.slot]
        docs = stored[write.name]
        if kind == COUNTER:
            result[write.row, write.slot] = _edit_counter(state, tracked, write, docs)
            continue
        begun = _begun(state, tracked, write, docs, kind)
        if begun is None:
            result[write.row, write.slot] = begin_own(state, tracked, write.slot, write.value)
            continue
        of, base = begun
        origin = Origin(write.stamp, state.writer.id, seq)
        before = docs.docs[of].state if of in docs.docs else None
        jobs.setdefault(kind, []).append((write, of, kinds.Edit(before, base, write.value, origin)))
    for kind, some in jobs.items():
        with rowdocs.readable(state, tracked):
            done = _edited(state, kind, [job for _, _, job in some])
        for (write, of, _), edited in zip(some, done, strict=True):
            edit = begin_own(state, tracked, write.slot, write.value)
            if isinstance(edited, kinds.Edited) and edited.patch is not None:
                doc = stored[write.name].docs.get(of)
                if doc and _rewrites(edited.patch, write.value) and _is_worn(state, doc, write.value):
                    result[write.row, write.slot] = edit
                    continue
                patch = Patch(kind, state.log.ids[of.writer], of.seq, edited.patch)
                shown = rowdocs.as_stored(state, tracked.affinity(write.slot), edited.shown)
                edit = OwnEdit(None, shown, patch, of, edited.state)
            result[write.row, write.slot] = edit
    return result


def begin_own(state: State, tracked: Tracked, slot: int, value: Value) -> OwnEdit:
    """An own value that begins a document in a cell."""
    first = kinds.tidy(tracked.kinds[slot], value)
    shown = value if first is value else rowdocs.as_stored(state, tracked.affinity(slot), first)
    return OwnEdit(first, shown)


def _edited(state: State, kind: int, jobs: Sequence[kinds.Edit]) -> list[kinds.Edited | Failure]:
    """What documents say of own edits. Raises `DamagedDocument` where that is what no device could take."""
    try:
        done = state.documents(kind).edit(jobs)
        for edited in done:
            if isinstance(edited, kinds.Edited) and edited.patch:
                _check_names(state, kind, edited.patch)
    except Malformed as error:
        raise DamagedDocument("a document that no honest change fits") from error
    return done


def _check_names(state: State, kind: int, patch: bytes) -> None:
    """Require that an own patch speaks of entries that are here: of others only a damaged document tells."""
    own = state.writer
    for writer, seq in state.documents(kind).needs(patch, Origin(0, own.id, own.seq + 1)).items():
        known = state.log.writers.get(writer)
        if known is None or known.seq < seq:
            raise DamagedDocument("a document holds what nobody wrote")


def _begun(
    state: State, tracked: Tracked, write: OwnWrite, docs: RowDocs, kind: int
) -> tuple[Name, Base] | None:
    """The document that a cell's version belongs to, and its base; None if a new one must begin."""
    dot = (write.before.writer, write.before.seq)
    of = docs.of(write.slot, dot)
    if of is not None:
        doc = docs.docs[of]
        if of.kind != kind or doc.problem is not None:
            return None
        if len(doc.state) > _SWOLLEN_BYTES and _is_worn(state, doc, write.value):
            return None
        return of, rowdocs.begun_by(state, of)
    base, _ = rowdocs.base_of(state, tracked, write.key, write.slot, dot)
    return Name(write.slot, *dot, kind), base


def _is_worn(state: State, doc: Doc, value: Value) -> bool:
    """Whether a document holds mostly what is gone, and nobody can still be changing it without knowing its last state.

    A value that replaces it then begins a new one, so that a cell that is rewritten for ever does not grow for ever.
    What others change at that moment does not merge with the new one: so a small change goes on with the old one, in
    which both stand, as long as it can be borne.
    """
    size = len(value) if isinstance(value, str) else 0
    if len(doc.state) <= _WORN_TIMES * size + _WORN_BYTES:
        return False
    waiting = (
        "SELECT 1 FROM crdtlog__device d WHERE d.id NOT IN (?, ?) AND d.role IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM crdtlog__held h WHERE h.device = d.id AND h.writer = ? AND h.seq >= ?) LIMIT 1"
    )
    return all(
        state.connection.execute(
            waiting, (state.device.id, device_of(state.log.ids[writer]), writer, seq)
        ).fetchone()
        is None
        for writer, seq in doc.versions
    )


def _rewrites(patch: bytes, value: Value) -> bool:
    """Whether a patch brings about half of what the value holds."""
    size = len(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else 0
    return 2 * (len(patch) - _PATCH_BYTES) > size


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
        base, is_counter = rowdocs.base_of(state, tracked, write.key, write.slot, dot)
        first, of = base.value, Name(write.slot, *dot, COUNTER)
        if added.total and not is_counter:  # it shows without what was added, and goes on doing so
            begun = Begun(write.stamp, state.writer.id, added.total)
            docs.begin(of, begun)
    patch = counter.difference(first, docs.added(of), write.value, begun and begun.before)
    if patch is None:
        return _fresh_counter(state, tracked, write, added)
    docs.sums[write.slot] = after = counter.add(added, counter.decode(patch))
    shown = rowdocs.as_stored(state, tracked.affinity(write.slot), counter.shown(first, docs.added(of)))
    named = Patch(COUNTER, state.log.ids[of.writer], of.seq, patch)
    return OwnEdit(None, shown, named, of, pack(first), after, begun)


def _fresh_counter(state: State, tracked: Tracked, write: OwnWrite, added: Sum) -> OwnEdit:
    first, shown = first_of(state, tracked, write.slot, write.value, added)
    return OwnEdit(first, shown)


def first_of(state: State, tracked: Tracked, slot: int, value: Value, added: Sum) -> tuple[Value, Value]:
    """The first value that travels when a counter begins anew at `value`, and what then shows."""
    affinity = tracked.affinity(slot)
    first = rowdocs.as_stored(state, affinity, counter.first_value(value, added))
    return first, rowdocs.as_stored(state, affinity, counter.shown(first, added))


def keep_own(
    state: State,
    tracked: Tracked,
    slots: Iterable[int] | None,
    edits: Mapping[Value, Sequence[OwnEdit]],
    dot: Dot,
) -> dict[Value, int]:
    """Store what an own write to rows leaves, by their names; returns how many things are stored beside each.

    It has seen everything in its slots (None: all), so that only its documents stay.
    """
    stored = rowdocs.load_all(state, tracked, list(edits))
    gone = None if slots is None else set(slots)
    for name, some in edits.items():
        docs = stored[name]
        docs.docs = {of: doc for of, doc in docs.docs.items() if gone is not None and of.slot not in gone}
        for edit in some:
            if edit.of is not None:
                docs.docs[edit.of] = Doc(edit.state, {dot})
                if edit.added is not None:
                    docs.sums[edit.of.slot] = edit.added
                if edit.begun is not None:
                    docs.begin(edit.of, edit.begun)
    rowdocs.store_all(state, tracked, stored)
    return {name: docs.count for name, docs in stored.items()}


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
            left = rowdocs.patches_at(state, tracked, item.key, of, doc.aside)
            jobs[index] = rowdocs.next_job(
                state, tracked, item.key, of, doc.state, [*left, (item.patch.data, item.origin)]
            )
        elif doc is None and (of.writer, of.seq) in item.live:
            jobs[index] = rowdocs.next_job(
                state, tracked, item.key, of, b"", [(item.patch.data, item.origin)]
            )
        else:
            anew.append(index)
    with rowdocs.readable(state, tracked):
        try:
            done = _run(state, names, jobs)
        except Malformed:
            _check_logged(state, tracked, [(names[index], patches[index]) for index in jobs])
            raise
    # What goes wrong with some patch can depend on those before it: together, they are the same on every device.
    anew += [i for i, result in done.items() if result.tried and names[i] in patches[i].docs.docs]
    if anew:
        wanted = {index: (names[index], normal_key(patches[index].key, tracked.collations)) for index in anew}
        rebuilt = rowdocs.rebuilt_patches(state, tracked, wanted.values())
        for index in anew:
            of, item = names[index], patches[index]
            todo = [*rebuilt[wanted[index]], (item.patch.data, item.origin)]
            jobs[index] = _whole(state, tracked, item.key, of, todo)
        done |= _run(state, names, {index: jobs[index] for index in anew})
    return [
        _patched(state, tracked, of, item, jobs[index], done[index])
        for index, (of, item) in enumerate(zip(names, patches, strict=True))
    ]


def _whole(
    state: State, tracked: Tracked, key: Key, of: Name, patches: Sequence[tuple[bytes, Origin]]
) -> kinds.Merge:
    """How a document is built anew of all its patches: from its base, or from what a snapshot brought of it."""
    try:
        return rowdocs.next_job(state, tracked, key, of, b"", patches)
    except EntryRefused:
        given = given_document(state, tracked, key, of)
        if given is None:
            raise
    later = [(data, origin) for data, origin in patches if not _is_in_snapshot(state, origin)]
    return rowdocs.next_job(state, tracked, key, of, given, later)


def whole_state(state: State, tracked: Tracked, key: Key, of: Name) -> bytes | None:
    """A document with all patches in it that are held, whether it is stored or not; None if they do not go together."""
    ((_, patches),) = rowdocs.rebuilt_patches(
        state, tracked, [(of, normal_key(key, tracked.collations))]
    ).items()
    (merged,) = state.documents(of.kind).merge([_whole(state, tracked, key, of, patches)])
    return None if isinstance(merged, Failure) else merged.state


def _is_in_snapshot(state: State, origin: Origin) -> bool:
    log = state.log.writers[origin.writer]
    at = state.log.hash_of(log.number, origin.seq)  # the patch at hand is not held yet
    return at is not None and state.log.position_of(log.number, origin.seq) <= state.log.given_position


def _check_logged(state: State, tracked: Tracked, patched: Sequence[tuple[Name, OtherPatch]]) -> None:
    """Require that stored documents are what the log says; otherwise what is malformed may be these, and no patch."""
    for of, item in patched:
        doc = item.docs.docs.get(of)
        if doc is None or of.kind == TEXT:
            continue
        (todo,) = rowdocs.rebuilt_patches(
            state, tracked, [(of, normal_key(item.key, tracked.collations))]
        ).values()
        job = _whole(state, tracked, item.key, of, todo)
        (whole,) = state.documents(of.kind).merge([job])
        if isinstance(whole, kinds.Merged) and whole.state != doc.state:
            raise DamagedDocument("a document is not what the log says")


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
        shown = rowdocs.as_stored(state, tracked.affinity(of.slot), result.shown)
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
    return rowdocs.name_of(state, item.slot, item.patch)
